"""What a theoretical receptive field means for an image of a given size.

Richter's terms: a layer is *unproductive* when its input already sees more than the image, and the first such layer is
the *border layer*. Only layers that widen the field count: an activation behind the border wastes nothing.
"""

import dataclasses
import math
from collections.abc import Sequence

from erfjax import summary
from erfjax.errors import GeometryError
from erfjax.fields.rows import LayerRow
from erfjax.typing import Extent


@dataclasses.dataclass(frozen=True, repr=False)
class Advice(summary.Shown):
    """What a theoretical receptive field means for an image size.

    A layer is *unproductive* when it widens the field although every unit that it reads already sees more than the
    image on every axis (M. Richter et al. 2021); layers that see everything by design are left out.

    Attributes:
        image_size: the image asked about, in pixels.
        size: the field of the unit.
        unproductive: names of the unproductive layers, in order.
        border_layer: the first of them, or None.
        feasible: per axis the (smallest, largest) image: below the first some layer is unproductive, above the second
            no unit sees the whole image; None on a global axis.
        ratio: field / image per axis.
    """

    image_size: tuple[int, ...]
    size: tuple[Extent, ...]
    unproductive: tuple[str, ...]
    border_layer: str | None
    feasible: tuple[tuple[int, int] | None, ...]
    ratio: tuple[float, ...]

    def table(self) -> summary.Table:
        """One row per fact."""
        ranges = ", ".join("global" if pair is None else f"{pair[0]} to {pair[1]}" for pair in self.feasible)
        return summary.facts(
            f"advice for an image of {summary.cell(self.image_size)} pixels",
            {
                "theoretical receptive field": self.size,
                "field / image": tuple(f"{ratio:.1%}" if math.isfinite(ratio) else "∞" for ratio in self.ratio),
                "feasible image size": ranges,
                "first border layer": self.border_layer,
                "unproductive layers": len(self.unproductive),
            },
            notes=tuple(f"unproductive: {name}" for name in self.unproductive),
        )


def advise(size: tuple[Extent, ...], layers: Sequence[LayerRow], image_size: tuple[int, ...]) -> Advice:
    """The advice for one field with its layers, from the input to the unit."""
    axes = range(len(image_size))
    before: tuple[Extent, ...] = (1,) * len(image_size)
    widening: list[tuple[str, tuple[Extent, ...]]] = []
    for row in layers:
        given = before if row.input_size is None else row.input_size
        by_design = all(math.isinf(extent) for extent in row.size)
        if not by_design and any(row.size[a] > given[a] for a in axes):
            widening.append((row.name, given))
        before = row.size
    unproductive = tuple(name for name, given in widening if all(given[a] > image_size[a] for a in axes))
    finite = [[int(given[a]) for _, given in widening if math.isfinite(given[a])] for a in axes]
    return Advice(
        image_size=image_size,
        size=size,
        unproductive=unproductive,
        border_layer=unproductive[0] if unproductive else None,
        feasible=tuple(None if math.isinf(size[a]) else (max(finite[a], default=1), int(size[a])) for a in axes),
        ratio=tuple(size[a] / image_size[a] for a in axes),
    )


def image_size_per_axis(image_size: int | Sequence[int] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """One positive size per spatial axis, from one for all, one for each, or None for the default.

    Raises:
        GeometryError: not so.
    """
    if image_size is None:
        return default
    sizes = (image_size,) * len(default) if isinstance(image_size, int) else tuple(image_size)
    if len(sizes) != len(default) or any(n < 1 for n in sizes):
        raise GeometryError(
            f"`image_size` must be a positive number of pixels, or one per spatial axis ({len(default)}), "
            f"but got {image_size}."
        )
    return sizes
