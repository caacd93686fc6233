"""Contractions: dot products, and the dense linear algebra that sees its matrices whole."""

from collections.abc import Sequence

import numpy as np

from erfjax.tracing.families import bilinear
from erfjax.tracing.points import Box
from erfjax.tracing.program import Atom, Equation, Known
from erfjax.tracing.registry import Local, Rule, bind, row
from erfjax.tracing.views import WHOLE, Along, AxisView, Lookup, Seen, View

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
        atom: Atom, batch: Sequence[int], free: dict[int, int], contracted: Sequence[int], other: AxisView
    ) -> View:
        axes: list[AxisView] = [WHOLE] * len(atom.shape)
        for i, a in enumerate(batch):
            axes[a] = Along(i)
        for a, out in free.items():
            axes[a] = Along(out)
        if len(contracted) == 1:
            axes[contracted[0]] = other
        return View(tuple(axes))

    return [
        view(left, batch_l, out_l, contract_l, _through(right, contract_r, batch_r, out_r)),
        view(right, batch_r, out_r, contract_r, _through(left, contract_l, batch_l, out_l)),
    ]


def _through(matrix: Atom, contracted: Sequence[int], batch: Sequence[int], free: dict[int, int]) -> AxisView:
    """A contracted axis seen through the zeros of a known matrix; a matrix of zeros only is silent, not blind: taken as dense."""
    if len(contracted) != 1 or batch or len(free) != 1 or not isinstance(matrix, Known):
        return WHOLE
    if np.prod(matrix.shape) > LARGEST_PATTERN or matrix.concrete is None:
        return WHOLE
    ((axis, out),) = free.items()
    pattern = np.moveaxis(np.asarray(matrix.concrete), axis, 0) != 0
    return WHOLE if pattern.all() or not pattern.any() else Lookup(out, pattern)


def whole_matrices(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Leading axes are batches; the last axes that the result does not share are seen whole."""
    rank = len(equation.outputs[result].shape)

    def axis(a: int, n: int) -> AxisView:
        return Along(a) if a < min(n - 2, rank) else WHOLE

    return [View(tuple(axis(a, len(atom.shape)) for a in range(len(atom.shape)))) for atom in equation.inputs]


def same_contraction(equation: Equation, boxes: Sequence[Box]) -> Sequence[Box]:
    """A known matrix of which a window sees some rows only is cut to these rows; elsewhere nothing changes."""
    contracted, _ = equation.params["dimension_numbers"]
    cut = [list(box) for box in boxes]
    for side, atom in enumerate(equation.inputs):
        if isinstance(atom, Known):
            for mine, theirs in zip(contracted[side], contracted[1 - side], strict=True):
                cut[side][mine] = boxes[1 - side][theirs]
    return [tuple(box) for box in cut]


row("dot_general", Rule(hull=dot_general, restrict=Local(bind, narrow=same_contraction), moment=bilinear, layer=True))
row(
    "cholesky eig eigh householder_product lu qr svd schur hessenberg triangular_solve tridiagonal tridiagonal_solve",
    Rule(hull=whole_matrices, layer=True),
)
