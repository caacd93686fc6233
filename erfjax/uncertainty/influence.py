"""How much every sample moves what is read off the mean map: its influence on σ and on the share of a pixel; and single pixels.

A total may be tame where a size is not: in a network whose tokens are amplified one by one the heavy tail is in single pixels.
So tails are also fitted to the influences, the first-order terms of the delta method, whose sum is zero and whose scatter makes
the error bar.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from erfjax.uncertainty.resampling import spreads

ROUNDING = 1e-5  # of what the pixels move: influences below are rounding of float32
MOST_PIXELS = 256  # that make σ, whose spread and tail are looked at


@dataclasses.dataclass(frozen=True, eq=False)
class Influences:
    """What samples, or batches of them, do to a mean map.

    Attributes:
        values: by number, one influence per sample, in no unit; all zero where there is only rounding.
        pixels: every pixel of every sample over the median of that pixel: their tail is seen in few samples already.
        spread: of the logarithms of single pixels over samples (their upper semideviation), in the mean weighted by what the
            pixels make of σ.
        alike: whether all samples are the same map, up to rounding.
    """

    values: dict[str, Float[np.ndarray, " samples"]]
    pixels: Float[np.ndarray, " values"]
    spread: float
    alike: bool


def influences(maps: Float[np.ndarray, "samples *space"], at: tuple[int, ...], root: bool = False) -> Influences:
    """The influences of samples on σ of their mean map, and on the share of a pixel.

    Formula: of σ² Σ_p ((p - μ)² - σ²) g_p, of the share s of pixel c g_c - s Σ g; of the root of the mean map, g times
    1/(2 √mean); all over the sum of the sizes of these terms for the mean map.

    Args:
        maps: of the samples.
        at: the pixel c.
        root: whether σ and the share are those of the root of the mean map.

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.influence import influences
        >>> found = influences(np.array([[1.0, 2.0, 1.0], [2.0, 2.0, 2.0]]), (1,))
        >>> {name: values.round(2).tolist() for name, values in found.values.items()}
        {'σ': [-0.17, 0.17], 'share of that pixel': [0.17, -0.17]}
    """
    flat, space = maps.reshape(len(maps), -1), maps.shape[1:]
    mean = flat.mean(0)
    shown = np.sqrt(np.maximum(mean, 0.0)) if root else np.abs(mean)
    slope = np.where(shown > 0, 0.5 / np.where(shown > 0, shown, 1.0), 0.0) if root else np.sign(mean)
    alike = bool((np.ptp(flat, 0) <= ROUNDING * np.abs(flat).max(0)).all())
    if not shown.any():
        return Influences({}, np.zeros(0), 0.0, alike)
    parts = shown / shown.sum()
    places = np.indices(space).reshape(len(space), -1)
    far = ((places - (places @ parts)[:, None]) ** 2).sum(0)
    pixel = int(np.ravel_multi_index(at, space)) if space else 0
    one = np.zeros(len(mean))
    one[pixel] = 1.0
    weights = {"σ": (far - far @ parts) * slope, "share of that pixel": (one - parts[pixel]) * slope}
    found = {}
    for name, weight in weights.items():
        values, size = flat @ weight, float(np.abs(weight * mean).sum())
        found[name] = values / size if np.abs(values).max() > ROUNDING * size else np.zeros(len(flat))
    made = np.abs(weights["σ"] * mean)
    heaviest = np.argsort(made)[-MOST_PIXELS:]
    total, sizes = float(made[heaviest].sum()), np.abs(flat[:, heaviest])
    spread = float(made[heaviest] @ spreads(sizes) / total) if total else 0.0
    usual = np.median(sizes, 0)  # zero where most samples do not see the pixel
    return Influences(found, (sizes[:, usual > 0] / usual[usual > 0]).ravel(), spread, alike)
