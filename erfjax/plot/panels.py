"""Single panels for a narrow page, each readable on a phone, and a figure as PNG bytes."""

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from erfjax.plot.boxes import theoretical
from erfjax.plot.canvas import CONTOUR, INK, cut, figure, middle
from erfjax.plot.maps import crop, draw_field, effective
from erfjax.plot.side_by_side import depth
from erfjax.typing import Figure

WIDTH = 4.4  # inches: of a panel that a screen of 390 pixels shows with letters of 9 pixels


def as_png(drawing: Any, dpi: int = 150) -> bytes:
    """The bytes of a PNG of a figure.

    Example:
        >>> from erfjax.plot import panels
        >>> with panels.figure(1, 1) as empty:
        ...     panels.as_png(empty)[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def map_panel(field: Any, title: str) -> Figure:
    """A map with its scale, ticks, colour bar, the box of its theoretical field and its contour."""
    shown = cut(field.map)
    rows, columns = shown.of(field.map).shape
    with figure(WIDTH, _height(field.map, rows / columns)) as drawing:
        axes = drawing.subplots()
        image = draw_field(axes, field, shown)
        _close_up(axes, field, shown)
        axes.set_title(f"{title}{shown.words and ', ' + shown.words}")
        bar = drawing.colorbar(image, ax=axes, shrink=0.85)
        bar.set_label(f"{field.formula} / peak")
        bar.ax.axhline(CONTOUR, color=INK[0], linestyle="--", linewidth=0.8)
    return drawing


def section_panel(fields: Mapping[str, Any], axis: int, title: str) -> Figure:
    """The cross-sections of fields of one unit along one axis, those with error bars in a band of ± 2 standard errors.

    All pass through one pixel, the middle of mass of the first field, so that the same pixel stands at the same place.
    """
    through = middle(next(iter(fields.values())).map)
    with figure(WIDTH, 3.2) as drawing:
        axes = drawing.subplots()
        for name, field in fields.items():
            effective(field, axes, name, axis=axis, through=through)
        axes.set_title(title)
    return drawing


def input_panel(field: Any, image: np.ndarray | None, used: Any) -> Figure:
    """The input with the theoretical box, and a solid line around what counts for 4.55 % of the peak or more."""
    mask = field.mask()
    shape = mask.shape[-2:] if mask.ndim > 1 else (1, mask.shape[0])
    with figure(WIDTH, 1.6 if mask.ndim == 1 else WIDTH * min(max(shape[0] / shape[1], 0.4), 1.4) + 0.4) as drawing:
        axes = drawing.subplots()
        theoretical(field, image, used, ax=axes, label="theoretical box")
        axes.get_legend().remove()
        lines = "dashed: theoretical box" + ("" if used is None else "; solid: 4.55 % of the peak")
        axes.set_title(lines)
    return drawing


def error_panel(field: Any, title: str) -> Figure:
    """The standard error of every pixel of a measured map, in parts of the map's peak."""
    shown = cut(field.map)
    rows, columns = shown.of(field.map).shape
    with figure(WIDTH, _height(field.map, rows / columns)) as drawing:
        axes = drawing.subplots()
        values = field.stderr / (np.abs(field.map).max() or 1.0)
        image = draw_field(axes, field, shown, values=values, top=float(values.max()) or 1.0, contour=None)
        _close_up(axes, field, shown)
        axes.set_title(title)
        drawing.colorbar(image, ax=axes, shrink=0.85).set_label(
            "standard error / peak of the map" if field.map.ndim > 1 else "se / peak"
        )
    return drawing


def _close_up(axes: Any, field: Any, shown: Any) -> None:
    """Shows the theoretical box with a margin where it fills less than half of the image along every axis."""
    seen = field.theoretical
    if seen is None or field.map.ndim < 2:
        return
    edges = [(a - (b - a) / 2, b + (b - a) / 2, n) for a, b, n in zip(*seen.clipped, field.map.shape, strict=True)]
    if all(0 < stop - start < n for start, stop, n in edges):
        crop(axes, tuple(slice(max(math.floor(a), 0), min(math.ceil(b), n)) for a, b, n in edges), shown, 1)


def growth_panel(fields: Mapping[str, Any], measure: str) -> Figure:
    """The sizes of layers by depth, effective and theoretical, beside the square root of the number of layers."""
    with figure(WIDTH, 3.4) as drawing:
        axes = drawing.subplots()
        depth(fields, ax=axes, measure=measure)
        n = np.arange(1, len(fields) + 1)
        last = next(reversed(list(fields.values()))).size(measure)
        axes.plot(n - 1, last * np.sqrt(n / len(n)), linestyle=":", linewidth=1.0, color="#777777", label="√n")
        step = -(-len(n) // 12)
        names = [name if len(name) <= 18 else f"…{name[-17:]}" for name in list(fields)[::step]]
        axes.set_xticks(n[::step] - 1, labels=names, rotation=45, ha="right", rotation_mode="anchor")
        axes.legend()
    return drawing


def _height(values: np.ndarray, ratio: float) -> float:
    """The height of a panel with a colour bar, in inches, for a map of this height over width."""
    return 1.6 if values.ndim == 1 else WIDTH * min(max(0.8 * ratio, 0.4), 1.3) + 0.4
