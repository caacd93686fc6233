"""Where samples come from: rows of an array, an iterable that need not fit into memory, or a function of a key.

A `Source` is read in order, once. It keeps a running checksum of what was read, by which a continued run recognises its
data.
"""

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from erfjax import layouts
from erfjax.errors import CheckpointError, LayoutError, SampleError


class Source:
    """Rows in order, each one sample.

    Attributes:
        spec: shape and dtype of a sample, with a batch of one where the layout has N.
        total: how many rows there are, or None if unknown or endless.
        draw: the function key -> x that makes the rows on the device, or None if `read` gives them.
        digest: checksum of the rows read so far.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        rows: Iterator[np.ndarray],
        total: int | None = None,
        draw: Callable[[Any], Any] | None = None,
    ):
        self.spec = jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))
        self.total, self.draw, self.digest = total, draw, 0
        self._rows = rows

    def read(self, count: int) -> np.ndarray | None:
        """Up to `count` further rows, stacked; None at the end. Rows that are drawn on the device are empty here."""
        rows = [np.ascontiguousarray(row, self.spec.dtype) for row in itertools.islice(self._rows, count)]
        for row in rows:
            self.digest = zlib.crc32(row.tobytes(), self.digest)
        return np.stack(rows) if rows else None

    def resume(self, position: int, digest: int) -> None:
        """Skips the rows before `position`.

        Raises:
            CheckpointError: they are not the rows that had this digest.
        """
        while position > 0 and (rows := self.read(min(position, 64))) is not None:
            position -= len(rows)
        if self.digest != digest:
            raise CheckpointError(
                "The checkpoint belongs to another run: its inputs differ from those given now. Give the same inputs in "
                "the same order; or delete the file to start afresh."
            )

    @property
    def row(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the rows that `read` gives."""
        return self.spec if self.draw is None else jax.ShapeDtypeStruct((0,), self.spec.dtype)


def open_source(inputs: Any, key: Any, layout: str) -> Source:
    """The samples in `inputs`: an array whose rows they are, an iterable of rows or batches, or a function of a key.

    Args:
        inputs: see `erfjax.empirical`.
        key: a random key, or None; with one, the rows of an array are reused in turn.
        layout: the layout of one sample.

    Raises:
        LayoutError: an array does not fit the layout.
        SampleError: there is no sample, or rows differ in shape.
    """
    if hasattr(inputs, "shape"):
        rows = split(np.asarray(inputs), layout, 0)
        if not len(rows):
            raise SampleError("There is no sample: `inputs` has no rows.")
        turns = iter(rows) if key is None else itertools.cycle(rows)
        return Source(rows.shape[1:], rows.dtype, turns, len(rows))
    if callable(inputs):
        if key is None:
            raise SampleError(
                "`inputs` is a function of a random key, but there is no key: pass key=jax.random.key(0)."
            )
        x = jax.eval_shape(inputs, key)
        return Source(x.shape, x.dtype, itertools.repeat(np.empty(0)), draw=inputs)
    if not isinstance(inputs, Iterable):
        raise SampleError(
            f"`inputs` must be an array, an iterable of arrays or a function of a key, but got {inputs!r}."
        )
    stream = rows_of(inputs, layout)
    first = next(stream, None)
    if first is None:
        raise SampleError("There is no sample: `inputs` is empty.")
    return Source(first.shape, first.dtype, itertools.chain([first], stream))


def split(array: np.ndarray, layout: str, index: int) -> np.ndarray:
    """A view of an array as a stack of samples: cut along N, or along a leading axis if the layout has none."""
    if array.ndim == len(layout) - ("N" in layout):  # one sample, without a batch axis
        array = np.expand_dims(array, layout.find("N") if "N" in layout else 0)
    if "N" in layout:
        axis = layouts.parse(layout, array.ndim).batch or 0
        return np.expand_dims(np.moveaxis(array, axis, 0), axis + 1)
    if array.ndim != len(layout) + 1:
        raise LayoutError(
            f"Sample {index} has {array.ndim} axes, but the layout {layout!r} names {len(layout)}: give one sample, or "
            "a stack of them along one further leading axis."
        )
    return array


def rows_of(inputs: Iterable[Any], layout: str) -> Iterator[np.ndarray]:
    """The rows of an iterable's arrays, all of one shape and dtype."""
    index, first = 0, None
    for item in inputs:
        for row in split(np.asarray(item), layout, index):
            first = row if first is None else first
            if (row.shape, row.dtype) != (first.shape, first.dtype):
                raise SampleError(
                    f"All samples must share one shape and dtype: sample 0 has {first.shape} {first.dtype}, sample "
                    f"{index} has {row.shape} {row.dtype}. Resize or crop them first."
                )
            yield row
            index += 1
