"""Noise images that are spread more evenly than independent ones: antithetic pairs, scrambled Sobol points.

Such inputs depend on each other, so an error bar cannot be made of them one by one. What is independent are whole sets: each is
one draw of `samples=(draws, inputs)`, and intervals count draws. Every single input has the law of an independent one, so the
mean has no bias, whatever the set.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np
import scipy

from erfjax.errors import SampleError
from erfjax.typing import Number

BITS = 30  # of a Sobol point
MOST = 21201  # dimensions of the Sobol numbers of SciPy (S. Joe, F. Kuo 2008)
STREAM = 0x517E  # tells these random numbers from others of the same key


@dataclasses.dataclass(frozen=True)
class Noise:
    """Inputs for `empirical`: noise images, of which every draw of `samples=(draws, inputs)` gets a set of its own.

    Sets depend on the key and the index of the draw alone. Weights that f draws from its key are the same for the whole set; a
    network of given weights is `lambda key, x: net(x)`.

    Attributes:
        shape: of one image, without its batch axis.
        design: "antithetic": pairs that lie opposite to each other about the mean; the number of inputs per draw is even.
            "sobol": scrambled Sobol points, a power of two per draw; at most 21,201 numbers per image.
        law: "normal" or "uniform", of every number.
        mean, deviation: of the law.

    Raises:
        SampleError: an unknown design or law, or sets of a size that the design does not have.

    Source: J. Hammersley, K. Morton 1956 (antithetic variates); A. Owen 1997, C. Lemieux 2009, chapter 6 (randomised
    quasi-Monte Carlo, its error from independent scramblings).

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> f = lambda key, x: jnp.sin(x)
        >>> field = ej.empirical(f, ej.Noise((5, 1), "sobol"), key=jax.random.key(0), samples=(16, 32), layout="NWC")
        >>> (1 + 2.718281828459045**-2) / 2 in field.interval("total")  # E cos²
        True
    """

    shape: tuple[int, ...]
    design: Literal["antithetic", "sobol"]
    law: Literal["normal", "uniform"] = "normal"
    mean: Number = 0.0
    deviation: Number = 1.0

    def block(self, key: Any, draw: int, inputs: int) -> np.ndarray:
        """The set of one draw, (inputs, *shape), float32."""
        if self.design not in ("antithetic", "sobol") or self.law not in ("normal", "uniform"):
            raise SampleError(
                '`Noise` has the designs "antithetic" and "sobol" and the laws "normal" and "uniform", but got '
                f"{self.design!r} and {self.law!r}; independent noise is a function key -> x."
            )
        raw = jax.random.key_data(key) if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) else key
        rng = np.random.default_rng([*np.asarray(raw, np.uint32).ravel().tolist(), STREAM, draw])
        size = math.prod(self.shape)
        if self.design == "antithetic":
            if inputs < 2 or inputs % 2:
                raise SampleError(
                    f"Antithetic inputs come in pairs: samples=(draws, inputs) with an even number of inputs, but got {inputs}."
                )
            half = (
                rng.standard_normal((inputs // 2, size))
                if self.law == "normal"
                else _even(rng.random((inputs // 2, size)))
            )
            found = np.stack([half, -half], 1)
        else:
            if inputs < 2 or inputs & (inputs - 1):
                raise SampleError(
                    "Sobol points are balanced in powers of two: samples=(draws, inputs) with 2, 4, 8 ... inputs, but got "
                    f"{inputs}."
                )
            if size > MOST:
                raise SampleError(
                    f'Sobol points have at most {MOST:,} numbers, but got {size:,}: take design="antithetic".'
                )
            points = scipy.stats.qmc.Sobol(size, bits=BITS, rng=rng).random(inputs) + 2.0 ** -(BITS + 1)
            found = scipy.stats.norm.ppf(points) if self.law == "normal" else _even(points)
        scaled = float(self.mean) + float(self.deviation) * found
        return scaled.reshape(inputs, *self.shape).astype(np.float32)

    def blocks(self, key: Any, inputs: int) -> Iterator[np.ndarray]:
        """The sets of all draws in order."""
        draw = 0
        while True:
            yield self.block(key, draw, inputs)
            draw += 1


def _even(uniform: np.ndarray) -> np.ndarray:
    """Uniform numbers of mean zero and variance one, from those between zero and one."""
    return math.sqrt(12) * (uniform - 0.5)
