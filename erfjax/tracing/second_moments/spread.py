"""Along which axes one entry of an array reaches several entries of another, and what an operation makes of that."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from erfjax.tracing.positions.access import Along, AxisView, Fixed, Identity, Lookup, View
from erfjax.tracing.program.equations import Atom

Spread = dict[Atom, frozenset[int]]
"""root of a segment -> the axes along which one of its entries reaches several entries."""


def passage(view: Any, held: Sequence[int], box: Sequence[int]) -> tuple[Any, frozenset[int]]:
    """How spread axes of an operand become those of the result, and along which axes of the operand the result sums."""
    if isinstance(view, Identity):
        return lambda axes: axes, frozenset()
    if not isinstance(view, View):
        everywhere = frozenset(a for a, n in enumerate(box) if n > 1)
        one_to_one = math.prod(held) == math.prod(box)
        summed = frozenset() if one_to_one else frozenset(range(len(held)))
        return lambda axes: everywhere if axes or not one_to_one else frozenset(), summed
    driven = {axis.out: a for a, axis in enumerate(view.axes) if not isinstance(axis, Fixed)}
    copied = {o for o, n in enumerate(box) if n > 1 and (o not in driven or _spreads(view.axes[driven[o]]))}
    summed = frozenset(a for a, axis in enumerate(view.axes) if held[a] > 1 and _sums(axis))

    def moved(axes: frozenset[int]) -> frozenset[int]:
        return frozenset(copied | {o for o, a in driven.items() if a in axes and box[o] > 1})

    return moved, summed


def _spreads(axis: AxisView) -> bool:
    """Whether one position of an operand axis is seen from several positions of the result."""
    if isinstance(axis, Along):
        return axis.size > 1 and (axis.size - 1) * axis.dilation + 1 > abs(axis.stride)
    if isinstance(axis, Lookup):
        return axis.pattern.most_per_column > 1
    return True


def _sums(axis: AxisView) -> bool:
    """Whether one position of the result sees several positions of an operand axis."""
    if isinstance(axis, Along):
        return axis.size > 1 and (axis.size - 1) * axis.dilation + 1 > axis.base
    if isinstance(axis, Lookup):
        return axis.pattern.most_per_row > 1
    return True


def shared(spreads: Iterable[Spread]) -> bool:
    """Whether two of them have a root in common."""
    roots = [root for spread in spreads for root in spread]
    return len(roots) != len(set(roots))


def union(spreads: Iterable[Spread]) -> Spread:
    result: Spread = {}
    for spread in spreads:
        for root, axes in spread.items():
            result[root] = result.get(root, frozenset()) | axes
    return result
