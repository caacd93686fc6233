"""The rows of a theoretical receptive field: one per layer, and one per phase where the field varies with the unit."""

import dataclasses
from collections.abc import Sequence

from erfjax import summary
from erfjax.plot import published
from erfjax.typing import Extent, Figure


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """The theoretical receptive field of one unit of one intermediate layer.

    `input_size` is the field of a unit of what the layer reads; None stands for the layer of the row before.
    """

    name: str
    operation: str
    shape: tuple[int, ...]
    size: tuple[Extent, ...]
    stride: tuple[Extent, ...]
    padding: tuple[Extent, ...]
    start: tuple[Extent, ...]
    stop: tuple[Extent, ...]
    input_size: tuple[Extent, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Phase:
    """The field of one phase of a periodic, shift-variant layer along one axis."""

    axis: int
    phase: int
    unit: int
    start: Extent
    stop: Extent

    @property
    def size(self) -> Extent:
        return self.stop - self.start


@dataclasses.dataclass(frozen=True, repr=False)
class PhaseTable(summary.Shown):
    """How the field varies with the unit: after `period[a]` units on axis a it repeats, moved by `shift[a]` pixels."""

    period: tuple[int, ...]
    shift: tuple[Extent, ...]
    rows: tuple[Phase, ...]

    @property
    def minimum(self) -> tuple[Extent, ...]:
        """The smallest size over the phases, per axis."""
        return tuple(min(row.size for row in self.rows if row.axis == axis) for axis in range(len(self.period)))

    @property
    def maximum(self) -> tuple[Extent, ...]:
        """The largest size over the phases, per axis."""
        return tuple(max(row.size for row in self.rows if row.axis == axis) for axis in range(len(self.period)))

    def steady(self, stride: Sequence[Extent]) -> bool:
        """Whether all phases are one field, moved by the stride."""
        return all(
            b.start - a.start == b.stop - a.stop == (b.unit - a.unit) * stride[a.axis]
            for a, b in zip(self.rows, self.rows[1:], strict=False)
            if a.axis == b.axis
        )

    def table(self) -> summary.Table:
        """One row per axis and phase."""
        rows = tuple((row.axis, row.phase, row.unit, row.start, row.stop, row.size) for row in self.rows)
        title = f"period {summary.cell(self.period)}, shift {summary.cell(self.shift)}"
        return summary.Table(title, ("axis", "phase", "unit", "start", "stop", "size"), rows)

    def plot(self) -> Figure:
        """A matplotlib figure: for every phase of every axis a bar over the pixels that the unit sees."""
        names = summary.axis_names(len(self.period))
        each = {name: [(r.unit, r.start, r.stop) for r in self.rows if r.axis == a] for a, name in enumerate(names)}
        return published.phases(each, self.shift)
