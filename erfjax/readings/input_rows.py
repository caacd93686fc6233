"""The rows of an input as a closed form takes them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.errors import SampleError
from erfjax.layouts import Layouts
from erfjax.measurement.inputs import split
from erfjax.readings.options import Options


def rows_of(x: Any, sample: Any, inputs: Layouts, options: Options) -> tuple[Any, ...]:
    """The leaves of the samples along a leading axis, each with a batch of one; for mean field their mean squares, once.

    Raises:
        SampleError: gates are from data and there are none, or a value is not finite.
    """
    leaves, specs = inputs.leaves(x), inputs.leaves(sample)
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    if abstract and options.gates == "data":
        raise SampleError('Gates from data need an input with values: pass an array, or gates="mean-field".')
    if options.gates == "mean-field":
        return tuple(
            np.ones(1, s.dtype) if abstract else _mean_square(a, s) for a, s in zip(leaves, specs, strict=True)
        )
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        rows: Sequence[Any] = [_traced_rows(*pair) for pair in zip(leaves, inputs.letters, strict=True)]
    else:
        rows = split(np.asarray(x) if isinstance(x, list) else x, inputs, 0)
    for row in rows:
        if not isinstance(row, jax.core.Tracer) and not np.isfinite(np.asarray(row, np.float64)).all():
            raise SampleError("The input holds values that are not finite (NaN or infinity): leave these rows out.")
    return tuple(row.astype(spec.dtype) for row, spec in zip(rows, specs, strict=True))


def _mean_square(leaf: Any, spec: Any) -> Any:
    library: Any = jnp if isinstance(leaf, jax.Array) else np
    wide = leaf.astype(np.promote_types(leaf.dtype, np.float32)) if hasattr(leaf, "astype") else np.asarray(leaf)
    return library.mean(library.square(wide))[None].astype(np.promote_types(spec.dtype, np.float32))


def _traced_rows(leaf: Any, letters: str | None) -> Any:
    """The rows of an array that is itself traced."""
    axis = 0 if letters is None else letters.find("N")
    if axis < 0:
        return leaf[None] if leaf.ndim == len(letters or "") else leaf
    return jnp.expand_dims(jnp.moveaxis(leaf, axis, 0), axis + 1)
