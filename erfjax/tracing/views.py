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

import numpy as np

from erfjax.tracing.points import EMPTY, EVERYWHERE, Box, Points
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
    """The positions that a known table lists: `pattern[o, i]` is True where result o needs operand i."""

    out: int
    pattern: np.ndarray

    def pull(self, box: Box) -> Points:
        held = box[self.out].clip(0, len(self.pattern))
        return Points.of(0, self.pattern[held.positions].any(axis=0)) if held else EMPTY

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> Shift:
        by = shifts[self.out]
        if not by:
            return by
        period, moved = self._period()
        whole.append(by / period)
        return by * moved / period

    def _period(self) -> tuple[int, int]:
        """The smallest p such that the row of o + p is the row of o moved by q, for all rows that touch no border."""
        inner = np.flatnonzero(~self.pattern[:, 0] & ~self.pattern[:, -1] & self.pattern.any(axis=1))
        low, high = (int(inner[0]), int(inner[-1]) + 1) if inner.size else (0, 0)
        first, columns = self.pattern.argmax(axis=1), self.pattern.shape[1]
        for period in range(1, (high - low) // 2 + 1):
            moved = int(first[low + period] - first[low])
            a, b = self.pattern[low : high - period], self.pattern[low + period : high]
            kept = (a[:, : columns - moved], b[:, moved:]) if moved >= 0 else (a[:, -moved:], b[:, :moved])
            if np.array_equal(*kept):
                return period, moved
        raise IrregularError


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
    """Anything else: two functions."""

    pull: Callable[[Box], Iterable[Box]]
    shift: Callable[[Sequence[Shift], list[Fraction]], tuple[Shift, ...]]


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


def irregular(shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
    """The shift of a Mapping that follows no axis."""
    raise IrregularError
