"""A Boolean matrix as intervals per row: what masks of attention look like, at any length of the sequence.

A causal mask over n tokens has n intervals, where the matrix has n² entries. All operations are one sweep over the sorted ends
of intervals, in NumPy, so that neither time nor memory grows with the entries.
"""

import functools

import numpy as np

from erfjax.tracing.positions.index_sets import EMPTY, Points

LARGEST = 1 << 26  # entries of a matrix that is written out where there is no other way (64 MB)


class IntervalRows:
    """An immutable Boolean matrix of `count` rows and `width` columns: row `rows[k]` holds [starts[k], stops[k]).

    Intervals are sorted by row and start, and neither overlap nor touch.
    """

    def __init__(self, count: int, width: int, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray):
        self.count, self.width = count, width
        self.rows, self.starts, self.stops = rows, starts, stops

    @classmethod
    def of(cls, matrix: np.ndarray) -> "IntervalRows":
        """The intervals of a Boolean matrix."""
        edges = np.zeros((matrix.shape[0], matrix.shape[1] + 1), np.int8)
        edges[:, :-1] = matrix
        edges[:, 1:] -= matrix
        rows, starts = np.nonzero(edges == 1)
        _, stops = np.nonzero(edges == -1)
        return cls(matrix.shape[0], matrix.shape[1], rows, starts, stops)

    @classmethod
    def full(cls, count: int, width: int) -> "IntervalRows":
        rows = np.arange(count if width else 0)
        return cls(count, width, rows, np.zeros_like(rows), np.full_like(rows, width))

    @classmethod
    def among(cls, count: int, width: int, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> "IntervalRows":
        """Intervals in any order, which may overlap, be empty, or run beyond the matrix."""
        starts, stops = np.clip(starts, 0, width), np.clip(stops, 0, width)
        held = stops > starts
        return _covered(count, width, rows[held], starts[held], stops[held], 1)

    @functools.cached_property
    def bounds(self) -> np.ndarray:
        """Row r has the intervals bounds[r] to bounds[r + 1]."""
        return np.searchsorted(self.rows, np.arange(self.count + 1))

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.rows, self.starts, self.stops

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.count, self.width, *(part.tobytes() for part in self._parts())))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, IntervalRows):
            return self is other
        same = (self.count, self.width, self._hash) == (other.count, other.width, other._hash)
        return same and all(map(np.array_equal, self._parts(), other._parts()))

    def __bool__(self) -> bool:
        return bool(self.rows.size)

    @property
    def most_per_row(self) -> int:
        """The most columns that one row holds."""
        return int(np.bincount(self.rows, self.stops - self.starts).max(initial=0))

    @property
    def most_per_column(self) -> int:
        """The most rows that hold one column."""
        edges = np.bincount(self.starts, minlength=self.width + 1) - np.bincount(self.stops, minlength=self.width + 1)
        return int(np.cumsum(edges).max(initial=0))

    @property
    def is_full(self) -> bool:
        return bool(self.rows.size == self.count and (self.stops - self.starts == self.width).all())

    @functools.cached_property
    def filled(self) -> np.ndarray:
        """The rows that hold something."""
        return self.rows[np.flatnonzero(np.diff(self.rows, prepend=-1))]

    def meeting(self, columns: Points) -> np.ndarray:
        """The rows that hold some of these columns."""
        before = np.append(0, np.cumsum(columns.dense()))
        first, last = (np.clip(ends - int(columns.start), 0, before.size - 1) for ends in (self.starts, self.stops))
        return np.unique(self.rows[before[last] > before[first]])

    def dense(self) -> np.ndarray:
        """The matrix written out."""
        edges = np.zeros((self.count, self.width + 1), np.int8)
        edges[self.rows, self.starts] += 1
        edges[self.rows, self.stops] -= 1
        return np.cumsum(edges, axis=1, dtype=np.int8)[:, :-1].astype(bool)

    def lengths(self) -> np.ndarray:
        """How many entries each row holds."""
        return np.bincount(self.rows, self.stops - self.starts, self.count).astype(np.int64)

    def row(self, at: int) -> Points:
        """The columns that one row holds."""
        return covered(
            self.starts[self.bounds[at] : self.bounds[at + 1]], self.stops[self.bounds[at] : self.bounds[at + 1]]
        )

    def union_of(self, rows: np.ndarray) -> Points:
        """The columns that some of these rows holds."""
        held = self._within(rows)
        return covered(self.starts[held], self.stops[held])

    def _within(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of the intervals of some rows, row after row."""
        first, many = self.bounds[rows], self.bounds[rows + 1] - self.bounds[rows]
        ends = np.cumsum(many)
        return np.repeat(first - ends + many, many) + np.arange(ends[-1] if ends.size else 0)

    def take(self, rows: np.ndarray) -> "IntervalRows":
        """The rows in a new order, any number of times; a negative one is an empty row."""
        places = np.flatnonzero(rows >= 0)
        chosen = rows[places]
        held = self._within(chosen)
        many = self.bounds[chosen + 1] - self.bounds[chosen]
        return IntervalRows(len(rows), self.width, np.repeat(places, many), self.starts[held], self.stops[held])

    def combine(self, other: "IntervalRows", both: bool) -> "IntervalRows":
        """The union of two matrices, or what both hold."""
        rows, starts, stops = (
            np.concatenate(pair)
            for pair in ((self.rows, other.rows), (self.starts, other.starts), (self.stops, other.stops))
        )
        return _covered(self.count, self.width, rows, starts, stops, 1 + both)

    @functools.cached_property
    def complement(self) -> "IntervalRows":
        """The gaps: one before every interval, and one after the last of each row."""
        count, n = self.count, self.rows.size
        before, after = np.arange(n) + self.rows, self.bounds[1:] + np.arange(count)
        rows, starts, stops = (np.zeros(n + count, np.int64) for _ in range(3))
        rows[before], rows[after] = self.rows, np.arange(count)
        stops[before], stops[after] = self.starts, self.width
        follows = np.arange(count + n) > 0
        follows[after[:-1] + 1] = False  # the first gap of a row starts at 0
        ends = np.zeros(n + count, np.int64)
        ends[before + 1] = self.stops
        starts[follows] = ends[follows]
        held = stops > starts
        return IntervalRows(count, self.width, rows[held], starts[held], stops[held])

    def grouped(self, groups: np.ndarray, count: int, every: bool) -> "IntervalRows":
        """One row for each group of rows (all of one size): what some, or every, row of the group holds."""
        least = self.count // count if every and count else 1
        return _covered(count, self.width, groups[self.rows], self.starts, self.stops, least)

    def affine(self, offset: int, stride: int, width: int) -> "IntervalRows":
        """Column o is column offset + o·stride of this one; empty where there is none."""
        if stride > 0:
            starts, stops = -((offset - self.starts) // stride), -((offset - self.stops) // stride)
        else:
            starts, stops = (offset - self.stops) // -stride + 1, (offset - self.starts) // -stride + 1
        return IntervalRows.among(self.count, width, self.rows, starts, stops)

    def transposed(self) -> "IntervalRows":
        """Rows and columns exchanged: a run of rows starts where a column is in a row but not in the one before."""
        before, here = self.take(np.arange(-1, self.count)), self.take(np.append(np.arange(self.count), -1))
        first = here.combine(before.complement, both=True)
        last = before.combine(here.complement, both=True)
        (rows, columns), (ends, same) = first.entries(), last.entries()
        opened, closed = np.lexsort((rows, columns)), np.lexsort((ends, same))
        return IntervalRows(self.width, self.count, columns[opened], rows[opened], ends[closed])

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every entry that the matrix holds."""
        many = self.stops - self.starts
        ends = np.cumsum(many)
        columns = np.repeat(self.starts - ends + many, many) + np.arange(ends[-1] if ends.size else 0)
        return np.repeat(self.rows, many), columns

    def recut(self, width: int) -> "IntervalRows":
        """The same entries in reading order, in rows of another width."""
        starts, stops = self.rows * self.width + self.starts, self.rows * self.width + self.stops
        first, last = starts // width, (stops - 1) // width
        many = last - first + 1
        ends = np.cumsum(many)
        rows = np.repeat(first - ends + many, many) + np.arange(ends[-1] if ends.size else 0)
        starts, stops = np.repeat(starts, many) - rows * width, np.repeat(stops, many) - rows * width
        return IntervalRows.among(self.count * self.width // width, width, rows, starts, stops)

    def alike(self, most: int) -> list[tuple[np.ndarray, Points]] | None:
        """The rows that are not empty, in groups that hold the same columns; None if these are more than `most`."""
        kinds: dict[tuple[bytes, bytes], list[int]] = {}
        for r in self.filled:
            a, b = self.bounds[r], self.bounds[r + 1]
            kinds.setdefault((self.starts[a:b].tobytes(), self.stops[a:b].tobytes()), []).append(int(r))
            if len(kinds) > most:
                return None
        return [(np.array(rows), self.row(rows[0])) for rows in kinds.values()]


def _covered(
    count: int, width: int, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, least: int
) -> IntervalRows:
    """What at least so many of some intervals cover."""
    pitch = width + 1
    ends = np.concatenate([rows * pitch + starts, rows * pitch + stops])
    steps = np.ones(ends.size, np.int64)
    steps[rows.size :] = -1
    order = np.argsort(ends, kind="stable")
    ends, depth = ends[order], np.cumsum(steps[order])
    final = np.ones(ends.size, bool)
    final[:-1] = ends[1:] != ends[:-1]
    ends, inside = ends[final], depth[final] >= least
    before = np.zeros_like(inside)
    before[1:] = inside[:-1]
    opened, closed = ends[inside & ~before], ends[~inside & before]
    at = opened // pitch
    return IntervalRows(count, width, at, opened - at * pitch, closed - at * pitch)


def covered(starts: np.ndarray, stops: np.ndarray) -> Points:
    """The union of intervals."""
    if not starts.size:
        return EMPTY
    low, high = int(starts.min()), int(stops.max())
    edges = np.zeros(high - low + 1, np.int64)
    np.add.at(edges, starts - low, 1)
    np.add.at(edges, stops - low, -1)
    return Points.of(low, np.cumsum(edges)[:-1] > 0)


def compared(left: np.ndarray, right: np.ndarray, how: tuple[bool, bool, bool]) -> IntervalRows | None:
    """Where left[r] is (less than, equal to, greater than) right[c], whichever `how` asks for; None if right is not sorted.

    Example: (False, True, True) of two ranges is the causal mask.
    """
    left, right = left.astype(np.float64), right.astype(np.float64)
    return _compared(left.tobytes(), right.tobytes(), how)


@functools.lru_cache(maxsize=16)
def _compared(left_bytes: bytes, right_bytes: bytes, how: tuple[bool, bool, bool]) -> IntervalRows | None:
    """The same, remembered: every layer of a network makes its mask anew."""
    left, right = np.frombuffer(left_bytes), np.frombuffer(right_bytes)
    steps = np.diff(right)
    if not ((steps >= 0).all() or (steps <= 0).all()):
        return None
    falling = bool(right.size and right[0] > right[-1])
    line = right[::-1] if falling else right
    rows, m = np.arange(len(left)), len(right)
    low, high = np.searchsorted(line, left, "left"), np.searchsorted(line, left, "right")
    parts = [(high, np.full_like(high, m)), (low, high), (np.zeros_like(low), low)]
    held = [part for part, wanted in zip(parts, how, strict=True) if wanted]
    starts, stops = (np.concatenate([p[i] for p in held]) if held else np.zeros(0, np.int64) for i in (0, 1))
    found = IntervalRows.among(len(left), m, np.tile(rows, len(held)), starts, stops)
    return found.affine(m - 1, -1, m) if falling else found
