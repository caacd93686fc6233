"""The jackknife: standard errors of any function of a mean, from the means of disjoint batches of samples.

What all pixels of a sample have in common, its gain for one, stays together in a batch and so cancels where a function is
a ratio. Leaving out one batch at a time serves smooth functions; a function that counts pixels above a threshold needs
half of the batches left out (J. Shao, C. Wu 1989): with one at a time most often no pixel moves, and the error would be zero.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

HALVES = 64  # enough for a standard error that is itself good to 1/sqrt(2 * 64) = 9 %


def without_each(batches: Float[np.ndarray, "batches *shape"]) -> Float[np.ndarray, "batches *shape"]:
    """The mean of all batches but one, for each batch in turn.

    Example:
        >>> import numpy as np
        >>> from erfjax.jackknife import without_each
        >>> without_each(np.array([0.0, 2.0, 4.0]))
        array([3., 2., 1.])
    """
    return (batches.sum(0) - batches) / (len(batches) - 1)


def stderr(values: Float[np.ndarray, "batches *shape"]) -> Float[np.ndarray, "*shape"]:
    """The standard error of a statistic from its `values` without each of B batches in turn.

    Formula: √((B - 1)/B Σ (value - mean)²), over the B values.

    Example:
        >>> import numpy as np
        >>> from erfjax.jackknife import stderr, without_each
        >>> batches = np.array([1.0, 3.0, 8.0])
        >>> bool(np.isclose(stderr(without_each(batches)), batches.std(ddof=1) / 3**0.5))
        True
    """
    return np.asarray(np.sqrt((len(values) - 1) * values.var(0)))


def unbiased(
    whole: float | np.ndarray, values: Float[np.ndarray, "batches *shape"]
) -> Float[np.ndarray, "*shape"] | np.floating:
    """A statistic without its bias of order 1/B, from its value on all batches and its `values` without each in turn.

    Formula: B · whole - (B - 1) · mean of the values (M. Quenouille 1956).

    Example:
        >>> import numpy as np
        >>> from erfjax.jackknife import unbiased, without_each
        >>> batches = np.array([1.0, 3.0, 8.0])
        >>> round(float(unbiased(batches.mean() ** 2, without_each(batches) ** 2)), 9)  # mean² - variance / 3
        11.666666667
    """
    return len(values) * whole - (len(values) - 1) * values.mean(0)


def delete_half(batches: Float[np.ndarray, "batches *shape"], statistic: Callable[[np.ndarray], float]) -> float:
    """The standard error of `statistic(mean of the batches)`, from `HALVES` random choices of half of the batches.

    Formula: √(h/(B - h)) times the standard deviation of the statistic over means of h = B // 2 of the B batches.

    Source: J. Shao, C. Wu 1989, A general theory for jackknife variance estimation.

    Example:
        >>> import numpy as np
        >>> from erfjax.jackknife import delete_half
        >>> delete_half(np.ones((4, 3)), np.sum)
        0.0
    """
    count, rng = len(batches), np.random.default_rng(0)
    half = count // 2
    chosen = (rng.permutation(count)[:half] for _ in range(HALVES))
    values = np.array([statistic(batches[rows].mean(axis=0)) for rows in chosen], dtype=np.float64)
    return float(np.std(values - values[0]) * math.sqrt(half / (count - half)))  # exactly zero if all are equal
