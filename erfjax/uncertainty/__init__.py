"""How far an average of samples can be believed: intervals by resampling, tails, dependence; pure functions of arrays.

Squared gradients of deep narrow networks are close to log-normal: most samples lie below the mean, few far above it carry it.
`resampling` makes intervals that allow for tails beyond the largest sample, `pareto` measures the tail, `records` keeps what
both need of every sample in bounded memory, and `diagnostics` says in one table and one line whether to believe a mean.
"""

from erfjax.uncertainty.diagnostics import Diagnostics
from erfjax.uncertainty.records import Record, Tails
from erfjax.uncertainty.resampling import Interval

__all__ = ["Diagnostics", "Interval", "Record", "Tails"]
