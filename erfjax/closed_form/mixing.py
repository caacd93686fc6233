"""The laws of blocks that mix positions by more than random kernels: attention, recurrences, residual U-Nets, Mixers.

Each follows from the covariance of the gradients at two positions, K(i, i') = E[g_i g_i'], in the limit of wide layers: random
matrices over channels keep K, what is fixed acts on both sides, K → Mᵀ K M, and branches that random weights keep apart add. The
maps are of E[g²] = K(i, i) for squared gradients with a random sign per channel, as shares that sum to one.
"""

import math
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float

from erfjax.closed_form import kernels
from erfjax.errors import KernelError
from erfjax.typing import Number


def attention_share(
    tokens: SupportsIndex,
    layers: SupportsIndex,
    *,
    unit: Any = None,
    causal: bool = True,
    window: Any = None,
    skip: Number = 1.0,
    branch: Number = 1.0,
) -> Float[np.ndarray, " tokens"]:
    """The share of every token in the gradient of one token behind n layers x → skip · x + branch · attention(x).

    For small scores attention is uniform over what its mask leaves: a matrix C with rows 1/i for j <= i (causal: the Cesàro
        mean), 1/W
    in a causal window, 1/T without a mask. A path that takes k attentions has the amplitude (C^k)(u, j), and random values and
    outputs keep paths of different layers apart, so that the products of skip² I + branch² C⊗C are

        share(j) ∝ Σ_k C(n, k) skip^{2(n-k)} branch^{2k} [(C^k)(u, j)]²,    (C^k)(T, j) ≈ ln(T/j)^{k-1} / ((k-1)! T), causal.

    With a skip connection the last token keeps the share of k = 0 and the logarithm favours the first tokens: a U. Without one
    only k = n is left, and the share falls from the first token on.

    Args:
        tokens: T.
        layers: n.
        unit: the token asked about; None is the last.
        causal: whether a token sees only itself and what is before it.
        window: the latest tokens that a token sees, itself included, where it is causal; None sees all.
        skip, branch: gains of the two paths; 1 and 1 is a residual block, skip=0 has no residual.

    Raises:
        KernelError: a unit outside the tokens, a window below 1 or without a causal mask, gains that are negative or all zero.

    Source: the causal law and its U-shape: Chowdhury 2026, arXiv 2603.10123.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.laws.attention_share(5, 4).round(3).tolist()
        [0.609, 0.119, 0.053, 0.034, 0.185]
    """
    count, n = kernels.exponent(tokens), kernels.exponent(layers)
    at = count - 1 if unit is None else int(unit)
    if not 0 <= at < count:
        raise KernelError(f"`unit` must be one of {count} tokens, but got {unit}: indices are zero-based.")
    if window is not None and not (causal and int(window) >= 1):
        raise KernelError(f"`window` must be 1 or more, under a causal mask, but got {window}.")
    if min(skip, branch) < 0 or max(skip, branch) == 0:
        raise KernelError(f"The gains of the paths must be 0 or more, and not both 0, but got {skip} and {branch}.")
    behind = np.arange(count)[:, None] - np.arange(count)
    reach = count if window is None else int(window)
    seen = (behind >= 0) & (behind < reach) if causal else np.ones((count, count), bool)
    mean = seen / seen.sum(1, keepdims=True)
    row, total = np.eye(count)[at], np.zeros(count)
    for k in range(n + 1):
        total += _binomial(n, k, float(skip), float(branch)) * row**2
        row = row @ mean
    return total / total.sum()


def _binomial(n: int, k: int, skip: float, branch: float) -> float:
    """C(n, k) skip^{2(n-k)} branch^{2k} over (skip² + branch²)^n, which neither over- nor underflows on the way."""
    p = branch**2 / (skip**2 + branch**2)
    if p in (0.0, 1.0):
        return float(k == n * p)
    logs = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p)
    return math.exp(logs + (n - k) * math.log1p(-p))


def window_horizon(window: Number, skip: Number = 0.95, threshold: Number = 0.01) -> float:
    """How far, in tokens, a stack of sliding windows of W tokens sees with layers skip · x + (1 - skip) · attention(x).

        horizon = W ln(threshold) / ln(1 - skip)

    To get D tokens back a signal passes D/W attentions, each of which damps it by 1 - skip: where (1 - skip)^{D/W} falls
    below the
    threshold nothing comes through, however many layers there are. With the defaults this is 1.54 W. It is an estimate: it
    leaves out that
    there are many ways to choose the layers, and `attention_share` counts them.

    Args:
        window: W, in tokens.
        skip: the weight of the shortcut.
        threshold: the part of the signal below which nothing comes through.

    Raises:
        KernelError: skip or threshold outside (0, 1).

    Source: G. Xiao, Why Stacking Sliding Windows Can't See Very Far, 2025.

    Example:
        >>> import erfjax as ej
        >>> round(ej.closed_form.laws.window_horizon(100), 1)
        153.7
    """
    if not (0 < skip < 1 and 0 < threshold < 1):
        raise KernelError(f"`skip` and `threshold` must lie between 0 and 1, but got {skip} and {threshold}.")
    return float(window) * math.log(threshold) / math.log1p(-skip)


