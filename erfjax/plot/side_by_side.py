"""Several fields in one figure: a grid of maps on one scale, profiles by distance, sizes by layer.

What is compared stands on one scale and in one window of pixels, so that widths can be compared by eye; error bars are 95 %
intervals (`field.interval`). Fields are told apart by markers and dashes as well as by colour.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from erfjax import measures, summary
from erfjax.errors import MapError
from erfjax.plot.bars import interval_of, whiskers
from erfjax.plot.canvas import DASHES, INK, MARKERS, around, cut, figure, legend_below, widest
from erfjax.plot.maps import crop, draw_field
from erfjax.typing import Axes, Figure, Number

RATIOS = (0.2, 0.3, 0.5, 0.99)  # the thresholds of X. Ding et al. 2022
SCALES = {"linear": 1.0, "root": 0.5}


def fields(
    models: Mapping[str, Any],
    *,
    ratios: Sequence[Number] = RATIOS,
    scale: str = "linear",
    contour: Number | None = 0.0455,
    plane: Mapping[int, int] | None = None,
    spacing: Number = 1,
    units: str | None = None,
) -> Figure:
    """A figure of fields by model (rows) and by layer or moment (columns), with their area ratios below.

    Every map is its field's share per pixel, in one window of pixels and on one scale of grey, so that a wider field is paler
    as well as wider; the theoretical box is dotted. Each field's σ stands under its map. The panels below show the area ratio
    (X. Ding et al. 2022) of every model: the share of the input in the smallest square that holds a part t of the field.

    Args:
        models: by name an `EffectiveField`, or a dict of them by layer or moment, with the same names for every model.
        ratios: the parts t; empty leaves the panels out.
        scale: "linear", or "root", which shows faint tails (grey grows with the square root of the share).
        contour: the part of its own peak at which a dashed line runs around each map; None draws none.
        plane: of maps of three dimensions or more, the index of each axis that is cut away; None cuts through the peak.
        spacing: the distance between two pixels in `units`.
        units: of every axis; None is pixels, of a sequence tokens (layout "L") or positions.

    Returns:
        The figure; `erfjax.plot.save` writes it as PNG, or as PDF or SVG with its fonts inside.

    Raises:
        MapError: there is no field, the models differ in their columns or statistics, or `scale` is unknown.

    Example:
        >>> import erfjax as ej
        >>> shallow, deep = ((ej.layers.Conv(3) ** n).analytic(image_shape=(48, 48)) for n in (5, 15))
        >>> figure = ej.plot.fields({"5 layers": shallow, "15 layers": deep})
        >>> [panel.get_title() for panel in figure.axes][:2]
        ['5 layers', '15 layers']
    """
    rows = _grid(models)
    if scale not in SCALES:
        raise MapError(f"`scale` must be one of {', '.join(SCALES)}, but got {scale!r}.")
    one_each = all(list(row) == [""] for row in rows.values())
    shown_rows = {"": {name: row[""] for name, row in rows.items()}} if one_each else rows
    flat = [field for row in shown_rows.values() for field in row.values()]
    shares = [np.abs(field.normalised()) for field in flat]
    part = around(max(shares, key=lambda share: sum(side.stop - side.start for side in around(share, 3.5))), 3.5)
    across, down = len(next(iter(shown_rows.values()))), len(shown_rows)
    size = 2.3 if shares[0].ndim > 1 else 1.2
    heights = (size * down + 0.8, 2.4) if ratios else (size * down + 0.8,)
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    norm = PowerNorm(SCALES[scale], 0, max(share.max() for share in shares), clip=True)
    with figure(max(2.15 * across + 0.9, 4.6), sum(heights)) as drawing:
        parts = np.atleast_1d(drawing.subfigures(len(heights), 1, height_ratios=heights))
        panels = parts[0].subplots(down, across, squeeze=False)
        for i, (axes, field, share) in enumerate(zip(panels.ravel(), flat, shares, strict=True)):
            row, column = list(shown_rows)[i // across], list(next(iter(shown_rows.values())))[i % across]
            shown = cut(share, plane)
            image = draw_field(axes, field, shown, spacing, units, values=share, norm=norm, contour=contour)
            if share.shape == shares[0].shape:
                crop(axes, part, shown, spacing)
            below = axes.get_xlabel() if i // across == down - 1 else ""
            axes.set(xlabel=f"{_sigma(field, spacing)}\n{below}".rstrip(), title=column if i < across else "")
            left = [row, axes.get_ylabel()] if i % across == 0 else []
            axes.set_ylabel("\n".join(word for word in left if word))
            axes.tick_params(labelleft=i % across == 0)
        words = f"share of {flat[0].formula} per {summary.counted(flat[0]).removesuffix('s')}{shown.words and ', ' + shown.words}"
        bar = parts[0].colorbar(image, ax=panels, shrink=0.8, aspect=30)
        bar.set_label(words)
        bar.locator = MaxNLocator(5, prune="upper")
        bar.update_ticks()
        if ratios:
            _ratio_panels(parts[1], rows, ratios)
    return drawing


def _grid(models: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Fields by model and column.

    Raises:
        MapError: they make no grid.
    """
    rows = {name: dict(row) if isinstance(row, Mapping) else {"": row} for name, row in models.items()}
    columns = [list(row) for row in rows.values()]
    if not columns or not columns[0] or any(column != columns[0] for column in columns):
        raise MapError(
            "`models` must be a dict of fields, or of dicts of fields with the same names for every model, but got "
            f"{ {name: list(row) for name, row in rows.items()} }."
        )
    found = [field for row in rows.values() for field in row.values()]
    kinds = sorted({(field.statistic, field.map.ndim) for field in found})
    if len(kinds) > 1:
        raise MapError(f"Fields on one scale must be of one statistic and dimension, but these are {kinds}.")
    return rows


