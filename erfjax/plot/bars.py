"""Error bars of figures: 95 % intervals of sizes as whiskers, and bands around profiles."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from erfjax.errors import MapError
from erfjax.uncertainty import resampling

RESAMPLES = 1000
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


def whiskers(values: Sequence[float], ends: Sequence[tuple[float, float] | None], scale: float) -> np.ndarray | None:
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


def band(
    field: Any, line: Callable[[np.ndarray], np.ndarray], normalised: bool = True
) -> tuple[np.ndarray, np.ndarray] | None:
    """The pointwise 95 % band of a profile of the map, by resampling batches of samples; None where there are none.

    Args:
        field: measured.
        line: from a map to its profile; linear in maps that are not negative.
        normalised: whether the profile is that of the map divided by its sum.
    """
    if field.batches is None or len(field.batches) < 2:
        return None
    units = resampling.merged(field.batches)
    flat = units.reshape(len(units), -1)
    weights = resampling.draw(np.abs(flat).sum(1), RESAMPLES).weights
    if (
        field.statistic == "rms" or units.min() < 0
    ):  # a root or a magnitude is taken of the mean map: every resample has its own
        means = (weight @ flat for weight in weights)
        maps = (np.sqrt(one) if field.statistic == "rms" else one for one in means)
        found = np.stack([line((one / one.sum() if normalised else one).reshape(field.map.shape)) for one in maps])
    else:
        seen = flat.any(1)
        found = weights[:, seen] @ np.stack([line(unit) for unit in units[seen]])
        found = found / (weights @ flat.sum(1))[:, None] if normalised else found
    estimate = line(field.normalised() if normalised else field.map)
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return np.minimum(low, estimate), np.maximum(high, estimate)
