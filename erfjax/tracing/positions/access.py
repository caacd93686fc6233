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
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np

from erfjax.tracing.positions.index_sets import EMPTY, EVERYWHERE, Box, Points
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
    """The positions that a known table lists: `pattern[o, i]` is True where result o needs operand i.

    Most tables follow a law: row o + p is row o moved by q. Then results beyond the table (padding of a later layer) follow it
    too, and so do the rows of a matrix (`cut`) that the border of the operand has cut, as where an image is resized.
    """

    out: int
    pattern: np.ndarray
    cut: bool = True

    def pull(self, box: Box) -> Points:
        points = box[self.out]
        if self._base is None:
            points = points.clip(0, len(self.pattern))
        elif not points.finite:
            return self._beyond(points)
        return self._rows(points.positions) if points else EMPTY

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> Shift:
        by = shifts[self.out]
        if not by:
            return by
        if self._law is None:
            raise IrregularError
        period, moved = self._law
        whole.append(by / period)
        return by * moved / period

    @functools.cached_property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Per row its first position and its kind; per kind its positions counted from the first."""
        kinds: dict[bytes, int] = {}
        first, kind = self.pattern.argmax(axis=1), np.empty(len(self.pattern), int)
        for o, row in enumerate(self.pattern):
            kind[o] = kinds.setdefault((np.flatnonzero(row) - first[o]).tobytes(), len(kinds))
        return first, kind, [np.frombuffer(offsets, int) for offsets in kinds]

    @functools.cached_property
    def _sound(self) -> tuple[int, int]:
        """The range of the rows that no border has cut."""
        if not self.cut:
            return 0, len(self.pattern)
        inner = np.flatnonzero(~self.pattern[:, 0] & ~self.pattern[:, -1] & self.pattern.any(axis=1))
        return (int(inner[0]), int(inner[-1]) + 1) if inner.size else (0, 0)

    @functools.cached_property
    def _law(self) -> tuple[int, int] | None:
        """The smallest p, and q, that all sound rows follow; None where they do not fill two periods."""
        (first, kind, _), (low, high) = self._kinds, self._sound
        for period in range(1, (high - low) // 2 + 1):
            before, after = slice(low, high - period), slice(low + period, high)
            steps = first[after] - first[before]
            if (steps == steps[0]).all() and (kind[before] == kind[after]).all():
                return period, int(steps[0])
        return None

    @functools.cached_property
    def _base(self) -> tuple[int, int] | None:
        """The range of the rows from which the law gives all others; None if it does not give those of the table."""
        columns = self.pattern.shape[1]
        low, high = self._sound
        others = (o for o in range(len(self.pattern)) if not low <= o < high)
        if self._law is None:
            return None
        by_law = ((o, self._rows(np.array([o]), self._sound).clip(0, columns)) for o in others)
        agree = all(np.array_equal(found.positions, np.flatnonzero(self.pattern[o])) for o, found in by_law)
        return self._sound if agree else None

    def _rows(self, positions: np.ndarray, base: tuple[int, int] | None = None) -> Points:
        """What the rows at some positions, at least one, need."""
        first, kind, offsets = self._kinds
        moved: Any = 0
        base = base or self._base
        if base is not None and self._law is not None:
            period, by = self._law
            periods = np.where((positions < base[0]) | (positions >= base[1]), (positions - base[0]) // period, 0)
            positions, moved = positions - periods * period, periods * by
        start, kind = first[positions] + moved, kind[positions]
        held = [np.add.outer(start[kind == k], offsets[k]).ravel() for k in np.unique(kind)]
        return Points.among(np.concatenate(held))

    def _beyond(self, points: Points) -> Points:
        """What infinitely many rows need, by the law."""
        period, moved = self._law or (1, 0)
        edge = Points(points.start, points.start + period), Points(points.stop - period, points.stop)
        if not moved:
            return self._rows(np.arange(period))
        if math.isinf(points.start) and math.isinf(points.stop):
            return EVERYWHERE
        held = self._rows(edge[math.isinf(points.start)].positions)
        up = math.isinf(points.stop) == (moved > 0)
        return Points(held.start, EVERYWHERE.stop) if up else Points(EVERYWHERE.start, held.stop)


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
class Regrouped(Mapping):
    """Rows of axes that are split or merged in row-major order: `groups` pairs runs of operand axes with runs of result axes."""

    groups: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


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
