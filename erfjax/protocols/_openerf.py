"""OpenERF's map and its radial metrics."""

import dataclasses
from typing import Any

import jax
import numpy as np

from erfjax import measures, summary
from erfjax.errors import LayoutError, MapError
from erfjax.fields import EffectiveField
from erfjax.plot import published
from erfjax.protocols._single import measured
from erfjax.typing import ArrayLike, Figure, Function

RADII = (5, 10, 20, 30, 40, 60, 80)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OpenERF(summary.Shown):
    """The metrics of one network; pixels are (row, column).

    Attributes:
        field: the mean over images of max(sum over input channels of the gradient, 0); OpenERF averages instead of summing.
        map: its map summing to one, where sums and averages are the same.
        metrics: "shape", "sum", "min", "max", "argmax_yx", "center_yx", "center_value", "com_x", "com_y" and
            "radial_cumulative_mass", under their published names.
        fit: the least-squares Gaussian of `map`.
        r_squared: 1 - var(map - fit) / var(map).
    """

    field: EffectiveField
    map: np.ndarray
    metrics: dict[str, Any]
    fit: measures.GaussianFit | None
    r_squared: float | None

    def table(self) -> summary.Table:
        """One row per metric."""
        plain = {name: value for name, value in self.metrics.items() if name != "radial_cumulative_mass"}
        pairs = {name: str(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        mass = self.metrics["radial_cumulative_mass"]
        pairs |= {f"mass within {radius} pixels": value for radius, value in mass.items()}
        if self.fit is not None:
            pairs |= {
                "Gaussian σ (y, x)": self.fit.sigma,
                "Gaussian centre (y, x)": self.fit.centre,
                "R²": self.r_squared,
            }
        return summary.facts(f"OpenERF metrics, {self.field.samples} images", pairs, self.field.notes)

    def plot(self) -> Figure:
        """A matplotlib figure: the map with circles of the radii, and the mass within them."""
        found = self.metrics
        centre = (found["com_y"], found["com_x"])
        return published.circles(self.map, found["radial_cumulative_mass"], found["center_yx"], centre)


def radial_metrics(map: ArrayLike, radii: tuple[int, ...] = RADII) -> dict[str, Any]:
    """The published metrics of a map normalised to sum one: extremes, centre of mass, and mass within radii.

    Kept as published: radii are measured around the pixel (height // 2, width // 2), which is not the centre of the unit's
    field in a strided network (unit (3, 3) of 7 x 7 at stride 32 sits at pixel 96 or 99, not 112).

    Raises:
        MapError: the map is not two-dimensional, not finite, or does not sum to a positive number; a radius is not positive.

    Source: OpenERF 0.6, `openerf/metrics.py`.

    Example:
        >>> import numpy as np
        >>> from erfjax.protocols import radial_metrics
        >>> radial_metrics(np.ones((4, 6)), radii=(1,))["com_x"]
        2.5
    """
    m = np.asarray(map, dtype=np.float64)
    total = float(m.sum())
    if m.ndim != 2 or not np.isfinite(total) or total <= 0:
        raise MapError(
            f"Radial metrics need a two-dimensional map with a positive sum, but got {m.shape}, sum {total}."
        )
    if min(radii, default=1) <= 0:
        raise MapError(f"`radii` must be positive numbers of pixels, but got {radii}.")
    m = m / total
    y, x = np.indices(m.shape)
    centre = (m.shape[0] // 2, m.shape[1] // 2)
    distance = np.hypot(y - centre[0], x - centre[1])
    peak = np.unravel_index(np.argmax(m), m.shape)
    return {
        "shape": m.shape,
        "sum": float(m.sum()),
        "min": float(m.min()),
        "max": float(m.max()),
        "argmax_yx": (int(peak[0]), int(peak[1])),
        "center_yx": centre,
        "center_value": float(m[centre]),
        "com_x": float((x * m).sum()),
        "com_y": float((y * m).sum()),
        "radial_cumulative_mass": {radius: float(m[distance <= radius].sum()) for radius in radii},
    }


def openerf(
    f: Function, images: Any, *, radii: tuple[int, ...] = RADII, fit: bool = False, layout: str = "NHWC", **options: Any
) -> OpenERF:
    """The normalised map of the centre unit and its metrics, as OpenERF measures them.

    `f` ends in a feature map; all channels of one unit are averaged. Per image the gradient is averaged over the input
    channels with its sign and only then clipped at zero; clipped maps are added and divided by their sum.

    Kept as published: positive and negative input channels cancel before the clip, so the map depends on the colour basis.
    Convolutional features take the unit n // 2; for token grids of an even side the package takes (n - 1) // 2 instead: pass
    `unit` for those. A residual branch that is initialised silent is not noticed.

    Args:
        f: maps images to features.
        images: an array of rows, or an iterable of arrays that keep the channel axis where `layout` has it, from the end.
        radii: of the cumulative mass, in pixels.
        fit: whether to fit a Gaussian too.
        layout: the axes of an image.
        options: of `ej.empirical`: samples, batch_size, unit, progress ...

    Raises:
        LayoutError: the layout has no channels.
        MapError: see `radial_metrics`.

    Source: OpenERF 0.6, `openerf/erf.py` and `openerf/fit.py`.

    Example:
        >>> import jax, numpy as np
        >>> import erfjax as ej
        >>> blur = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 5, 1), (1, 1, 1, 1), "SAME")
        >>> result = ej.protocols.openerf(blur, np.ones((2, 20, 30, 3), np.float32), radii=(1,))
        >>> round(result.metrics["radial_cumulative_mass"][1], 6)  # 5 of 15 pixels
        0.333333
    """
    if "C" not in layout:
        raise LayoutError(f"`layout` must name the input channels C, over which OpenERF averages, but got {layout!r}.")
    axis = layout.index("C") - len(layout)

    def with_common(rows: Any) -> Any:
        """Rows with one more channel, zero everywhere, that stands for a change of all channels alike."""
        blank = np.zeros_like(np.asarray(rows).take([0], axis=axis))
        return np.concatenate([np.asarray(rows), blank], axis=axis)

    def of_common(x: jax.Array) -> jax.Array:
        """The features as a function of the common channel: its gradient is the sum over channels, with signs."""
        channels = x.shape[axis] - 1
        given, common = jax.numpy.split(x, [channels], axis=axis)
        return f(jax.lax.stop_gradient(given) + common)

    widened = with_common(images) if hasattr(images, "shape") else (with_common(rows) for rows in images)
    field = measured(of_common, widened, **{"statistic": "relu", "layout": layout, **options})
    metrics = radial_metrics(field.map, radii)
    normalised = field.normalised()
    if not fit:
        return OpenERF(field, normalised, metrics, None, None)
    gaussian = measures.gaussian_fit(normalised)
    r_squared = 1 - float(np.var(normalised - gaussian(normalised.shape)) / np.var(normalised))
    return OpenERF(field, normalised, metrics, gaussian, r_squared)
