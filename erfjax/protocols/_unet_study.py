"""The ERF rate of the U-Net receptive field study."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from erfjax import summary
from erfjax.errors import MapError
from erfjax.plot import published
from erfjax.protocols._single import measured
from erfjax.typing import ArrayLike, Extent, Figure, Function

BINS = 100


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class UNetStudy(summary.Shown):
    """The fields of one U-Net.

    Attributes:
        map: the mean over images of |gradient| scaled to [0, 1] in each image.
        start, stop: the theoretical field of the centre unit inside the image, half-open.
        trf: the largest theoretical field over all phases of the unit, per axis; None if it could not be read off.
        rate: the ERF rate; None if no bin of the histogram qualifies.
        images: how many.
    """

    map: np.ndarray
    start: tuple[int, ...]
    stop: tuple[int, ...]
    trf: tuple[Extent, ...] | None
    rate: float | None
    images: int

    def table(self) -> summary.Table:
        """One fact a row."""
        pairs = {
            "ERF rate": self.rate,
            "centre unit's TRF": tuple(b - a for a, b in zip(self.start, self.stop, strict=True)),
            "largest TRF over units": self.trf,
        }
        return summary.facts(f"U-Net study, {self.images} images", pairs)

    def plot(self) -> Figure:
        """A matplotlib figure: the map, the theoretical box, and a line around what lies above the threshold of the rate."""
        return published.rated(self.map, self.start, self.stop, _threshold(_zone(self.map, self.start, self.stop)))


def unet_map(gradients: ArrayLike) -> Float[np.ndarray, "*space"]:
    """The mean over images (the first axis) of |g|, each scaled to [0, 1] by its own extremes; constant images give zero.

    Args:
        gradients: one map of gradients for each image.

    Example:
        >>> import numpy as np
        >>> from erfjax.protocols import unet_map
        >>> unet_map(np.array([[0.0, -2.0, 1.0], [0.0, 0.0, 0.0]]))
        array([0.  , 0.5 , 0.25])
    """
    g = np.abs(np.asarray(gradients, dtype=np.float64))
    space = tuple(range(1, g.ndim))
    low, high = g.min(axis=space, keepdims=True), g.max(axis=space, keepdims=True)
    return np.divide(g - low, high - low, out=np.zeros_like(g), where=high > low).mean(axis=0)


def erf_rate(map: ArrayLike, start: Sequence[int], stop: Sequence[int]) -> float | None:
    """The share of the theoretical field [start, stop) above a threshold, times one plus the mean of the map there.

    The threshold is the centre of the first of 100 histogram bins whose count is below the mean count of the bins from ten
    before it to four after it; the first ten bins cannot qualify. None if no bin does.

    Kept as published: the threshold depends on the number of bins and on noise in their counts, and the factor lets the rate
    exceed one.

    Raises:
        MapError: the map is not finite, or the field has no pixel.

    Source: V. Loos, R. Pardasani, N. Awasthi, "Demystifying the effect of receptive field size in U-Net models for medical
    image segmentation", J. Med. Imaging 2024; `utils/metrics.py` of the study.

    Example:
        >>> import numpy as np
        >>> from erfjax.protocols import erf_rate
        >>> round(erf_rate(np.outer(np.hanning(31), np.hanning(31)), (0, 0), (31, 31)), 4)
        0.7221
    """
    zone = _zone(map, start, stop)
    if not zone.size or not np.isfinite(zone).all():
        raise MapError(
            f"The ERF rate needs a finite map with pixels in the field, but got {zone.shape} from {start} to {stop}."
        )
    threshold = _threshold(zone)
    if threshold is None:
        return None
    above = zone[zone > threshold]
    return float(above.size / zone.size * (1 + above.mean()))


def _zone(map: ArrayLike, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
    """The map inside the theoretical field."""
    return np.asarray(map, dtype=np.float64)[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]


def _threshold(zone: np.ndarray) -> float | None:
    """The threshold of `erf_rate`."""
    counts, edges = np.histogram(zone.ravel(), bins=BINS)
    before, after = BINS // 10, BINS // 20
    for i in range(before, BINS):
        if counts[i] < counts[i - before : i + after].mean():
            return float((edges[i] + edges[i + 1]) / 2)
    return None


def unet_study(f: Function, images: Any, *, layout: str = "NHWC", **options: Any) -> UNetStudy:
    """The theoretical field and the ERF rate of the centre unit of a U-Net, as the U-Net study measures them.

    Per image |gradient| of the unit n // 2 (288 of 576 there) is scaled to [0, 1]; the mean over images goes to `erf_rate` on
    the theoretical field of that unit inside the image.

    Kept as published: one number stands for a field that changes with the phase of the unit (`trf`, its maximum over units),
    and images that give no gradient count as zero. There the network had one input channel; several are summed here.

    Args:
        f: maps images to the output before the last nonlinearity.
        images: an array of rows, or an iterable of single images.
        layout: the axes of an image.
        options: of `ej.empirical`: unit, out_layout, channels ...

    Raises:
        MapError: there are no images.

    Example:
        >>> import jax, numpy as np
        >>> import erfjax as ej
        >>> blur = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 5, 3, 1), (1, 1, 1, 1), "SAME")
        >>> study = ej.protocols.unet_study(blur, np.ones((2, 32, 24, 1), np.float32))
        >>> study.start, study.stop, study.trf
        ((14, 11), (19, 14), (5, 3))
    """
    settings = {"statistic": "abs", "layout": layout, "batch_size": 1, "progress": False, **options}
    fields = [measured(f, row, **settings) for row in _rows(images, layout)]
    if not fields:
        raise MapError("`images` must hold at least one image, but it is empty.")
    map = unet_map(np.stack([field.map for field in fields]))
    theory = fields[0].theoretical
    start, stop = ((0,) * map.ndim, map.shape) if theory is None else theory.clipped
    trf = None if theory is None else theory.phases().maximum
    return UNetStudy(map, start, stop, trf, erf_rate(map, start, stop), len(fields))


def _rows(images: Any, layout: str) -> Iterator[Any]:
    """One image at a time, as `empirical` takes them."""
    if not hasattr(images, "shape"):
        yield from ([image] for image in images)
        return
    axis = layout.index("N") if "N" in layout else 0
    for i in range(images.shape[axis]):
        yield np.asarray(images).take([i], axis=axis)
