"""Pictures of results by the definitions of others, and of how a theoretical field varies from unit to unit."""

import math
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from erfjax.plot.canvas import DASHES, INK, MARKERS, cut, figure, log_log
from erfjax.plot.maps import draw_field
from erfjax.typing import Figure, Number

WIDTH = 4.4  # inches


def _map(axes: Any, values: np.ndarray, theory: Any = None, bar: str | None = None) -> None:
    """A map in parts of its largest value, with its ticks and a colour bar."""
    field = types.SimpleNamespace(map=values, theoretical=theory)
    image = draw_field(axes, field, cut(values), contour=None)
    if bar is not None:
        axes.figure.colorbar(image, ax=axes, shrink=0.85).set_label(bar)


def _tall(values: np.ndarray) -> float:
    """Height over width of a map, within what a page holds."""
    return min(max(values.shape[0] / values.shape[1], 0.4), 1.4) if values.ndim > 1 else 0.3


def _outlined(axes: Any, shape: Any, style: int, label: str) -> None:
    """A shape, on white so that it is seen on dark pixels, with its line in the legend."""
    dash, ink = DASHES[style % len(DASHES)], INK[style % len(INK)]
    for colour, width, line, name in (("white", 2.8, "-", None), (ink, 1.4, dash, label)):
        axes.add_patch(shape(fill=False, edgecolor=colour, linewidth=width, linestyle=line, label=name))


def squares(values: np.ndarray, sides: Mapping[str, int], bar: str) -> Figure:
    """A figure of a map with squares around its pixel n // 2.

    Args:
        values: the map (height, width).
        sides: in pixels, by what is written of them.
        bar: what the map is.

    Example:
        >>> import numpy as np
        >>> from erfjax.plot import published
        >>> drawn = published.squares(np.ones((9, 12)), {"0.5": 5}, "map / peak")
        >>> [patch.get_width() for patch in drawn.axes[0].patches]
        [5, 5]
    """
    from matplotlib.patches import Rectangle

    y, x = values.shape[0] // 2, values.shape[1] // 2
    with figure(WIDTH, WIDTH * 0.8 * _tall(values) + 0.8) as drawing:
        axes = drawing.subplots()
        _map(axes, values, bar=bar)
        for style, (label, side) in enumerate(sides.items()):
            corner = (x - side / 2, y - side / 2)
            _outlined(axes, lambda at=corner, n=side, **look: Rectangle(at, n, n, **look), style, label)
        if sides:
            drawing.legend(loc="outside lower center", ncols=2)
    return drawing


def circles(
    values: np.ndarray, masses: Mapping[Number, float], middle: Sequence[Number], centre: Sequence[Number]
) -> Figure:
    """A figure of a map with circles around a pixel, and the mass within each of them.

    Args:
        values: the map (height, width).
        masses: by radius in pixels, the share of the map within it.
        middle: (row, column) of the circles.
        centre: (row, column) of the map's centre of mass.

    Example:
        >>> import numpy as np
        >>> from erfjax.plot import published
        >>> drawn = published.circles(np.ones((9, 12)), {2: 0.1, 4: 0.4}, (4, 6), (4, 5.5))
        >>> drawn.axes[-1].get_ylabel()
        'share of the map within it'
    """
    from matplotlib.patches import Circle

    with figure(2 * WIDTH - 1.0, 0.85 * WIDTH * _tall(values) + 0.9) as drawing:
        left, right = drawing.subplots(1, 2)
        _map(left, values)
        row, column = map(float, middle)
        inside = [radius for radius in masses if radius < max(values.shape)]
        for style, radius in enumerate(inside):
            _outlined(
                left,
                lambda r=radius, **look: Circle((column, row), r, **look),
                style % 2,
                f"{radius}",
            )
        left.plot(centre[1], centre[0], marker="+", color=INK[2], markersize=9, linestyle="", label="centre of mass")
        left.set_title("radii of the right panel; +: centre of mass")
        right.plot([0, *masses], [0, *masses.values()], color=INK[1], marker="o", markersize=4, linewidth=1.2)
        right.set(xlabel="radius in pixels", ylabel="share of the map within it", ylim=(0, 1.04))
        right.set_xlim(left=0)
    return drawing


