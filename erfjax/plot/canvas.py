"""The canvas of every figure: style, files, and what recurs in them (a map, a cross-section, the Gaussian beside it)."""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erfjax import files, measures, summary
from erfjax.errors import MapError
from erfjax.typing import Number

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
    "pdf.fonttype": 42,  # TrueType, embedded: what publishers ask for
    "ps.fonttype": 42,
    "svg.fonttype": "path",  # letters as outlines, which look the same everywhere
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

    Args:
        width, height: in inches.

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
    """The path of the image that a figure was written to, under a temporary name and renamed.

    PDFs have their fonts embedded, SVGs their letters as outlines.

    Args:
        drawing: the figure.
        path: ends in .png, .pdf or .svg.

    Example:
        >>> import pathlib, tempfile
        >>> from erfjax import plot
        >>> with tempfile.TemporaryDirectory() as folder, plot.figure(1, 1) as empty:
        ...     plot.save(empty, pathlib.Path(folder) / "empty.svg").name
        'empty.svg'
    """
    import matplotlib

    with files.replaced(path) as temporary, matplotlib.rc_context(STYLE):
        drawing.savefig(temporary, dpi=160)
    return Path(path)


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """The pixels of an image file as float32 from 0 to 1, shape (height, width) or (height, width, channels).

    Args:
        path: of an image file (PNG, JPEG ...).

    Example:
        >>> from matplotlib import cbook
        >>> from erfjax import plot
        >>> plot.read_pixels(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).shape
        (600, 512, 3)
    """
    from matplotlib import image as images

    pixels = np.asarray(images.imread(os.fspath(path)))
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    return pixels.astype(np.float32) / np.float32(top)


def read_image(path: str | os.PathLike[str] | None = None) -> np.ndarray:
    """A photograph as float32 red, green and blue in [0, 1], shape (height, width, 3).

    None is the portrait of Grace Hopper that matplotlib ships (600 x 512 pixels, public domain).

    Args:
        path: of an image file (PNG, JPEG ...), or None.

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

    Args:
        axes: matplotlib axes.
        values: the map.
        contour: the part of the largest value at which the dashed line runs; None draws none.

    Example:
        >>> import numpy as np
        >>> from erfjax import plot
        >>> with plot.figure(2, 2) as picture:
        ...     image = plot.draw_map(picture.subplots(), np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> image.get_array().max().item()
        1.0
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
    """The line of a map along `axis` through a pixel (None: the middle of mass), with a band of ±2 standard errors.

    Args:
        axes: matplotlib axes.
        values: the map.
        stderr: its standard errors; None draws no band.
        axis: along which the line runs.
        through: the pixel.
        style: which colour and dashes, by number.
        options: of matplotlib's `plot`.

    Example:
        >>> import numpy as np
        >>> from erfjax import plot
        >>> with plot.figure(2, 2) as picture:
        ...     plot.draw_section(picture.subplots(), np.array([1.0, 2.0, 1.0]))
        >>> picture.axes[0].lines[0].get_xdata().tolist()
        [-1, 0, 1]
    """
    at = middle(values) if through is None else through
    line = line_through(values, at, axis)
    offset = np.arange(len(line)) - at[axis]
    look = {"color": INK[style % len(INK)], "linestyle": DASHES[style % len(DASHES)], "linewidth": 1.2}
    axes.plot(offset, line, **{**look, **options})
    if stderr is not None:
        error = 2 * line_through(stderr, at, axis)
        axes.fill_between(offset, line - error, line + error, color=INK[style % len(INK)], alpha=0.2, linewidth=0)


def _moments(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The centroid of |map| and its σ per axis, in pixels; zeros for a map that has none: a dead unit can be drawn too."""
    try:
        return measures.centroid(np.abs(values)), measures.sigma(np.abs(values))
    except MapError:
        return (0.0,) * values.ndim, (0.0,) * values.ndim


def middle(values: np.ndarray) -> tuple[int, ...]:
    """The pixel at the centroid of |map|.

    Args:
        values: the map.

    Example:
        >>> import numpy as np
        >>> from erfjax import plot
        >>> plot.middle(np.array([0.0, 1.0, -3.0]))
        (2,)
    """
    return tuple(math.floor(c + 0.5) for c in _moments(values)[0])


def around(values: np.ndarray, reach: Number = 5.0) -> tuple[slice, ...]:
    """The part of a map within so many standard deviations of its middle, and a pixel more.

    Args:
        values: the map.
        reach: how many standard deviations.

    Example:
        >>> import numpy as np
        >>> from erfjax import plot
        >>> plot.around(np.eye(9)[4], reach=2)
        (slice(3, 6, None),)
    """
    spread = _moments(values)[1]
    return tuple(
        slice(max(m - math.ceil(reach * s) - 1, 0), m + math.ceil(reach * s) + 2)
        for m, s in zip(middle(values), spread, strict=True)
    )


