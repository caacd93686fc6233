"""What is measured: differentiable functions from windows of the input to the channels of the units that are probed.

`Probe` is the seam between a traced function and the engine. `functions(consts, key, others)` are functions of a window of the
input asked about; the arrays that the model closed over and its other inputs are arguments, not constants, so the compiler
neither copies nor folds them. Units are measured in *pieces*, each on its own window.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from erfjax.layouts import Layout


@dataclasses.dataclass(frozen=True)
class Piece:
    """Units that are computed together: their numbers in the probe, and where their window lies, per spatial axis."""

    units: tuple[int, ...]
    start: tuple[int, ...]
    window: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Probe:
    """Differentiable functions from windows of the input to the channels of some units.

    Attributes:
        functions: (consts, key, others) -> for every piece, a function window -> array of shape (units of the piece, channels).
        pieces: what these functions give; together every unit once.
        consts: what the model closed over, then the weights that it holds as a pytree.
        layout: the roles of the input's axes, those of the window too.
        shape: the spatial shape of the input.
        units: spatial indices into the output.
        channels: how many channels the output has.
        pixel_bytes: bytes of the input per spatial position.
        cost: bytes that one evaluation may hold, as an upper estimate.
        largest: bytes of the largest array among them; 0 where that is not known.
        shift: gradients are pulled back with cotangents of 2**shift in place of 1.
        piecewise_linear: whether it is known to hold nothing but dense convolutions and piecewise linear operations.
        transformed: the numbers of the equations that may be taken by Fourier transforms.
    """

    functions: Callable[[Any, Any, Sequence[Any]], Sequence[Callable[[Any], Any]]]
    pieces: tuple[Piece, ...]
    consts: tuple[Any, ...]
    layout: Layout
    shape: tuple[int, ...]
    units: tuple[tuple[int, ...], ...]
    channels: int
    pixel_bytes: int
    cost: int
    largest: int = 0
    shift: int = 0
    piecewise_linear: bool = False
    transformed: frozenset[int] = frozenset()

    @functools.cached_property
    def start(self) -> tuple[int, ...]:
        """Where the window begins that holds those of all pieces."""
        return tuple(map(min, zip(*(piece.start for piece in self.pieces), strict=True)))

    @functools.cached_property
    def window(self) -> tuple[int, ...]:
        """The shape of that window."""
        stops = zip(*(map(sum, zip(piece.start, piece.window, strict=True)) for piece in self.pieces), strict=True)
        return tuple(max(stop) - start for stop, start in zip(stops, self.start, strict=True))

    def crop(self, x: Any, axes: int = 0) -> Any:
        """The window of an input that has so many axes in front."""
        return self._cut(x, self.start, self.window, axes)

    def piece_of(self, window: Any, piece: Piece) -> Any:
        """The part of the window that a piece needs."""
        return self._cut(window, [a - b for a, b in zip(piece.start, self.start, strict=True)], piece.window)

    def _cut(self, x: Any, starts: Sequence[int], sizes: Sequence[int], axes: int = 0) -> Any:
        index = [slice(None)] * x.ndim
        for axis, start, size in zip(self.layout.spatial, starts, sizes, strict=True):
            index[axes + axis] = slice(start, start + size)
        return x[tuple(index)]

    def sides(self, piece: Piece) -> list[tuple[int, int]]:
        """How far the window reaches beyond that of a piece, per spatial axis."""
        low = [a - b for a, b in zip(piece.start, self.start, strict=True)]
        return [(a, n - a - m) for a, m, n in zip(low, piece.window, self.window, strict=True)]

    def embed(self, maps: np.ndarray) -> np.ndarray:
        """A map of the window, or a stack of them, as a map of the whole input: zero elsewhere."""
        lead = maps.ndim - len(self.shape)
        sides = [(a, n - a - m) for a, m, n in zip(self.start, self.window, self.shape, strict=True)]
        return np.pad(maps, [(0, 0)] * lead + sides)
