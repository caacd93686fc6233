"""Known tables of positions, and the law that their rows follow.

Most tables follow a law: row o + p is row o moved by q. Then results beyond the table (padding of a later layer) follow it
too, and so do the rows that the border of the operand has cut, as where an image is resized or attention slides.
"""

import dataclasses
import functools
import math

import numpy as np

from erfjax.tracing.positions.index_sets import EMPTY, EVERYWHERE, Points
from erfjax.tracing.positions.interval_rows import IntervalRows, covered


@dataclasses.dataclass(frozen=True)
class Table:
    """Row o of `pattern` holds the positions that result o needs; `cut`: rows at the border may have lost some."""

    pattern: IntervalRows
    cut: bool

    def pull(self, points: Points) -> Points:
        """The positions that some results need."""
        if self._base is None:
            points = points.clip(0, self.pattern.count)
        elif not points.finite:
            return self._beyond(points)
        return self._rows(points.positions) if points else EMPTY

    @functools.cached_property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Per row its first position and its kind; per kind its intervals (starts, stops), counted from the first position."""
        table = self.pattern
        kinds: dict[tuple[bytes, bytes], int] = {}
        found: list[tuple[np.ndarray, np.ndarray]] = []
        first, kind = np.zeros(table.count, np.int64), np.zeros(table.count, np.int64)
        first[table.rows[::-1]] = table.starts[::-1]
        starts, stops = table.starts - first[table.rows], table.stops - first[table.rows]
        for o, (a, b) in enumerate(zip(table.bounds[:-1].tolist(), table.bounds[1:].tolist(), strict=True)):
            key = starts[a:b].tobytes(), stops[a:b].tobytes()
            if key not in kinds:
                kinds[key] = len(found)
                found.append((starts[a:b], stops[a:b]))
            kind[o] = kinds[key]
        return first, kind, found

    @functools.cached_property
    def _sound(self) -> tuple[int, int]:
        """The range of the rows that no border has cut."""
        table = self.pattern
        if not self.cut:
            return 0, table.count
        touching = np.zeros(table.count, bool)
        touching[table.rows[(table.starts == 0) | (table.stops == table.width)]] = True
        inner = np.flatnonzero(~touching & (table.lengths() > 0))
        return (int(inner[0]), int(inner[-1]) + 1) if inner.size else (0, 0)

    @functools.cached_property
    def law(self) -> tuple[int, int] | None:
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
        columns = self.pattern.width
        low, high = self._sound
        others = (o for o in range(self.pattern.count) if not low <= o < high)
        if self.law is None:
            return None
        by_law = ((o, self._rows(np.array([o]), self._sound).clip(0, columns)) for o in others)
        agree = all(found == self.pattern.row(o) for o, found in by_law)
        return self._sound if agree else None

    def _rows(self, positions: np.ndarray, base: tuple[int, int] | None = None) -> Points:
        """What the rows at some positions need: as they stand in the table, or by the law from rows of `base`."""
        base = base or self._base
        if base is None or self.law is None:
            return self.pattern.union_of(positions)
        lawful = (positions < base[0]) | (positions >= base[1])
        found = self.pattern.union_of(positions[~lawful])
        if not lawful.any():
            return found
        (period, by), (first, kind, offsets) = self.law, self._kinds
        periods = (positions[lawful] - base[0]) // period
        rows = positions[lawful] - periods * period
        start, kind = first[rows] + periods * by, kind[rows]
        held = [[np.add.outer(start[kind == k], ends).ravel() for ends in offsets[k]] for k in np.unique(kind)]
        return found.union(covered(*(np.concatenate(ends) for ends in zip(*held, strict=True))))

    def _beyond(self, points: Points) -> Points:
        """What infinitely many rows need, by the law."""
        period, moved = self.law or (1, 0)
        edge = Points(points.start, points.start + period), Points(points.stop - period, points.stop)
        if not moved:
            return self._rows(np.arange(period))
        if math.isinf(points.start) and math.isinf(points.stop):
            return EVERYWHERE
        held = self._rows(edge[math.isinf(points.start)].positions)
        up = math.isinf(points.stop) == (moved > 0)
        return Points(held.start, EVERYWHERE.stop) if up else Points(EVERYWHERE.start, held.stop)


@functools.lru_cache(maxsize=32)
def table(pattern: IntervalRows, cut: bool) -> Table:
    """The table of a pattern: many layers share one, and its law is found once."""
    return Table(pattern, cut)
