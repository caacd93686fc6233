"""Theoretical fields of plans: one walk forwards composes windows, one backwards (`regions`) gives the exact set of pixels."""

import operator
from typing import Any

import numpy as np

from erfjax.errors import StackError
from erfjax.fields import LayerRow, Phase, PhaseTable, TheoreticalField
from erfjax.geometry import Geometry
from erfjax.layers import varying
from erfjax.layers.plan import Parallel, Plan, Series, Shape, output_shape, steps
from erfjax.layers.regions import region
from erfjax.layers.varying import TRIES
from erfjax.layouts import resolve_units
from erfjax.tracing.positions.index_sets import Points, mask, shadow

LARGE = 100_000  # pixels of an image whose centre surely sees its whole field

Axes = tuple[Geometry, ...]


def theoretical(
    plan: Plan, ndim: int, image_shape: Any = None, unit: Any = None
) -> TheoreticalField | tuple[TheoreticalField, ...]:
    """Where units of the plan's output can look; see `Stack.theoretical`."""
    shape = smallest_image(plan, ndim) if image_shape is None else _image_shape(image_shape, ndim)
    output = output_shape(plan, shape)
    units, several = resolve_units(unit, output)
    if varies(plan):
        fields = tuple(varying.field(plan, shape, output, u) for u in units)
    else:
        axes, rows = compose(plan, shape)
        fields = tuple(_field(plan, shape, output, axes, rows, u) for u in units)
    return fields if several else fields[0]


def _field(
    plan: Plan, shape: Shape, output: Shape, axes: Axes, rows: tuple[LayerRow, ...], unit: Shape
) -> TheoreticalField:
    box = tuple(g.interval(u) for g, u in zip(axes, unit, strict=True))
    seen = region(plan, shape, tuple(Points(u, u + 1) for u in unit))
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


def varies(plan: Plan) -> bool:
    """Whether units of the plan see differently, so that its windows do not compose."""
    return any(step.varies for step in steps(plan))


def smallest_image(plan: Plan, ndim: int) -> Shape:
    """The smallest image in which the centre unit sees its whole field."""
    if varies(plan):
        return varying.smallest(plan, ndim)
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


def _image_shape(value: Any, ndim: int) -> Shape:
    try:
        shape = tuple(map(operator.index, np.atleast_1d(value).tolist()))
    except TypeError:
        shape = ()
    if len(shape) != ndim or min(shape) < 1:
        raise StackError(f"`image_shape` must be {ndim} positive integers, height before width, but got {value!r}.")
    return shape
