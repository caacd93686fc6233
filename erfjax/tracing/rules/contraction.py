"""Contractions: dot products, and the dense linear algebra that sees its matrices whole."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax import lax

from erfjax.tracing.positions.access import WHOLE, Along, AxisView, Fixed, Lookup, Seen, View
from erfjax.tracing.positions.index_sets import Box, Points
from erfjax.tracing.positions.interval_rows import IntervalRows
from erfjax.tracing.positions.known_values import Facts, zeros
from erfjax.tracing.positions.pattern import Pattern
from erfjax.tracing.positions.through_zeros import sharpens, trims, visible
from erfjax.tracing.positions.zero_views import Through, Where
from erfjax.tracing.program.equations import Atom, Equation, Known, Var
from erfjax.tracing.registry import Rule, WindowRule, bind, row
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.second_moments.scaled import wider

LARGEST_PATTERN = 1 << 27  # a known matrix with more entries (512 MB) is taken to be dense rather than read


def dot_general(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Batch and free axes are seen one to one, contracted axes whole, or through the non-zeros of a known matrix (resize)."""
    (contract_l, contract_r), (batch_l, batch_r) = equation.params["dimension_numbers"]
    left, right = equation.inputs
    free_l = [a for a in range(len(left.shape)) if a not in (*contract_l, *batch_l)]
    free_r = [a for a in range(len(right.shape)) if a not in (*contract_r, *batch_r)]
    n = len(batch_l)
    out_l = {a: n + i for i, a in enumerate(free_l)}
    out_r = {a: n + len(free_l) + i for i, a in enumerate(free_r)}

    def view(
        atom: Atom, batch: Sequence[int], free: dict[int, int], contracted: Sequence[int], through: Iterable[AxisView]
    ) -> View:
        axes: list[AxisView] = [WHOLE] * len(atom.shape)
        for i, a in enumerate(batch):
            axes[a] = Along(i)
        for a, out in free.items():
            axes[a] = Along(out)
        for a, axis in zip(contracted, through, strict=True):
            axes[a] = axis
        return View(tuple(axes))

    return [
        view(left, batch_l, out_l, contract_l, _through(right, contract_r, out_r)),
        view(right, batch_r, out_r, contract_r, _through(left, contract_l, out_l)),
    ]


def through_zeros(equation: Equation, result: int, seen: Sequence[Seen | None], facts: Facts) -> Sequence[Seen | None]:
    """Either operand is seen past the known zeros of the other: values past a causal mask, through the weights of attention."""
    contracted, batch = equation.params["dimension_numbers"]
    ranks = [len(atom.shape) for atom in equation.inputs]
    free = [[a for a in range(ranks[s]) if a not in (*contracted[s], *batch[s])] for s in (0, 1)]
    first_free = (len(batch[0]), len(batch[0]) + len(free[0]))
    found = list(seen)
    for mine, (theirs, view) in enumerate(zip(reversed(equation.inputs), seen, strict=True)):
        other = 1 - mine
        dense = isinstance(theirs, Known) and (theirs.origin is None or math.prod(theirs.shape) <= LARGEST_PATTERN)
        if isinstance(view, View) and not dense and isinstance(equation.inputs[mine], Var):
            zero = zeros(theirs, facts)
            if zero:
                names = dict(zip((*batch[other], *contracted[other]), (*batch[mine], *contracted[mine]), strict=True))
                outs = {a: first_free[other] + i for i, a in enumerate(free[other])}
                found[mine] = past(view, zero.complement, names, outs)
    constant = facts.of(equation.outputs[result]).constant  # where one operand is zero all along
    return [Where(view, constant.complement) if view is not None and constant else view for view in found]


