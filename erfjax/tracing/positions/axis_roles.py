"""Which axis of a hidden array runs along which axis of the input, how many pixels it takes per position, and from where.

A forward pass over the same views as the hull walk: if operand axis i moves when result axis o moves, then o plays the part
that i plays. Hidden arrays need no layout of their own then: a layer's unit is its centre along the axes that play a part.
An axis of tokens plays the parts of all the axes that were flattened into it, row by row.
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

from erfjax.tracing import registry
from erfjax.tracing.positions.access import Along, Identity, IrregularError, Mapping, Seen, View
from erfjax.tracing.positions.hull import Views
from erfjax.tracing.program.equations import Atom, Program, Var


@dataclasses.dataclass(frozen=True)
class Role:
    """Axis `axis` of the input, `stride` pixels per position, the first centred on pixel `first`.

    `stride` and `first` are None where paths disagree about them.
    """

    axis: int
    stride: Fraction | None
    first: Fraction | None = Fraction(0)


@dataclasses.dataclass(frozen=True)
class Flattened:
    """Several axes in one, in reading order: position p is place p - offset of a grid of `sizes`, whose axes play `parts`."""

    parts: tuple[Role | None, ...]
    sizes: tuple[int, ...]
    offset: int = 0

    @property
    def axis(self) -> None:
        """No single axis of the input."""
        return None

    def places(self, position: int) -> tuple[int, ...] | None:
        """Where in the grid a position is; None for one outside it (a class token)."""
        at = position - self.offset
        if not 0 <= at < math.prod(self.sizes):
            return None
        places = []
        for size in reversed(self.sizes):
            at, place = divmod(at, size)
            places.append(place)
        return tuple(reversed(places))


Played = Role | Flattened | None
Roles = tuple[Played, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """An input axis as it is seen along axis `along` of an array: the pixels per position, and how positions are counted."""

    along: int
    role: Role
    flattened: Flattened | None = None
    index: int = 0

    def position(self, unit: int) -> int | None:
        """The position along the input axis of a position along the array's; None for a class token."""
        if self.flattened is None:
            return unit
        places = self.flattened.places(unit)
        return None if places is None else places[self.index]

    def centre(self, unit: int) -> float | None:
        """The pixel on which a position is centred."""
        at = self.position(unit)
        if at is None or self.role.stride is None or self.role.first is None:
            return None
        return float(self.role.first + at * self.role.stride)


def parts(played: Roles) -> dict[int, Part]:
    """For each input axis that an array runs along, how."""
    found: dict[int, Part] = {}
    for a, role in enumerate(played):
        if isinstance(role, Role):
            found[role.axis] = Part(a, role)
        elif isinstance(role, Flattened):
            found |= {part.axis: Part(a, part, role, i) for i, part in enumerate(role.parts) if part is not None}
    return found


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
                if isinstance(atom, Var) and atom in found and view is not None:
                    played = _merge(played, _through(view, found[atom], atom.shape, output.shape))
            found[output] = played
    return found


def _through(view: Seen, operand: Roles, shape: Sequence[int], result: Sequence[int]) -> Roles:
    if isinstance(view, Identity):
        return operand
    if isinstance(view, Mapping) and view.groups:
        return _regrouped(view, operand, shape, result)
    rank = len(result)
    played: list[Played] = [None] * rank
    for axis in range(rank):
        unit = tuple(Fraction(int(a == axis)) for a in range(rank))
        for a, role in enumerate(operand):
            if isinstance(role, Role):
                played[axis] = _moved(view, a, role, unit) or played[axis]
            elif isinstance(role, Flattened) and isinstance(view, View):
                seen = view.axes[a]
                if isinstance(seen, Along) and seen.out == axis and seen == Along(axis, offset=seen.offset):
                    played[axis] = dataclasses.replace(role, offset=role.offset - seen.offset)
    return tuple(played)


def _regrouped(view: Mapping, operand: Roles, shape: Sequence[int], result: Sequence[int]) -> Roles:
    """Through a reshape: axes that merge are one flattened axis, which splits into them again; of others the first moves."""
    played: list[Played] = [None] * len(result)
    for ins, outs in view.groups:
        lead, wide = [a for a in ins if operand[a] is not None], [o for o in outs if result[o] != 1]
        if not lead or not wide:
            continue
        (role, *others), out = [operand[a] for a in lead], wide[0]
        sizes = tuple(result[o] for o in wide)
        inner = math.prod(sizes[1:]), math.prod(shape[a] for a in ins if a > lead[0])
        plain = [part for part in (role, *others) if isinstance(part, Role)]
        if others and len(wide) == 1 and len(plain) == len(lead) == len([a for a in ins if shape[a] != 1]):
            played[out] = Flattened(tuple(plain), tuple(shape[a] for a in lead))
        elif isinstance(role, Flattened) and not others:
            if (role.sizes, role.offset) == (sizes, 0):
                for o, part in zip(wide, role.parts, strict=True):
                    played[o] = part
            elif len(wide) == len([a for a in ins if shape[a] != 1]) == 1:
                played[out] = role
        elif isinstance(role, Role) and not others and lead[0] == next(a for a in ins if shape[a] != 1 or a == lead[0]):
            step = Fraction(inner[0], inner[1])
            played[out] = _scaled(role, step, (step - 1) / 2 if step > 1 else None if step < 1 else Fraction(0))
    return tuple(played)


def _scaled(role: Role, step: Fraction, centre: Fraction | None) -> Role:
    """The role of an axis of which a position takes `step` positions of this one, the first centred on `centre`."""
    if role.stride is None:
        return Role(role.axis, None, None)
    first = None if role.first is None or centre is None else role.first + role.stride * centre
    return Role(role.axis, role.stride * step, first)


def _moved(view: Seen, a: int, role: Role, unit: tuple[Fraction, ...]) -> Role | None:
    """The role that passes through operand axis `a` when the result moves by `unit`; what a view cuts off is overlooked."""
    try:
        by = view.axes[a].shift(unit, []) if isinstance(view, View) else view.shift(unit, [])[a]
    except IrregularError:
        return Role(role.axis, None, None) if isinstance(view, View) else None
    if not by:
        return None
    seen = view.axes[a] if isinstance(view, View) else None
    if isinstance(seen, Along):
        return _scaled(role, by, Fraction(2 * seen.offset + (seen.size - 1) * seen.dilation, 2 * seen.base))
    return _scaled(role, by, None)


def _merge(a: Roles, b: Roles) -> Roles:
    return tuple(_agreed(p, q) for p, q in zip(a, b, strict=True))


def _agreed(p: Played, q: Played) -> Played:
    """What two paths say together: nothing where they name different axes."""
    if p is None or q is None or p == q:
        return p or q
    if isinstance(p, Role) and isinstance(q, Role):
        if p.axis != q.axis:
            return None
        return Role(p.axis, p.stride if p.stride == q.stride else None, p.first if p.first == q.first else None)
    return None
