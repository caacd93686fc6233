"""The squared gradient of a random dense network of finite width: the law of its logarithm, exactly and for large widths.

With zero-mean Gaussian weights, variance 2/fan-in before a ReLU and 1/fan-in without, the squared norm of the gradient is a
product of independent factors, one per layer: a chi-squared variable with one degree for every open gate of the layer, and of
n gates Binomial(n, 1/2) are open behind a ReLU. Its mean stays 1, while its logarithm is about normal with mean -β/2 and
variance β, β = 5 Σ 1/n (ReLU) or 2 Σ 1/n (linear): deep narrow networks have many small gradients and few huge ones, which
carry the mean.

Dense networks only: a convolution averages over positions that share weights, which narrows the law and has no such form.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy

from erfjax.errors import KernelError


@dataclasses.dataclass(frozen=True)
class LogTotal:
    """The law of log T, T the squared norm of the gradient, given that it is not zero.

    Attributes:
        mean, variance: of log T; exp(mean) is the geometric total.
        alive: how often T is not zero: in every layer some gate is open.
        beta: variance for large widths, where the mean is -beta/2 (Hanin, Nica).
    """

    mean: float
    variance: float
    alive: float
    beta: float


def log_total(widths: Sequence[int], inputs: int, activation: str = "relu") -> LogTotal:
    """The law of log T for a dense network, T = ‖∇ₓ Σ_c s_c y_c‖² / (number of outputs), s_c random signs.

    Args:
        widths: units of every layer, from the first to the output; each has the activation behind it.
        inputs: length of x.
        activation: "relu" or "linear".

    Formula: log T = log(ξ_L/n_L) + Σ_{l<L} log(g χ²(ξ_l)/n_l) + log(g χ²(inputs)/inputs) with g = 2 and ξ_l ~ Binomial(n_l, 1/2)
    given ξ_l > 0 for ReLU, g = 1 and ξ_l = n_l for linear networks; E log χ²(k) = ψ(k/2) + log 2, Var log χ²(k) = ψ'(k/2).

    Raises:
        KernelError: no layer, a width below one, or another activation.

    Source: B. Hanin, M. Nica, Communications in Mathematical Physics 376, 2020 (the asymptotic law, and that gates are as good
    as independent coins); the finite sums are ours.

    Example:
        >>> import erfjax as ej
        >>> law = ej.closed_form.log_total([64] * 20, 64)
        >>> round(law.beta, 3), round(law.variance, 3), round(law.mean, 3)
        (1.531, 1.625, -0.786)
    """
    sizes = [int(n) for n in widths]
    if not sizes or min(sizes) < 1 or inputs < 1:
        raise KernelError(f"`widths` and `inputs` must be numbers of units from 1, but got {widths!r} and {inputs!r}.")
    if activation not in ("relu", "linear"):
        raise KernelError(f'The law is known for "relu" and "linear" networks, but got {activation!r}.')
    relu = activation == "relu"
    mean, variance, alive = _log_chi_squared(np.array([inputs]), np.ones(1), inputs)
    for n in sizes[:-1]:
        open_, chance = _open_gates(n, relu)
        more = _log_chi_squared(open_, chance / chance.sum(), n)
        mean, variance, alive = mean + more[0], variance + more[1], alive * chance.sum()
    open_, chance = _open_gates(sizes[-1], relu)
    last, given = np.log(open_ / sizes[-1]), chance / chance.sum()
    mean += float(given @ last) + (len(sizes) * math.log(2) if relu else 0.0)
    variance += float(given @ last**2 - (given @ last) ** 2)
    beta = (5 if relu else 2) * sum(1 / n for n in sizes[:-1]) + 2 / inputs + (1 / sizes[-1] if relu else 0.0)
    return LogTotal(float(mean), float(variance), float(alive * chance.sum()), beta)


def _open_gates(n: int, relu: bool) -> tuple[np.ndarray, np.ndarray]:
    """How many of n gates may be open, and the chances of these numbers, zero left out."""
    if not relu:
        return np.array([n]), np.ones(1)
    counts = np.arange(1, n + 1)
    return counts, scipy.stats.binom.pmf(counts, n, 0.5)


def _log_chi_squared(degrees: np.ndarray, chance: np.ndarray, scale: int) -> tuple[float, float, float]:
    """Mean and variance of log(χ²(k)/scale), k random; and 1."""
    means = scipy.special.digamma(degrees / 2) + math.log(2 / scale)
    mean = float(chance @ means)
    return mean, float(chance @ (scipy.special.polygamma(1, degrees / 2) + means**2)) - mean**2, 1.0
