"""How an operand is seen through an equation: for each operand axis, which positions a box of the result needs.

Nearly every primitive treats its axes one by one, so nearly every rule is a row of axis descriptors:

* `Along(out, size, stride, dilation, offset, base)`: i·base = o·stride + t·dilation + offset, t < size. The identity, a slice, a
  convolution, a pooling window, a pad, a reversal and a transposed convolution are this one equation.
* `WHOLE`: the axis is seen globally. `Fixed`: the same positions whatever is asked. `Lookup`: a known table of indices.

A `View` puts them together. What does not separate into axes (reshape, gathers over a grid) subclasses nothing: it offers the
same two methods. `pull` maps a box of the result to boxes of the operand. `shift` says how far the operand moves when the
result moves, as exact fractions: from their denominators follows the period of a field that varies with the unit.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Protocol, runtime_checkable

from erfjax.tracing.positions.index_sets import EVERYWHERE, Box, Points
from erfjax.tracing.positions.interval_rows import IntervalRows
from erfjax.tracing.positions.tables import table
from erfjax.typing import Extent

Shift = Fraction | None
"""How far an axis moves per unit of the output; None on an axis that is seen whole, where every move is the same."""


class IrregularError(Exception):
    """No finite shift of the result shifts the operand as one: the field has no period."""


@runtime_checkable
class Seen(Protocol):
    """The two questions a walk asks."""

    def pull(self, box: Box) -> Iterable[Box]: ...

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        """The shift of the operand; `whole` collects fractions that the period must turn into integers."""
        ...


@dataclasses.dataclass(frozen=True)
class Along:
    """Operand positions i with i·base = o·stride + t·dilation + offset for 0 ≤ t < size, where o runs along result axis `out`."""

    out: int
    size: int = 1
    stride: int = 1
    dilation: int = 1
    offset: int = 0
    base: int = 1

    def pull(self, box: Box) -> Points:
        points = box[self.out]
        if self.size == self.stride == self.base == 1:
            return points.shift(self.offset)
        return points.window(self.size, self.stride, self.dilation, self.offset, self.base)

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> Shift:
        by = shifts[self.out]
        return None if by is None else by * self.stride / self.base


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The same positions whatever is asked."""

    points: Points

    def pull(self, box: Box) -> Points:
        return self.points

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> Shift:
        return None if self.points == EVERYWHERE else Fraction(0)


WHOLE = Fixed(EVERYWHERE)
ONLY = Fixed(Points(0, 1))
"""An operand axis of one position, which every position of the result needs."""


@dataclasses.dataclass(frozen=True)
class Prefix:
    """All positions up to the one asked for (or from it on): cumulative operations."""

    out: int
    reverse: bool

    def pull(self, box: Box) -> Points:
        points = box[self.out]
        return Points(points.start, EVERYWHERE.stop) if self.reverse else Points(EVERYWHERE.start, points.stop)

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> Shift:
        return shifts[self.out]


@dataclasses.dataclass(frozen=True)
class Lookup:
    """The positions that a known table lists: row o of `pattern` holds the positions i that result o needs.

    `cut` says whether rows of the table may be cut by the border of the operand: then they follow the law of the others.
    """

    out: int
    pattern: IntervalRows
    cut: bool = True

    def pull(self, box: Box) -> Points:
        return table(self.pattern, self.cut).pull(box[self.out])

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> Shift:
        by, law = shifts[self.out], table(self.pattern, self.cut).law
        if not by:
            return by
        if law is None:
            raise IrregularError
        period, moved = law
        whole.append(by / period)
        return by * moved / period


AxisView = Along | Fixed | Prefix | Lookup
Guard = tuple[int, Extent, Extent]


@dataclasses.dataclass(frozen=True)
class View:
    """One descriptor per operand axis; `guards` (axis, start, stop) cut the box of the result first (concatenation)."""

    axes: tuple[AxisView, ...]
    guards: tuple[Guard, ...] = ()

    def pull(self, box: Box) -> Iterable[Box]:
        for axis, start, stop in self.guards:
            held = box[axis].clip(start, stop)
            if not held:
                return ()
            box = (*box[:axis], held, *box[axis + 1 :])
        return (tuple(axis.pull(box) for axis in self.axes),)

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        if any(shifts[axis] for axis, _, _ in self.guards):
            raise IrregularError
        return tuple(axis.shift(shifts, whole) for axis in self.axes)


class Identity:
    """The operand is seen position by position: the box passes unchanged."""

    def pull(self, box: Box) -> Iterable[Box]:
        return (box,)

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        return tuple(shifts)


IDENTITY = Identity()
SCALAR = View(())
"""A scalar operand: it has no axes, and every position needs it."""


@dataclasses.dataclass(frozen=True)
class Mapping:
    """Anything else: two functions. A reshape says which runs of operand axes become which runs of result axes."""

    pull: Callable[[Box], Iterable[Box]]
    shift: Callable[[Sequence[Shift], list[Fraction]], tuple[Shift, ...]]
    groups: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()


@dataclasses.dataclass(frozen=True)
class Then:
    """One view after the other: the first from the result to something between, the second from there to the operand."""

    first: Seen
    second: Seen

    def pull(self, box: Box) -> Iterable[Box]:
        for between in self.first.pull(box):
            yield from self.second.pull(between)

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        return self.second.shift(self.first.shift(shifts, whole), whole)
