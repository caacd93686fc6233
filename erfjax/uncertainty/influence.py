"""How much every sample moves what is read off the mean map: its influence on σ and on the share of a pixel; and single pixels.

A total may be tame where a size is not: in a network whose tokens are amplified one by one the heavy tail is in single pixels.
So tails are also fitted to the influences, the first-order terms of the delta method, whose sum is zero and whose scatter makes
the error bar.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from erfjax.uncertainty.resampling import upper_moments

ROUNDING = 1e-5  # of what the pixels move: influences below are rounding of float32
MOST_PIXELS = 256  # that make σ, whose spread and tail are looked at


@dataclasses.dataclass(frozen=True, eq=False)
class Influences:
    """What samples, or batches of them, do to a mean map.

    Attributes:
        values: by number, one influence per sample, in no unit; all zero where there is only rounding.
        pixels: every pixel of every sample over the mean of that pixel: their tail is seen in few samples already.
        spread: of the logarithms of single pixels over samples (their upper semideviation), in the mean weighted by what the
            pixels make of σ, times their spread: a pixel that is the same in all samples does not hide the others.
        kurtosis: of the same logarithms above their median, in the mean over pixels.
        alike: whether all samples are the same map, up to rounding.
    """

    values: dict[str, Float[np.ndarray, " samples"]]
    pixels: Float[np.ndarray, " values"]
    spread: float
    kurtosis: float
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
        return Influences({}, np.zeros(0), 0.0, 0.0, alike)
    parts = shown / shown.sum()
    places = np.indices(space).reshape(len(space), -1)
    far = ((places - (places @ parts)[:, None]) ** 2).sum(0)
    pixel = int(np.ravel_multi_index(at, space)) if space else 0
    one = np.zeros(len(mean))
    one[pixel] = 1.0
    slopes = {"σ": (far - far @ parts) * slope, "share of that pixel": (one - parts[pixel]) * slope}
    found = {}
    for name, weight in slopes.items():
        values, size = flat @ weight, float(np.abs(weight * mean).sum())
        found[name] = values / size if np.abs(values).max() > ROUNDING * size else np.zeros(len(flat))
    made = np.abs(slopes["σ"] * mean)
    heaviest = np.argsort(made)[-MOST_PIXELS:]
    sizes = np.abs(flat[:, heaviest])
    spreads, kurtoses = upper_moments(sizes)
    weights = made[heaviest] * spreads
    spread = float(weights @ spreads / weights.sum()) if weights.any() else 0.0
    kurtosis = float(kurtoses[spreads > 0].mean()) if spreads.any() else 0.0
    means = sizes.mean(0)
    return Influences(found, (sizes[:, means > 0] / means[means > 0]).ravel(), spread, kurtosis, alike)
