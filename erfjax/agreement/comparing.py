"""How two effective fields are compared: on one frame of pixels, with error bars, and by what chance would do.

Maps are compared by their shapes, each divided by its sum; the sums themselves are one more row. Ratios of numbers have the
intervals of `field.interval(measure, relative_to=other)`, paired where both fields have as many samples. Error bars per pixel
come from the jackknife over batches of samples, so that what all pixels of a sample have in common (its gain) cancels where
maps are normalised. Fields that answer different questions (another statistic, other output channels) are refused.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from erfjax import jackknife
from erfjax.agreement.comparison import BEYOND, Comparison, Question, Ratio
from erfjax.agreement.frame import caveats, one_frame, one_question, one_side_over_weights
from erfjax.errors import ComparisonError, MapError
from erfjax.fields import EffectiveField
from erfjax.fields.sizes import LISTED
from erfjax.typing import Given, Number, Option
from erfjax.uncertainty import Interval

FLOOR = 0.01  # of the peak: fainter pixels are not counted, their distribution is far from normal
ASKED = ("sigma", "effective_area")  # the smooth sizes, whose error bars are the most reliable
LEVEL = 0.95  # of the intervals of ratios
ROUNDING = 1e-5  # of a value: what float32 sums of many terms leave, and two closed forms may differ by


def compare(a: Given, b: Given, *, labels: Sequence[str] | None = None, total: bool = True) -> Comparison:
    """How well two effective fields agree: distance with its noise floor, z-scores per pixel, ratios of sizes.

    Maps of different shapes are laid on one frame by the centres of their theoretical fields, or by their middle pixels
    if one has none.

    Args:
        a, b: usually theory and measurement; either may have error bars. Both of one statistic and, where they say which, of
            the same output channels ("random-signs" and "frobenius" are one: the second is the mean of the first).
        labels: what tables and figures call the two; None takes their coverage: "exact", "limit of width", "measured".
        total: whether `within_chance` asks for equal totals as well; False where a map is known up to a factor only,
            normalised by hand for one.

    Returns:
        The comparison. Where one field is a mean over weights and the other one network, it says so in its notes, and
        `within_chance` is None.

    Raises:
        ComparisonError: not two fields, or of different statistics or output channels; or both labels are the same word.
        MapError: a map is zero, not finite, of another dimension, or the two cannot be aligned to whole pixels.

    Example:
        >>> import erfjax as ej, numpy as np
        >>> blur = lambda x: (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
        >>> field = ej.empirical(blur, np.ones((3, 7, 1), np.float32), layout="NWC")
        >>> ej.compare(field, field, labels=("before", "after")).total_variation
        0.0
    """
    for name, field in (("a", a), ("b", b)):
        if not isinstance(field, EffectiveField):
            raise ComparisonError(
                f"`{name}` must be an EffectiveField, as `ej.analytic` and `ej.empirical` give them, but is a "
                f"{type(field).__name__}."
            )
    one_question(a, b)
    names = _labels(a, b, labels)
    apart, notes = one_side_over_weights(a, b, names)
    notes = (*notes, *caveats(a, b, names))
    a, b, anchor = one_frame(a, b)
    ratios = {name: _interval(a, b, name) for name in (*ASKED, "total")}
    a, b = _in_few_batches(a), _in_few_batches(b)
    p, q = a.normalised(), b.normalised()
    errors = [_shape_stderr(field) for field in (a, b)]
    stderr = np.sqrt(sum((e**2 for e in errors if e is not None), np.zeros_like(p)))
    difference = q - p
    largest = np.maximum(np.abs(p), np.abs(q))
    z = np.divide(difference, np.hypot(stderr, ROUNDING * largest), out=np.full_like(p, np.nan), where=stderr > 0)
    bright = np.maximum(np.abs(p) / np.abs(p).max(), np.abs(q) / np.abs(q).max()) > FLOOR
    scores = np.abs(z[bright & np.isfinite(z)])
    degrees = min((_degrees(field) for field, e in zip((a, b), errors, strict=True) if e is not None), default=math.inf)
    chance = float(2 * scipy.stats.t.sf(BEYOND, degrees))
    sizes = tuple(r for name, options in LISTED.items() if (r := _size_ratio(a, b, name, options, anchor)) is not None)
    sizes = tuple(dataclasses.replace(ratio, interval=_ends(ratios.get(ratio.name))) for ratio in sizes)
    total_errors = (_total_stderr(a), _total_stderr(b))
    totals = Ratio("total", float(a.map.sum()), float(b.map.sum()), *total_errors, _ends(ratios["total"]))
    distance, closed = float(np.abs(difference).sum() / 2), "measured" not in (a.coverage, b.coverage)
    asked = [_Number(name, *(field.unbiased_size(name) for field in (a, b))) for name in _asked(a, b, sizes)]
    asked += [_Number("total", (totals.a, totals.a_stderr), (totals.b, totals.b_stderr))] if total else []
    pixels = _pixels(scores, chance, closed, distance)
    questions = [] if apart else [pixels, *(_question(a, b, number, ratios[number.name], degrees) for number in asked)]
    return Comparison(
        a=a,
        b=b,
        labels=names,
        total_variation=distance,
        noise_floor=float(np.nansum(stderr) / math.sqrt(2 * math.pi)),
        z=z,
        compared=scores.size,
        beyond=float((scores > BEYOND).mean()) if scores.size else 0.0,
        chance=chance,
        sizes=sizes,
        total=totals,
        questions=tuple(question for question in questions if question is not None),
        notes=notes,
    )


def _labels(a: EffectiveField, b: EffectiveField, labels: Sequence[str] | None) -> tuple[str, str]:
    """The labels given, or the coverage of both, told apart where it is the same."""
    if labels is None:
        one, other = (field.promise.removeprefix("exact in the ") for field in (a, b))
        return (one, other) if one != other else (f"{one} a", f"{one} b")
    names = tuple(labels)
    if isinstance(labels, str) or len(names) != 2 or names[0] == names[1]:
        raise ComparisonError(f"`labels` must be two different words, one for each field, but got {labels!r}.")
    return names


def _shape_stderr(field: EffectiveField) -> np.ndarray | None:
    """The standard error of the normalised map; without batches, that of the map over its sum."""
    replicates = field.without_each_batch()
    if replicates is None:
        return None if field.stderr is None else field.stderr / abs(field.map.sum())
    space = tuple(range(1, replicates.ndim))
    return jackknife.stderr(replicates / replicates.sum(space, keepdims=True))


def _total_stderr(field: EffectiveField) -> float | None:
    replicates = field.without_each_batch()
    return None if replicates is None else float(jackknife.stderr(replicates.reshape(len(replicates), -1).sum(1)))


def _in_few_batches(field: EffectiveField) -> EffectiveField:
    """The field with neighbouring batches merged to fewer than 64: means are nearer to normal than single samples."""
    if field.batches is None or len(field.batches) < 64:
        return field
    block = 1 << (len(field.batches) // 64).bit_length()
    whole = field.batches[: len(field.batches) // block * block]
    return dataclasses.replace(field, batches=whole.reshape(-1, block, *field.map.shape).mean(1))


def _degrees(field: EffectiveField) -> int:
    """Degrees of freedom of the field's standard errors."""
    grouped = field.batches is not None and len(field.batches) > 1
    return max((len(field.batches) if grouped and field.batches is not None else field.samples) - 1, 1)


def _size_ratio(
    a: EffectiveField, b: EffectiveField, name: str, options: dict[str, Option], anchor: tuple[int, ...] | None
) -> Ratio | None:
    """The ratio of a measure, both fields seen from the same pixel; None if one does not have it."""
    if name == "luo" and anchor is not None:
        options = {**options, "reference": anchor}
    try:
        values = (a.size(name, **options), b.size(name, **options))
        return Ratio(name, *values, a.size_stderr(name, **options), b.size_stderr(name, **options))
    except MapError:
        return None


def _pixels(scores: np.ndarray, chance: float, closed: bool, distance: float) -> Question | None:
    """How often as many pixels or more lie beyond; of two closed forms, whether rounding explains their distance."""
    if closed:
        return Question("pixels", float(2 * scipy.stats.norm.sf(distance / ROUNDING)))
    count = np.count_nonzero(scores > BEYOND)
    return Question("pixels", float(scipy.stats.binom.sf(count - 1, scores.size, chance))) if scores.size else None


class _Number(NamedTuple):
    """A number of both fields, each with its standard error."""

    name: str
    a: tuple[float, float | None]
    b: tuple[float, float | None]


def _asked(a: EffectiveField, b: EffectiveField, sizes: Sequence[Ratio]) -> list[str]:
    """The sizes that `within_chance` asks: none of a map that changes its sign, for noise widens its magnitude."""
    return [ratio.name for ratio in sizes if ratio.name in ASKED] if min(a.map.min(), b.map.min()) >= 0 else []


def _interval(a: EffectiveField, b: EffectiveField, measure: str) -> Interval | None:
    """The 95 % interval of b / a; None of two closed forms, and where there are no samples or no ratio."""
    try:
        found = b.interval(measure, LEVEL, relative_to=a)
    except MapError:
        return None
    return found if found.units else None


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _question(
    a: EffectiveField, b: EffectiveField, number: _Number, interval: Interval | None, degrees: Number
) -> Question | None:
    """How often two numbers of one field differ by as much or more; None where a measured one has no error bar.

    Where the ratio has an interval, its end on the side of 1 tells the error on the logarithmic scale, and Student's t what lies
    beyond 95 %.
    """
    if any(field.coverage == "measured" and side[1] is None for field, side in ((a, number.a), (b, number.b))):
        return None
    (first, one), (second, other) = number.a, number.b
    if interval is not None and interval.units > 1 and min(first, second, interval.low) > 0:
        distance, degrees = math.log(second / first), interval.units - 1
        end = interval.low if distance > 0 else interval.high
        error = abs(math.log(end / interval.value)) / float(scipy.stats.t.ppf((1 + LEVEL) / 2, degrees))
        bar = math.hypot(error, ROUNDING)
    else:
        distance = second - first
        bar = math.hypot(one or 0.0, other or 0.0, ROUNDING * max(abs(first), abs(second)))
    if not math.isfinite(bar):
        return None
    return Question(number.name, float(2 * scipy.stats.t.sf(abs(distance) / bar, degrees)) if bar else 1.0)
