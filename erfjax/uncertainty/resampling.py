"""Confidence intervals by resampling samples, or batches of them: of a mean that is a total, and of a size of a mean map.

Nothing larger than the largest sample is ever drawn by a plain bootstrap, so its intervals of heavy-tailed means lie low. Here
every draw is multiplied by a random gain, the same for all pixels of the sample: exp(h z), z standard normal, with
h = `SMOOTHING` · (1 + `FEW`/count) · s · count^(-1/5) and s the upper semideviation of the logarithms of the totals (a smoothed
bootstrap on the logarithmic scale, B. Silverman, G. Young 1987). Two kinds of interval follow:

* `studentised`: a total, by the bootstrap-t on the logarithmic scale (P. Hall 1988);
* `percentile`: any size; widened for few samples as Student's t widens a normal interval (T. Hesterberg 2015), and, for sizes
  that vary smoothly, moved so that the resampled sizes centre on the estimate: few samples make a map rugged, and its area small.

Everything is deterministic: the resamples depend on the number of samples alone.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import scipy
from jaxtyping import Float

from erfjax.errors import MapError
from erfjax.typing import Number

SMOOTHING = 1.2  # by experiment: covers 93 % and more wherever `diagnostics` does not object
FEW = 8  # by experiment: the spread of few samples is too small where they have met no large one
BEYOND = 10  # resamples beyond each end of an interval at least
FEWEST = 1000  # resamples at least
MOST_UNITS = 1024  # more samples than that are merged with their neighbours before they are resampled
AT_ONCE = 250  # resamples whose arrays are held at once


@dataclasses.dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        value: the estimate.
        low, high: the ends of the interval, in the estimate's units.
        level: how often such an interval holds the true value, e.g. 0.95.
        units: how many samples, or batches of samples, were resampled; 0 for a closed form.
        samples_per_unit: how many samples each of them holds.

    Example:
        >>> from erfjax.uncertainty import Interval
        >>> interval = Interval(8.25, 8.0, 8.5, 0.95, 64, 1)
        >>> low, high = interval
        >>> print(interval, 8.1 in interval)
        8.25 (95 %: 8 to 8.5) True
    """

    value: float
    low: float
    high: float
    level: float
    units: int
    samples_per_unit: int

    def __iter__(self) -> Iterator[float]:
        return iter((self.low, self.high))

    def __contains__(self, value: Number) -> bool:
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"{self.value:.4g} ({100 * self.level:g} %: {self.low:.4g} to {self.high:.4g})"


def check_level(level: Number) -> float:
    """The level, if it lies between 0 and 1.

    Raises:
        MapError: it does not.
    """
    if not 0 < level < 1:
        raise MapError(f"`level` must lie between 0 and 1, such as 0.95, but got {level}.")
    return float(level)


def resamples_for(level: float) -> int:
    """How many resamples an interval of this level takes.

    Example:
        >>> from erfjax.uncertainty.resampling import resamples_for
        >>> resamples_for(0.68), resamples_for(0.95), resamples_for(0.99)
        (1000, 1000, 2000)
    """
    return max(FEWEST, round(2 * BEYOND / (1 - level)))


