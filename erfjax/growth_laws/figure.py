"""The figure of growth laws: maps and cross-sections by depth above, size and share of the theoretical field below.

Lines are closed forms, markers with 95 % intervals are measurements.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from erfjax.plot.canvas import DASHES, INK, MARKERS, draw_map, figure, legend_below, log_log
from erfjax.plot.profiles import sections


def draw(growths: Sequence[Any]) -> Any:
    """A matplotlib figure of one or more `Growth`s over the same depths; maps are those of the last."""
    shown = growths[-1]
    depths = shown.depths
    columns = min(len(depths), 5)
    picked = [round(i * (len(depths) - 1) / max(columns - 1, 1)) for i in range(columns)]
    with figure(max(2.3 * columns, 7.0), 8.2) as drawing:
        drawing.suptitle("growth: fields by depth (black: the peak, dashed: 4.55 % of it), closed form and measured")
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.25, 1))
        panels = upper.subplots(2, columns, squeeze=False, height_ratios=(1.35, 1))
        for column, index in enumerate(picked):
            draw_map(panels[0, column], shown.measured[index].map)
            panels[0, column].set_xlabel(f"{shown.measured[index].map.shape[-1]} pixels wide")
            extent = shown.trf[index]
            panels[0, column].set_title(f"n = {depths[index]}" + (f", TRF {extent:.4g}" if extent else ""))
            measured = [growth.measured[index] for growth in growths]
            sections(panels[1, column], shown.closed[index], measured, [growth.name for growth in growths])
        panels[0, 0].set_ylabel(f"measured\n{shown.name}")
        panels[1, 0].set_ylabel("share per column")
        legend_below(upper, panels[1, 0])
        laws = len(shown.laws())
        parts = lower.subplots(1, laws, squeeze=False)[0]
        _panel(parts[0], growths, 0)
        parts[0].set(title="size of the ERF", ylabel=f"size in pixels ({shown.measure})")
        if laws > 1:
            _panel(parts[1], growths, 1)
            parts[1].set(title="its share of the TRF", ylabel="ERF size / TRF size")
    return drawing


def into(axes: Any, growth: Any, law: int = 0) -> Any:
    """Given axes with the size of one growth, or its share of the theoretical field, against depth."""
    _panel(axes, [growth], law)
    axes.set_ylabel("ERF size / TRF size" if law else f"size in pixels ({growth.measure})")
    return axes


def _panel(axes: Any, growths: Sequence[Any], law: int) -> None:
    """Sizes, or their shares of the theoretical field, against depth: closed forms as lines, measurements as markers."""
    depths = growths[-1].depths
    drawn: list[np.ndarray] = []
    for style, growth in enumerate(growths):
        n = np.array(growth.depths, dtype=float)
        scale = 1 / np.array(growth.trf, dtype=float) if law else np.ones(len(n))
        slope = growth.laws()[law]
        line, look = np.array(growth.closed_sizes) * scale, {"color": INK[style % 5], "linewidth": 1.0}
        if not any(np.allclose(line, other) for other in drawn):
            axes.plot(n, line, linestyle=DASHES[style % 5], label=f"closed form, slope {slope.closed:.3f}", **look)
            drawn.append(line)
        if style == 0:
            ends = np.array([n[0], n[-1]])
            guide = {"color": "#bbbbbb", "linewidth": 5, "alpha": 0.6, "zorder": 0}
            axes.plot(ends, line[-1] * (ends / n[-1]) ** slope.limit, label=f"slope {slope.limit:+g}", **guide)
        beside = n * 1.025 ** (style - (len(growths) - 1) / 2)  # side by side, or the markers would hide each other
        points = {"fmt": MARKERS[style % 5], "markersize": 4.5, "markerfacecolor": "white", "capsize": 2}
        label = f"{growth.name}: {slope.measured:.3f}"
        sizes = np.array(growth.sizes) * scale
        bars = np.abs(np.array(growth.intervals).T * scale - sizes)
        axes.errorbar(beside, sizes, bars, label=label, **points, **look)
    axes.set_xlabel("n")
    log_log(axes, depths)
    axes.legend(loc="lower left" if law else "upper left")
