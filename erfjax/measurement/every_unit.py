"""All units at once: the mean map over every unit whose field lies inside the image, aligned on the unit.

Units that are further apart than their fields share one pullback: the gradient of their sum falls apart into one window for
each. So the units are divided into *colours*, regular lattices of such units, and one forward pass with one pullback per colour
(and probe) gives them all. Where the fields are so large that no two fit side by side, a colour is a single unit.
"""

import dataclasses
import itertools
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
from erfjax.measurement.engine import Parted
from erfjax.typing import Channels, Statistic

CHUNK = 16  # pullbacks that share a forward pass and run at once


@dataclasses.dataclass(frozen=True)
class Line:
    """The units along one axis whose fields lie inside the image.

    Attributes:
        first: the first of them.
        count: how many there are.
        stride: pixels from one unit to the next.
        offset: where the window of unit 0 begins, in pixels.
        window: the pixels of a window, which holds the field of every phase.
        step: every how many units are taken; `count` and `spacing` are of those.
        period: of those, after how many the field repeats.
    """

    first: int
    count: int
    stride: int
    offset: int
    window: int
    step: int = 1
    period: int = 1

    @property
    def spacing(self) -> int:
        """Units from one to the next of the same colour: their windows do not overlap."""
        return min(-(-self.window // (self.stride * self.step)), self.count)

    @property
    def per_colour(self) -> int:
        """How many units a colour has at most."""
        return -(-self.count // self.spacing)

    @property
    def pitch(self) -> int:
        """Pixels from one window to the next of the same colour."""
        return max(self.spacing * self.step * self.stride, self.window)

    def unit(self, number: int) -> int:
        """One of the units that are taken."""
        return self.first + number * self.step

    def start(self, unit: int) -> int:
        """The first pixel of the window of a unit."""
        return unit * self.stride + self.offset


def lines(field: TheoreticalField, steps: Sequence[int] | None = None) -> tuple[Line, ...]:
    """The units along every axis that see the image alone.

    Args:
        field: of the centre unit.
        steps: every how many units are taken along each axis, the centre unit among them; all by default.

    Raises:
        UnitError: no unit does, or fields do not move by whole pixels.
    """
    if field.shift_invariant:
        rows: Sequence[Any] = [
            (axis, field.unit[axis], start, stop)
            for axis, (start, stop) in enumerate(zip(field.start, field.stop, strict=True))
        ]
        strides: Sequence[Any] = field.stride
        periods: Sequence[int] = (1,) * len(strides)
    else:
        table = field.phases()
        rows = [(row.axis, row.unit, row.start, row.stop) for row in table.rows]
        strides = [shift / period for shift, period in zip(table.shift, table.period, strict=True)]
        periods = table.period
    if len(field.output_shape) != len(field.image_shape):
        raise UnitError('unit="all" needs an output with the spatial axes of the input: name them with out_layout.')
    found = []
    sizes = zip(field.image_shape, field.output_shape, strides, steps or (1,) * len(strides), periods, strict=True)
    for axis, (n, units, stride, step, period) in enumerate(sizes):
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
        first += (units // 2 - first) % step
        if last < first:
            raise UnitError(
                f'unit="all": the fields of {window} pixels on axis {axis} do not fit into {n}: use a larger input.'
            )
        found.append(
            Line(first, (last - first) // step + 1, stride, offset, window, step, period // math.gcd(period, step))
        )
    return tuple(found)


def in_parts(
    traced: Traced,
    colours: Sequence[Any],
    channels: Channels,
    one: Callable[..., Any],
    join: Callable[[Any, Any], Any],
) -> Parted:
    """Pullbacks, one for each colour and each combination of channels, a bounded number of them in a part.

    Args:
        traced: the function.
        colours: one index per axis each.
        channels: see `jacobian.cotangents`.
        one: (gradients, colour) -> what is kept of one pullback: a tuple of arrays.
        join: of (what is kept of all pullbacks, (pullbacks, samples, ...); whether the output of each sample is finite) the
            (maps, exponents, faults) of the samples.
    """
    target = traced.target
    probes = traced.channels if channels == "frobenius" else 1
    pairs = np.array([(*colour, probe) for colour in colours for probe in range(probes)], np.int32)
    chunk = min(len(pairs), CHUNK, max(1, jacobian.BUDGET * jacobian.LARGEST // max(1, traced.footprint)))
    filled = np.concatenate([pairs, np.repeat(pairs[-1:], -len(pairs) % chunk, axis=0)])

    def part(consts: Any, key: Any, x: Any, others: Any, pairs: Any) -> Any:
        def whole(x: Any) -> Any:
            return traced.evaluate(consts, key, (*others[: traced.main], x, *others[traced.main :]))

        output, pullback = jax.vjp(whole, x)
        rows = jacobian.cotangents(channels, traced.channels, output.dtype, key)

        def pull(pair: Any) -> Any:
            row = rows[pair[-1]]
            probe = row if target.channel is None else along_axis(row, target.channel, output.ndim)

            def gradient(lattice: Any) -> Any:
                return pullback(jnp.broadcast_to(lattice * probe, output.shape))[0]

            return one(gradient, pair[:-1], output)

        return jax.vmap(pull)(pairs), jnp.isfinite(output).all()

    def joined(found: Sequence[Any]) -> Any:
        kept = jax.tree.map(lambda *leaves: jnp.concatenate([jnp.moveaxis(leaf, 1, 0) for leaf in leaves])[: len(pairs)],
                            *(leaves for leaves, _ in found))  # fmt: skip
        return join(kept, found[0][1])

    cost = chunk * traced.footprint // jacobian.LARGEST
    return Parted(part, [jnp.asarray(rows) for rows in filled.reshape(-1, chunk, pairs.shape[1])], joined, cost)


def faults(finite: Any, output: Any) -> Any:
    """The fault of every sample: of its output, else of any of its gradients (pullbacks, samples)."""
    fault = jnp.where(finite.all(0), 0, jacobian.GRADIENT_FAULT)
    return jnp.where(output, fault, jacobian.OUTPUT_FAULT)


def sample_map(
    traced: Traced, along: Sequence[Line], unit: Sequence[int], statistic: Statistic, channels: Channels
) -> Parted:
    """The one map of a sample: the mean over all units, where the given unit has its window; see `jacobian.sample_maps`."""
    target, source = traced.target, traced.source
    colours = list(itertools.product(*(range(line.spacing) for line in along)))
    finish = finished(traced, along, unit, statistic)
    plain: Statistic = "square" if statistic == "share" else statistic  # of the mean over units, divided at the end

    def one(gradient: Callable[[Any], Any], colour: Any, output: Any) -> Any:
        lattice = jnp.ones((), output.dtype)
        for i, line in enumerate(along):
            at = jnp.arange(output.shape[target.spatial[i]]) - line.first
            taken = (at >= 0) & (at < line.count * line.step) & (at % line.step == 0)
            chosen = taken & (at // line.step % line.spacing == colour[i])
            lattice = lattice * along_axis(chosen.astype(output.dtype), target.spatial[i], output.ndim)
        gradients = gradient(lattice)[None]
        for i, line in enumerate(along):
            gradients = _windows(gradients, 1 + source.spatial[i], line, colour[i])
        return reduction.reduce(gradients, plain, source)

    return in_parts(traced, colours, channels, one, finish)


def finished(
    traced: Traced, along: Sequence[Line], unit: Sequence[int], statistic: Statistic
) -> Callable[[Any, Any], Any]:
    """The function ((maps, exponents, finite), output) -> (maps, exponents, faults) from sums over some units to their mean.

    Args:
        traced, along, unit, statistic: see `sample_map`. The sums are (sums, samples, *window), on the window of the unit.
    """
    shape = traced.source.space(traced.sample[traced.main].shape)
    sides = [(line.start(u), n - line.start(u) - line.window) for line, u, n in zip(along, unit, shape, strict=True)]
    count = math.prod(line.count for line in along)
    plain: Statistic = "square" if statistic == "share" else statistic

    def finish(kept: Any, output: Any) -> Any:
        maps, exponents, finite = kept
        mean, top = reduction.mean(maps, exponents, reduction.order(plain), count)
        if statistic == "share":
            total = mean.sum(tuple(range(1, mean.ndim)), keepdims=True)
            mean = mean / jnp.where(total > 0, total, 1)
        return jnp.pad(mean, [(0, 0), *sides])[:, None], top[:, None], faults(finite, output)

    return finish


def along_axis(line: Any, axis: int, ndim: int) -> Any:
    """A vector as an array that varies along one axis."""
    return line.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _windows(gradients: Any, axis: int, line: Line, colour: Any) -> Any:
    """The windows of the units of a colour along one axis, stacked along the leading axis."""
    n, pitch = line.per_colour, line.pitch
    reach = line.start(line.unit(line.spacing - 1)) + n * pitch
    missing = max(0, reach - gradients.shape[axis])
    padded = jnp.pad(gradients, [(0, missing if a == axis else 0) for a in range(gradients.ndim)])
    cut = jax.lax.dynamic_slice_in_dim(
        padded, line.start(line.first) + colour * line.stride * line.step, n * pitch, axis
    )
    apart = cut.reshape(*cut.shape[:axis], n, pitch, *cut.shape[axis + 1 :])
    apart = jax.lax.slice_in_dim(apart, 0, line.window, axis=axis + 1)
    front = jnp.moveaxis(apart, axis, 0)
    return front.reshape(-1, *front.shape[2:])
