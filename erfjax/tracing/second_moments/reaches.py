"""Which indices along an axis of a segment's start one index along an axis of its end may need: an interval for each.

It is read off the same views as the hull walk, forwards: what `links` knows of single indices, here of windows (pools, blurs,
resizes, fixed kernels).
"""

import dataclasses
import functools
import math
from collections.abc import Hashable, Sequence

import numpy as np

from erfjax.tracing import registry
from erfjax.tracing.positions.access import Along, Identity, Lookup, Mapping, Seen, View
from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.second_moments.covariances import Lags
from erfjax.tracing.second_moments.passages import Passage
from erfjax.tracing.second_moments.segments import Segment
from erfjax.tracing.second_moments.steps import dependent, passes
from erfjax.tracing.windows.cone import Step

NONE = np.iinfo(np.int64).max // 4  # the first index of what needs nothing; the last is its negative


@dataclasses.dataclass(frozen=True, eq=False)
class Reach:
    """Index o needs no indices along an axis of the start but first[o] to last[o]; none at all where first > last."""

    axis: int
    first: np.ndarray
    last: np.ndarray

    def over(self, low: np.ndarray, high: np.ndarray) -> "Reach":
        """What index o needs if it needs the indices low[o] to high[o] here."""
        low, high = np.maximum(low, 0), np.minimum(high, len(self.first) - 1)
        empty = low > high
        low, high = np.where(empty, 0, low), np.where(empty, 0, high)
        # Minima over intervals that overlap: one `reduceat` of pairs of ends, of which every second is asked for.
        ends = np.stack([low, high + 1], 1).ravel()
        first = np.minimum.reduceat(np.append(self.first, NONE), ends)[::2]
        last = np.maximum.reduceat(np.append(self.last, -NONE), ends)[::2]
        return Reach(self.axis, np.where(empty, NONE, first), np.where(empty, -NONE, last))

    def where(self, held: np.ndarray) -> "Reach":
        """The same for some indices, nothing for the others."""
        return Reach(self.axis, np.where(held, self.first, NONE), np.where(held, self.last, -NONE))


Reaches = tuple[Reach | None, ...]
"""Per axis of an array; None where an index may need any index of any axis of the start."""


def reaches(start: Var, end: Var, steps: Sequence[Step]) -> Reaches:
    """What the indices of an array need of one that it is computed from by these steps."""
    held: dict[Atom, Reaches] = {start: tuple(Reach(a, np.arange(n), np.arange(n)) for a, n in enumerate(start.shape))}
    for step in steps:
        moving = {step.equation.inputs[i] for i in dependent(step)} if passes(step) else set()
        if moving.isdisjoint(held):
            continue
        if step.inner is not None:
            held.update({atom: (None,) * len(atom.shape) for atom in step.outputs})
            continue
        views = registry.lookup(step.equation).hull(step.equation, step.result)
        found = [
            _through(view, atom.shape, step.output.shape, held[atom])
            for atom, view in zip(step.equation.inputs, views, strict=True)
            if atom in moving and atom in held and view is not None
        ]
        if found:
            held[step.output] = tuple(_joined(axes) for axes in zip(*found, strict=True))
    return held.get(end, (None,) * len(end.shape))


def _joined(found: Sequence[Reach | None]) -> Reach | None:
    """What several ways need together."""
    known = [reach for reach in found if reach is not None]
    if len(known) < len(found) or len({reach.axis for reach in known}) > 1:
        return None
    first, last = (reach.first for reach in known), (reach.last for reach in known)
    return Reach(known[0].axis, np.minimum.reduce([*first]), np.maximum.reduce([*last]))


def _through(view: Seen, operand: Sequence[int], result: Sequence[int], held: Reaches) -> Reaches:
    """What the indices of a result need through one of its operands."""
    if isinstance(view, Identity):
        return held
    moved: list[Reach | None] = [None] * len(result)
    if isinstance(view, View):
        for reach, axis in zip(held, view.axes, strict=True):
            if reach is not None and isinstance(axis, Along | Lookup) and moved[axis.out] is None:
                moved[axis.out] = reach.over(*_window(axis, result[axis.out]))
        for o, start, stop in view.guards:
            reach, at = moved[o], np.arange(result[o])
            moved[o] = None if reach is None else reach.where((at >= start) & (at < stop))
    elif isinstance(view, Mapping):
        for ins, outs in view.groups:
            _regroup(ins, outs, result, held, moved)
    return tuple(moved)


