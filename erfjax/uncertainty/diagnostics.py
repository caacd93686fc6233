"""Whether to believe the mean of one unit's samples: a table that prints itself, and one line for the field's notes.

Two things make a mean untrustworthy, and both have a number of samples that would do. The *spread*: if log |total| has the
standard deviation s and is about normal, the standard error of the mean total is √((exp s² - 1)/S) of it; beyond
`LARGEST_ERROR` the sample has most likely not met the values that carry the mean. It is known well from few samples. The
*tail*: Pareto k̂ of the largest values (see `pareto`), which needs more of them.
"""

import dataclasses
import math

import numpy as np

from erfjax import summary
from erfjax.errors import MapError
from erfjax.uncertainty import pareto, resampling
from erfjax.uncertainty.dependence import correlation_time
from erfjax.uncertainty.records import Record

LARGEST_ERROR = 0.35  # relative standard error that the spread may imply
ENOUGH = 200  # samples from which on k̂ alone decides


@dataclasses.dataclass(frozen=True)
class Tail:
    """How the mean of one number per sample is made up.

    Attributes:
        name: of the number.
        k: Pareto k̂ of its largest values; NaN from fewer than 25 samples.
        needed: samples that this tail needs before its mean can be trusted.
        largest: the share of the largest sample in the sum.
        effective: how many independent samples (draws, where samples share them) the sequence is worth.
    """

    name: str
    k: float
    needed: float
    largest: float
    effective: float


@dataclasses.dataclass(frozen=True, repr=False)
class Diagnostics(summary.Shown):
    """What can be said about the error bars of one field.

    Attributes:
        samples: how many there are.
        spread: standard deviation of log total over samples, or its upper semideviation if that is less (totals near zero
            say nothing of the mean); 0 where totals have both signs.
        dead: the share of samples whose gradient is zero everywhere.
        tails: of the total, and of the reference pixel.
        per_draw: how many samples share a draw of the weights.
        split: the variances of a sample's total that weights and inputs make, where samples share draws.

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> f = lambda key, x: x * jnp.exp(2 * jax.random.normal(key))
        >>> field = ej.empirical(f, jnp.ones((1, 3, 1)), key=jax.random.key(0), samples=32, layout="NWC")
        >>> field.diagnostics().trusted
        False
    """

    samples: int
    spread: float
    dead: float
    tails: tuple[Tail, ...]
    per_draw: int = 1
    split: tuple[float, float] | None = None

    @property
    def needed(self) -> float:
        """How many samples would do, by the spread and, where it can be told, by the tail of the total."""
        by_spread = math.expm1(min(self.spread**2, 700)) / LARGEST_ERROR**2
        tail = self.tails[0]
        by_tail = tail.needed if self.samples >= ENOUGH and tail.k > pareto.largest_shape(self.samples) else 0.0
        return max(self.per_draw * by_spread, by_tail, 2.0 * self.per_draw)

    @property
    def trusted(self) -> bool:
        """Whether the error bars keep their promise."""
        return self.per_draw * self.tails[0].effective >= self.needed

    @property
    def verdict(self) -> str:
        """Whether to believe the error bars, in a few words."""
        if self.trusted:
            return "can be trusted"
        return f"not to be trusted, about {_rounded(self.needed)} samples would do"

    @property
    def notes(self) -> tuple[str, ...]:
        """One line if the error bars are not to be trusted, with the number of samples that would do; else none."""
        if self.samples < 2:  # there are no error bars
            return ()
        found, effective = [], self.tails[0].effective
        if effective < 0.7 * self.samples / self.per_draw:
            found.append(
                f"consecutive samples resemble each other: {self.samples} are worth {effective:.0f} independent ones; "
                "error bars per pixel are too short, intervals allow for it"
            )
        if not self.trusted:
            wanted = (
                f"about {_rounded(self.needed)} samples would do" if self.needed < 1e6 else "more samples hardly help"
            )
            found.append(
                f"do not trust the error bars: samples differ by a factor of {math.exp(min(self.spread, 700)):.3g} in total (one "
                f'standard deviation), so few large ones carry the mean; {wanted}; statistic="share" has no such tail'
            )
        return tuple(found)

    def table(self) -> summary.Table:
        """One row per number of a sample; the verdict as a note."""
        rows = tuple(
            (t.name, t.k, pareto.largest_shape(self.samples), t.needed, t.largest, t.effective) for t in self.tails
        )
        columns = ("per sample", "Pareto k̂", "trusted to", "samples for k̂", "share of largest", "effective samples")
        facts = [f"{self.samples} samples; log total: spread {self.spread:.3g}, {_rounded(self.needed)} samples needed"]
        facts += [f"{self.dead:.1%} of the samples have no gradient"] if self.dead else []
        if self.split is not None and any(self.split):
            weights = self.split[0] / (self.split[0] + self.split[1])
            facts.append(
                f"{self.per_draw} inputs per draw of the weights: of the variance of a sample's total the draw makes "
                f"{weights:.0%}, the input {1 - weights:.0%}"
            )
        verdict = self.notes or ("the error bars can be trusted",)
        return summary.Table("error bars", columns, rows, (*facts, *verdict))


def _rounded(number: float) -> str:
    """A number of samples to two digits."""
    if not math.isfinite(number):
        return "∞"
    return f"{round(number, 1 - len(str(int(number)))):.0f}" if number < 1e9 else f"{number:.1g}"


def diagnose(record: Record | None) -> Diagnostics:
    """The diagnostics of one unit's samples.

    Raises:
        MapError: there is no record of them.

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.diagnostics import diagnose
        >>> from erfjax.uncertainty.records import Record
        >>> values = np.exp(0.3 * np.random.default_rng(0).normal(size=100))
        >>> rows = np.stack([values, values, 0 * values, np.log(values), np.log(values) ** 2], 1)
        >>> diagnose(Record(rows, np.stack([values, values]), 100)).trusted
        True
    """
    if record is None:
        raise MapError(
            "Diagnostics are about samples, but this field keeps none: it is a closed form, or was put together."
        )
    tails = []
    for name, column, largest in zip(("total", "reference pixel"), ("total", "reference"), record.largest, strict=True):
        values = np.abs(record.column(column))
        k, everything = pareto.shape(largest, record.count), float(values.mean()) * record.count
        share = min(1.0, float(largest.max(initial=0.0)) / everything) if everything else math.nan
        needed = math.nan if math.isnan(k) else pareto.samples_for(k)
        tails.append(Tail(name, k, needed, share, record.count / record.per_draw / correlation_time(values)))
    spread = math.sqrt(record.log_moments[1])
    if record.per_row == record.per_draw:
        spread = min(spread, resampling.spread(record.column("total")))
    if record.column("total").min() < 0:  # of values of both signs no few large ones carry the mean
        spread = 0.0
    return Diagnostics(
        record.count, spread, float(record.column("dead").mean()), tuple(tails), record.per_draw, record.split
    )
