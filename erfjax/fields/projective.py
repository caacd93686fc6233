"""Many units at once, and the way back: the boxes that units see, and the units that see a pixel (the projective field).

Along each axis unit u sees [start(u), stop(u)), by stride and padding where the field is shift-invariant and by its phases where
it is not. Boxes are hulls and unclipped, as `start` and `stop` of the field are.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from erfjax.errors import UnitError

if TYPE_CHECKING:
    from erfjax.fields.theoretical import TheoreticalField


@dataclasses.dataclass(frozen=True, eq=False)
class Boxes:
    """Half-open boxes, one a row, one column per spatial axis.

    Attributes:
        start, stop: of pixels or of units; ±inf on an axis that is seen globally. An empty box starts and stops at 0.
    """

    start: Float[np.ndarray, "boxes axes"]
    stop: Float[np.ndarray, "boxes axes"]

    @property
    def centre(self) -> Float[np.ndarray, "boxes axes"]:
        """The centres; nan where a box is infinite or empty."""
        with np.errstate(invalid="ignore"):
            centre = (self.start + self.stop - 1) / 2
        return np.where(np.isfinite(centre) & (self.stop > self.start), centre, np.nan)

    @property
    def size(self) -> Float[np.ndarray, "boxes axes"]:
        """How long each box is."""
        return self.stop - self.start

    def __len__(self) -> int:
        return len(self.start)


def locate(field: "TheoreticalField", units: Sequence[int] | Sequence[Sequence[int]] | np.ndarray) -> Boxes:
    """The boxes that units see; see `TheoreticalField.locate`."""
    if len(field.output_shape) != len(field.image_shape):
        raise _unpaired(field)
    rows = _rows(units, field.output_shape, "units", "the output")
    edges = [_edges(field, axis, rows[:, axis]) for axis in range(rows.shape[1])]
    return Boxes(np.stack([start for start, _ in edges], -1), np.stack([stop for _, stop in edges], -1))


def units_of(field: "TheoreticalField", pixels: Sequence[int] | Sequence[Sequence[int]] | np.ndarray) -> Boxes:
    """The boxes of units that see pixels; see `TheoreticalField.units_of`."""
    rows = _rows(pixels, field.image_shape, "pixels", "the image")
    if len(field.output_shape) != len(field.image_shape):
        raise _unpaired(field)
    start, stop = np.zeros(rows.shape), np.zeros(rows.shape)
    for axis, n in enumerate(field.output_shape):
        low, high = _edges(field, axis, np.arange(n))
        seen = (low <= rows[:, axis, None]) & (rows[:, axis, None] < high)
        some = seen.any(1)
        start[:, axis] = np.where(some, seen.argmax(1), 0)
        stop[:, axis] = np.where(some, n - seen[:, ::-1].argmax(1), 0)
    empty = (stop <= start).any(1)
    start[empty], stop[empty] = 0, 0
    return Boxes(start, stop)


def _edges(field: "TheoreticalField", axis: int, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop along one axis."""
    if math.isinf(field.start[axis]) or math.isinf(field.stop[axis]) or field.shift_invariant:
        moved = (units - field.unit[axis]) * float(field.stride[axis])
        return field.start[axis] + moved, field.stop[axis] + moved
    table = field.phases()
    period, shift = table.period[axis], float(table.shift[axis])
    phases = {row.phase: row for row in table.rows if row.axis == axis}
    missing = sorted({int(u) for u in units if int(u) % period not in phases})
    if missing:
        raise UnitError(
            f"The field of unit {missing[0]} along axis {axis} is not in the table of phases, which lists {len(phases)} of "
            f"{period}: ask for it by ej.theoretical(..., unit=...)."
        )
    rows = [phases[int(u) % period] for u in units]
    moved = (units - np.array([row.unit for row in rows])) / period * shift
    return np.array([row.start for row in rows]) + moved, np.array([row.stop for row in rows]) + moved


def _rows(
    given: Sequence[int] | Sequence[Sequence[int]] | np.ndarray, shape: tuple[int, ...], name: str, of: str
) -> np.ndarray:
    """Integers, one row per unit or pixel, inside the array.

    Raises:
        UnitError: not so.
    """
    rows = np.asarray(given)
    if rows.ndim == 1 and len(shape) == 1:
        rows = rows[:, None]
    if rows.ndim != 2 or rows.shape[1] != len(shape) or not np.issubdtype(rows.dtype, np.integer):
        raise UnitError(
            f"`{name}` must hold one row of {len(shape)} integers each, but got an array of {rows.dtype} of shape {rows.shape}."
        )
    outside = ((rows < 0) | (rows >= np.array(shape))).any(1)
    if outside.any():
        raise UnitError(f"`{name}` must lie inside {of} {shape}, but got {tuple(rows[outside][0].tolist())}.")
    return rows


def _unpaired(field: "TheoreticalField") -> UnitError:
    return UnitError(
        f"The output {field.output_shape} and the image {field.image_shape} have another number of spatial axes, so which "
        "units see a pixel cannot be told axis by axis: ask for the masks of single units."
    )
