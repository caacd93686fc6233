"""What `growth` finds: two fields for every depth, their sizes with intervals, and the slopes of both on log-log axes.

A slope is that of the least-squares line through (log n, log size), every depth with the same weight, so that closed form and
measurement are bent by a finite range of n alike. The interval of a measured slope is what the intervals of the sizes
(`field.interval`) make of it; it says whether measurement and closed form agree, whatever the curvature.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erfjax import files, plot, summary
from erfjax.errors import MapError
from erfjax.fields import EffectiveField, output
from erfjax.growth_laws import figure
from erfjax.typing import Axes, Figure
from erfjax.uncertainty.combining import combined

NAMES = ("size", "share of TRF")


@dataclasses.dataclass(frozen=True)
class Slope:
    """An exponent: of y ~ n^slope over the depths that were measured.

    Attributes:
        of: "size" or "share of TRF".
        limit: what it tends to for many equal layers: 1/2, or -1/2.
        closed, measured: of the closed forms and of the measured fields.
        stderr: what the standard errors of the measured sizes make of the measured slope; NaN if one is unknown.
        beyond: of the closed form between the two largest depths, those that were only predicted included.
        interval: the 95 % interval of the measured slope, from the intervals of the sizes (`uncertainty.combining`).
    """

    of: str
    limit: float
    closed: float
    measured: float
    stderr: float
    beyond: float
    interval: tuple[float, float]

    def holds(self, value: float) -> bool | None:
        """Whether the interval holds a value; None if there is no interval."""
        low, high = self.interval
        return None if math.isnan(low) else bool(low - 1e-9 <= value <= high + 1e-9)

    def against(self, value: float) -> str:
        """The measured slope beside a value, in words: its distance in standard errors."""
        inside, away = self.holds(value), self.measured - value
        if inside is None:
            return "no interval"
        if not self.stderr:
            return "equal" if inside else f"other ({away:+.3f})"
        return f"{'inside' if inside else 'outside'} ({away / self.stderr:+.1f} se)"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Growth(summary.Shown):
    """A family of networks at every depth.

    Attributes:
        name: of the family.
        depths: the n that were measured, increasing.
        closed, measured: the fields in closed form and measured, one for each depth.
        predicted_depths, predicted: further depths, and their closed forms.
        measure: which size is meant, see `EffectiveField.size`.
        settings: of the call, as JSON holds them.
    """

    name: str
    depths: tuple[int, ...]
    closed: tuple[EffectiveField, ...]
    measured: tuple[EffectiveField, ...]
    predicted_depths: tuple[int, ...]
    predicted: tuple[EffectiveField, ...]
    measure: str
    settings: dict[str, Any]

    @property
    def trf(self) -> tuple[float | None, ...]:
        """The extent of the theoretical field per depth, in pixels (the geometric mean of its axes); None where it is unknown."""
        return tuple(map(_extent, self.closed))

    @property
    def closed_sizes(self) -> tuple[float, ...]:
        """The sizes of the closed forms, in pixels."""
        return tuple(field.size(self.measure) for field in self.closed)

    @property
    def sizes(self) -> tuple[float, ...]:
        """The sizes of the measured fields, in pixels."""
        return tuple(field.size(self.measure) for field in self.measured)

    @functools.cached_property
    def stderrs(self) -> tuple[float, ...]:
        """Their standard errors: NaN where a single sample was taken, or too few of them have a size."""
        found = (field.size_stderr(self.measure) for field in self.measured)
        return tuple(math.nan if error is None else error for error in found)

    @functools.cached_property
    def intervals(self) -> tuple[tuple[float, float], ...]:
        """The 95 % intervals of the measured sizes, in pixels: NaN where there are too few samples."""
        return tuple(map(self._interval, self.measured))

    def _interval(self, field: EffectiveField) -> tuple[float, float]:
        try:
            low, high = field.interval(self.measure)
        except MapError:
            return math.nan, math.nan
        return low, high

    def laws(self) -> tuple[Slope, ...]:
        """The exponents of the size and, where every theoretical field is finite, of its share of the theoretical field."""
        closed, measured, n = np.log(self.closed_sizes), np.log(self.sizes), np.log(self.depths)
        lever = (n - n.mean()) / ((n - n.mean()) ** 2).sum()
        error = float(np.sqrt(np.square(lever * np.array(self.stderrs) / np.array(self.sizes)).sum()))
        ends = combined(lever, measured, np.log(np.array(self.intervals)))
        last = sorted([*zip(self.depths, self.closed, strict=True), *self._foreseen()], key=lambda pair: pair[0])[-2:]
        far = np.diff(np.log([[d, f.size(self.measure), _extent(f) or math.nan] for d, f in last]), axis=0)[0]
        found = [
            Slope(NAMES[0], 0.5, float(lever @ closed), float(lever @ measured), error, float(far[1] / far[0]), ends)
        ]
        trf = [extent for extent in self.trf if extent]
        if len(trf) == len(self.depths):
            own = float(lever @ np.log(trf))
            beyond = float((far[1] - far[2]) / far[0])
            found.append(
                Slope(
                    NAMES[1],
                    -0.5,
                    found[0].closed - own,
                    found[0].measured - own,
                    error,
                    beyond,
                    (ends[0] - own, ends[1] - own),
                )
            )
        return tuple(found)

    def _foreseen(self) -> list[tuple[int, EffectiveField]]:
        return list(zip(self.predicted_depths, self.predicted, strict=True))

    def rows(self) -> tuple[tuple[Any, ...], ...]:
        """Depth, theoretical size, both sizes, interval, ratio and samples: what `table` prints."""
        both = zip(self.depths, self.trf, self.closed_sizes, self.sizes, self.intervals, self.measured, strict=True)
        found = [(n, t, a, b, span(i, 2), b / a, m.samples) for n, t, a, b, i, m in both]
        found += [(n, _extent(f), f.size(self.measure), None, "–", None, 0) for n, f in self._foreseen()]
        return tuple(sorted(found, key=lambda row: row[0]))

    def table(self) -> summary.Table:
        """One row per depth: theoretical size, size in closed form, size measured with its 95 % interval, their ratio."""
        return summary.Table(f"field by depth: {self.name}", COLUMNS, self.rows(), self.notes())

    def notes(self) -> tuple[str, ...]:
        """What both sides are of, and what limits the closed form."""
        s, kinds = self.settings, {field.promise for field in (*self.closed, *self.predicted)}
        channels = s["channels"] if isinstance(s["channels"], str) else f"channel {s['channels']}"
        lines = [
            f"both sides: statistic {s['statistic']!r}, channels {channels!r}; size: {self.measure!r}, in pixels of the input"
        ]
        reasons = dict.fromkeys(note for field in self.closed if field.coverage != "exact" for note in field.notes)
        lines += [f"closed form: {' and '.join(sorted(kinds))}"] if not reasons else []
        lines += [f"closed form, approximate: {reason}" for reason in reasons]
        cut = [n for n, f in (*zip(self.depths, self.closed, strict=True), *self._foreseen()) if _cut(f)]
        if cut:
            lines.append(f"the image cuts the theoretical field at n = {', '.join(map(str, cut))}: take a larger one")
        return tuple(lines)

    def slopes(self) -> summary.Table:
        """One row per exponent: closed form, measured with its 95 % interval, beside the closed form and beside ±1/2."""
        return summary.Table(
            f"log-log slopes: {self.name}", SLOPES, tuple(map(slope_row, self.laws())), self.verdicts()
        )

    def verdicts(self) -> tuple[str, ...]:
        """Where an exponent is not ±1/2, a line that says so."""
        lines = []
        for law in self.laws():
            if law.holds(law.limit) is False:
                same = {True: "so does the closed form", False: "the closed form does not", None: "–"}[
                    law.holds(law.closed)
                ]
                low, high = law.interval
                lines.append(
                    f"{law.of}: n^{law.measured:.3f} [{low:.3f}, {high:.3f}] at these depths, not n^{law.limit:g}; {same} "
                    f"(n^{law.closed:.3f}, and n^{law.beyond:.3f} between the two largest n)"
                )
        return tuple(lines)

    def tables(self) -> tuple[summary.Table, ...]:
        """Sizes and slopes."""
        return self.table(), self.slopes()

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Every map by name, and standard errors."""
        found: dict[str, np.ndarray] = {}
        for n, closed, measured in zip(self.depths, self.closed, self.measured, strict=True):
            found[f"{prefix}{n}_closed"], found[f"{prefix}{n}_measured"] = closed.map, measured.map
            if measured.stderr is not None:
                found[f"{prefix}{n}_stderr"] = measured.stderr
        return found | {f"{prefix}{n}_closed": field.map for n, field in self._foreseen()}

    def _brief(self) -> str:
        return f"{self.name!r}, depths {self.depths}"

    def _tables(self) -> tuple[summary.Table, ...]:
        return self.tables()

    def plot(self, ax: Axes | None = None) -> Figure | Axes:
        """A matplotlib figure: maps and cross-sections by depth, and both laws on log-log axes; or sizes by depth in given axes.

        Args:
            ax: matplotlib axes to draw the sizes into, one family over the other; None makes the figure.
        """
        return figure.draw([self]) if ax is None else figure.into(ax, self)

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` over the depths: sizes in closed form and measured, standard errors, theoretical sizes, in pixels.

        Raises:
            MissingDependencyError: xarray is not installed.
        """
        xarray = output.xarray_or_why()
        columns = {"closed": self.closed_sizes, "measured": self.sizes, "stderr": self.stderrs, "theoretical": self.trf}
        data = {name: ("depth", np.array(values, np.float64)) for name, values in columns.items()}
        if self.predicted:
            data["predicted"] = ("predicted_depth", np.array([field.size(self.measure) for field in self.predicted]))
        where = {
            "depth": list(self.depths),
            **({"predicted_depth": list(self.predicted_depths)} if self.predicted else {}),
        }
        return xarray.Dataset(data, where, {"name": self.name, "measure": self.measure, "units": "pixels of the input"})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The folder with the figure (growth.png), the tables (.txt, .json), all maps (.npz) and fields (fields/), for `load`."""
        folder = Path(path)
        for name, field in self._named():
            field.save(folder / "fields" / f"{name}.npz")
        kept = {
            "name": self.name,
            "depths": self.depths,
            "predicted_depths": self.predicted_depths,
            "measure": self.measure,
        }
        content = {
            **kept,
            "settings": self.settings,
            "tables": {table.title: table.to_dict() for table in self.tables()},
        }
        plot.save(self.plot(), folder / "growth.png")
        return files.save_folder(folder, "growth", type(self).__name__, self.arrays(), content, str(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Growth":
        """The growth that `save` wrote to a folder.

        Raises:
            FileFormatError: not such a folder, or damaged.
        """
        folder = Path(path)
        with files.damaged(folder / "growth.json"):
            kept = json.loads((folder / "growth.json").read_text())
            depths, later = tuple(kept["depths"]), tuple(kept["predicted_depths"])

            def read(kind: str, which: Sequence[int]) -> tuple[EffectiveField, ...]:
                return tuple(EffectiveField.load(folder / "fields" / f"{kind}-{n}.npz") for n in which)

            fields = read("closed", depths), read("measured", depths), later, read("predicted", later)
            return cls(kept["name"], depths, *fields, kept["measure"], kept["settings"])

    def _named(self) -> list[tuple[str, EffectiveField]]:
        """Every field under the name of its file."""
        each = [("closed", self.depths, self.closed), ("measured", self.depths, self.measured)]
        each.append(("predicted", self.predicted_depths, self.predicted))
        return [(f"{kind}-{n}", field) for kind, which, fields in each for n, field in zip(which, fields, strict=True)]


COLUMNS = ("n", "TRF", "closed form", "measured", "95 %", "measured / closed", "samples")
SLOPES = ("of", "closed form", "measured", "95 %", "the closed form is", "±1/2 is", "closed form, largest n")


def slope_row(law: Slope) -> tuple[Any, ...]:
    """A slope as it is printed."""
    return (
        law.of,
        f"{law.closed:+.3f}",
        f"{law.measured:+.3f}",
        span(law.interval, 3),
        law.against(law.closed),
        law.against(law.limit),
        f"{law.beyond:+.3f}",
    )


def span(interval: tuple[float, float], digits: int) -> str:
    """An interval in brackets."""
    low, high = interval
    return "–" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"


def _extent(field: EffectiveField) -> float | None:
    """The geometric mean of the theoretical size over axes; None where it is unknown or infinite."""
    size: Sequence[float] = () if field.theoretical is None else field.theoretical.size
    if not size or not all(0 < n < math.inf for n in size):
        return None
    mean = math.prod(size) ** (1 / len(size))
    return float(size[0]) if len(set(size)) == 1 else mean


def _cut(field: EffectiveField) -> bool:
    """Whether the image ends inside a finite theoretical field."""
    seen = field.theoretical
    return seen is not None and any(
        math.isfinite(a) and (a < 0 or b > n) for a, b, n in zip(seen.start, seen.stop, field.map.shape, strict=True)
    )


def check(growth: Growth) -> Growth:
    """The growth itself, if every field has a size.

    Raises:
        MapError: one has none.
    """
    for what, fields in (("closed form", growth.closed), ("measured field", growth.measured)):
        for n, field in zip(growth.depths, fields, strict=True):
            try:
                field.size(growth.measure)
            except MapError as error:
                raise MapError(f"The {what} at n = {n} has no size {growth.measure!r}: {error}") from error
    return growth
