"""Pictures of decisions: the tiles of an image, the levels of a pyramid, the reach of the layers of a sequence model."""

import math
from collections.abc import Sequence

import numpy as np

from erfjax.plot.canvas import DASHES, INK, MARKERS, figure, whole_ticks
from erfjax.typing import Figure, Number

Span = tuple[Number, Number]
MOST = 60  # tiles that are drawn one by one along a single axis


def tiles(
    written: Sequence[Sequence[Span]], read: Sequence[Sequence[Span]], shape: Sequence[int], names: Sequence[str]
) -> Figure:
    """A figure of a plan: the tiles as they lie in the image, and what the middle one reads.

    Args:
        written: per axis (the last two are drawn), what each tile writes, in pixels of the input.
        read: per axis, what each tile reads.
        shape: the image, in pixels.
        names: of the axes.

    Example:
        >>> from erfjax.plot import plans
        >>> plans.tiles([[(0, 4), (4, 8)]], [[(0, 5), (3, 8)]], (8,), ("position",)).axes[0].get_xlabel()
        'position'
    """
    return _rows(written[0], read[0], shape[0], names[0]) if len(shape) == 1 else _plane(written, read, shape, names)


def _rows(written: Sequence[Span], read: Sequence[Span], n: int, name: str) -> Figure:
    """One line per tile: what it reads as a thin bar, what it writes as a thick one."""
    shown = range(min(len(written), MOST))
    with figure(5.6, 1.4 + 0.12 * len(shown)) as drawing:
        axes = drawing.subplots()
        for spans, height, colour, label in ((read, 0.3, "#9db7d5", "reads"), (written, 0.7, INK[1], "writes")):
            axes.barh(
                list(shown),
                [spans[i][1] - spans[i][0] for i in shown],
                left=[spans[i][0] for i in shown],
                height=height,
                color=colour,
                label=label,
            )
        axes.set_xlim(0, n)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel(name)
        axes.set_ylabel("tile")
        whole_ticks(axes.xaxis, axes.yaxis)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=2)
        more = "" if len(shown) == len(written) else f", the first {len(shown)} drawn"
        axes.set_title(f"{len(written)} tiles{more}")
    return drawing


def _plane(
    written: Sequence[Sequence[Span]], read: Sequence[Sequence[Span]], shape: Sequence[int], names: Sequence[str]
) -> Figure:
    """The image seen from above: borders of tiles as lines, the middle tile filled, its window dashed."""
    from matplotlib.patches import Rectangle

    high, wide = shape[-2:]
    with figure(4.4, 4.4 * min(max(high / wide, 0.4), 1.4) + 0.7) as drawing:
        axes = drawing.subplots()
        axes.vlines([low for low, _ in written[-1][1:]], 0, high, color="#777777", linewidth=0.8)
        axes.hlines([low for low, _ in written[-2][1:]], 0, wide, color="#777777", linewidth=0.8)
        axes.add_patch(Rectangle((0, 0), wide, high, fill=False, edgecolor=INK[0], linewidth=1.2))
        middle = [len(each) // 2 for each in (written[-2], written[-1])]
        for spans, style, label in (
            (written, {"facecolor": "#9db7d5", "edgecolor": "none"}, "one tile"),
            (read, {"fill": False, "edgecolor": INK[2], "linestyle": DASHES[1], "linewidth": 1.6}, "what it reads"),
        ):
            (top, bottom), (left, right) = (map(float, spans[k][i]) for k, i in zip((-2, -1), middle, strict=True))
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, label=label, **style))
        axes.set_xlim(-0.02 * wide, 1.02 * wide)
        axes.set_ylim(1.02 * high, -0.02 * high)
        axes.set_aspect("equal")
        whole_ticks(axes.xaxis, axes.yaxis)
        axes.set_xlabel(f"{names[-1]} in pixels")
        axes.set_ylabel(f"{names[-2]} in pixels")
        axes.set_title(" × ".join(str(len(each)) for each in written) + " tiles")
        drawing.legend(loc="outside lower center", ncols=2)
    return drawing