def widest(values: np.ndarray) -> float:
    """The largest σ of |map| along an axis, in pixels; zero for a map of zeros."""
    return max(_moments(values)[1])


def gaussian_of(values: np.ndarray) -> np.ndarray:
    """The Gaussian with the centroid and the σ per axis of |map|, and its sum over the map's own pixels.

    Args:
        values: the map.

    Example:
        >>> import numpy as np
        >>> from erfjax import plot
        >>> plot.gaussian_of(np.array([1.0, 2.0, 1.0])).round(2)
        array([0.85, 2.3 , 0.85])
    """
    centre, spread = _moments(values)
    narrowest = 1e-3  # pixels: an axis without spread gets all of it in one pixel
    shape = measures.GaussianFit(1.0, centre, tuple(max(s, narrowest) for s in spread), 0.0, 1.0)(values.shape)
    return np.abs(values).sum() / shape.sum() * shape


@dataclasses.dataclass(frozen=True)
class Cut:
    """Two dimensions of an array of any number of them.

    Attributes:
        index: of the array: one number for each axis that is cut away.
        axes: those that are left, drawn from top to bottom and from left to right.
        words: where it was cut, for a title; empty if it was not.
    """

    index: tuple[int | slice, ...]
    axes: tuple[int, ...]
    words: str

    def of(self, values: np.ndarray) -> np.ndarray:
        """The plane of an array of the same shape; a line becomes a row."""
        return np.atleast_2d(values[self.index])


def cut(values: np.ndarray, at: Mapping[int, int] | None = None) -> Cut:
    """How a map is shown as a plane: of three axes or more, all but two are cut.

    Args:
        values: the map, of one axis or more.
        at: the index for each axis that is cut away; None cuts all but the last two through the largest value.

    Raises:
        MapError: `at` does not leave two axes, or an index is outside.
    """
    names = summary.axis_names(values.ndim)
    if values.ndim < 3:
        chosen: dict[int, int] = {}
        if at:
            raise MapError(f"A map of {values.ndim} dimensions is drawn as it is, but `plane` is {at!r}: leave it out.")
    elif at is None:
        peak = np.unravel_index(np.argmax(np.abs(values)), values.shape)
        chosen = {axis: int(peak[axis]) for axis in range(values.ndim - 2)}
    else:
        chosen = {axis % values.ndim: index for axis, index in at.items()}
        inside = all(0 <= index < values.shape[axis] for axis, index in chosen.items())
        if len(chosen) != values.ndim - 2 or not inside:
            raise MapError(
                f"`plane` must give {values.ndim - 2} of the axes of a map of shape {values.shape} an index inside it, as in "
                f"{{0: {values.shape[0] // 2}}}, but got {at!r}."
            )
    words = ", ".join(f"{names[axis]} {index}" for axis, index in sorted(chosen.items()))
    index = tuple(chosen.get(axis, slice(None)) for axis in range(values.ndim))
    return Cut(index, tuple(axis for axis in range(values.ndim) if axis not in chosen), words)


def plane(values: np.ndarray) -> np.ndarray:
    """Two dimensions of an array: a row of a line, the plane of the last two axes through the largest value of a volume.

    Args:
        values: the map.

    Example:
        >>> import numpy as np
        >>> from erfjax import plot
        >>> plot.plane(np.arange(12).reshape(2, 2, 3)).tolist()
        [[6, 7, 8], [9, 10, 11]]
    """
    return cut(values).of(values)


def line_through(values: np.ndarray, through: Sequence[int], axis: int) -> np.ndarray:
    """The line of a map along `axis` through a pixel.

    Args:
        values: the map.
        through: the pixel.
        axis: along which the line runs.

    Example:
        >>> import numpy as np
        >>> from erfjax import plot
        >>> plot.line_through(np.arange(6).reshape(2, 3), (1, 0), axis=-1)
        array([3, 4, 5])
    """
    axis %= values.ndim
    return values[tuple(slice(None) if a == axis else int(i) for a, i in enumerate(through))]


def whole_ticks(*lines: Any) -> None:
    """Ticks at whole numbers alone on matplotlib axes such as `axes.xaxis`: what is counted has no halves."""
    for line in lines:
        line.get_major_locator().set_params(integer=True)


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


def plain_ticks(axes: Any) -> None:
    """At most five labels on a logarithmic vertical axis that spans less than a decade, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
