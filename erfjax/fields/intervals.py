"""Confidence intervals of what is read off a measured field: total, sizes, the share of a pixel, and ratios of two fields.

The resampling itself is in `uncertainty.resampling`; here it is decided what is resampled (single samples while they are kept,
batches of them otherwise, blocks of neighbours where consecutive samples resemble each other) and what is read off each resample.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy

from erfjax.errors import MapError
from erfjax.typing import Number
from erfjax.uncertainty import resampling
from erfjax.uncertainty.dependence import correlation_time
from erfjax.uncertainty.records import Record, samples_per_unit
from erfjax.uncertainty.resampling import Interval

HULLS = {"luo", "area_ratio", "energy_radius", "fwhm", "share"}
"""Sizes that count pixels, and what hangs on few pixels (a radius, a width, one share), jump: they have the hull of the intervals
of resampled sizes as they are and moved to centre on the estimate. All others are moved."""
TIMES_PER_BLOCK = 3  # correlation times in a block of neighbours
FEWEST_BLOCKS = 8


@runtime_checkable
class Measured(Protocol):
    """What is asked of a field."""

    @property
    def map(self) -> np.ndarray: ...
    @property
    def batches(self) -> np.ndarray | None: ...
    @property
    def record(self) -> Record | None: ...
    @property
    def samples(self) -> int: ...
    @property
    def statistic(self) -> str: ...
    def reader(self, measure: str, **options: Any) -> Callable[[np.ndarray], float]: ...
    def pixel(self, **options: Any) -> tuple[int, ...]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """One field as it is resampled.

    Attributes:
        read: what is asked of a map of means, before any root.
        value: that of the whole field.
        units: one map, or one total, per sample or batch of samples; None for a closed form.
        totals: the totals of the units.
        per_unit: samples in each.
    """

    read: Callable[[np.ndarray], float]
    value: float
    units: np.ndarray | None
    totals: np.ndarray
    per_unit: int


def intervals(
    field: Measured,
    measure: str,
    levels: Sequence[Number],
    relative_to: Measured | None = None,
    options: dict[str, Any] | None = None,
) -> tuple[Interval, ...]:
    """The intervals of one number of a field at several levels, from one set of resamples; see `EffectiveField.interval`.

    Raises:
        MapError: no such size, only one sample, or a level outside (0, 1).

    Example:
        >>> import erfjax as ej, numpy as np
        >>> from erfjax.fields.intervals import intervals
        >>> x = np.linspace(1, 2, 40, dtype=np.float32).reshape(40, 1, 1)
        >>> narrow, wide = intervals(ej.empirical(lambda x: x**2, x, layout="NWC"), "total", (0.68, 0.95))
        >>> wide.low < narrow.low < narrow.high < wide.high
        True
    """
    wanted = [resampling.check_level(level) for level in levels]
    sides = [_side(one, measure, options or {}) for one in (field, relative_to) if one is not None]
    if len(sides) > 1 and not sides[1].value:
        raise MapError("A ratio needs a number other than zero to divide by.")
    value = sides[0].value / sides[1].value if len(sides) > 1 else sides[0].value
    drawn = [side for side in sides if side.units is not None]
    if not drawn:
        return tuple(Interval(value, value, value, level, 0, 0) for level in wanted)
    count, per_unit = min(len(side.totals) for side in drawn), max(side.per_unit for side in drawn)
    paired = len(drawn) == 2 and (len(drawn[0].totals), drawn[0].per_unit) == (len(drawn[1].totals), drawn[1].per_unit)
    if measure == "total" and len(sides) == 1 and field.statistic == "share" and field.record is not None:
        ends = [_of_live(field.record, level) for level in wanted]
    elif measure == "share" and len(sides) == 1 and (ratio := _of_share(field, sides[0], options or {})):
        sizes = _of_maps(sides, max(wanted), paired)
        both = [(_of_ratio(*ratio, s), resampling.percentile(value, sizes, s, count, (False, True))) for s in wanted]
        ends = [(min(a[0], b[0]), max(a[1], b[1])) for a, b in both]
    elif measure == "geometric total":
        ends = [_of_logs(sides, drawn, level, paired) for level in wanted]
    elif all(side.units is side.totals for side in drawn):  # totals that add up sample by sample
        ends = [_of_totals(sides, drawn, level, paired) for level in wanted]
    else:
        found = _of_maps(sides, max(wanted), paired)
        centred = (False, True) if measure in HULLS else (True,)
        ends = [resampling.percentile(value, found, level, count, centred) for level in wanted]
    return tuple(Interval(value, *pair, level, count, per_unit) for pair, level in zip(ends, wanted, strict=True))


def band(
    field: Measured, line: Callable[[np.ndarray], np.ndarray], level: Number, normalised: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """The pointwise band of a profile of the map; see `EffectiveField.band`."""
    if field.batches is None or len(field.batches) < 2:
        return None
    share, space = resampling.check_level(level), field.map.shape
    units = resampling.merged(field.batches)
    flat, root = units.reshape(len(units), -1), field.statistic == "rms"
    weights = resampling.draw(np.abs(flat).sum(1), resampling.resamples_for(share)).weights
    if root or units.min() < 0:  # a root or a magnitude is taken of the mean map: every resample has its own
        means = (weight @ flat for weight in weights)
        maps = (np.sqrt(one) if root else one for one in means)
        found = np.stack([line((one / one.sum() if normalised else one).reshape(space)) for one in maps])
    else:
        seen = flat.any(1)
        found = weights[:, seen] @ np.stack([line(unit) for unit in units[seen]])
        if normalised:
            totals = weights @ flat.sum(1)
            if not totals.all():  # most samples have no gradient: a resample may have none at all
                return None
            found = found / totals[:, None]
    estimate = line(field.map / field.map.sum() if normalised else field.map)
    low, high = np.quantile(found, [(1 - share) / 2, (1 + share) / 2], axis=0)
    return np.minimum(low, estimate), np.maximum(high, estimate)


def _side(field: Measured, measure: str, options: dict[str, Any]) -> Side:
    """A field as it is resampled."""
    if measure == "geometric total":
        return _logs(field)
    read = field.reader(measure, **options)
    value = read(field.map)
    if not field.samples:
        return Side(read, value, None, np.zeros(0), 0)
    if field.batches is None or len(field.batches) < 2:
        raise MapError(f"An interval needs two samples, but this field has {field.samples}: measure more.")
    record, batches = field.record, field.batches
    additive = measure == "total" and field.statistic != "rms"
    units = record.column("total") if additive and record is not None and len(record.rows) > 1 else batches
    if additive and units.ndim > 1:
        units = units.reshape(len(units), -1).sum(1)
    units, per_unit = _in_blocks(units, field)
    totals = units if additive else np.abs(units.reshape(len(units), -1)).sum(1)
    return Side(
        functools.partial(_finished, read) if field.statistic == "rms" else read, value, units, totals, per_unit
    )


def _logs(field: Measured) -> Side:
    """Logarithms of the totals of the samples that have a gradient."""
    record = field.record
    if record is None or len(record.rows) < 2 or record.column("dead").all():
        raise MapError(
            "A geometric total needs the totals of single samples: measure it with ej.empirical, two samples at least."
        )
    rows = record.rows[record.column("dead") < 1]
    alive = dataclasses.replace(record, rows=rows)
    logs, per_unit = _in_blocks(alive.column("log") / (1 - alive.column("dead")), field)
    return Side(float, math.exp(record.log_moments[0]), logs, logs, per_unit)


def _in_blocks(units: np.ndarray, field: Measured) -> tuple[np.ndarray, int]:
    """The units, merged into blocks that are as good as independent, and how many samples each holds."""
    record, block = field.record, 1
    per_unit = samples_per_unit(field.samples, len(units), 1 if record is None else record.per_draw)
    if record is not None and (time := correlation_time(np.abs(record.column("total")))) > 1:
        block = math.ceil(TIMES_PER_BLOCK * time * record.per_row / per_unit)
        block = max(1, min(block, len(units) // FEWEST_BLOCKS))
    blocks = resampling.merged(units, block)
    return blocks, per_unit * (len(units) // len(blocks))


def _of_live(record: Record, level: float) -> tuple[float, float]:
    """The interval of a total of shares, which is the share of the samples that have a gradient (C. Clopper, E. Pearson 1934)."""
    count = record.count
    live, tail = round((1 - float(record.column("dead").mean())) * count), (1 - level) / 2
    low = float(scipy.stats.beta.ppf(tail, live, count - live + 1)) if live else 0.0
    return low, float(scipy.stats.beta.ppf(1 - tail, live + 1, count - live)) if live < count else 1.0


def _of_share(field: Measured, side: Side, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """A pixel and the total of every unit, if the share is a ratio of means; None for roots, signed maps and dead pixels."""
    if field.statistic == "rms" or side.units is None:
        return None
    pixel = side.units.reshape(len(side.units), -1)[
        :, int(np.ravel_multi_index(field.pixel(**options), field.map.shape))
    ]
    return (pixel, side.totals) if side.units.min() >= 0 < pixel.max() else None


def _of_ratio(part: np.ndarray, whole: np.ndarray, level: float) -> tuple[float, float]:
    """The interval of a share: a ratio of means that belong together, at most one."""
    low, high = resampling.studentised(part, level, whole, paired=True)
    return low, min(high, 1.0)


def _of_logs(sides: list[Side], drawn: list[Side], level: float, paired: bool) -> tuple[float, float]:
    """Student's interval of a geometric mean, or of the ratio of two."""
    value = sides[0].value / (sides[1].value if len(sides) > 1 else 1.0)
    if paired:
        drawn = [dataclasses.replace(drawn[0], totals=drawn[0].totals - drawn[1].totals)]
    error = math.sqrt(sum(float(side.totals.var(ddof=1)) / len(side.totals) for side in drawn))
    half = error * float(scipy.stats.t.ppf((1 + level) / 2, min(len(side.totals) for side in drawn) - 1))
    return value * math.exp(-half), value * math.exp(half)


