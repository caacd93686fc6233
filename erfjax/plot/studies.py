"""Pictures of studies: the growth laws."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from erfjax.plot.canvas import DASHES, INK, MARKERS, draw_map, figure, legend_below, log_log
from erfjax.plot.experiments import sections


def growth(result: Any) -> Any:
    """A figure of a `GrowthResult`: maps and cross-sections by depth, growth and relative shrinkage on log-log axes."""
    curves, depths = result.curves, result.depths
    shown = curves[-1]
    columns = min(len(depths), 5)
    picked = [round(i * (len(depths) - 1) / max(columns - 1, 1)) for i in range(columns)]
    with figure(max(2.3 * columns, 7.0), 8.2) as drawing:
        drawing.suptitle("growth: fields by depth (black: the peak, dashed: 4.55 % of it), closed form and measured")
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.25, 1))
        panels = upper.subplots(2, columns, squeeze=False, height_ratios=(1.35, 1))
        for column, index in enumerate(picked):
            draw_map(panels[0, column], shown.measured[index].map)
            panels[0, column].set_title(f"{depths[index]} layers, {shown.trf[index]} × {shown.trf[index]} pixels")
            measured = [curve.measured[index] for curve in curves]
            sections(panels[1, column], shown.closed[index], measured, [curve.name for curve in curves])
        panels[0, 0].set_ylabel(f"measured\n{shown.name}")
        panels[1, 0].set_ylabel("share per column")
        legend_below(upper, panels[1, 0])
        growing, shrinking = lower.subplots(1, 2)
        _growth_panel(growing, depths, curves, share=False)
        _growth_panel(shrinking, depths, curves, share=True)
        growing.set(title="the ERF grows as √n", ylabel="ERF size in pixels (Luo)")
        shrinking.set(title="its share of the TRF shrinks as 1/√n", ylabel="ERF size / TRF size")
    return drawing


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
    log_log(axes, depths)
    axes.legend(loc="lower left" if share else "upper left")


def _guide(axes: Any, depths: Sequence[int], values: np.ndarray, slope: float) -> None:
    """A thick grey line of the given slope through the last point."""
    n = np.array([min(depths), max(depths)], dtype=float)
    label = f"slope {'-' if slope < 0 else ''}1/2"
    axes.plot(n, values[-1] * (n / depths[-1]) ** slope, color="#bbbbbb", linewidth=5, alpha=0.6, zorder=0, label=label)