def _sigma(field: Any, spacing: Number) -> str:
    """σ, with its 95 % interval, in a line under a map."""
    value, ends = field.size("sigma"), interval_of(field, "sigma")
    shown = "" if ends is None else f" ({spacing * ends[0]:.3g} to {spacing * ends[1]:.3g})"
    return f"σ {spacing * value:.3g}{shown}"


def _ratio_panels(part: Any, rows: dict[str, dict[str, Any]], ratios: Sequence[Number]) -> None:
    """The area ratios of every model, one panel for each column."""
    from matplotlib.ticker import LogLocator

    columns = list(next(iter(rows.values())))
    panels = part.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    at = np.arange(len(ratios))
    for axes, column in zip(panels, columns, strict=True):
        for style, (name, row) in enumerate(rows.items()):
            field = row[column]
            values = [100 * field.size("area_ratio", fraction=t) for t in ratios]
            bars = whiskers(values, [interval_of(field, "area_ratio", fraction=t) for t in ratios], 100)
            aside = at + 0.07 * (style - (len(rows) - 1) / 2)
            axes.errorbar(aside, values, bars, label=name, **_marks(style), linewidth=0.8)
        axes.set_xticks(at, labels=[f"{100 * t:g}" for t in ratios])
        axes.set(xlabel="t in % of the field", yscale="log", title=column)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    panels[0].set_ylabel("area ratio in %\n95 % intervals" if _measured(rows) else "area ratio in %")
    legend_below(part, panels[0])


def _measured(rows: dict[str, dict[str, Any]]) -> bool:
    return any(field.batches is not None for row in rows.values() for field in row.values())


def _marks(style: int) -> dict[str, Any]:
    """How one of several series is told from the others."""
    look: dict[str, Any] = {"color": INK[style % len(INK)], "linestyle": DASHES[style % len(DASHES)]}
    return look | {"marker": MARKERS[style % len(MARKERS)], "markersize": 4.5, "markerfacecolor": "white", "capsize": 2}


def profile(
    fields: Mapping[str, Any],
    *,
    ax: Axes | None = None,
    spacing: Number = 1,
    units: str | None = None,
    centre: Sequence[Number] | None = None,
    cumulative: bool = False,
    log: bool = False,
) -> Figure | Axes:
    """A figure of fields by distance from a point: the mean share of a pixel, or the share of the map within that distance.

    Of one axis the distance has a sign (what lies before, what lies after: tokens, samples of a signal); of more it is that
    to rings one pixel wide.

    Args:
        fields: by name; each divided by its sum.
        ax: matplotlib axes to draw into; None makes a figure.
        spacing: the distance between two pixels in `units`: 1000 / rate for milliseconds of a signal.
        units: of the distance, such as "ms"; None is pixels, of a sequence tokens (layout "L") or positions.
        centre: the point, in pixels; None is the centre of the theoretical field, or the centroid where it is not known.
        cumulative: the share of the map up to the distance in place of the mean share of a pixel there.
        log: a logarithmic scale of shares.

    Returns:
        The figure, or `ax`.

    Raises:
        MapError: a map is zero, or `centre` is no point of it.

    Example:
        >>> import erfjax as ej
        >>> past = (ej.layers.Conv((3,), dilation=2) ** 3).analytic(image_shape=(40,))
        >>> axes = ej.plot.profile({"dilated": past}, spacing=1000 / 8000, units="ms").axes[0]
        >>> axes.get_xlabel()
        'ms from the centre of the field'
    """
    if ax is None:
        with figure(4.8, 3.2) as drawing:
            profile(
                fields,
                ax=drawing.subplots(),
                spacing=spacing,
                units=units,
                centre=centre,
                cumulative=cumulative,
                log=log,
            )
        return drawing
    style = sum(1 for line in ax.lines if line.get_gid() == "profile")
    reach = [abs(side) for side in ax.get_xlim()] if style else [0.0]
    for name, field in fields.items():
        if centre is None and field.theoretical is not None:
            point: Sequence[Number] = field.theoretical.centre
        else:
            point = measures.centroid(np.abs(field.map)) if centre is None else centre
        distance, share = _by_distance(np.abs(field.normalised()), point, cumulative)
        look: Any = {"color": INK[style % len(INK)], "linestyle": DASHES[style % len(DASHES)], "linewidth": 1.2}
        ax.plot(spacing * distance, share, label=name, gid="profile", **look)
        ends = field.band(lambda m, point=point: _by_distance(np.abs(m), point, cumulative)[1])
        if ends is not None:
            ax.fill_between(spacing * distance, *ends, color=look["color"], alpha=0.2, linewidth=0)
        style += 1
        reach.append(spacing * (4.5 * widest(field.map) + 1.5))
    lines = any(field.map.ndim == 1 for field in fields.values())
    units = summary.counted(next(iter(fields.values())), units)
    what = "share of the map up to there" if cumulative else f"mean share of a {'position' if lines else 'pixel'}"
    ax.set(xlabel=f"{units} from the centre of the field", ylabel=what)
    ax.set_xlim(-max(reach) if lines else 0, max(reach))
    if log:
        ax.set_yscale("log")
    ax.legend()
    return ax


