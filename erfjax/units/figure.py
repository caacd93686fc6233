"""The figure of `EveryUnit`: size and total over the image, and the size along lines through its middle."""

from typing import Any

import numpy as np

from erfjax.plot.canvas import COLOURS, DASHES, INK, figure, whole_ticks
from erfjax.summary import axis_names, counted
from erfjax.typing import Axes, Figure


def draw(found: Any, ax: Axes | None = None, label: str | None = None) -> Figure | Axes:
    """The figure of an `EveryUnit`; or its lines in given axes."""
    if ax is not None:
        return _lines(found, ax, f"{label}: " if label else "")
    if len(found.shape) == 1:
        with figure(7.2, 3.0) as drawing:
            sizes, totals = drawing.subplots(1, 2)
            drawing.suptitle(label or _title(found))
            _lines(found, sizes, "")
            totals.plot(found.places[0], _relative(found), color=INK[0], linewidth=1.2)
            totals.set_xlabel(f"place of the unit in {counted(found)}")
            totals.set_ylabel("total, relative to units inside")
            totals.set_ylim(bottom=0)
        return drawing
    with figure(10.2, 3.4) as drawing:
        sizes, totals, lines = drawing.subplots(1, 3, width_ratios=(1, 1, 1.1))
        drawing.suptitle(label or _title(found))
        _plane(found, sizes, found.size(), "σ in pixels")
        _plane(found, totals, _relative(found), "total, relative to units inside")
        _lines(found, lines, "")
    return drawing


def _title(found: Any) -> str:
    return f"field of every unit ({' × '.join(map(str, found.shape))} units, {found.samples} samples)"


def _relative(found: Any) -> np.ndarray:
    """The totals over the mean of those of units that see the image alone; over the mean of all where there are none."""
    totals = found.total
    reference = totals[found.inside].mean() if found.inside.any() else totals.mean()
    return np.asarray(totals / reference if reference else totals)


def _plane(found: Any, axes: Axes, values: np.ndarray, name: str) -> None:
    """A picture of one number per unit over the last two axes; the others at their middle. A line bounds units inside."""
    middle = tuple(n // 2 for n in values.shape[:-2])
    plane, inside = values[middle], found.inside[middle]
    edges = [_edges(line, n) for line, n in zip(found.places[-2:], found.image_shape[-2:], strict=True)]
    picture = axes.pcolormesh(edges[1], edges[0], np.ma.masked_invalid(plane), cmap=COLOURS, shading="flat")
    picture.set_rasterized(True)
    axes.figure.colorbar(picture, ax=axes, shrink=0.85)
    if inside.any() and not inside.all():
        (top, bottom), (left, right) = (
            (edge[here.argmax()], edge[len(here) - here[::-1].argmax()])
            for edge, here in zip(edges, (inside.any(1), inside.any(0)), strict=True)
        )
        corners = [left, right, right, left, left], [top, top, bottom, bottom, top]
        axes.plot(*corners, color=INK[2], linewidth=1.0, linestyle=DASHES[1])
    axes.set_aspect("equal")
    axes.invert_yaxis()
    whole_ticks(axes.xaxis, axes.yaxis)
    axes.set_title(name)
    axes.set_xlabel("pixels")


def _edges(places: np.ndarray, n: int) -> np.ndarray:
    """The borders of the cells around places, half way between neighbours, inside the image."""
    if len(places) == 1:
        return np.array([-0.5, n - 0.5])
    between = (places[1:] + places[:-1]) / 2
    return np.clip([2 * places[0] - between[0], *between, 2 * places[-1] - between[-1]], -0.5, n - 0.5)


def _lines(found: Any, axes: Axes, before: str) -> Axes:
    """σ along each axis, of the units on a line through the middle unit, with one standard error."""
    sizes, errors = found.size(), found.size_stderr()
    for axis, name in enumerate(axis_names(len(found.shape))):
        at = tuple(slice(None) if a == axis else n // 2 for a, n in enumerate(found.shape))
        look: dict[str, Any] = {"color": INK[axis], "linestyle": DASHES[axis], "label": f"{before}along {name}"}
        axes.plot(found.places[axis], sizes[at], linewidth=1.2, **look)
        if errors is not None:
            low, high = sizes[at] - errors[at], sizes[at] + errors[at]
            axes.fill_between(found.places[axis], low, high, color=INK[axis], alpha=0.2, linewidth=0)
    axes.set_ylim(bottom=0)
    whole_ticks(axes.xaxis)
    axes.set_xlabel(f"place of the unit in {counted(found)}")
    axes.set_ylabel(f"σ in {counted(found)}")
    axes.legend(fontsize="small")
    return axes
