"""Pictures of fields: one theoretical, one effective, two compared."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from erfjax.plot.canvas import CONTOUR, around, draw_map, draw_section, figure, gaussian_of, middle, moments, plane


def effective(field: Any, title: str | None = None) -> Any:
    """A figure of an `EffectiveField`: the map, and its cross-sections along each axis beside the Gaussian of the same σ."""
    spatial, at = field.map.ndim, middle(field.map)
    with figure(7.4 if spatial > 1 else 4.2, 3.1) as drawing:
        panels = drawing.subplots(1, 2 if spatial > 1 else 1, squeeze=False)[0]
        if spatial > 1:
            draw_map(panels[0], field.map)
            panels[0].set_title(title or f"{field.statistic}, unit {_indices(field.unit)}")
            panels[0].set_xlabel(f"dashed: {CONTOUR:.2%} of the peak")
        for axis in range(spatial):
            draw_section(panels[-1], field.map, field.stderr, axis, at, style=axis, label=f"axis {axis}")
        draw_section(
            panels[-1], gaussian_of(field.map), None, -1, at, color="#777777", style=3, label="Gaussian, same σ"
        )
        _zoom(panels[-1], field.map)
        panels[-1].set_title("cross-sections" if field.map.any() else "a dead unit")
        panels[-1].legend()
    return drawing


def _zoom(axes: Any, values: np.ndarray) -> None:
    """Limits a cross-section to where the map is, and names its axis."""
    reach = 4.5 * max(moments(values)[1]) + 1.5
    axes.set(xlabel="pixels from the middle", xlim=(-reach, reach))
    if values.min() >= 0:
        axes.set_ylim(bottom=0)


def comparison(result: Any) -> Any:
    """A figure of a `Comparison`: both maps around their middle, their difference per peak, and their cross-sections."""
    a, b = (field.normalised() for field in (result.a, result.b))
    part = around(np.abs(a) + np.abs(b))
    with figure(11.0, 2.9) as drawing:
        left, right, between, section = drawing.subplots(1, 4, width_ratios=(1, 1, 1.2, 1.3))
        for axes, values, field in ((left, a, result.a), (right, b, result.b)):
            draw_map(axes, values[part])
            axes.set_title(f"{field.coverage}, {field.statistic}")
        difference = plane((b - a)[part]) / np.abs(a).max()
        reach = np.abs(difference).max() or 1.0
        aspect = "auto" if a.ndim == 1 else "equal"
        drawn = between.imshow(difference, cmap="gray", vmin=-reach, vmax=reach, interpolation="nearest", aspect=aspect)
        between.set(title="difference / peak", xticks=[], yticks=[])
        between.spines[["top", "right"]].set_visible(True)
        drawing.colorbar(drawn, ax=between, shrink=0.8)
        for style, (values, field) in enumerate(((a, result.a), (b, result.b))):
            stderr = None if field.stderr is None else field.stderr / abs(field.map.sum())
            draw_section(section, values, stderr, through=middle(a), style=style, label=field.coverage)
        _zoom(section, a)
        section.set_title("cross-section")
        section.legend()
    return drawing


def theoretical(field: Any, image: np.ndarray | None = None, used: Any = None) -> Any:
    """A figure of a `TheoreticalField`: its unclipped box and its exact mask, over `image` (height, width[, 3]).

    With the `EffectiveField` of the same unit as `used`, a line around what counts for 4.55 % of its peak or more.
    """
    from matplotlib.patches import Rectangle

    mask = np.atleast_2d(plane(field.mask()))
    shape = mask.shape
    with figure(4.4, 4.4 * min(max(shape[0] / shape[1], 0.4), 1.5) + 0.4) as drawing:
        axes = drawing.subplots()
        if image is not None:
            shown = np.asarray(image, dtype=np.float64)
            shown = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown[..., :3]
            shown = (shown - shown.min()) / (np.ptp(shown) or 1.0)
            axes.imshow(np.where(mask[..., None], shown, 0.25 * shown + 0.72))
        else:
            axes.imshow(mask, cmap="Greys", vmin=0, vmax=2, interpolation="nearest")
        rows, columns = (_side(field, axis, n) for axis, n in ((-2, shape[0]), (-1, shape[1])))
        corner, size = (columns[0] - 0.5, rows[0] - 0.5), (columns[1] - columns[0], rows[1] - rows[0])
        for colour, width, dash in (("white", 2.6, "-"), ("#111111", 1.3, "--")):
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=width, linestyle=dash))
        axes.set_xlim(min(columns[0], 0) - 1.5, max(columns[1], shape[1]) + 0.5)
        axes.set_ylim(max(rows[1], shape[0]) + 0.5, min(rows[0], 0) - 1.5)
        title = f"unit {_indices(field.unit)} sees {' × '.join(str(s) for s in field.size)} pixels"
        if used is not None:
            counts = np.atleast_2d(plane(np.abs(used.map)))
            for colour, width in (("white", 2.6), ("#111111", 1.3)) if min(counts.shape) > 1 else ():
                axes.contour(counts, levels=[CONTOUR * counts.max()], colors=colour, linewidths=width)
            title += " (dashed)\nand uses what the solid line holds"
        axes.set_title(title)
    return drawing


def _side(field: Any, axis: int, n: int) -> tuple[int | float, int | float]:
    """Start and stop of the field along an axis, the border of the image where it is global or there is no such axis."""
    if len(field.start) < -axis:
        return 0, n
    return max(field.start[axis], -n), min(field.stop[axis], 2 * n)


def _indices(unit: Sequence[int]) -> str:
    return "(" + ", ".join(str(u) for u in unit) + ")"
