"""Panels of cross-sections: in every one the closed form is a line and the measurement stands as markers on it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from erfjax.plot.canvas import INK, MARKERS, draw_section, gaussian_of, middle

GREY = "#777777"


def centre(field: Any) -> int:
    """The column that distances are counted from: the centre of the theoretical field, or of the map's own mass."""
    at = math.nan if field.theoretical is None else field.theoretical.centre[-1]
    inside = 0 <= at < field.map.shape[-1]
    return math.floor(at + 0.5) if inside else middle(field.map)[-1]


def sections(axes: Any, closed: Any, measured: Sequence[Any], names: Sequence[str]) -> None:
    """The profile of a closed form (a line), its Gaussian (dashed), and those of measured fields (markers that take turns)."""
    theory(axes, closed)
    reach = math.ceil(4 * closed.sigma()[-1])
    step = max(1, len(measured) * reach // 24)
    for style, (field, name) in enumerate(zip(measured, names, strict=True)):
        markers(axes, field, style, name, reach, step, style * step // len(measured))
    limits(axes, reach)


def theory(axes: Any, field: Any) -> None:
    """The profile of a closed form as a line, and that of its Gaussian dashed."""
    at = (centre(field),)
    bell = _marginal(gaussian_of(field.normalised()))
    draw_section(axes, profile(field)[0], through=at, linewidth=1.0, label="closed form")
    draw_section(axes, bell, through=at, style=1, color=GREY, label="Gaussian, same σ")


def limits(axes: Any, reach: int) -> None:
    """What the axes of every profile have in common."""
    axes.set(xlabel="pixels from the centre", xlim=(-reach - 0.5, reach + 0.5))
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=3)


def markers(axes: Any, field: Any, style: int, label: str, reach: int, step: int = 1, first: int = 0) -> None:
    """A measured profile as markers with 95 % error bars, every `step` pixels."""
    line, ends = profile(field)
    offset = np.arange(len(line)) - centre(field)
    keep = (np.abs(offset) <= reach) & (offset % step == first)
    look = {"color": INK[style % 5], "markersize": 3.2, "markerfacecolor": "white", "linestyle": "none"}
    look |= {"elinewidth": 0.7, "markeredgewidth": 0.8, "marker": MARKERS[style % 5], "label": label}
    bars = None if ends is None else np.abs(np.stack(ends) - line)[:, keep]
    axes.errorbar(offset[keep], line[keep], bars, **look)


def _marginal(values: np.ndarray) -> np.ndarray:
    """A map summed over all axes but the last."""
    return values.sum(axis=tuple(range(values.ndim - 1)))


def profile(field: Any) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """The share of the map in every column, and its 95 % band."""
    return _marginal(field.normalised()), field.band(_marginal)
