"""The canvas of every figure: style, files, and what recurs in them (a map, a cross-section, the Gaussian beside it)."""

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erfjax import files

COLOURS = "bone_r"  # white to black through blue: lightness falls all the way, so that it prints in grey
INK = ("#111111", "#1f5fa8", "#b3541e", "#5b7f3a", "#7a4b94")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
CONTOUR = 0.0455  # of the peak: the threshold of the Luo size
MARKERS = ("o", "s", "^", "D", "v")
STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}


@functools.cache
def _drawing() -> Any:
    """A `Figure` that a notebook shows without pyplot."""
    from matplotlib.figure import Figure

    class Drawing(Figure):
        def _repr_png_(self) -> bytes:
            import io

            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=90)
            return buffer.getvalue()

    return Drawing


@contextlib.contextmanager
def figure(width: int | float, height: int | float) -> Iterator[Any]:
    """An empty figure of so many inches in the house style, to be filled inside the `with`.

    Example:
        >>> from erfjax import plot
        >>> with plot.figure(4, 3) as picture:
        ...     line = picture.subplots().plot([0, 1], [0, 1])
        >>> picture.get_size_inches().tolist()
        [4.0, 3.0]
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield _drawing()(figsize=(width, height), layout="constrained")


def save(drawing: Any, path: str | os.PathLike[str]) -> Path:
    """The path of the image that a figure was written to (PNG, PDF or SVG by its suffix), under a temporary name and renamed."""
    with files.replaced(path) as temporary:
        drawing.savefig(temporary, dpi=160)
    return Path(path)


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """The pixels of an image file as float32 from 0 to 1, shape (height, width) or (height, width, channels)."""
    from matplotlib import image as images

    pixels = np.asarray(images.imread(os.fspath(path)))
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    return pixels.astype(np.float32) / np.float32(top)


def read_image(path: str | os.PathLike[str] | None = None) -> np.ndarray:
    """A photograph as float32 red, green and blue in [0, 1], shape (height, width, 3).

    None is the portrait of Grace Hopper that matplotlib ships (600 x 512 pixels, public domain).

    Example:
        >>> from erfjax import plot
        >>> plot.read_image().shape
        (600, 512, 3)
    """
    from matplotlib import cbook

    pixels = read_pixels(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False) if path is None else path)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[..., :3]


def draw_map(axes: Any, values: np.ndarray, contour: float | None = CONTOUR) -> Any:
    """A map on `axes`, its largest value black; dashed, where it falls to `contour` of that value. Returns the image drawn.

    One axis becomes a strip; of three or more the plane through the largest value is shown.
    """
    flat = plane(np.abs(values))
    peak = flat.max() or 1.0
    drawn = axes.imshow(
        flat / peak,
        cmap=COLOURS,
        vmin=0,
        vmax=1,
        interpolation="nearest",
        aspect="auto" if values.ndim == 1 else "equal",
    )
    if contour is not None and values.ndim > 1 and min(flat.shape) > 1 and (flat < contour * peak).any():
        axes.contour(flat / peak, levels=[contour], colors="#111111", linewidths=0.8, linestyles="--")
    axes.set(xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)
    return drawn


def draw_section(
    axes: Any,
    values: np.ndarray,
    stderr: np.ndarray | None = None,
    axis: int = -1,
    through: Sequence[int] | None = None,
    style: int = 0,
    **options: Any,
) -> None:
    """The line of a map along `axis` through a pixel (None: the middle of mass), with a band of ±2 standard errors."""
    at = middle(values) if through is None else through
    line = line_through(values, at, axis)
    offset = np.arange(len(line)) - at[axis]
    look = {"color": INK[style % len(INK)], "linestyle": DASHES[style % len(DASHES)], "linewidth": 1.2}
    axes.plot(offset, line, **{**look, **options})
    if stderr is not None:
        error = 2 * line_through(stderr, at, axis)
        axes.fill_between(offset, line - error, line + error, color=INK[style % len(INK)], alpha=0.2, linewidth=0)


def moments(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The centroid of |map| and its standard deviation, per axis; zeros for a map of zeros.

    Example:
        >>> import numpy as np
        >>> from erfjax import plot
        >>> plot.moments(np.array([0.0, 1.0, 0.0, 1.0]))
        ((2.0,), (1.0,))
    """
    weight = np.abs(values)
    weight = weight / (weight.sum() or 1.0)
    centroid, spread = [], []
    for axis, n in enumerate(values.shape):
        share, t = weight.sum(axis=tuple(a for a in range(values.ndim) if a != axis)), np.arange(n)
        centroid.append(float(share @ t))
        spread.append(math.sqrt(share @ (t - centroid[-1]) ** 2))
    return tuple(centroid), tuple(spread)


def middle(values: np.ndarray) -> tuple[int, ...]:
    """The pixel at the centroid of |map|."""
    return tuple(math.floor(c + 0.5) for c in moments(values)[0])


def around(values: np.ndarray, reach: float = 5.0) -> tuple[slice, ...]:
    """The part of a map within so many standard deviations of its middle, and a pixel more."""
    spread = moments(values)[1]
    return tuple(
        slice(max(m - math.ceil(reach * s) - 1, 0), m + math.ceil(reach * s) + 2)
        for m, s in zip(middle(values), spread, strict=True)
    )


def gaussian_of(values: np.ndarray) -> np.ndarray:
    """The Gaussian with the centroid, the σ per axis and the sum of |map|, on the map's own pixels.

    Example:
        >>> import numpy as np
        >>> from erfjax import plot
        >>> plot.gaussian_of(np.array([1.0, 2.0, 1.0])).round(2)
        array([0.83, 2.26, 0.83])
    """
    result = np.array(np.abs(values).sum())
    for n, c, s in zip(values.shape, *moments(values), strict=True):
        t = np.arange(n)
        bell = np.exp(-0.5 * ((t - c) / s) ** 2) / (s * math.sqrt(2 * math.pi)) if s > 0 else (t == round(c)) * 1.0
        result = result[..., None] * bell
    return result


def plane(values: np.ndarray) -> np.ndarray:
    """Two dimensions of an array: a row of a line, the plane of the last two axes through the largest value of a volume."""
    if values.ndim < 3:
        return np.atleast_2d(values)
    peak = np.unravel_index(np.argmax(np.abs(values)), values.shape)
    return values[peak[:-2]]


def line_through(values: np.ndarray, through: Sequence[int], axis: int) -> np.ndarray:
    axis %= values.ndim
    return values[tuple(slice(None) if a == axis else int(i) for a, i in enumerate(through))]


def log_log(axes: Any, positions: Any) -> None:
    """Logarithmic axes with a label at each position and at round values of the other axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(positions), labels=[f"{n:g}" for n in positions])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend_below(part: Any, axes: Any) -> None:
    """The legend of `axes` below a figure or a part of one, in as many columns of two inches as fit."""
    columns = max(1, int(part.bbox.width / part.dpi / 2))
    part.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
