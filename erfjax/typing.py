"""The names of types that signatures share: options as Literals, arrays as jaxtyping aliases, callables as Protocols."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float

Statistic = Literal["square", "rms", "abs", "relu", "signed", "mean"]
"""What is averaged over samples, per input channel and then summed over channels: E[g²], its root, E|g|, E[max(g, 0)],
E[g]; "mean" is the first-moment twin of the analytic reading."""

Gates = Literal["data", "mean-field"]
Weights = Literal["given", "exchangeable"]
Coverage = Literal["exact", "approximate", "measured"]
Averages = Literal["inputs", "weights", "inputs and weights"]
"""What the mean of an effective field is taken over; None stands for no mean (one network, one input) or for unknown."""

Map = Float[np.ndarray, "*space"]
"""A receptive-field map: float64, the spatial shape of the input."""

ArrayLike = np.ndarray | jax.Array
Shaped = np.ndarray | jax.Array | jax.ShapeDtypeStruct
Function = Callable[..., Array]
Unit = int | Sequence[int] | None
"""A zero-based spatial index of the output, one integer per spatial axis; None is the centre n // 2."""

Number = float | int | np.number
"""A real number, spelled out: where annotations are checked as a program runs, an integer is no float."""

Extent = int | float
"""An integer number of pixels, or a float infinity on an axis that is seen globally."""

JSON = dict[str, Any]
