"""Sizes, shapes and distances of a map: pure functions of a non-negative array, in any number of dimensions.

A map g(t) holds how much each pixel t counts. Sizes are in pixels, areas in pixels to the power of the dimension, in
float64; none changes when the map is multiplied by a number. σ is the standard deviation of the map itself along one
axis, the map taken as a distribution. For a two-dimensional Gaussian map, far from the border:

    luo_size 4.406 σ   fwhm 2.355 σ   energy_radius(0.5) 1.177 σ   effective_area 4πσ²   entropy_area 2πeσ²
"""

import dataclasses
import math
import operator
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float

from erfjax.errors import MapError
from erfjax.typing import ArrayLike, Number

LUO_THRESHOLD = 0.0455  # 1 - 95.45 %, the mass within two standard deviations of a one-dimensional Gaussian
NARROWEST = 0.5  # pixels: a fit that starts narrower has neighbours of exp(-2) and less, and no gradient to widen


def luo_size(map: ArrayLike, threshold: Number = LUO_THRESHOLD, reference: Any = "centre") -> float:
    """The Luo size: (number of pixels above `threshold` times the reference pixel)^(1/ndim).

    The reference is the pixel n // 2 per axis ("centre"), the largest pixel ("peak"), or the pixel at these indices.
    A two-dimensional Gaussian has √(2π ln(1/threshold)) σ = 4.406 σ.
    Source: W. Luo et al. 2016, section 3; the square root of the count is theirs, other dimensions are ours.

    Raises:
        MapError: the map is no map, or its reference pixel is zero or outside.

    Example:
        >>> import numpy as np
        >>> import erfjax as ej
        >>> ej.measures.luo_size(np.ones((4, 9)))
        6.0
    """
    if not 0 <= threshold < 1:
        raise MapError(
            f"`threshold` must be a part of the reference pixel, at least 0 and below 1, but got {threshold}."
        )
    g, _ = _checked(map)
    peak = isinstance(reference, str) and reference == "peak"
    at = np.unravel_index(np.argmax(g), g.shape) if peak else _pixel(reference, g.shape, "reference")
    if g[at] == 0:
        raise MapError(
            f"The Luo size is relative to the reference pixel {tuple(int(i) for i in at)}, but that pixel is zero: "
            "give the centre of the field as `reference`, or use 'peak'."
        )
    return float(np.count_nonzero(g > threshold * g[at])) ** (1 / g.ndim)


def _checked(map: ArrayLike) -> tuple[np.ndarray, float]:
    """The map divided by its largest pixel, in float64, and that pixel."""
    try:
        given = np.asarray(map)
        if np.iscomplexobj(given):
            raise MapError("A map must be real, but got complex numbers: measure np.abs(map).")
        g = given.astype(np.float64)
    except (TypeError, ValueError) as error:  # a traced array among them
        if isinstance(error, MapError):
            raise
        raise MapError(f"A map must be an array of known numbers, but got {type(map).__name__}: {error}") from error
    if g.ndim == 0 or g.size == 0:
        raise MapError(f"A map needs at least one axis and one pixel, but got shape {g.shape}.")
    if not np.isfinite(g).all():
        raise MapError(
            f"A map must be finite, but {np.count_nonzero(~np.isfinite(g))} of {g.size} pixels are NaN or infinite."
        )
    if (g < 0).any():
        raise MapError(
            f"A map must not be negative, but {np.count_nonzero(g < 0)} of {g.size} pixels are: "
            "measure np.abs(map) or map**2."
        )
    peak = float(g.max())
    if peak == 0:
        raise MapError("All pixels of the map are zero: the unit is dead, or the gradient underflowed. It has no size.")
    return g / peak, peak


