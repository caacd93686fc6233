"""The tail of a sample: a generalised Pareto distribution fitted to its largest values, and what its shape k̂ says of the mean.

With k ≥ 1/2 the variance does not exist, with k ≥ 1 the mean does not. A finite sample feels that earlier: a mean of S values
is not to be trusted where k̂ > 1 - 1/log10(S) or k̂ > 0.7 (A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry 2024).
"""

import math

import numpy as np
from jaxtyping import Float

LEAST_TAIL = 5  # values, fewer have no shape
PRIOR_WEIGHT, PRIOR_SHAPE = 10, 0.5  # ten values' worth of k = 1/2 steady the fit of a short tail
LARGEST_SHAPE = 0.7


def tail_length(count: int) -> int:
    """How many of so many values belong to the tail: min(count / 5, 3 √count).

    Source: A. Vehtari et al. 2024, section 6.

    Example:
        >>> from erfjax.uncertainty.pareto import tail_length
        >>> tail_length(100), tail_length(10_000)
        (20, 300)
    """
    return math.ceil(min(count / 5, 3 * math.sqrt(count)))


def fit(excesses: Float[np.ndarray, " values"]) -> tuple[float, float]:
    """Shape k and scale σ of a generalised Pareto distribution, density (1 + k x/σ)^(-1 - 1/k) / σ.

    An approximate posterior mean over a grid of the profile likelihood, without the weak prior on k that `shape` adds.

    Args:
        excesses: positive values above a threshold, in any order, at least five.

    Returns:
        (k, σ), σ in the units of the excesses.

    Source: J. Zhang, M. Stephens, Technometrics 51, 2009.

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.pareto import fit
        >>> u = (np.arange(2000) + 0.5) / 2000
        >>> k, sigma = fit(3 * (u**-0.4 - 1) / 0.4)
        >>> round(k, 2), round(sigma, 1)
        (0.4, 3.0)
    """
    x = np.sort(np.asarray(excesses, np.float64))
    n = len(x)
    grid = 1 - np.sqrt((30 + int(math.sqrt(n))) / (np.arange(30 + int(math.sqrt(n))) + 0.5))
    b = 1 / x[-1] + grid / (3 * x[int(n / 4 + 0.5) - 1])
    shapes = np.log1p(-b[:, None] * x).mean(1)
    likelihood = n * (np.log(-b / shapes) - shapes - 1)
    weights = np.exp(likelihood - likelihood.max())
    mean = float((b * weights).sum() / weights.sum())
    k = float(np.log1p(-mean * x).mean())
    return k, -k / mean


def shape(largest: Float[np.ndarray, " values"], count: int) -> float:
    """k̂ of a sample of `count` non-negative values of which these are the largest; NaN where they have no tail.

    Args:
        largest: the largest values, in any order, at least one more than the tail holds (fewer shorten the tail).
        count: how many values there are.

    Returns:
        The shape of the tail above the largest value outside it, drawn towards 1/2 by a weak prior.

    Source: A. Vehtari et al. 2024, section 6 and appendix G.

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.pareto import shape
        >>> u = (np.arange(1000) + 0.5) / 1000
        >>> round(shape(u**-0.9, 1000), 1), round(shape(-np.log(u), 1000), 1)
        (0.8, 0.1)
    """
    values = np.sort(np.asarray(largest, np.float64))
    length = min(tail_length(count), len(values) - 1)
    if length < LEAST_TAIL:
        return math.nan
    excesses = values[-length:] - values[-length - 1]
    excesses = excesses[excesses > 1e-12 * values[-1]]
    if len(excesses) < LEAST_TAIL:
        return math.nan
    k = fit(excesses)[0]
    return (len(excesses) * k + PRIOR_WEIGHT * PRIOR_SHAPE) / (len(excesses) + PRIOR_WEIGHT)


def largest_shape(count: int) -> float:
    """The largest k̂ with which a mean of so many values can be trusted: min(1 - 1/log10(count), 0.7).

    Source: A. Vehtari et al. 2024, section 3.2.4.

    Example:
        >>> from erfjax.uncertainty.pareto import largest_shape
        >>> largest_shape(100), largest_shape(100_000)
        (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(max(count, 11)), LARGEST_SHAPE)


def samples_for(k: float) -> float:
    """How many samples a tail of shape k needs before its mean can be trusted, 10^(1 / (1 - max(k, 0))); infinite from k = 1.

    Source: A. Vehtari et al. 2024, section 3.2.3.

    Example:
        >>> from erfjax.uncertainty.pareto import samples_for
        >>> samples_for(0.5), samples_for(1.2)
        (100.0, inf)
    """
    return 10.0 ** (1 / (1 - max(k, 0.0))) if k < 1 - 1 / 300 else math.inf
