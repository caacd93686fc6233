"""Which axis of a hidden array runs along which axis of the input, and how many pixels it takes per position.

A forward pass over the same views as the hull walk: if operand axis i moves when result axis o moves, then o plays the part
that i plays. Hidden arrays need no layout of their own then: a layer's unit is its centre along the axes that play a part.
"""

import dataclasses
from fractions import Fraction

from erfjax.tracing import registry
from erfjax.tracing.positions.access import IrregularError, Seen, View
from erfjax.tracing.positions.hull import Views
from erfjax.tracing.program.equations import Atom, Program, Var


@dataclasses.dataclass(frozen=True)
class Role:
    """Axis `axis` of the input, `stride` pixels per position; None where paths disagree about the stride."""

    axis: int
    stride: Fraction | None


Roles = tuple[Role | None, ...]


def roles(program: Program, views: Views) -> dict[Atom, Roles]:
    """The roles of the axes of every variable; None for an axis along which nothing moves (channels, batch, new axes)."""
    source = program.input
    found: dict[Atom, Roles] = {source: tuple(Role(axis, Fraction(1)) for axis in range(len(source.shape)))}
    for equation in program.equations:
        for result, output in enumerate(equation.outputs):
            played: Roles = (None,) * len(output.shape)
            if registry.bodies(equation):
                same = [found[a] for a in equation.inputs if a in found and a.shape == output.shape]
                found[output] = same[0] if same else played
                continue
            for atom, view in zip(equation.inputs, views(equation, result), strict=True):
                if isinstance(atom, Var) and view is not None:
                    played = _merge(played, _through(view, found[atom], len(output.shape)))
            found[output] = played
    return found


def _through(view: Seen, operand: Roles, rank: int) -> Roles:
    played: list[Role | None] = [None] * rank
    for axis in range(rank):
        unit = tuple(Fraction(int(a == axis)) for a in range(rank))
        for a, role in enumerate(operand):
            if role is not None:
                played[axis] = _moved(view, a, role, unit) or played[axis]
    return tuple(played)


def _moved(view: Seen, a: int, role: Role, unit: tuple[Fraction, ...]) -> Role | None:
    """The role that passes through operand axis `a` when the result moves by `unit`; what a view cuts off is overlooked."""
    try:
        by = view.axes[a].shift(unit, []) if isinstance(view, View) else view.shift(unit, [])[a]
    except IrregularError:
        return Role(role.axis, None) if isinstance(view, View) else None
    return Role(role.axis, None if role.stride is None else role.stride * by) if by else None


def _merge(a: Roles, b: Roles) -> Roles:
    return tuple(
        (p or q) if p is None or q is None or p == q else Role(p.axis, None) if p.axis == q.axis else None
        for p, q in zip(a, b, strict=True)
    )
