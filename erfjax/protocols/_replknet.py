"""RepLKNet's contribution map and its high-contribution area ratios."""

import dataclasses
from typing import Any

import jax
import numpy as np

from erfjax import summary
from erfjax.errors import MapError
from erfjax.fields import EffectiveField
from erfjax.plot import published
from erfjax.protocols._single import measured
from erfjax.typing import ArrayLike, Figure, Function

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RepLKNet(summary.Shown):
    """The high-contribution areas of one network.

    Attributes:
        field: the mean over images of the positive gradient, summed over input channels.
        squares: per threshold (threshold, side in pixels, area / image); side and area are None if no square gets there.
    """

    field: EffectiveField
    squares: tuple[tuple[float, int | None, float | None], ...]

    def table(self) -> summary.Table:
        """One row per threshold."""
        title = f"RepLKNet area ratios of log10(map + 1), {self.field.samples} images"
        return summary.Table(title, ("threshold", "side", "area ratio"), self.squares, self.field.notes)

    def plot(self) -> Figure:
        """A matplotlib figure: log10(map + 1) / max with the squares, each around its share of the sum."""
        sides = {f"{t:.0%} in {side} × {side}": side for t, side, _ in self.squares if side is not None}
        return published.squares(np.log10(np.asarray(self.field.map) + 1), sides, "log10(map + 1) / peak")


def replknet_squares(
    map: ArrayLike, thresholds: tuple[float, ...] = THRESHOLDS, log: bool = True
) -> tuple[tuple[float, int | None, float | None], ...]:
    """Per threshold the smallest square around the pixel n // 2 that holds more than that share of the map.

    The map m becomes log10(m + 1) / max first. Squares have sides 3, 5, 7 ... below the height; the first whose sum is above
    threshold · total counts (strictly), and area is side² / (height · width).

    Kept as published: log10(m + 1) depends on the scale of m (the same Gaussian times 1e-3 to 1e6 gives 0.51 % to 3.26 % at
    0.2); the square never covers the whole map, so 0.99 may be out of reach (None here, where the script stops with an
    error); on a map that is narrower than high, squares that leave it wrap around, and areas may exceed one. `log=False` leaves
    the logarithm out.

    Args:
        map: not negative, (height, width).
        thresholds: shares of the map.
        log: whether the logarithm is taken first, as in the script.

    Returns:
        (threshold, side, area ratio) for each threshold; the last two are None where no square gets there.

    Raises:
        MapError: the map is not two-dimensional, not finite, negative or zero.

    Source: X. Ding et al., "Scaling Up Your Kernels to 31x31", CVPR 2022, and its script `erf/analyze_erf.py`.

    Example:
        >>> import numpy as np
        >>> from erfjax.protocols import replknet_squares
        >>> replknet_squares(np.ones((64, 64)), thresholds=(0.5, 0.99))
        ((0.5, 47, 0.539306640625), (0.99, None, None))
    """
    m = np.asarray(map, dtype=np.float64)
    if m.ndim != 2 or not np.isfinite(m).all() or (m < 0).any() or not m.any():
        raise MapError(
            "The area ratio needs a two-dimensional map, finite, without negative pixels and not all zero, "
            f"but got shape {m.shape}, from {m.min(initial=np.inf)} to {m.max(initial=-np.inf)}."
        )
    if log:
        m = np.log10(m + 1)
    m = m / m.max()
    (h, w), total = m.shape, m.sum()
    y, x = h // 2, w // 2
    shares = [m[y - i : y + 1 + i, x - i : x + 1 + i].sum() / total for i in range(1, h // 2)]

    def square(threshold: float) -> tuple[float, int | None, float | None]:
        i = next((i for i, share in enumerate(shares, 1) if share > threshold), None)
        if i is None:
            return threshold, None, None
        side = 2 * i + 1
        return threshold, side, side / h * side / w

    return tuple(square(threshold) for threshold in thresholds)


def replknet(
    f: Function, images: Any, *, thresholds: tuple[float, ...] = THRESHOLDS, layout: str = "NHWC", **options: Any
) -> RepLKNet:
    """The high-contribution area ratios of a feature map, as RepLKNet measures them.

    `f` ends in the last feature map (in evaluation mode). Of its centre unit n // 2 the positive channels are summed; per image
    the gradient keeps its positive part and is summed over input channels; the mean over images goes to `replknet_squares`.
    Published figures take the first 50 ImageNet validation images in folder order (so all of one class), resized to 1024 x 1024
    bicubically and normalised; that is up to the caller. Images whose gradient is not finite are left out, as there.

    Args:
        f: maps images to features.
        images: an array of rows, or an iterable.
        thresholds: shares of the map.
        layout: the axes of an image.
        options: of `ej.empirical`: samples, batch_size, unit, progress ...

    Raises:
        MapError: see `replknet_squares`; a network whose centre unit is silent has a zero map.

    Example:
        >>> import jax, numpy as np
        >>> import erfjax as ej
        >>> blur = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 9, 9, 1), (1, 1, 1, 1), "SAME")
        >>> ej.protocols.replknet(blur, np.ones((2, 32, 32, 1), np.float32), thresholds=(0.5,)).squares
        ((0.5, 7, 0.0478515625),)
    """

    def rectified(x: jax.Array) -> jax.Array:
        return jax.nn.relu(f(x))

    settings = {"statistic": "relu", "nonfinite": "skip", "layout": layout, **options}
    field = measured(rectified, images, **settings)
    return RepLKNet(field, replknet_squares(field.map, thresholds))
