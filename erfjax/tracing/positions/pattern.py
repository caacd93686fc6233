"""Which positions of an array have some property: a set over the few axes that matter, whatever the rank of the array.

A mask of attention matters along queries and keys, not along batch and heads. A `Pattern` holds the axes that matter in
increasing order; all but the last are the rows of an `IntervalRows`, the last its columns. Axes of one position never matter.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from erfjax.tracing.positions.index_sets import EMPTY, Box, Loose, Points
from erfjax.tracing.positions.interval_rows import LARGEST, IntervalRows

FEW, MANY = 32, 512  # a set that falls apart into more boxes is replaced by the product of its shadows on the axes


class TooLargeError(Exception):
    """A set would have to be written out entry by entry, and has too many."""


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The positions whose indices along `axes` (of these `sizes`) lie in `held`; all other axes are free."""

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    held: IntervalRows

    @classmethod
    def of(cls, matters: np.ndarray) -> "Pattern":
        """The positions where a Boolean array is True; its axes of one position are those that do not matter."""
        axes = tuple(a for a, n in enumerate(matters.shape) if n != 1)
        return cls.along(axes, matters.reshape([matters.shape[a] for a in axes]))

    @classmethod
    def along(cls, axes: tuple[int, ...], matters: np.ndarray) -> "Pattern":
        """The same, from an array that has the axes named."""
        return cls(axes, matters.shape, IntervalRows.of(matters.reshape(-1, matters.shape[-1] if axes else 1)))

    def __bool__(self) -> bool:
        return bool(self.held)

    @property
    def is_full(self) -> bool:
        return self.held.is_full

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """The set as a Boolean array over its axes."""
        if self.held.count * self.held.width > LARGEST:
            raise TooLargeError
        return self.held.dense().reshape(self.sizes)

    def over(self, sizes: Mapping[int, int]) -> "Pattern":
        """The same set, with more axes said to matter."""
        axes = tuple(sorted({*self.axes, *(a for a, n in sizes.items() if n != 1)}))
        if axes == self.axes:
            return self
        known = dict(zip(self.axes, self.sizes, strict=True)) | dict(sizes)
        shape = tuple(known[a] for a in axes)
        if self.axes and axes[-1] == self.axes[-1]:
            number = np.arange(self.held.count)
            rows = _spread(number.reshape(self.sizes[:-1]), self.axes[:-1], axes[:-1], shape[:-1])
            return Pattern(axes, shape, self.held.take(rows.ravel()))
        flags = _spread(self.positions, self.axes, axes[:-1], shape[:-1]).ravel()
        return Pattern(
            axes, shape, IntervalRows.full(flags.size, shape[-1]).take(np.where(flags, np.arange(flags.size), -1))
        )

    def join(self, other: "Pattern") -> "Pattern":
        return _combined(self, other, False)

    def meet(self, other: "Pattern") -> "Pattern":
        return _combined(self, other, True)

    def minus(self, other: "Pattern") -> "Pattern":
        return self.meet(other.complement) if other else self

    @property
    def complement(self) -> "Pattern":
        return Pattern(self.axes, self.sizes, self.held.complement)

    def renamed(self, names: Mapping[int, int]) -> "Pattern":
        """The set over an array in which axis a is called names[a]: transposed where their order changes."""
        named = [names[a] for a in self.axes]
        if named == sorted(named):
            return Pattern(tuple(named), self.sizes, self.held)
        order = sorted(range(len(named)), key=named.__getitem__)
        axes, sizes = tuple(sorted(named)), tuple(self.sizes[i] for i in order)
        others, last = [i for i in range(len(named)) if i != order[-1]], order[-1]
        held = self.held
        if last != len(named) - 1:  # the new last axis is among the rows: make it the only row axis, then transpose
            places = np.unravel_index(held.rows, self.sizes[:-1])
            shape = [self.sizes[i] for i in others]
            before = np.ravel_multi_index([places[i] for i in others[:-1]], shape[:-1]) if len(others) > 1 else 0
            offset, width = before * held.width, math.prod(shape)
            flat = IntervalRows.among(self.sizes[last], width, places[last], held.starts + offset, held.stops + offset)
            held = flat.transposed()
        number = np.arange(held.count).reshape([self.sizes[i] for i in others])
        return Pattern(axes, sizes, held.take(number.transpose([others.index(i) for i in order[:-1]]).ravel()))

    def without(self, axes: Iterable[int], every: bool) -> "Pattern":
        """The set over the remaining axes: where some, or every, position along the axes named is held."""
        found = self
        for axis in sorted(axes, reverse=True):
            if axis in found.axes:
                found = found._without(axis, every)
        return found

    def _without(self, axis: int, every: bool) -> "Pattern":
        at = self.axes.index(axis)
        axes, sizes = self.axes[:at] + self.axes[at + 1 :], self.sizes[:at] + self.sizes[at + 1 :]
        if at < len(self.axes) - 1:
            count = math.prod(sizes[:-1])
            groups = np.arange(count).reshape(sizes[:-1])
            groups = np.broadcast_to(np.expand_dims(groups, at), self.sizes[:-1]).ravel()
            return Pattern(axes, sizes, self.held.grouped(groups, count, every))
        lengths = self.held.lengths()
        return Pattern.along(axes, (lengths == self.held.width if every else lengths > 0).reshape(sizes))

    def indexed(self, axis: int, offset: int, stride: int, size: int) -> "Pattern":
        """The set over an array whose position o along an axis is position offset + o·stride of this one, or new."""
        if axis not in self.axes:
            return self
        at = self.axes.index(axis)
        sizes = (*self.sizes[:at], size, *self.sizes[at + 1 :])
        if at == len(self.axes) - 1:
            found = Pattern(self.axes, sizes, self.held.affine(offset, stride, size))
        else:
            from_ = offset + stride * np.arange(size)
            found = self.chosen(axis, np.where((from_ >= 0) & (from_ < self.sizes[at]), from_, -1))
        return found.without([axis], every=False) if size == 1 else found

    def chosen(self, axis: int, positions: np.ndarray) -> "Pattern":
        """The set over some positions of an axis that is not the last; negative ones are new."""
        at = self.axes.index(axis)
        number = np.arange(self.held.count).reshape(self.sizes[:-1])
        rows = np.take(number, positions, axis=at)
        gone = np.expand_dims(positions < 0, [i for i in range(rows.ndim) if i != at])
        sizes = (*self.sizes[:at], len(positions), *self.sizes[at + 1 :])
        return Pattern(self.axes, sizes, self.held.take(np.where(gone, -1, rows).ravel()))

    def placed(self, axis: int, start: int, size: int, whole: int) -> "Pattern":
        """The set over a larger array that holds this one (of `size` positions along an axis) from `start` on."""
        if axis in self.axes:
            return self.indexed(axis, -start, 1, whole)
        return self.meet(slab(axis, start, start + size, whole))

    def reshaped(
        self, groups: Sequence[tuple[list[int], list[int]]], operand: Sequence[int], result: Sequence[int]
    ) -> "Pattern":
        """The set over an array that is read in the same order, where runs of axes become runs of axes."""
        touched = [(ins, outs) for ins, outs in groups if not set(ins).isdisjoint(self.axes)]
        if not touched:
            return self
        whole = self.over({i: operand[i] for ins, _ in touched for i in ins})
        axes = tuple(o for _, outs in touched for o in outs if result[o] != 1)
        sizes = tuple(result[o] for o in axes)
        return Pattern(axes, sizes, whole.held if sizes[-1] == whole.sizes[-1] else whole.held.recut(sizes[-1]))

    def within(self, box: Box, most: int = FEW) -> list[Box]:
        """The boxes that hold what a box has in common with the set.

        In place of more than `most` groups of rows that are alike, all rows with all columns. That is `Loose` where many are too
        many; where a few are, it does no harm (`separate`).
        """
        if not self.axes:
            return [box] if self else []
        return _within(self, box, most)