def _finished(read: Callable[[np.ndarray], float], mean: np.ndarray) -> float:
    """What is read off the root of a map."""
    return read(np.sqrt(np.maximum(mean, 0)))


def _of_totals(sides: list[Side], drawn: list[Side], level: float, paired: bool) -> tuple[float, float]:
    """The interval of a total, or of a ratio of totals of which either may be a closed form."""
    if len(drawn) == 2:
        return resampling.studentised(drawn[0].totals, level, drawn[1].totals, paired)
    low, high = resampling.studentised(drawn[0].totals, level)
    if len(sides) == 1:
        return low, high
    ends = (
        (low / sides[1].value, high / sides[1].value)
        if drawn[0] is sides[0]
        else (sides[0].value / high, sides[0].value / low)
    )
    return min(ends), max(ends)


def _of_maps(sides: list[Side], level: float, paired: bool) -> np.ndarray:
    """What is read off every resample."""
    found, resamples, draws = [], resampling.resamples_for(level), None
    for seed, side in enumerate(sides):
        if side.units is None:
            found.append(np.full(resamples, side.value))
            continue
        if draws is None or not paired:
            totals = side.totals
            if paired:
                totals = np.maximum(*(one.totals / one.totals.mean() for one in sides))
            draws = resampling.draw(totals, resamples, seed)
        found.append(resampling.resampled_sizes(side.units, draws.weights, side.read))
    return found[0] / found[1] if len(found) > 1 else found[0]
