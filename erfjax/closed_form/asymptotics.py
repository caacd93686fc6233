"""What stands between the Gaussian and the exact map: Edgeworth's series, the saddle point, the Berry-Esseen bound.

Notation as in `gaussian`: the map of n layers is (Σw)^n times the law of S_n, a sum of n steps X of mean μ and
covariance Σ.
"""

import itertools
import math
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import scipy
from jaxtyping import Float, Int

from erfjax.closed_form import kernels, tilting, windows
from erfjax.closed_form.cascades import cascade
from erfjax.closed_form.central_limit import has_total
from erfjax.closed_form.convolution import power
from erfjax.closed_form.kernels import Kernel
from erfjax.errors import KernelError

BERRY_ESSEEN = 0.4748
"""The smallest constant proved so far for equal summands with the third absolute moment alone (I. Shevtsova, 2011)."""

SHARP_BERRY_ESSEEN = (0.33554, 0.415)
"""(c, a) of the bound c (ρ + a σ³) / (σ³ √n), better where ρ/σ³ is large (I. Shevtsova, 2011)."""

BORDER = 0.05
"""Variance of the tilted sum, in pixels², under which a point is taken to lie on the border of the support."""


def edgeworth(kernel: Kernel, n: SupportsIndex) -> Float[np.ndarray, "..."]:
    """The Gaussian corrected by the cumulants of orders 3 and 4: Edgeworth's expansion of `power(kernel, n)` up to 1/n.

        (Σw)^n φ(y) [1 + κ₃ He₃(y) / (6 √n) + κ₄ He₄(y) / (24 n) + κ₃² He₆(y) / (72 n)] / √det(n Σ),    y = (nΣ)^{-1/2}
        (m - nμ)

    and its multivariate form for D > 1, all mixed cumulants included, times the volume of a cell of the lattice that the
    taps generate (2 for [1, 0, 1]) and 0 off the support. Errors are o(1/n) of the peak; far out it may be negative.

    Args:
        kernel: w, an array of D >= 1 axes with positive definite covariance (axes of one tap are allowed).
        n: number of layers, n >= 1.

    Raises:
        KernelError: a bad kernel or n, Σw = 0, or no variance along some direction.

    Source: F. Y. Edgeworth 1905; W. Feller, *An Introduction to Probability Theory* vol. 2, chapter XVI.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.edgeworth([1, 1, 1], 3).round(2)
        array([0.87, 3.09, 5.9 , 7.14, 5.9 , 3.09, 0.87])
    """
    w, n = _law(kernel, n, "edgeworth")
    core = _core(w)
    points, weights = kernels.taps(core)
    total = weights.sum()
    p = weights / total
    mean = p @ points
    spread = points - mean
    root = _inverse_root(spread.T @ (p[:, None] * spread))
    correction = _edgeworth_polynomial(p, spread @ root, n)
    support = windows.support(core != 0, n)
    y = (np.argwhere(support) - n * mean) @ root / math.sqrt(n)
    hermite = [scipy.special.eval_hermitenorm(order, y) for order in range(7)]
    factor = np.zeros(len(y))
    for orders in map(tuple, np.argwhere(correction)):
        factor += correction[orders] * math.prod(hermite[order][:, axis] for axis, order in enumerate(orders))
    scale = _cell(points - points[0]) * np.linalg.det(root) / (2 * math.pi * n) ** (len(mean) / 2)
    result = np.zeros(support.shape)
    with np.errstate(over="ignore", under="ignore"):
        result[support] = total**n * scale * np.exp(-(y**2).sum(axis=1) / 2) * factor
    return result.reshape(kernels.support_shape(w.shape, n))


