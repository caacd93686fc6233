"""What `every_unit` finds: total, centroid and σ of the field of every unit on a grid, and which units see less."""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from erfjax import files, jackknife, summary
from erfjax.fields import output
from erfjax.typing import JSON, Axes, Figure, Number, Statistic

LESS = 0.9  # of the size of units that see the image alone: below, a unit is counted as one that sees less
MOST_PHASES = 9  # more are one row of the table


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class EveryUnit(summary.Shown):
    """The measured fields of all units, or of every `step`-th: how large each is, how much gradient it gathers, where it lies.

    Arrays have one entry per unit of the grid.

    Attributes:
        units: the units along each axis of the output.
        places: the pixel on which each of them is centred, along each axis.
        start, stop: what each can see inside the image, along each axis, in pixels.
        whole: per axis, whether all that the unit can see lies inside the image.
        period: per axis, after how many units the theoretical field repeats; 1 where all units have the same.
        image_shape: the image, in pixels.
        moments: the mean over samples of Σs, Σs·d and Σs·d² along each axis (s the statistic, d the distance from the place).
        batches: the same of disjoint batches of samples, for standard errors; None from one sample alone.
        statistic, channels, samples, notes, metadata: as in `EffectiveField`.
    """

    units: tuple[np.ndarray, ...]
    places: tuple[np.ndarray, ...]
    start: tuple[np.ndarray, ...]
    stop: tuple[np.ndarray, ...]
    whole: tuple[np.ndarray, ...]
    period: tuple[int, ...]
    image_shape: tuple[int, ...]
    moments: Float[np.ndarray, "*moments"]
    batches: Float[np.ndarray, "batches *moments"] | None
    statistic: Statistic
    channels: str | int
    samples: int
    notes: tuple[str, ...] = ()
    metadata: JSON = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid: how many units there are along each axis."""
        return tuple(map(len, self.units))

    @property
    def total(self) -> Float[np.ndarray, "*units"]:
        """The sum of each unit's map, in squared gradient (or gradient) per unit of output."""
        return np.asarray(self.moments[..., 0])

    def sigma(self) -> Float[np.ndarray, "*units axes"]:
        """The standard deviation of each unit's mean map along each axis, in pixels; NaN for a unit without any gradient."""
        return self._sigma(self.moments)

    def size(self) -> Float[np.ndarray, "*units"]:
        """The size "sigma" of each unit's field as in `EffectiveField.size`: the root mean square of σ over axes, in pixels."""
        return self._size(self.moments)

    def shift(self) -> Float[np.ndarray, "*units axes"]:
        """How far the centroid of each unit's map lies from the unit's own place, in pixels."""
        return self._shift(self.moments)

    def size_stderr(self) -> Float[np.ndarray, "*units"] | None:
        """The standard error of `size` by the jackknife over batches of samples; None from fewer than two."""
        return self._stderr(self._size)

    def total_stderr(self) -> Float[np.ndarray, "*units"] | None:
        """The standard error of `total`; None from fewer than two batches."""
        return self._stderr(lambda moments: moments[..., 0])

    def _stderr(self, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
        if self.batches is None or len(self.batches) < 2:
            return None
        return jackknife.stderr(of(jackknife.without_each(self.batches)))

    def _shift(self, moments: np.ndarray) -> np.ndarray:
        axes = len(self.units)
        total = moments[..., :1]
        return np.divide(
            moments[..., 1 : 1 + axes], total, out=np.full_like(moments[..., 1 : 1 + axes], np.nan), where=total != 0
        )

    def _sigma(self, moments: np.ndarray) -> np.ndarray:
        axes = len(self.units)
        total, second = moments[..., :1], moments[..., 1 + axes :]
        square = np.divide(second, total, out=np.full_like(second, np.nan), where=total != 0)
        return np.asarray(np.sqrt(np.maximum(square - self._shift(moments) ** 2, 0)))

    def _size(self, moments: np.ndarray) -> np.ndarray:
        wide = [axis for axis, n in enumerate(self.image_shape) if n > 1] or list(range(len(self.units)))
        return np.asarray(np.sqrt((self._sigma(moments)[..., wide] ** 2).mean(-1)))

    @property
    def inside(self) -> Bool[np.ndarray, "*units"]:
        """Whether the unit sees the image alone: its whole theoretical field lies inside."""
        return np.asarray(self._crossed == 0)

    @property
    def _crossed(self) -> np.ndarray:
        """Along how many axes the field of a unit runs past the border."""
        parts = np.meshgrid(*(~whole for whole in self.whole), indexing="ij")
        return np.asarray(np.sum(parts, axis=0))

    @property
    def typical(self) -> float:
        """The median size of the units that see the image alone; of all units where there are none. In pixels."""
        sizes = self.size()
        chosen = sizes[self.inside] if self.inside.any() else sizes
        chosen = chosen[np.isfinite(chosen)]
        return float(np.median(chosen)) if chosen.size else math.nan

    def less(self, share: Number = LESS) -> Bool[np.ndarray, "*units"]:
        """Which units have a smaller field than `share` times the typical one, or no gradient at all."""
        return np.asarray(~(self.size() >= share * self.typical))

    def groups(self) -> dict[str, Bool[np.ndarray, "*units"]]:
        """Units of one kind: inside (by phase, where the field repeats after several units), and past one border or several."""
        grid = np.meshgrid(*(u % p for u, p in zip(self.units, self.period, strict=True)), indexing="ij")
        found, crossed = {}, self._crossed
        phases = sorted(set(zip(*(g[self.inside].tolist() for g in grid), strict=True)))
        if not 1 < len(phases) <= MOST_PHASES:
            found["inside" if len(phases) < 2 else f"inside, {len(phases)} phases"] = self.inside
        else:
            for phase in phases:
                here = np.logical_and.reduce([self.inside, *(g == p for g, p in zip(grid, phase, strict=True))])
                found[f"inside, phase {phase}"] = here
        words = {1: "past one border", 2: "past two", 3: "past three"}
        for count in range(1, len(self.units) + 1):
            name = words[count] if len(self.units) > 1 else "past the border"
            found[name] = crossed == count
        return {name: here for name, here in found.items() if here.any()}

    def table(self) -> summary.Table:
        """One row per kind of unit: how many, their size with its extremes, their total, how many see less."""
        sizes, totals, less = self.size(), self.total, self.less()
        reference = totals[self.inside].mean() if self.inside.any() else totals.mean()
        rows = []
        for name, here in self.groups().items():
            own = sizes[here][np.isfinite(sizes[here])]
            middle, low, high = (float(np.median(own)), own.min(), own.max()) if own.size else (math.nan,) * 3
            share = float(totals[here].mean() / reference) if reference else math.nan
            rows.append((name, int(here.sum()), middle, float(low), float(high), share, int(less[here].sum())))
        columns = ("units", "count", "σ, median", "least", "greatest", "total, relative", f"σ below {LESS:.0%}")
        return summary.Table("fields over the image", columns, tuple(rows), self._said())

    def _said(self) -> tuple[str, ...]:
        smallest = np.where(np.isfinite(self.size()), self.size(), -1)
        at = np.unravel_index(int(smallest.argmin()), self.shape)
        unit = tuple(int(u[i]) for u, i in zip(self.units, at, strict=True))
        errors = self.size_stderr()
        precise = "" if errors is None else f"; σ is known to ± {np.nanmedian(errors):.2g} (median standard error)"
        return (
            f"σ in pixels, root mean square over axes, {self.samples} samples{precise}",
            f"unit {unit} has the smallest field: σ {self.size()[at]:.4g}",
            *self.notes,
        )

    def _tables(self) -> tuple[summary.Table, ...]:
        return (self.table(),)

    def _brief(self) -> str:
        return f"{summary.cell(self.shape)} units, typical σ {self.typical:.4g}, {int(self.less().sum())} see less"

    def plot(self, ax: Axes | None = None, label: str | None = None) -> Figure | Axes:
        """A figure of size and total over the image, and the size along lines through its middle; or these lines in given axes.

        Args:
            ax: matplotlib axes to draw the lines into; None makes a figure.
            label: put before the names in the legend of `ax`, or the title of the figure.

        Returns:
            The figure, or `ax`.
        """
        from erfjax.units import figure

        return figure.draw(self, ax, label)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The path of a file of the result; its suffix says what is in it.

        `.npz` holds all of it and is what `load` reads; `.json` the numbers of every unit; `.csv` the table; `.png`, `.pdf` and
        `.svg` the figure.

        Raises:
            FileFormatError: another suffix.
        """
        return output.save(
            path, "EveryUnit", whole=self._pack, content=self._content, rows=self.table, figure=self.plot
        )

    def _plain(self) -> JSON:
        return {
            "period": self.period,
            "image_shape": self.image_shape,
            "statistic": self.statistic,
            "channels": self.channels,
            "samples": self.samples,
            "notes": self.notes,
            "metadata": self.metadata,
        }

    def _content(self) -> JSON:
        errors = self.size_stderr()
        numbers = {"size": self.size(), "total": self.total, "sigma": self.sigma(), "shift": self.shift()}
        return {**self._plain(), "units": list(self.units), **numbers, "size_stderr": errors}

    def _pack(self) -> tuple[dict[str, np.ndarray], JSON]:
        arrays = {
            f"{name}.{axis}": np.asarray(line)
            for name in ("units", "places", "start", "stop", "whole")
            for axis, line in enumerate(getattr(self, name))
        }
        kept = {} if self.batches is None else {"batches": self.batches}
        return {**arrays, "moments": self.moments, **kept}, self._plain()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "EveryUnit":
        """The result that `save` wrote to an `.npz` file.

        Raises:
            FileFormatError: not such a file, or damaged.
        """
        arrays, metadata = files.load(path, "EveryUnit")
        with files.damaged(path):
            axes = range(len(metadata["image_shape"]))
            lines: dict[str, Any] = {
                name: tuple(arrays[f"{name}.{axis}"] for axis in axes)
                for name in ("units", "places", "start", "stop", "whole")
            }
            for name in ("period", "image_shape", "notes"):
                metadata[name] = tuple(metadata[name])
            return cls(**lines, moments=arrays["moments"], batches=arrays.get("batches"), **metadata)
