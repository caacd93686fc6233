"""Exact sets of positions: `Points` on one axis, a *box* (a product of Points) on all axes, a *region* (a union of boxes).

Intervals alone are not exact: a transposed convolution reads every second position, a stride after a join leaves holes. Most
sets are intervals all the same, so a set is an interval with an optional pattern of what it holds. Positions may be negative or
beyond the array (padding is a place), and an interval may be infinite (a global operation sees everything).
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from erfjax.typing import Extent

MAX_BOXES = 512  # beyond this many, a region is replaced by the product of its shadows on the axes


class Points:
    """An immutable set of integers: the half-open interval [start, stop), or those of its positions where `bits` is True."""

    __slots__ = ("bits", "start", "stop")

    def __init__(self, start: Extent, stop: Extent, bits: np.ndarray | None = None):
        self.start, self.stop, self.bits = start, stop, bits

    @classmethod
    def of(cls, start: int, bits: np.ndarray) -> "Points":
        """The positions start + i where bits[i], with the interval drawn tight."""
        held = np.flatnonzero(bits)
        if not held.size:
            return EMPTY
        first, last = int(held[0]), int(held[-1]) + 1
        tight = bits[first:last]
        return cls(start + first, start + last, None if held.size == last - first else tight)

    @classmethod
    def among(cls, positions: Iterable[int] | np.ndarray) -> "Points":
        """The set of the positions given."""
        held = positions if isinstance(positions, np.ndarray) else np.fromiter(positions, np.int64)
        held = held if (np.diff(held) > 0).all() else np.unique(held)
        if not held.size:
            return EMPTY
        bits = np.zeros(int(held[-1] - held[0]) + 1, bool)
        bits[held - held[0]] = True
        return cls.of(int(held[0]), bits)

    def __bool__(self) -> bool:
        return self.stop > self.start

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Points) or self.start != other.start or self.stop != other.stop:
            return False
        if self.bits is None or other.bits is None:
            return self.bits is other.bits
        return bool(np.array_equal(self.bits, other.bits))

    def __hash__(self) -> int:
        return hash((self.start, self.stop))

    def __repr__(self) -> str:
        return f"[{self.start}, {self.stop}){'' if self.bits is None else f' ({int(self.bits.sum())} of them)'}"

    @property
    def finite(self) -> bool:
        return not (math.isinf(self.start) or math.isinf(self.stop))

    @property
    def positions(self) -> np.ndarray:
        """The positions in increasing order; the set must be finite."""
        if self.bits is None:
            return np.arange(self.start, self.stop)
        return int(self.start) + np.flatnonzero(self.bits)

    def dense(self) -> np.ndarray:
        """The pattern over [start, stop)."""
        return np.ones(int(self.stop - self.start), bool) if self.bits is None else self.bits

    def clip(self, low: Extent, high: Extent) -> "Points":
        """What lies in [low, high)."""
        if self.start >= low and self.stop <= high:
            return self
        start, stop = max(self.start, low), min(self.stop, high)
        if stop <= start:
            return EMPTY
        if self.bits is None:
            return Points(start, stop)
        return Points.of(int(start), self.bits[int(start - self.start) : int(stop - self.start)])

    def shift(self, by: int) -> "Points":
        return self if by == 0 else Points(self.start + by, self.stop + by, self.bits)

    def contains(self, other: "Points") -> bool:
        if other.start < self.start or other.stop > self.stop:
            return not other
        if self.bits is None:
            return True
        if not other.finite:
            return False
        part = self.bits[int(other.start - self.start) : int(other.stop - self.start)]
        return bool(part.all() if other.bits is None else part[other.bits].all())

    def meet(self, other: "Points") -> "Points":
        """What two sets share."""
        within = self.clip(other.start, other.stop)
        if other.bits is None or not within:
            return within
        bits = other.bits[int(within.start - other.start) : int(within.stop - other.start)]
        return Points.of(int(within.start), within.dense() & bits)

    def without(self, other: "Points") -> Iterable["Points"]:
        """What is left of the set when another is taken out: what lies below it, in its gaps, and above it."""
        within = self.clip(other.start, other.stop)
        parts = [self.clip(-math.inf, other.start), EMPTY, self.clip(other.stop, math.inf)]
        if other.bits is not None and within:
            gaps = ~other.bits[int(within.start - other.start) : int(within.stop - other.start)]
            parts[1] = Points.of(int(within.start), within.dense() & gaps)
        return [part for part in parts if part]

    def union(self, other: "Points") -> "Points":
        if self.contains(other):
            return self
        if other.contains(self):
            return other
        start, stop = min(self.start, other.start), max(self.stop, other.stop)
        touching = self.start <= other.stop and other.start <= self.stop
        if (touching and self.bits is None and other.bits is None) or math.isinf(start) or math.isinf(stop):
            return Points(start, stop)
        bits = np.zeros(int(stop - start), bool)
        for part in (self, other):
            bits[int(part.start - start) : int(part.stop - start)] |= part.dense()
        return Points.of(int(start), bits)

    def window(self, size: int, stride: int, dilation: int, offset: int, base: int) -> "Points":
        """The inputs of a window: all i with i·base = o·stride + t·dilation + offset for o in the set and 0 ≤ t < size."""
        if not self or size < 1:
            return EMPTY
        if stride < 0:
            bits = None if self.bits is None else self.bits[::-1]
            return Points(1 - self.stop, 1 - self.start, bits).window(size, -stride, dilation, offset, base)
        spread = self._spread(size, stride, dilation)
        start, stop = spread.start + offset, spread.stop + offset
        if base == 1:
            return Points(start, stop, spread.bits)
        first, end = -(-start // base), -(-stop // base)  # the multiples of base in [start, stop), divided by base
        if end <= first:
            return EMPTY
        if spread.bits is None:
            return Points(first, end)
        return Points.of(int(first), spread.bits[int(first * base - start) :: base])

    def _spread(self, size: int, stride: int, dilation: int) -> "Points":
        """All o·stride + t·dilation."""
        reach = (size - 1) * dilation + 1
        start, stop = self.start * stride, (self.stop - 1) * stride + reach
        if not self.finite:
            return Points(start, stop)
        length = self.stop - self.start
        if self.bits is None:
            steps_filled = stride == 1 or length == 1 or (dilation == 1 and size >= stride)
            taps_filled = dilation == 1 or size == 1 or (stride == 1 and length >= dilation)
            if steps_filled and taps_filled and (stride == 1 or dilation == 1 or length == 1 or size == 1):
                return Points(start, stop)
        held = np.zeros(int(stop - start), bool)
        pattern = self.dense()
        span = int(length - 1) * stride + 1
        for tap in range(0, reach, dilation):
            held[tap : tap + span : stride] |= pattern
        return Points.of(int(start), held)


EMPTY = Points(0, 0)
EVERYWHERE = Points(-math.inf, math.inf)

Box = tuple[Points, ...]
Region = tuple[Box, ...]


class Loose(tuple[Points, ...]):
    """A box in place of too many boxes: the product of their shadows on the axes, which may hold more than they do."""

    __slots__ = ()


def runs(points: Points) -> list[tuple[int, int]]:
    """The intervals that a finite set is made of."""
    edges = np.diff(points.dense().astype(np.int8), prepend=0, append=0) if points else np.zeros(0)
    starts, stops = (int(points.start) + np.flatnonzero(edges == sign) for sign in (1, -1))
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def full(shape: Sequence[int]) -> Box:
    """The box of every position of an array."""
    return tuple(Points(0, n) for n in shape)


def clip(region: Region, shape: Sequence[int]) -> Region:
    """What of the region lies inside the array."""
    if all(points.start >= 0 and points.stop <= n for box in region for points, n in zip(box, shape, strict=True)):
        return region
    boxes = (tuple(points.clip(0, n) for points, n in zip(box, shape, strict=True)) for box in region)
    return tuple(box for box in boxes if all(box))


def join(region: Region, boxes: Iterable[Box]) -> Region:
    """The union, with boxes swallowed or glued together where that is exact."""
    pending = [box for box in boxes if all(box)]
    if not region and len(pending) <= 1:
        return tuple(pending)
    held = list(region)
    while pending:
        box = pending.pop()
        for i, other in enumerate(held):
            glued = _glue(other, box)
            if glued is other:
                break
            if glued is not None:
                del held[i]
                pending.append(glued)
                break
        else:
            held.append(box)
            if len(held) > MAX_BOXES:
                return (Loose(shadow((*held, *pending))),)
    return tuple(held)


def _glue(a: Box, b: Box) -> Box | None:
    """The union of two boxes if it is a box: one holds the other, or they differ along a single axis."""
    differing = [axis for axis, (p, q) in enumerate(zip(a, b, strict=True)) if p is not q and p != q]
    if len(differing) <= 1:
        if not differing:
            return a
        axis = differing[0]
        union = a[axis].union(b[axis])
        if not union.finite and union != a[axis] and union != b[axis]:
            return None  # an infinite union may have filled a gap
        return a if union is a[axis] else (*a[:axis], union, *a[axis + 1 :])
    if all(a[axis].contains(b[axis]) for axis in differing):
        return a
    if all(b[axis].contains(a[axis]) for axis in differing):
        return b
    return None


def shadow(region: Region) -> Box:
    """Per axis, all positions that some box holds; the hull of each is the interval to report."""
    first, *rest = region
    result = list(first)
    for box in rest:
        result = [points.union(other) for points, other in zip(result, box, strict=True)]
    return tuple(result)


def mask(region: Region, shape: Sequence[int]) -> np.ndarray:
    """True at every position of an array of this shape that the region holds."""
    held = np.zeros(tuple(shape), bool)
    for box in clip(region, shape):
        held[np.ix_(*(points.positions for points in box))] = True
    return held


def axis_groups(operand: Sequence[int], result: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest pairing of runs of operand axes with runs of result axes of the same product, ones beside their neighbours."""
    groups: list[tuple[list[int], list[int]]] = []
    i = o = 0
    while i < len(operand) or o < len(result):
        if i < len(operand) and o < len(result) and operand[i] == result[o]:
            groups.append(([i], [o]))
            i, o = i + 1, o + 1
            continue
        if i < len(operand) and operand[i] == 1:
            groups.append(([i], []))
            i += 1
            continue
        if o < len(result) and result[o] == 1:
            groups.append(([], [o]))
            o += 1
            continue
        ins, outs = [i], [o]
        a, b = operand[i], result[o]
        while a != b:
            if a < b:
                ins.append(ins[-1] + 1)
                a *= operand[ins[-1]]
            else:
                outs.append(outs[-1] + 1)
                b *= result[outs[-1]]
        groups.append((ins, outs))
        i, o = ins[-1] + 1, outs[-1] + 1
    return groups
