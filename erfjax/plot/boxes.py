"""The picture of a theoretical field: its box, padding included, and the exact set of pixels inside the image."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from erfjax import summary
from erfjax.plot.canvas import CONTOUR, DASHES, INK, Cut, cut, figure, whole_ticks
from erfjax.plot.maps import box, indices
from erfjax.typing import Axes, Figure, Number

WIDE = 3  # a box of more images than this is not drawn to its ends: the image would be too small to be seen


def theoretical(
    field: Any,
    image: np.ndarray | None = None,
    used: Any = None,
    *,
    ax: Axes | None = None,
    label: str | None = None,
    plane: Mapping[int, int] | None = None,
) -> Figure | Axes:
    """A figure of a `TheoreticalField`: its unclipped box and its exact mask, over `image` (height, width[, 3]).

    Args:
        field: the field.
        image: a picture of the input's size; None shows the mask alone.
        used: the `EffectiveField` of the same unit: a solid line around what counts for 4.55 % of its peak or more.
        ax: matplotlib axes to draw into. Where they have an image already, only the box is added.
        label: of the box in the legend of `ax`, or the title of the figure.
        plane: of three dimensions or more, the index of each axis that is cut away; None cuts through the unit's field.

    Returns:
        The figure, or `ax`.

    Raises:
        MapError: `plane` is not such a plane.

    Example:
        >>> import erfjax as ej
        >>> field = (ej.layers.Conv(3) ** 4).theoretical((32, 24))
        >>> ej.plot.theoretical(field).axes[0].get_title()
        'unit (16, 12) sees 9 × 9 pixels (dashed)'
    """
    mask = field.mask()
    shown = cut(mask * 1.0, _through(field) if plane is None else plane)
    sees = f"unit {indices(field.unit)} sees {' × '.join(summary.cell(s) for s in field.size)} {summary.counted(field)} (dashed)"
    if ax is not None:
        _draw_theory(ax, field, mask, shown, image, used, label or sees)
        ax.legend()
        return ax
    shape = shown.of(mask).shape
    with figure(4.4, 4.4 * min(max(shape[0] / shape[1], 0.4), 1.5) + 0.5) as drawing:
        axes = drawing.subplots()
        _draw_theory(axes, field, mask, shown, image, used, None)
        held = "" if used is None else "\nand uses what the solid line holds"
        axes.set_title((label or sees) + held + (shown.words and f"\n{shown.words}"))
    return drawing


def _through(field: Any) -> dict[int, int] | None:
    """The middle of what a field sees inside the image, for every axis but the last two."""
    cut_away = range(max(len(field.image_shape) - 2, 0))
    start, stop = field.clipped
    return {a: min((start[a] + stop[a]) // 2, field.image_shape[a] - 1) for a in cut_away} or None


def _view(ends: tuple[Number, Number], n: int) -> tuple[Number, Number]:
    """The image and the box; of a box that is much larger than the image, half an image on each side."""
    if ends[1] - ends[0] > WIDE * n:
        return max(ends[0], -n / 2), min(ends[1], 1.5 * n)
    return min(ends[0], 0), max(ends[1], n)


def _draw_theory(
    axes: Axes, field: Any, mask: np.ndarray, shown: Cut, image: np.ndarray | None, used: Any, label: str | None
) -> None:
    """Mask or image, box and the line around what is used."""
    seen = shown.of(mask)
    shape = seen.shape
    style = sum(1 for patch in axes.patches if patch.get_edgecolor()[:3] != (1, 1, 1))
    fresh = not axes.images
    if fresh and image is not None:
        picture = np.asarray(image, dtype=np.float64)
        picture = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]
        picture = (picture - picture.min()) / (np.ptp(picture) or 1.0)
        axes.imshow(np.where(seen[..., None], picture, 0.25 * picture + 0.72))
    elif fresh:
        axes.imshow(seen, cmap="Greys", vmin=0, vmax=2, interpolation="nearest")
    dash, colour = ("--", *DASHES[2:])[style % 4], INK[style % len(INK)]
    rows, columns = box(axes, field, shown.axes, shape, 1, dash, 1.3, label, colour)
    (top, bottom), (left, right) = (_view(ends, n) for ends, n in ((rows, shape[0]), (columns, shape[1])))
    if (fresh or not axes.texts) and (top > rows[0] or bottom < rows[1] or left > columns[0] or right < columns[1]):
        said = "the box goes on beyond this picture"
        axes.annotate(said, xy=(0.5, 0.03), xycoords="axes fraction", ha="center", va="bottom")
    left, *_, right = sorted((*axes.get_xlim(), left - 1.5, right + 0.5))
    top, *_, bottom = sorted((*axes.get_ylim(), top - 1.5, bottom + 0.5))
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    names, units = summary.axis_names(mask.ndim), summary.counted(field)
    whole_ticks(axes.xaxis, axes.yaxis)
    axes.set_xlabel(summary.along(names[shown.axes[-1]], units))
    if mask.ndim == 1:
        axes.set_yticks([])
    else:
        axes.set_ylabel(summary.along(names[shown.axes[0]], units))
    if used is not None and mask.ndim > 1 and min(shape) > 1:
        counts = shown.of(np.abs(used.map))
        for ink, width in (("white", 2.6), (colour, 1.3)):
            axes.contour(counts, levels=[CONTOUR * counts.max()], colors=ink, linewidths=width)
