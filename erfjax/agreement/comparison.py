"""What a comparison of two effective fields holds: ratios of sizes, distances, and whether chance explains the difference."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from erfjax import files, summary
from erfjax.errors import MapError
from erfjax.fields import EffectiveField, output
from erfjax.fields.effective import pack_effective, unpack_effective
from erfjax.typing import JSON, Axes, Figure, Number, Option
from erfjax.uncertainty import Interval

BEYOND = 5.0  # standard errors
CHANCE = 1e-3  # how often two samples of the same field may be called different


@dataclasses.dataclass(frozen=True)
class Ratio:
    """One number of two fields: `a`, `b`, b / a, their standard errors (None for a closed form), the 95 % interval of b / a.

    The interval is that of σ, effective area and total, where a field has samples: `Comparison.interval` gives any other.
    """

    name: str
    a: float
    b: float
    a_stderr: float | None
    b_stderr: float | None
    interval: tuple[float, float] | None = None

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


@dataclasses.dataclass(frozen=True)
class Question:
    """One thing in which two fields were asked to agree.

    Attributes:
        what: "pixels", the name of a measure, or "total".
        p: how often chance alone makes a difference as large as that found, or larger.
    """

    what: str
    p: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(summary.Shown):
    """How well two effective fields agree.

    Attributes:
        a, b: the fields, on one frame of pixels: usually theory and measurement.
        labels: what tables and figures call them.
        total_variation: ½ Σ |a/Σa - b/Σb|, in [0, 1].
        noise_floor: what sampling noise alone makes of it on average: ½ √(2/π) Σ standard errors; 0 for two closed
            forms.
        z: (b/Σb - a/Σa) in standard errors, per pixel; NaN where there is no error bar. An error bar is never taken below
            the rounding of float32 (1e-5 of the pixel).
        compared: pixels brighter than 1 % of the peak of either map that have an error bar.
        beyond: their fraction with |z| > 5.
        chance: the fraction expected if the fields agree (Student's t, as many degrees as batches less one).
        sizes: ratios b / a of every measure that both maps have.
        total: the ratio of the sums of the maps, comparable if both are in the same units.
        questions: what `within_chance` rests on; empty where one field is a mean over networks and the other one network, or
            where a measured field has no error bars.
        notes: what the reader should know of the pair.
    """

    a: EffectiveField
    b: EffectiveField
    labels: tuple[str, str]
    total_variation: float
    noise_floor: float
    z: Float[np.ndarray, "*space"]
    compared: int
    beyond: float
    chance: float
    sizes: tuple[Ratio, ...]
    total: Ratio
    questions: tuple[Question, ...]
    notes: tuple[str, ...] = ()

    @property
    def within_chance(self) -> bool | None:
        """Whether chance explains every difference that was asked about: pixels, σ, effective area and the total.

        σ and the effective area are asked where no map changes its sign, each without the bias that noise gives it. Each
        question is asked by its own error bar, at 1/1000 over the number of questions (Bonferroni), so that two measurements of
        one field are called different at most once in 1000 times. Two closed forms have no error bars: they agree if
        rounding explains their difference. None where one field is a mean over networks and the other a single
        network: they differ by the draw of its weights, and no error bar says how much. None as well without error bars.
        """
        if not self.questions:
            return None
        return all(question.p >= CHANCE / len(self.questions) for question in self.questions)

    def size(self, measure: str = "luo") -> Ratio:
        """The ratio of one measure.

        Raises:
            MapError: one of the maps does not have it.
        """
        for ratio in self.sizes:
            if ratio.name == measure:
                return ratio
        raise MapError(f"Both maps have {', '.join(r.name for r in self.sizes) or 'no measure'}, but not {measure!r}.")

    def interval(self, measure: str = "luo", level: Number = 0.95, **options: Option) -> Interval:
        """The interval of the ratio b / a of a measure, of the total or of the share of a pixel; see `EffectiveField.interval`.

        Raises:
            MapError: no such size, or too few samples.
        """
        return self.b.interval(measure, level, relative_to=self.a, **options)

    def table(self) -> summary.Table:
        """One row per measure; the distance, the z-scores and what chance explains as notes."""
        a, b = self.labels
        rows = tuple(
            (r.name, r.a, r.a_stderr, r.b, r.b_stderr, r.value, r.stderr, *(r.interval or (None, None)))
            for r in (*self.sizes, self.total)
        )
        distance = (
            f"total variation {self.total_variation:.4f}, of which sampling noise explains {self.noise_floor:.4f}"
        )
        scores = (
            f"{self.beyond:.2%} of {self.compared} pixels beyond {BEYOND:g} standard errors, {self.chance:.2g} expected"
            if self.compared
            else "no error bars"
        )
        columns = ("measure", a, f"± {a}", b, f"± {b}", f"{b} / {a}", "± ratio", "95 % from", "95 % to")
        return summary.Table(f"{a} against {b}", columns, rows, (distance, scores, self._verdict(), *self.notes))

    def _verdict(self) -> str:
        """What chance explains, in a line."""
        if not self.questions:
            return "within chance: not asked"
        limit = CHANCE / len(self.questions)
        worst = min(self.questions, key=lambda question: question.p)
        if worst.p >= limit:
            return f"within chance: yes ({', '.join(question.what for question in self.questions)})"
        broken = ", ".join(
            f"{question.what} (p = {question.p:.1g})" for question in self.questions if question.p < limit
        )
        return f"within chance: no, beyond it: {broken}; limit {limit:.1g}"

    def _brief(self) -> str:
        a, b = self.labels
        distance = f"total variation {self.total_variation:.4f}, noise {self.noise_floor:.4f}"
        return f"{a} against {b}, {distance}, within chance: {summary.cell(self.within_chance)}"

    def plot(self, ax: Axes | None = None, label: str | None = None, **options: Any) -> Figure | Axes:
        """A figure of the two maps, their difference and cross-sections; or both cross-sections in given axes.

        Args:
            ax: matplotlib axes to draw both cross-sections into; None makes a figure.
            label: put before the labels of the two fields in the legend of `ax`, or the title of the figure.
            options: of `erfjax.plot.comparison`.

        Returns:
            The figure, or `ax`.
        """
        from erfjax import plot

        return plot.comparison(self, ax, label, **options)

    def to_xarray(self, spacing: Number | Sequence[Number] = 1, units: str = "pixel") -> Any:
        """An `xarray.Dataset` of both normalised maps, their z-scores and their sizes.

        Args:
            spacing: the distance between two pixels in `units`, or one per axis.
            units: of the coordinates.

        Raises:
            MissingDependencyError: xarray is not installed.
        """
        ratios = (*self.sizes, self.total)
        found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            "share": (("field",), np.stack([self.a.normalised(), self.b.normalised()])),
            "z": ((), self.z),
            "field_name": (("field",), np.array(self.labels)),
            "measure_name": (("measure",), np.array([ratio.name for ratio in ratios])),
            "size": (("field", "measure"), np.array([[r.a for r in ratios], [r.b for r in ratios]])),
            "ratio": (("measure",), np.array([r.value for r in ratios])),
            "ratio_stderr": (("measure",), np.array([math.nan if r.stderr is None else r.stderr for r in ratios])),
        }
        said = {name: getattr(self, name) for name in _NUMBERS}
        return output.dataset(found, self.z.shape, said | {"notes": "; ".join(self.notes)}, spacing, units)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The path of a file of the comparison; its suffix says what is in it.

        `.npz` holds all of it, both fields included, and is what `load` reads; `.json` the sizes and the verdict; `.csv` one
        row per measure; `.png`, `.pdf` and `.svg` the figure.

        Raises:
            FileFormatError: another suffix.
        """
        return output.save(
            path,
            "Comparison",
            whole=self._pack,
            content=lambda: self._plain() | {"within_chance": self.within_chance},
            rows=self.table,
            figure=self.plot,
        )

    def _plain(self) -> JSON:
        """Everything but the maps."""
        return {name: getattr(self, name) for name in _NUMBERS} | {
            "sizes": [dataclasses.asdict(ratio) for ratio in self.sizes],
            "total": dataclasses.asdict(self.total),
            "questions": [dataclasses.asdict(question) for question in self.questions],
            "notes": self.notes,
        }

    def _pack(self) -> tuple[dict[str, np.ndarray], JSON]:
        arrays, metadata = {"z": self.z}, self._plain()
        for side in ("a", "b"):
            inside, metadata[side] = pack_effective(getattr(self, side))
            arrays |= {f"{side}.{name}": values for name, values in inside.items()}
        return arrays, metadata

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Comparison":
        """The comparison that `save` wrote to an `.npz` file.

        Raises:
            FileFormatError: not such a file, or damaged.
        """
        arrays, metadata = files.load(path, "Comparison")
        with files.damaged(path):
            inside: dict[str, Any] = {}
            for side in ("a", "b"):
                own = {name[2:]: values for name, values in arrays.items() if name.startswith(f"{side}.")}
                inside[side] = unpack_effective(own, metadata[side])
            return cls(
                **inside,
                **{name: metadata[name] for name in _NUMBERS if name != "labels"},
                labels=cast(tuple[str, str], tuple(metadata["labels"])),
                z=arrays["z"],
                sizes=tuple(_ratio(ratio) for ratio in metadata["sizes"]),
                total=_ratio(metadata["total"]),
                questions=tuple(Question(**question) for question in metadata["questions"]),
                notes=tuple(metadata["notes"]),
            )


def _ratio(content: JSON) -> Ratio:
    """A ratio as a file holds it; older ones have no interval."""
    ends = content.get("interval")
    return Ratio(**{**content, "interval": None if ends is None else (ends[0], ends[1])})


_NUMBERS = ("labels", "total_variation", "noise_floor", "compared", "beyond", "chance")
