"""Measured maps with a control: beside the map of every unit, a number of known mean that goes with its total.

The control of a unit travels as one more map, with all of it in the first pixel: so it is batched, sharded, added up and kept in
checkpoints as measured maps are. What is made of both says `uncertainty.regression`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.errors import SampleError
from erfjax.measurement import jacobian
from erfjax.measurement.accumulate import Accumulator
from erfjax.measurement.cone import Traced, asked_first, cone_of, read, windows_of
from erfjax.measurement.probe import Probe
from erfjax.tracing.positions.index_sets import Box, Points
from erfjax.tracing.second_moments import mirrored
from erfjax.tracing.windows.cone import Cone
from erfjax.typing import Channels, Statistic
from erfjax.uncertainty import regression
from erfjax.uncertainty.records import Record

REFERENCES = 8  # draws from which the constants of the gates are made
PILOTS = 128  # draws that tell whether the control is worth its cost
PAYS = 1.4  # times fewer samples: a sample with its control costs 1.2 times as much, and the pilots err
DEGREE = 2  # of the statistics that have a control: exponents count doubly


def sample_maps(
    traced: Traced, probe: Probe, statistic: Statistic, channels: Channels
) -> tuple[Callable[..., Any], mirrored.Drawn]:
    """The function of one sample that `jacobian.sample_maps` gives, with the units' controls behind the units, and the weights.

    Raises:
        SampleError: there is no control for this function.
    """
    cone = _cone(traced, traced.consts, traced.key)
    if cone is None:
        raise SampleError('variance="control": the output does not depend on the input.')
    found = mirrored.drawn(cone)
    constants = _constants(traced, found)
    plain = jacobian.sample_maps(probe, statistic, channels)

    def sample(consts: Any, key: Any, window: Any, others: Any = ()) -> Any:
        maps, exponents, fault = plain(consts, key, window, others)
        cone = _cone(traced, consts, key)
        assert cone is not None
        cone.settled()
        boxes = (_inside(cone.windows[0], probe), *cone.windows[1:])
        windows = [read(*pair) for pair in zip((window, *others), boxes, strict=True)]
        digits, powers = zip(
            *(mirrored.control(cone, windows, found, constants, one) for one in _cotangents(cone, traced, channels)),
            strict=True,
        )
        power = jnp.maximum(jnp.stack(powers), -(2**20)).astype(jnp.int32)
        half = power // DEGREE
        control = jnp.ldexp(jnp.stack(digits), power - DEGREE * half).astype(maps.dtype)
        whole = jnp.zeros(maps.shape, maps.dtype).at[(slice(None), *(0,) * (maps.ndim - 1))].set(control)
        fault = jnp.where(jnp.isfinite(control).all() | (fault > 0), fault, jacobian.GRADIENT_FAULT)
        return jnp.concatenate([maps, whole]), jnp.concatenate([exponents, half]), fault

    return sample, found


def _cone(traced: Traced, consts: Sequence[Any], key: Any) -> Cone | None:
    return cone_of(traced.program(consts, key), traced.source, traced.target, traced.units)


def _inside(box: Box, probe: Probe) -> Box:
    """The box of the input on the window of the probe."""
    moved = list(box)
    for axis, start in zip(probe.layout.spatial, probe.start, strict=True):
        moved[axis] = Points(int(box[axis].start) - start, int(box[axis].stop) - start)
    return tuple(moved)


def _cotangents(cone: Cone, traced: Traced, channels: Channels) -> list[np.ndarray]:
    """Of every unit."""
    (box,) = cone.wanted.values()
    axis = traced.target.channel
    one = None if isinstance(channels, str) or axis is None else (axis, int(channels))
    spatial = traced.target.spatial
    return [mirrored.unit_cotangent(box, np.dtype(np.float32), spatial, unit, one) for unit in traced.units]


def _constants(traced: Traced, found: mirrored.Drawn) -> list[np.ndarray]:
    """The constant of every gate: the mean of its halves over a few draws that no sample uses, on normal inputs."""

    def halves(key: Any) -> list[Any]:
        model, leaves = _drawn(traced, key)
        cone = _cone(traced, traced.consts, model)
        assert cone is not None
        cone.settled()
        return mirrored.halves(cone, windows_of(traced, cone, leaves), found)

    draws = jax.random.split(jax.random.key(0x5161), REFERENCES)
    means = jax.jit(lambda draws: [part.mean(0) for part in jax.lax.map(halves, draws)])(draws)
    return [_short(np.asarray(mean, np.float32)) for mean in means]


def _drawn(traced: Traced, key: Any) -> tuple[Any, list[Any]]:
    """A key of the function, and normal inputs for it."""
    model, *keys = jax.random.split(key, 1 + len(traced.sample))
    leaves = [
        jax.random.normal(k, spec.shape, spec.dtype)
        if jnp.issubdtype(spec.dtype, jnp.floating)
        else jnp.zeros(spec.shape, spec.dtype)
        for k, spec in zip(keys, traced.sample, strict=True)
    ]
    return model if jnp.issubdtype(traced.key.dtype, jax.dtypes.prng_key) else jax.random.key_data(model), leaves


def pays(traced: Traced, probe: Probe, statistic: Statistic, channels: Channels) -> bool:
    """Whether the control is worth more than it costs, by draws and normal inputs that no sample uses: so there is no bias."""
    try:
        one, _ = sample_maps(traced, probe, statistic, channels)
    except SampleError:
        return False

    def totals(key: Any) -> Any:
        model, leaves = _drawn(traced, key)
        main, *others = asked_first(traced, leaves)
        maps, exponents, _ = one(traced.consts, model, probe.crop(main), tuple(others))
        return maps.reshape(len(maps), -1).sum(1), exponents

    draws = jax.random.split(jax.random.key(0x5162), PILOTS)
    digits, powers = jax.jit(lambda draws: jax.lax.map(totals, draws))(draws)
    found = np.ldexp(np.asarray(digits, np.float64), DEGREE * np.asarray(powers))
    units = found.shape[1] // 2
    return min(regression.fit(found[:, i], found[:, units + i]).gain for i in range(units)) > PAYS


def _short(mean: np.ndarray) -> np.ndarray:
    """One number where all are equal."""
    return mean.ravel()[:1].reshape(()) if mean.size and np.ptp(mean) <= 1e-6 * abs(mean).max() else mean


def controlled(
    moments: Accumulator, units: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, list[Record], str]:
    """Mean, standard error, batch means and records of the units' maps less what their controls explain; and a note.

    Args:
        moments: of the units' maps and, behind them, of their controls.
        units: how many there are.
    """
    mean, stderr, batches = moments.mean[:units], moments.stderr(), moments.batches()
    records = [moments.record(i) for i in range(units)]
    if batches is None or len(batches) < regression.FEWEST:
        own = None if batches is None else batches[:, :units]
        few = f"the control is not used: it takes {regression.FEWEST} samples"
        return mean, None if stderr is None else stderr[:units], own, records, few
    assert stderr is not None
    count, size, rest = len(batches), moments.groups.size, moments.groups.rest
    means, errors, parts, gains = np.empty_like(mean), np.empty_like(mean), np.empty_like(batches[:, :units]), []
    for i in range(units):
        control = batches[:, units + i].reshape(count, -1).sum(1)
        found = regression.fit(batches[:, i], control)
        parts[:, i] = regression.rest(batches[:, i], control, found.slopes[:-1])
        left = rest[i] - found.slopes[-1] * rest[units + i].sum()  # samples that fill no batch
        means[i] = (size * parts[:, i].sum(0) + left) / moments.count
        errors[i] = parts[:, i].std(0, ddof=1) / np.sqrt(moments.count / size)
        rows = moments.record(units + i).column("total")
        records[i] = regression.controlled_record(records[i], rows, found, moments.references[i], count)
        gains.append(found.gain)
    return means, errors, parts, records, regression.worth(min(gains))
