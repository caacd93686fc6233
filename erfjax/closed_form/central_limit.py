"""Moments of a kernel and the central limit.

A kernel w with total Σw, normalised, is the law of one step X; the map of n layers is (Σw)^n times the law of
S_n = X_1 + ... + X_n, with mean n E X, covariance n Cov X and, axis by axis, cumulants n κ_r. For w >= 0 it tends to a
Gaussian; signed kernels have the same moments but need not tend to anything (see `laws.flat_kernels`).
"""

from dataclasses import dataclass
from typing import Any, SupportsIndex

import jax
import numpy as np
from jaxtyping import Float

from erfjax.closed_form import kernels
from erfjax.closed_form.kernels import Kernel
from erfjax.errors import KernelError


@dataclass(frozen=True)
class Moments:
    """Moments of a kernel as a distribution of offsets, one entry per axis (of the marginal along it), in pixels.

    Attributes:
        total: Σ w.
        mean: first moment E X_a, counted from index 0.
        variance: E (X_a - mean)².
        skewness: κ₃ / κ₂^{3/2}; NaN where the variance is not positive.
        excess_kurtosis: κ₄ / κ₂²; NaN likewise.
        cumulants: (κ₁, κ₂, κ₃, κ₄) of each axis. Cumulants add: n layers have n κ_r.
    """

    total: Any
    mean: tuple[Any, ...]
    variance: tuple[Any, ...]
    skewness: tuple[Any, ...]
    excess_kurtosis: tuple[Any, ...]
    cumulants: tuple[tuple[Any, Any, Any, Any], ...]


jax.tree_util.register_dataclass(Moments)


def moments(kernel: Kernel) -> Moments:
    """Total, mean, variance, skewness, excess kurtosis and first four cumulants of a kernel, axis by axis.

    The kernel is normalised by its total first. Signed kernels are allowed; their variance may be negative.

    Args:
        kernel: w, an array of D >= 1 axes with Σw != 0; a JAX array gives JAX scalars that can be differentiated.

    Raises:
        KernelError: a bad kernel, or Σw = 0, for which no moment exists.

    Example:
        >>> import erfjax as ej
        >>> m = ej.closed_form.moments([1, 1, 1])
        >>> round(m.variance[0], 6), round(m.excess_kurtosis[0], 6)
        (0.666667, -1.5)
    """
    w = kernels.array(kernel)
    xp = kernels.namespace(w)
    total, cumulants = w.sum(), []  # type: Any, list[tuple[Any, Any, Any, Any]]
    if xp is np:
        has_total(w)
    for axis in range(w.ndim):
        p = w.sum(axis=tuple(a for a in range(w.ndim) if a != axis)) / total
        x = xp.arange(w.shape[axis], dtype=w.dtype)
        mean = (p * x).sum()
        second, third, fourth = ((p * (x - mean) ** r).sum() for r in (2, 3, 4))
        cumulants.append((mean, second, third, fourth - 3 * second**2))
    if xp is np:
        total, cumulants = float(total), [(float(a), float(b), float(c), float(d)) for a, b, c, d in cumulants]
    return Moments(
        total=total,
        mean=tuple(row[0] for row in cumulants),
        variance=tuple(row[1] for row in cumulants),
        skewness=tuple(_standardised(xp, row[2], row[1], 1.5) for row in cumulants),
        excess_kurtosis=tuple(_standardised(xp, row[3], row[1], 2.0) for row in cumulants),
        cumulants=tuple(cumulants),
    )


def gaussian(kernel: Kernel, n: SupportsIndex) -> Any:
    """The Gaussian that the central limit theorem puts in place of `power(kernel, n)`, on the same grid and with the
    same sum.

        g(m) ∝ exp(-(m - n μ)·(n Σ)^{-1}·(m - n μ) / 2),    Σ_m g(m) = (Σw)^n

    with the full covariance Σ of the kernel, so diagonal kernels give tilted ellipses. In directions without variance
    the map is one point.

    Args:
        kernel: w, an array of D >= 1 axes, Σw != 0; a JAX array stays in JAX and can be differentiated.
        n: number of layers, n >= 0.

    Raises:
        KernelError: a bad kernel or n, Σw = 0, or a signed kernel whose covariance is not positive.

    Source: Luo et al. 2016, section 2.1 (Lindeberg-Lévy).

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.gaussian([1, 1, 1], 2).round(2)
        array([0.71, 2.19, 3.19, 2.19, 0.71])
    """
    w, n = kernels.array(kernel), kernels.exponent(n)
    xp = kernels.namespace(w)
    if xp is np:
        has_total(w)
    points = xp.asarray(np.argwhere(np.ones(w.shape)), dtype=w.dtype)
    p = w.reshape(-1) / w.sum()
    mean = kernels.dot(p, points)
    spread = points - mean[None]
    covariance = kernels.dot((p[:, None] * spread).T, spread)
    if xp is np and np.linalg.eigvalsh(covariance)[0] < -1e-12:
        raise KernelError(
            f"A Gaussian needs a kernel of positive variance, but this signed one has covariance {covariance.tolist()}."
        )
    inverse = xp.linalg.pinv(covariance, hermitian=True)
    shape = kernels.support_shape(w.shape, n)
    grid = xp.asarray(np.argwhere(np.ones(shape)), dtype=w.dtype)
    offset = grid - n * mean[None]
    scaled = kernels.dot(offset, inverse)
    fixed = ((offset - kernels.dot(scaled, covariance)) ** 2).sum(axis=1) > 1e-4
    exponent = xp.where(fixed, -xp.inf, -(offset * scaled).sum(axis=1) / (2 * max(n, 1)))
    density = xp.exp(exponent - exponent.max())
    return (density * (w.sum() ** n / density.sum())).reshape(shape)


def has_total(w: Float[np.ndarray, "..."]) -> None:
    if abs(w.sum()) <= 1e-14 * np.abs(w).sum():
        raise KernelError(
            "Moments need a kernel whose taps do not sum to 0: it is normalised by its total. Pass |w| or w² instead."
        )


def _standardised(xp: Any, cumulant: Any, variance: Any, power_: float) -> Any:
    """κ_r / κ₂^{r/2}, NaN where the variance is not positive; its derivative is finite or zero either way."""
    spread = variance > 0
    ratio = xp.where(spread, cumulant / xp.where(spread, variance, 1.0) ** power_, xp.nan)
    return float(ratio) if xp is np else ratio
