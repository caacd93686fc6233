"""From gradients to the statistic of one sample, without losing small numbers.

Squares of single-precision gradients underflow long before the gradients do. So a sample is scaled by a power of two,
which is exact, such that its largest gradient is in [1/2, 1); the map travels with that exponent, and the host undoes
the scaling in float64, exactly again. `order` is the degree of the statistic: scaling g by c scales the statistic by c
** order.
"""

from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int, Num

from erfjax.errors import SampleError
from erfjax.layouts import Layout
from erfjax.typing import Statistic

STATISTICS = {
    "square": lambda g: g * g,
    "rms": lambda g: g * g,  # the root is taken of the mean over samples, in `finish`
    "abs": jnp.abs,
    "relu": lambda g: jnp.maximum(g, jnp.zeros((), g.dtype)),
    "mean": lambda g: g,
    "share": lambda g: g * g,  # divided by their sum over the whole map, in `reduce`
}


def check_statistic(statistic: str) -> Statistic:
    """The statistic, if there is one of that name.

    Raises:
        SampleError: there is none.
    """
    if statistic == "signed":
        raise SampleError('`statistic` "signed" is called "mean": E[g].')
    if statistic not in STATISTICS:
        raise SampleError(f"`statistic` must be one of {', '.join(STATISTICS)}, but got {statistic!r}.")
    return cast(Statistic, statistic)


def order(statistic: Statistic) -> int:
    """The degree of the statistic before its final root: 2 for squares, 0 for shares of them, 1 otherwise."""
    return {"square": 2, "rms": 2, "share": 0}.get(statistic, 1)


def reduce(
    gradients: Float[Array, "probes *input"], statistic: Statistic, layout: Layout
) -> tuple[Float[Array, "*space"], Int[Array, ""], Bool[Array, ""]]:
    """The statistic of one sample: taken per entry, summed over probes, batch and input channels.

    For "share" the squares are then divided by their sum over all pixels, so every sample counts alike, whatever its gain; a
    sample without any gradient stays zero. Its mean is the mean share, E[g²/Σg²]. That is not the normalised mean E[g²]/ΣE[g²]:
    there a sample counts by its total. The two agree if shape and total of a sample are independent, and differ by
    -Cov(share, total)/E[total] per pixel otherwise. Shares lie between zero and one, so their mean has no heavy tail.

    Returns:
        The scaled map, the exponent e of the scale (the gradients were multiplied by 2**-e), and whether all are
        finite.
    """
    g = gradients.astype(np.promote_types(gradients.dtype, np.float32))
    largest = jnp.max(jnp.abs(g))
    exponent = jnp.frexp(largest)[1].astype(jnp.int32)
    limit = jnp.finfo(g.dtype).maxexp - 2  # so that 2**-e is a normal number
    exponent = jnp.clip(exponent, -limit, limit)
    axes = (0, *(axis + 1 for axis in layout.summed()))
    map = STATISTICS[statistic](jnp.ldexp(g, -exponent)).sum(axes)
    if statistic == "share":
        map = map / jnp.where(largest > 0, map.sum(), 1)
    return map, exponent, jnp.isfinite(largest)


def mean(maps: Any, exponents: Any, degree: int, count: int) -> tuple[Any, Any]:
    """The sum of scaled maps along the first axis, divided by `count`, as one scaled map with the largest of their exponents.

    Args:
        maps: (rows, ..., *space).
        exponents: (rows, ...).
        degree: see `order`.
    """
    alive = maps.any(tuple(range(exponents.ndim, maps.ndim)))
    top = jnp.where(alive, exponents, exponents.min(0, keepdims=True)).max(0, keepdims=True)
    powers = (degree * (exponents - top)).reshape(*exponents.shape, *(1,) * (maps.ndim - exponents.ndim))
    return jnp.ldexp(maps, powers).sum(0) / count, top[0]


def restore(
    maps: Num[np.ndarray, "units *space"], exponents: Int[np.ndarray, " units"], degree: int
) -> Float64[np.ndarray, "units *space"]:
    """The unscaled float64 maps of one sample, one per unit."""
    powers = exponents.astype(np.int64).reshape(-1, *(1,) * (maps.ndim - 1)) * degree
    return np.ldexp(maps.astype(np.float64), powers)


def finish(
    mean: Float64[np.ndarray, "*space"], stderr: Float64[np.ndarray, "*space"] | None, statistic: Statistic
) -> tuple[Float64[np.ndarray, "*space"], Float64[np.ndarray, "*space"] | None]:
    """The map and its standard error from those of the mean over samples: the root of both for "rms" (delta method)."""
    if statistic != "rms":
        return mean, stderr
    root = np.sqrt(mean)
    if stderr is None:
        return root, None
    return root, np.divide(stderr, 2 * root, out=np.zeros_like(stderr), where=root > 0)
