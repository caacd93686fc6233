"""Pictures of studies: the growth laws."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from erfjax.plot.canvas import DASHES, INK, MARKERS, draw_map, draw_section, figure, gaussian_of, line_through


def growth(result: Any) -> Any:
    """A figure of a `GrowthResult`: maps and cross-sections by depth, growth and relative shrinkage on log-log axes."""
    curves, depths = result.curves, result.depths
    shown = curves[-1]
    columns = min(len(depths), 5)
    picked = [round(i * (len(depths) - 1) / max(columns - 1, 1)) for i in range(columns)]
    with figure(max(2.3 * columns, 7.0), 8.2) as drawing:
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.25, 1))
        panels = upper.subplots(2, columns, squeeze=False, height_ratios=(1.35, 1))
        for column, index in enumerate(picked):
            draw_map(panels[0, column], shown.measured[index].map)
            panels[0, column].set_title(f"{depths[index]} layers, {shown.trf[index]} × {shown.trf[index]} pixels")
            _growth_section(panels[1, column], curves, index)
        panels[0, 0].set_ylabel(f"measured\n{shown.name}")
        panels[1, 0].set_ylabel("share of the map")
        upper.legend(*panels[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2 + len(curves))
        growing, shrinking = lower.subplots(1, 2)
        _growth_panel(growing, depths, curves, share=False)
        _growth_panel(shrinking, depths, curves, share=True)
        growing.set(title="the ERF grows as √n", ylabel="ERF size in pixels (Luo)")
        shrinking.set(title="its share of the TRF shrinks as 1/√n", ylabel="ERF size / TRF size")
    return drawing


def _growth_section(axes: Any, curves: Sequence[Any], index: int) -> None:
    """Measured cross-sections as markers on the closed form (a line) and the Gaussian of the same σ (dashed)."""
    form = curves[-1].closed[index].normalised()
    draw_section(axes, form, linewidth=1.0, label="closed form")
    draw_section(axes, gaussian_of(form), style=1, color="#777777", label="Gaussian, same σ")
    reach = math.ceil(4 * curves[-1].closed[index].sigma()[-1])
    for style, curve in enumerate(curves):
        line = line_through(curve.measured[index].normalised(), [n // 2 for n in form.shape], -1)
        offset = np.arange(len(line)) - len(line) // 2
        step = len(curves) if reach > 12 else 1  # where pixels are dense the kinds take turns
        keep = (np.abs(offset) <= reach) & (offset % step == style % step)
        look = {"color": INK[style % 5], "markersize": 3.5, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot(offset[keep], line[keep], marker=MARKERS[style % 5], label=curve.name, **look)
    axes.set(xlabel="pixels from the centre", xlim=(-reach - 0.5, reach + 0.5))
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=3)


def _growth_panel(axes: Any, depths: Sequence[int], curves: Sequence[Any], share: bool) -> None:
    """Sizes, or their shares of the theoretical field, against depth: closed forms as lines, measurements as markers."""
    n = np.array(depths, dtype=float)
    for style, curve in enumerate(curves):
        scale = 1 / np.array(curve.trf) if share else np.ones(len(n))
        closed, measured = curve.slopes(share)
        look = {"color": INK[style % 5], "linewidth": 1.0}
        if style == 0 or not np.allclose(curve.closed_sizes, curves[0].closed_sizes):
            label = f"closed form, slope {closed.slope:.3f}"
            axes.plot(n, np.array(curve.closed_sizes) * scale, linestyle=DASHES[style % 5], label=label, **look)
        if style == 0:
            _guide(axes, depths, np.array(curve.closed_sizes) * scale, -0.5 if share else 0.5)
        beside = n * 1.025 ** (style - (len(curves) - 1) / 2)  # side by side, or the markers would hide each other
        error, label = 2 * np.array(curve.stderrs) * scale, f"{curve.name}: {measured.slope:.3f}"
        points = {
            "fmt": MARKERS[style % 5],
            "markersize": 4.5,
            "markerfacecolor": "white",
            "capsize": 2,
            "label": label,
        }
        axes.errorbar(beside, np.array(curve.sizes) * scale, error, **points, **look)
    axes.set_xlabel("layers n")
    _log_log(axes, depths)
    axes.legend(loc="lower left" if share else "upper left")


def _guide(axes: Any, depths: Sequence[int], values: np.ndarray, slope: float) -> None:
    """A thick grey line of the given slope through the last point."""
    n = np.array([min(depths), max(depths)], dtype=float)
    label = f"slope {'-' if slope < 0 else ''}1/2"
    axes.plot(n, values[-1] * (n / depths[-1]) ** slope, color="#bbbbbb", linewidth=5, alpha=0.6, zorder=0, label=label)


def _log_log(axes: Any, depths: Sequence[int]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(depths), labels=[str(n) for n in depths])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