def levels(
    names: Sequence[str], objects: Sequence[str], inside: np.ndarray, covered: np.ndarray, best: Sequence[str]
) -> Figure:
    """A figure of a match: the mass inside each object by level, hollow where the level cannot see all of it, the best ringed.

    Args:
        names: of the levels.
        objects: what is written under each object.
        inside, covered: mass inside, and theoretical field over object, (levels, objects).
        best: per object, the name of the level that fits.

    Example:
        >>> import numpy as np
        >>> from erfjax.plot import plans
        >>> drawn = plans.levels(("P3", "P4"), ("16",), np.ones((2, 1)), np.ones((2, 1)), ("P3",))
        >>> drawn.axes[0].get_ylabel()
        'share of the mass inside the object'
    """
    places = np.arange(len(objects))
    with figure(max(4.4, 0.6 * len(objects) + 2.0), 3.2) as drawing:
        axes = drawing.subplots()
        for k, name in enumerate(names):
            ink, mark = INK[k % len(INK)], MARKERS[k % len(MARKERS)]
            axes.plot(places, inside[k], color=ink, linestyle=DASHES[k % len(DASHES)], linewidth=1.0, zorder=2)
            for whole in (True, False):
                where = (covered[k] >= 1) == whole
                style = {
                    "facecolor": ink if whole else "white",
                    "edgecolor": ink,
                    "marker": mark,
                    "s": 34.0,
                    "zorder": 3,
                }
                axes.scatter(places[where], inside[k][where], label=None, **style)
            axes.plot([], [], color=ink, linestyle=DASHES[k % len(DASHES)], marker=mark, label=name)
        at = [inside[list(names).index(name), i] for i, name in enumerate(best)]
        axes.scatter(places, at, s=150, facecolor="none", edgecolor=INK[0], linewidth=1.2, zorder=4, label="fits best")
        axes.plot([], [], color=INK[0], marker="o", markerfacecolor="white", linestyle="", label="cannot see all of it")
        axes.set_xticks(places, labels=list(objects))
        axes.set_xlim(-0.5, len(objects) - 0.5)
        axes.set_ylim(0, 1.08)
        axes.set_xlabel("object in pixels")
        axes.set_ylabel("share of the mass inside the object")
        drawing.legend(loc="outside lower center", ncols=3)
    return drawing


def reach(names: Sequence[str], back: Sequence[Number], ahead: Sequence[Number], letter: str) -> Figure:
    """A figure of a context: how far the centre unit of every layer looks back and ahead.

    Args:
        names: of the layers, from the input on.
        back, ahead: positions of the input; infinite ones are drawn to the edge.
        letter: of the sequence axis.

    Example:
        >>> from erfjax.plot import plans
        >>> plans.reach(("conv",), (2,), (0,), "L").axes[0].get_xlabel()
        'positions of L from the unit'
    """
    finite = [abs(float(v)) for v in (*back, *ahead) if math.isfinite(v)]
    edge = 1.15 * max([1.0, *finite])
    some = np.arange(len(names))
    with figure(5.6, 1.3 + 0.2 * min(len(names), 40)) as drawing:
        axes = drawing.subplots()
        for spans, sign, colour, label in ((back, -1, INK[1], "back"), (ahead, 1, INK[2], "ahead")):
            widths = [sign * (float(v) if math.isfinite(v) else edge) for v in spans]
            axes.barh(
                some, widths, height=0.6, color=colour, label=label, hatch="" if sign < 0 else "///", edgecolor="white"
            )
        axes.axvline(0, color=INK[0], linewidth=1.0)
        axes.set_xlim(-edge, edge)
        step = -(-len(names) // 40)
        axes.set_yticks(some[::step], labels=[n if len(n) <= 24 else f"…{n[-23:]}" for n in list(names)[::step]])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(f"positions of {letter} from the unit")
        drawing.legend(loc="outside lower center", ncols=2)
    return drawing
