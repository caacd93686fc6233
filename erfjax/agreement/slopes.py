"""Growth laws fitted to sizes: the slope of a straight line on log-log axes, with its confidence interval."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy

from erfjax.errors import MapError
from erfjax.typing import Given
from erfjax.uncertainty import Interval
from erfjax.uncertainty.combining import combined


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
    """A power law y = exp(intercept) · n^slope, fitted on log-log axes.

    Attributes:
        slope, intercept: of the line through (log n, log y).
        stderr: the standard error of the slope.
        confidence: of the interval, e.g. 0.95.
        interval: the confidence interval of the slope.
        exact: the slope of the exact finite-n law over the same n, or None: the line's slope is no asymptotic exponent.
    """

    slope: float
    intercept: float
    stderr: float
    confidence: float
    interval: tuple[float, float]
    exact: float | None = None

    def __str__(self) -> str:
        low, high = self.interval
        exact = "" if self.exact is None else f"; exact finite-n law {self.exact:.3f}"
        return f"slope {self.slope:.3f} ± {self.stderr:.3f} ({self.confidence:.0%}: {low:.3f} to {high:.3f}{exact})"


def scaling_law(
    n: Sequence[int | float] | np.ndarray,
    y: Given,
    stderr: Sequence[int | float] | np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    law: Callable[[int], float] | None = None,
) -> ScalingLaw:
    """The log-log slope of y against n, with its confidence interval.

    Without `stderr`, ordinary least squares: the scatter about the line gives the standard error, its interval is that
    of Student's t with len(n) - 2 degrees. With it, points weigh by their relative errors σ = stderr / y, and the
    slope's error is √(1 / Σ w (log n - mean)²), w = 1/σ², with a normal interval: that of the measurements, whatever
    the curvature of the law. With `y` as intervals of `field.interval`, every point weighs the same and the ends of the
    slope's interval are what the ends of theirs make of it, lower and upper each by themselves (see `combined`).

    Args:
        n: depths, at least two different ones.
        y: sizes or ratios, positive; or an `Interval` of each, of the level `confidence`.
        stderr: their standard errors, positive.
        confidence: of the interval.
        law: the exact y of n; its own fitted slope over the same n (and weights) is given beside.

    Raises:
        MapError: fewer than two different n, or values that have no logarithm.

    Example:
        >>> import erfjax as ej
        >>> fit = ej.agreement.scaling_law([5, 10, 20, 40], [8.31, 11.70, 16.16, 22.74])
        >>> round(fit.slope, 3)
        0.482
    """
    bars = [one for one in y if isinstance(one, Interval)]
    if bars:
        y = _of_intervals(y, bars, stderr, confidence)
    depths, values = np.asarray(n, np.float64), np.asarray(y, np.float64)
    errors = None if stderr is None else np.asarray(stderr, np.float64)
    shapes = {array.shape for array in (depths, values, errors) if array is not None}
    if len(shapes) != 1 or depths.ndim != 1 or len(np.unique(depths)) < 2:
        raise MapError(
            f"A slope needs y, and stderr if given, at two or more different n, but got shapes {sorted(shapes)}."
        )
    if not all(
        (array > 0).all() and np.isfinite(array).all() for array in (depths, values, errors) if array is not None
    ):
        raise MapError("A log-log slope needs positive and finite n, y and stderr: leave out depths without a size.")
    if not 0 < confidence < 1:
        raise MapError(f"`confidence` must lie between 0 and 1, but got {confidence}.")
    x, z = np.log(depths), np.log(values)
    weights = np.ones_like(x) if errors is None else (values / errors) ** 2
    slope, intercept, spread = _line(x, z, weights)
    degrees = math.inf if errors is not None else len(x) - 2
    if errors is not None:
        error = math.sqrt(1 / spread)
    elif degrees:
        error = math.sqrt(float(((z - intercept - slope * x) ** 2).sum()) / degrees / spread)
    else:
        error = math.inf
    half = error * float(scipy.stats.t.ppf((1 + confidence) / 2, degrees)) if degrees else math.inf
    ends = (slope - half, slope + half)
    if bars:
        lever = (x - x.mean()) / spread
        ends = combined(lever, z, np.log([tuple(bar) for bar in bars]))
        error = (ends[1] - ends[0]) / (2 * float(scipy.stats.norm.ppf((1 + confidence) / 2)))
    exact = None if law is None else _line(x, np.log([law(int(d)) for d in depths]), weights)[0]
    return ScalingLaw(slope, intercept, error, confidence, ends, exact)


def _of_intervals(y: Given, bars: list[Interval], stderr: Given, confidence: float) -> list[float]:
    """The estimates of the intervals.

    Raises:
        MapError: numbers among them, intervals of another level, or standard errors beside them.
    """
    levels = sorted({bar.level for bar in bars})
    if len(bars) != len(y) or stderr is not None or levels != [confidence]:
        raise MapError(
            f"A slope from intervals needs an interval for every n, all of the level `confidence` = {confidence}, and no "
            f"stderr, but got {len(bars)} intervals of {len(y)} values, of the levels {levels}."
        )
    if min(bar.low for bar in bars) <= 0:
        raise MapError("A log-log slope needs intervals above zero: measure more samples, or leave out these depths.")
    return [bar.value for bar in bars]


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Slope, intercept and Σ w (x - mean)² of the weighted least-squares line."""
    centre = np.average(x, weights=weights)
    spread = float((weights * (x - centre) ** 2).sum())
    slope = float((weights * (x - centre) * y).sum()) / spread
    return slope, float(np.average(y, weights=weights) - slope * centre), spread
