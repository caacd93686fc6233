"""Pictures of the paper's other experiments: shapes by depth and nonlinearity, architectures, slopes, initialisation.

In every panel the closed form is a line and the measurement stands as markers on it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from erfjax.plot.canvas import DASHES, INK, MARKERS, draw_map, figure, legend_below, middle
from erfjax.plot.profiles import GREY, limits, markers, sections, theory


def shapes(result: Any) -> Any:
    """A figure of a `ShapesResult`: measured maps by kind and depth, cross-sections, and the nonlinearities below."""
    kinds, depths = list(result.by_depth), result.settings["depths"]
    below = result.by_activation
    columns = max(len(depths), len(below) + 1 if below else 0)
    with figure(max(2.2 * columns, 7.0), 2.15 * (len(kinds) + 1) + (2.8 if below else 0)) as drawing:
        drawing.suptitle("shapes: measured fields (black: the peak, dashed: 4.55 % of it) and their closed forms")
        parts = drawing.subfigures(2 if below else 1, 1, height_ratios=(len(kinds) + 1, 1.25) if below else (1,))
        upper = np.atleast_1d(parts)[0]
        panels = upper.subplots(len(kinds) + 1, len(depths), squeeze=False)
        for row, kind in enumerate(kinds):
            for column, one in enumerate(result.by_depth[kind]):
                draw_map(panels[row, column], one.measured.map)
                panels[row, column].set_xlabel(_quality(one))
            panels[row, 0].set_ylabel(kind)
        for column, n in enumerate(depths):
            panels[0, column].set_title(f"{n} layers, TRF {result.by_depth[kinds[0]][column].trf}")
            pairs = [result.by_depth[kind][column] for kind in kinds]
            sections(panels[-1, column], pairs[0].closed, [one.measured for one in pairs], kinds)
        panels[-1, 0].set_ylabel("share per column")
        legend_below(upper, panels[-1, 0])
        if below:
            _activations(parts[1], below, columns, result.settings["activation_depth"])
    return drawing


def _activations(part: Any, pairs: Sequence[Any], columns: int, depth: int) -> None:
    panels = part.subplots(1, columns, squeeze=False)[0]
    names = [one.name.split(",")[0] for one in pairs]
    for axes, one, name in zip(panels, pairs, names, strict=False):
        draw_map(axes, one.measured.map)
        axes.set(title=f"{name}, {depth} layers", xlabel=_quality(one))
    sections(panels[len(pairs)], pairs[0].closed, [one.measured for one in pairs], names)
    legend_below(part, panels[len(pairs)])
    for axes in panels[len(pairs) + 1 :]:
        axes.set_visible(False)


def _quality(one: Any) -> str:
    """How well a measured map agrees, in a line under it."""
    return f"R² {one.gaussianity[1]:.4f}, TV {one.comparison.total_variation:.3f}"


def architecture(result: Any) -> Any:
    """A figure of an `ArchitectureResult`: a measured map and a cross-section per architecture on one scale, and all σ."""
    pairs = result.pairs
    columns = min(4, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    reach = max(math.ceil(3.2 * one.closed.sigma()[-1]) for one in pairs)
    with figure(max(2.4 * columns, 7.0), 4.0 * rows + 0.35 * len(pairs) + 0.6) as drawing:
        drawing.suptitle(
            "architecture: measured fields on one scale (dashed: 4.55 % of the peak) and their closed forms"
        )
        upper, lower = drawing.subfigures(2, 1, height_ratios=(4.0 * rows, 0.35 * len(pairs) + 0.6))
        panels = upper.subplots(2 * rows, columns, squeeze=False, height_ratios=(1.2, 1) * rows)
        for axes in panels.ravel():
            axes.set_visible(False)
        for i, one in enumerate(pairs):
            row, column = divmod(i, columns)
            axes, below = panels[2 * row, column], panels[2 * row + 1, column]
            axes.set_visible(True)
            below.set_visible(True)
            draw_map(axes, _window(one.measured.map, reach))
            axes.set(title=one.name, xlabel=f"TRF {one.trf}, σ {one.ratio().b:.2f}")
            theory(below, one.closed)
            markers(below, one.measured, 0, "measured, ± 2 se", reach, max(1, reach // 14))
            limits(below, reach)
        panels[1, 0].set_ylabel("share per column")
        legend_below(upper, panels[1, 0])
        _widths(lower.subplots(), [one.name for one in pairs], [one.ratio() for one in pairs])
    return drawing


def _window(values: np.ndarray, reach: int) -> np.ndarray:
    """The pixels within `reach` of the middle, zeros where the map ends."""
    at = middle(values)
    padded = np.pad(values, reach)
    return padded[tuple(slice(m, m + 2 * reach + 1) for m in at)]


def _widths(axes: Any, names: Sequence[str], ratios: Sequence[Any]) -> None:
    """σ in closed form (bars) and measured (markers with ± 2 standard errors), one line each."""
    rows = np.arange(len(names))[::-1]
    axes.barh(
        rows, [r.a for r in ratios], height=0.62, color="#dddddd", edgecolor=GREY, linewidth=0.7, label="closed form"
    )
    look = {"color": INK[0], "markersize": 4, "markerfacecolor": "white", "linestyle": "none", "capsize": 2}
    errors = [2 * (r.b_stderr or 0) for r in ratios]
    axes.errorbar([r.b for r in ratios], rows, xerr=errors, marker="o", label="measured, ± 2 se", **look)
    axes.set_yticks(rows, labels=[f"{name}: {r.a:.3f}" for name, r in zip(names, ratios, strict=True)])
    axes.set(xlabel="σ of the ERF in pixels", xlim=(0, None))
    axes.legend(loc="lower right")


def slopes(result: Any) -> Any:
    """A figure of a `SlopesResult`: slope by width and statistic, the plane of both slopes, and maps by width."""
    reported, names, repeats = result.reported, result.statistics, result.settings["repeats"]
    with figure(9.4, 6.6) as drawing:
        drawing.suptitle("slopes: why 0.56 and -0.43 were reported; random linear 3 × 3 networks")
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.5, 1))
        by_width, plane_ = upper.subplots(1, 2)
        widths = np.array(result.widths, dtype=float)
        for style, name in enumerate(names):
            look = {"color": INK[style], "linewidth": 1.0}
            points = {"fmt": MARKERS[style], "markersize": 4.5, "markerfacecolor": "white", "capsize": 2}
            beside = widths * 1.05 ** (style - 1)
            by_width.errorbar(beside, result.mean[:, style], 2 * result.stderr[:, style], label=name, **points, **look)
            plane_.plot(
                result.mean[:, style],
                result.mean[:, style] - result.offset,
                linestyle="none",
                marker=MARKERS[style],
                markersize=4.5,
                markerfacecolor="white",
                color=INK[style],
                label=name,
            )
        for law, style in (("square", 0), ("rms", 1)):
            closed = result.closed[style]
            by_width.axhline(closed, color=INK[style], linestyle=DASHES[style], linewidth=0.9, zorder=0)
            text = f"∞, {'E g²' if law == 'square' else '√E g²'}: {closed:.3f}"
            _beside(by_width, closed, text)
        by_width.axhline(reported.size, color=GREY, linestyle=":", linewidth=1.4, zorder=0)
        _beside(by_width, reported.size, f"reported: {reported.size}")
        by_width.set_xscale("log", base=2)
        by_width.set_xticks(widths, labels=[str(w) for w in result.widths])
        by_width.set(
            xlabel="width (channels)",
            ylabel=f"log-log slope of the size, mean of {repeats} studies ± 2 se",
            title="by width and statistic; lines: closed form",
        )
        by_width.legend(loc="lower right")
        low, high = min(0.46, result.mean.min() - 0.01), max(0.6, result.mean.max() + 0.01)
        ends = np.array([low, high])
        shown = f"n = {', '.join(map(str, result.depths))}"
        plane_.plot(
            ends,
            ends - result.offset,
            color=INK[0],
            linewidth=0.9,
            zorder=0,
            label=f"slope of log(2n + 1) apart: {shown}",
        )
        plane_.plot(
            ends,
            ends - result.far_offset,
            color=GREY,
            linestyle="--",
            linewidth=0.9,
            zorder=0,
            label="the same for n = 10 ... 100",
        )
        plane_.plot(*reported, marker="*", markersize=11, color=INK[0], linestyle="none", label="reported 0.56, -0.43")
        plane_.set(
            xlabel="slope of the size", ylabel="slope of its share of the TRF", title="the two slopes are one number"
        )
        plane_.legend(loc="upper left", fontsize=7)
        depth = result.depths[len(result.depths) // 2]
        panels = lower.subplots(1, len(result.widths), squeeze=False)[0]
        for axes, width, values in zip(panels, result.widths, result.maps, strict=True):
            draw_map(axes, values)
            axes.set_title(f"width {width}, {depth} layers")
        panels[0].set_ylabel(f"E |g|, {result.settings['runs']} runs")
    return drawing


def _beside(axes: Any, level: float, text: str) -> None:
    """A word on a horizontal line, right of the leftmost markers."""
    where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 7}
    axes.annotate(text, (0.09, level), (0, 2), **where)
