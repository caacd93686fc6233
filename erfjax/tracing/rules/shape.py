"""Primitives that move positions without arithmetic: slices, pads, transposes, reshapes, joins of arrays."""

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jax import lax

from erfjax.tracing.positions.access import (
    ONLY,
    SCALAR,
    Along,
    AxisView,
    Fixed,
    IrregularError,
    Lookup,
    Regrouped,
    Seen,
    Shift,
    View,
)
from erfjax.tracing.positions.index_sets import EVERYWHERE, Box, Points, full
from erfjax.tracing.program.equations import Equation, Known
from erfjax.tracing.registry import SAME, Rule, WindowRule, bind, lengths, row
from erfjax.tracing.rules.convolution import local_padding
from erfjax.tracing.second_moments.kinds import Kind


def broadcast_in_dim(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Operand axis i lies along result axis broadcast_dimensions[i], or has one position that all results share."""
    shape, dims = equation.params["shape"], equation.params["broadcast_dimensions"]
    operand = equation.inputs[0].shape
    return [View(tuple(ONLY if n == 1 != shape[d] else Along(d) for n, d in zip(operand, dims, strict=True)))]


def transpose(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Result axis a is operand axis permutation[a]."""
    permutation = equation.params["permutation"]
    return [View(tuple(Along(permutation.index(axis)) for axis in range(len(permutation))))]


def squeeze(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Axes of one position disappear."""
    dropped, axes = set(equation.params["dimensions"]), itertools.count()
    return [View(tuple(ONLY if a in dropped else Along(next(axes)) for a in range(len(equation.inputs[0].shape))))]


def slice_(equation: Equation, result: int) -> Sequence[Seen | None]:
    """i = start + o·stride."""
    starts = equation.params["start_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    return [View(tuple(Along(a, stride=s, offset=b) for a, (b, s) in enumerate(zip(starts, strides, strict=True))))]


def pad(equation: Equation, result: int) -> Sequence[Seen | None]:
    """o = low + i·(interior + 1); negative padding crops. The padding value is needed where padding is asked for: everywhere."""
    config = equation.params["padding_config"]
    axes = tuple(Along(a, offset=-low, base=interior + 1) for a, (low, _, interior) in enumerate(config))
    return [View(axes), SCALAR]


def reverse(equation: Equation, result: int) -> Sequence[Seen | None]:
    """i = n - 1 - o."""
    shape, dims = equation.inputs[0].shape, equation.params["dimensions"]
    return [View(tuple(Along(a, stride=-1, offset=n - 1) if a in dims else Along(a) for a, n in enumerate(shape)))]


def concatenate(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Operand k holds the results [offset_k, offset_k + n_k). Next to known operands (padding) it is seen beyond its border."""
    axis, rank = equation.params["dimension"], len(equation.outputs[0].shape)
    stops = list(itertools.accumulate(atom.shape[axis] for atom in equation.inputs))
    known = [isinstance(atom, Known) for atom in equation.inputs]
    views = []
    for k, (atom, stop) in enumerate(zip(equation.inputs, stops, strict=True)):
        start = stop - atom.shape[axis]
        low = -math.inf if all(known[:k]) else start
        high = math.inf if all(known[k + 1 :]) else stop
        axes = tuple(Along(a, offset=-start if a == axis else 0) for a in range(rank))
        lonely = low == -math.inf and high == math.inf
        views.append(View(axes, () if lonely else ((axis, low, high),)))
    return views


def split(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Result k begins where the results before it end."""
    axis = equation.params["axis"]
    offset = int(sum(equation.params["sizes"][:result]))
    return [View(tuple(Along(a, offset=offset if a == axis else 0) for a in range(len(equation.inputs[0].shape))))]


def stack(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Operand k is position k of the new axis."""
    axis = equation.params["axis"]
    axes = tuple(Along(a + (a >= axis)) for a in range(len(equation.inputs[0].shape)))
    return [View(axes, ((axis, k, k + 1),)) for k in range(len(equation.inputs))]


def unstack(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Result k is position k of the axis that disappears."""
    axis, axes = equation.params["axis"], itertools.count()
    here = Fixed(Points(result, result + 1))
    return [View(tuple(here if a == axis else Along(next(axes)) for a in range(len(equation.inputs[0].shape))))]


def tile(equation: Equation, result: int) -> Sequence[Seen | None]:
    """i = o mod n."""

    def axis(a: int, n: int, repeats: int) -> AxisView:
        return Along(a) if repeats == 1 else Lookup(a, np.tile(np.eye(n, dtype=bool), (repeats, 1)), cut=False)

    return [
        View(
            tuple(
                axis(a, n, r)
                for a, (n, r) in enumerate(zip(equation.inputs[0].shape, equation.params["reps"], strict=True))
            )
        )
    ]


def reshape(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Row-major order is kept. Axes that survive are seen one to one; splits and merges exactly, as sets."""
    return [_reshape(equation.inputs[0].shape, equation.outputs[0].shape)]


def _reshape(operand: tuple[int, ...], result: tuple[int, ...]) -> Seen:
    groups = _groups(operand, result)
    if all(len(ins) <= 1 and len(outs) <= 1 for ins, outs in groups):
        axes: list[AxisView] = [ONLY] * len(operand)
        for ins, outs in groups:
            if ins and outs:
                axes[ins[0]] = Along(outs[0])
        return View(tuple(axes))

    def pull(box: Box) -> Iterable[Box]:
        parts = [
            _regroup([box[o] for o in outs], [result[o] for o in outs], [operand[i] for i in ins])
            for ins, outs in groups
        ]
        for combination in itertools.product(*parts):
            yield tuple(itertools.chain.from_iterable(combination))

    def shift(shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        moved: list[Shift] = []
        for ins, outs in groups:
            moved += _regroup_shift([shifts[o] for o in outs], [result[o] for o in outs], [operand[i] for i in ins])
        return tuple(moved)

    return Regrouped(pull, shift, tuple((tuple(ins), tuple(outs)) for ins, outs in groups))


def _groups(operand: Sequence[int], result: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest pairing of runs of operand axes with runs of result axes of the same product, ones beside their neighbours."""
    groups: list[tuple[list[int], list[int]]] = []
    i = o = 0
    while i < len(operand) or o < len(result):
        if i < len(operand) and o < len(result) and operand[i] == result[o]:
            groups.append(([i], [o]))
            i, o = i + 1, o + 1
            continue
        if i < len(operand) and operand[i] == 1:
            groups.append(([i], []))
            i += 1
            continue
        if o < len(result) and result[o] == 1:
            groups.append(([], [o]))
            o += 1
            continue
        ins, outs = [i], [o]
        a, b = operand[i], result[o]
        while a != b:
            if a < b:
                ins.append(ins[-1] + 1)
                a *= operand[ins[-1]]
            else:
                outs.append(outs[-1] + 1)
                b *= result[outs[-1]]
        groups.append((ins, outs))
        i, o = ins[-1] + 1, outs[-1] + 1
    return groups


def _regroup(box: Sequence[Points], shape: Sequence[int], target: Sequence[int]) -> list[Box]:
    """The boxes over the axes `target` that hold the positions of a box over the axes `shape`."""
    if len(shape) == 1 and len(target) == 1:
        return [(box[0],)]
    if not target:
        return [()]
    if not shape:
        return [full(target)]
    return _unravel(_ravel(box, shape), target)


def _ravel(box: Sequence[Points], shape: Sequence[int]) -> Points:
    """Row-major positions; the leading axis may be virtual (negative or beyond the end), the others are cut to the array."""
    flat = box[0]
    for points, n in zip(box[1:], shape[1:], strict=True):
        points = points.clip(0, n)
        if not points or not flat:
            return Points(0, 0)
        if points.bits is None and points.stop - points.start == n:
            bits = None if flat.bits is None else np.repeat(flat.bits, n)
            flat = Points(flat.start * n, flat.stop * n, bits)
        else:
            flat = flat if flat.finite else flat.clip(0, shape[0])
            held = (flat.positions[:, None] * n + points.positions).ravel()
            flat = Points.among(held)
    return flat


def _unravel(flat: Points, shape: Sequence[int]) -> list[Box]:
    """The boxes over `shape` that hold row-major positions: rows that look alike share one."""
    if len(shape) == 1:
        return [(flat,)] if flat else []
    if flat == EVERYWHERE:
        return [(EVERYWHERE,) * len(shape)]
    boxes: list[Box] = []
    inner = math.prod(shape[1:])
    if flat.bits is None:
        low = flat.start if math.isinf(flat.start) else -(-flat.start // inner)
        high = flat.stop if math.isinf(flat.stop) else flat.stop // inner
        if low < high:
            boxes.append((Points(low, high), *full(shape[1:])))
        ends = {int(edge // inner) for edge in (flat.start, flat.stop - 1) if not math.isinf(edge)}
        patterns: list[tuple[tuple[int, ...], Points]] = [
            ((row,), flat.clip(row * inner, (row + 1) * inner).shift(-row * inner))
            for row in sorted(ends)
            if not low <= row < high
        ]
    else:
        first, last = int(flat.start // inner), int(-(-flat.stop // inner))
        grid = np.zeros((last - first) * inner, bool)
        grid[int(flat.start) - first * inner : int(flat.stop) - first * inner] = flat.bits
        kinds, which = np.unique(grid.reshape(last - first, inner), axis=0, return_inverse=True)
        patterns = [
            (tuple((first + np.flatnonzero(which.ravel() == k)).tolist()), Points.of(0, kind))
            for k, kind in enumerate(kinds)
            if kind.any()
        ]
    for rows_alike, points in patterns:
        for rest in _unravel(points, shape[1:]):
            boxes.append((Points.among(rows_alike), *rest))
    return boxes


def _regroup_shift(shifts: Sequence[Shift], shape: Sequence[int], target: Sequence[int]) -> list[Shift]:
    """Only the leading axis of a group can move: by whole rows."""
    if len(shape) == 1 and len(target) == 1:
        return list(shifts)
    if not target:
        return []
    if any(shifts[1:]):
        raise IrregularError
    if not shifts or not shifts[0]:
        return [
            Fraction(0) if not shifts else shifts[0],
            *[None if shifts and None in shifts else Fraction(0)] * (len(target) - 1),
        ]
    moved = shifts[0] * math.prod(shape[1:])
    return [moved / math.prod(target[1:]), *[Fraction(0)] * (len(target) - 1)]


def window_of(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    """The result on its box *is* the operand on its own."""
    return operands[0]


def broadcast_on_window(
    equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box
) -> Any:
    return bind(equation, result, operands, boxes, box, shape=lengths(box))


def reshape_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    return lax.reshape(operands[0], lengths(box))


def whole_rows(equation: Equation, box: Box) -> Box:
    """In every group of axes that are split or merged, only the leading ones may be a window, and in steps of whole rows."""
    operand, result = equation.inputs[0].shape, equation.outputs[0].shape
    points = list(box)
    for ins, outs in _groups(operand, result):
        if len(ins) <= 1 and len(outs) <= 1:
            continue
        sizes, lead = [result[o] for o in outs], outs[0]
        if len(outs) > 1:
            for o in outs[1:]:
                points[o] = Points(0, result[o])
        step = math.lcm(math.prod(sizes[1:]), math.prod(operand[i] for i in ins[1:])) // math.prod(sizes[1:])
        start, stop = points[lead].start // step * step, -(-points[lead].stop // step) * step
        points[lead] = Points(start, min(stop, result[lead]))
    return tuple(points)


def slice_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    """Every stride-th position of the window, which begins with one that is wanted."""
    return lax.slice(operands[0], (0,) * len(box), operands[0].shape, equation.params["strides"])


def pad_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    """The same padding as far as the window reaches into it."""
    config = [
        (*local_padding(out, held, 1, 1, 1, low, interior + 1), interior)
        for out, held, (low, _, interior) in zip(box, boxes[0], equation.params["padding_config"], strict=True)
    ]
    return lax.pad(operands[0], operands[1], config)


def concatenate_on_window(
    equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box
) -> Any:
    """The parts of the operands that lie in the window."""
    axis = equation.params["dimension"]
    parts = [operand for operand in operands if operand is not None]
    return parts[0] if len(parts) == 1 else lax.concatenate(parts, axis)


def stack_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    axis = equation.params["axis"]
    return lax.concatenate([lax.expand_dims(operands[int(k)], (axis,)) for k in box[axis].positions], axis)


def unstack_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    return lax.squeeze(operands[0], (equation.params["axis"],))


row("broadcast_in_dim", Rule(hull=broadcast_in_dim, restrict=WindowRule(broadcast_on_window), moment=Kind.SELECTION))
row("transpose", Rule(hull=transpose, restrict=SAME, moment=Kind.SELECTION))
row("squeeze", Rule(hull=squeeze, restrict=SAME, moment=Kind.SELECTION))
row("slice", Rule(hull=slice_, restrict=WindowRule(slice_on_window), moment=Kind.SELECTION))
row("pad", Rule(hull=pad, restrict=WindowRule(pad_on_window, outside="stand in"), moment=Kind.SELECTION))
row("rev", Rule(hull=reverse, restrict=SAME, moment=Kind.SELECTION))
row(
    "concatenate",
    Rule(hull=concatenate, restrict=WindowRule(concatenate_on_window, outside="leave out"), moment=Kind.SELECTION),
)
row("split", Rule(hull=split, restrict=WindowRule(window_of), moment=Kind.SELECTION))
row("stack", Rule(hull=stack, restrict=WindowRule(stack_on_window, outside="leave out"), moment=Kind.SELECTION))
row("unstack", Rule(hull=unstack, restrict=WindowRule(unstack_on_window), moment=Kind.SELECTION))
row("tile", Rule(hull=tile, moment=Kind.SELECTION))
row("reshape", Rule(hull=reshape, restrict=WindowRule(reshape_on_window, whole_rows), moment=Kind.SELECTION))
