"""How many independent samples a sequence is worth: overlapping crops and frames of a video resemble their neighbours."""

import math

import numpy as np
from jaxtyping import Float

FEWEST = 20  # values, fewer show no dependence
SIGNIFICANT = 3.0  # standard errors of the correlation of neighbours


def correlation_time(values: Float[np.ndarray, " values"]) -> float:
    """How many consecutive values count as one for their mean: 1 + 2 Σ ρ(lag); 1 where neighbours do not clearly correlate.

    The sum ends before the first pair of lags whose correlations add to less than zero.

    Args:
        values: in their order.

    Source: C. Geyer, Statistical Science 7, 1992, section 3.3 (initial positive sequence).

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.dependence import correlation_time
        >>> values = np.random.default_rng(0).normal(size=400)
        >>> correlation_time(values), round(correlation_time(np.repeat(values, 5)))
        (1.0, 5)
    """
    count = len(values)
    deviations = np.asarray(values, np.float64) - np.mean(values)
    norm = float(deviations @ deviations)
    if count < FEWEST or norm <= 1e-24 * count * float(np.mean(values)) ** 2:
        return 1.0
    spectrum = np.abs(np.fft.rfft(deviations, 2 * count)) ** 2
    correlations = np.fft.irfft(spectrum, 2 * count)[:count] / norm
    if correlations[1] * math.sqrt(count) < SIGNIFICANT:
        return 1.0
    pairs = correlations[: count // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs < 0)
    return max(1.0, float(2 * pairs[: negative[0] if negative.size else len(pairs)].sum() - 1))
