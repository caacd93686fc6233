"""All units at once: the mean map over every unit whose field lies inside the image, aligned on the unit.

Units that are further apart than their fields share one pullback: the gradient of their sum falls apart into one window for
each. So the units are divided into *colours*, regular lattices of such units, and one forward pass with one pullback per colour
(and probe) gives them all. Where the fields are so large that no two fit side by side, a colour is a single unit.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.errors import UnitError
from erfjax.fields import TheoreticalField
from erfjax.measurement import jacobian, reduction
from erfjax.measurement.cone import Traced
from erfjax.typing import Channels, Statistic


@dataclasses.dataclass(frozen=True)
class Line:
    """The units along one axis whose fields lie inside the image.

    Attributes:
        first: the first of them.
        count: how many there are.
        stride: pixels from one unit to the next.
        offset: where the window of unit 0 begins, in pixels.
        window: the pixels of a window, which holds the field of every phase.
    """

    first: int
    count: int
    stride: int
    offset: int
    window: int

    @property
    def spacing(self) -> int:
        """Units from one to the next of the same colour: their windows do not overlap."""
        return min(-(-self.window // self.stride), self.count)

    @property
    def per_colour(self) -> int:
        """How many units a colour has at most."""
        return -(-self.count // self.spacing)

    @property
    def pitch(self) -> int:
        """Pixels from one window to the next of the same colour."""
        return max(self.spacing * self.stride, self.window)

    def start(self, unit: int) -> int:
        """The first pixel of the window of a unit."""
        return unit * self.stride + self.offset


def lines(field: TheoreticalField) -> tuple[Line, ...]:
    """The units along every axis that see the image alone.

    Raises:
        UnitError: no unit does, or fields do not move by whole pixels.
    """
    if field.shift_invariant:
        rows: Sequence[Any] = [
            (axis, field.unit[axis], start, stop)
            for axis, (start, stop) in enumerate(zip(field.start, field.stop, strict=True))
        ]
        strides: Sequence[Any] = field.stride
    else:
        table = field.phases()
        rows = [(row.axis, row.unit, row.start, row.stop) for row in table.rows]
        strides = [shift / period for shift, period in zip(table.shift, table.period, strict=True)]
    if len(field.output_shape) != len(field.image_shape):
        raise UnitError('unit="all" needs an output with the spatial axes of the input: name them with out_layout.')
    found = []
    for axis, (n, units, stride) in enumerate(zip(field.image_shape, field.output_shape, strides, strict=True)):
        own = [(unit, start, stop) for a, unit, start, stop in rows if a == axis]
        if any(math.isinf(start) or math.isinf(stop) for _, start, stop in own):
            raise UnitError(f'unit="all": axis {axis} is seen globally, so no unit sees the image alone.')
        if stride < 1 or stride != int(stride):
            raise UnitError(
                f'unit="all": fields move by {stride:g} pixels per unit on axis {axis}, and maps are aligned on whole pixels; '
                "give a list of units."
            )
        stride = int(stride)
        offset = int(min(start - unit * stride for unit, start, _ in own))
        window = int(max(stop - unit * stride for unit, _, stop in own)) - offset
        first = max(0, -(offset // stride))
        last = min(units - 1, (n - window - offset) // stride)
        if last < first:
            raise UnitError(
                f'unit="all": the fields of {window} pixels on axis {axis} do not fit into {n}: use a larger input.'
            )
        found.append(Line(first, last - first + 1, stride, offset, window))
    return tuple(found)


def sample_map(
    traced: Traced, along: Sequence[Line], unit: Sequence[int], statistic: Statistic, channels: Channels
) -> Callable[..., Any]:
    """The function (consts, key, x, others) -> (maps, exponents, fault) of one sample, as `jacobian.sample_maps` gives it.

    The one map is the mean over all units, where the given unit has its window.
    """
    target, source = traced.target, traced.source
    shape = source.space(traced.sample[traced.main].shape)
    colours = np.stack(np.meshgrid(*(np.arange(line.spacing) for line in along), indexing="ij"), -1).reshape(
        -1, len(along)
    )
    count = math.prod(line.count for line in along)
    sides = [(line.start(u), n - line.start(u) - line.window) for line, u, n in zip(along, unit, shape, strict=True)]

    def sample(consts: Any, key: Any, x: Any, others: Any = ()) -> Any:
        def whole(x: Any) -> Any:
            return traced.evaluate(consts, key, (*others[: traced.main], x, *others[traced.main :]))

        output, pullback = jax.vjp(whole, x)
        probes = jacobian.cotangents(channels, traced.channels, output.dtype, key)

        def one_colour(colour: Any) -> Any:
            lattice = jnp.ones((), output.dtype)
            for i, line in enumerate(along):
                at = jnp.arange(output.shape[target.spatial[i]]) - line.first
                chosen = (at >= 0) & (at < line.count) & (at % line.spacing == colour[i])
                lattice = lattice * _along(chosen.astype(output.dtype), target.spatial[i], output.ndim)

            def pull(probe: Any) -> Any:
                row = probe if target.channel is None else _along(probe, target.channel, output.ndim)
                return pullback(jnp.broadcast_to(lattice * row, output.shape))[0]

            gradients = jacobian.for_each(pull, probes)
            for i, line in enumerate(along):
                gradients = _windows(gradients, 1 + source.spatial[i], line, colour[i])
            return reduction.reduce(gradients, statistic, source)

        maps, exponents, finite = jax.lax.map(one_colour, jnp.asarray(colours))
        mean, top = reduction.mean(maps, exponents, reduction.order(statistic), count)
        fault = jnp.where(finite.all(), 0, jacobian.GRADIENT_FAULT)
        fault = jnp.where(jnp.isfinite(output).all(), fault, jacobian.OUTPUT_FAULT)
        return jnp.pad(mean, sides)[None], top[None], fault

    return sample


def _along(line: Any, axis: int, ndim: int) -> Any:
    """A vector as an array that varies along one axis."""
    return line.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _windows(gradients: Any, axis: int, line: Line, colour: Any) -> Any:
    """The windows of the units of a colour along one axis, stacked along the leading axis."""
    n, pitch = line.per_colour, line.pitch
    reach = line.start(line.first + line.spacing - 1) + n * pitch
    missing = max(0, reach - gradients.shape[axis])
    padded = jnp.pad(gradients, [(0, missing if a == axis else 0) for a in range(gradients.ndim)])
    cut = jax.lax.dynamic_slice_in_dim(padded, line.start(line.first) + colour * line.stride, n * pitch, axis)
    apart = cut.reshape(*cut.shape[:axis], n, pitch, *cut.shape[axis + 1 :])
    apart = jax.lax.slice_in_dim(apart, 0, line.window, axis=axis + 1)
    front = jnp.moveaxis(apart, axis, 0)
    return front.reshape(-1, *front.shape[2:])
