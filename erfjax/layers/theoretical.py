"""Theoretical fields of plans: one walk forwards composes the layers' windows, one backwards gives the exact set of pixels."""

import itertools
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool

from erfjax.errors import StackError
from erfjax.fields import LayerRow, Phase, PhaseTable, TheoreticalField
from erfjax.geometry import Geometry
from erfjax.layers.plan import Fixed, Parallel, Plan, Series, Shape, Weighted, backwards, output_shape
from erfjax.layouts import resolve_units
from erfjax.tracing.positions.index_sets import Box, Points, Region, clip, join, mask, shadow

LARGE = 100_000  # pixels of an image whose centre surely sees its whole field
TRIES = 500  # image sizes tried for the smallest such
FEW = 64  # boxes that are joined one by one; more are drawn on the image

Axes = tuple[Geometry, ...]


def theoretical(
    plan: Plan, ndim: int, image_shape: Any = None, unit: Any = None
) -> TheoreticalField | tuple[TheoreticalField, ...]:
    """Where units of the plan's output can look; see `Stack.theoretical`."""
    shape = smallest_image(plan, ndim) if image_shape is None else _image_shape(image_shape, ndim)
    output = output_shape(plan, shape)
    units, several = resolve_units(unit, output)
    axes, rows = compose(plan, shape)
    fields = tuple(_field(plan, shape, output, axes, rows, u) for u in units)
    return fields if several else fields[0]


def _field(
    plan: Plan, shape: Shape, output: Shape, axes: Axes, rows: tuple[LayerRow, ...], unit: Shape
) -> TheoreticalField:
    box = tuple(g.interval(u) for g, u in zip(axes, unit, strict=True))
    seen = region(plan, shape, (tuple(Points(u, u + 1) for u in unit),))
    edges = shadow(seen) if seen else (Points(0, 0),) * len(shape)
    phases = tuple(Phase(a, 0, u, *interval) for a, (u, interval) in enumerate(zip(unit, box, strict=True)))
    stride = tuple(g.stride for g in axes)
    return TheoreticalField(
        unit=unit,
        output_shape=output,
        image_shape=shape,
        start=tuple(low for low, _ in box),
        stop=tuple(high for _, high in box),
        stride=stride,
        padding=tuple(g.padding for g in axes),
        clipped=(tuple(int(p.start) for p in edges), tuple(int(p.stop) for p in edges)),
        shift_invariant=True,
        phases_=lambda: PhaseTable((1,) * len(shape), stride, phases),
        mask_=lambda: mask(seen, shape),
        layers_=lambda: rows,
    )


def smallest_image(plan: Plan, ndim: int) -> Shape:
    """The smallest image in which the centre unit sees its whole field."""
    shape, why = tuple(g.size for g in compose(plan, (LARGE,) * ndim)[0]), ""
    for _ in range(TRIES):
        try:
            output = output_shape(plan, shape)
        except StackError as error:
            shape, why = tuple(n + 1 for n in shape), f" {error}"
            continue
        axes, _ = compose(plan, shape)
        intervals = [g.interval(units // 2) for g, units in zip(axes, output, strict=True)]
        grown = tuple(
            n if low >= 0 and high <= n else max(n + 1, high - low)
            for n, (low, high) in zip(shape, intervals, strict=True)
        )
        if grown == shape:
            return shape
        shape = grown
    raise StackError(f"No image holds the whole field of the centre unit: give `image_shape` and a unit yourself.{why}")


def compose(plan: Plan, shape: Shape) -> tuple[Axes, tuple[LayerRow, ...]]:
    """The geometry of the whole plan along each axis, and one row per operation, in the order of the computation."""
    rows: list[LayerRow] = []
    axes, _ = _forward(plan, (Geometry(),) * len(shape), shape, rows)
    return axes, tuple(rows)


def _forward(plan: Plan, axes: Axes, shape: Shape, rows: list[LayerRow]) -> tuple[Axes, Shape]:
    if isinstance(plan, Series):
        for part in plan.parts:
            axes, shape = _forward(part, axes, shape, rows)
        return axes, shape
    before, label = axes, "sum"
    if isinstance(plan, Parallel):
        branches = [_forward(part, axes, shape, rows) for part in plan.parts]
        axes, shape = tuple(g.join(*more) for g, *more in zip(*(b for b, _ in branches), strict=True)), branches[0][1]
    else:
        windows, label = plan.seen(shape), plan.label
        axes = tuple(map(Geometry.then, axes, windows))
        shape = tuple(window.output_size(n) for window, n in zip(windows, shape, strict=True))
    box = [g.interval(n // 2) for g, n in zip(axes, shape, strict=True)]
    size, stride, padding = zip(*((g.size, g.stride, g.padding) for g in axes), strict=True)
    start, stop = zip(*box, strict=True)
    name, inputs = str(len(rows) + 1), tuple(g.size for g in before)
    rows.append(LayerRow(name, label, shape, size, stride, padding, start, stop, input_size=inputs))
    return axes, shape


def region(plan: Plan, shape: Shape, wanted: Region) -> Region:
    """The pixels of an image that the units in `wanted` see when padding is cut at every layer."""
    if isinstance(plan, Series):
        for part, before in backwards(plan, shape):
            wanted = region(part, before, wanted)
        return wanted
    if isinstance(plan, Parallel):
        return _union(itertools.chain.from_iterable(region(part, shape, wanted) for part in plan.parts), shape)
    windows = plan.windows(shape)
    taps = [[(0, w.kernel) for w in windows]]  # per axis: the first tap and how many follow it
    if isinstance(plan, Weighted | Fixed) and plan.offsets is not None:
        taps = [[(o, 1) for o in offset] for offset in plan.offsets]
    pulled = (
        tuple(
            points.window(count, w.stride, w.dilation, first * w.dilation - w.padding_low, base=1)
            for points, (first, count), w in zip(box, along, windows, strict=True)
        )
        for along in taps
        for box in wanted
    )
    return _union(pulled, shape)


def _union(boxes: Iterable[Box], shape: Shape) -> Region:
    """The exact union inside the image."""
    inside = clip(tuple(boxes), shape)
    return join((), inside) if len(inside) <= FEW else _boxes(mask(inside, shape))


def _boxes(held: Bool[np.ndarray, "*space"]) -> Region:
    """The positions where `held` is True, as one box or more for every pattern that its rows (last axis) have."""
    if held.ndim == 1:
        return ((Points.of(0, held),),)
    patterns: dict[bytes, np.ndarray] = {}
    for row in zip(*np.nonzero(held.any(axis=-1)), strict=True):
        patterns.setdefault(held[row].tobytes(), np.zeros(held.shape[:-1], bool))[row] = True
    return tuple(
        (*box, Points.of(0, np.frombuffer(pattern, bool))) for pattern, at in patterns.items() for box in _boxes(at)
    )


def _image_shape(value: Any, ndim: int) -> Shape:
    try:
        shape = tuple(map(operator.index, np.atleast_1d(value).tolist()))
    except TypeError:
        shape = ()
    if len(shape) != ndim or min(shape) < 1:
        raise StackError(f"`image_shape` must be {ndim} positive integers, height before width, but got {value!r}.")
    return shape