def rated(values: np.ndarray, start: Sequence[int], stop: Sequence[int], threshold: float | None) -> Figure:
    """A figure of a map with the box of a theoretical field, and a solid line around what lies above a threshold.

    Args:
        values: the map.
        start, stop: of the box inside the image, half-open.
        threshold: in units of the map; None where there is none.

    Example:
        >>> import numpy as np
        >>> from erfjax.plot import published
        >>> published.rated(np.ones((9, 12)), (2, 2), (7, 9), None).axes[0].get_title()
        'dashed: theoretical box'
    """
    from matplotlib.patches import Rectangle

    shown = cut(values)
    flat = shown.of(values)
    (top, bottom), (left, right) = [(0, 1)] * (2 - len(shown.axes)) + [(start[a], stop[a]) for a in shown.axes]
    with figure(WIDTH, WIDTH * 0.8 * _tall(values) + 0.5) as drawing:
        axes = drawing.subplots()
        _map(axes, values, bar="map / peak")
        size = (right - left, bottom - top)
        _outlined(axes, lambda **look: Rectangle((left - 0.5, top - 0.5), *size, **look), 1, "theoretical box")
        said = "dashed: theoretical box"
        if threshold is not None and min(flat.shape) > 1 and (flat[top:bottom, left:right] > threshold).any():
            for ink, width in (("white", 2.6), (INK[2], 1.3)):
                axes.contour(flat / flat.max(), levels=[threshold / flat.max()], colors=ink, linewidths=width)
            said += "; solid: above the threshold"
        axes.set_title(said)
    return drawing


def growth(
    depths: Sequence[int],
    sizes: Sequence[float],
    errors: Sequence[float],
    theoretical: Sequence[int],
    slopes: Mapping[str, tuple[float, float, float]],
) -> Figure:
    """A figure of sizes, and of their share of the theoretical field, by depth on logarithmic axes.

    Args:
        depths: numbers of layers.
        sizes, errors: in pixels, with their standard errors.
        theoretical: sizes of theoretical fields.
        slopes: for "size" and "share": slope, its standard error, and the slope that was reported.

    Example:
        >>> from erfjax.plot import published
        >>> slopes = {"size": (0.5, 0.1, 0.56), "share": (-0.4, 0.1, -0.43)}
        >>> drawn = published.growth((2, 4), (3.0, 4.2), (0.1, 0.2), (5, 9), slopes)
        >>> [panel.get_xlabel() for panel in drawn.axes]
        ['layers', 'layers']
    """
    n, trf = np.array(depths, dtype=float), np.array(theoretical, dtype=float)
    with figure(7.4, 3.2) as drawing:
        for axes, name, values, scale in zip(
            drawing.subplots(1, 2), ("size", "share"), (np.array(sizes), np.array(sizes) / trf), (1.0, trf), strict=True
        ):
            slope, error, reported = slopes[name]
            axes.errorbar(n, values, 2 * np.array(errors) / scale, color=INK[1], marker=MARKERS[0], markersize=4.5,
                          linestyle="", capsize=2, label="measured ± 2 se")  # fmt: skip
            log_log(axes, depths)
            at, middle = np.exp(np.log(n).mean()), np.exp(np.log(values).mean())
            for style, (power, label) in enumerate(
                ((slope, f"slope {slope:.2f} ± {error:.2f}"), (reported, f"reported: {reported}"))
            ):
                look: Any = {"color": INK[2 * style], "linestyle": DASHES[style], "linewidth": 1.1}
                axes.plot(n, middle * (n / at) ** power, label=label, **look)
            axes.set_xlabel("layers")
            axes.set_ylabel("Luo size in pixels" if name == "size" else "Luo size / theoretical size")
            axes.legend()
    return drawing


def phases(axes_of: Mapping[str, Sequence[tuple[int, Number, Number]]], shift: Sequence[Number]) -> Figure:
    """A figure of how a theoretical field varies: for consecutive units of each axis a bar over the pixels that they see.

    Args:
        axes_of: by axis, (unit, start, stop) for every phase; infinite ends are drawn to the edge.
        shift: by axis, by how many pixels the field moves in one period.

    Example:
        >>> from erfjax.plot import published
        >>> drawn = published.phases({"width": [(0, -1, 2), (1, 0, 2)]}, (2,))
        >>> drawn.axes[0].get_title()
        'width: 2 phases, then 2 pixels on'
    """
    with figure(max(4.4, 3.6 * len(axes_of)), 1.5 + 0.14 * max(map(len, axes_of.values()))) as drawing:
        for axes, (name, rows), moved in zip(
            drawing.subplots(1, len(axes_of), squeeze=False)[0], axes_of.items(), shift, strict=True
        ):
            ends = [float(end) for _, a, b in rows for end in (a, b) if math.isfinite(end)] or [0.0, 1.0]
            low, high = min(ends) - 0.5, max(ends) + 0.5
            at = np.arange(len(rows))
            lefts = np.array([max(float(a), low) for _, a, _ in rows])
            rights = np.array([min(float(b), high) for _, _, b in rows])
            axes.barh(at, rights - lefts, left=lefts, height=0.7, color=INK[1])
            axes.set_xlim(low, high)
            axes.set_ylim(len(rows) - 0.4, -0.6)
            step = -(-len(rows) // 16)
            axes.set_yticks(at[::step], labels=[str(unit) for unit, _, _ in rows][::step])
            axes.set(xlabel="pixels that it sees", ylabel="unit")
            axes.xaxis.get_major_locator().set_params(integer=True)
            count = f"{len(rows)} phase{'s' * (len(rows) != 1)}"
            axes.set_title(f"{name}: {count}, then {moved:g} pixel{'s' * (moved != 1)} on")
    return drawing
