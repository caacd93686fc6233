"""How one axis is cut: what its tiles read and write."""

import dataclasses
from fractions import Fraction
from typing import Any

from erfjax.typing import Extent


@dataclasses.dataclass(frozen=True)
class Cut:
    """How one axis is cut.

    Attributes:
        tile: its tiles; None if it is not cut.
        grid: corners of tiles and windows are multiples of it.
        stride: positions of the input per unit of the output.
        halo: (before, after) of a tile.
        spare: by how much windows are longer than tile and halo need.
        streamed: whether the first windows are shorter instead of reading ahead.
    """

    tile: int | None = None
    grid: int = 1
    stride: Fraction = Fraction(1)
    halo: tuple[Extent, Extent] = (0, 0)
    spare: int = 0
    streamed: bool = False

    def window(self, n: int) -> int:
        """The length of the windows of an axis of n positions."""
        if self.tile is None:
            return n
        before, after = self.halo
        least = self.tile + -(-int(before) // self.grid) * self.grid + int(after) + self.spare
        return min(n, least + (n - least) % self.grid)

    def line(self, n: int, out: int) -> "Line":
        """What the tiles of an axis of n positions read and write, where the output has `out` units."""
        window = self.window(n)
        if self.tile is None or window == n:
            return Line(n, ((0, n),), ((0, out),), (0,))
        starts = range(0, n, self.tile)
        units = int(self.tile / self.stride)
        reads, writes, inside = [], [], []
        for i in range(len(starts)):
            low, high = i * units, out if i == len(starts) - 1 else min((i + 1) * units, out)
            if low < high:
                start = max(0, (starts[i] - int(self.halo[0])) // self.grid * self.grid)
                stop = starts[i] + self.tile + int(self.halo[1]) + self.spare
                stop = min(n, stop + (n - stop) % self.grid) if self.streamed else min(start, n - window) + window
                start = max(0, min(start, stop - window))
                reads.append((start, stop))
                writes.append((low, high))
                inside.append(low - int(start / self.stride))
        return Line(n, tuple(reads), tuple(writes), tuple(inside))


@dataclasses.dataclass(frozen=True)
class Line:
    """What the tiles along one axis of n positions read and write: intervals, and where the latter begin in the window."""

    n: int
    reads: tuple[tuple[int, int], ...]
    writes: tuple[tuple[int, int], ...]
    inside: tuple[int, ...]

    @property
    def lies(self) -> list[tuple[Any, ...]]:
        """How every tile lies in its window, and that to the ends of the axis."""
        parts = zip(self.reads, self.writes, self.inside, strict=True)
        return [(start == 0, stop == self.n, stop - start, at, high - low) for (start, stop), (low, high), at in parts]