EVERYTHING = Pattern((), (), IntervalRows.full(1, 1))
NOTHING = Pattern((), (), IntervalRows.of(np.zeros((1, 1), bool)))


def slab(axis: int, start: int, stop: int, size: int) -> Pattern:
    """The positions [start, stop) along an axis."""
    if start <= 0 and stop >= size:
        return EVERYTHING
    line = np.zeros((1, size), bool)
    line[0, max(start, 0) : max(stop, 0)] = True
    return Pattern((axis,), (size,), IntervalRows.of(line))


@functools.lru_cache(maxsize=64)
def _combined(a: Pattern, b: Pattern, both: bool) -> Pattern:
    for one, other in ((a, b), (b, a)):
        if not one.axes and bool(one) == both:
            return other
        if not one.axes:
            return one
    sizes = dict(zip(a.axes, a.sizes, strict=True)) | dict(zip(b.axes, b.sizes, strict=True))
    p, q = a.over(sizes), b.over(sizes)
    return Pattern(p.axes, p.sizes, p.held.combine(q.held, both))


def _spread(array: np.ndarray, axes: Sequence[int], all_axes: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """An array over some axes, repeated along the others."""
    inserted = [i for i, a in enumerate(all_axes) if a not in axes]
    return np.broadcast_to(np.expand_dims(array, inserted), shape)


def _products(places: np.ndarray, lines: Sequence[np.ndarray], most: int) -> list[tuple[Points, ...]]:
    """The boxes that hold some places of a grid; places[k] counts along the lines."""
    if len(lines) == 1:
        return [(Points.among(lines[0][places[:, 0]]),)]
    alone = [np.unique(places[:, i]) for i in range(places.shape[1])]
    whole = tuple(Points.among(line[some]) for line, some in zip(lines, alone, strict=True))
    if math.prod(map(len, alone)) == len(places):
        return [whole]
    kinds: dict[bytes, list[int]] = {}
    for first in alone[0]:
        kinds.setdefault(places[places[:, 0] == first, 1:].tobytes(), []).append(int(first))
    if len(kinds) > most:
        return [Loose(whole)]
    found: list[tuple[Points, ...]] = []
    for firsts in kinds.values():
        inner = _products(places[places[:, 0] == firsts[0], 1:], lines[1:], most)
        for part in inner:
            box = (Points.among(lines[0][firsts]), *part)
            found.append(Loose(box) if isinstance(part, Loose) else box)
    return found


@functools.lru_cache(maxsize=512)
def _within(seen: Pattern, box: Box, most: int) -> list[Box]:
    """See `Pattern.within`; the fields of all layers behind a mask ask for the same boxes of it."""
    around: type = Loose if most > FEW else tuple
    *rows, last = seen.axes
    box = tuple(p if a not in seen.axes else p.clip(0, seen.sizes[seen.axes.index(a)]) for a, p in enumerate(box))
    if not all(box):
        return []
    lines = [box[a].positions for a in rows]
    number = np.arange(seen.held.count).reshape(seen.sizes[:-1])
    chosen = number[np.ix_(*lines)].ravel() if rows else number.ravel()
    held = seen.held if chosen.size == seen.held.count else seen.held.take(chosen)
    kinds = held.alike(most)
    loose = kinds is None
    if kinds is None:
        some = held.meeting(box[last])
        kinds = [(some, held.union_of(some))]
    found: list[Box] = []
    for which, columns in kinds:
        columns = columns.meet(box[last])
        if not columns:
            continue
        places = np.stack(np.unravel_index(which, [len(line) for line in lines]), 1) if rows else None
        for part in [()] if places is None else _products(places, lines, MANY):
            cut = list(box)
            for a, points in zip(rows, part, strict=True):
                cut[a] = points
            cut[last] = columns
            found.append(Loose(cut) if isinstance(part, Loose) else around(cut) if loose else tuple(cut))
    return found


def rest(seen: Pattern, box: Box, most: int = FEW) -> Iterable[Box]:
    """What of a box is seen where a pattern is; positions beyond the array stay, unless all of an axis is asked for."""
    if not seen.axes:
        return [box] if seen else []
    found: list[Box] = []
    if all(box[a].finite for a in seen.axes):
        for axis, size in zip(seen.axes, seen.sizes, strict=True):
            inside = Points(0, size)
            found += [(*box[:axis], beyond, *box[axis + 1 :]) for beyond in box[axis].without(inside)]
            box = (*box[:axis], box[axis].clip(0, size), *box[axis + 1 :])
    return [*found, *seen.within(box, most)] if EMPTY not in box else found
