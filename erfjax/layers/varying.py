"""Theoretical fields of plans whose units see differently: by phase behind an upsampling, by place under a causal mask.

Nothing composes there, so everything is asked of the exact sets of positions: once with padding cut at every layer, once without,
for each phase, and for each layer with all that stands before it.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

from erfjax.errors import StackError
from erfjax.fields import LayerRow, Phase, PhaseTable, TheoreticalField
from erfjax.layers.operations import Attend
from erfjax.layers.plan import Parallel, Plan, Series, Shape, output_shape
from erfjax.layers.regions import region
from erfjax.tracing.positions.index_sets import Points, mask, shadow
from erfjax.typing import Extent

TRIES = 500  # image sizes tried for the smallest that holds a field
MOST_PHASES = 256  # a field that repeats later than this, or never, is listed for this many units around the centre

Hull = tuple[tuple[Extent, ...], tuple[Extent, ...]]


def smallest(plan: Plan, ndim: int) -> Shape:
    """The smallest image in which the centre unit sees its whole field.

    Raises:
        StackError: it sees every image whole, or up to the unit itself, or no image holds its field.
    """
    shape, why = (1,) * ndim, ""
    for _ in range(TRIES):
        try:
            output = output_shape(plan, shape)
        except StackError as error:
            shape, why = tuple(n + 1 for n in shape), f" {error}"
            continue
        start, stop = hull(plan, shape, tuple(n // 2 for n in output))
        if not all(map(math.isfinite, (*start, *stop))) or not _returns(plan, ndim):
            raise StackError("Its attention sees as much as there is: give `image_shape`, the number of positions.")
        grown = tuple(
            n if low >= 0 and high <= n else max(n + 1, int(high - low))
            for n, low, high in zip(shape, start, stop, strict=True)
        )
        if grown == shape:
            return shape
        shape = grown
    raise StackError(f"No image holds the whole field of the centre unit: give `image_shape` and a unit yourself.{why}")


def field(plan: Plan, shape: Shape, output: Shape, unit: Shape) -> TheoreticalField:
    """The theoretical field of one unit."""
    start, stop = hull(plan, shape, unit)
    seen = region(plan, shape, tuple(Points(u, u + 1) for u in unit))
    edges = shadow(seen) if seen else (Points(0, 0),) * len(shape)
    stride = strides(plan, len(shape))
    phases = _phases(plan, shape, output, unit, stride)
    return TheoreticalField(
        unit=unit,
        output_shape=output,
        image_shape=shape,
        start=start,
        stop=stop,
        stride=tuple(map(_number, stride)),
        padding=_padding(unit, stride, start),
        clipped=(tuple(int(p.start) for p in edges), tuple(int(p.stop) for p in edges)),
        shift_invariant=phases.steady(tuple(map(_number, stride))),
        phases_=lambda: phases,
        mask_=lambda: mask(seen, shape),
        layers_=lambda: tuple(_rows(plan, shape)),
    )


def _returns(plan: Plan, ndim: int) -> bool:
    """Whether the same field comes again further on."""
    return all(any(moved(plan, p, a, ndim) is not None for p in range(1, MOST_PHASES + 1)) for a in range(ndim))


def hull(plan: Plan, shape: Shape, unit: Shape) -> Hull:
    """The unclipped start and stop of what a unit sees; infinite where that is everything."""
    seen = region(plan, shape, tuple(Points(u, u + 1) for u in unit), clipped=False)
    box = shadow(seen) if seen else (Points(0, 0),) * len(shape)
    return tuple(p.start for p in box), tuple(p.stop for p in box)


def strides(plan: Plan, ndim: int) -> tuple[Fraction, ...]:
    """Input pixels per unit, per axis."""
    if isinstance(plan, Series):
        each = [(Fraction(1),) * ndim, *(strides(part, ndim) for part in plan.parts)]
        return tuple(Fraction(math.prod(axis)) for axis in zip(*each, strict=True))
    if isinstance(plan, Parallel):
        return strides(plan.parts[0], ndim)
    return tuple(Fraction(read.stride, read.base) for read in plan.reads((1,) * ndim)[0])


def moved(plan: Plan, by: int, axis: int, ndim: int) -> int | None:
    """How many pixels the field moves when the unit moves by so many; None if it is no longer the same field."""
    if isinstance(plan, Series):
        found: int | None = by
        for part in reversed(plan.parts):
            found = None if found is None else moved(part, found, axis, ndim)
        return found
    if isinstance(plan, Parallel):
        each = {moved(part, by, axis, ndim) for part in plan.parts}
        return each.pop() if len(each) == 1 else None
    if isinstance(plan, Attend) and plan.mask == "causal":
        return None
    read = plan.reads((1,) * ndim)[0][axis]
    whole, rest = divmod(by * read.stride, read.base)
    return None if rest else whole


def _phases(plan: Plan, shape: Shape, output: Shape, unit: Shape, stride: tuple[Fraction, ...]) -> PhaseTable:
    """The fields of the units of one period around this one, along each axis; of all units without a period."""
    rows, periods, shifts = [], [], []
    here = hull(plan, shape, unit)
    for axis, (u, n) in enumerate(zip(unit, output, strict=True)):
        found = next((p for p in range(1, MOST_PHASES + 1) if moved(plan, p, axis, len(shape)) is not None), None)
        if all(math.isinf(edge[axis]) for edge in here):
            found = 1
        repeat = found or n
        listed = min(repeat, MOST_PHASES)
        first = max(min(u - (u % listed if found else listed // 2), n - listed), 0)
        for other in range(first, min(first + listed, n)):
            start, stop = hull(plan, shape, (*unit[:axis], other, *unit[axis + 1 :]))
            rows.append(Phase(axis, other % repeat, other, start[axis], stop[axis]))
        periods.append(repeat)
        shifts.append(_number(stride[axis] * repeat) if found else 0)
    return PhaseTable(tuple(periods), tuple(shifts), tuple(sorted(rows, key=lambda row: (row.axis, row.phase))))


def _rows(plan: Plan, shape: Shape) -> Iterator[LayerRow]:
    """One row per operation and sum, for its centre unit, of all that stands before it."""
    for name, (label, before, until) in enumerate(_prefixes(Series(()), plan), 1):
        output = output_shape(until, shape)
        unit = tuple(n // 2 for n in output)
        start, stop = hull(until, shape, unit)
        given = _size(*hull(before, shape, tuple(n // 2 for n in output_shape(before, shape))))
        stride = strides(until, len(shape))
        numbers = tuple(map(_number, stride)), _padding(unit, stride, start)
        yield LayerRow(str(name), label, output, _size(start, stop), *numbers, start, stop, input_size=given)


def _prefixes(before: Series, plan: Plan) -> Iterator[tuple[str, Series, Series]]:
    """Every operation and sum with the plan before it, and the plan up to it."""
    if isinstance(plan, Series):
        for i, part in enumerate(plan.parts):
            yield from _prefixes(Series((*before.parts, *plan.parts[:i])), part)
        return
    if isinstance(plan, Parallel):
        for part in plan.parts:
            yield from _prefixes(before, part)
    yield ("sum" if isinstance(plan, Parallel) else plan.label), before, Series((*before.parts, plan))


def _size(start: tuple[Extent, ...], stop: tuple[Extent, ...]) -> tuple[Extent, ...]:
    return tuple(b - a for a, b in zip(start, stop, strict=True))


def _padding(unit: Shape, stride: tuple[Fraction, ...], start: tuple[Extent, ...]) -> tuple[Extent, ...]:
    return tuple(
        -s if math.isinf(s) else _whole(u * _number(step) - s) for u, step, s in zip(unit, stride, start, strict=True)
    )


def _whole(value: Extent) -> Extent:
    return int(value) if value == int(value) else value


def _number(value: Fraction) -> Extent:
    return value.numerator if value.denominator == 1 else float(value)
