"""Known values through primitives that move positions, reduce them or contract them."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from erfjax.tracing.positions.index_sets import axis_groups
from erfjax.tracing.positions.known_values import (
    SMALL,
    UNKNOWN,
    Diagonal,
    Fact,
    Low,
    compact,
    folds,
    gathered,
    held_zeros,
)
from erfjax.tracing.positions.pattern import EVERYTHING, NOTHING, Pattern, slab
from erfjax.tracing.program.equations import Equation, Known

Shape = Sequence[int]


def _moved(fact: Fact, move: Callable[[Pattern], Pattern]) -> Fact:
    """The same constants where they have moved to."""
    return gathered([(c, move(p)) for c, p in fact.pieces.items()])


def _written_out(fact: Fact, shape: Shape) -> np.ndarray | None:
    """A known array at its full shape, if that is small."""
    if not isinstance(fact.value, np.ndarray) or math.prod(shape) > SMALL:
        return None
    return np.broadcast_to(fact.value, shape)


def iota(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """0, 1, 2 ... along one axis."""
    axis, shape = equation.params["dimension"], equation.outputs[result].shape
    dtype = np.dtype(equation.outputs[result].dtype)
    line = np.arange(shape[axis]).astype(dtype if dtype.kind in "iuf" else np.float32)
    return Fact(line.reshape([n if a == axis else 1 for a, n in enumerate(shape)]))


def broadcast_in_dim(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    fact, shape, dims = facts[0], equation.params["shape"], equation.params["broadcast_dimensions"]
    if isinstance(fact.value, np.ndarray):
        sizes = dict(zip(dims, fact.value.shape, strict=True))
        return Fact(fact.value.reshape([sizes.get(a, 1) for a in range(len(shape))]))
    names = dict(enumerate(dims))
    if isinstance(fact.value, Diagonal):
        (a, b), value = fact.value.axes, fact.value
        return Fact(Diagonal((names[a], names[b]), value.sizes, value.line))
    return _moved(fact, lambda p: p.renamed(names))


def reshape(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    fact, operand, shape = facts[0], equation.inputs[0].shape, equation.outputs[result].shape
    written = _written_out(fact, operand)
    if written is not None:
        return Fact(compact(written.reshape(shape)))
    groups = axis_groups(operand, shape)
    if isinstance(fact.value, np.ndarray) and all(len(i) <= 1 and len(o) <= 1 for i, o in groups):
        sizes = {outs[0]: fact.value.shape[ins[0]] for ins, outs in groups if ins and outs}
        return Fact(fact.value.reshape([sizes.get(a, 1) for a in range(len(shape))]))
    return _moved(fact, lambda p: p.reshaped(groups, operand, shape))


def squeeze(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    gone = equation.params["dimensions"]
    return _dropped(facts[0], [d % len(equation.inputs[0].shape) for d in gone], len(equation.inputs[0].shape))


def _dropped(fact: Fact, gone: Sequence[int], rank: int) -> Fact:
    """An array without some axes of one position."""
    kept = [a for a in range(rank) if a not in gone]
    if isinstance(fact.value, np.ndarray):
        return Fact(fact.value.reshape([fact.value.shape[a] for a in kept]))
    return _moved(fact, lambda p: p.renamed({a: i for i, a in enumerate(kept)}))


def transpose(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    permutation, fact = equation.params["permutation"], facts[0]
    if isinstance(fact.value, np.ndarray):
        return Fact(fact.value.transpose(permutation))
    return _moved(fact, lambda p: p.renamed({a: permutation.index(a) for a in p.axes}))


def _indexed(fact: Fact, steps: Sequence[tuple[int, int, int]]) -> Fact:
    """Along every axis, position o is position offset + o·stride of the operand: steps are (offset, stride, size)."""
    if isinstance(fact.value, np.ndarray):
        value = fact.value
        for a, (offset, stride, size) in enumerate(steps):
            if value.shape[a] != 1:
                value = value.take(offset + stride * np.arange(size), a)
        return Fact(value)

    def move(p: Pattern) -> Pattern:
        for a, step in enumerate(steps):
            p = p.indexed(a, *step)
        return p

    return _moved(fact, move)


def slice_(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    starts, shape = equation.params["start_indices"], equation.outputs[result].shape
    strides = equation.params["strides"] or (1,) * len(starts)
    return _indexed(facts[0], list(zip(starts, strides, shape, strict=True)))


def rev(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    turned, shape = equation.params["dimensions"], equation.outputs[result].shape
    return _indexed(facts[0], [(n - 1, -1, n) if a in turned else (0, 1, n) for a, n in enumerate(shape)])


def split(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    axis, start = equation.params["axis"], sum(equation.params["sizes"][:result])
    shape = equation.outputs[result].shape
    return _indexed(facts[0], [(start if a == axis else 0, 1, n) for a, n in enumerate(shape)])


def unstack(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    axis, shape = equation.params["axis"], equation.inputs[0].shape
    picked = _indexed(facts[0], [(result, 1, 1) if a == axis else (0, 1, n) for a, n in enumerate(shape)])
    return _dropped(picked, [axis], len(shape))


def dynamic_slice(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """A slice, where its start is known."""
    operand, *scalars = facts
    if not all(isinstance(s.value, np.ndarray) for s in scalars):
        return UNKNOWN
    sizes, shape = equation.params["slice_sizes"], equation.inputs[0].shape
    starts = [int(s.value.item()) for s in scalars if isinstance(s.value, np.ndarray)]
    starts = [min(max(at, 0), n - size) for at, n, size in zip(starts, shape, sizes, strict=True)]
    return _indexed(operand, [(at, 1, size) for at, size in zip(starts, sizes, strict=True)])


def _box(starts: Shape, sizes: Shape, shape: Shape) -> Pattern:
    box = EVERYTHING
    for axis, (at, size, n) in enumerate(zip(starts, sizes, shape, strict=True)):
        box = box.meet(slab(axis, at, at + size, n))
    return box


def _placed(fact: Fact, starts: Shape, sizes: Shape, shape: Shape) -> Fact:
    """An array that lies in a larger one."""
    box = _box(starts, sizes, shape)

    def move(p: Pattern) -> Pattern:
        for axis, (at, size, n) in enumerate(zip(starts, sizes, shape, strict=True)):
            p = p.placed(axis, at, size, n) if size != n or at else p
        return p.meet(box)

    return _moved(fact, move)


def pad(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    config, operand, shape = equation.params["padding_config"], equation.inputs[0].shape, equation.outputs[result].shape
    if any(interior for *_, interior in config):
        return UNKNOWN
    starts = [low for low, _, _ in config]
    inside = _placed(facts[0], starts, operand, shape)
    around = _box(starts, operand, shape).complement
    return gathered([*inside.pieces.items(), *((c, p.meet(around)) for c, p in facts[1].pieces.items())])


def dynamic_update_slice(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    operand, update, *scalars = facts
    if not all(isinstance(s.value, np.ndarray) for s in scalars):
        return UNKNOWN
    shape, sizes = equation.inputs[0].shape, equation.inputs[1].shape
    starts = [int(s.value.item()) for s in scalars if isinstance(s.value, np.ndarray)]
    starts = [min(max(at, 0), n - size) for at, n, size in zip(starts, shape, sizes, strict=True)]
    around = _box(starts, sizes, shape).complement
    kept = [(c, p.meet(around)) for c, p in operand.pieces.items()]
    return gathered([*kept, *_placed(update, starts, sizes, shape).pieces.items()])


def concatenate(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    axis, shape = equation.params["dimension"], equation.outputs[result].shape
    written = [_written_out(f, a.shape) for f, a in zip(facts, equation.inputs, strict=True)]
    if math.prod(shape) <= SMALL and not any(w is None for w in written):
        return Fact(compact(np.concatenate([w for w in written if w is not None], axis)))
    parts: list[Any] = []
    start = 0
    for fact, atom in zip(facts, equation.inputs, strict=True):
        starts = [start if a == axis else 0 for a in range(len(shape))]
        parts += _placed(fact, starts, atom.shape, shape).pieces.items()
        start += atom.shape[axis]
    return gathered(parts)


def stack(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """Arrays that lie side by side along a new axis."""
    axis, shape = equation.params["axis"], equation.outputs[result].shape
    names = {a: a + (a >= axis) for a in range(len(shape) - 1)}
    sizes = [1 if a == axis else n for a, n in enumerate(shape)]
    parts: list[Any] = []
    for k, fact in enumerate(facts):
        starts = [k if a == axis else 0 for a in range(len(shape))]
        parts += _placed(_moved(fact, lambda p: p.renamed(names)), starts, sizes, shape).pieces.items()
    return gathered(parts)


def tile(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """An array repeated along its axes."""
    repeats = equation.params["reps"]

    def move(p: Pattern) -> Pattern:
        for axis, (n, times) in enumerate(zip(equation.inputs[0].shape, repeats, strict=True)):
            if axis in p.axes and times > 1:
                copies = [p.placed(axis, n * k, n, n * times) for k in range(times)]
                p = functools.reduce(Pattern.join, copies)
        return p

    return _moved(facts[0], move)


def reduction(evaluate: Callable[..., Any], every: Callable[[Fact, Sequence[int]], Fact]) -> Callable[..., Fact]:
    """A reduction: of known arrays by `evaluate`, of others by what is `every`where, or somewhere, along the axes."""

    def fold(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
        fact, axes, shape = facts[0], tuple(equation.params["axes"]), equation.inputs[0].shape
        kept = [a for a in range(len(shape)) if a not in axes]
        if isinstance(fact.value, np.ndarray) and 0 not in shape:
            repeats = math.prod(shape[a] // fact.value.shape[a] for a in axes)
            return Fact(np.asarray(evaluate(fact.value, axes, repeats)))
        found = every(fact, axes)
        return _moved(found, lambda p: p.renamed({a: i for i, a in enumerate(kept)}))

    return fold


def _all_zero(fact: Fact, axes: Sequence[int]) -> Fact:
    return gathered([(0, fact.at(0).without(axes, every=True))])


def _extreme(fact: Fact, axes: Sequence[int]) -> Fact:
    """A constant that fills the axes; low where all of them is."""
    parts = [(c, p.without(axes, every=True)) for c, p in fact.pieces.items()]
    found = gathered(parts)
    low = fact.low.without(axes, every=True).minus(found.constant)
    return gathered([*parts, (Low(fact.lowest), low)]) if low else found


def _some(value: bool) -> Callable[[Fact, Sequence[int]], Fact]:
    """`value` where it is somewhere along the axes, the opposite where that is everywhere."""
    return lambda fact, axes: gathered(
        [(value, fact.at(value).without(axes, every=False)), (not value, fact.at(not value).without(axes, every=True))]
    )


def dot_general(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """Zero where in every term of the sum one of the factors is."""
    contracted, batch = equation.params["dimension_numbers"]
    shapes = [atom.shape for atom in equation.inputs]
    free = [[a for a in range(len(shapes[s])) if a not in (*contracted[s], *batch[s])] for s in (0, 1)]
    terms, first, rank = NOTHING, len(batch[0]), len(equation.outputs[result].shape)
    sizes: dict[int, int] = {}
    for side in (0, 1):
        zero = facts[side].mask
        atom = equation.inputs[side]
        if not zero and facts[1 - side].mask and isinstance(atom, Known):  # weights are looked at where it can matter
            zero = held_zeros(atom)
        names = {a: i for i, a in enumerate(batch[side])} | {a: first + i for i, a in enumerate(free[side])}
        names |= {a: rank + i for i, a in enumerate(contracted[side])}
        sizes |= {names[a]: shapes[side][a] for a in contracted[side]}
        if zero:
            terms = terms.join(zero.renamed(names))
        first += len(free[side])
    return gathered([(0, terms.without(sizes, every=True))])


folds("iota", iota)
folds("broadcast_in_dim", broadcast_in_dim)
folds("reshape", reshape)
folds("squeeze", squeeze)
folds("transpose", transpose)
folds("slice", slice_)
folds("rev", rev)
folds("split", split)
folds("unstack", unstack)
folds("dynamic_slice", dynamic_slice)
folds("dynamic_update_slice", dynamic_update_slice)
folds("pad", pad)
folds("concatenate", concatenate)
folds("stack", stack, run=True)
folds("tile", tile, run=True)
folds("reduce_sum", reduction(lambda v, axes, repeats: v.sum(axes, v.dtype) * v.dtype.type(repeats), _all_zero))
folds("reduce_max", reduction(lambda v, axes, repeats: v.max(axes), _extreme))
folds("reduce_min", reduction(lambda v, axes, repeats: v.min(axes), lambda fact, axes: UNKNOWN))
folds("reduce_or", reduction(lambda v, axes, repeats: v.any(axes), _some(True)))
folds("reduce_and", reduction(lambda v, axes, repeats: v.all(axes), _some(False)))
folds("dot_general", dot_general, run=True)
folds("sort cummax cumprod argmax argmin reduce_prod", None)