def _pixel(where: Any, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The indices of a pixel of a map: those given, or n // 2 per axis for "centre" or None."""
    if where is None or (isinstance(where, str) and where == "centre"):
        return tuple(n // 2 for n in shape)
    try:
        at = tuple(map(operator.index, where))
    except TypeError:
        at = ()
    if len(at) != len(shape) or any(not 0 <= i < n for i, n in zip(at, shape, strict=True)):
        raise MapError(f"`{name}` must be the indices of a pixel of a map of shape {shape}, but got {where!r}.")
    return at


def _fraction(fraction: Number) -> float:
    if not 0 < fraction <= 1:
        raise MapError(f"`fraction` must be a part of the map's mass, above 0 and at most 1, but got {fraction}.")
    return float(fraction)


def _point(centre: Any, g: np.ndarray) -> tuple[float, ...]:
    """A point among the pixels: the one given, or the centroid."""
    if centre is None:
        return centroid(g)
    if len(centre) != g.ndim or not all(math.isfinite(c) for c in centre):
        raise MapError(
            f"`centre` must be one finite position per axis of a map of shape {g.shape}, but got {centre!r}."
        )
    return tuple(float(c) for c in centre)


def _marginals(g: np.ndarray) -> list[np.ndarray]:
    """The mass per position along each axis, summing to one."""
    axes = range(g.ndim)
    sums = (g.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes)
    return [marginal / marginal.sum() for marginal in sums]


def _distances(shape: tuple[int, ...], centre: tuple[float, ...]) -> np.ndarray:
    """The Euclidean distance of every pixel from a point."""
    return np.sqrt(sum((t - c) ** 2 for t, c in zip(np.ogrid[tuple(slice(n) for n in shape)], centre, strict=True)))


def centroid(map: ArrayLike) -> tuple[float, ...]:
    """The centre of mass of a map along each axis, Σ t g(t) / Σ g(t).

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> ej.measures.centroid(np.array([0.0, 1.0, 1.0, 0.0]))
        (1.5,)
    """
    return tuple(float(p @ np.arange(len(p))) for p in _marginals(_checked(map)[0]))


def sigma(map: ArrayLike) -> tuple[float, ...]:
    """The standard deviation of a map along each axis, √(Σ (t - centroid)² g(t) / Σ g(t)).

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> ej.measures.sigma(np.array([1.0, 2.0, 1.0])) == (0.5**0.5,)
        True
    """
    return tuple(_spread(p) for p in _marginals(_checked(map)[0]))


def _spread(p: np.ndarray) -> float:
    t = np.arange(len(p))
    return float(np.sqrt(p @ (t - p @ t) ** 2))


def area_ratio(map: ArrayLike, fraction: Number, centre: Any = None) -> float:
    """The share of the map covered by the smallest square around a pixel that holds at least `fraction` of the mass.

    The square has an odd side, is centred on the pixel `centre` (None: n // 2 per axis) and is cut at the border; in
    other dimensions it is an interval or a cube.
    Source: X. Ding et al. 2022 (RepLKNet), whose own script takes log10(map + 1) first: see `protocols.replknet`.

    Raises:
        MapError: the map is no map, the fraction is not in (0, 1], or the centre is outside.

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> round(ej.measures.area_ratio(np.ones((64, 64)), 0.2), 4)
        0.2053
    """
    g, _ = _checked(map)
    at = _pixel(centre, g.shape, "centre")
    wanted = _fraction(fraction) * g.sum() * (1 - 1e-12)  # rounding must not ask for more than everything

    def square(half: int) -> np.ndarray:
        return g[tuple(slice(max(i - half, 0), i + half + 1) for i in at)]

    low, high = 0, max(g.shape)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if square(middle).sum() >= wanted else (middle + 1, high)
    return square(low).size / g.size


def energy_radius(map: ArrayLike, fraction: Number, centre: Any = None) -> float:
    """The smallest distance from a point within which pixels hold at least `fraction` of the mass.

    `centre` None is the centroid. A two-dimensional Gaussian has σ √(-2 ln(1 - fraction)): 1.177 σ at 50 %, 2.146 σ at
    90 %.

    Raises:
        MapError: the map is no map, the fraction is not in (0, 1], or the centre is not a point.

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> ej.measures.energy_radius(np.ones((5, 5)), 0.8, centre=(2, 2))
        2.23606797749979
    """
    g, _ = _checked(map)
    distance = _distances(g.shape, _point(centre, g)).ravel()
    order = np.argsort(distance, kind="stable")
    mass = np.cumsum(g.ravel()[order])
    return float(distance[order[np.searchsorted(mass, _fraction(fraction) * mass[-1] * (1 - 1e-12))]])


def fwhm(map: ArrayLike) -> tuple[float, ...]:
    """The full width at half maximum along the line through the largest pixel, for each axis; a Gaussian has 2.355 σ.

    Outwards from the peak, the first crossing of half its value counts, interpolated linearly between pixels.

    Raises:
        MapError: the map is no map, or it does not fall to half its peak inside the image.

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> ej.measures.fwhm(np.array([0.0, 1.0, 2.0, 1.0, 0.0]))
        (2.0,)
    """
    g, _ = _checked(map)
    peak = np.unravel_index(np.argmax(g), g.shape)

    def half_width(line: np.ndarray, axis: int) -> float:
        below = np.flatnonzero(line <= 0.5)
        if not below.size:
            raise MapError(
                f"Along axis {axis} the map does not fall to half its peak inside the image: it has no FWHM there."
            )
        i = below[0]
        return float(i - 1 + (line[i - 1] - 0.5) / (line[i - 1] - line[i]))

    def width(axis: int) -> float:
        line = g[tuple(slice(None) if a == axis else i for a, i in enumerate(peak))]
        return half_width(line[peak[axis] :], axis) + half_width(line[peak[axis] :: -1], axis)

    return tuple(width(axis) for axis in range(g.ndim))


def effective_area(map: ArrayLike) -> float:
    """The participation number (Σg)² / Σg² of a map, in pixels: 4πσ² for a two-dimensional Gaussian, n for n equal pixels.

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> ej.measures.effective_area(np.array([1.0, 1.0, 0.0, 0.0]))
        2.0
    """
    g, _ = _checked(map)
    return float(g.sum() ** 2 / (g**2).sum())


def entropy_area(map: ArrayLike) -> float:
    """The exponential of the entropy of a map, g / Σg, in pixels: 2πeσ² for a two-dimensional Gaussian, n for n equal pixels.

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> round(ej.measures.entropy_area(np.array([1.0, 1.0, 0.0, 0.0])), 12)
        2.0
    """
    g, _ = _checked(map)
    p = g[g > 0] / g.sum()
    return float(np.exp(-(p @ np.log(p))))


def total_variation(a: ArrayLike, b: ArrayLike) -> float:
    """The total variation distance ½ Σ |a/Σa - b/Σb| of two maps: 0 for the same shape, 1 for disjoint ones.

    Raises:
        MapError: one is no map, or their shapes differ.

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> ej.measures.total_variation(np.array([1.0, 1.0]), np.array([0.0, 5.0]))
        0.5
    """
    (p, _), (q, _) = _checked(a), _checked(b)
    if p.shape != q.shape:
        raise MapError(
            f"Two maps are compared pixel by pixel, but their shapes are {p.shape} and {q.shape}: crop one first."
        )
    return float(np.abs(p / p.sum() - q / q.sum()).sum() / 2)


@dataclasses.dataclass(frozen=True)
class RadialProfile:
    """A map against the distance from a point, in rings one pixel wide: ring r holds distances in [r - 1/2, r + 1/2).

    Attributes:
        radius: 0, 1, 2 ... pixels.
        mean: the mean of the map over each ring; NaN where a ring holds no pixel.
        mass: the share of the map's mass up to and including each ring.
        centre: the point.
    """

    radius: Float[np.ndarray, " rings"]
    mean: Float[np.ndarray, " rings"]
    mass: Float[np.ndarray, " rings"]
    centre: tuple[float, ...]


def radial_profile(map: ArrayLike, centre: Any = None) -> RadialProfile:
    """The mean of a map, and its cumulative mass, against the distance from `centre` (None: the centroid).

    Raises:
        MapError: the map is no map, or the centre is not a point.

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> ej.measures.radial_profile(np.array([1.0, 3.0, 1.0])).mean
        array([3., 1.])
    """
    g, peak = _checked(map)
    point = _point(centre, g)
    ring = np.floor(_distances(g.shape, point) + 0.5).astype(np.int64).ravel()
    mass, count = np.bincount(ring, weights=g.ravel()), np.bincount(ring)
    mean = np.divide(mass * peak, count, out=np.full(len(mass), np.nan), where=count > 0)
    return RadialProfile(np.arange(len(mass), dtype=np.float64), mean, np.cumsum(mass) / mass.sum(), point)


@dataclasses.dataclass(frozen=True)
class GaussianFit:
    """A Gaussian fitted to a map by least squares: amplitude · exp(-½ Σ_a ((t_a - centre_a) / sigma_a)²) + offset.

    `r2` is the share of the map's variance over pixels that the fit explains.
    """

    amplitude: float
    centre: tuple[float, ...]
    sigma: tuple[float, ...]
    offset: float
    r2: float

    def __call__(self, shape: tuple[int, ...]) -> Float[np.ndarray, "*space"]:
        """The fitted Gaussian on a grid of pixels."""
        factors = _bells(shape, np.array(self.centre), np.array(self.sigma))
        return self.amplitude * math.prod(factors[1:], start=factors[0]) + self.offset


def _bells(shape: tuple[int, ...], centre: np.ndarray, spread: np.ndarray) -> list[np.ndarray]:
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return [np.exp(-0.5 * ((t - c) / s) ** 2) for t, c, s in zip(grid, centre, spread, strict=True)]


def gaussian_fit(map: ArrayLike, offset: bool = False) -> GaussianFit:
    """The least-squares Gaussian of a map, its axes along the grid; with `offset`, on a constant background.

    A bounded search over (centre, log σ) from the map's own moments; the amplitude and the background enter linearly
    and are solved for exactly at each step (variable projection, G. Golub, V. Pereyra 1973).

    Raises:
        MapError: the map is no map, is constant, or has no width along an axis, so that no Gaussian is determined.

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> t = np.arange(41)
        >>> fit = ej.measures.gaussian_fit(2 * np.exp(-0.5 * ((t - 18) / 4) ** 2))
        >>> round(fit.amplitude, 6), round(fit.centre[0], 6), round(fit.sigma[0], 6), round(fit.r2, 6)
        (2.0, 18.0, 4.0, 1.0)
    """
    g, peak = _checked(map)
    start = np.array(sigma(g))
    if not start.all() or g.min() == g.max():
        what = "is constant" if g.min() == g.max() else f"has no width along axis {int(np.argmin(start))}"
        raise MapError(f"The map {what}, so no Gaussian is determined: crop or squeeze it, or use `sigma`.")

    def linear(parameters: np.ndarray) -> tuple[np.ndarray, float, float]:
        centre, spread = parameters[: g.ndim], np.exp(parameters[g.ndim :])
        bells = _bells(g.shape, centre, spread)
        bell = math.prod(bells[1:], start=bells[0])
        mean, level = (bell.mean(), g.mean()) if offset else (0.0, 0.0)
        norm = ((bell - mean) ** 2).sum()
        amplitude = float(((bell - mean) * (g - level)).sum() / norm) if norm > 0 else 0.0
        background = float(level - amplitude * mean)
        return amplitude * bell + background, amplitude, background

    n = np.array(g.shape, dtype=np.float64)
    lowest, highest = np.concatenate([-n, np.log(0.01 + 0 * n)]), np.concatenate([2 * n, np.log(100 * n)])
    first = np.clip(np.concatenate([centroid(g), np.log(np.maximum(start, NARROWEST))]), lowest, highest)
    found = scipy.optimize.least_squares(
        lambda parameters: (linear(parameters)[0] - g).ravel(), first, bounds=(lowest, highest)
    )
    fitted, amplitude, background = linear(found.x)
    r2 = 1 - float(((g - fitted) ** 2).sum() / ((g - g.mean()) ** 2).sum())
    centre, spread = found.x[: g.ndim], np.exp(found.x[g.ndim :])
    return GaussianFit(
        amplitude * peak, tuple(float(c) for c in centre), tuple(float(s) for s in spread), background * peak, r2
    )
