"""The moments of many units' maps: total, centroid and spread of each, in memory that does not grow with the maps.

Units whose fields do not overlap share one pullback, a *colour*, as in `every_unit`; here every unit has a window of its own, so
those at the border, of any phase and behind any upsampling are read as well. Of a window only the sums of s, s·d and s·d² are
kept, d the distance in pixels from the unit's own place: they are linear in the map, so their means over samples give the mean,
total and standard deviation of the mean map exactly.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from erfjax.measurement import reduction
from erfjax.measurement.cone import Traced
from erfjax.measurement.engine import Parted
from erfjax.measurement.every_unit import along_axis, faults, in_parts
from erfjax.measurement.jacobian import LOST_FAULT
from erfjax.typing import Channels, Statistic

LOST = 1e-3  # of a colour's total: more outside the windows means that windows are not what units see


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """The chosen units along one axis.

    Attributes:
        units: their indices.
        start, stop: the window of each inside the image, in pixels.
        place: the pixel from which distances count, one per unit.
        shape: how many units the output has along the axis, and how many pixels the image.
    """

    units: Int[np.ndarray, " units"]
    start: Int[np.ndarray, " units"]
    stop: Int[np.ndarray, " units"]
    place: np.ndarray
    shape: tuple[int, int]

    @property
    def step(self) -> int:
        """Units from one chosen one to the next."""
        return int(self.units[1] - self.units[0]) if len(self.units) > 1 else 1

    @property
    def spacing(self) -> int:
        """Chosen units from one to the next of the same colour: no window begins before the last one of its colour has ended."""
        count = len(self.units)
        for k in range(1, count):
            if all(
                (self.stop[c:-k:k] <= self.start[c + k :: k]).all()
                and (np.diff(self.start[c::k]) >= 0).all()
                and (np.diff(self.stop[c::k]) >= 0).all()
                for c in range(min(k, count - k))
            ):
                return k
        return count

    @property
    def slots(self) -> int:
        """How many units a colour has at most."""
        return -(-len(self.units) // self.spacing)

    def lattices(self) -> np.ndarray:
        """One row per colour, over the output: one at its units, zero elsewhere."""
        found = np.zeros((self.spacing, self.shape[0]))
        for c in range(self.spacing):
            found[c, self.units[c :: self.spacing]] = 1
        return found

    def weights(self) -> np.ndarray:
        """(colours, powers 0 to 2, units of a colour, pixels): d**power inside the window of a unit, zero outside."""
        found = np.zeros((self.spacing, 3, self.slots, self.shape[1]))
        pixels = np.arange(self.shape[1])
        for i, (start, stop, place) in enumerate(zip(self.start, self.stop, self.place, strict=True)):
            inside = (pixels >= start) & (pixels < stop)
            for power in range(3):
                found[i % self.spacing, power, i // self.spacing] = np.where(inside, (pixels - place) ** power, 0)
        return found


def powers(axes: int) -> list[tuple[int, ...]]:
    """The moments that are kept, as one power of the distance per axis: the total, then first, then second moments.

    Example:
        >>> from erfjax.measurement.unit_moments import powers
        >>> powers(2)
        [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2)]
    """
    single = [tuple(power if a == axis else 0 for a in range(axes)) for power in (1, 2) for axis in range(axes)]
    return [(0,) * axes, *single]


def sample_moments(traced: Traced, rows: Sequence[Row], statistic: Statistic, channels: Channels) -> Parted:
    """The moments of all units of one sample, in place of maps; see `jacobian.sample_maps`.

    The one "map" has shape (units along each axis ..., moments), in the order of `powers`; with "share" each unit's are divided
    by its own total.
    """
    target, source = traced.target, traced.source
    colours = list(itertools.product(*(range(row.spacing) for row in rows)))
    lattices, weights = [row.lattices() for row in rows], [row.weights() for row in rows]
    plain: Statistic = "square" if statistic == "share" else statistic

    def one(gradient: Callable[[Any], Any], colour: Any, output: Any) -> Any:
        lattice = jnp.ones((), output.dtype)
        for i, table in enumerate(lattices):
            line = jnp.asarray(table, output.dtype)[colour[i]]
            lattice = lattice * along_axis(line, target.spatial[i], output.ndim)
        values, exponent, finite = reduction.reduce(gradient(lattice)[None], plain, source)
        own = [jnp.asarray(table, values.dtype)[colour[i]] for i, table in enumerate(weights)]
        found = moments_of(values, own)
        lost = jnp.abs(values.sum() - found[..., 0].sum()) > LOST * jnp.abs(values).sum()
        return found, exponent, finite, lost

    def join(kept: Any, output: Any) -> Any:
        found, exponents, finite, lost = kept
        scaled, top = together(found, exponents, reduction.order(plain))
        of_colours = scaled.reshape(len(colours), -1, *found.shape[1:]).sum(1)
        moments = shared(jax.vmap(functools.partial(_in_place, rows=rows), 1)(of_colours), statistic)
        fault = faults(finite, output)
        fault = jnp.where((fault == 0) & lost.any(0), LOST_FAULT, fault)
        return moments[:, None], top[:, None], fault

    return in_parts(traced, colours, channels, one, join)


def moments_of(values: Any, tables: Sequence[Any]) -> Any:
    """The moments of some units' maps, in the order of `powers` along the last axis.

    Args:
        values: one map that holds all of them.
        tables: for each of its axes the powers of the distance, as `Row.weights` gives those of one colour.
    """
    return jnp.stack(
        [functools.reduce(_contract, zip(tables, power, strict=True), values) for power in powers(len(tables))], -1
    )


def together(found: Any, exponents: Any, degree: int) -> tuple[Any, Any]:
    """Scaled arrays (rows, samples, ...) with exponents of their own, on one exponent for each sample; and that."""
    alive = found.any(tuple(range(2, found.ndim)))
    top = jnp.where(alive, exponents, exponents.min(0, keepdims=True)).max(0, keepdims=True)
    by = (degree * (exponents - top)).reshape(*exponents.shape, *(1,) * (found.ndim - 2))
    return jnp.ldexp(found, by), top[0]


def shared(moments: Any, statistic: Statistic) -> Any:
    """The moments, each divided by the unit's own total if shares are asked for."""
    return moments / jnp.where(moments[..., :1] > 0, moments[..., :1], 1) if statistic == "share" else moments


def _contract(values: Any, by: tuple[Any, int]) -> Any:
    """The sum over the first axis with the weights of a power; what comes of it is the last axis."""
    table, power = by
    return jnp.tensordot(values, table[power], ((0,), (1,)), precision=jax.lax.Precision.HIGHEST)


def _in_place(found: Any, rows: Sequence[Row]) -> Any:
    """(colours, units of a colour ..., moments) as (units ..., moments)."""
    axes = len(rows)
    split = found.reshape(*(row.spacing for row in rows), *(row.slots for row in rows), -1)
    order = [axis for i in range(axes) for axis in (axes + i, i)]
    joined = split.transpose(*order, 2 * axes).reshape(*(row.slots * row.spacing for row in rows), -1)
    return joined[tuple(slice(len(row.units)) for row in rows)]


def pullbacks(rows: Sequence[Row], channels: Channels, count: int) -> int:
    """How many backward passes a sample takes."""
    return math.prod(row.spacing for row in rows) * (count if channels == "frobenius" else 1)
