"""What counts as a kernel here, and where it is computed: NumPy float64 on the host, or JAX when a JAX array is given.

Notation of the package: w(m) are the taps of a kernel, m in Z^D counted from zero, T of them not zero; o = w^{*n} is
the map after n layers and lives on m = 0 .. n (k - 1) along each axis.
"""

import contextlib
import operator
from types import ModuleType
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from erfjax.errors import KernelError

Kernel = Any
"""Whatever becomes an array of D >= 1 axes: NumPy or JAX arrays, nested lists. `host` and `array` refuse the rest."""


def namespace(*arrays: Any) -> ModuleType:
    """The module that computes: `jax.numpy` if any argument is a JAX array (a tracer too), else `numpy`."""
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def array(kernel: Kernel) -> Any:
    """The kernel as a floating array of its own kind: JAX arrays stay in JAX, everything else becomes float64 NumPy.

    Raises:
        KernelError: no axis, no taps, not numbers, or (as far as the values are known) not finite.
    """
    if not isinstance(kernel, jax.Array):
        return host(kernel)
    _check_shape(kernel)
    if jnp.issubdtype(kernel.dtype, jnp.complexfloating):
        raise KernelError(
            "Expected a real kernel, but its entries are complex. Pass its real part, or each part alone."
        )
    with contextlib.suppress(jax.errors.TracerArrayConversionError):
        _check_finite(np.asarray(kernel))
    return kernel if jnp.issubdtype(kernel.dtype, jnp.floating) else kernel.astype(float)


def host(kernel: Kernel) -> Float[np.ndarray, "..."]:
    """The kernel as float64 NumPy, checked.

    Raises:
        KernelError: as for `array`; also for a tracer, whose values the host cannot see.
    """
    try:
        values = np.asarray(kernel)
        if np.iscomplexobj(values):
            raise TypeError("its entries are complex")
        values = values.astype(np.float64)
    except jax.errors.TracerArrayConversionError as error:
        raise KernelError(
            "This closed form needs the values of the kernel, but a traced JAX array came. Call it outside jit and "
            "grad; moments, gaussian, transfer_function, cascade, laws.sigma and power can be traced."
        ) from error
    except (TypeError, ValueError) as error:
        raise KernelError(f"Expected a kernel of real numbers, but got {type(kernel).__name__}: {error}.") from error
    _check_shape(values)
    _check_finite(values)
    return values


def exponent(n: SupportsIndex) -> int:
    """The number of layers n >= 0 as a Python integer."""
    try:
        count = operator.index(n)
    except TypeError as error:
        raise KernelError(f"The number of layers n must be an integer, but got {n!r}.") from error
    if count < 0:
        raise KernelError(
            f"The number of layers n must be 0 or more, but got {count}: a convolution has no negative power."
        )
    return count


def dot(a: Any, b: Any) -> Any:
    """a @ b with all digits of the dtype (accelerators round matrix products of float32 by default)."""
    return jnp.matmul(a, b, precision="highest") if namespace(a, b) is jnp else a @ b


def non_negative(kernel: Float[np.ndarray, "..."], what: str) -> None:
    """Refuses kernels with negative taps on behalf of `what`."""
    if (kernel < 0).any():
        raise KernelError(
            f"{what} needs taps >= 0 (a distribution), but the smallest tap is {kernel.min():g}. "
            "Signed kernels: use power(..., method='direct' or 'fft'), or pass the squared kernel for second moments."
        )


def taps(kernel: Float[np.ndarray, "..."]) -> tuple[Int[np.ndarray, "T D"], Float[np.ndarray, " T"]]:
    """Positions (T, D) and values (T,) of the taps that are not zero, in row-major order."""
    where = np.argwhere(kernel)
    return where, kernel[tuple(where.T)]


def support_shape(shape: tuple[int, ...], n: int) -> tuple[int, ...]:
    """The shape of the n-th power: n (k - 1) + 1 along each axis."""
    return tuple(n * (k - 1) + 1 for k in shape)


def add_shifted(
    map_: Float[np.ndarray, "..."], w: Float[np.ndarray, "..."], step: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """map * w with the taps of w `step` pixels apart, as one shifted copy of the map per tap."""
    result = np.zeros([size + s * (k - 1) for size, s, k in zip(map_.shape, step, w.shape, strict=True)])
    for tap, weight in zip(*taps(w), strict=True):
        result[tuple(slice(m * s, m * s + size) for m, s, size in zip(tap, step, map_.shape, strict=True))] += (
            weight * map_
        )
    return result


def _check_shape(values: Any) -> None:
    if values.ndim == 0 or values.size == 0:
        raise KernelError(
            f"A kernel needs at least one axis and one tap, but its shape is {tuple(values.shape)}. "
            "A single weight w is the kernel [w]."
        )


def _check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise KernelError(
            f"Expected finite taps, but kernel{list(where)} is {values[where]}. Remove NaN and infinity first."
        )
