"""Theoretical fields of plans: one forward pass composes windows, one backward pass clips them, one marks the exact mask."""

import itertools
import operator
from typing import Any

import numpy as np
from jaxtyping import Bool

from erfjax.errors import StackError
from erfjax.fields import LayerRow, Phase, PhaseTable, TheoreticalField
from erfjax.geometry import Geometry, Window
from erfjax.layers.plan import Parallel, Plan, Series, Shape, Weighted, backwards, output_shape
from erfjax.layouts import resolve_unit
from erfjax.tracing.positions.index_sets import Points, Region, clip, join, shadow

TRIES = 100_000  # image sizes tried for one that holds the whole field

Axes = tuple[Geometry, ...]


def theoretical(plan: Plan, ndim: int, image_shape: Any = None, unit: Any = None) -> TheoreticalField:
    """Where one unit of the plan's output can look; see `Stack.theoretical`."""
    shape = smallest_image(plan, ndim) if image_shape is None else _image_shape(image_shape, ndim)
    output = output_shape(plan, shape)
    unit = resolve_unit(unit, output)
    axes, rows = compose(plan, shape)
    box = tuple(g.interval(u) for g, u in zip(axes, unit, strict=True))
    seen = region(plan, shape, (tuple(Points(u, u + 1) for u in unit),))
    edges = shadow(seen) if seen else (Points(0, 0),) * ndim
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
        phases_=lambda: PhaseTable((1,) * ndim, stride, phases),
        mask_=lambda: mask(plan, shape, unit),
        layers_=lambda: rows,
    )


