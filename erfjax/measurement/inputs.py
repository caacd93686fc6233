"""Where samples come from: rows of an array, an iterable that need not fit into memory, a function of a key, or a `Noise`.

A sample is one array, or a tree of arrays (a tuple or a dict) where the function takes several. A `Source` is read in order,
once. It keeps a running checksum of what was read, by which a continued run recognises its data.
"""

import dataclasses
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from erfjax import layouts
from erfjax.calling import explained, no_array
from erfjax.errors import CheckpointError, LayoutError, SampleError
from erfjax.layouts import Layouts
from erfjax.measurement.designs import Noise

Row = tuple[np.ndarray, ...]
"""The leaves of one sample, each with a batch of one where its layout has N."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Consecutive samples: every leaf with a leading axis of samples."""

    leaves: Row

    def __len__(self) -> int:
        return len(self.leaves[0])

    def __getitem__(self, part: slice) -> "Rows":
        return Rows(tuple(leaf[part] for leaf in self.leaves))


class Source:
    """Rows in order, each one sample.

    Attributes:
        layouts: the layout of every leaf of a sample.
        spec: shapes and dtypes of a sample, in its tree, with a batch of one where the layout has N.
        total: how many rows there are, or None if unknown or endless.
        rows: what is left of them.
        draw: the function key -> x that makes the rows on the device, or None if `read` gives them.
        block: how many images a row holds: more than one where they exchange gates.
        digest: checksum of the rows read so far.
    """

    def __init__(
        self,
        layouts: Layouts,
        row: Sequence[Any],
        rows: Iterator[Row],
        total: int | None = None,
        draw: Callable[[Any], Any] | None = None,
        block: int = 1,
    ):
        specs = [jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype)) for leaf in row]
        self.layouts, self.spec = layouts, layouts.tree(specs)
        self.total, self.draw, self.block, self.digest = total, draw, block, 0
        self.rows, self._dtypes = rows, [spec.dtype for spec in specs]

    def read(self, count: int) -> Rows | None:
        """Up to `count` further rows; None at the end. Rows drawn on the device are empty here."""
        rows = list(itertools.islice(self.rows, count))
        if not rows:
            return None
        if self.draw is not None:
            return Rows((np.empty((len(rows), 0)),))
        stacked = tuple(
            np.stack([np.ascontiguousarray(row[i], dtype) for row in rows]) for i, dtype in enumerate(self._dtypes)
        )
        for row in zip(*stacked, strict=True):
            for leaf in row:
                self.digest = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), self.digest)
        return Rows(stacked)

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
    def row(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and dtypes of the rows that `read` gives."""
        return tuple(jax.tree.leaves(self.spec)) if self.draw is None else (jax.ShapeDtypeStruct((0,), np.float32),)


def open_source(inputs: Any, key: Any, layout: Any = None, per_draw: int = 1) -> Source:
    """The samples in `inputs`: an array (or tree of arrays) whose rows they are, an iterable of these, or a function of a key.

    Args:
        inputs: see `erfjax.empirical`.
        key: a random key, or None; with one, the rows of an array are reused in turn.
        layout: the layout of one sample; None infers it from the number of axes.
        per_draw: how many consecutive samples share a draw of the weights, and a set of designed inputs.

    Raises:
        LayoutError: an array does not fit the layout.
        SampleError: there is no sample, or rows differ in shape.
    """
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(inputs)):
        raise SampleError(f"`inputs` must hold values to be measured on, but got {inputs!r}: pass arrays.")
    if isinstance(inputs, str | os.PathLike):
        raise SampleError(no_array(inputs))
    if isinstance(inputs, Noise):
        if key is None:
            raise SampleError(
                "`Noise` is drawn from a key: pass key=jax.random.key(0) and a function of (key, x), such as lambda key, x: f(x) "
                "for given weights."
            )
        sets = inputs.blocks(key, per_draw)
        block = next(sets)
        found = layouts.of_tree(block, layout)
        designed = (row for one in itertools.chain([block], sets) for row in zip(*split(one, found, 0), strict=True))
        return Source(found, [leaf[0] for leaf in split(block, found, 0)], designed)
    if hasattr(inputs, "shape") or isinstance(inputs, tuple | dict):
        found = layouts.of_tree(inputs, layout)
        rows = split(inputs, found, 0)
        if not len(rows[0]):
            raise SampleError("There is no sample: `inputs` has no rows.")
        one_by_one = (tuple(leaf[i] for leaf in rows) for i in range(len(rows[0])))
        turns = one_by_one if key is None else itertools.cycle(one_by_one)
        return Source(found, [leaf[0] for leaf in rows], turns, len(rows[0]))
    if callable(inputs):
        if key is None:
            raise SampleError(
                "`inputs` is a function of a random key, but there is no key: pass key=jax.random.key(0)."
            )
        with explained("The function of a key that draws `inputs`"):
            x = jax.eval_shape(inputs, key)
        found = layouts.of_tree(x, layout)
        return Source(found, jax.tree.leaves(x), itertools.repeat(()), draw=inputs)
    if not isinstance(inputs, Iterable):
        raise SampleError(f"{no_array(inputs)} An iterable of these, or a function of a key, will do too.")
    items = iter(inputs)
    item = next(items, None)
    if item is None:
        raise SampleError("There is no sample: `inputs` is empty.")
    item = item if isinstance(item, tuple | dict) else np.asarray(item)
    found = layouts.of_tree(item, "NHWC" if layout is None and getattr(item, "ndim", 0) == 3 else layout)
    stream = rows_of(itertools.chain([item], items), found)
    first = next(stream, None)
    if first is None:
        raise SampleError("There is no sample: the first item of `inputs` has no rows.")
    return Source(found, first, itertools.chain([first], stream))


def split(item: Any, found: Layouts, index: int) -> Row:
    """The leaves of an array or tree, each as a stack of samples along a new leading axis.

    An array is cut along N, or along a leading axis if its layout has none; one sample alone may lack its batch axis. Leaves
    without a layout are cut along their first axis.

    Raises:
        LayoutError: an array has too many or too few axes.
        SampleError: leaves have different numbers of rows.
    """
    stacks = [
        split_array(np.asarray(leaf), one, index) for leaf, one in zip(found.leaves(item), found.letters, strict=True)
    ]
    count = max((len(stack) for stack in stacks if stack is not None), default=1)
    rows = tuple(
        np.broadcast_to(np.asarray(leaf), (count, *np.shape(leaf))) if stack is None else stack
        for leaf, stack in zip(found.leaves(item), stacks, strict=True)
    )
    if {len(row) for row in rows} != {count}:
        raise SampleError(
            f"The arrays of sample {index} have different numbers of rows, {[len(row) for row in rows]}: every input needs "
            "one row for each sample. (Weights are no input: bind them, lambda x: f(params, x).)"
        )
    return rows


def split_array(array: np.ndarray, letters: str | None, index: int) -> np.ndarray | None:
    """A view of an array as a stack of samples; None for a number, which all samples share."""
    if letters is None:
        return None if array.ndim == 0 else np.expand_dims(array, 1)
    if array.ndim == len(letters) - ("N" in letters):  # one sample, without a batch axis
        array = np.expand_dims(array, letters.find("N") if "N" in letters else 0)
    if "N" in letters:
        axis = layouts.parse(letters, array.ndim).batch or 0
        return np.expand_dims(np.moveaxis(array, axis, 0), axis + 1)
    if array.ndim != len(letters) + 1:
        raise LayoutError(
            f"Sample {index} has {array.ndim} axes, but the layout {letters!r} names {len(letters)}: give one sample, or "
            "a stack of them along one further leading axis."
        )
    return array


def rows_of(inputs: Iterable[Any], found: Layouts) -> Iterator[Row]:
    """The rows of an iterable's items, all of one shape and dtype."""
    index, first = 0, None
    for item in inputs:
        for row in zip(*split(item, found, index), strict=True):
            here = [(leaf.shape, leaf.dtype) for leaf in row]
            first = here if first is None else first
            if here != first:
                raise SampleError(
                    f"All samples must share one shape and dtype: sample 0 has {_described(first)}, sample {index} has "
                    f"{_described(here)}. Resize or crop them first."
                )
            yield row
            index += 1


def _described(leaves: Sequence[tuple[tuple[int, ...], Any]]) -> str:
    return ", ".join(f"{shape} {dtype}" for shape, dtype in leaves)
