"""Gather, scatter and dynamic slices. Known indices are followed exactly; indices that depend on the input may point anywhere."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax import lax

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.access import (
    IDENTITY,
    SCALAR,
    WHOLE,
    Along,
    AxisView,
    Fixed,
    IrregularError,
    Lookup,
    Mapping,
    Seen,
    Shift,
    Then,
    View,
)
from erfjax.tracing.positions.index_sets import EMPTY, EVERYWHERE, Box, Points, Region, full, join
from erfjax.tracing.positions.interval_rows import IntervalRows
from erfjax.tracing.program.equations import Atom, Equation, Known
from erfjax.tracing.registry import Rule, WindowRule, bind, lengths, row
from erfjax.tracing.second_moments.kinds import Choice, Kind

MOST_PLACES = 64  # of a scatter that overwrites; beyond, what it overwrites counts as seen


def _number(atom: Atom) -> int | None:
    value = atom.concrete if isinstance(atom, Known) else None
    return None if value is None else int(value)


def _starts(scalars: Sequence[Atom], shape: Sequence[int], sizes: Sequence[int]) -> list[int | None]:
    """The starts of a dynamic slice, clamped into the array as JAX does; None where the input decides."""
    numbers = [_number(atom) for atom in scalars]
    return [
        None if at is None else min(max(at, 0), n - size) for at, n, size in zip(numbers, shape, sizes, strict=True)
    ]


def dynamic_slice(equation: Equation, result: int) -> Sequence[Seen | None]:
    """i = start + o; an axis whose start depends on the input is seen whole."""
    operand, *scalars = equation.inputs
    sizes = equation.params["slice_sizes"]
    starts = _starts(scalars, operand.shape, sizes)
    axes = tuple(
        Along(a, offset=start) if start is not None else Along(a) if size == n else WHOLE
        for a, (start, size, n) in enumerate(zip(starts, sizes, operand.shape, strict=True))
    )
    return [View(axes), *[SCALAR] * len(scalars)]


def dynamic_update_slice(equation: Equation, result: int) -> Sequence[Seen | None]:
    """The update lies at its start; the operand is seen around it."""
    operand, update, *scalars = equation.inputs
    starts = _starts(scalars, operand.shape, update.shape)
    if None in starts:
        return [IDENTITY, View((WHOLE,) * len(update.shape)), *[SCALAR] * len(scalars)]
    known = [at for at in starts if at is not None]
    places = tuple(map(_place, known, update.shape, operand.shape))
    axes = tuple(Along(a, offset=-at) for a, at in enumerate(known))
    guards = tuple((a, place.start, place.stop) for a, place in enumerate(places) if place.finite)
    return [_around(places), View(axes, guards), *[SCALAR] * len(scalars)]


def _place(at: int, size: int, n: int) -> Points:
    """Where an update lies along an axis; one that fills the axis has no border there, and leaves none (padding is a place)."""
    return EVERYWHERE if size == n else Points(at, at + size)


def _around(places: Box) -> Seen:
    """Everything but a box that is overwritten."""

    def pull(box: Box) -> Iterable[Box]:
        for axis, place in enumerate(places):
            for outside in box[axis].without(place):
                yield (*box[:axis], outside, *box[axis + 1 :])
            box = (*box[:axis], box[axis].clip(place.start, place.stop), *box[axis + 1 :])
            if not box[axis]:
                return

    def shift(shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        return _along_only(shifts, [a for a, place in enumerate(places) if not place.finite])

    return Mapping(pull, shift)


def _along_only(shifts: Sequence[Shift], regular: Sequence[int]) -> tuple[Shift, ...]:
    """The shifts as they are, if nothing moves but along the axes named."""
    if any(by for a, by in enumerate(shifts) if a not in regular):
        raise IrregularError
    return tuple(shifts)


def gather(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Result (batch, window) reads operand index[batch] + window. Windows may be clamped, filled or promised in bounds."""
    operand, indices = equation.inputs
    dims = equation.params["dimension_numbers"]
    sizes = equation.params["slice_sizes"]
    rank = len(equation.outputs[0].shape)
    batch_out = [a for a in range(rank) if a not in dims.offset_dims]
    window = _offset_axes(equation)
    batch_axes = len(indices.shape) - 1
    index_view = View((*(Along(batch_out[i]) for i in range(batch_axes)), WHOLE))

    axes: list[AxisView | None] = [
        Along(window[a]) if a in window else Fixed(Points(0, 1)) for a in range(len(operand.shape))
    ]
    for a, b in zip(dims.operand_batching_dims, dims.start_indices_batching_dims, strict=True):
        axes[a] = Along(batch_out[b])
    table = indices.concrete if isinstance(indices, Known) else None
    if table is None:
        for a in dims.start_index_map:
            axes[a] = Along(window[a]) if sizes[a] == operand.shape[a] else WHOLE
        return [View(tuple(axis for axis in axes if axis is not None)), index_view]

    columns = {a: table[..., k].astype(np.int64) for k, a in enumerate(dims.start_index_map)}
    columns, drop = _legal(columns, operand.shape, sizes, "fill" in str(equation.params["mode"]).lower())
    moving = {a: [i for i in range(batch_axes) if np.any(np.diff(c, axis=i))] for a, c in columns.items()}
    if drop is None and not any(len(axes_of) > 1 for axes_of in moving.values()) and _disjoint(moving.values()):
        for a, column in columns.items():
            axes[a] = _along_table(column, moving[a], batch_out, window.get(a), sizes[a], operand.shape[a])
        separate = tuple(axis for axis in axes if axis is not None)
        if len(separate) == len(axes):
            return [View(separate), index_view]
    return [_by_rows(axes, columns, drop, batch_out, window, sizes, operand.shape), index_view]