def smallest_image(plan: Plan, ndim: int) -> Shape:
    """The smallest image in which the centre unit sees its whole field."""
    shape = tuple(g.size for g in compose(plan, (TRIES,) * ndim)[0])
    for _ in range(TRIES):
        try:
            axes, _ = compose(plan, shape)
            output = output_shape(plan, shape)
        except StackError as error:
            if max(shape) > TRIES:
                raise StackError(f"No image is large enough for this stack: {error}") from error
            shape = tuple(n + 1 for n in shape)
            continue
        fits = [g.start + n_out // 2 * g.stride for g, n_out in zip(axes, output, strict=True)]
        grown = tuple(
            n if low >= 0 and low + g.size <= n else max(n + 1, g.size)
            for n, low, g in zip(shape, fits, axes, strict=True)
        )
        if grown == shape:
            return shape
        shape = grown
    raise StackError("No image holds the whole field of the centre unit: give `image_shape` and a unit yourself.")


def compose(plan: Plan, shape: Shape) -> tuple[Axes, tuple[LayerRow, ...]]:
    """The geometry of the whole plan along each axis, and one row per operation, in the order of the computation."""
    rows: list[LayerRow] = []
    start = tuple(Geometry(1, 1, 0, 0) for _ in shape)
    axes, _ = _forward(plan, start, shape, rows)
    return axes, tuple(rows)


def _forward(plan: Plan, axes: Axes, shape: Shape, rows: list[LayerRow]) -> tuple[Axes, Shape]:
    if isinstance(plan, Series):
        for part in plan.parts:
            axes, shape = _forward(part, axes, shape, rows)
        return axes, shape
    before = axes
    if isinstance(plan, Parallel):
        branches = [_forward(part, axes, shape, rows) for part in plan.parts]
        axes, shape, label = (
            tuple(map(_join, zip(*(found for found, _ in branches), strict=True))),
            branches[0][1],
            "sum",
        )
    else:
        windows = plan.seen(shape)
        axes = tuple(map(_then, axes, windows))
        shape = tuple(window.output_size(n) for window, n in zip(windows, shape, strict=True))
        label = plan.label
    rows.append(_row(str(len(rows) + 1), label, axes, shape, before))
    return axes, shape


def _then(g: Geometry, window: Window) -> Geometry:
    """A window on top of a geometry: r + (k - 1) S, S s, P + p S."""
    padding = g.padding + window.padding_low * g.stride
    return Geometry(g.size + (window.extent - 1) * g.stride, g.stride * window.stride, padding, -padding)


def _join(branches: tuple[Geometry, ...]) -> Geometry:
    """The hull of several geometries of one stride."""
    low, high = min(g.start for g in branches), max(g.start + g.size for g in branches)
    return Geometry(high - low, branches[0].stride, -low, low)


def _row(name: str, label: str, axes: Axes, shape: Shape, before: Axes) -> LayerRow:
    box = [g.interval(n // 2) for g, n in zip(axes, shape, strict=True)]
    return LayerRow(
        name,
        label,
        shape,
        size=tuple(g.size for g in axes),
        stride=tuple(g.stride for g in axes),
        padding=tuple(g.padding for g in axes),
        start=tuple(low for low, _ in box),
        stop=tuple(high for _, high in box),
        input_size=tuple(g.size for g in before),
    )


def region(plan: Plan, shape: Shape, wanted: Region) -> Region:
    """The pixels of an image that the units in `wanted` see when padding is cut at every layer."""
    if isinstance(plan, Series):
        for part, before in backwards(plan, shape):
            wanted = region(part, before, wanted)
        return wanted
    if isinstance(plan, Parallel):
        return join((), itertools.chain.from_iterable(region(part, shape, wanted) for part in plan.parts))
    windows = plan.windows(shape)
    taps = [[(0, w.kernel) for w in windows]]  # per axis: the first tap and how many follow it
    if isinstance(plan, Weighted) and plan.offsets is not None:
        taps = [[(o, 1) for o in offset] for offset in plan.offsets]
    pulled = (
        tuple(
            points.window(count, w.stride, w.dilation, first * w.dilation - w.padding_low, base=1)
            for points, (first, count), w in zip(box, along, windows, strict=True)
        )
        for along in taps
        for box in wanted
    )
    return clip(join((), pulled), shape)


def mask(plan: Plan, shape: Shape, unit: Shape) -> Bool[np.ndarray, "*space"]:
    """True at every pixel of the image that a unit sees."""
    seen = np.zeros(output_shape(plan, shape), bool)
    seen[unit] = True
    return _mark(plan, seen, shape)


def _mark(plan: Plan, seen: np.ndarray, shape: Shape) -> np.ndarray:
    if isinstance(plan, Series):
        for part, before in backwards(plan, shape):
            seen = _mark(part, seen, before)
        return seen
    if isinstance(plan, Parallel):
        return np.logical_or.reduce([_mark(part, seen, shape) for part in plan.parts])
    windows = plan.windows(shape)
    if isinstance(plan, Weighted) and plan.offsets is not None:
        single = [_mark_taps(seen, windows, tuple((o,) for o in offset), shape) for offset in plan.offsets]
        return np.logical_or.reduce(single)
    return _mark_taps(seen, windows, tuple(range(w.kernel) for w in windows), shape)


def _mark_taps(seen: np.ndarray, windows: tuple[Window, ...], taps: Any, shape: Shape) -> np.ndarray:
    for axis, (window, n) in enumerate(zip(windows, shape, strict=True)):
        seen = np.moveaxis(seen, axis, 0)
        result = np.zeros((n, *seen.shape[1:]), bool)
        for tap in taps[axis]:
            at = np.arange(len(seen)) * window.stride + tap * window.dilation - window.padding_low
            inside = (at >= 0) & (at < n)
            result[at[inside]] |= seen[inside]
        seen = np.moveaxis(result, 0, axis)
    return seen


def _image_shape(value: Any, ndim: int) -> Shape:
    try:
        shape = tuple(map(operator.index, np.atleast_1d(value).tolist()))
    except TypeError:
        shape = ()
    if len(shape) != ndim or min(shape) < 1:
        raise StackError(f"`image_shape` must be {ndim} positive integers, height before width, but got {value!r}.")
    return shape
