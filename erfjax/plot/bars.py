"""The picture of the coverage study: actual against nominal coverage, by how far samples spread for their number."""

from typing import Any

import numpy as np

from erfjax.plot.canvas import INK, MARKERS, figure


def coverage(result: Any) -> Any:
    """A figure of a `CoverageResult`: one panel per measure; filled markers are cells whose data sets warn of their bars."""
    measures = list(result.cells[0].covered)
    with figure(3.2 * len(measures), 3.2) as drawing:
        panels = drawing.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            for i, level in enumerate(result.levels):
                error = 2 * np.sqrt(level * (1 - level) / result.repeats)
                axes.axhspan(level - error, min(level + error, 1), color=INK[i % 5], alpha=0.12, linewidth=0)
                axes.axhline(level, color=INK[i % 5], linewidth=0.7)
                for cell in result.cells:
                    told = cell.noted > 0.5
                    axes.plot(
                        np.exp(cell.spread**2) / cell.samples,
                        cell.covered[measure][i],
                        MARKERS[i % 5],
                        color=INK[i % 5],
                        markersize=4,
                        fillstyle="full" if told else "none",
                    )
            axes.set(xscale="log", xlabel="exp(s²) / samples", title=measure, ylim=(0.4, 1.02))
        panels[0].set_ylabel("actual coverage; filled: noted")
    return drawing