def past(view: View, held: Pattern, names: Mapping[int, int], outs: Mapping[int, int]) -> Seen:
    """A view of one operand through the entries that are not zero of the other.

    Args:
        view: how the operand is seen if nothing is zero.
        held: the entries of the other operand that are not zero.
        names: which axis of the other operand is which of this one, batch and contracted axes.
        outs: which free axis of the other operand is which of the result.
    """
    rows = [a for a in held.axes if a in outs]
    columns = [a for a in held.axes if a not in outs]
    if not columns:
        return view  # a row that is zero as a whole gives a result that is constant
    axes = list(view.axes)
    if len(columns) == 1 and len(rows) <= 1 and axes[names[columns[0]]] == WHOLE:
        (column,) = columns
        if not rows:
            axes[names[column]] = Fixed(held.held.row(0))
        else:
            (row,) = rows
            axes[names[column]] = Lookup(outs[row], held.renamed({row: 0, column: 1}).held)
        return View(tuple(axes), view.guards)
    line = {a: i - len(rows) for i, a in enumerate(rows)}  # free axes first, under negative names
    return Through(view, held.renamed(line | dict(names)), tuple(outs[a] for a in rows))


def without_zeros(equation: Equation, boxes: Sequence[Box], facts: Facts) -> Sequence[Box]:
    """A sum of products without those in which a factor is zero."""
    contracted, _ = equation.params["dimension_numbers"]
    cut = [list(box) for box in boxes]
    seen = [
        visible(box, zeros(a, facts), axes) for a, box, axes in zip(equation.inputs, boxes, contracted, strict=True)
    ]
    for left, right in zip(*contracted, strict=True):
        both = seen[0][left].meet(seen[1][right])
        if both:
            cut[0][left] = cut[1][right] = both
    return [tuple(box) for box in cut]


sharpens("dot_general", through_zeros)
trims("dot_general", without_zeros)


def _through(matrix: Atom, contracted: Sequence[int], free: dict[int, int]) -> Iterator[AxisView]:
    """Contracted axes seen through the zeros of a known array: each along the free axis that shows most of them, if any does.

    An array of zeros only is silent, not blind: taken as dense.
    """
    held = _not_zero(matrix)
    dense, left = bool(held.all() or not held.any()), dict(free)
    for axis in contracted:
        patterns = {} if dense else {a: _pattern(held, a, axis) for a in left}
        a = min(patterns, key=lambda a: patterns[a].mean(), default=None)
        if a is not None and not patterns[a].all():
            yield Lookup(left.pop(a), IntervalRows.of(patterns[a]))
        else:
            some = _pattern(held, axis) if not dense else held
            yield WHOLE if some.all() or dense else Fixed(Points.among(np.flatnonzero(some)))


def _pattern(held: np.ndarray, *axes: int) -> np.ndarray:
    """True where some entry with these indices is."""
    return np.asarray(np.moveaxis(held, axes, range(len(axes))).any(tuple(range(len(axes), held.ndim))))


def _not_zero(matrix: Atom) -> np.ndarray:
    """Where a known array is not zero but for rounding; True where that cannot be told.

    Weights of a resize are computed from positions, so that the rounding of a zero is that of the greatest position.
    """
    value = matrix.concrete if isinstance(matrix, Known) and math.prod(matrix.shape) <= LARGEST_PATTERN else None
    if value is None:
        return np.ones((1,) * len(matrix.shape), bool)
    size = np.abs(value)
    exact = not np.issubdtype(size.dtype, np.floating)
    return np.asarray(size > (0 if exact else max(size.shape) * np.finfo(size.dtype).eps * size.max(initial=0)))


