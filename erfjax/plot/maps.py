"""Pictures of effective fields: one, and two compared.

Maps have ticks in pixels of the input (or in the unit given), a colour bar and the box of the theoretical field. Given axes are
drawn into, so that several fields stand in one picture.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from erfjax import summary
from erfjax.errors import MapError
from erfjax.plot.canvas import (
    COLOURS,
    CONTOUR,
    DASHES,
    INK,
    Cut,
    around,
    cut,
    figure,
    gaussian_of,
    line_through,
    middle,
    whole_ticks,
    widest,
)
from erfjax.typing import Axes, Figure, Number

GREY = "#777777"
KINDS = ("section", "map")
FAR = 100  # images on each side: where a box without end is drawn to


def effective(
    field: Any,
    ax: Axes | None = None,
    label: str | None = None,
    *,
    kind: str = "section",
    axis: int = -1,
    through: Sequence[int] | None = None,
    plane: Mapping[int, int] | None = None,
    spacing: Number = 1,
    units: str | None = None,
) -> Figure | Axes:
    """A figure of an `EffectiveField`: the map, and its cross-sections along each axis beside the Gaussian of the same σ.

    Args:
        field: the field.
        ax: matplotlib axes to draw into; None makes a figure of both.
        label: of the cross-section in the legend of `ax`; the title of a map, or of the figure.
        kind: what is drawn into `ax`: a cross-section with a band of ± 2 standard errors ("section"), or the "map".
        axis: along which the cross-section into `ax` runs.
        through: the pixel that it runs through and is measured from, one for fields that are to stand in place; None is the
            middle of mass of the map.
        plane: of a map of three dimensions or more, the index of each axis that is cut away, as in {0: 5}; None cuts through
            the largest value.
        spacing: the distance between two pixels in `units`.
        units: of every axis; None is pixels, of a sequence tokens (layout "L") or positions.

    Returns:
        The figure, or `ax`.

    Raises:
        MapError: `kind` or `plane` is not one of these.

    Example:
        >>> import erfjax as ej
        >>> field = (ej.layers.Conv(3) ** 4).analytic(image_shape=(32, 24))
        >>> [panel.get_xlabel() for panel in ej.plot.effective(field).axes[:2]]
        ['width in pixels', 'pixels from the middle']
    """
    if kind not in KINDS:
        raise MapError(f"`kind` must be one of {', '.join(KINDS)}, but got {kind!r}.")
    units = summary.counted(field, units)
    if ax is not None and kind == "section":
        return _section(ax, field, label or field.promise, axis, spacing, units, through=through)
    if ax is not None:
        draw_field(ax, field, cut(field.map, plane), spacing, units)
        ax.set_title(label or _title(field))
        return ax
    spatial = field.map.ndim
    with figure(7.8 if spatial > 1 else 4.4, 3.3) as drawing:
        panels = drawing.subplots(1, 2 if spatial > 1 else 1, squeeze=False)[0]
        if spatial > 1:
            shown = cut(field.map, plane)
            image = draw_field(panels[0], field, shown, spacing, units)
            panels[0].set_title(f"{label or _title(field)}{shown.words and ', ' + shown.words}")
            bar = drawing.colorbar(image, ax=panels[0], shrink=0.85)
            bar.set_label(f"{field.formula} / peak")
            bar.ax.axhline(CONTOUR, color=INK[0], linestyle="--", linewidth=0.8)
        names = [f"along {name}" for name in summary.axis_names(spatial)] if spatial > 1 else [field.promise]
        for a, name in enumerate(names):
            _section(panels[-1], field, name, a, spacing, units, bound=False)
        bell, at = gaussian_of(field.map), middle(field.map)
        offset = spacing * (np.arange(bell.shape[-1]) - at[-1])
        look: Any = {"color": GREY, "linestyle": ":", "linewidth": 1.2}
        panels[-1].plot(offset, line_through(bell, at, -1), label="Gaussian, same σ", **look)
        _zoom(panels[-1], field.map, spacing, units)
        title = "cross-sections" if spatial > 1 else label or _title(field)
        panels[-1].set(title=title if field.map.any() else "a dead unit", ylabel=field.formula)
        panels[-1].legend()
    return drawing


def _title(field: Any) -> str:
    return f"{field.promise}, unit {indices(field.unit)}"


def _section(
    axes: Axes,
    field: Any,
    label: str,
    axis: int,
    spacing: Number,
    units: str,
    share: bool = False,
    bound: bool = True,
    through: Sequence[int] | None = None,
) -> Axes:
    """A cross-section through a pixel (None: the middle of mass), in a style of its own, beside those that are there."""
    style = sum(1 for line in axes.lines if line.get_gid() == "section")
    at, scale = middle(field.map) if through is None else through, abs(field.map.sum()) if share else 1.0
    line = line_through(field.map, at, axis) / scale
    offset = spacing * (np.arange(len(line)) - at[axis])
    look: Any = {"color": INK[style % len(INK)], "linestyle": DASHES[style % len(DASHES)], "linewidth": 1.2}
    axes.plot(offset, line, label=label, gid="section", **look)
    ends = field.band(lambda m: line_through(m, at, axis), normalised=share)
    if ends is None and field.stderr is not None:
        error = 2 * line_through(field.stderr, at, axis) / scale
        ends = line - error, line + error
    if ends is not None:
        axes.fill_between(offset, *ends, color=look["color"], alpha=0.2, linewidth=0)
    if bound:
        low, high = _reach(field.map, spacing)
        before = axes.get_xlim() if style else (low, high)
        _across(axes, (min(low, before[0]), max(high, before[1])), spacing, units)
        axes.set_ylabel(f"share of the map, {field.formula}" if share else field.formula)
        axes.autoscale(axis="y")  # again, for a lower limit that was set ended it
        if min(shown.get_ydata().min() for shown in axes.lines) >= 0:
            axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
    return axes


def _across(axes: Axes, ends: tuple[Number, Number], spacing: Number, units: str) -> None:
    """The horizontal axis of a cross-section; what is counted has whole ticks."""
    axes.set(xlabel=f"{units} from the middle", xlim=ends)
    if spacing == 1:
        whole_ticks(axes.xaxis)


def _reach(values: np.ndarray, spacing: Number) -> tuple[Number, Number]:
    """How far a cross-section is shown: to where the map is."""
    reach = spacing * (4.5 * widest(values) + 1.5)
    return -reach, reach


def _zoom(axes: Axes, values: np.ndarray, spacing: Number, units: str) -> None:
    """Limits a cross-section to where the map is, and names its axis."""
    _across(axes, _reach(values, spacing), spacing, units)
    if values.min() >= 0:
        axes.set_ylim(bottom=0)


def draw_field(
    axes: Axes,
    field: Any,
    shown: Cut,
    spacing: Number = 1,
    units: str | None = None,
    *,
    values: np.ndarray | None = None,
    top: Number | None = None,
    norm: Any = None,
    contour: Number | None = CONTOUR,
) -> Any:
    """A map with its ticks and the box of its theoretical field (dotted); returns the image drawn.

    Args:
        axes: to draw into.
        field: whose map it is.
        shown: which plane.
        spacing: the distance between two pixels in `units`.
        units: of both axes; None as in `effective`.
        values: what to draw in place of |map| / peak, of the shape of the map.
        top: the value that is black; None is one, the peak of the map.
        norm: of matplotlib, in place of a linear scale up to `top`.
        contour: the part of the map's own peak at which a dashed line runs; None draws none.
    """
    flat = shown.of(np.abs(field.map) / (np.abs(field.map).max() or 1.0) if values is None else values)
    rows, columns = flat.shape
    extent = tuple(spacing * edge for edge in (-0.5, columns - 0.5, rows - 0.5, -0.5))
    scale: Any = {"norm": norm} if norm is not None else {"vmin": 0, "vmax": top or 1.0}
    aspect = "auto" if field.map.ndim == 1 else "equal"
    image = axes.imshow(flat, cmap=COLOURS, extent=extent, interpolation="nearest", aspect=aspect, **scale)
    axes.spines[["top", "right"]].set_visible(True)
    peak = flat.max()
    if contour is not None and min(flat.shape) > 1 and (flat < contour * peak).any():
        grid = spacing * np.arange(columns), spacing * np.arange(rows)
        line: Any = {"colors": INK[0], "linewidths": 0.8, "linestyles": "--"}
        axes.contour(*grid, flat, levels=[contour * peak], **line)
    names, units = summary.axis_names(field.map.ndim), summary.counted(field, units)
    axes.set_xlabel(summary.along(names[shown.axes[-1]], units))
    if spacing == 1:  # pixels are counted; and labels that grow after the layout was found would be cut off
        whole_ticks(axes.xaxis, axes.yaxis)
    if field.map.ndim == 1:
        axes.set_yticks([])
    else:
        axes.set_ylabel(summary.along(names[shown.axes[0]], units))
    if field.theoretical is not None:
        box(axes, field.theoretical, shown.axes, flat.shape, spacing, ":", 1.0)
        axes.set(xlim=extent[:2], ylim=extent[2:])
    return image


def box(
    axes: Axes,
    theory: Any,
    across: Sequence[int],
    shape: Sequence[int],
    spacing: Number,
    dash: Any,
    width: Number,
    label: str | None = None,
    colour: str = INK[0],
) -> tuple[tuple[Number, Number], tuple[Number, Number]]:
    """The box of a theoretical field, black on white so that it is seen on both; returns its rows and columns."""
    from matplotlib.patches import Rectangle

    rows = _side(theory, across[0] if len(across) > 1 else None, shape[0])
    columns = _side(theory, across[-1], shape[1])
    corner = (spacing * (columns[0] - 0.5), spacing * (rows[0] - 0.5))
    size = (spacing * (columns[1] - columns[0]), spacing * (rows[1] - rows[0]))
    for ink, thick, style, name in (("white", 2 * width, "-", None), (colour, width, dash, label)):
        axes.add_patch(
            Rectangle(corner, *size, fill=False, edgecolor=ink, linewidth=thick, linestyle=style, label=name)
        )
    return rows, columns


def comparison(
    result: Any,
    ax: Axes | None = None,
    label: str | None = None,
    *,
    axis: int = -1,
    plane: Mapping[int, int] | None = None,
    spacing: Number = 1,
    units: str | None = None,
) -> Figure | Axes:
    """A figure of a `Comparison`: both maps on one scale around their middle, their difference, and their cross-sections.

    Args:
        result: the comparison.
        ax: matplotlib axes to draw both cross-sections into; None makes a figure.
        label: put before the labels of the two fields in the legend of `ax`, or the title of the figure.
        axis: along which the cross-sections run.
        plane: of maps of three dimensions or more, the index of each axis that is cut away; None cuts through the peak.
        spacing: the distance between two pixels in `units`.
        units: of every axis; None is pixels, of a sequence tokens (layout "L") or positions.

    Returns:
        The figure, or `ax`.

    Raises:
        MapError: `plane` is not such a plane.

    Example:
        >>> import erfjax as ej
        >>> a, b = ((ej.layers.Conv(3) ** n).analytic(image_shape=(32, 32)) for n in (4, 6))
        >>> [panel.get_title() for panel in ej.plot.comparison(ej.compare(a, b, labels=("four", "six"))).axes[:4]]
        ['four', 'six', 'six - four', 'cross-sections']
    """
    pair, units = tuple(zip((result.a, result.b), result.labels, strict=True)), summary.counted(result.a, units)
    if ax is not None:
        for field, name in pair:
            _section(ax, field, f"{label}, {name}" if label else name, axis, spacing, units, share=True)
        return ax
    a, b = (field.normalised() for field in (result.a, result.b))
    top = max(np.abs(a).max(), np.abs(b).max())
    shown = cut(np.abs(a) + np.abs(b), plane)
    part = around(np.abs(a) + np.abs(b))
    with figure(11.4, 2.9) as drawing:
        left, right, between, section = drawing.subplots(1, 4, width_ratios=(1, 1, 1, 1.3))
        for axes, values, (field, name) in ((left, a, pair[0]), (right, b, pair[1])):
            image = draw_field(axes, field, shown, spacing, units, values=np.abs(values), top=top)
            axes.set_title(f"{name}{shown.words and ', ' + shown.words}")
            crop(axes, part, shown, spacing)
        right.set(ylabel="", yticklabels=[])
        drawing.colorbar(image, ax=[left, right], shrink=0.8).set_label("share of the map")
        difference = shown.of(b - a) / np.abs(a).max()
        reach = np.abs(difference).max() or 1.0
        look: Any = {"extent": image.get_extent(), "interpolation": "nearest", "aspect": left.get_aspect()}
        drawn = between.imshow(difference, cmap="gray", vmin=-reach, vmax=reach, **look)
        between.set(title=f"{result.labels[1]} - {result.labels[0]}", xlabel=left.get_xlabel(), yticks=[])
        between.spines[["top", "right"]].set_visible(True)
        crop(between, part, shown, spacing)
        drawing.colorbar(drawn, ax=between, shrink=0.8).set_label(f"/ peak of {result.labels[0]}")
        for field, name in pair:
            _section(section, field, name, axis, spacing, units, share=True)
        section.set_title("cross-sections")
        if label:
            drawing.suptitle(label)
    return drawing


def crop(axes: Axes, part: Sequence[slice], shown: Cut, spacing: Number) -> None:
    """Limits a map to a part of its pixels."""
    across = part[shown.axes[-1]]
    axes.set_xlim(spacing * (across.start - 0.5), spacing * (across.stop - 0.5))
    if len(shown.axes) > 1:
        down = part[shown.axes[0]]
        axes.set_ylim(spacing * (down.stop - 0.5), spacing * (down.start - 0.5))


def _side(field: Any, axis: int | None, n: int) -> tuple[Number, Number]:
    """Start and stop of the field along an axis, the border of the image where it is global or there is no such axis."""
    if axis is None:
        return 0, n
    return max(field.start[axis], -FAR * n), min(field.stop[axis], (1 + FAR) * n)


def indices(unit: Sequence[int]) -> str:
    """A unit as it stands in a title."""
    return "(" + ", ".join(str(u) for u in unit) + ")"
