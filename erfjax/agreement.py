"""Where theory meets measurement: two effective fields compared with error bars, and growth laws fitted to sizes.

Maps are compared by their shapes, each divided by its sum; the sums themselves are one more row. Error bars come from
the jackknife over batches of samples, so that what all pixels of a sample have in common (its gain) cancels where maps
are normalised.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from erfjax import summary
from erfjax.errors import MapError
from erfjax.fields import EffectiveField

MEASURES: dict[str, dict[str, Any]] = {
    "luo": {},
    "sigma": {},
    "fwhm": {},
    "energy_radius": {"fraction": 0.9},
    "effective_area": {},
    "entropy_area": {},
}
BEYOND = 5.0  # standard errors
FLOOR = 0.01  # of the peak: fainter pixels are not counted, their distribution is far from normal
CHANCE = 1e-3  # how often two samples of the same field may be called different


@dataclasses.dataclass(frozen=True)
class Ratio:
    """One number of two fields: `a`, `b`, b / a, and their standard errors (None for a closed form)."""

    name: str
    a: float
    b: float
    a_stderr: float | None
    b_stderr: float | None

    @property
    def value(self) -> float:
        """b / a."""
        return self.b / self.a if self.a else math.nan

    @property
    def stderr(self) -> float | None:
        """The standard error of b / a, the two being independent; None if neither has one."""
        if self.a_stderr is None and self.b_stderr is None:
            return None
        errors = ((self.a_stderr or 0.0, self.a), (self.b_stderr or 0.0, self.b))
        return abs(self.value) * math.hypot(*(error / value if value else math.nan for error, value in errors))


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """How well two effective fields agree.

    Attributes:
        a, b: the fields, on one frame of pixels: usually theory and measurement.
        total_variation: ½ Σ |a/Σa - b/Σb|, in [0, 1].
        noise_floor: what sampling noise alone makes of it on average: ½ √(2/π) Σ standard errors; 0 for two closed
            forms.
        z: (b/Σb - a/Σa) in standard errors, per pixel; NaN where there is no error bar.
        compared: pixels brighter than 1 % of the peak of either map that have an error bar.
        beyond: their fraction with |z| > 5.
        chance: the fraction expected if the fields agree (Student's t, as many degrees as batches less one).
        sizes: ratios b / a of every measure that both maps have.
        total: the ratio of the sums of the maps, comparable if both are in the same units.
    """

    a: EffectiveField
    b: EffectiveField
    total_variation: float
    noise_floor: float
    z: Float[np.ndarray, "*space"]
    compared: int
    beyond: float
    chance: float
    sizes: tuple[Ratio, ...]
    total: Ratio

    @property
    def within_chance(self) -> bool:
        """Whether no more pixels are beyond 5 standard errors than chance allows in 999 of 1000 cases."""
        return bool(self.beyond * self.compared <= stats.binom.ppf(1 - CHANCE, self.compared, self.chance))

    def size(self, measure: str = "luo") -> Ratio:
        """The ratio of one measure.

        Raises:
            MapError: one of the maps does not have it.
        """
        for ratio in self.sizes:
            if ratio.name == measure:
                return ratio
        raise MapError(f"Both maps have {', '.join(r.name for r in self.sizes) or 'no measure'}, but not {measure!r}.")

    def table(self) -> summary.Table:
        """One row per measure; the distance and the z-scores as notes."""
        rows = tuple((r.name, r.a, r.a_stderr, r.b, r.b_stderr, r.value, r.stderr) for r in (*self.sizes, self.total))
        distance = (
            f"total variation {self.total_variation:.4f}, of which sampling noise explains {self.noise_floor:.4f}"
        )
        scores = (
            f"{self.beyond:.2%} of {self.compared} pixels beyond {BEYOND:g} standard errors, {self.chance:.2g} expected"
            if self.compared
            else "no error bars"
        )
        statistics = (
            () if self.a.statistic == self.b.statistic else (f"statistics {self.a.statistic}, {self.b.statistic}",)
        )
        columns = ("measure", "a", "± se", "b", "± se", "b / a", "± se")
        return summary.Table(
            f"{self.a.coverage} against {self.b.coverage}", columns, rows, (distance, scores, *statistics)
        )

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def plot(self, **options: Any) -> Any:
        """A matplotlib figure of the two maps, their difference and cross-sections; options as in `erfjax.plot.comparison`."""
        from erfjax import plot

        return plot.comparison(self, **options)


def compare(a: EffectiveField, b: EffectiveField) -> Comparison:
    """How well two effective fields agree: distance with its noise floor, z-scores per pixel, ratios of sizes.

    Maps of different shapes are laid on one frame by the centres of their theoretical fields, or by their middle pixels
    if one has none.

    Args:
        a, b: usually theory and measurement; either may have error bars.

    Raises:
        MapError: a map is zero, not finite, of another dimension, or the two cannot be aligned to whole pixels.

    Example:
        >>> import erfjax as ej, numpy as np
        >>> blur = lambda x: (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
        >>> field = ej.empirical(blur, np.ones((3, 7, 1), np.float32), layout="NWC")
        >>> ej.compare(field, field).total_variation
        0.0
    """
    if a.map.ndim != b.map.ndim:
        raise MapError(f"Maps of {a.map.ndim} and {b.map.ndim} dimensions cannot be compared pixel by pixel.")
    a, b, anchor = _one_frame(a, b)
    p, q = a.normalised(), b.normalised()
    errors = [_shape_stderr(field) for field in (a, b)]
    stderr = np.sqrt(sum((e**2 for e in errors if e is not None), np.zeros_like(p)))
    difference = q - p
    z = np.divide(difference, stderr, out=np.full_like(p, np.nan), where=stderr > 0)
    bright = np.maximum(np.abs(p) / np.abs(p).max(), np.abs(q) / np.abs(q).max()) > FLOOR
    scores = np.abs(z[bright & np.isfinite(z)])
    degrees = min((_degrees(field) for field, e in zip((a, b), errors, strict=True) if e is not None), default=math.inf)
    return Comparison(
        a=a,
        b=b,
        total_variation=float(np.abs(difference).sum() / 2),
        noise_floor=float(np.nansum(stderr) / math.sqrt(2 * math.pi)),
        z=z,
        compared=scores.size,
        beyond=float((scores > BEYOND).mean()) if scores.size else 0.0,
        chance=float(2 * stats.t.sf(BEYOND, degrees)),
        sizes=tuple(
            r for name, options in MEASURES.items() if (r := _size_ratio(a, b, name, options, anchor)) is not None
        ),
        total=Ratio("total", float(a.map.sum()), float(b.map.sum()), _total_stderr(a), _total_stderr(b)),
    )


def _one_frame(a: EffectiveField, b: EffectiveField) -> tuple[EffectiveField, EffectiveField, tuple[int, ...] | None]:
    """Both fields on a frame that holds both maps, and the pixel of that frame that sizes refer to, if theory says."""
    shapes = np.array([a.map.shape, b.map.shape])
    theory = [field.theoretical for field in (a, b)]
    centres = np.array([t.centre for t in theory if t is not None])
    if (shapes[0] == shapes[1]).all():
        starts = np.zeros_like(shapes)
    else:
        middles = centres if len(centres) == 2 else (shapes - 1) / 2
        starts = middles.max(0) - middles
        if (starts % 1).any():
            raise MapError(
                f"Maps of shapes {a.map.shape} and {b.map.shape} lie half a pixel apart: measure the unit at the centre "
                "of the input, or give maps of equal shape."
            )
        starts = starts.astype(int)
    frame = (starts + shapes).max(0)
    pixel = None
    if len(centres):
        first = 0 if theory[0] is not None else 1
        pixel = tuple(int(c) for c in np.clip(np.floor(centres[0] + starts[first] + 0.5), 0, frame - 1))
    return _embed(a, starts[0], frame), _embed(b, starts[1], frame), pixel


def _embed(field: EffectiveField, start: np.ndarray, frame: np.ndarray) -> EffectiveField:
    """The field on a larger frame: its map begins at `start`."""
    if field.map.shape == tuple(frame):
        return field
    sides = [(int(s), int(n - s - m)) for s, m, n in zip(start, field.map.shape, frame, strict=True)]

    def pad(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.pad(values, [(0, 0)] * (values.ndim - len(sides)) + sides)

    return dataclasses.replace(
        field, map=np.pad(field.map, sides), stderr=pad(field.stderr), batches=pad(field.batches), theoretical=None
    )


def _replicates(field: EffectiveField) -> np.ndarray | None:
    """The map without each batch in turn, or None without batches."""
    if field.batches is None or len(field.batches) < 2:
        return None
    rest = (field.batches.sum(0) - field.batches) / (len(field.batches) - 1)
    return np.sqrt(np.maximum(rest, 0)) if field.statistic == "rms" else rest


def _jackknife(replicates: np.ndarray) -> np.ndarray:
    """The standard error of a statistic from its values without each batch in turn."""
    return np.asarray(np.sqrt((len(replicates) - 1) * replicates.var(0)))


def _shape_stderr(field: EffectiveField) -> np.ndarray | None:
    """The standard error of the normalised map; without batches, that of the map over its sum."""
    replicates = _replicates(field)
    if replicates is None:
        return None if field.stderr is None else field.stderr / abs(field.map.sum())
    space = tuple(range(1, replicates.ndim))
    return _jackknife(replicates / replicates.sum(space, keepdims=True))


def _total_stderr(field: EffectiveField) -> float | None:
    replicates = _replicates(field)
    return None if replicates is None else float(_jackknife(replicates.reshape(len(replicates), -1).sum(1)))


def _degrees(field: EffectiveField) -> int:
    """Degrees of freedom of the field's standard errors."""
    return (field.samples if field.batches is None else len(field.batches)) - 1


def _size_ratio(
    a: EffectiveField, b: EffectiveField, name: str, options: dict[str, Any], anchor: tuple[int, ...] | None
) -> Ratio | None:
    """The ratio of a measure, both fields seen from the same pixel; None if one does not have it."""
    if name == "luo" and anchor is not None:
        options = {**options, "reference": anchor}
    try:
        values = (a.size(name, **options), b.size(name, **options))
        return Ratio(name, *values, a.size_stderr(name, **options), b.size_stderr(name, **options))
    except MapError:
        return None


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
    """A power law y = exp(intercept) · n^slope, fitted on log-log axes.

    Attributes:
        slope, intercept: of the line through (log n, log y).
        stderr: the standard error of the slope.
        confidence: of the interval, e.g. 0.95.
        interval: the confidence interval of the slope.
        exact: the slope of the exact finite-n law over the same n, or None: the line's slope is no asymptotic exponent.
    """

    slope: float
    intercept: float
    stderr: float
    confidence: float
    interval: tuple[float, float]
    exact: float | None = None

    def __str__(self) -> str:
        low, high = self.interval
        exact = "" if self.exact is None else f"; exact finite-n law {self.exact:.3f}"
        return f"slope {self.slope:.3f} ± {self.stderr:.3f} ({self.confidence:.0%}: {low:.3f} to {high:.3f}{exact})"


def scaling_law(
    n: Sequence[int | float] | np.ndarray,
    y: Sequence[int | float] | np.ndarray,
    stderr: Sequence[int | float] | np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    law: Callable[[int], float] | None = None,
) -> ScalingLaw:
    """The log-log slope of y against n, with its confidence interval.

    Without `stderr`, ordinary least squares: the scatter about the line gives the standard error, its interval is that
    of Student's t with len(n) - 2 degrees. With it, points weigh by their relative errors σ = stderr / y, and the
    slope's error is √(1 / Σ w (log n - mean)²), w = 1/σ², with a normal interval: that of the measurements, whatever
    the curvature of the law.

    Args:
        n: depths, at least two different ones.
        y: sizes or ratios, positive.
        stderr: their standard errors, positive.
        confidence: of the interval.
        law: the exact y of n; its own fitted slope over the same n (and weights) is given beside.

    Raises:
        MapError: fewer than two different n, or values that have no logarithm.

    Example:
        >>> import erfjax as ej
        >>> fit = ej.agreement.scaling_law([5, 10, 20, 40], [8.31, 11.70, 16.16, 22.74])
        >>> round(fit.slope, 3)
        0.482
    """
    depths, values = np.asarray(n, np.float64), np.asarray(y, np.float64)
    errors = None if stderr is None else np.asarray(stderr, np.float64)
    shapes = {array.shape for array in (depths, values, errors) if array is not None}
    if len(shapes) != 1 or depths.ndim != 1 or len(np.unique(depths)) < 2:
        raise MapError(
            f"A slope needs y, and stderr if given, at two or more different n, but got shapes {sorted(shapes)}."
        )
    if not all(
        (array > 0).all() and np.isfinite(array).all() for array in (depths, values, errors) if array is not None
    ):
        raise MapError("A log-log slope needs positive and finite n, y and stderr: leave out depths without a size.")
    if not 0 < confidence < 1:
        raise MapError(f"`confidence` must lie between 0 and 1, but got {confidence}.")
    x, z = np.log(depths), np.log(values)
    weights = np.ones_like(x) if errors is None else (values / errors) ** 2
    slope, intercept, spread = _line(x, z, weights)
    degrees = math.inf if errors is not None else len(x) - 2
    if errors is not None:
        error = math.sqrt(1 / spread)
    elif degrees:
        error = math.sqrt(float(((z - intercept - slope * x) ** 2).sum()) / degrees / spread)
    else:
        error = math.inf
    half = error * float(stats.t.ppf((1 + confidence) / 2, degrees)) if degrees else math.inf
    exact = None if law is None else _line(x, np.log([law(int(d)) for d in depths]), weights)[0]
    return ScalingLaw(slope, intercept, error, confidence, (slope - half, slope + half), exact)


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Slope, intercept and Σ w (x - mean)² of the weighted least-squares line."""
    centre = np.average(x, weights=weights)
    spread = float((weights * (x - centre) ** 2).sum())
    slope = float((weights * (x - centre) * y).sum()) / spread
    return slope, float(np.average(y, weights=weights) - slope * centre), spread
