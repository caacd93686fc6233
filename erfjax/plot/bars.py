"""Error bars of figures: 95 % intervals of sizes as whiskers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from erfjax.errors import MapError
from erfjax.typing import Number

LEVEL = 0.95


def interval_of(field: Any, measure: str, **options: Any) -> tuple[float, float] | None:
    """The 95 % interval of a size; None of a closed form, and where there is none."""
    if field.batches is None or len(field.batches) < 2:
        return None
    try:
        low, high = field.interval(measure, LEVEL, **options)
    except MapError:
        return None
    return low, high


def whiskers(values: Sequence[float], ends: Sequence[tuple[float, float] | None], scale: Number) -> np.ndarray | None:
    """How far bars reach below and above the values, for `errorbar`; None if there is no interval.

    Args:
        values: as they are drawn.
        ends: their intervals before scaling, or None.
        scale: what the values were multiplied by.

    Example:
        >>> from erfjax.plot.bars import whiskers
        >>> whiskers([20.0, 30.0], [(1.5, 2.25), None], 10).tolist()
        [[5.0, 0.0], [2.5, 0.0]]
    """
    if all(pair is None for pair in ends):
        return None
    pairs = zip(values, ends, strict=True)
    sides = [(0.0, 0.0) if e is None else (v - scale * e[0], scale * e[1] - v) for v, e in pairs]
    return np.maximum(np.array(sides).T, 0)
