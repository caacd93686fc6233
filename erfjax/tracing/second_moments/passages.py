"""How positions and channels of a segment's end lie to those of its starts: what its pullbacks have to be asked one by one.

A *frame* is an array on its box taken apart into positions and channels. A *passage* leads from the frame of an end to that of a
start: it knows which axes go together, so that one pullback may serve many positions or channels at once, and moves vectors and
matrices over positions from one frame to the other.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.tracing.program.equations import Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.covariances import Lags
from erfjax.tracing.second_moments.segments import Partition, Segment


@dataclasses.dataclass(frozen=True)
class Frame:
    """An array on its box, taken apart into positions and channels.

    Attributes:
        first: where the box begins, per axis.
        paired: the axes of positions; all others are channels.
    """

    shape: tuple[int, ...]
    first: tuple[int, ...]
    paired: tuple[int, ...]

    @property
    def even(self) -> tuple[int, ...]:
        return tuple(a for a in range(len(self.shape)) if a not in self.paired)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many positions there are along each of their axes."""
        return tuple(self.shape[a] for a in self.paired)

    @property
    def positions(self) -> int:
        return math.prod(self.sizes)

    @property
    def channels(self) -> int:
        return math.prod(self.shape[a] for a in self.even)

    def split(self, array: Any) -> Any:
        """The array as a matrix: positions by channels."""
        return jnp.transpose(array, (*self.paired, *self.even)).reshape(self.positions, self.channels)

    def join(self, matrix: Any) -> Any:
        """The array from a matrix: positions by channels."""
        shape = [self.shape[a] for a in (*self.paired, *self.even)]
        return jnp.transpose(matrix.reshape(shape), [int(a) for a in np.argsort((*self.paired, *self.even))])


def frame(parts: Partition, atom: Var) -> Frame:
    """Positions and channels of an array on its box."""
    box = parts.cone.boxes[atom]
    return Frame(lengths(box), tuple(int(p.start) for p in box), parts.paired(atom))


