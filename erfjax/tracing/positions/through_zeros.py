"""The hull walk past known zeros: views that leave out what a result cannot depend on.

An operand is not seen where the result is a constant although the operand is not (a masked score), nor where it is multiplied
by zero (a value beside a zero weight of attention, a tap of a masked kernel). Facts come from `known_values`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.access import Seen
from erfjax.tracing.positions.hull import Views, remembered
from erfjax.tracing.positions.index_sets import Box, Points, shadow
from erfjax.tracing.positions.known_values import Facts
from erfjax.tracing.positions.pattern import FEW, MANY, Pattern
from erfjax.tracing.positions.separate import Separate
from erfjax.tracing.positions.zero_views import Onto, Through, Where
from erfjax.tracing.program.equations import Atom, Equation, Known, Program

Follow = Literal["values", "gradients"]

Sharpen = Callable[[Equation, int, Sequence[Seen | None], Facts], Sequence[Seen | None]]
_SHARPENED: dict[Any, Sharpen] = {}


def sharpens(names: str, sharpen: Sharpen) -> None:
    """Teaches the walk to look past zeros at some primitives: (equation, result, views, facts) -> better views."""
    _SHARPENED.update(dict.fromkeys(jx.named(names), sharpen))


def past_zeros(views: Views, facts: Facts, program: Program, spatial: Sequence[int]) -> Views:
    """The same views, without what known zeros hide.

    A mask over several axes is cut into as many boxes as it takes; into a few where its shadows on the axes say the same.

    Args:
        views: how equations are seen if no value is known.
        facts: what is known to be zero.
        program: the program whose equations are asked for.
        spatial: the axes of its input that a field is about.
    """

    @remembered
    def sharp(equation: Equation, result: int) -> Sequence[Seen | None]:
        seen, sharpen = views(equation, result), _SHARPENED.get(equation.primitive)
        return seen if sharpen is None else sharpen(equation, result, seen, facts)

    separate = Separate(program, sharp, spatial)

    def look(equation: Equation, result: int) -> Sequence[Seen | None]:
        output = equation.outputs[result]
        return [
            None if view is None else _cut(view, output, atom, separate)
            for view, atom in zip(sharp(equation, result), equation.inputs, strict=True)
        ]

    return look


def _cut(view: Seen, output: Atom, atom: Atom, separate: Separate) -> Seen:
    """The view, its mask cut into many boxes where that matters."""
    if isinstance(view, Through):
        return dataclasses.replace(view, most=FEW if separate(atom, view.pattern) else MANY)
    if isinstance(view, Where | Onto):
        few = separate(output, view.seen, view.view, atom) if isinstance(view, Where) else separate(atom, view.seen)
        inner = _cut(view.view, output, atom, separate)
        return dataclasses.replace(view, view=inner, most=FEW if few else MANY)
    return view


Trim = Callable[[Equation, Sequence[Box], Facts], Sequence[Box]]
_TRIMMED: dict[Any, Trim] = {}


def trims(names: str, trim: Trim) -> None:
    """Teaches windows to leave out terms that are zero: (equation, boxes of the operands, facts) -> smaller boxes."""
    _TRIMMED.update(dict.fromkeys(jx.named(names), trim))


def trimmed(equation: Equation, boxes: Sequence[Box | None], facts: Facts | None) -> list[Box | None]:
    """The boxes of the operands without what adds nothing to the result; each stays an interval."""
    trim = _TRIMMED.get(equation.primitive)
    held = [box for box in boxes if box is not None]
    if facts is None or trim is None or len(held) < len(boxes):
        return list(boxes)
    return list(trim(equation, held, facts))


def visible(box: Box, hidden: Pattern, axes: Sequence[int]) -> Box:
    """A box, cut along the axes named to what is not hidden; as it is where nothing is left."""
    left = hidden.complement.within(box) if hidden else []
    if not left:
        return box
    around = shadow(tuple(left))
    return tuple(Points(around[a].start, around[a].stop) if a in axes else p for a, p in enumerate(box))


STOPS = {jx.lax_primitive(f"{name}_p") for name in ("stop_gradient", "ceil", "floor", "round", "sign")}


def gradients(views: Views) -> Views:
    """The same views, without what passes a value but no gradient: `stop_gradient`, steps, integers and truth values."""

    def look(equation: Equation, result: int) -> Sequence[Seen | None]:
        if equation.primitive in STOPS or not jnp.issubdtype(equation.outputs[result].dtype, jnp.inexact):
            return [None] * len(equation.inputs)
        return [
            view if jnp.issubdtype(atom.dtype, jnp.inexact) else None
            for atom, view in zip(equation.inputs, views(equation, result), strict=True)
        ]

    return look


def where_not_constant(
    equation: Equation, result: int, seen: Sequence[Seen | None], facts: Facts
) -> Sequence[Seen | None]:
    """Operands of an elementwise primitive are not seen where the result is a constant and they are not."""
    constant = facts.of(equation.outputs[result]).constant
    if not constant:
        return seen
    found = list(seen)
    for i, (atom, view) in enumerate(zip(equation.inputs, seen, strict=True)):
        if view is not None and not isinstance(atom, Known):
            hidden = constant.minus(facts.of(atom).constant)
            found[i] = Where(view, hidden.complement) if hidden else view
    return found


def where_chosen(equation: Equation, result: int, seen: Sequence[Seen | None], facts: Facts) -> Sequence[Seen | None]:
    """A case is not seen where another is known to be taken."""
    which, *cases = equation.inputs
    taken = facts.of(which).pieces
    found = list(where_not_constant(equation, result, seen, facts))
    for k, atom in enumerate(cases):
        view = found[1 + k]
        if view is not None and not isinstance(atom, Known):
            for other, where in taken.items():
                view = Where(view, where.complement) if other != k else view
            found[1 + k] = view
    return found


def where_greater(equation: Equation, result: int, seen: Sequence[Seen | None], facts: Facts) -> Sequence[Seen | None]:
    """The greater of two numbers is not the one that is low, unless both are."""
    lows = [facts.of(atom).low for atom in equation.inputs]
    found = list(where_not_constant(equation, result, seen, facts))
    for k, view in enumerate(found):
        hidden = lows[k].minus(lows[1 - k])
        found[k] = Where(view, hidden.complement) if view is not None and hidden else view
    return found


sharpens("mul div add add_any sub and or min exp exp2 logistic", where_not_constant)
sharpens("select_n", where_chosen)
sharpens("max", where_greater)
