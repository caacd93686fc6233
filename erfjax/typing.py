"""The names of types that signatures share: options as Literals, arrays as jaxtyping aliases, callables as Protocols."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

Statistic = Literal["square", "rms", "abs", "relu", "mean", "share"]
"""What is averaged over samples, per input channel and then summed over channels: E[g²], its root, E|g|, E[max(g, 0)], E[g];
"share" is g² divided by its sum over the whole map of the sample."""

Channels = int | np.integer | Literal["sum", "frobenius", "random-signs"]
"""Which output channels of the unit are differentiated: "sum" all with one cotangent of ones, an integer one of them,
"frobenius" every one by itself (their statistics are summed), "random-signs" all with a random sign each: for squares an
unbiased and much cheaper estimate of "frobenius"."""

Gates = Literal["data", "mean-field"]
Weights = Literal["given", "exchangeable"]
Positions = Literal["auto", "apart", "together", "band", "matrix"]
Coverage = Literal["exact", "approximate", "measured"]
Averages = Literal["inputs", "weights", "inputs and weights"]
"""What the mean of an effective field is taken over; None stands for no mean (one network, one input) or for unknown."""

Map = Float[np.ndarray, "*space"]
"""A receptive-field map: float64, the spatial shape of the input."""

ArrayLike = np.ndarray | jax.Array
"""An array of NumPy or of JAX."""

Shaped = np.ndarray | jax.Array | jax.ShapeDtypeStruct
"""An array, or only its shape and dtype."""

Function = Callable[..., Array]
"""A function that JAX can trace: of an array, or of a random key and an array."""

Unit = int | np.integer | tuple[int | np.integer, ...] | np.ndarray | None
"""A zero-based spatial index of the output, one integer per spatial axis; None is the centre n // 2. A list is several units."""

Given = Any
"""An argument that a function checks by itself, because its error says more than a type does; its overloads have the types."""

Tree = PyTree
"""A tuple or dict of arrays (fields), nested or not."""

Number = float | int | np.number
"""A real number, spelled out: where annotations are checked as a program runs, an integer is no float."""

Extent = int | float
"""An integer number of pixels, or a float infinity on an axis that is seen globally."""

Progress = bool | Callable[[str], None] | None
"""Whether to show a bar, or a function that takes lines for a log; None shows a bar on a terminal."""

JSON = dict[str, Any]

Option = Number | str | Sequence[int | float] | None
"""An option of a measure: a threshold, a fraction, a word, the indices of a pixel."""

Figure = Any
"""A `matplotlib.figure.Figure`; only `plot` imports matplotlib."""

Axes = Any
"""A `matplotlib.axes.Axes`."""