@dataclasses.dataclass(frozen=True)
class Passage:
    """The way from the end of a segment to one of its starts.

    Attributes:
        aligned: axis of the end -> (axis of the start, shift), where one index of the end needs one index of the start.
        blocks: axis of the end -> block, where it needs its own block of an even axis (a head of attention).
    """

    end: Frame
    start: Frame
    aligned: Mapping[int, tuple[int, int]]
    blocks: Mapping[int, int]

    @property
    def local(self) -> bool:
        """Whether every position of the end needs one position of the start, and no two the same."""
        return self._matched(self.end.paired, self.start.paired)

    @property
    def separate(self) -> bool:
        """The same of channels."""
        return self._matched(self.end.even, self.start.even)

    def _matched(self, mine: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
        met = {self.aligned[a][0] for a in mine if a in self.aligned}
        alone = all((a in self.aligned and self.aligned[a][0] in theirs) or self.end.shape[a] == 1 for a in mine)
        return alone and all(b in met or self.start.shape[b] == 1 for b in theirs)

    @property
    def probes(self) -> np.ndarray:
        """Channels of the end that may be pulled back at once, as rows of zeros and ones: (probes, channels)."""
        rows: np.ndarray = np.ones((1, 1))
        for a in self.end.even:
            n = self.end.shape[a]
            parallel = a in self.aligned and self.aligned[a][0] in self.start.even
            block = 1 if parallel else self.blocks.get(a, n)
            rows = np.kron(rows, np.tile(np.eye(block), n // block))
        return rows

    def placed(self, array: Any) -> Any:
        """A vector or matrix over positions of the end as one over positions of the start, zero where nothing is sent."""
        end, start = self.end, self.start
        axes = sorted((a for a in end.paired if a in self.aligned), key=lambda a: self.aligned[a][0])
        axes = [a for a in axes if self.aligned[a][0] in start.paired]
        at = [end.paired.index(a) for a in axes]
        edges = {self.aligned[a][0]: self._edges(a) for a in axes}
        pads = [(*edges[b], 0) if b in edges else (0, 0, 0) for b in start.paired]
        sides = array.ndim
        whole = array.reshape(end.sizes * sides)
        order = [k + side * len(end.sizes) for side in range(sides) for k in at]
        rest = [k for k in range(whole.ndim) if k not in order]  # of one position each
        whole = lax.squeeze(jnp.transpose(whole, order + rest), range(len(order), whole.ndim))
        met = [a for a, b in enumerate(start.paired) if b not in edges]
        whole = jnp.expand_dims(whole, [a + side * len(start.paired) for side in range(sides) for a in met])
        return lax.pad(whole, jnp.zeros((), array.dtype), pads * sides).reshape((start.positions,) * sides)

    def lags_there(self, lags: np.ndarray) -> np.ndarray:
        """Lags between positions of the start (count, axes) as those between the aligned positions of the end."""
        found = np.zeros((len(lags), len(self.end.paired)), np.int64)
        for there, here in self._together:
            found[:, there] = lags[:, here]
        return found

    @property
    def _together(self) -> list[tuple[int, int]]:
        """Which paired axes of the end and of the start are aligned."""
        met = [(k, self.aligned[a][0]) for k, a in enumerate(self.end.paired) if a in self.aligned]
        return [(k, self.start.paired.index(b)) for k, b in met if b in self.start.paired]

    def reached(self, lags: Lags) -> Lags:
        """The lags at the start that those at the end are, for positions that are aligned."""
        found: list[tuple[int, ...]] = [(0,)] * len(self.start.paired)
        for there, here in self._together:
            found[here] = tuple(lag for lag in lags[there] if lag < self.start.sizes[here])
        return tuple(found)

    def needed(self, lags: Lags) -> Lags:
        """The lags at the end that become those at the start, for positions that are aligned."""
        found: list[tuple[int, ...]] = [(0,)] * len(self.end.paired)
        for there, here in self._together:
            found[there] = tuple(lag for lag in lags[here] if lag < self.end.sizes[there])
        return tuple(found)

    def _edges(self, a: int) -> tuple[int, int]:
        """How much of the start's box lies before and behind the positions that axis `a` of the end is aligned with."""
        b, shift = self.aligned[a]
        low = self.end.first[a] + shift - self.start.first[b]
        return low, self.start.shape[b] - self.end.shape[a] - low

    def returned(self, matrix: Any) -> Any:
        """For separate channels: (positions of the end, channels of the start) -> the same with channels of the end."""
        end, start = self.end, self.start
        whole = matrix.reshape(end.positions, *(start.shape[b] for b in start.even))
        back = {self.aligned[a][0]: a for a in end.even if a in self.aligned}
        met = [k for k, b in enumerate(start.even) if b in back]
        lone = [k + 1 for k, b in enumerate(start.even) if b not in back]
        edges = [self._edges(back[start.even[k]]) for k in met]
        pads = [(0, 0, 0), *((-low, -high, 0) for low, high in edges)]
        whole = lax.pad(lax.squeeze(whole, lone), jnp.zeros((), matrix.dtype), pads)
        order = [back[start.even[k]] for k in met]
        whole = jnp.transpose(whole, [0, *(1 + order.index(a) for a in sorted(order))])
        return whole.reshape(end.positions, end.channels)


def passage(parts: Partition, segment: Segment, start: Var) -> Passage:
    """How a segment leads from its end to one of its starts."""
    end, into = frame(parts, segment.end), frame(parts, start)
    aligned, blocks = {}, {}
    for a, link in enumerate(segment.links[start]):
        if link is not None and link.part == "whole":
            aligned[a] = link.axis, link.shift
        elif link is not None and link.part == "block" and a in end.even and link.axis in into.even:
            b = link.axis
            if (end.first[a], end.shape[a]) == (into.first[b], into.shape[b]) == (0, start.shape[b]):
                blocks[a] = link.block
    return Passage(end, into, aligned, blocks)