def merged(values: Float[np.ndarray, "units *shape"], block: int = 1) -> Float[np.ndarray, "merged *shape"]:
    """Means of `block` consecutive values each, of more if over `MOST_UNITS` would be left; a short last block is dropped."""
    block = max(block, -(-len(values) // MOST_UNITS))
    if block == 1:
        return values
    whole = len(values) // block * block
    return values[:whole].reshape(-1, block, *values.shape[1:]).mean(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Resamples:
    """Weights of the units in every resample, and the weights' squares summed draw by draw (for variances)."""

    weights: Float[np.ndarray, "resamples units"]
    squares: Float[np.ndarray, "resamples units"]


def draw(totals: Float[np.ndarray, " units"], resamples: int, seed: int = 0) -> Resamples:
    """Smoothed bootstrap weights.

    Args:
        totals: of the units; their spread on the logarithmic scale sets that of the gains.
        resamples: how many.
        seed: two independent sets of samples take different ones.

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.resampling import draw
        >>> draw(np.ones(5), 3).weights.sum(1).round(12)  # equal totals: a plain bootstrap
        array([1., 1., 1.])
    """
    rng, count = np.random.default_rng(seed), len(totals)
    width = SMOOTHING * (1 + FEW / count) * spread(totals) * count**-0.2
    chosen = rng.integers(0, count, (resamples, count))
    gains = np.exp(width * rng.standard_normal((resamples, count)) - width**2 / 2)
    place = (chosen + count * np.arange(resamples)[:, None]).ravel()
    sums = (np.bincount(place, (gains**power).ravel(), resamples * count) for power in (1, 2))
    return Resamples(*(total.reshape(resamples, count) / count for total in sums))


def spread(totals: Float[np.ndarray, " units"]) -> float:
    """The upper semideviation of log |total|: the root mean square of its excess over the median, above it; 0 if all are equal.

    For a normal distribution it is the standard deviation; totals near zero, which say nothing of the mean, do not count.

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.resampling import spread
        >>> round(spread(np.exp([-9.0, 1.0, 2.0, 3.0, 3.0])), 12)
        1.0
    """
    return float(spreads(totals[:, None])[0])


def spreads(values: Float[np.ndarray, "units numbers"]) -> Float[np.ndarray, " numbers"]:
    """The same of several numbers per unit."""
    return upper_moments(values)[0]


def upper_moments(
    values: Float[np.ndarray, "units numbers"],
) -> tuple[Float[np.ndarray, " numbers"], Float[np.ndarray, " numbers"]]:
    """Root mean square s of the excess e of log |values| over the median, above it, and kurtosis mean(e⁴)/s⁴.

    The kurtosis is 3 for a normal distribution (in few units see `normal_kurtosis`) and 6 for a Pareto tail; zeros do not count,
    and where all units are equal both are 0.

    Example:
        >>> import numpy as np, scipy
        >>> from erfjax.uncertainty.resampling import upper_moments
        >>> u = (np.arange(4000) + 0.5) / 4000
        >>> spread, kurtosis = upper_moments(np.stack([np.exp(2 * scipy.stats.norm.ppf(u)), u**-0.5], 1))
        >>> spread.round(1).tolist(), kurtosis.round().tolist()
        ([2.0, 0.7], [3.0, 6.0])
    """
    units = len(values)
    logs = np.sort(np.log(np.abs(values), where=values != 0, out=np.full(values.shape, -np.inf)), 0)
    dead = (logs == -np.inf).sum(0)
    alive = dead < units
    middle = dead + (units - dead - 1) // 2, dead + (units - dead) // 2  # of those that are not zero
    median = np.where(alive, np.take_along_axis(logs, np.minimum(np.stack(middle), units - 1), 0).mean(0), 0.0)
    excess = np.maximum(logs[units // 2 :] - median, 0.0)  # what stands below is below the median
    count = np.maximum((excess > 0).sum(0), 1)
    squares = excess**2
    second = squares.sum(0) / count
    fourth = (squares**2).sum(0) / count
    return np.sqrt(second), np.divide(fourth, second**2, where=second > 0, out=np.zeros_like(fourth))


def normal_kurtosis(units: int) -> float:
    """The expected kurtosis of `upper_moments` of so many log-normal numbers: 3 - 8.4/units, by simulation to 0.05 from 10 on."""
    return 3 - 8.4 / max(units, 4)


def studentised(
    values: Float[np.ndarray, " units"],
    level: float,
    relative_to: Float[np.ndarray, " others"] | None = None,
    paired: bool = False,
) -> tuple[float, float]:
    """The interval of the mean of some values, or of the ratio of two means.

    Args:
        values: one per unit, not negative: of signed ones the scale is linear, and there is no ratio.
        level: of the interval.
        relative_to: the values in the denominator.
        paired: whether value i of both belongs to the same sample.

    Formula: θ exp(-q se), q the quantiles of log(θ*/θ)/se*, se the standard error of log θ, θ* and se* of the resamples.

    Raises:
        MapError: a ratio of values that may be negative.

    Source: P. Hall, Annals of Statistics 16, 1988, section 3.

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.resampling import studentised
        >>> low, high = studentised(np.exp(np.linspace(-2, 2, 64)), 0.95)
        >>> round(low, 1), round(high, 1)  # the mean is 1.84
        (1.4, 2.6)
    """
    sides = [values] if relative_to is None else [values, relative_to]
    logarithmic = all(side.min() >= 0 < side.mean() for side in sides)
    if len(sides) > 1 and not logarithmic:
        raise MapError("A ratio of totals needs totals that are not negative: measure squares or absolute values.")
    resamples, shared = resamples_for(level), None
    if paired:
        shared = draw(np.maximum(*(side / side.mean() for side in sides)), resamples)
    draws = [shared or draw(side, resamples, seed) for seed, side in enumerate(sides)]
    means = [np.array([side.mean()]) for side in sides]
    plain = [Resamples(*2 * (np.ones((1, len(side))) / len(side),)) for side in sides]
    centre, variance = _estimate(sides, plain, logarithmic, paired)
    error = math.sqrt(float(variance[0]))
    if error == 0:
        value = math.exp(centre[0]) if logarithmic else float(means[0][0])
        return value, value
    pivots = []
    for first in range(0, resamples, AT_ONCE):
        part = [Resamples(d.weights[first : first + AT_ONCE], d.squares[first : first + AT_ONCE]) for d in draws]
        estimate, variance = _estimate(sides, part, logarithmic, paired)
        pivots.append((estimate - centre) / np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny)))
    tail = (1 - level) / 2
    high, low = (float(centre[0] - q * error) for q in np.quantile(np.concatenate(pivots), [tail, 1 - tail]))
    return (_exp(low), _exp(high)) if logarithmic else (low, high)


def _estimate(
    sides: list[np.ndarray], draws: list[Resamples], logarithmic: bool, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The (logarithm of the) mean or ratio in every resample, and its variance by the delta method."""
    means = [one.weights @ side for one, side in zip(draws, sides, strict=True)]
    influences = [
        side / mean[:, None] - 1 if logarithmic else side - mean[:, None]
        for side, mean in zip(sides, means, strict=True)
    ]
    if paired:
        influences, draws, sides = [influences[0] - influences[1]], draws[:1], sides[:1]
    terms = zip(draws, influences, sides, strict=True)
    variance = sum((one.squares * influence**2).sum(1) / (len(side) - 1) for one, influence, side in terms)
    if not logarithmic:
        return means[0], np.asarray(variance)
    return np.log(means[0]) - (np.log(means[1]) if len(means) > 1 else 0.0), np.asarray(variance)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def percentile(
    estimate: float,
    resampled: Float[np.ndarray, " resamples"],
    level: float,
    units: int,
    centred: tuple[bool, ...] = (True,),
) -> tuple[float, float]:
    """The interval of a size from its values in resamples.

    Args:
        estimate: the size of the whole.
        resampled: its values; NaN where a resample has no such size.
        level: of the interval.
        units: how many units were resampled.
        centred: whether the resampled sizes are moved to centre on the estimate; of (False, True) the hull of both intervals.

    Raises:
        MapError: too many resamples have no such size.

    Source: T. Hesterberg, The American Statistician 69, 2015 (the widening, "expanded percentile").

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.resampling import percentile
        >>> low, high = percentile(2.0, np.linspace(1.9, 2.3, 401), 0.95, 1000)
        >>> round(low, 2), round(high, 2)  # centred on 2
        (1.82, 2.19)
    """
    known = resampled[np.isfinite(resampled)]
    if len(known) < (3 + level) / 4 * len(resampled):
        raise MapError(
            f"{1 - len(known) / len(resampled):.0%} of the resamples have no such size (a centre that is zero, or a map that "
            "does not fall to half its peak): measure more samples."
        )
    wide = scipy.stats.t.ppf((1 - level) / 2, units - 1) * math.sqrt(units / (units - 1))
    tail = float(scipy.stats.norm.cdf(wide))
    low, high = np.quantile(known, [tail, 1 - tail], method="inverted_cdf")
    middle = float(np.exp(np.log(known).mean())) if known.min() > 0 else estimate
    scales = [estimate / middle if move and middle else 1.0 for move in centred]  # one pixel has σ = 0
    return float(low * min(scales)), float(high * max(scales))


def resampled_sizes(
    batches: Float[np.ndarray, "units *space"],
    weights: Float[np.ndarray, "resamples units"],
    size: Callable[[np.ndarray], float],
) -> Float[np.ndarray, " resamples"]:
    """The size of every resampled mean map; NaN where there is none."""
    flat, found = batches.reshape(len(batches), -1), []
    step = max(1, min(AT_ONCE, (1 << 22) // max(1, flat.shape[1])))
    for first in range(0, len(weights), step):
        for mean in weights[first : first + step] @ flat:
            try:
                found.append(size(mean.reshape(batches.shape[1:])))
            except MapError:
                found.append(math.nan)
    return np.array(found)
