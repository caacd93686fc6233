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
from erfjax.fields import output
from erfjax.fields.advice import Advice, advise, image_size_per_axis
from erfjax.fields.projective import Boxes, locate, units_of
from erfjax.fields.rows import LayerRow, Phase, PhaseTable
from erfjax.typing import JSON, Axes, Extent, Figure, Number

MOST_LISTED = 32  # a phase table with more rows is not printed with the field; `phases()` has it


@dataclasses.dataclass(frozen=True)
class Kept:
    """A part that is known already, in the place of a function that computes it: unlike a closure it can be pickled."""

    value: Any

    def __call__(self) -> Any:
        return self.value


@dataclasses.dataclass(frozen=True, repr=False)
class TheoreticalField(summary.Shown):
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
        place: the pixel on which the unit itself is centred, whatever it sees besides: of a token, the centre of its patch; None
            along an axis on which it has no place (a class token, logits).

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
    place: tuple[float | None, ...] | None = None
    phases_: Callable[[], PhaseTable] = dataclasses.field(
        repr=False, compare=False, default=Kept(PhaseTable((), (), ()))
    )
    mask_: Callable[[], np.ndarray] = dataclasses.field(repr=False, compare=False, default=Kept(np.zeros(0, bool)))
    layers_: Callable[[], Sequence[LayerRow]] = dataclasses.field(repr=False, compare=False, default=Kept(()))

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

    def locate(self, units: Sequence[int] | Sequence[Sequence[int]] | np.ndarray) -> Boxes:
        """The boxes of the input that units see, and their centres: unclipped hulls in pixels, one row per unit.

        Args:
            units: indices of the output, one row per unit, one integer per spatial axis.

        Raises:
            UnitError: units outside the output, or not in the table of phases of a field that never repeats.

        Example:
            >>> import erfjax as ej
            >>> field = (ej.layers.Conv(3, stride=2) ** 2).theoretical((32, 48))
            >>> boxes = field.locate([(0, 0), (3, 5)])
            >>> boxes.start.tolist(), boxes.centre.tolist()
            ([[0.0, 0.0], [12.0, 20.0]], [[3.0, 3.0], [15.0, 23.0]])
        """
        return locate(self, units)

    def units_of(self, pixels: Sequence[int] | Sequence[Sequence[int]] | np.ndarray) -> Boxes:
        """The boxes of units that see pixels (their projective fields): the other way round, one row per pixel.

        Args:
            pixels: indices of the input, one row per pixel, one integer per spatial axis.

        Raises:
            UnitError: pixels outside the image.

        Example:
            >>> import erfjax as ej
            >>> field = (ej.layers.Conv(3) ** 2).theoretical((32, 48))
            >>> seen = field.units_of([(0, 10)])
            >>> seen.start.tolist(), seen.stop.tolist()
            ([[0.0, 8.0]], [[3.0, 13.0]])
        """
        return units_of(self, pixels)

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
        if self.place is not None and any(map(math.isinf, (*self.start, *self.stop))):
            pairs["stands on pixel"] = " × ".join("nowhere" if p is None else summary.cell(p) for p in self.place)
        if not self.shift_invariant and self.phases().rows:
            table = self.phases()
            pairs["size over the units"] = f"{summary.cell(table.minimum)} to {summary.cell(table.maximum)}"
        if self.channels is not None:
            pairs["input channels"] = f"[{self.channels[0]}, {self.channels[1]})"
        return summary.facts("theoretical receptive field", pairs, self.notes)

    def __getstate__(self) -> JSON:
        """All of the field as data, for pickles and copies: what is lazy is evaluated."""
        parts = {"phases_": self.phases(), "mask_": self.mask(), "layers_": self.layers}
        return {name: getattr(self, name) for name in _PLAIN} | {name: Kept(value) for name, value in parts.items()}

    def _brief(self) -> str:
        sees = f"unit {self.unit} sees {summary.cell(self.size)} of {summary.cell(self.image_shape)} pixels"
        return f"{sees}, stride {summary.cell(self.stride)}"

    def _tables(self) -> tuple[summary.Table, ...]:
        listed = not self.shift_invariant and len(self.phases().rows) <= MOST_LISTED
        varying = (self.phases().table(),) if listed else ()
        return (self.facts(), *varying, *((self.table(),) if self.layers else ()))

    def plot(
        self, image: np.ndarray | None = None, *, ax: Axes | None = None, label: str | None = None, **options: Any
    ) -> Figure | Axes:
        """A figure of the box and the mask, over `image` if given; or the same in given axes.

        Args:
            image: a picture of the input's size, (height, width) or (height, width, channels).
            ax: matplotlib axes to draw into, one field over the other; None makes a figure.
            label: of the box in the legend of `ax`, or the title of the figure.
            options: of `erfjax.plot.theoretical`.

        Returns:
            The figure, or `ax`.
        """
        from erfjax import plot

        return plot.theoretical(self, image, ax=ax, label=label, **options)

    def to_xarray(self, spacing: Number | Sequence[Number] = 1, units: str = "pixel") -> Any:
        """An `xarray.Dataset` of the mask and of the layers' sizes and strides, with one coordinate per spatial axis.

        Args:
            spacing: the distance between two pixels in `units`, or one per axis; sizes and strides stay in pixels.
            units: of the coordinates.

        Raises:
            MissingDependencyError: xarray is not installed.
        """
        found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {"mask": ((), self.mask())}
        for name in ("size", "stride", "start", "stop") if self.layers else ():
            values = np.array([getattr(row, name) for row in self.layers], np.float64)
            found[f"layer_{name}"] = (("layer", "axis"), values)
            found["layer_name"] = (("layer",), np.array([row.name for row in self.layers]))
        said = {name: getattr(self, name) for name in ("unit", "size", "stride", "start", "stop", "shift_invariant")}
        return output.dataset(found, self.image_shape, said | {"notes": "; ".join(self.notes)}, spacing, units)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The path of a file of the field; its suffix says what is in it.

        `.npz` holds all of the field, phases, mask and layers too, and is what `load` reads; `.json` all but the mask; `.csv`
        one row per layer; `.png`, `.pdf` and `.svg` the figure.

        Raises:
            FileFormatError: another suffix.
        """
        return output.save(
            path,
            "TheoreticalField",
            whole=lambda: pack(self),
            content=lambda: (
                {name: getattr(self, name) for name in ("size", "centre", *_PLAIN)}
                | {
                    "layers": [dataclasses.asdict(row) for row in self.layers],
                    "phases": dataclasses.asdict(self.phases()),
                }
            ),
            rows=self.table,
            figure=self.plot,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TheoreticalField":
        """The field that `save` wrote to an `.npz` file.

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
    parts.setdefault("place", None)  # files of before it was known
    plain = {name: parts[name] for name in _PLAIN}
    return TheoreticalField(**plain, phases_=Kept(phases), mask_=Kept(arrays["mask"]), layers_=Kept(layers))


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
