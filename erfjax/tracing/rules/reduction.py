"""Reductions and whatever else sees one or several of its axes whole: sums, extrema, sorting, transforms."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from erfjax.tracing.positions.access import SCALAR, WHOLE, Along, Seen, View
from erfjax.tracing.positions.index_sets import Box, Points
from erfjax.tracing.positions.known_values import Facts
from erfjax.tracing.positions.through_zeros import sharpens, trims, visible
from erfjax.tracing.positions.zero_views import Onto
from erfjax.tracing.program.equations import Equation
from erfjax.tracing.registry import SAME, Hull, Rule, WindowRule, bind, row
from erfjax.tracing.second_moments.kinds import Choice, Kind
from erfjax.tracing.windows.cone import Step


def reduce(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Reduced axes are seen whole and disappear."""
    gone = set(equation.params.get("axes", equation.params.get("dimensions", ())))
    rank = len(equation.outputs[result].shape) + len(gone)

    def view() -> View:
        kept = itertools.count()
        return View(tuple(WHOLE if a in gone else Along(next(kept)) for a in range(rank)))

    return [view() if len(atom.shape) == rank else SCALAR for atom in equation.inputs]


def where_not_low(equation: Equation, result: int, seen: Sequence[Seen | None], facts: Facts) -> Sequence[Seen | None]:
    """The greatest of several numbers is none of those that are low, unless all are."""
    axes, atom, view = equation.params["axes"], equation.inputs[0], seen[0]
    fact = facts.of(atom)
    hidden = fact.low.minus(fact.low.without(axes, every=True))
    return seen if view is None or not hidden else [Onto(view, hidden.complement)]


def without_zeros(equation: Equation, boxes: Sequence[Box], facts: Facts) -> Sequence[Box]:
    """A sum without what is zero."""
    return [visible(boxes[0], facts.of(equation.inputs[0]).mask, equation.params["axes"])]


def without_low(equation: Equation, boxes: Sequence[Box], facts: Facts) -> Sequence[Box]:
    """A maximum without what is low, unless all is."""
    axes, fact = equation.params["axes"], facts.of(equation.inputs[0])
    return [visible(boxes[0], fact.low.minus(fact.low.without(axes, every=True)), axes)]


sharpens("reduce_max argmax", where_not_low)
trims("reduce_sum", without_zeros)
trims("reduce_max", without_low)


def whole_axes(equation: Equation, axes: Sequence[int]) -> Sequence[Seen | None]:
    """The axes named are seen whole and stay; all operands are mixed."""
    rank = len(equation.outputs[0].shape)
    seen = View(tuple(WHOLE if a in axes else Along(a) for a in range(rank)))
    return [seen if len(atom.shape) == rank else SCALAR for atom in equation.inputs]


def sort(equation: Equation, result: int) -> Sequence[Seen | None]:
    return whole_axes(equation, (equation.params["dimension"],))


def permutation(equation: Equation, result: int) -> Sequence[Seen | None]:
    """The pivots of a matrix, which lie along the last axis, make one permutation."""
    return whole_axes(equation, (len(equation.outputs[0].shape) - 1,))


def top_k(equation: Equation, result: int) -> Sequence[Seen | None]:
    """The last axis in every JAX before `axis` was a parameter."""
    return whole_axes(equation, (equation.params.get("axis", len(equation.outputs[0].shape) - 1),))


def fft(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Global on the transformed axes, which are the last ones."""
    rank = len(equation.outputs[0].shape)
    return whole_axes(equation, range(rank - len(equation.params["fft_lengths"]), rank))


def inverts(equation: Equation) -> bool:
    """Whether an equation is an inverse Fourier transform."""
    kind = equation.params.get("fft_type") if equation.primitive is lax.fft_p else None
    return kind in (lax.FftType.IFFT, lax.FftType.IRFFT)


def along(hull: Hull) -> Callable[[Equation, Box], Box]:
    """Enlarges a box to all of the axes that the primitive mixes."""

    def enlarge(equation: Equation, box: Box) -> Box:
        mixed = hull(equation, 0)[0].axes  # type: ignore[union-attr]
        shape = equation.outputs[0].shape
        return tuple(Points(0, n) if m is WHOLE else p for p, n, m in zip(box, shape, mixed, strict=True))

    return enlarge


def mean_of_axes(step: Step, array: Any) -> tuple[Any, Any]:
    """The mean over the axes that are reduced, and how many entries that are."""
    axes = step.equation.params["axes"]
    return jnp.mean(array, axes), math.prod(array.shape[a] for a in axes)


row("reduce_sum", Rule(hull=reduce, restrict=SAME, moment=Kind.TOTAL))
row(
    "psum", Rule(hull=reduce, restrict=SAME, moment=Kind.TOTAL)
)  # over a named axis of vmap, which then is one of the array
row("pmax pmin", Rule(hull=reduce, restrict=SAME))
row("reduce_max", Rule(hull=reduce, restrict=SAME, moment=Choice(mean_of_axes)))
row("reduce_min", Rule(hull=reduce, restrict=SAME, moment=Choice(mean_of_axes, -1)))
row("reduce_and reduce_or reduce_xor argmax argmin", Rule(hull=reduce, restrict=SAME, moment=Kind.SILENT))
row("reduce reduce_prod", Rule(hull=reduce, restrict=SAME))
row("lu_pivots_to_permutation", Rule(hull=permutation, moment=Kind.SILENT))
row("sort", Rule(hull=sort, restrict=WindowRule(bind, along(sort)), moment=Choice(), layer=True))
row("top_k approx_top_k", Rule(hull=top_k, restrict=WindowRule(bind, along(top_k)), moment=Choice(), layer=True))
row("fft", Rule(hull=fft, restrict=WindowRule(bind, along(fft)), layer=True))
