"""Whether to believe the mean of one unit's samples: a table that prints itself, and one line for the field's notes.

Two things make a mean untrustworthy, and both have a number of samples that would do. The *spread*: if log |total| has the
standard deviation s and is about normal, the standard error of the mean total is √((exp s² - 1)/S) of it; beyond
`LARGEST_ERROR` the sample has most likely not met the values that carry the mean. It is known well from few samples. The
*tail*: Pareto k̂ of the largest values (see `pareto`), which needs more of them, of totals and of the influences of samples
on σ and on a share (see `influence`): these may be heavy where totals are not.

The tail of single pixels is seen in few samples already, in all pixels at once, and in two ways: k̂ of their values over their
means, and the kurtosis of their logarithms above the median. A normal law of the logarithms has the kurtosis 3, a Pareto law 6,
squares of normal numbers have less than 3; so it tells a law whose largest values are still to come from one that is merely wide.
Neither is asked where pixels spread little: a Pareto law with the upper semideviation s of its logarithms has k = s/√2, and is
tame below s = 1, whatever its kurtosis.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from erfjax import summary
from erfjax.errors import MapError
from erfjax.uncertainty import pareto, resampling
from erfjax.uncertainty.dependence import correlation_time
from erfjax.uncertainty.influence import influences
from erfjax.uncertainty.records import Record, samples_per_unit

LARGEST_ERROR = 0.35  # relative standard error that the spread may imply
PIXEL_ERROR = 0.3  # the same of single pixels: where their spread implies less, their tail is not asked
WIDE = 1.1  # spread of log pixels beyond which their tail is asked of any number of samples: Pareto k = s/√2 > 0.78
KURTOSIS = 0.93  # of log pixels, largest over that of as many normal numbers
PIXELS = 0.55  # largest k̂ of single pixels, however many samples there are: from 1/2 on they have no variance
JUDGED = 10  # samples at least, from fewer nothing is known of their law
TELLS = 1000  # samples whose k̂ of single pixels tells a wide law from a Pareto tail, without the kurtosis
ENOUGH = (200, 1000)
"""Samples from which on k̂ of one number per sample is held to a limit. From 200 it errs by 0.2, so where the pixels of single
samples are kept (the second number) it is left to them."""


@dataclasses.dataclass(frozen=True)
class Tail:
    """How the mean of one number per sample is made up.

    Attributes:
        name: of the number.
        k: Pareto k̂ of its largest values; NaN from fewer than 25 samples.
        limit: the largest k̂ with which its mean is trusted; NaN where so few samples do not tell.
        needed: samples that this tail needs before its mean can be trusted.
        largest: the share of the largest sample in the sum.
        effective: how many independent samples (draws, where samples share them) the sequence is worth.
    """

    name: str
    k: float
    limit: float
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
        tails: of the total, of the reference pixel, of the influences on σ and on the share of that pixel, and of single pixels.
        pixel_spread: upper semideviation of the logarithms of the pixels that make σ, in the weighted mean.
        pixel_kurtosis: of these logarithms above their median, over that of as many normal numbers.
        wide: whether pixels spread so much that their tail matters.
        alike: whether all samples are the same map, up to rounding.
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
    pixel_spread: float = 0.0
    pixel_kurtosis: float = 0.0
    wide: bool = False
    alike: bool = False
    per_draw: int = 1
    split: tuple[float, float] | None = None

    @property
    def needed(self) -> float:
        """How many samples would do, by the spread and, where they can be told, by the tails."""
        by_tail = max((tail.needed for tail in self._heavy), default=0.0)
        return max(self._by_total, self._by_pixels, by_tail, float(JUDGED * self.per_draw))

    @property
    def trusted(self) -> bool:
        """Whether the error bars keep their promise."""
        return self.alike or (self._judged and self.per_draw * self.tails[0].effective >= self.needed)

    @property
    def verdict(self) -> str:
        """Whether to believe the error bars, in a few words."""
        if self.trusted:
            return "can be trusted"
        if not self._judged:
            return f"not to be trusted, {self._few}"
        return f"not to be trusted, {self._would_do}"

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
            found.append(f"do not trust the error bars: {self._reason}")
        return tuple(found)

    @property
    def _judged(self) -> bool:
        return self.samples // self.per_draw >= JUDGED

    @property
    def _heavy(self) -> tuple[Tail, ...]:
        """Tails beyond their limit."""
        return tuple(tail for tail in self.tails if tail.k > tail.limit)

    @property
    def _few(self) -> str:
        what = "samples" if self.per_draw == 1 else "draws of the weights"
        return f"{self.samples // self.per_draw} {what} are too few to judge them: {JUDGED} at least"

    @property
    def _would_do(self) -> str:
        if self.needed >= 1e6:
            return "more samples hardly help"
        least = "at least " if self._by_pixels == self.needed else "about "
        return f"{least}{_rounded(self.needed)} samples would do"

    @property
    def _reason(self) -> str:
        """Why the error bars are not to be trusted, and what helps."""
        if not self._judged:
            return self._few
        if self._heavy and self.needed > max(self._by_total, self._by_pixels):
            names = " and ".join(f"{tail.name} ({tail.k:.2f}, trusted to {tail.limit:.2f})" for tail in self._heavy)
            why = f"few samples carry the mean, by Pareto k̂ of {names}"
        elif self._by_pixels > self._by_total:
            why = (
                f"few samples carry single pixels, whose logarithms have {self.pixel_kurtosis:.2f} of the kurtosis of normal "
                f"numbers (trusted to {KURTOSIS})"
            )
        else:
            factor = f"{math.exp(min(self.spread, 700)):.3g}"
            why = f"samples differ by a factor of {factor} in total (one standard deviation), so few large ones carry the mean"
        remedy = '; statistic="share" has no such tail' if self.spread > 1e-3 else ""
        return f"{why}; {self._would_do}{remedy}"

    @property
    def _by_total(self) -> float:
        """How many samples make the relative standard error that the spread of totals implies small enough."""
        return self.per_draw * math.expm1(min(self.spread**2, 700)) / LARGEST_ERROR**2

    @property
    def _by_pixels(self) -> float:
        """How many samples tell whether pixels whose logarithms are about normal have a Pareto tail."""
        told = not self.wide or self.pixel_kurtosis <= KURTOSIS or self.samples >= TELLS * self.per_draw
        return 0.0 if told else float(TELLS * self.per_draw)

    def table(self) -> summary.Table:
        """One row per number of a sample; the verdict as a note."""
        rows = tuple((t.name, t.k, t.limit, t.needed, t.largest, t.effective) for t in self.tails)
        columns = ("per sample", "Pareto k̂", "trusted to", "samples for k̂", "share of largest", "effective samples")
        facts = [
            f"{self.samples} samples; spread of log total {self.spread:.3g}, of log pixels {self.pixel_spread:.3g} "
            f"(kurtosis {self.pixel_kurtosis:.2f} of a normal one's); {_rounded(self.needed)} samples needed"
        ]
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


def diagnose(
    record: Record | None,
    maps: Float[np.ndarray, "units *space"] | None = None,
    at: tuple[int, ...] = (),
    root: bool = False,
) -> Diagnostics:
    """The diagnostics of one unit's samples.

    Args:
        record: of single samples.
        maps: of samples, or of batches of them, for the influences; None looks at totals and the reference pixel alone.
        at: the reference pixel.
        root: whether sizes are those of the root of the mean map.

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
    count, singles = record.count, record.per_row == record.per_draw
    kept = maps is not None and len(maps) * record.per_draw == count
    limit = pareto.largest_shape(count) if count >= ENOUGH[kept] else math.nan
    tails = []
    for name, column, largest in zip(("total", "reference pixel"), ("total", "reference"), record.largest, strict=True):
        values = np.abs(record.column(column))
        whole = float(values.mean()) * count
        tails.append(
            _tail(name, largest, count, limit, whole, count / record.per_draw / correlation_time(values), count)
        )
        limit = pareto.LARGEST_SHAPE if count >= ENOUGH[kept] else math.nan
    spread = math.sqrt(record.log_moments[1])
    if singles:
        spread = min(spread, resampling.spread(record.column("total")))
    if record.column("total").min() < 0:  # of values of both signs no few large ones carry the mean
        spread = 0.0
    pixels, kurtosis, wide, alike = 0.0, 0.0, False, False
    if maps is not None and len(maps) > 1:
        found, units = influences(maps, at, root), len(maps)
        alike, pixels = found.alike, found.spread if maps.min() >= 0 else 0.0
        kurtosis = found.kurtosis / resampling.normal_kurtosis(units)
        wide = pixels > min(WIDE, math.sqrt(math.log1p(units * PIXEL_ERROR**2)))
        per_map = samples_per_unit(count, units, record.per_draw) / record.per_draw
        for name, values in found.values.items():
            sizes = np.abs(values)
            effective = units * per_map / correlation_time(values)
            limit = pareto.LARGEST_SHAPE if units >= ENOUGH[kept] else math.nan
            tails.append(_tail(name, sizes, units, limit, float(sizes.sum()), effective, count))
        sizes, limit = found.pixels, min(pareto.largest_shape(units), PIXELS) if wide else math.nan
        tails.append(
            _tail("single pixels", sizes, len(sizes), limit, float(sizes.sum()), count / record.per_draw, count)
        )
    dead = float(record.column("dead").mean())
    return Diagnostics(count, spread, dead, tuple(tails), pixels, kurtosis, wide, alike, record.per_draw, record.split)


def _tail(
    name: str, largest: np.ndarray, units: int, limit: float, whole: float, effective: float, samples: int
) -> Tail:
    """The tail of values of which these are the largest, of so many units that sum to a whole."""
    k = pareto.shape(largest, units)
    share = min(1.0, float(largest.max(initial=0.0)) / whole) if whole else math.nan
    needed = math.nan if math.isnan(k) else pareto.samples_for(k)
    if k > limit and needed <= samples:  # as many have not helped
        needed = math.inf
    return Tail(name, k, limit, needed, share, effective)