def saddlepoint(kernel: Kernel, n: SupportsIndex, log: bool = False) -> Float[np.ndarray, "..."]:
    """The saddle-point approximation of `power(kernel, n)`: relative error O(1/n) at every point, tails included.

        w^{*n}(m) ≈ h exp(n K(θ) - θ·m) / √det(2π n K''(θ)),    K'(θ) = m/n,    K(θ) = log Σ_j w(j) e^{θ·j}

    where h is the volume of a cell of the lattice that the taps generate (2 for [1, 0, 1]). On the border of the
    support the saddle point is at infinity; there it is taken half a tap inside, which leaves an error of some 10 %.

    Args:
        kernel: w >= 0 that is not confined to a line or plane (axes of one tap are allowed).
        n: number of layers, n >= 1.
        log: give the natural logarithm, for values beyond the range of a double.

    Returns:
        float64 array on the grid of `power`, 0 (or -inf) off the support.

    Raises:
        KernelError: a bad kernel or n, a negative tap, or no variance along some direction.

    Source: H. E. Daniels, *Saddlepoint approximations in statistics*, 1954.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.saddlepoint([1, 1], 4).round(2)
        array([1.09, 4.37, 6.38, 4.37, 1.09])
    """
    w, n = _law(kernel, n, "saddlepoint", signed=False)
    core = _core(w)
    points, weights = kernels.taps(core)
    _inverse_root(np.cov(points.T, bias=True).reshape(core.ndim, core.ndim))
    cell = math.log(_cell(points - points[0]))
    support = windows.support(core > 0, n)
    where = np.argwhere(support)
    values = [
        _saddle(points, np.log(weights), n, block) + cell
        for block in np.array_split(where, 1 + where.shape[0] * points.size // 1_000_000)
    ]
    result = np.full(support.shape, -np.inf)
    result[support] = np.concatenate(values)
    with np.errstate(over="ignore", under="ignore"):
        return (result if log else np.exp(result)).reshape(kernels.support_shape(w.shape, n))


@dataclass(frozen=True)
class BerryEsseen:
    """How far the map of n layers is from its Gaussian, as cumulative distributions.

    Attributes:
        bound: what the Berry-Esseen theorem guarantees.
        distance: the true Kolmogorov distance sup_x |F_n(x) - Φ(x)|, at most the bound.
    """

    bound: float
    distance: float


def berry_esseen(kernel: Kernel, n: SupportsIndex, axis: int | None = None) -> BerryEsseen:
    """The guaranteed and the true distance between the map of n layers, summed up along an axis, and its Gaussian.

        sup_x |P(S_n <= nμ + x σ √n) - Φ(x)| <= min(0.4748 ρ, 0.33554 (ρ + 0.415 σ³)) / (σ³ √n),    ρ = E|X - μ|³

    Args:
        kernel: w >= 0, normalised or not.
        n: number of layers, n >= 1.
        axis: for kernels of more than one axis, the axis whose marginal is meant.

    Raises:
        KernelError: a bad kernel or n, a negative tap, no variance, or an axis that is missing or not there.

    Source: I. Shevtsova, *On the absolute constants in the Berry-Esseen type inequalities*, 2011.

    Example:
        >>> import erfjax as ej
        >>> result = ej.closed_form.berry_esseen([1, 1, 1], 100)
        >>> round(result.bound, 4), round(result.distance, 4)
        (0.055, 0.0244)
    """
    w, n = _law(kernel, n, "berry_esseen", signed=False)
    if (axis is None and w.ndim > 1) or (axis is not None and not -w.ndim <= axis < w.ndim):
        raise KernelError(f"The kernel has {w.ndim} axes: `axis` must name one of them, but got {axis}.")
    p = w.sum(axis=tuple(a for a in range(w.ndim) if a != (axis or 0) % w.ndim))
    p = p / p.sum()
    x = np.arange(len(p)) - p @ np.arange(len(p))
    sigma = math.sqrt(p @ x**2)
    if not sigma:
        raise KernelError(
            "Berry-Esseen needs a kernel with at least two taps along the axis: this one has no variance."
        )
    ratio = float(p @ np.abs(x) ** 3) / sigma**3
    sharp, shift = SHARP_BERRY_ESSEEN
    bound = min(BERRY_ESSEEN * ratio, sharp * (ratio + shift)) / math.sqrt(n)
    mass = power(p, n)
    steps = np.concatenate([[0.0], np.cumsum(mass) / mass.sum()])
    normal = scipy.special.ndtr((np.arange(len(mass)) - n * (p @ np.arange(len(p)))) / (sigma * math.sqrt(n)))
    distance = max(np.abs(steps[1:] - normal).max(), np.abs(steps[:-1] - normal).max())
    return BerryEsseen(bound=float(bound), distance=float(distance))


def _saddle(
    points: Int[np.ndarray, "T D"], logs: Float[np.ndarray, " T"], n: int, where: Int[np.ndarray, "M D"]
) -> Float[np.ndarray, " M"]:
    """Logarithm of the saddle-point density at `where`; half a tap inside where it would run to infinity."""
    inner = (where + 0.5 * points.mean(axis=0)) / (n + 0.5)
    theta, covariance = tilting.tilts(points, logs, inner)
    sharp, exact = tilting.tilts(points, logs, where / n, start=theta, steps=60)
    interior = n * np.linalg.eigvalsh(exact)[:, 0] > BORDER
    theta[interior], covariance[interior] = sharp[interior], exact[interior]
    cumulant = scipy.special.logsumexp(logs + theta @ points.T, axis=1)
    logdet = np.linalg.slogdet(2 * math.pi * n * covariance)[1]
    return n * cumulant - (theta * where).sum(axis=1) - logdet / 2


def _cell(differences: Int[np.ndarray, "T D"]) -> int:
    """Volume of a cell of the lattice that the differences generate, by Gauss-Euclid elimination on integers."""
    rows, volume = [list(map(int, row)) for row in differences], 1
    for axis in range(differences.shape[1]):
        while len(live := [row for row in rows if row[axis]]) > 1:
            pivot = min(live, key=lambda row: abs(row[axis]))
            for row in live:
                if row is not pivot:
                    factor = row[axis] // pivot[axis]
                    row[:] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
        volume *= abs(live[0][axis])
        rows = [row for row in rows if row is not live[0]]
    return volume


def _edgeworth_polynomial(p: Float[np.ndarray, " T"], y: Float[np.ndarray, "T D"], n: int) -> Float[np.ndarray, "..."]:
    """Coefficients, by multi-index, of 1 + n K₃(t/√n) + n K₄(t/√n) + (n K₃(t/√n))²/2 for a standardised law of y."""
    dims = y.shape[1]
    second, third, fourth = (np.zeros((7,) * dims) for _ in range(3))
    for orders in itertools.product(range(5), repeat=dims):
        if 2 <= sum(orders) <= 4:
            target = {2: second, 3: third, 4: fourth}[sum(orders)]
            target[orders] = p @ np.prod(y ** np.array(orders), axis=1) / math.prod(map(math.factorial, orders))
    keep = (slice(7),) * dims
    square = (np.indices(second.shape).sum(axis=0) == 4) * cascade([second, second])[keep]
    result = third / math.sqrt(n) + (fourth - square / 2) / n + cascade([third, third])[keep] / (2 * n)
    result[(0,) * dims] = 1.0
    return result


def _law(kernel: Kernel, n: SupportsIndex, what: str, signed: bool = True) -> tuple[Float[np.ndarray, "..."], int]:
    """A kernel that is the law of a step, and at least one step."""
    w, n = kernels.host(kernel), kernels.exponent(n)
    if not signed:
        kernels.non_negative(w, what)
    has_total(w)
    if n == 0:
        raise KernelError(
            f"{what} describes the sum of at least one step, but n = 0. The identity is `power(kernel, 0)`."
        )
    return w, n


def _core(w: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The kernel without its axes of one tap."""
    if w.size == 1:
        raise KernelError(
            "The kernel needs variance in every direction, but it has a single tap: its map is one point."
        )
    return w.squeeze()


def _inverse_root(covariance: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    """Σ^{-1/2}, for a covariance that is positive in every direction."""
    values, vectors = np.linalg.eigh(covariance)
    if not len(values) or values[0] <= 1e-12 * max(values[-1], 1e-300):
        raise KernelError(
            f"The kernel needs variance in every direction, but its covariance is {covariance.tolist()}. "
            "Project it onto the directions in which it is spread, or use `power`."
        )
    return vectors / np.sqrt(values) @ vectors.T