def _window(axis: Along | Lookup, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and last index of the operand that each index of the result needs."""
    if isinstance(axis, Along):
        at = np.arange(count) * axis.stride + axis.offset
        furthest = (axis.size - 1) * axis.dilation
        return -((-at - min(0, furthest)) // axis.base), (at + max(0, furthest)) // axis.base
    first, last = np.full(count, NONE), np.full(count, -NONE)
    np.minimum.at(first, axis.pattern.rows, axis.pattern.starts)
    np.maximum.at(last, axis.pattern.rows, axis.pattern.stops - 1)
    return first, last


def _regroup(
    ins: Sequence[int], outs: Sequence[int], result: Sequence[int], held: Reaches, moved: list[Reach | None]
) -> None:
    """One axis that becomes several, or several that become one: the outermost of those leads."""
    from_axes = [reach for reach in (held[a] for a in ins) if reach is None or len(reach.first) > 1]
    outs = [o for o in outs if result[o] > 1]
    if not from_axes or not outs or from_axes[0] is None:
        return
    reach, lead = from_axes[0], outs[0]
    if len(from_axes) == 1:
        block = math.prod(result[o] for o in outs[1:])
        at = np.arange(result[lead]) * block
        moved[lead] = reach.over(at, at + block - 1)
    elif len(outs) == 1 and result[lead] % len(reach.first) == 0:
        at = np.arange(result[lead]) // (result[lead] // len(reach.first))
        moved[lead] = reach.over(at, at)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """How the positions of a segment's end need those of a start, axis by axis.

    Attributes:
        axes: for every paired axis of the start, which of the paired axes of the end lies along it, and what the indices there
            need, counted within the boxes; None for a single position.
        sizes: how many positions the start has along its paired axes.
        ends: the same of the end.
    """

    axes: tuple[tuple[int, Reach] | None, ...]
    sizes: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def identity(self) -> Hashable:
        """What two of the same content share."""
        axes = [axis and (axis[0], axis[1].axis, axis[1].first.tobytes(), axis[1].last.tobytes()) for axis in self.axes]
        return tuple(axes), self.sizes, self.ends

    def reached(self, lags: Lags) -> Lags:
        """The lags at the start that those at the end lead to."""
        found = []
        for axis, n in zip(self.axes, self.sizes, strict=True):
            furthest = 0
            if axis is not None:
                place, reach = axis
                for lag in lags[place]:
                    ahead, here = slice(lag, None), slice(None, len(reach.first) - lag)
                    for one, two in ((ahead, here), (here, ahead)):
                        furthest = max(furthest, int((reach.last[one] - reach.first[two]).max(initial=0)))
            found.append(tuple(range(min(n, furthest + 1))))
        return tuple(found)

    @functools.cached_property
    def overlaps(self) -> tuple[int, ...]:
        """Along each axis of the start, how far apart positions of the end are whose windows do not overlap."""
        return tuple(1 if axis is None else _overlap(axis[1]) for axis in self.axes)

    def apart(self) -> np.ndarray:
        """The class of every position of the end: the windows of one class do not overlap."""
        found, grid = np.zeros(math.prod(self.ends), np.int64), np.indices(self.ends).reshape(len(self.ends), -1)
        for axis, count in zip(self.axes, self.overlaps, strict=True):
            found = found * count + (0 if axis is None else grid[axis[0]] % count)
        return found

    @functools.cached_property
    def needing(self) -> tuple[np.ndarray, ...]:
        """Along each axis of the start, the index of the end of each class that needs an index: (classes, indices), or -1."""
        found = []
        for axis, count, n in zip(self.axes, self.overlaps, self.sizes, strict=True):
            table = np.full((count, n), -1 if axis is not None else 0)
            if axis is not None:
                for o, (first, last) in enumerate(zip(axis[1].first, axis[1].last, strict=True)):
                    table[o % count, first : max(first, last + 1)] = o
            found.append(table)
        return tuple(found)

    def classes(self, there: Lags, here: Lags) -> np.ndarray:
        """The class of every position of the start: no entry of a covariance there belongs to two positions of one class.

        Args:
            there: the lags of the covariance at the end.
            here: the lags that are asked for at the start.
        """
        found, grid = np.zeros(math.prod(self.sizes), np.int64), np.indices(self.sizes).reshape(len(self.sizes), -1)
        for places, n, reached, kept in zip(grid, self.sizes, self.reached(there), here, strict=True):
            period = min(n, max(reached) + max(kept) + 1)
            found = found * period + places % period
        return found

    def needed(self, lags: Lags) -> Lags:
        """The lags at the end that lead to those at the start."""
        found: list[tuple[int, ...]] = [(0,)] * len(self.ends)
        for axis, here in zip(self.axes, lags, strict=True):
            if axis is None:
                continue
            place, (first, last) = axis[0], (axis[1].first, axis[1].last)
            rising = bool((np.diff(first) >= 0).all() and (np.diff(last) >= 0).all())
            kept = []
            for lag in range(len(first)):
                apart = np.maximum(first[lag:] - last[: len(first) - lag], first[: len(first) - lag] - last[lag:])
                if apart.min(initial=NONE) <= max(here):
                    kept.append(lag)
                elif rising:
                    break
            found[place] = tuple(kept) or (0,)
        return tuple(found)


def _overlap(reach: Reach) -> int:
    for count in range(1, len(reach.first)):
        if all(
            (np.maximum.accumulate(reach.last[o::count])[:-1] < reach.first[o::count][1:]).all() for o in range(count)
        ):
            return count
    return max(1, len(reach.first))


def windows(way: Passage, segment: Segment, start: Var) -> Windows | None:
    """The windows of a way from the end of a segment to a start; None if it may reach all positions along some axis."""
    held = reaches(start, segment.end, segment.steps)
    end, into = way.end, way.start
    along: dict[int, tuple[int, Reach]] = {}  # axis of the start -> axis of the end
    for a in end.paired:
        here = held[a]
        if end.shape[a] > 1:
            if here is None or here.axis in along:
                return None
            along[here.axis] = a, here
    found: list[tuple[int, Reach] | None] = []
    for b in into.paired:
        if b not in along:
            if into.shape[b] > 1:
                return None
            found.append(None)
            continue
        a, reach = along.pop(b)
        box = slice(end.first[a], end.first[a] + end.shape[a])
        first = np.maximum(reach.first[box] - into.first[b], 0)
        last = np.minimum(reach.last[box] - into.first[b], into.shape[b] - 1)
        empty = first > last
        inside = Reach(b, np.where(empty, NONE, first), np.where(empty, -NONE, last))
        found.append((end.paired.index(a), inside))
    if along:
        return None
    return Windows(tuple(found), into.sizes, end.sizes)
