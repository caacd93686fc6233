"""`EffectiveField`: how much each input pixel counts for one unit, with its sizes and their error bars."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from erfjax import files, jackknife, measures, summary
from erfjax.errors import MapError
from erfjax.fields import intervals, output
from erfjax.fields.sizes import LISTED, nearest_pixel, size_reader
from erfjax.fields.theoretical import TheoreticalField, pack, unpack
from erfjax.typing import JSON, Averages, Axes, Coverage, Figure, Number, Option, Statistic
from erfjax.uncertainty import Diagnostics, Interval, Record
from erfjax.uncertainty.diagnostics import diagnose

_STATISTICS = {
    "square": "E[g²]",
    "rms": "√E[g²]",
    "abs": "E|g|",
    "relu": "E[max(g, 0)]",
    "mean": "E[g]",
    "share": "E[g²/Σg²]",
}
IN_LIMIT = "in the limit of width"  # in notes on what is exact for many channels alone


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class EffectiveField(summary.Shown):
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
        batches: means of the statistic over disjoint batches of consecutive samples, before any root; for `size_stderr` and
            `interval`. Of single samples where few and small maps allow it.
        record: totals and reference pixels of single samples, for `diagnostics` and `interval`.
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
    record: Record | None = None

    @property
    def formula(self) -> str:
        """The statistic as it is printed: E[g²] for "square"."""
        return _STATISTICS[self.statistic]

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

    def size(self, measure: str = "luo", **options: Option) -> float:
        """One measure of |map|, in pixels; see `erfjax.measures` for each one's definition and options.

        `measure` is "luo", "sigma", "area_ratio", "energy_radius", "fwhm", "effective_area" or "entropy_area". "luo"
        and "area_ratio" refer to the centre of the theoretical field where it is known, unless `reference` or `centre`
        says otherwise. Measures with one value per axis are given as their root mean square over the axes that have
        more than one pixel.

        Raises:
            MapError: the map has no such measure, or there is none of that name.
        """
        return self._size(measure, options)(self.map)

    def size_stderr(self, measure: str = "luo", **options: Option) -> float | None:
        """The standard error of `size` by a delete-half jackknife over batches (see `erfjax.jackknife`).

        Returns:
            Pixels; None where fewer than two batches were measured, NaN where a half of them has no such size (its centre is
            still zero, say): measure more samples.

        Raises:
            MapError: the map has no such measure.
        """
        if self.batches is None or len(self.batches) < 2:
            return None
        read = self._size(measure, options)
        read(self.map)  # raises what the whole map has not
        try:
            return jackknife.delete_half(self.batches, lambda mean: read(self._finished(mean)))
        except MapError:
            return math.nan

    def unbiased_size(self, measure: str = "sigma", **options: Option) -> tuple[float, float | None]:
        """A smooth size without the bias that noise gives it, and its standard error, by leaving out one batch at a time.

        Noise makes an effective area and an entropy area smaller; of "sigma" there is little to take away. Sizes that count
        pixels above a threshold are not smooth: see `size_stderr`.

        Returns:
            (size, standard error) in the unit of the measure; (`size()`, None) where fewer than two batches were measured.

        Raises:
            MapError: the map, or one without a batch, has no such measure.

        Source: M. Quenouille 1956, Notes on bias in estimation.
        """
        value, replicates = self.size(measure, **options), self.without_each_batch()
        if replicates is None or self.batches is None:
            return value, None
        read = self._size(measure, options)
        values = np.array([read(replicate) for replicate in replicates])
        batched = read(self._finished(self.batches.mean(0)))  # some samples may be in no batch
        return value + float(jackknife.unbiased(batched, values)) - batched, float(jackknife.stderr(values))

    def without_each_batch(self) -> Float[np.ndarray, "batches *space"] | None:
        """The map without each batch of samples in turn, for the jackknife; None where fewer than two were measured."""
        if self.batches is None or len(self.batches) < 2:
            return None
        return self._finished(jackknife.without_each(self.batches))

    def _finished(self, mean: np.ndarray) -> np.ndarray:
        """What a mean over samples becomes in the map: its root where the statistic is a root."""
        return np.sqrt(np.maximum(mean, 0.0)) if self.statistic == "rms" else mean

    def interval(
        self, measure: str = "luo", level: Number = 0.95, relative_to: "EffectiveField | None" = None, **options: Option
    ) -> Interval:
        """A confidence interval of a size, of the total or of the share of a pixel, or of the ratio to that of another field.

        Samples are resampled where they are kept, batches of them otherwise (`units` and `samples_per_unit` of the result
        say which), in blocks where consecutive samples resemble each other. Whether to believe it says `diagnostics`.

        Args:
            measure: one of `size`; "total" is the sum of the map, "share" that of the pixel `at` in it (by default the one
                nearest to the centre of the theoretical field), "geometric total" exp(E log) of single samples' totals.
            level: how often the interval is to hold the true value.
            relative_to: a field to divide by; where both have the same number of samples, sample i of one is paired with
                sample i of the other, so what they have in common (inputs, weights) cancels.
            options: as in `size`.

        Returns:
            An `Interval` in the units of the measure, which unpacks as (low, high); of no width for a closed form.

        Raises:
            MapError: no such size, only one sample, or a level outside (0, 1).

        Source: smoothed bootstrap-t and percentiles, see `erfjax.uncertainty.resampling`.

        Example:
            >>> import erfjax as ej, numpy as np
            >>> f = lambda x: x**2
            >>> x = np.random.default_rng(0).uniform(1, 2, (40, 1, 1)).astype(np.float32)
            >>> print(ej.empirical(f, x, layout="NWC", statistic="abs").interval("total"))
            3.073 (95 %: 2.86 to 3.264)
        """
        return intervals.intervals(self, measure, (level,), relative_to, options)[0]

    def band(
        self, line: Callable[[np.ndarray], np.ndarray], level: Number = 0.95, normalised: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The pointwise confidence band (low, high) of a profile of the map, by resampling; None without batches of samples.

        Args:
            line: from a map to its profile; linear in maps that are not negative.
            level: how often the band is to hold the true value, pixel by pixel.
            normalised: whether the profile is that of the map divided by its sum.
        """
        return intervals.band(self, line, level, normalised)

    def reader(self, measure: str, **options: Option) -> Callable[[np.ndarray], float]:
        """The function from a map of this field's shape to the number that `interval` is about."""
        if measure == "total":
            return lambda values: float(values.sum())
        if measure == "share":
            at = self.pixel(**options)
            return lambda values: float(values[at] / values.sum())
        return self._size(measure, options)

    def pixel(self, **options: Option) -> tuple[int, ...]:
        """The pixel `at`; by default the one nearest to the centre of the theoretical field, or the middle one."""
        given = options.get("at")
        return self._reference() if given is None else tuple(map(int, np.atleast_1d(np.asarray(given))))

    def diagnostics(self) -> Diagnostics:
        """Whether to believe the error bars: Pareto k̂ and share of the largest sample, spread, dependence, samples needed.

        Of the total, of the reference pixel, and of how samples move σ and the share of that pixel.

        Raises:
            MapError: a closed form, or a field without the record of its samples.
        """
        return diagnose(self.record, self.batches, self._reference(), self.statistic == "rms")

    @property
    def promise(self) -> str:
        """`coverage` as it is printed: "exact in the limit of width" where a note says that finite widths differ."""
        limited = self.coverage == "exact" and any(IN_LIMIT in note for note in self.notes)
        return f"exact {IN_LIMIT}" if limited else self.coverage

    def _reference(self) -> tuple[int, ...]:
        """The pixel nearest to the centre of the theoretical field, or the middle pixel."""
        middle = tuple(n // 2 for n in self.map.shape)
        return middle if self.theoretical is None else nearest_pixel(self.theoretical.centre, self.map.shape)

    def _size(self, measure: str, options: dict[str, Option]) -> Callable[[np.ndarray], float]:
        """The function from a map of this field's shape to one of its sizes."""
        centre = None if self.theoretical is None else nearest_pixel(self.theoretical.centre, self.map.shape)
        return size_reader(measure, options, centre)

    def facts(self) -> summary.Table:
        """The field, one fact a row: what it is, its sizes with standard errors, its share of the theoretical field."""
        pairs: dict[str, Any] = {"unit": str(self.unit), "statistic": self.formula, "coverage": self.promise}
        if self.channels is not None:
            pairs["output channels"] = str(self.channels)
        if self.averages is not None:
            pairs["mean over"] = self.averages
        if self.samples:
            pairs |= {"samples": self.samples, "error bars": self._verdict()}
        pairs["map"] = self.map.shape
        pairs["total"] = float(self.map.sum())
        pairs["σ"] = _attempt(self.sigma)
        pairs |= {"Luo size": self._with_error("luo"), "FWHM": self._with_error("fwhm")}
        pairs["90 % energy radius"] = self._with_error("energy_radius", fraction=0.9)
        if self.theoretical is not None:
            pairs["theoretical size"] = self.theoretical.size
        return summary.facts("effective receptive field", pairs, self.notes)

    def table(self) -> summary.Table:
        """One row per size that the map has: its name, its value and standard error, and its unit."""
        rows = []
        for name, options in LISTED.items():
            value = _attempt(functools.partial(self.size, name, **options))
            if value != UNDEFINED:
                rows.append((name, value, self.size_stderr(name, **options), summary.unit_of(name, self.map.ndim)))
        return summary.Table("sizes", ("measure", "size", "± se", "unit"), tuple(rows))

    def _with_error(self, measure: str, **options: Option) -> str:
        """One size as it is printed."""
        value = _attempt(lambda: self.size(measure, **options))
        error = _attempt(lambda: self.size_stderr(measure, **options))
        return f"{value:.4g} ± {error:.2g}" if isinstance(error, float) else summary.cell(value)

    def _verdict(self) -> str:
        """Whether to believe the error bars, in a few words."""
        if self.samples < 2:
            return "none: one sample"
        if self.record is None:
            return "not checked: the samples were not kept"
        return self.diagnostics().verdict

    def _tables(self) -> tuple[summary.Table, ...]:
        return (self.facts(),)

    def _brief(self) -> str:
        samples = f", {self.samples} samples, error bars: {self._verdict()}" if self.samples else ""
        return f"{summary.cell(self.map.shape)} pixels, {self.formula}, {self.promise}{samples}"

    def plot(self, ax: Axes | None = None, label: str | None = None, **options: Any) -> Figure | Axes:
        """A figure of the map and its cross-sections; or one cross-section in given axes.

        Args:
            ax: matplotlib axes to draw a cross-section into, one field over the other; None makes a figure.
            label: in the legend of `ax`, or the title of the figure.
            options: of `erfjax.plot.effective`.

        Returns:
            The figure, or `ax`.
        """
        from erfjax import plot

        return plot.effective(self, ax, label, **options)

    def to_xarray(self, spacing: Number | Sequence[Number] = 1, units: str = "pixel") -> Any:
        """An `xarray.Dataset` of the map, its standard error and its batches, with one coordinate per spatial axis.

        The map is `dataset["map"]`, for `dataset.map` is a method of xarray.

        Args:
            spacing: the distance between two pixels in `units`, or one per axis.
            units: of the coordinates.

        Raises:
            MissingDependencyError: xarray is not installed.
        """
        variables = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        said = {name: getattr(self, name) for name in ("statistic", "coverage", "samples", "unit", *_LATER)}
        found = {name: (("batch",) if name == "batches" else (), values) for name, values in variables.items()}
        return output.dataset(found, self.map.shape, said | {"notes": "; ".join(self.notes)}, spacing, units)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The path of a file of the field; its suffix says what is in it.

        `.npz` holds all of the field, the theoretical one included, and is what `load` reads; `.json` the facts, sizes and map;
        `.csv` one row per pixel; `.png`, `.pdf` and `.svg` the figure.

        Raises:
            FileFormatError: another suffix.
        """
        maps = {name: value for name in ("map", "stderr") if (value := getattr(self, name)) is not None}
        return output.save(
            path,
            "EffectiveField",
            whole=lambda: pack_effective(self),
            content=lambda: {
                **{name: getattr(self, name) for name in (*_PLAIN, *_LATER)},
                "sizes": self.table().to_dict(),
                **maps,
            },
            rows=lambda: output.pixels(maps),
            figure=self.plot,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "EffectiveField":
        """The field that `save` wrote to an `.npz` file.

        Raises:
            FileFormatError: not such a file, or damaged.
        """
        arrays, metadata = files.load(path, "EffectiveField")
        with files.damaged(path):
            return unpack_effective(arrays, metadata)


def pack_effective(field: EffectiveField) -> tuple[dict[str, np.ndarray], JSON]:
    """The arrays and the JSON metadata that hold all of the field."""
    arrays = {name: value for name in _ARRAYS if (value := getattr(field, name)) is not None}
    metadata = {name: getattr(field, name) for name in (*_PLAIN, *_LATER)}
    if field.theoretical is not None:
        more, metadata["theoretical"] = pack(field.theoretical)
        arrays.update(more)
    if field.record is not None:
        arrays.update(field.record.arrays())
    return arrays, metadata


def unpack_effective(arrays: dict[str, np.ndarray], metadata: JSON) -> EffectiveField:
    """The field that `pack_effective` took apart."""
    inner = metadata.get("theoretical")
    parts: dict[str, Any] = {name: metadata[name] for name in _PLAIN}
    parts["statistic"] = _RENAMED.get(parts["statistic"], parts["statistic"])
    parts |= {name: tuple(parts[name]) for name in ("unit", "notes")}
    parts |= {name: metadata.get(name) for name in _LATER}
    parts |= {name: arrays.get(name) for name in _ARRAYS} | {"map": arrays["map"]}
    theoretical = None if inner is None else unpack(arrays, inner)
    return EffectiveField(theoretical=theoretical, record=Record.from_arrays(arrays), **parts)


_ARRAYS = ("map", "stderr", "batches")
_PLAIN = ("statistic", "samples", "unit", "coverage", "notes", "metadata")
_LATER = ("channels", "averages")  # older files do not have them
_RENAMED = {"signed": "mean"}  # what older files call a statistic
UNDEFINED = "undefined"


def _attempt(measure: Callable[[], Any]) -> Any:
    """What `measure` gives, or in a word that there is none: printing a result never fails."""
    try:
        return measure()
    except MapError:
        return UNDEFINED