def _legal(
    columns: dict[int, np.ndarray], shape: Sequence[int], sizes: Sequence[int], fill: bool
) -> tuple[dict[int, np.ndarray], np.ndarray | None]:
    """Starts inside the operand: out-of-range rows are clamped, or (where they are filled) reported as dropped."""
    clamped = {a: np.asarray(np.clip(column, 0, shape[a] - sizes[a])) for a, column in columns.items()}
    outside = np.any([clamped[a] != columns[a] for a in columns], axis=0) if columns else np.zeros((), bool)
    return clamped, outside if fill and np.any(outside) else None


def _disjoint(groups: Iterable[list[int]]) -> bool:
    flat = [i for group in groups for i in group]
    return len(flat) == len(set(flat))


def _along_table(
    column: np.ndarray, moving: list[int], batch_out: Sequence[int], window: int | None, size: int, n: int
) -> AxisView | None:
    """One operand axis whose start varies along at most one result axis; None where start and window both vary."""
    if not moving:
        start = int(column.flat[0]) if column.size else 0
        return Fixed(Points(start, start + 1)) if window is None else Along(window, offset=start)
    if window is not None and size > 1:
        return None
    (axis,) = moving
    line = np.moveaxis(column, axis, 0).reshape(column.shape[axis], -1)[:, 0]
    steps = np.unique(np.diff(line))
    if steps.size == 1 and steps[0] != 0:
        return Along(batch_out[axis], stride=int(steps[0]), offset=int(line[0]))
    pattern = np.zeros((len(line), n), bool)
    pattern[np.arange(len(line)), line] = True
    return Lookup(batch_out[axis], IntervalRows.of(pattern), cut=False)


