"""Intervals of sums of independent estimates, each with an interval of its own."""

import numpy as np


def combined(weights: np.ndarray, values: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
    """The interval of Σ w v of independent estimates v from their intervals, which need not be symmetric.

    Formula: L = Σ w v - √Σ (w v - the lesser of w low and w high)², and the same above.

    Args:
        weights: w.
        values: v.
        ends: low and high of each, all of one level.

    Source: G. Zou, A. Donner, Statistics in Medicine 27, 2008, equation 6 ("MOVER").

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.combining import combined
        >>> combined(np.array([1.0, -1.0]), np.array([5.0, 2.0]), np.array([[2.0, 6.0], [2.0, 6.0]]))
        (-2.0, 4.0)
    """
    middle, sides = weights * values, np.sort(weights[:, None] * ends, 1)
    below, above = (float(np.sqrt(((sides[:, i] - middle) ** 2).sum())) for i in (0, 1))
    return float(middle.sum()) - below, float(middle.sum()) + above