def recurrence_gradient(
    decay: Any, lags: SupportsIndex, order: SupportsIndex = 1
) -> Float[np.ndarray, " lags"] | np.ndarray:
    """The gradient of the state of a linear recurrence h_t = A h_{t-1} + x_t by inputs at lags 0, 1, ..., per mode.

    A mode of eigenvalue ρ forgets as ρ^k. In a Jordan block of size m the last entry drives the first through m - 1 others:

        g(k) = C(k, m - 1) ρ^{k-m+1} ≈ k^{m-1} ρ^{k-m+1} / (m - 1)!

    which peaks near k = (m - 1) / ln(1/|ρ|). The gradient's square is the map of one mode; modes with random input and output
    weights add their squares.

    Args:
        decay: ρ, real or complex.
        lags: how many lags, from 0 on.
        order: m, the size of the Jordan block.

    Raises:
        KernelError: an order below 1.

    Source: the entries of powers of a Jordan block, R. Horn, C. Johnson, Matrix Analysis, section 3.2.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.laws.recurrence_gradient(0.5, 5).tolist()
        [1.0, 0.5, 0.25, 0.125, 0.0625]
        >>> ej.closed_form.laws.recurrence_gradient(0.5, 5, order=2).tolist()
        [0.0, 1.0, 1.0, 0.75, 0.5]
    """
    count, m = kernels.exponent(lags), kernels.exponent(order)
    if m < 1:
        raise KernelError(f"A Jordan block has a size of 1 or more, but got {m}.")
    rho = complex(decay) if isinstance(decay, complex | np.complexfloating) else float(decay)
    return np.array([math.comb(k, m - 1) * rho ** (k - m + 1) if k >= m - 1 else 0 * rho for k in range(count)])


class Scales(NamedTuple):
    """The levels of a residual U-Net, the finest first: their share of the map, and their mean square distance from the unit."""

    share: tuple[float, ...]
    distance: tuple[float, ...]

    @property
    def sigma(self) -> float:
        """The root of the mean square distance of the whole map from the unit, along one axis, in pixels."""
        return math.sqrt(sum(s * d for s, d in zip(self.share, self.distance, strict=True)))


def unet_scales(
    levels: SupportsIndex,
    *,
    factor: SupportsIndex = 2,
    layers: SupportsIndex = 1,
    kernel: SupportsIndex = 3,
    ndim: SupportsIndex = 2,
    pooled: bool = True,
) -> Scales:
    """What each level of a residual U-Net has in the map of a unit, and how far from the unit it is.

    Level l is T_l = 1 + down · n random convolutions · T_{l+1} · up, by a factor f: down averages f pixels per axis (or is a
    random
    convolution of f taps and stride f: `pooled=False`), up repeats each f times, and the last level is T = 1. A unit reads
        one coarse
    pixel, random convolutions keep that diagonal, and an average of f^D pixels gives each the amplitude f^{-D}, together the
    energy f^{-D}:

        share_l ∝ f^{-D l} (pooled), 1 (strided)
        distance_l = (f^{2l} - 1) / 6 + n (k² - 1) / 12 Σ_{i=1}^{l} f^{2i}

    per axis, averaged over the phases of the unit. So pooling damps coarse levels as fast as these widen: with L levels σ²
    grows as f^L in one
    dimension, as L in two, and not at all in three; with strided convolutions as f^{2L}/L in any.

    Args:
        levels: how many coarse levels L there are below the finest.
        factor, layers, kernel: f, n and k.
        ndim: D, the number of axes.
        pooled: whether averages lead down.

    Raises:
        KernelError: a negative number of levels or layers, or another number below 1.

    Source: the K-recursion of the documentation, "Laws of today's blocks".

    Example:
        >>> import erfjax as ej
        >>> [round(share, 3) for share in ej.closed_form.laws.unet_scales(3).share]
        [0.753, 0.188, 0.047, 0.012]
    """
    depth, f, n, k, dims = (kernels.exponent(value) for value in (levels, factor, layers, kernel, ndim))
    if min(f, k, dims) < 1:
        raise KernelError(f"`factor`, `kernel` and `ndim` must be 1 or more, but got {f}, {k} and {dims}.")
    weights = [float(f) ** (-dims * level if pooled else 0) for level in range(depth + 1)]
    distances = [
        (f ** (2 * level) - 1) / 6 + n * (k**2 - 1) / 12 * sum(f ** (2 * i) for i in range(1, level + 1))
        for level in range(depth + 1)
    ]
    return Scales(tuple(w / sum(weights) for w in weights), tuple(distances))


def mixer_share(
    tokens: SupportsIndex, layers: SupportsIndex, *, unit: SupportsIndex = 0, branch: Number = 1.0
) -> Float[np.ndarray, " tokens"]:
    """The share of every token in the gradient of one token behind n Mixer blocks.

    Random weights across tokens send the energy of a token to all tokens alike, and weights across channels keep it in place:
    m(j) → m(j) + branch² Σ_i m(i) / T per block. The unit keeps what took no branch across tokens, and the rest is spread evenly:

        share(j) = s δ_uj + (1 - s) / T,    s = (1 + branch²)^{-n}

    Unlike attention there is no favoured end, and unlike convolution no distance: beyond a few blocks the map is flat.

    Args:
        tokens: T.
        layers: n blocks, each x + (a perceptron across tokens), then x + (a perceptron across channels).
        unit: the token asked about.
        branch: the gain of the perceptron across tokens: its E[g²] relative to that of the skip connection is branch².

    Raises:
        KernelError: a unit outside the tokens, or a negative gain.

    Source: the architecture: I. Tolstikhin et al., MLP-Mixer, 2021; the law: the K-recursion of the documentation.

    Example:
        >>> import erfjax as ej
        >>> ej.closed_form.laws.mixer_share(4, 2).tolist()
        [0.4375, 0.1875, 0.1875, 0.1875]
    """
    count, n, at = (kernels.exponent(value) for value in (tokens, layers, unit))
    if not at < count:
        raise KernelError(f"`unit` must be one of {count} tokens, but got {at}: indices are zero-based.")
    if branch < 0:
        raise KernelError(f"The gain of the branch must be 0 or more, but got {branch}.")
    kept = (1 + float(branch) ** 2) ** -n
    result = np.full(count, (1 - kept) / count)
    result[at] += kept
    return result