def _by_distance(share: np.ndarray, point: Sequence[Number], cumulative: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distances in pixels, and what is drawn there."""
    if share.ndim == 1:
        return np.arange(len(share)) - float(point[0]), np.cumsum(share) if cumulative else share
    rings = measures.radial_profile(share, tuple(point))
    seen = np.isfinite(rings.mean)
    return rings.radius[seen], (rings.mass if cumulative else rings.mean)[seen]


def depth(
    fields: Mapping[str, Any],
    *,
    ax: Axes | None = None,
    label: str | None = None,
    measure: str = "luo",
    axis: int = -1,
    spacing: Number = 1,
    units: str | None = None,
) -> Figure | Axes:
    """A figure of the size of the effective and of the theoretical field, layer by layer.

    Args:
        fields: by the name of the layer, from the input to the output: `EffectiveField`s, whose theoretical fields are
            drawn too; or `TheoreticalField`s alone.
        ax: matplotlib axes to draw into, one network beside the other; None makes a figure.
        label: of the network, put before what is drawn.
        measure: the size of the effective field, as in `EffectiveField.size`.
        axis: whose theoretical size is drawn.
        spacing: the distance between two pixels in `units`.
        units: of the sizes; None is pixels, of a sequence tokens (layout "L") or positions.

    Returns:
        The figure, or `ax`.

    Raises:
        MapError: there is no field, or an effective field has no such size.

    Example:
        >>> import erfjax as ej
        >>> layers = {str(n): (ej.layers.Conv(3) ** n).analytic(image_shape=(32, 32)) for n in (1, 2, 4, 8)}
        >>> len(ej.plot.depth(layers).axes[0].lines) > 1
        True
    """
    if not fields:
        raise MapError("`fields` must hold a field by the name of each layer, but is empty.")
    if ax is None:
        with figure(max(4.8, 0.5 * len(fields) + 1.6), 3.4) as drawing:
            depth(
                fields,
                ax=drawing.subplots(),
                label=label,
                measure=measure,
                axis=axis,
                spacing=spacing,
                units=units,
            )
        return drawing
    at, style = np.arange(len(fields)), sum(1 for line in ax.lines if line.get_gid() == "theoretical")
    effective = {name: field for name, field in fields.items() if hasattr(field, "map")}
    before, look = f"{label}: " if label else "", _marks(style)
    if effective:
        sizes = [spacing * effective[n].size(measure) if n in effective else math.nan for n in fields]
        ends = [interval_of(effective[n], measure) if n in effective else None for n in fields]
        bars = whiskers(sizes, ends, float(spacing))
        ax.errorbar(at, sizes, bars, label=f"{before}effective, {measure}", **look)
    theory = [fields[n].theoretical if n in effective else fields[n] for n in fields]
    extents = [math.nan if t is None or math.isinf(t.size[axis]) else spacing * t.size[axis] for t in theory]
    steps = look | {"marker": "none", "linewidth": 2.4, "alpha": 0.45}
    steps.pop("capsize")
    ax.plot(at, extents, label=f"{before}theoretical", gid="theoretical", drawstyle="steps-mid", **steps)
    slanted: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, fields)) > 4 else {}
    ax.set_xticks(at, labels=list(fields), **slanted)
    ax.set(xlabel="layer", ylabel=f"size in {summary.counted(next(iter(fields.values())), units)}")
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax
