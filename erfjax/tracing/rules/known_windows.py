"""Known zeros through windows and along sequences: where convolutions and pools see padding or zeros only; sums, lookups."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.access import Along, Seen, View
from erfjax.tracing.positions.known_values import UNKNOWN, Fact, Facts, compact, folds, gathered
from erfjax.tracing.positions.pattern import EVERYTHING, NOTHING, Pattern
from erfjax.tracing.positions.through_zeros import sharpens, where_not_constant
from erfjax.tracing.program.equations import Equation

CUMSUM = jx.lax_primitive("cumsum_p")
LARGEST = 1 << 22  # positions times taps that are looked at one by one; in larger images padding alone is told


class _Axis:
    """What the taps of a window see along one axis, for every position of the result."""

    def __init__(self, size: int, out: int, taps: int, stride: int, dilation: int, low: int, base: int):
        at = np.arange(out)[:, None] * stride + np.arange(taps) * dilation - low
        self.inside = (at >= 0) & (at % base == 0) & (at // base < size)  # (position, tap)
        self.index = np.where(self.inside, at // base, 0)


def unseen(zero: np.ndarray | None, taps: np.ndarray, axes: Sequence[_Axis], out: Sequence[int]) -> np.ndarray | None:
    """Where a window sees nothing but padding and zeros; None where that is nowhere, or too large to tell.

    Args:
        zero: where the operand is zero, over the axes of the window; None: nowhere.
        taps: which taps are not zero.
        axes: what they see along each axis.
        out: the shape of the result along these axes.

    Example:
        >>> import numpy as np
        >>> from erfjax.tracing.rules.known_windows import _Axis, unseen
        >>> unseen(None, np.array([False, True]), [_Axis(4, 4, 2, 1, 2, 0, 1)], (4,)).tolist()
        [False, False, True, True]
    """
    if zero is None and all(axis.inside[:, line.any(1)].all() for axis, line in zip(axes, _lines(taps), strict=True)):
        return None
    if math.prod(out) * taps.size > LARGEST:
        return None
    seen = np.zeros(out, bool)
    for tap in itertools.product(*map(range, taps.shape)):
        if not taps[tap]:
            continue
        here = np.ones((), bool)
        for axis, t in zip(axes, tap, strict=True):
            here = here[..., None] & axis.inside[:, t]
        if zero is not None:
            here = here & ~zero[np.ix_(*(axis.index[:, t] for axis, t in zip(axes, tap, strict=True)))]
        seen |= here
    return None if seen.all() else ~seen


def _lines(taps: np.ndarray) -> list[np.ndarray]:
    """The taps with each axis in turn first, the others joined: (taps of that axis, all others)."""
    return [np.moveaxis(taps, axis, 0).reshape(n, -1) for axis, n in enumerate(taps.shape)]


def _zeros(fact: Fact, axes: Sequence[int], shape: Sequence[int]) -> np.ndarray | None:
    """Where an array is zero all along its other axes, over the axes named; None if that is nowhere."""
    zero = fact.at(0).without([a for a in range(len(shape)) if a not in axes], every=True)
    if not zero:
        return None
    whole = zero.over({a: shape[a] for a in axes})
    order = [a for a in axes if a in whole.axes]
    dense = np.transpose(whole.positions, [whole.axes.index(a) for a in order])
    return dense.reshape([shape[a] for a in axes])


def _placed(found: np.ndarray | None, axes: Sequence[int], rank: int) -> Fact:
    """Zeros at positions along some axes of an array."""
    if found is None:
        return UNKNOWN
    order = np.argsort(axes)
    sizes = [1] * rank
    for a in axes:
        sizes[a] = found.shape[list(axes).index(a)]
    return gathered([(0, Pattern.of(found.transpose(order).reshape(sizes)))])


def convolution(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """Zero where the taps that are not zero see padding and zeros only."""
    params, (x, kernel) = equation.params, equation.inputs
    lhs, rhs, out = params["dimension_numbers"]
    shape = equation.outputs[result].shape
    holes = _zeros(facts[1], rhs[2:], kernel.shape)
    taps = np.ones([kernel.shape[a] for a in rhs[2:]], bool) if holes is None or holes.all() else ~holes
    zero = facts[0].at(0)
    known = None if params["batch_group_count"] > 1 or not zero else _zeros(facts[0], lhs[2:], x.shape)
    parts = zip(lhs[2:], out[2:], taps.shape, params["window_strides"], params["rhs_dilation"], params["padding"],
                params["lhs_dilation"], strict=True)  # fmt: skip
    axes = [_Axis(x.shape[i], shape[o], n, s, d, low, base) for i, o, n, s, d, (low, _), base in parts]
    return _placed(unseen(known, taps, axes, [shape[o] for o in out[2:]]), out[2:], len(shape))


def window_sum(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """Zero where a window sees padding and zeros only."""
    params, shape = equation.params, equation.outputs[result].shape
    moving = [a for a, n in enumerate(params["window_dimensions"]) if n > 1 or any(params["padding"][a])]
    size = equation.inputs[0].shape
    axes = [
        _Axis(size[a], shape[a], params["window_dimensions"][a], params["window_strides"][a], params["window_dilation"][a],
              params["padding"][a][0], params["base_dilation"][a])
        for a in moving
    ]  # fmt: skip
    taps = np.ones([params["window_dimensions"][a] for a in moving], bool)
    found = unseen(_zeros(facts[0], moving, size), taps, axes, [shape[a] for a in moving]) if moving else None
    return _placed(found, moving, len(shape))


def running_sum(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """Zero as long as everything before is."""
    axis, reverse = equation.params["axis"], equation.params["reverse"]
    zero, n = facts[0].at(0), equation.outputs[result].shape[equation.params["axis"]]
    if not zero or n == 1:
        return gathered([(0, zero)])
    whole = zero.over({axis: n})
    at = whole.axes.index(axis)
    line = np.flip(whole.positions, at) if reverse else whole.positions
    held = np.logical_and.accumulate(line, axis=at)
    return gathered([(0, Pattern.along(whole.axes, np.flip(held, at) if reverse else held))])


def lookup(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """The constants of an operand at known indices along one axis (`jnp.take`)."""
    numbers, operand = equation.params["dimension_numbers"], equation.inputs[0].shape
    index, sizes = facts[1].value, equation.params["slice_sizes"]
    plain = not (numbers.operand_batching_dims or numbers.start_indices_batching_dims)
    if not isinstance(index, np.ndarray) or len(numbers.start_index_map) != 1 or not plain or not facts[0].pieces:
        return UNKNOWN
    (axis,) = numbers.start_index_map
    shape = equation.inputs[1].shape
    whole = all(n == m for a, (n, m) in enumerate(zip(sizes, operand, strict=True)) if a != axis)
    if tuple(numbers.collapsed_slice_dims) != (axis,) or sizes[axis] != 1 or not whole or len(shape) != 2:
        return UNKNOWN
    flat = np.broadcast_to(index, shape).reshape(-1)
    if not ((flat >= 0) & (flat < operand[axis])).all():
        return UNKNOWN
    rank = len(equation.outputs[result].shape)
    (new,) = [a for a in range(rank) if a not in numbers.offset_dims]
    kept = [a for a in range(len(operand)) if a != axis]
    names = dict(zip(kept, numbers.offset_dims, strict=True)) | {axis: new}
    if isinstance(facts[0].value, np.ndarray):
        value = facts[0].value
        taken = value.take(flat, axis) if value.shape[axis] != 1 else value
        return Fact(compact(np.transpose(taken, np.argsort([names[a] for a in range(len(operand))]))))
    parts = []
    for constant, where in facts[0].pieces.items():
        parts.append((constant, _taken(where, axis, flat).renamed(names)))
    return gathered(parts)


def _taken(where: Pattern, axis: int, index: np.ndarray) -> Pattern:
    """The set at some positions of an axis, in their order."""
    if axis not in where.axes:
        return where
    held = where.positions.take(index, where.axes.index(axis))
    if len(index) > 1:
        return Pattern.along(where.axes, held)
    rest = tuple(a for a in where.axes if a != axis)
    flat = held.squeeze(where.axes.index(axis))
    return Pattern.along(rest, flat) if rest else (EVERYTHING if flat else NOTHING)


def exclusive(equation: Equation, result: int, seen: Sequence[Seen | None], facts: Facts) -> Sequence[Seen | None]:
    """A running sum less its last term, cumsum(x) - x, is the running sum one position before."""
    total, last = equation.inputs
    made = facts.maker(total)
    if made is None or made[0].primitive is not CUMSUM or made[0].inputs[0] is not last or total.shape != last.shape:
        return where_not_constant(equation, result, seen, facts)
    back = 1 if made[0].params["reverse"] else -1
    axes = range(len(total.shape))
    return [View(tuple(Along(a, offset=back if a == made[0].params["axis"] else 0) for a in axes)), None]


folds("conv_general_dilated", convolution)
folds("reduce_window_sum", window_sum)
folds("cumsum", running_sum, run=True)
folds("gather", lookup, run=True)
sharpens("sub", exclusive)
