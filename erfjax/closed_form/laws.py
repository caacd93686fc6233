"""The growth laws in numbers: how wide the effective receptive field of a chain is, and how it grows with depth.

σ is the standard deviation of the map itself, per axis, in input pixels; with unequal kernels, strides and dilations

    σ² = Σ_l (j_{l-1} d_l)² Var X_l,    uniform windows: Var X = (k² - 1) / 12

so σ = O(√n) while the theoretical field is O(n). The laws of blocks that mix positions otherwise are those of `mixing`. In
every function a layer is a kernel, or an integer k for k equal
taps along the axis.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float

from erfjax import measures
from erfjax.closed_form import kernels
from erfjax.closed_form.cascades import chain
from erfjax.closed_form.central_limit import moments
from erfjax.closed_form.convolution import log_power
from erfjax.closed_form.kernels import Kernel
from erfjax.closed_form.mixing import (
    Scales,
    attention_share,
    mixer_share,
    recurrence_gradient,
    unet_scales,
    window_horizon,
)
from erfjax.errors import KernelError
from erfjax.typing import Number, Statistic

__all__ = [
    "Scales",
    "Slopes",
    "attention_share",
    "corner_gain",
    "flat_kernels",
    "luo_asymptote",
    "luo_size",
    "mixer_share",
    "recurrence_gradient",
    "sigma",
    "skip_peak",
    "skip_sigma",
    "slope",
    "theoretical_size",
    "unet_scales",
    "window_horizon",
]


class Slopes(NamedTuple):
    """Slopes of log(ERF size) and of log(ERF size / TRF size) against log(depth)."""

    size: float
    ratio: float


def sigma(layers: Sequence[int | Kernel], strides: Any = 1, dilations: Any = 1) -> tuple[Any, ...]:
    """The standard deviation of the map of a chain, per axis, in input pixels: σ² = Σ_l (j_{l-1} d_l)² Var X_l.

    Args:
        layers: kernels in the order input -> output; an integer k is a uniform window. JAX kernels give JAX scalars to
            differentiate.
        strides, dilations: one for all, one per layer, or one per layer and axis (pooling: a uniform window with its
            stride).

    Raises:
        KernelError: as `cascade`, or a kernel that sums to 0.

    Example:
        >>> import erfjax as ej
        >>> round(ej.closed_form.laws.sigma([3] * 15)[0], 3)
        3.162
    """
    arrays, steps = chain([_kernel(layer) for layer in layers], strides, dilations)
    variances = [moments(w).variance for w in arrays]
    totals = [sum(s[a] ** 2 * v[a] for s, v in zip(steps, variances, strict=True)) for a in range(arrays[0].ndim)]
    return tuple(
        kernels.namespace(*arrays).sqrt(total) if kernels.namespace(*arrays) is not np else math.sqrt(total)
        for total in totals
    )


def theoretical_size(layers: Sequence[int | Kernel], strides: Any = 1, dilations: Any = 1) -> tuple[int, ...]:
    """The theoretical receptive field of a chain, per axis, in input pixels: 1 + Σ_l j_{l-1} d_l (k_l - 1).

    Args:
        layers, strides, dilations: as for `sigma`.

    Source: Araujo et al. 2019, equation 2.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.laws.theoretical_size([3] * 15, dilations=[1] * 12 + [2, 4, 8])
        (53,)
    """
    arrays, steps = chain([_kernel(layer) for layer in layers], strides, dilations)
    return tuple(
        1 + sum(step[axis] * (w.shape[axis] - 1) for w, step in zip(arrays, steps, strict=True))
        for axis in range(arrays[0].ndim)
    )


def luo_size(
    kernel: int | Kernel, n: SupportsIndex, statistic: Statistic = "square", threshold: Number = measures.LUO_THRESHOLD
) -> float:
    """Luo's size of the exact map of n layers: the D-th root of the number of pixels above `threshold` times the centre
    pixel.

    For random weights the map of E g² is that of the squared kernel profile, uniform as a rule: statistic "square"
    measures it, "rms" its root √(E g²), which is √2 wider. As n grows the size tends to `luo_asymptote(sigma)`, 4.406 σ
    in two dimensions.

    Args:
        kernel: w >= 0 of D axes; an integer k is the k x k uniform kernel.
        n: number of layers.
        statistic, threshold: see above.

    Source: Luo et al. 2016, section 3.

    Example:
        >>> import erfjax as ej
        >>> [round(ej.closed_form.laws.luo_size(3, n), 2) for n in (5, 10, 20, 40)]
        [8.31, 11.7, 16.16, 22.74]
    """
    if statistic not in ("square", "rms"):
        raise KernelError(f'`statistic` must be "square" or "rms", but got {statistic!r}: others have no closed form.')
    logs = log_power(_square(kernel), n)
    root = 1 if statistic == "square" else 2
    return float(measures.luo_size(np.exp((logs - logs.max()) / root), threshold=threshold))


def luo_asymptote(sigma: Any, threshold: Number = measures.LUO_THRESHOLD) -> float:
    """Luo's size of a Gaussian of standard deviations σ: a scalar stands for a round one in two dimensions, 4.406 σ.

        size = (volume of the unit D-ball · Π σ_a)^{1/D} √(2 ln(1 / threshold))

    Args:
        sigma: σ in pixels: a number for a round Gaussian in two dimensions, or one per axis.
        threshold: the part of the peak above which pixels count.

    Example:
        >>> import erfjax as ej
        >>> round(ej.closed_form.laws.luo_asymptote(1.0), 3)
        4.406
    """
    axes = np.array([sigma, sigma] if np.ndim(sigma) == 0 else sigma, dtype=np.float64)
    if not (0 < threshold < 1 and (axes >= 0).all()):
        raise KernelError(f"Expected σ >= 0 and a threshold between 0 and 1, but got {sigma} and {threshold}.")
    dims = len(axes)
    ball = math.pi ** (dims / 2) / math.gamma(dims / 2 + 1)
    return (ball * math.prod(axes.tolist())) ** (1 / dims) * math.sqrt(2 * math.log(1 / threshold))


def slope(
    depths: Sequence[int] | np.ndarray,
    kernel: int | Kernel = 3,
    statistic: Statistic = "square",
    threshold: Number = measures.LUO_THRESHOLD,
) -> Slopes:
    """The growth exponents of the exact maps over a range of depths: least squares in log-log.

    The ratio is to the theoretical size n (k - 1) + 1, so its slope is the slope of the size minus that of log(n (k -
    1) + 1): one measurement seen twice. Both tend to ±1/2, slowly.

    Args:
        depths: at least two numbers of layers.
        kernel, statistic, threshold: as for `luo_size`.

    Raises:
        KernelError: fewer than two different depths.

    Source: Luo et al. 2016, figure 3.

    Example:
        >>> import erfjax as ej
        >>> [round(s, 3) for s in ej.closed_form.laws.slope([5, 10, 20, 40])]
        [0.482, -0.478]
    """
    if len(set(depths)) < 2 or min(depths) < 1:
        raise KernelError(f"A slope needs at least two different depths n >= 1, but got {list(depths)}.")
    sizes = [luo_size(kernel, n, statistic, threshold) for n in depths]
    w = _square(kernel)
    fields = [math.prod(kernels.support_shape(w.shape, int(n))) ** (1 / w.ndim) for n in depths]
    logs = np.log([list(depths), sizes, fields])
    grow, field = (float(np.polyfit(logs[0], row, 1)[0]) for row in logs[1:])
    return Slopes(size=grow, ratio=grow - field)


def corner_gain(k: int | np.integer) -> float:
    """How much wider σ is when all weight sits on the two ends of a window of k taps than when it is spread evenly:
    √(3(k-1)/(k+1)).

    Example:
        >>> import erfjax as ej
        >>> round(ej.closed_form.laws.corner_gain(5), 4)
        1.4142
    """
    if k < 2:
        raise KernelError(f"Corners need a window of k >= 2 taps, but got {k}.")
    return math.sqrt(3 * (k - 1) / (k + 1))


def skip_sigma(kernel: int | Kernel, n: SupportsIndex, layers: int = 1, scale: Number = 1.0) -> tuple[float, ...]:
    """The standard deviation, per axis, of n residual blocks Identity + scale · (a branch of `layers` convolutions).

    The block has the generating function 1 + a V(ω)^m. With p = a/(1 + a) the number of branches taken is Binomial(n,
    p), hence

        σ² = n p m Var X + n p (1 - p) m² E[X - centre]²

    where offsets are counted from the identity's pixel, the centre tap; for centred kernels only the first term
    remains.

    Args:
        kernel: w >= 0 normalised to sum 1 here; an integer k is a uniform window (one axis).
        n: number of blocks.
        layers: convolutions m in each branch.
        scale: a > 0, the gain of the branch; 1 preserves the second moment of He branches.

    Source: Veit et al. 2016 for the ensemble of paths; Luo et al. 2016, section 2.4.

    Example:
        >>> import erfjax as ej
        >>> round(ej.closed_form.laws.skip_sigma(3, 30)[0] / ej.closed_form.laws.sigma([3] * 30)[0], 4)
        0.7071
    """
    n, w, p = kernels.exponent(n), kernels.host(_kernel(kernel)), _share(scale)
    law = moments(w)
    offsets = [mean - (size - 1) // 2 for mean, size in zip(law.mean, w.shape, strict=True)]
    return tuple(
        math.sqrt(n * p * (layers * variance + (1 - p) * (layers * offset) ** 2))
        for variance, offset in zip(law.variance, offsets, strict=True)
    )


def skip_peak(n: SupportsIndex, scale: Number = 1.0) -> float:
    """The share of the map that n residual blocks leave on the identity path, the spike on the centre pixel: (1 - p)^n
    = (1 + a)^{-n}.

    Args:
        n: number of blocks.
        scale: a ≥ 0, the gain of the branch, as for `skip_sigma`.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.laws.skip_peak(3)
        0.125
    """
    return (1 - _share(scale)) ** kernels.exponent(n)


def flat_kernels(depth: SupportsIndex) -> list[Float[np.ndarray, "3"]]:
    """Signed three-tap kernels whose chain is perfectly flat: 2N + 1 equal pixels from N layers, an ERF that grows as
    O(N).

        w_i = (1, -2 cos(iφ), 1),    φ = 2π / (2N + 1),    Π_i (1 - 2 cos(iφ) z + z²) = 1 + z + ... + z^{2N}

    "Always Gaussian, always √n" therefore holds for non-negative weights only. Multiplied in float32 as they come the
    product is lost near N = 12, in float64 near N = 30; `cascade` multiplies signed chains in Fourier space and keeps
    it.

    Args:
        depth: the number of layers N.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.cascade(ej.closed_form.laws.flat_kernels(3)).round(12)
        array([1., 1., 1., 1., 1., 1., 1.])
    """
    count = kernels.exponent(depth)
    return [np.array([1.0, -2 * math.cos(2 * math.pi * i / (2 * count + 1)), 1.0]) for i in range(1, count + 1)]


def _kernel(layer: int | Kernel) -> Any:
    return np.ones(_taps(layer)) if isinstance(layer, int | np.integer) else layer


def _square(kernel: int | Kernel) -> Float[np.ndarray, "..."]:
    k = _taps(kernel) if isinstance(kernel, int | np.integer) else 0
    return np.ones((k, k)) if k else kernels.host(kernel)


def _taps(k: Any) -> int:
    if k < 1:
        raise KernelError(f"A uniform window has k >= 1 taps, but got {k}.")
    return int(k)


def _share(scale: Number) -> float:
    if not scale >= 0:
        raise KernelError(f"The gain of a branch must be 0 or more, but got {scale}.")
    return scale / (1 + scale)