def _by_rows(
    axes: Sequence[AxisView | None],
    columns: dict[int, np.ndarray],
    drop: np.ndarray | None,
    batch_out: Sequence[int],
    window: dict[int, int],
    sizes: Sequence[int],
    shape: Sequence[int],
) -> Seen:
    """Row by row of the index table: exact for any known indices."""

    def pull(box: Box) -> Iterable[Box]:
        some = next(iter(columns.values()))
        held = np.ix_(*(box[o].clip(0, n).positions for o, n in zip(batch_out, some.shape, strict=True)))
        keep = np.ones(some[held].shape, bool) if drop is None else ~drop[held]
        starts = np.unique(np.stack([column[held][keep] for column in columns.values()], axis=-1), axis=0)
        for start in starts:
            pulled = []
            for a, axis in enumerate(axes):
                if a in columns:
                    at = int(start[list(columns).index(a)])
                    seen = box[window[a]].clip(0, sizes[a]) if a in window else Points(0, 1)
                    pulled.append(seen.shift(at))
                else:
                    pulled.append(EMPTY if axis is None else axis.pull(box))
            yield tuple(pulled)

    def shift(shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        _along_only(shifts, [o for a, o in window.items() if a not in columns])
        still = Fixed(Points(0, 1))
        return tuple(
            (still if a in columns or axis is None else axis).shift(shifts, whole) for a, axis in enumerate(axes)
        )

    return Mapping(pull, shift)


def scatter(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Result = operand, with updates combined at index[batch] + window; without a function to combine, they overwrite it."""
    _, indices, updates = equation.inputs
    table = indices.concrete if isinstance(indices, Known) else None
    if table is None:
        return [IDENTITY, View((WHOLE,) * len(indices.shape)), View((WHOLE,) * len(updates.shape))]
    kept: Seen = IDENTITY
    for place in _overwritten(_update_rows(equation, table)) if equation.params["update_jaxpr"] is None else ():
        kept = Then(kept, _around(place))
    if isinstance(updates, Known):
        return [kept, None, None]
    rows = list(_update_rows(equation, table))
    return [kept, None, _updates_seen(rows, equation.params["dimension_numbers"], len(updates.shape))]


def _overwritten(rows: "Iterable[_Row]") -> Region:
    """What the rows write, as few boxes; nothing if it falls apart into too many: then the operand counts as seen there."""
    places: Region = ()
    for _, place in rows:
        places = join(places, [tuple(place)])
        if len(places) > MOST_PLACES:
            return ()
    return places


def written(equation: Equation, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Where a scatter writes.

    Returns:
        For each row of the index table where it begins, over all axes of the operand, and whether it writes at all; how many
        positions it writes along each axis.
    """
    operand, _, updates = equation.inputs
    dims = equation.params["dimension_numbers"]
    gone = {*dims.inserted_window_dims, *dims.operand_batching_dims}
    windows = iter(updates.shape[d] for d in dims.update_window_dims)
    sizes = [1 if a in gone else next(windows) for a in range(len(operand.shape))]
    starts = np.zeros((*table.shape[:-1], len(operand.shape)), np.int64)
    starts[..., list(dims.scatter_dims_to_operand_dims)] = table
    for a, b in zip(dims.operand_batching_dims, dims.scatter_indices_batching_dims, strict=True):
        starts[..., a] = np.indices(table.shape[:-1])[b]
    last = np.subtract(operand.shape, sizes)
    if "clip" in str(equation.params["mode"]).lower():
        starts = np.clip(starts, 0, last)
    return starts, np.all((starts >= 0) & (starts <= last), -1, keepdims=True)[..., 0], sizes


_Row = tuple[tuple[int, ...], list[Points]]


def _update_rows(equation: Equation, table: np.ndarray) -> Iterable[_Row]:
    """For each row of the index table that writes: its place in the table, and the box of the operand that it writes."""
    starts, writes, sizes = written(equation, table)
    for where in map(tuple, np.argwhere(writes).tolist()):
        yield where, list(map(_place, starts[where].tolist(), sizes, equation.inputs[0].shape))


def _updates_seen(rows: list[_Row], dims: object, rank: int) -> Seen:
    window_dims = tuple(dims.update_window_dims)  # type: ignore[attr-defined]
    gone = {*dims.inserted_window_dims, *dims.operand_batching_dims}  # type: ignore[attr-defined]
    batch_dims = [d for d in range(rank) if d not in window_dims]

    def pull(box: Box) -> Iterable[Box]:
        for where, place in rows:
            held = [
                points.clip(p.start, p.stop).shift(-int(p.start) if p.finite else 0)
                for points, p in zip(box, place, strict=True)
            ]
            if all(held):
                seen = [EMPTY] * rank
                for d, points in zip(window_dims, (h for a, h in enumerate(held) if a not in gone), strict=True):
                    seen[d] = points
                for d, at in zip(batch_dims, where, strict=True):
                    seen[d] = Points(at, at + 1)
                yield tuple(seen)

    def shift(shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        regular = [a for a, place in enumerate(rows[0][1]) if not place.finite] if rows else range(len(shifts))
        kept = iter(by for a, by in enumerate(_along_only(shifts, regular)) if a not in gone)
        return tuple(next(kept) if d in window_dims else Fraction(0) for d in range(rank))

    return Mapping(pull, shift)


def slice_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    """Known starts are in the window already; an axis with an unknown start is whole."""
    operand, *scalars = operands
    zero = [jax.numpy.zeros_like(at) for at in scalars]
    known = _starts(equation.inputs[1:], equation.inputs[0].shape, equation.params["slice_sizes"])
    starts = [z if start is not None else at for z, start, at in zip(zero, known, scalars, strict=True)]
    return lax.dynamic_slice(operand, starts, lengths(box))


def moving_axes(equation: Equation, box: Box) -> Box:
    """An axis whose start depends on the input is computed whole."""
    known = _starts(equation.inputs[1:], equation.inputs[0].shape, equation.params["slice_sizes"])
    shape = equation.outputs[0].shape
    return tuple(Points(0, n) if at is None else points for at, n, points in zip(known, shape, box, strict=True))


def gathered_whole(equation: Equation, box: Box) -> Box:
    """Where the input decides what is gathered, all of it is computed at once."""
    indices = equation.inputs[1]
    known = isinstance(indices, Known) and indices.concrete is not None
    return box if known else full(equation.outputs[0].shape)


def indices_in_window(equation: Equation, operand: int, value: Any, boxes: Sequence[Box], box: Box) -> Any:
    """The indices of a gather, counted from where the window of its operand begins; what lies outside the operand stays there."""
    if operand == 0 or (*boxes[0], *box) == full((*equation.inputs[0].shape, *equation.outputs[0].shape)):
        return value
    dims, sizes, shape = equation.params["dimension_numbers"], equation.params["slice_sizes"], equation.inputs[0].shape
    fill = "fill" in str(equation.params["mode"]).lower()
    offsets = _offset_axes(equation)
    columns = []
    for k, a in enumerate(dims.start_index_map):
        last, start = shape[a] - sizes[a], int(boxes[0][a].start)
        begin = int(box[offsets[a]].start) if a in offsets else 0
        column = value[..., k]
        inside = jax.numpy.clip(column, 0, last) if jx.is_traced(column) else np.clip(column, 0, last)
        moved = inside + (begin - start)
        if fill:
            where = jax.numpy.where if jx.is_traced(column) else np.where
            moved = where(inside == column, moved, int(boxes[0][a].stop) - start)
        columns.append(moved.astype(value.dtype))
    return jax.numpy.stack(columns, -1) if jx.is_traced(value) else np.stack(columns, -1)


def gather_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    """The indices are those of the window already; slices are as long as what is wanted of them."""
    if box == full(equation.outputs[0].shape):
        return bind(equation, result, operands, boxes, box)
    offsets, given = _offset_axes(equation), lengths(box)
    sizes = tuple(given[offsets[a]] if a in offsets else n for a, n in enumerate(equation.params["slice_sizes"]))
    return bind(equation, result, operands, boxes, box, slice_sizes=sizes)


def _offset_axes(equation: Equation) -> dict[int, int]:
    """For each operand axis that a slice runs along, the axis of the result that it becomes."""
    dims = equation.params["dimension_numbers"]
    gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
    kept = [a for a in range(len(equation.inputs[0].shape)) if a not in gone]
    return dict(zip(kept, dims.offset_dims, strict=True))


row("dynamic_slice", Rule(hull=dynamic_slice, restrict=WindowRule(slice_on_window, moving_axes), moment=Kind.SELECTION))
row("dynamic_update_slice", Rule(hull=dynamic_update_slice, moment=Kind.SELECTION))
row(
    "gather",
    Rule(
        hull=gather,
        restrict=WindowRule(gather_on_window, gathered_whole, relative=indices_in_window),
        moment=Kind.SELECTION,
    ),
)
row("scatter", Rule(hull=scatter, moment=Kind.SELECTION))
row("scatter_add", Rule(hull=scatter, moment=Kind.SELECTION))
row("scatter_min scatter_max", Rule(hull=scatter, moment=Choice()))
row("scatter_sub scatter_mul", Rule(hull=scatter))