def whole_matrices(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Leading axes are batches; the axes of the matrices, and of vectors beside them, are seen whole."""
    batch = max(len(atom.shape) for atom in equation.inputs) - 2
    return [View(tuple(Along(a) if a < batch else WHOLE for a in range(len(atom.shape)))) for atom in equation.inputs]


def solve(equation: Equation, result: int) -> Sequence[Seen | None]:
    """As above, but every column of the right-hand side (every row, where it stands on the left) has a solution of its own."""
    rank = len(equation.outputs[0].shape)
    alone = rank - 1 if equation.params.get("left_side", True) else rank - 2
    *matrices, _ = whole_matrices(equation, result)
    return [*matrices, View(tuple(Along(a) if a < rank - 2 or a == alone else WHOLE for a in range(rank)))]


def same_contraction(equation: Equation, boxes: Sequence[Box]) -> Sequence[Box]:
    """A known matrix of which a window sees some rows only is cut to these rows; elsewhere nothing changes."""
    contracted, _ = equation.params["dimension_numbers"]
    cut = [list(box) for box in boxes]
    for side, atom in enumerate(equation.inputs):
        if isinstance(atom, Known):
            for mine, theirs in zip(contracted[side], contracted[1 - side], strict=True):
                cut[side][mine] = boxes[1 - side][theirs]
    return [tuple(box) for box in cut]


def channel_axes(equation: Equation, operand: int) -> tuple[int, ...]:
    """The axes of a weight that are no taps: the channels of a convolution's kernel, all axes of a matrix."""
    spec = getattr(equation.params["dimension_numbers"], "rhs_spec", None)
    if spec is None or operand != 1:
        return tuple(range(len(equation.inputs[operand].shape)))
    return tuple(sorted(spec[:2]))


def partners(equation: Equation, operand: int) -> int:
    """How many entries the other operand has, of those that one use of this operand multiplies: its channels, per stride."""
    numbers, other = equation.params["dimension_numbers"], equation.inputs[1 - operand].shape
    if not hasattr(numbers, "rhs_spec"):
        contracted, batch = numbers
        return math.prod(other[a] for a in (*contracted[1 - operand], *batch[1 - operand]))
    spec = numbers.lhs_spec if operand == 1 else numbers.rhs_spec
    return other[spec[1]] * (math.prod(equation.params["window_strides"]) if operand == 1 else 1)


def batched(equation: Equation) -> float:
    """How many multiplications a dot product takes that is one of many small ones, with batch axes; 0 for all else.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from erfjax.tracing import trace
        >>> from erfjax.tracing.rules.contraction import batched
        >>> dot = lambda shape: trace(lambda x: x @ x, jax.ShapeDtypeStruct(shape, jnp.float32)).equations[0]
        >>> batched(dot((3, 4, 4))), batched(dot((4, 4)))
        (192.0, 0.0)
    """
    if equation.primitive is not lax.dot_general_p:
        return 0.0
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    (out,), (left, _) = equation.outputs, equation.inputs
    if math.prod(left.shape[a] for a in batch) <= 1:
        return 0.0
    return float(math.prod(out.shape)) * math.prod(left.shape[a] for a in contracted)


def dot_axes(equation: Equation, operand: int) -> tuple[Sequence[int], ...]:
    """Of a dot product: the contracted axes of an operand and of its partner, then the batch axes of these."""
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    return (left, right, left_batch, right_batch) if operand == 0 else (right, left, right_batch, left_batch)


def tap_axes(equation: Equation, operand: int) -> dict[int, int] | None:
    """Axis of the other operand -> axis of the weight along which its taps lie; None if the weight is what kernels slide over."""
    numbers = equation.params["dimension_numbers"]
    spec = getattr(numbers, "rhs_spec", None)
    if spec is None:
        return {}
    return dict(zip(numbers.lhs_spec[2:], spec[2:], strict=True)) if operand == 1 else None


def accumulated(equation: Equation, operands: Sequence[Any]) -> Any:
    """The precision in which a contraction adds up: its own, or that of operands that are wider than the equation says.

    A walk may evaluate an equation of a half-precision model in single precision.
    """
    wanted = equation.params["preferred_element_type"]
    kept = all(value.dtype == atom.dtype for value, atom in zip(operands, equation.inputs, strict=True))
    return wanted if kept or wanted is None else functools.reduce(wider, (value.dtype for value in operands), wanted)


def dot_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    """The same contraction of whatever lies in the windows."""
    element = accumulated(equation, operands)
    return bind(equation, result, operands, boxes, box, preferred_element_type=element)


row(
    "dot_general",
    Rule(
        hull=dot_general, restrict=WindowRule(dot_on_window, narrow=same_contraction), moment=Kind.BILINEAR, layer=True
    ),
)
row(
    "cholesky cholesky_update eig eigh hessenberg householder_product lu ormqr qr schur svd symmetric_product tridiagonal",
    Rule(hull=whole_matrices, layer=True),
)
row("triangular_solve tridiagonal_solve", Rule(hull=solve, layer=True))
