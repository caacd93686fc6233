"""What `account` finds: three fields of one unit, and by how much each step changes the total and the variance of the map."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from erfjax import files, measures, summary
from erfjax.errors import MapError
from erfjax.fields import EffectiveField, output
from erfjax.fields.effective import pack_effective, unpack_effective
from erfjax.typing import JSON, Axes, Figure

STEPS = ("variance of the weights", "coherence of the weights", "dependence of gates")
FIELDS = ("variance", "coherent", "measured")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two neighbouring layers whose gates are taken from one input.

    Attributes:
        layers: their numbers; layer 0 lies before the first weights.
        factor: the total with these two tied, over that with all layers shuffled.
        low, high: its 95 % interval; NaN where there are too few samples.
    """

    layers: tuple[int, int]
    factor: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Account(summary.Shown):
    """What a measured field is made of.

    Attributes:
        variance: the field of independent weights of the variances that the tensors have.
        coherent: that of the weights as they are, gates of different layers independent.
        measured: that of the network.
        how: how `coherent` was read: "closed form" or "shuffled gates".
        pairs: which neighbouring layers' gates depend on each other, if it was asked.
    """

    variance: EffectiveField
    coherent: EffectiveField
    measured: EffectiveField
    how: str
    pairs: tuple[Pair, ...] = ()

    @property
    def fields(self) -> dict[str, EffectiveField]:
        """The three fields, each by what it counts last."""
        return dict(zip(STEPS, (self.variance, self.coherent, self.measured), strict=True))

    @property
    def totals(self) -> tuple[float, ...]:
        """The sums of the three maps, in squared gradient."""
        return tuple(float(field.map.sum()) for field in self.fields.values())

    @property
    def factors(self) -> tuple[float, ...]:
        """The total of the first field, and what each further step multiplies it by; their product is the measured total."""
        first, second, third = self.totals
        return first, second / first if first else math.nan, third / second if second else math.nan

    @property
    def variances(self) -> tuple[float, ...]:
        """σ² of the three maps, the mean over axes, in pixels squared."""
        return tuple(field.size("sigma") ** 2 for field in self.fields.values())

    @property
    def contributions(self) -> tuple[float, ...]:
        """What each step adds to σ², in pixels squared; their sum is that of the measured map."""
        first, second, third = self.variances
        return first, second - first, third - second

    @property
    def distances(self) -> tuple[float, ...]:
        """The total variation of each map from the measured one, in [0, 1]."""
        shares = [field.normalised() for field in self.fields.values()]
        return tuple(measures.total_variation(share, shares[-1]) for share in shares)

    def table(self) -> summary.Table:
        """One row per step: total, factor, σ, what it adds to σ², distance from the measured map."""
        rows = []
        parts = zip(
            self.fields, self.totals, self.factors, self.variances, self.contributions, self.distances, strict=True
        )
        for i, (step, total, factor, variance, added, distance) in enumerate(parts):
            name = step if i == 0 else f"+ {step}"
            rows.append((name, total, factor if i else None, math.sqrt(variance), added, distance))
        columns = ("counted", "total", "×", "σ", "adds to σ²", "TV from measured")
        return summary.Table("account of the field", columns, tuple(rows), self._notes())

    def _notes(self) -> tuple[str, ...]:
        lines = [f"coherence of the weights by {self.how}; σ in pixels; the last row is the measured field"]
        for name, field in (("shuffled", self.coherent), ("measured", self.measured)):
            if field.samples > 1:
                try:
                    total = field.interval("total")
                    lines.append(f"{name} total {total}")
                except MapError:
                    pass
        for field in (self.coherent, self.measured):
            lines += [note for note in field.notes if note.startswith("do not trust")]
        if self.pairs:
            ranked = sorted(self.pairs, key=lambda pair: -abs(math.log(pair.factor)) if pair.factor > 0 else -math.inf)
            said = ", ".join(f"{p.layers[0]} and {p.layers[1]} (× {p.factor:.3g})" for p in ranked[:3])
            lines.append(f"gates of neighbouring layers that change the total most if tied: {said}")
        return tuple(lines)

    def pairs_table(self) -> summary.Table:
        """One row per pair of neighbouring layers: the total with their gates tied over that with all layers shuffled."""
        rows = tuple((f"{p.layers[0]} and {p.layers[1]}", p.factor, p.low, p.high) for p in self.pairs)
        return summary.Table("dependence of neighbouring layers", ("layers", "×", "95 % from", "to"), rows)

    def _tables(self) -> tuple[summary.Table, ...]:
        return (self.table(), self.pairs_table()) if self.pairs else (self.table(),)

    def _brief(self) -> str:
        first, second, third = self.factors
        return f"total {first:.4g} × {second:.3g} (coherence) × {third:.3g} (gates)"

    def plot(self, ax: Axes | None = None, label: str | None = None) -> Figure | Axes:
        """A figure of the three cross-sections, the totals step by step and σ² step by step; or the cross-sections in given axes.

        Args:
            ax: matplotlib axes to draw the cross-sections into; None makes a figure.
            label: put before the names in the legend of `ax`, or the title of the figure.

        Returns:
            The figure, or `ax`.
        """
        from erfjax.accounts import figure

        return figure.draw(self, ax, label)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The path of a file of the account; its suffix says what is in it.

        `.npz` holds the three fields and is what `load` reads; `.json` the numbers; `.csv` the table; `.png`, `.pdf` and `.svg`
        the figure.

        Raises:
            FileFormatError: another suffix.
        """
        numbers = {
            name: getattr(self, name) for name in ("totals", "factors", "variances", "contributions", "distances")
        }
        return output.save(
            path,
            "Account",
            whole=self._pack,
            content=lambda: self._plain() | {"steps": STEPS, **numbers},
            rows=self.table,
            figure=self.plot,
        )

    def _plain(self) -> JSON:
        return {"how": self.how, "pairs": [dataclasses.asdict(pair) for pair in self.pairs]}

    def _pack(self) -> tuple[dict[str, np.ndarray], JSON]:
        arrays: dict[str, np.ndarray] = {}
        metadata = self._plain()
        for name in FIELDS:
            inside, metadata[name] = pack_effective(getattr(self, name))
            arrays |= {f"{name}.{key}": values for key, values in inside.items()}
        return arrays, metadata

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Account":
        """The account that `save` wrote to an `.npz` file.

        Raises:
            FileFormatError: not such a file, or damaged.
        """
        arrays, metadata = files.load(path, "Account")
        with files.damaged(path):
            inside: dict[str, Any] = {}
            for name in FIELDS:
                own = {key[len(name) + 1 :]: values for key, values in arrays.items() if key.startswith(f"{name}.")}
                inside[name] = unpack_effective(own, metadata[name])
            pairs = tuple(Pair(tuple(pair.pop("layers")), **pair) for pair in metadata["pairs"])
            return cls(**inside, how=metadata["how"], pairs=pairs)
