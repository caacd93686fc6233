"""Repeated convolution: what n layers without nonlinearity do to a unit impulse, o = w * w * ... * w.

`power` repeats one kernel, `log_power` does so for values of any size, `extended_binomial` counts paths in exact
integers. Values, sums and shapes refer to the input grid, row-major; index 0 is the first pixel of the theoretical
receptive field.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, SupportsIndex, get_args

import jax
import jax.numpy as jnp
import jax.scipy.signal
import numpy as np
import scipy
from jaxtyping import Float

from erfjax.closed_form import kernels, windows
from erfjax.closed_form.kernels import Kernel
from erfjax.errors import KernelError

Method = Literal["auto", "direct", "fft", "tilted"]

LOG_TINY = math.log(np.finfo(np.float64).smallest_subnormal)
LOG_SAFE = 690.0
"""exp(-690) and exp(690) are normal doubles with room for a sum: in between a direct sum stays in range."""

AFFORDABLE = 3e8
"""Multiplications that "auto" spends on a direct sum, a fraction of a second, before it tilts."""


def power(kernel: Kernel, n: SupportsIndex, method: Method = "auto") -> Any:
    """The n-fold convolution w^{*n} of a kernel with itself: the map of n equal layers of stride 1.

        o = w * w * ... * w,    F(o)(ω) = V(ω)^n,    V(ω) = Σ_m w(m) e^{-iω·m}

    `method`:

    * "auto": for w >= 0 the relative error stays below 1e-10 at every point of the support where the value is a normal
      double (smaller ones lose digits or become 0, larger ones inf). Signed kernels go to "direct" or "fft".
    * "direct": sums of products; all digits for w >= 0 as long as no intermediate value leaves the range of a double.
      Takes JAX arrays, tracers included, and is differentiable.
    * "fft": V(ω)^n on one grid. Absolute error about 1e-16 n of the largest value: fast, and right for signed kernels
      of any n.
    * "tilted": windows of exponentially tilted FFTs (see `erfjax.closed_form.windows`), w >= 0.

    For signed kernels only the absolute error is small, in units of (Σ|w|)^n: cancellation loses the rest.

    Args:
        kernel: w, an array of D >= 1 axes, normalised or not.
        n: number of layers, n >= 0; n = 0 is the identity, a single 1.
        method: see above; a JAX array under "auto" takes "direct".

    Returns:
        Array with n (k - 1) + 1 entries along an axis of k taps: float64 NumPy, or JAX for a JAX kernel.

    Raises:
        KernelError: an empty or non-finite kernel, n < 0, or a method that cannot serve this kernel.

    Source: Luo et al. 2016, section 2; convolution theorem.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.power([1, 1, 1], 3)
        array([1., 3., 6., 7., 6., 3., 1.])
    """
    w, n = kernels.array(kernel), kernels.exponent(n)
    if method not in get_args(Method):
        raise KernelError(f"`method` must be one of {', '.join(get_args(Method))}, but got {method!r}.")
    if isinstance(w, jax.Array):
        if method in ("auto", "direct"):
            return _direct(w, n)
        raise KernelError(
            f"method={method!r} works in NumPy: pass np.asarray(kernel), or 'direct', which JAX can trace."
        )
    if method == "auto":
        return _auto(w, n)
    if method == "direct":
        return _direct(w, n)
    if method == "fft":
        return _fft(w, n)
    kernels.non_negative(w, "method='tilted'")
    return _tilted(w, n)


def log_power(kernel: Kernel, n: SupportsIndex) -> Float[np.ndarray, "..."]:
    """Natural logarithm of the n-fold convolution w^{*n} of a kernel w >= 0, whatever its size; -inf off the support.

    The relative error of exp(result) stays below 1e-10 wherever the logarithm itself, a double, can hold that many
    digits (|log| < 10^5 or so); beyond, the result is right to a few ulps.

    Args:
        kernel: w >= 0, an array of D >= 1 axes, normalised or not.
        n: number of layers, n >= 0.

    Returns:
        float64 array with n (k - 1) + 1 entries along an axis of k taps.

    Raises:
        KernelError: an empty, non-finite, traced or negative kernel, or n < 0.

    Source: exponential tilting; H. Cramér, *Sur un nouveau théorème-limite de la théorie des probabilités*, 1938.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.log_power([0.5, 0.5], 10_000)[0].round(6)
        np.float64(-6931.471806)
    """
    w, n = kernels.host(kernel), kernels.exponent(n)
    kernels.non_negative(w, "log_power")
    if not _direct_keeps(w, n, whole=True):
        return _log_tilted(w, n)
    values, exponent = _scaled_direct(w, n)
    with np.errstate(divide="ignore"):
        return np.log(values) - exponent * math.log(2)


def extended_binomial(n: SupportsIndex, k: SupportsIndex) -> list[int]:
    """The number of ways to reach each pixel through n layers of k equal taps: coefficients of (1 + z + ... +
    z^{k-1})^n, exact.

        c(t) = Σ_i (-1)^i C(n, i) C(t + n - 1 - k i, n - 1),    t = 0 .. n (k - 1)

    computed by the four-term recurrence of the differential equation (1 - z)(1 - z^k) p' = n [(1 - z^k) - k z^{k-1} (1
    - z)] p.

    Args:
        n: number of layers, n >= 0.
        k: number of taps, k >= 1.

    Returns:
        n (k - 1) + 1 Python integers of any size, with sum k^n.

    Raises:
        KernelError: n < 0 or k < 1.

    Source: Luo et al. 2016, section 2.1 (uniform kernels).

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.extended_binomial(2, 4)
        [1, 2, 3, 4, 3, 2, 1]
    """
    n, k = kernels.exponent(n), kernels.exponent(k)
    if k < 1:
        raise KernelError("A kernel has k >= 1 taps, but got k = 0.")
    size = n * (k - 1) + 1
    ways = [1]
    for m in range((size - 1) // 2):
        ahead = (m + n) * ways[m]
        if m + 1 >= k:
            ahead += (m + 1 - k - n * k) * ways[m + 1 - k]
        if m >= k:
            ahead += (n * k - n + k - m) * ways[m - k]
        ways.append(ahead // (m + 1))
    return ways + ways[: size - len(ways)][::-1]


def _auto(w: Float[np.ndarray, "..."], n: int) -> Float[np.ndarray, "..."]:
    if (w <= 0).all() and w.any():
        return (-1.0) ** n * _auto(-w, n)
    if (w < 0).any():
        return _direct(w, n) if _direct_cost(w, n) <= AFFORDABLE else _fft(w, n)
    if not _direct_keeps(w, n, whole=False):
        return _tilted(w, n)
    values, exponent = _scaled_direct(w, n)
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(values, -exponent)


def _direct_keeps(w: Float[np.ndarray, "..."], n: int, whole: bool) -> bool:
    """Whether `_scaled_direct` is affordable and keeps all digits of normal results, or with `whole` of all.

    A scaled partial power w^{*j} loses what lies below exp(-708), and the other n - j factors raise that by at most
    exp(690 (1 - j/n)): far below every normal result once j exceeds `depth`. Up to there nothing at all may be lost.
    """
    if _direct_cost(w, n) > AFFORDABLE or not w.any():
        return n == 0
    low, high = _logs(w)
    if n * max(high, -low) < LOG_SAFE:
        return True
    depth = n if whole else min(n, 1 + n * (60 + max(n * high, 0)) / LOG_SAFE)
    return depth * (high - low - LOG_SAFE / n) < LOG_SAFE and len(_factors(w)) == 1


def _logs(w: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """Logarithms of the smallest tap and of the sum of all."""
    with np.errstate(over="ignore"):
        return math.log(w[w > 0].min()), math.log(w.sum())


def _direct_cost(w: Any, n: int) -> float:
    """Multiplications of `_direct`: the squarings in 1-D, one pass over the map per tap and layer otherwise."""
    size = float(math.prod(kernels.support_shape(w.shape, n)))
    return size**2 if w.ndim == 1 else size * n * np.count_nonzero(w) / (w.ndim + 1)


def _direct(w: Any, n: int) -> Any:
    if isinstance(w, jax.Array):
        return _by_squaring(
            w, n, jnp.ones((1,) * w.ndim, w.dtype), functools.partial(jax.scipy.signal.convolve, precision="highest")
        )
    with np.errstate(all="ignore"):
        if w.ndim == 1:
            return _by_squaring(w, n, np.ones(1), np.convolve)
        if len(factors := _factors(w)) > 1:
            return functools.reduce(np.multiply.outer, [_direct(factor, n) for factor in factors])
        result = np.ones((1,) * w.ndim)
        for _ in range(n):
            result = kernels.add_shifted(result, w, (1,) * w.ndim)
        return result


def _scaled_direct(w: Float[np.ndarray, "..."], n: int) -> tuple[Float[np.ndarray, "..."], int]:
    """2^e w^{*n} and e, for w >= 0: sums of products, each partial power w^{*j} scaled to the sum exp(690 j/n) or so.

    Scaling is by powers of two, which costs no digits; where everything stays in range it is left out.
    """
    if n == 0 or n * max(_logs(w)[1], -_logs(w)[0]) < LOG_SAFE:
        return _direct(w, n), 0
    unit = -round(_logs(w)[1] / math.log(2))
    w = np.ldexp(w, unit)
    result, j, exponent = w, 1, 0
    for step in "".join("2+" if bit == "1" else "2" for bit in bin(n)[3:]) if w.ndim == 1 else "+" * (n - 1):
        if step == "2":
            result, j, exponent = np.convolve(result, result), 2 * j, 2 * exponent
        else:
            result, j = kernels.add_shifted(result, w, (1,) * w.ndim), j + 1
        shift = round((LOG_SAFE * j / n - math.log(result.sum())) / math.log(2))
        result, exponent = np.ldexp(result, shift), exponent + shift
    return result, exponent + n * unit


def _by_squaring(w: Any, n: int, one: Any, convolve: Callable[[Any, Any], Any]) -> Any:
    result = one
    for bit in bin(n)[2:]:
        result = convolve(result, result)
        if bit == "1":
            result = convolve(result, w)
    return result


def _fft(w: Float[np.ndarray, "..."], n: int) -> Float[np.ndarray, "..."]:
    """V(ω)^n on the whole support, scaled by Σ|w| so that only the last step can overflow."""
    shape = kernels.support_shape(w.shape, n)
    scale = np.abs(w).sum() or 1.0
    sizes = [scipy.fft.next_fast_len(s, real=True) for s in shape]
    result = scipy.fft.irfftn((scipy.fft.rfftn(w / scale, sizes)) ** n, sizes)[tuple(slice(s) for s in shape)]
    whole = math.floor(n * math.log2(scale))
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(result * 2.0 ** (n * math.log2(scale) - whole), whole)


def _tilted(w: Float[np.ndarray, "..."], n: int) -> Float[np.ndarray, "..."]:
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(_log_tilted(w, n, floor=LOG_TINY - 1))


def _log_tilted(w: Float[np.ndarray, "..."], n: int, floor: float = -math.inf) -> Float[np.ndarray, "..."]:
    """`windows.log_power` on the smallest equivalent kernel: no zero borders or empty rows, products factored."""
    result = np.full(kernels.support_shape(w.shape, n), -np.inf)
    if n == 0:
        return np.zeros_like(result)
    if not w.any():
        return result
    points, _ = kernels.taps(w)
    low, high = points.min(axis=0), points.max(axis=0)
    pitch = np.maximum(np.gcd.reduce(points - low, axis=0), 1)
    core = w[tuple(slice(a, b + 1, p) for a, b, p in zip(low, high, pitch, strict=True))]
    where = tuple(slice(n * a, n * b + 1, p) for a, b, p in zip(low, high, pitch, strict=True))
    factors = _factors(core)
    if len(factors) == 1:
        result[where] = windows.log_power(core, n, floor)
    else:
        result[where] = functools.reduce(np.add.outer, [windows.log_power(factor, n) for factor in factors])
    return result


def _factors(w: Float[np.ndarray, "..."]) -> list[Float[np.ndarray, "..."]]:
    """One kernel per axis if w is exactly their outer product, else w alone."""
    pivot = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(w)), w.shape))
    lines = [np.moveaxis(w, axis, -1)[pivot[:axis] + pivot[axis + 1 :]] for axis in range(w.ndim)]
    lines[1:] = [line / (w[pivot] or 1.0) for line in lines[1:]]
    return lines if np.array_equal(functools.reduce(np.multiply.outer, lines), w) else [w]
