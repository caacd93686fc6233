"""`TheoreticalField`: where one unit of the output can look, in exact integers."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from erfjax import files, summary
from erfjax.fields.advice import Advice, advise, image_size_per_axis
from erfjax.fields.rows import LayerRow, Phase, PhaseTable
from erfjax.typing import JSON, Extent

MOST_LISTED = 32  # a phase table with more rows is not printed with the field; `phases()` has it


def _no_phases() -> PhaseTable:
    return PhaseTable((), (), ())


def _no_mask() -> np.ndarray:
    return np.zeros(0, bool)


@dataclasses.dataclass(frozen=True)
class TheoreticalField:
    """Where one unit of the output can look: exact integers per spatial axis.

    Attributes:
        unit: the unit asked about.
        output_shape, image_shape: spatial shapes of the output and the input, in pixels.
        start, stop: the half-open hull of the field, *unclipped*: padding counts, so it may run past the border; ±inf
            on an axis that is seen globally.
        stride: input pixels per unit (effective stride).
        padding: effective padding P in the Distill convention: unit u sees [u·stride - P, u·stride - P + size).
        clipped: (start, stop) of what lies inside the image when padding is cut at every layer.
        shift_invariant: False if the field changes its size or its offset with the unit.
        channels: (start, stop) of the input channels that any output channel of this unit can see.

    Example:
        >>> import erfjax as ej
        >>> field = (ej.layers.Conv(3) ** 20).theoretical((32, 48))
        >>> field.unit, field.size, field.start
        ((16, 24), (41, 41), (-4, 4))
    """

    unit: tuple[int, ...]
    output_shape: tuple[int, ...]
    image_shape: tuple[int, ...]
    start: tuple[Extent, ...]
    stop: tuple[Extent, ...]
    stride: tuple[Extent, ...]
    padding: tuple[Extent, ...]
    clipped: tuple[tuple[int, ...], tuple[int, ...]]
    shift_invariant: bool
    channels: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    phases_: Callable[[], PhaseTable] = dataclasses.field(repr=False, compare=False, default=_no_phases)
    mask_: Callable[[], np.ndarray] = dataclasses.field(repr=False, compare=False, default=_no_mask)
    layers_: Callable[[], Sequence[LayerRow]] = dataclasses.field(repr=False, compare=False, default=tuple)

    @property
    def size(self) -> tuple[Extent, ...]:
        """The extent of the hull in pixels, per axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def centre(self) -> tuple[float, ...]:
        """The centre of the hull in pixels, per axis; a global axis is centred on the image."""
        return tuple(
            (n - 1) / 2 if math.isinf(a) or math.isinf(b) else (a + b - 1) / 2
            for a, b, n in zip(self.start, self.stop, self.image_shape, strict=True)
        )

    def phases(self) -> PhaseTable:
        """The field of every phase of the unit: one row if the field is shift-invariant."""
        return self._phases

    def mask(self) -> Bool[np.ndarray, "*space"]:
        """True at every input pixel that the unit can see: the exact set, holes of dilated kernels included."""
        return self._mask.copy()

    @property
    def layers(self) -> tuple[LayerRow, ...]:
        """One row per layer on the way from the input to the unit, in the order of the computation."""
        return self._layers

    @functools.cached_property
    def _phases(self) -> PhaseTable:
        return self.phases_()

    @functools.cached_property
    def _mask(self) -> np.ndarray:
        return self.mask_()

    @functools.cached_property
    def _layers(self) -> tuple[LayerRow, ...]:
        return tuple(self.layers_())

    def advice(self, image_size: int | Sequence[int] | None = None) -> Advice:
        """What the field means for images of `image_size` pixels (per axis, or one for all; None: the image traced).

        Raises:
            GeometryError: the sizes are not positive integers, one per spatial axis.

        Example:
            >>> import erfjax as ej
            >>> field = (ej.layers.Conv(3) ** 20).theoretical((32, 32))
            >>> len(field.advice().unproductive), field.advice(60).ratio
            (4, (0.6833333333333333, 0.6833333333333333))
        """
        return advise(self.size, self.layers, image_size_per_axis(image_size, self.image_shape))

    def table(self) -> summary.Table:
        """One row per layer, from the input to the unit."""
        columns = ("layer", "operation", "shape", "size", "stride", "padding", "start")
        rows = tuple(tuple(getattr(row, "name" if c == "layer" else c) for c in columns) for row in self.layers)
        return summary.Table("layers", columns, rows)

    def facts(self) -> summary.Table:
        """The field itself, one fact a row."""
        pairs = {
            "unit": str(self.unit),
            "of output": self.output_shape,
            "size": self.size,
            "stride": self.stride,
            "padding": self.padding,
            "sees": _intervals(self.start, self.stop),
            "inside the image": _intervals(*self.clipped),
            "image": self.image_shape,
            "shift-invariant": self.shift_invariant,
        }
        if not self.shift_invariant and self.phases().rows:
            table = self.phases()
            pairs["size over the units"] = f"{summary.cell(table.minimum)} to {summary.cell(table.maximum)}"
        if self.channels is not None:
            pairs["input channels"] = f"[{self.channels[0]}, {self.channels[1]})"
        return summary.facts("theoretical receptive field", pairs, self.notes)

    def __str__(self) -> str:
        return summary.stack(*self._tables())

    def _repr_html_(self) -> str:
        return summary.stack_html(*self._tables())

    def _tables(self) -> tuple[summary.Table, ...]:
        listed = not self.shift_invariant and len(self.phases().rows) <= MOST_LISTED
        varying = (self.phases().table(),) if listed else ()
        return (self.facts(), *varying, *((self.table(),) if self.layers else ()))

    def plot(self, image: np.ndarray | None = None, **options: Any) -> Any:
        """A matplotlib figure of the box and the mask, over `image` if given; options as in `erfjax.plot.theoretical`."""
        from erfjax.plot import theoretical

        return theoretical(self, image, **options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The path of an `.npz` file that holds all of the field: phases, mask and layers are evaluated for it."""
        arrays, metadata = pack(self)
        return files.save(path, "TheoreticalField", arrays, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TheoreticalField":
        """The field that `save` wrote.

        Raises:
            FileFormatError: not such a file, or damaged.
        """
        arrays, metadata = files.load(path, "TheoreticalField")
        with files.damaged(path):
            return unpack(arrays, metadata)


def _intervals(start: tuple[Extent, ...], stop: tuple[Extent, ...]) -> str:
    return " × ".join(f"[{summary.cell(a)}, {summary.cell(b)})" for a, b in zip(start, stop, strict=True))


_PLAIN = tuple(f.name for f in dataclasses.fields(TheoreticalField) if not f.name.endswith("_"))


def pack(field: TheoreticalField) -> tuple[dict[str, np.ndarray], JSON]:
    """The arrays and the JSON metadata that hold all of the field; what is lazy is evaluated."""
    parts = {name: getattr(field, name) for name in _PLAIN}
    parts |= {"phases": dataclasses.asdict(field.phases()), "layers": [dataclasses.asdict(row) for row in field.layers]}
    return {"mask": field.mask()}, {name: _encoded(value) for name, value in parts.items()}


def unpack(arrays: dict[str, np.ndarray], metadata: JSON) -> TheoreticalField:
    """The field that `pack` took apart."""
    parts = {name: _decoded(value) for name, value in metadata.items()}
    layers = tuple(LayerRow(**row) for row in parts["layers"])
    table = parts["phases"]
    phases = PhaseTable(table["period"], table["shift"], tuple(Phase(**row) for row in table["rows"]))
    plain = {name: parts[name] for name in _PLAIN}
    return TheoreticalField(**plain, phases_=lambda: phases, mask_=lambda: arrays["mask"], layers_=lambda: layers)


def _encoded(value: Any) -> Any:
    """Tuples as lists, and infinity, which JSON does not know, as {"infinity": ±1}."""
    if isinstance(value, dict):
        return {name: _encoded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return {"infinity": int(math.copysign(1, value))} if isinstance(value, float) and math.isinf(value) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"infinity"}:
            return math.inf * value["infinity"]
        return {name: _decoded(item) for name, item in value.items()}
    return tuple(_decoded(item) for item in value) if isinstance(value, list) else value
