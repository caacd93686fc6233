"""`EffectiveField`: how much each input pixel counts for one unit, with its sizes and their error bars."""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from erfjax import files, measures, summary
from erfjax.errors import MapError
from erfjax.fields.theoretical import TheoreticalField, pack, unpack
from erfjax.typing import JSON, Averages, Coverage, Statistic

_STATISTICS = {
    "square": "E[g²]",
    "rms": "√E[g²]",
    "abs": "E|g|",
    "relu": "E[max(g, 0)]",
    "mean": "E[g]",
}
_SIZES: dict[str, tuple[Callable[..., Any], str | None]] = {
    "luo": (measures.luo_size, "reference"),
    "sigma": (measures.sigma, None),
    "area_ratio": (measures.area_ratio, "centre"),
    "energy_radius": (measures.energy_radius, None),
    "fwhm": (measures.fwhm, None),
    "effective_area": (measures.effective_area, None),
    "entropy_area": (measures.entropy_area, None),
}
"""Each measure, and the option that takes the centre of the theoretical field."""


HALVES = 64  # enough for a standard error that is itself good to 1/sqrt(2 * 64) = 9 %


@dataclasses.dataclass(frozen=True, eq=False)
class EffectiveField:
    """How much each input pixel counts for one unit of the output.

    Attributes:
        map: float64, the input's spatial shape; the statistic of the gradient at every pixel, summed over input
            channels (squared gradient, or gradient, per unit of output).
        stderr: the standard error of every pixel; None for a closed form.
        statistic: what is averaged over samples (see `typing.Statistic`).
        samples: how many gradients were averaged; 0 for a closed form.
        unit: the unit asked about.
        theoretical: where the unit can look, if known.
        coverage: "exact" or "approximate" for a closed form, "measured" for an average of samples.
        notes: one line each: why a form is approximate, which branches are silent ...
        batches: means of the statistic over disjoint batches of samples, before any root; for `size_stderr`.
        metadata: settings, as JSON holds them.
        channels: which output channels the gradient is of ("sum", "frobenius", "random-signs", or the index of one); None
            if unknown.
        averages: what the mean is taken over ("inputs", "weights" or both); None if there is none, or it is unknown.

    Example:
        >>> import numpy as np
        >>> from erfjax.fields import EffectiveField
        >>> field = EffectiveField(np.ones((5, 3)), None, "square", 0, (2, 1), None, "exact")
        >>> round(field.size(), 3), field.sigma()[1].__round__(3)
        (3.873, 0.816)
    """

    map: Float[np.ndarray, "*space"]
    stderr: Float[np.ndarray, "*space"] | None
    statistic: Statistic
    samples: int
    unit: tuple[int, ...]
    theoretical: TheoreticalField | None
    coverage: Coverage
    notes: tuple[str, ...] = ()
    batches: Float[np.ndarray, "batches *space"] | None = None
    metadata: JSON = dataclasses.field(default_factory=dict)
    channels: str | int | None = None
    averages: Averages | None = None

    def normalised(self) -> Float[np.ndarray, "*space"]:
        """The map divided by its sum, so that it sums to one.

        Raises:
            MapError: the sum is zero or not finite.
        """
        total = self.map.sum()
        if not np.isfinite(total) or total == 0:
            raise MapError(
                f"A map is normalised by its sum, but this one sums to {total}: the unit is dead or diverged."
            )
        return self.map / total

    def sigma(self) -> tuple[float, ...]:
        """The standard deviation of |map| along each axis, in pixels."""
        return measures.sigma(np.abs(self.map))

    def size(self, measure: str = "luo", **options: Any) -> float:
        """One measure of |map|, in pixels; see `erfjax.measures` for each one's definition and options.

        `measure` is "luo", "sigma", "area_ratio", "energy_radius", "fwhm", "effective_area" or "entropy_area". "luo"
        and "area_ratio" refer to the centre of the theoretical field where it is known, unless `reference` or `centre`
        says otherwise. Measures with one value per axis are given as their root mean square over the axes that have
        more than one pixel.

        Raises:
            MapError: the map has no such measure, or there is none of that name.
        """
        return self._size(self.map, measure, options)

    def size_stderr(self, measure: str = "luo", **options: Any) -> float | None:
        """The standard error of `size` by a delete-half jackknife over batches; None where fewer than two were measured, NaN
        where a half of them has no such size (its centre is still zero, say): measure more samples.

        Formula: √(h/(B - h)) times the standard deviation of the size over `HALVES` random choices of h = B // 2 of the B
        batches (J. Shao, C. Wu 1989). Leaving out one batch at a time fails for sizes that count pixels above a
        threshold: most often no pixel moves, and the error would be zero.
        """
        if self.batches is None or len(self.batches) < 2:
            return None
        self.size(measure, **options)  # raises what the whole map has not
        count, rng = len(self.batches), np.random.default_rng(0)
        half = count // 2
        finish = (lambda m: np.sqrt(np.maximum(m, 0.0))) if self.statistic == "rms" else np.asarray
        chosen = (rng.permutation(count)[:half] for _ in range(HALVES))
        try:
            sizes = np.array([self._size(finish(self.batches[rows].mean(axis=0)), measure, options) for rows in chosen])
        except MapError:
            return math.nan
        return float(np.std(sizes - sizes[0]) * math.sqrt(half / (count - half)))  # exactly zero if all are equal

    def _size(self, values: np.ndarray, measure: str, options: dict[str, Any]) -> float:
        if measure not in _SIZES:
            raise MapError(f"`measure` must be one of {', '.join(sorted(_SIZES))}, but got {measure!r}.")
        function, anchor = _SIZES[measure]
        if anchor and self.theoretical is not None:
            options = {anchor: _nearest_pixel(self.theoretical.centre, self.map.shape), **options}
        result = function(np.abs(values), **options)
        if not isinstance(result, tuple):
            return float(result)
        extended = [value for value, n in zip(result, values.shape, strict=True) if n > 1] or [0.0]
        return math.sqrt(sum(value**2 for value in extended) / len(extended))

    def facts(self) -> summary.Table:
        """The field, one fact a row: what it is, its sizes with standard errors, its share of the theoretical field."""
        pairs: dict[str, Any] = {
            "unit": str(self.unit),
            "statistic": _STATISTICS[self.statistic],
            "coverage": self.coverage,
        }
        if self.channels is not None:
            pairs["output channels"] = str(self.channels)
        if self.averages is not None:
            pairs["mean over"] = self.averages
        if self.samples:
            pairs["samples"] = self.samples
        pairs["map"] = self.map.shape
        pairs["total"] = float(self.map.sum())
        pairs["σ"] = _attempt(self.sigma)
        pairs["Luo size"] = self._with_error("luo")
        pairs["FWHM"] = self._with_error("fwhm")
        pairs["90 % energy radius"] = self._with_error("energy_radius", fraction=0.9)
        if self.theoretical is not None:
            pairs["theoretical size"] = self.theoretical.size
        return summary.facts("effective receptive field", pairs, self.notes)

    def _with_error(self, measure: str, **options: Any) -> str:
        """One size as it is printed."""
        value = _attempt(lambda: self.size(measure, **options))
        error = _attempt(lambda: self.size_stderr(measure, **options))
        return f"{value:.4g} ± {error:.2g}" if isinstance(error, float) else summary.cell(value)

    def __str__(self) -> str:
        return str(self.facts())

    def _repr_html_(self) -> str:
        return self.facts()._repr_html_()

    def plot(self, **options: Any) -> Any:
        """A matplotlib figure of the map and its cross-sections; options as in `erfjax.plot.effective`."""
        from erfjax.plot import effective

        return effective(self, **options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The path of an `.npz` file that holds all of the field, the theoretical one included."""
        arrays = {name: value for name in _ARRAYS if (value := getattr(self, name)) is not None}
        metadata = {name: getattr(self, name) for name in (*_PLAIN, *_LATER)}
        if self.theoretical is not None:
            more, metadata["theoretical"] = pack(self.theoretical)
            arrays.update(more)
        return files.save(path, "EffectiveField", arrays, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "EffectiveField":
        """The field that `save` wrote.

        Raises:
            FileFormatError: not such a file, or damaged.
        """
        arrays, metadata = files.load(path, "EffectiveField")
        with files.damaged(path):
            inner = metadata.get("theoretical")
            theoretical = None if inner is None else unpack(arrays, inner)
            parts: dict[str, Any] = {name: metadata[name] for name in _PLAIN}
            parts |= {name: tuple(parts[name]) for name in ("unit", "notes")}
            parts |= {name: metadata.get(name) for name in _LATER}
            parts |= {name: arrays.get(name) for name in _ARRAYS} | {"map": arrays["map"]}
            return cls(theoretical=theoretical, **parts)


_ARRAYS = ("map", "stderr", "batches")
_PLAIN = ("statistic", "samples", "unit", "coverage", "notes", "metadata")
_LATER = ("channels", "averages")  # older files do not have them


def _nearest_pixel(centre: tuple[float, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The pixel of the map nearest to `centre`, halves rounded up as the centre n // 2 is."""
    return tuple(min(max(math.floor(c + 0.5), 0), n - 1) for c, n in zip(centre, shape, strict=True))


def _attempt(measure: Callable[[], Any]) -> Any:
    """What `measure` gives, or in a word that there is none: printing a result never fails."""
    try:
        return measure()
    except MapError:
        return "undefined"
