"""The exact set of pixels that units of a plan see: one walk backwards."""

import itertools
import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool

from erfjax.layers.operations import Attend
from erfjax.layers.plan import Parallel, Plan, Series, Shape, backwards
from erfjax.tracing.positions.index_sets import Box, Points, Region, clip, join, mask

FEW = 64  # boxes that are joined one by one; more are drawn on the image


def region(plan: Plan, shape: Shape, unit: Box, clipped: bool = True) -> Region:
    """The pixels of an image that the units in a box see: with padding cut at every layer, or as if nothing were outside."""
    return _walk(plan, shape, (unit,), clipped)


def _walk(plan: Plan, shape: Shape, wanted: Region, clipped: bool) -> Region:
    if isinstance(plan, Series):
        for part, before in backwards(plan, shape):
            wanted = _walk(part, before, wanted, clipped)
        return wanted
    if isinstance(plan, Parallel):
        parts = (_walk(part, shape, wanted, clipped) for part in plan.parts)
        return _union(itertools.chain.from_iterable(parts), shape, clipped)
    if isinstance(plan, Attend):
        attended = (tuple(_attended(plan, points, n) for points, n in zip(box, shape, strict=True)) for box in wanted)
        return _union(attended, shape, clipped)
    pulled = (
        tuple(points.window(*read) for points, read in zip(box, along, strict=True))
        for along in plan.reads(shape)
        for box in wanted
    )
    return _union(pulled, shape, clipped)


def _attended(plan: Attend, points: Points, n: int) -> Points:
    """What positions along an axis attend to."""
    if plan.mask == "full":
        return Points(-math.inf, math.inf)
    if plan.mask == "causal":  # there is nothing before the first position and behind the last one
        return Points(0, min(points.stop, n))
    return points.window(plan.mask, 1, 1, 1 - plan.mask, 1)


def _union(boxes: Iterable[Box], shape: Shape, clipped: bool) -> Region:
    """The exact union, inside the image if it is clipped."""
    if not clipped:
        return join((), tuple(box for box in boxes if all(box)))
    inside = clip(tuple(boxes), shape)
    return join((), inside) if len(inside) <= FEW else _boxes(mask(inside, shape))


def _boxes(held: Bool[np.ndarray, "*space"]) -> Region:
    """The positions where `held` is True, as one box or more for every pattern that its rows (last axis) have."""
    if held.ndim == 1:
        return ((Points.of(0, held),),)
    patterns: dict[bytes, np.ndarray] = {}
    for row in zip(*np.nonzero(held.any(axis=-1)), strict=True):
        patterns.setdefault(held[row].tobytes(), np.zeros(held.shape[:-1], bool))[row] = True
    return tuple(
        (*box, Points.of(0, np.frombuffer(pattern, bool))) for pattern, at in patterns.items() for box in _boxes(at)
    )
