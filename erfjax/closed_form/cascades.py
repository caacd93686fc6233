"""Chains of different layers: unequal kernels, strides and dilations, on the grid of the input.

The layers stand in the order input -> output. Between layer l and the input lie j_{l-1} = s_1 ... s_{l-1} pixels per
step, so its taps, d_l of its own input apart, are j_{l-1} d_l input pixels apart: the map is the convolution of all
kernels spread out in this way.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.signal
import numpy as np
import scipy
from jaxtyping import Float

from erfjax.closed_form.kernels import Kernel, add_shifted, array, namespace
from erfjax.errors import KernelError

CANCELLATION = 1e3
"""How far the terms of a signed chain may exceed its map before the product is taken in Fourier space."""


def cascade(kernels: Sequence[Kernel], strides: Any = 1, dilations: Any = 1) -> Any:
    """The map on the input grid of one unit behind a chain of different layers, in the order input -> output.

        T = Σ_l j_{l-1} d_l X_l,    j_l = s_1 ... s_l:    the l-th kernel acts with its taps j_{l-1} d_l pixels apart

    Non-negative kernels lose no digits. Partial products of signed ones may exceed the result by many orders of
    magnitude (float32 loses the flat field of `laws.flat_kernels` near 12 layers, float64 near 30); such chains are
    multiplied in Fourier space, where each frequency keeps its digits, with an absolute error of some 1e-15 times the
    number of layers and the largest value.

    Args:
        kernels: all of the same dimension D; if one is a JAX array the whole chain is computed, and can be traced, in
            JAX.
        strides: one integer, one per layer, or one per layer and axis. The last stride moves the unit, not its map.
        dilations: likewise; a dilation of d puts d - 1 holes between taps.

    Returns:
        Array with 1 + Σ_l j_{l-1} d_l (k_l - 1) entries per axis, the theoretical receptive field of the chain.

    Raises:
        KernelError: no layers, kernels of different dimension, strides or dilations that are not positive integers.

    Source: Araujo et al. 2019 for the spacing; Luo et al. 2016, section 2.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.cascade([[1, 1], [1, 2, 1]], strides=2)
        array([1., 1., 2., 2., 1., 1.])
    """
    arrays, steps = chain(kernels, strides, dilations)
    result: Any
    if namespace(*arrays) is jnp:
        result = jnp.ones((1,) * arrays[0].ndim, arrays[0].dtype)
        for w, step in zip(arrays, steps, strict=True):
            spread = jax.lax.pad(w, jnp.zeros((), w.dtype), [(0, 0, s - 1) for s in step])
            result = jax.scipy.signal.convolve(result, spread, precision="highest")
        return result
    result = np.ones((1,) * arrays[0].ndim)
    with np.errstate(all="ignore"):
        for w, step in zip(arrays, steps, strict=True):
            result = add_shifted(result, w, step)
        kept = np.abs(result).max() >= math.prod(float(np.abs(w).sum()) for w in arrays) / CANCELLATION
    return result if kept or all((w >= 0).all() for w in arrays) else _by_spectra(arrays, steps, result.shape)


def chain(kernels: Sequence[Kernel], strides: Any, dilations: Any) -> tuple[list[Any], list[tuple[int, ...]]]:
    """The kernels of a chain as arrays of one kind, and per layer the distance j d between taps along each axis."""
    if len(kernels) == 0:
        raise KernelError("A chain needs at least one kernel: the identity is [1].")
    arrays = [array(w) for w in kernels]
    if len({w.ndim for w in arrays}) > 1:
        raise KernelError(f"All kernels of a chain need the same number of axes, but got {[w.ndim for w in arrays]}.")
    traced = [w for w in arrays if isinstance(w, jax.Array)]
    if traced:
        arrays = [jnp.asarray(w, traced[0].dtype) for w in arrays]
    dims = arrays[0].ndim
    jump, steps = (1,) * dims, []
    for stride, dilation in zip(
        _per_layer(strides, len(arrays), dims, "strides"),
        _per_layer(dilations, len(arrays), dims, "dilations"),
        strict=True,
    ):
        steps.append(tuple(j * d for j, d in zip(jump, dilation, strict=True)))
        jump = tuple(j * s for j, s in zip(jump, stride, strict=True))
    return arrays, steps


def _by_spectra(arrays: list[Any], steps: list[tuple[int, ...]], shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """The chain as a product of transfer functions, with a binary exponent per frequency so that none overflows."""
    sizes = [scipy.fft.next_fast_len(s, real=True) for s in shape]
    product, exponents = np.ones((1,) * len(shape), dtype=complex), np.zeros((1,) * len(shape), dtype=int)
    for w, step in zip(arrays, steps, strict=True):
        product = product * scipy.fft.rfftn(add_shifted(np.ones((1,) * w.ndim), w, step), sizes)
        shift = np.frexp(np.abs(product))[1]
        product, exponents = product * np.exp2(-shift), exponents + shift
    top = int(exponents[product != 0].max(initial=-1_000_000))
    with np.errstate(over="ignore", under="ignore"):
        result = scipy.fft.irfftn(product * np.exp2(exponents - top), sizes)
        return np.ldexp(result[tuple(slice(s) for s in shape)], top)


def _per_layer(values: Any, count: int, dims: int, name: str) -> list[tuple[int, ...]]:
    """One tuple of D positive integers per layer."""
    rows = list(values) if isinstance(values, Sequence | np.ndarray) else [values] * count
    if len(rows) != count:
        raise KernelError(
            f"`{name}` must be one integer or one entry per layer ({count}), but has {len(rows)} entries."
        )
    result = [tuple(row) if isinstance(row, Sequence | np.ndarray) else (row,) * dims for row in rows]
    for row in result:
        if len(row) != dims or any(not isinstance(s, int | np.integer) or s < 1 for s in row):
            raise KernelError(f"`{name}` must be positive integers, one per axis ({dims}), but a layer has {row}.")
    return [tuple(int(s) for s in row) for row in result]
