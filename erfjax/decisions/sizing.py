"""`needed` and `match`: is the field large enough, asked backwards and of a pyramid.

An object of o pixels wants a theoretical field of at least o (the unit can see all of it) and an effective field of about o: much
smaller, and the unit sees a part; much larger, and most of what counts lies beside the object. How much of it lies inside is
the share of the map's mass in the box.
"""

import dataclasses
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np
from jaxtyping import Float

from erfjax import summary
from erfjax.calling import briefly
from erfjax.decisions.schedules import DILATIONS, KERNELS, Design, Layer, Spacing, allowed, unrolled
from erfjax.errors import GeometryError, MapError, StackError
from erfjax.fields import EffectiveField
from erfjax.plot import plans
from erfjax.typing import Extent, Figure, Given, Number

WIDTH = 4.0  # standard deviations: ±2 σ hold 95 % of a bell along an axis


def needed(
    *,
    size: int = 1,
    stride: int = 1,
    objects: Given = 0,
    spacing: str = "no holes",
    kernels: Sequence[int] = KERNELS,
    dilations: Sequence[int] = DILATIONS,
) -> Design:
    """The cheapest schedule of convolutions whose fields are large enough.

    Args:
        size: the theoretical field must be at least that large, in pixels.
        stride: of the output, a power of two.
        objects: the effective field of random weights must be at least as wide as the largest of them, in pixels: 4 σ,
            which hold 95 % of its mass along an axis.
        spacing: how far apart the taps of a layer may lie: "no holes", "smooth" or "any".
        kernels, dilations: what a layer may have; strides are 1 or 2.

    Returns:
        A `Design`: `layers`, `trf`, `sigma`, `cost` (multiply-adds per input pixel and pair of channels), `stack()`. No schedule
        of these kernels and dilations is cheaper.

    Raises:
        StackError: sizes that are not positive, or a stride that is no power of two.

    Source:
        W. Luo, Y. Li, R. Urtasun, R. Zemel, Understanding the Effective Receptive Field, NeurIPS 2016 (variances add); the
        search is uniform-cost over (stride, field, variance), dominated states left out.

    Example:
        >>> import erfjax as ej
        >>> found = ej.needed(size=27, stride=1, objects=20)
        >>> str(found), found.trf, found.cost
        ('3 3d3 3d9', 27, 27.0)
    """
    several = objects if isinstance(objects, Sequence) and not isinstance(objects, str) else (objects,)
    largest = max((float(n) if isinstance(n, Number) else math.nan for n in several), default=0.0)
    if size < 1 or stride < 1 or stride & (stride - 1) or not 0 <= largest < math.inf:
        raise StackError(
            "`size` must be a positive number of pixels, `stride` a power of two and `objects` finite, "
            f"but got {size}, {stride} and {objects!r}."
        )
    if spacing not in get_args(Spacing):
        raise StackError(f"`spacing` must be one of {', '.join(map(repr, get_args(Spacing)))}, but got {spacing!r}.")
    if not kernels or not dilations or min(kernels) < 2 or min(dilations) < 1:
        raise StackError(
            f"Kernels of 2 taps or more and positive dilations are needed, but got {tuple(kernels)}, {tuple(dilations)}."
        )
    enough = math.ceil(12 * (largest / WIDTH) ** 2 - 1e-9)  # of 12 σ²
    queue: list[Any] = [
        (0, 0, 1, 1, 0, None)
    ]  # cost in units of 1 / stride², a count that breaks ties, j, TRF, 12 σ², layers
    met: dict[int, list[tuple[int, int]]] = {}
    count = 0
    while queue:
        cost, _, j, trf, value, path = heapq.heappop(queue)
        if any(t >= trf and v >= value for t, v in met.get(j, ())):
            continue
        met.setdefault(j, []).append((trf, value))
        if j == stride and trf >= size and value >= enough:
            return Design(unrolled(path))
        for k in kernels:
            for d in dilations:
                if not allowed(cast(Spacing, spacing), j, d, trf, value):
                    continue
                for s in (1, 2):
                    if j * s <= stride:
                        count += 1
                        spent = cost + (k * stride // (j * s)) ** 2
                        wider, more = trf + j * d * (k - 1), value + (j * d) ** 2 * (k * k - 1)
                        heapq.heappush(queue, (spent, count, j * s, wider, more, (Layer(k, d, s), path)))
    raise StackError("No schedule is large enough.")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Match(summary.Shown):
    """Which level of a pyramid fits which object.

    Attributes:
        levels: the names of the levels, in their order.
        objects: the sizes asked about, one per spatial axis.
        covered: theoretical field over object, the smallest of the axes, per level and object: at least 1 where the unit can
            see all of it.
        inside: the share of the map's mass in a box of that size around the field's centre.
        best: per object the level that sees all of it and has most of its mass inside; where none sees all of it, the one
            that sees most.
    """

    levels: tuple[str, ...]
    objects: tuple[tuple[float, ...], ...]
    covered: Float[np.ndarray, "levels objects"]
    inside: Float[np.ndarray, "levels objects"]
    best: tuple[str, ...]

    def table(self) -> summary.Table:
        """One row per object and level."""
        rows = []
        for o, size in enumerate(self.objects):
            for k, level in enumerate(self.levels):
                chosen = "fits" if level == self.best[o] else ""
                rows.append(
                    (size if k == 0 else "", level, float(self.covered[k, o]), float(self.inside[k, o]), chosen)
                )
        return summary.Table("levels for objects", ("object", "level", "TRF / object", "mass inside", ""), tuple(rows))

    def _brief(self) -> str:
        return ", ".join(f"{size}: {level}" for size, level in zip(self._sizes(), self.best, strict=True))

    def _sizes(self) -> list[str]:
        """The objects as they are written: one number where all axes are equal."""
        return [summary.cell(size[0] if len(set(size)) == 1 else size) for size in self.objects]

    def plot(self) -> Figure:
        """A matplotlib figure: by object, the share of each level's mass inside it; hollow where a level cannot see all of it."""
        return plans.levels(self.levels, self._sizes(), self.inside, self.covered, self.best)


def match(fields: Given, objects: Sequence[Number | Sequence[Number]]) -> Match:
    """Which level of a pyramid fits which object or anchor: by its theoretical field, and by where the mass of its map lies.

    Args:
        fields: the effective field of one unit of each level, such as `ej.analytic` gives: the map of a centre unit, so that
            it is not cut off by the border.
        objects: sizes in pixels, one number or one per spatial axis each.

    Raises:
        MapError: a field without a map or without its theoretical field.
        GeometryError: no fields, or sizes that are not positive.

    Source:
        S. Zhang et al., S³FD: Single Shot Scale-invariant Face Detector, ICCV 2017 (anchors follow effective fields).

    Example:
        >>> import erfjax as ej
        >>> conv = ej.layers.Conv(3)
        >>> levels = {str(n): (conv**n).analytic(image_shape=(101, 101)) for n in (2, 8, 32)}
        >>> ej.match(levels, [4, 12, 40]).best
        ('2', '8', '32')
    """
    if not isinstance(fields, Mapping) or not all(isinstance(field, EffectiveField) for field in fields.values()):
        raise MapError(
            '`fields` must be a dict of effective fields by name, {"p3": ej.analytic(...)}, but got '
            + briefly(fields)
            + "."
        )
    if not fields or not len(objects):
        raise GeometryError("At least one field and one object are needed.")
    rank = next(iter(fields.values())).map.ndim
    sizes = [tuple(float(n) for n in np.broadcast_to(np.asarray(size, float), rank)) for size in objects]
    if not all(0 < n < math.inf for size in sizes for n in size):
        raise GeometryError(f"`objects` must be positive sizes in pixels, but got {list(objects)}.")
    covered, inside = np.zeros((2, len(fields), len(sizes)))
    for k, (name, field) in enumerate(fields.items()):
        if field.theoretical is None or not field.map.sum() > 0:
            raise MapError(f"The field {name!r} has no mass or no theoretical field: give what ej.analytic returns.")
        for o, size in enumerate(sizes):
            extents: tuple[Extent, ...] = field.theoretical.size
            covered[k, o] = min(extent / n for extent, n in zip(extents, size, strict=True))
            inside[k, o] = share_inside(field.map, field.theoretical.centre, size)
    names = tuple(fields)
    best = []
    for o in range(len(sizes)):
        whole = [k for k in range(len(names)) if covered[k, o] >= 1]
        chosen = max(whole, key=lambda k: inside[k, o]) if whole else int(np.argmax(covered[:, o]))
        best.append(names[chosen])
    return Match(names, tuple(sizes), covered, inside, tuple(best))


def share_inside(map: Float[np.ndarray, "*space"], centre: Sequence[Number], size: Sequence[Number]) -> float:
    """The share of a map's mass in a box around a centre; pixels that the box cuts count by the part inside.

    Example:
        >>> import numpy as np
        >>> from erfjax.decisions.sizing import share_inside
        >>> share_inside(np.ones((5, 4)), (2, 1.5), (3, 2))
        0.3
    """
    part = np.asarray(map, float)
    for axis, (c, n) in enumerate(zip(centre, size, strict=True)):
        pixels = np.arange(part.shape[axis])
        weight = np.clip(np.minimum(pixels + 0.5, c + n / 2) - np.maximum(pixels - 0.5, c - n / 2), 0, 1)
        part = part * weight.reshape([-1 if a == axis else 1 for a in range(part.ndim)])
    return float(part.sum() / np.sum(map))
