"""The four protocols side by side on one model: what each makes of the same images, and which defects it keeps."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from erfjax import files, measures, plot, summary
from erfjax.errors import LayoutError
from erfjax.fields import EffectiveField
from erfjax.protocols._luo2016 import luo_map
from erfjax.protocols._openerf import OpenERF, openerf
from erfjax.protocols._replknet import RepLKNet, replknet
from erfjax.protocols._single import measured
from erfjax.protocols._unet_study import UNetStudy, unet_study
from erfjax.typing import Function

DEFECTS = {
    "luo2016": "each image counts alike whatever its gain; the size is relative to the centre pixel alone, which is noisy",
    "openerf": "input channels cancel with their signs before the clip, so the colour basis matters; radii start at the middle "
    "of the image, not of the field",
    "replknet": "log10(map + 1) depends on the scale of the gradient; the square never covers the whole map, so 0.99 may be out "
    "of reach",
    "unet_study": "each image is scaled by its own extremes; the threshold depends on bins of a histogram; the rate may exceed 1",
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Protocols(summary.Shown):
    """Four protocols on one model and the same images.

    Attributes:
        maps: by protocol, its map before its last step, divided by its sum.
        luo_size: of the map of "luo2016", relative to its centre pixel, in pixels.
        openerf, replknet, unet_study: the results of the protocols.
        today: E[g²] of the same unit and images by `ej.empirical`, for comparison.
        images: how many.
    """

    maps: dict[str, np.ndarray]
    luo_size: float
    openerf: OpenERF
    replknet: RepLKNet
    unet_study: UNetStudy
    today: EffectiveField
    images: int

    def table(self) -> summary.Table:
        """One row per protocol: its own number, and σ and the half-mass radius of its map for comparison."""
        area = next(((t, a) for t, _, a in self.replknet.squares if t == 0.5), None)
        radius, mass = next(iter(self.openerf.metrics["radial_cumulative_mass"].items()))
        own = {
            "luo2016": f"Luo size {self.luo_size:.4g} pixels",
            "openerf": f"{mass:.1%} within {radius} pixels of the middle",
            "replknet": "no square holds half"
            if area is None or area[1] is None
            else f"area ratio {area[1]:.2%} at 0.5",
            "unet_study": "no bin qualifies"
            if self.unet_study.rate is None
            else f"ERF rate {self.unet_study.rate:.3g}",
        }
        rows = [(name, own[name], *_common(values)) for name, values in self.maps.items()]
        rows.append(("ej.empirical, E[g²]", f"Luo size {self.today.size():.4g} pixels", *_common(self.today.map)))
        columns = ("protocol", "its own number", "σ of its map", "radius of half its mass")
        notes = tuple(f"{name}: {said}" for name, said in DEFECTS.items())
        return summary.Table(f"four protocols, {self.images} images", columns, tuple(rows), notes)

    def _tables(self) -> tuple[summary.Table, ...]:
        return (self.table(), self.openerf.table(), self.replknet.table(), self.unet_study.table())

    def plot(self) -> Any:
        """A matplotlib figure of the maps, on one scale and in one window."""
        plain = dataclasses.replace(self.today, stderr=None, batches=None)
        fields = {name: dataclasses.replace(plain, map=values) for name, values in self.maps.items()}
        return plot.fields({"map": {**fields, "E[g²]": plain}}, ratios=())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The folder with the figure (protocols.png), the tables (.txt, .json) and the maps (.npz)."""
        folder = Path(path)
        content = {"tables": {table.title: table.to_dict() for table in self._tables()}, "defects": DEFECTS}
        plot.save(self.plot(), folder / "protocols.png")
        arrays = {**self.maps, "square": self.today.map}
        return files.save_folder(folder, "protocols", type(self).__name__, arrays, content, str(self))


def _common(values: np.ndarray) -> tuple[Any, float]:
    """Sizes that every map has."""
    return measures.sigma(values), measures.energy_radius(values, fraction=0.5)


def all(f: Function, images: Any, *, layout: str = "NHWC", **options: Any) -> Protocols:
    """What four published protocols make of one model and the same images, with the defects that each of them keeps.

    `luo2016` is a protocol for random networks of its own; here its map is that of the model: the mean over images of |g|, each
    divided by its sum (`luo_map`), with the Luo size relative to the pixel n // 2. The other three are called as they are.

    Args:
        f: maps images to features.
        images: an array of rows.
        layout: the axes of an image.
        options: of `ej.empirical`, for all of them: unit, out_layout ...

    Raises:
        LayoutError: the images are no array of two-dimensional images with channels.
        MapError: an image has no gradient; see the protocols.

    Source: see `luo2016`, `openerf`, `replknet` and `unet_study`.

    Example:
        >>> import jax, numpy as np
        >>> import erfjax as ej
        >>> blur = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 5, 3, 1), (1, 1, 1, 1), "SAME")
        >>> both = ej.protocols.all(blur, np.ones((2, 32, 24, 3), np.float32))
        >>> list(both.maps), round(both.luo_size, 2)
        (['luo2016', 'openerf', 'replknet', 'unet_study'], 3.87)
    """
    if not hasattr(images, "shape") or {"H", "W", "C"} - set(layout) or "D" in layout:
        raise LayoutError(
            f"The four protocols need an array of images with height, width and channels, but got {type(images).__name__} in "
            f"layout {layout!r}."
        )
    axis = layout.index("N") if "N" in layout else 0
    rows = [np.asarray(images).take([i], axis=axis) for i in range(images.shape[axis])]
    settings = {"layout": layout, "progress": False, **options}
    absolute = [measured(f, row, **{"statistic": "abs", **settings}).map for row in rows]
    luo = luo_map(np.stack(absolute))
    colours, areas = openerf(f, images, **settings), replknet(f, images, **settings)
    unet = unet_study(f, images, **settings)
    maps = {"luo2016": luo, "openerf": colours.map, "replknet": areas.field.normalised(), "unet_study": unet.map}
    maps = {name: values / values.sum() for name, values in maps.items()}
    return Protocols(maps, measures.luo_size(luo), colours, areas, unet, measured(f, images, **settings), len(rows))
