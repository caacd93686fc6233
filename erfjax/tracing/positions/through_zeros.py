"""The hull walk past known zeros: views that leave out what a result cannot depend on.

An operand is not seen where the result is a constant although the operand is not (a masked score), nor where it is multiplied
by zero (a value beside a zero weight of attention, a tap of a masked kernel). Facts come from `known_values`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Literal

import jax.numpy as jnp

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.access import Seen, Shift
from erfjax.tracing.positions.hull import Views
from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.positions.known_values import Facts
from erfjax.tracing.positions.pattern import Pattern, rest
from erfjax.tracing.program.equations import Equation, Known

Follow = Literal["values", "gradients"]


@dataclasses.dataclass(frozen=True)
class Where:
    """A view through those positions of the result only that are in a pattern."""

    view: Seen
    seen: Pattern

    def pull(self, box: Box) -> Iterable[Box]:
        for part in rest(self.seen, box):
            yield from self.view.pull(part)

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        return self.view.shift(shifts, whole)


@dataclasses.dataclass(frozen=True)
class Onto:
    """A view of those positions of the operand only that are in a pattern."""

    view: Seen
    seen: Pattern

    def pull(self, box: Box) -> Iterable[Box]:
        for part in self.view.pull(box):
            yield from rest(self.seen, part)

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        return self.view.shift(shifts, whole)


Sharpen = Callable[[Equation, int, Sequence[Seen | None], Facts], Sequence[Seen | None]]
_SHARPENED: dict[Any, Sharpen] = {}


def sharpens(names: str, sharpen: Sharpen) -> None:
    """Teaches the walk to look past zeros at some primitives: (equation, result, views, facts) -> better views."""
    for name in names.split():
        primitive = jx.lax_primitive(f"{name}_p")
        if primitive is not None:
            _SHARPENED[primitive] = sharpen


def past_zeros(views: Views, facts: Facts) -> Views:
    """The same views, without what known zeros hide."""

    def look(equation: Equation, result: int) -> Sequence[Seen | None]:
        seen, sharpen = views(equation, result), _SHARPENED.get(equation.primitive)
        return seen if sharpen is None else sharpen(equation, result, seen, facts)

    return look


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
