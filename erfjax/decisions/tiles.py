"""`tiling`: how an image is computed tile by tile, with what overlap, so that the tiles are the whole.

A *tile* is what is wanted, a *window* what is read for it: the tile and its halo. `lines` says how they lie, and that the plan
is exact is proved there before anything runs. Here it is shown, and run on arrays that need not fit into memory.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from erfjax import summary
from erfjax.decisions.cuts import Line
from erfjax.decisions.lines import Asked, plan
from erfjax.errors import ErfjaxError, GeometryError
from erfjax.layouts import shaped
from erfjax.measurement.model import require_function
from erfjax.plot import plans
from erfjax.typing import ArrayLike, Figure, Function, Given

Slices = tuple[slice, ...]
TRIED = (
    "At another size the function does the same operations in another order or with other numbers: that the tiles are the "
    "whole was tried on random numbers, within rounding.",
)

UNREAD = "{} holds more numbers along an axis of {} than are looked at: that they repeat with the tiles was seen on shorter ones."


class Tile(NamedTuple):
    """What is read of the image and what of the output is written from it: one slice for every axis of either array."""

    read: Slices
    write: Slices


class Laid(NamedTuple):
    """How tiles lie on an image: the shapes of image and output, which axes are space in either, and a line for each."""

    shape: tuple[int, ...]
    out: tuple[int, ...]
    spatial: tuple[int, ...]
    paired: tuple[int | None, ...]
    lines: tuple[Line, ...]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tiling(summary.Shown):
    """How an image is computed tile by tile.

    Attributes:
        tile: the size of a tile in pixels of the input, per spatial axis; None on an axis that is read whole.
        grid: the corners of tiles are multiples of it, in pixels.
        halo: (before, after) per axis: how many pixels around a tile are needed; not one of them can be spared. None if the
            plan is not exact.
        stride: pixels per unit of the output, per axis.
        exact: whether the tiles are the whole.
        why: if not, the operation that is to blame, with its line.
        notes: what the promise rests on where it is not proved from the program alone.
        streamed: whether the first windows are shorter instead of reading ahead.

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> def pooled(x):
        ...     return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 5, 1), (1, 2, 1, 1), "SAME")
        >>> plan = ej.tiling(pooled, jax.ShapeDtypeStruct((1, 64, 50, 1), jnp.float32), tile=(16, 25))
        >>> plan.grid, plan.halo
        ((2, 1), ((0, 1), (2, 2)))
        >>> tile = next(plan.tiles())
        >>> tile.read[1:3], tile.write[1:3]
        ((slice(0, 18, None), slice(0, 29, None)), (slice(0, 8, None), slice(0, 25, None)))
    """

    tile: tuple[int | None, ...]
    grid: tuple[int, ...]
    halo: tuple[tuple[int, int], ...] | None
    stride: tuple[Fraction, ...]
    exact: bool
    why: str | None
    image_shape: tuple[int, ...]
    notes: tuple[str, ...]
    streamed: bool
    asked: Asked | None = dataclasses.field(repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """The plan for the image that it was made for. The function is left out, so that any can be asked about."""
        own = self.own if self.exact else None
        return {**vars(self), "own": own, "asked": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    @functools.cached_property
    def own(self) -> "Laid":
        """How the tiles lie on the image that the plan was made for."""
        return self._laid(None)

    def tiles(self, image_shape: Sequence[int] | None = None) -> Iterator[Tile]:
        """What to read and what to write, tile by tile; for images that do not fit into memory.

        `out[tile.write] = plan.compute(f, image[tile.read], tile)` does one tile, whatever kind of array `image` and `out` are.

        Args:
            image_shape: the spatial shape of the image, or its whole shape; None is that of the plan.

        Raises:
            ErfjaxError: the plan is not exact.
            LayoutError: the shape has another number of axes.
        """
        laid = self._laid(image_shape)
        for places in itertools.product(*(range(len(line.reads)) for line in laid.lines)):
            read = [slice(0, n) for n in laid.shape]
            write = [slice(0, n) for n in laid.out]
            for axis, paired, line, place in zip(laid.spatial, laid.paired, laid.lines, places, strict=True):
                read[axis] = slice(*line.reads[place])
                if paired is not None:
                    write[paired] = slice(*line.writes[place])
            yield Tile(tuple(read), tuple(write))

    def keep(self, tile: Tile) -> Slices:
        """The part of what the function gives for a window that is written."""
        kept = list(tile.write)
        for axis, paired, stride in zip(self.own.spatial, self.own.paired, self.stride, strict=True):
            if paired is not None:
                by = int(tile.read[axis].start / stride)
                kept[paired] = slice(tile.write[paired].start - by, tile.write[paired].stop - by)
        return tuple(kept)

    def compute(self, f: Function, window: ArrayLike, tile: Tile) -> jax.Array:
        """What is written for a tile, from the window that it reads: one compiled function for all windows of one shape."""
        return _compiled(f)(jnp.asarray(window))[self.keep(tile)]

    def __call__(self, f: Function, image: Any, *, out: Any = None, progress: bool | None = None) -> Any:
        """The output of `f` on an image of any size, tile by tile.

        Args:
            f: the function that the plan was made for.
            image: anything with a shape that gives arrays when it is sliced: an array, a `numpy.memmap`, a zarr array.
            out: where to write; the same kind of thing. None makes a NumPy array.
            progress: whether to show a bar; None shows it on a terminal.

        Returns:
            `out`.

        Raises:
            ErfjaxError: the plan is not exact; the message names the operation.
            GeometryError: `out` has another shape than the output.
        """
        laid = self._laid(image.shape)
        if out is not None and tuple(out.shape) != laid.out:
            raise GeometryError(f"`out` must have the shape of the output, {laid.out}, but has {tuple(out.shape)}.")
        total = math.prod(len(line.reads) for line in laid.lines)
        hidden = None if progress is None else not progress
        for tile in tqdm(self.tiles(laid.shape), total=total, unit="tile", disable=hidden, delay=1.0):
            done = self.compute(f, np.asarray(image[tile.read]), tile)
            if out is None:
                out = np.empty(laid.out, done.dtype)
            out[tile.write] = np.asarray(done)
        return out

    def _laid(self, image_shape: Sequence[int] | None) -> "Laid":
        """How the tiles lie on an image of another shape, proved."""
        if not self.exact:
            raise ErfjaxError(f"This function cannot be computed tile by tile: {self.why}")
        if self.asked is None:
            own, given = self.own, None if image_shape is None else tuple(map(int, image_shape))
            if given in (None, own.shape, self.image_shape):
                return own
            raise ErfjaxError(
                f"This plan was pickled, and pickles leave out the function: it serves images of shape {own.shape}, but got "
                f"{given}. Call `erfjax.tiling` again for images of another size."
            )
        shape = self.asked.whole_shape(image_shape)
        space = self.asked.source.space(shape)
        found = plan(self.asked, self.tile, space, self.streamed)
        if found.why is not None:
            raise ErfjaxError(f"An image of shape {shape} cannot be computed tile by tile: {found.why}")
        out, paired = self.asked.out_shape(shape), self.asked.paired
        units = [1 if axis is None else out[axis] for axis in paired]
        lines = tuple(cut.line(n, m) for cut, n, m in zip(found.cuts, space, units, strict=True))
        return Laid(shape, out, tuple(self.asked.source.spatial), paired, lines)

    def facts(self) -> summary.Table:
        """The plan, one fact a row."""
        notes = self.notes if self.why is None else (self.why,)
        pairs: dict[str, Any] = {
            "image": self.image_shape,
            "tile": tuple("whole" if n is None else n for n in self.tile),
            "grid": self.grid,
            "halo": None if self.halo is None else " × ".join(f"{a} + {b}" for a, b in self.halo),
            "exact": self.exact,
        }
        if self.exact:
            windows = [[stop - start for start, stop in line.reads] for line in self.own.lines]
            read = math.prod(map(sum, windows)) / math.prod(self.image_shape)
            pairs |= {"tiles": math.prod(map(len, windows)), "window": tuple(map(max, windows))}
            pairs["pixels read, per pixel"] = read
            if read == 1:
                notes = (*notes, "Tile and halo are as large as the image: it is read whole.")
        return summary.facts("tiling", pairs, notes)

    def table(self) -> summary.Table:
        """The plan, one fact a row, as `facts`."""
        return self.facts()

    def _brief(self) -> str:
        return f"tile {self.tile}, halo {self.halo}, exact {self.exact}"

    def plot(self) -> Figure:
        """A matplotlib figure of the image cut into tiles, with the window that one of them reads.

        Raises:
            ErfjaxError: the plan is not exact.
        """
        own, space = self._laid(None), self.image_shape
        written = [
            [(float(low * s), min(float(high * s), n)) for low, high in line.writes]
            if paired is not None
            else [(0.0, n)] * len(line.writes)
            for line, s, n, paired in zip(own.lines, self.stride, space, own.paired, strict=True)
        ]
        return plans.tiles(written, [line.reads for line in own.lines], space, summary.axis_names(len(space)))


@functools.lru_cache(maxsize=8)
def _compiled(f: Function) -> Any:
    return jax.jit(f)


def tiling(
    f: Given,
    x: Given,
    *,
    tile: Given,
    layout: str = "NHWC",
    out_layout: str | None = None,
    streamed: bool = False,
) -> Tiling:
    """How `f` is computed tile by tile so that the tiles are the whole, with the smallest overlap.

    Args:
        f: maps an array to one array.
        x: an array or a `jax.ShapeDtypeStruct`; only shape and dtype are used. Plans for images of other sizes follow from
            the same result (`tiles`).
        tile: pixels of the input per tile: one number, or one per spatial axis, None for an axis that is not cut. Multiples
            of the grid.
        layout: the axes of `x`.
        out_layout: the axes of the output; by default those of the input where the output has as many.
        streamed: let the first windows be shorter, so that none reads further ahead than its tile needs: for a signal that
            is still arriving. Otherwise all windows have one shape.

    Returns:
        A `Tiling`. Where the function looks everywhere, or is not the same everywhere, `exact` is False and `why` names the
        operation; such a plan refuses to run.

    Raises:
        GeometryError: tiles that are not positive or not multiples of the grid.
        LayoutError, UnsupportedPrimitiveError: as for `erfjax.theoretical`.

    Source:
        O. Ronneberger, P. Fischer, T. Brox, U-Net, MICCAI 2015 (overlap-tile strategy); here the overlap is the hull of what
        a tile sees, and padding need not be given up.

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp, numpy as np
        >>> def blurred(x):
        ...     return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 5, 1), (1, 1, 1, 1), "SAME")
        >>> image = np.arange(1400.0, dtype=np.float32).reshape(1, 40, 35, 1)
        >>> plan = ej.tiling(blurred, image, tile=16)
        >>> plan.halo, bool((plan(blurred, image) == blurred(image)).all())
        (((1, 1), (2, 2)), True)
    """
    require_function(f)
    x = shaped(x)
    asked = Asked(f, tuple(map(int, x.shape)), x.dtype, layout, out_layout)
    space = asked.space
    sizes: tuple[Any, ...] = (tile,) * len(space) if not isinstance(tile, tuple | list) else tuple(tile)
    if len(sizes) != len(space) or any(not (n is None or (isinstance(n, int | np.integer) and n > 0)) for n in sizes):
        raise GeometryError(
            f"`tile` must be a positive number of pixels, or one (or None) for each of the {len(space)} spatial axes, "
            f"but got {tile!r}."
        )
    found = plan(asked, sizes, space, streamed)
    grid, stride = tuple(cut.grid for cut in found.cuts), tuple(cut.stride for cut in found.cuts)
    halo = None if found.why else tuple((int(cut.halo[0]), int(cut.halo[1])) for cut in found.cuts)
    unread = (UNREAD.format(named, n) for named, n in asked.unread.items())
    notes = (*TRIED * found.tried, *asked.assumed, *unread)
    return Tiling(sizes, grid, halo, stride, found.why is None, found.why, space, notes, streamed, asked)
