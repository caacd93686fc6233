"""`analytic`: how much each pixel counts for a unit of any JAX function, in closed form: one moments pass and its transpose."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from erfjax.errors import ErfjaxError, MapError, SampleError
from erfjax.fields import EffectiveField
from erfjax.layouts import parse_input
from erfjax.measurement.engine import HOST_BUDGET, cached
from erfjax.measurement.model import take_apart
from erfjax.readings.prepared import Prepared, Reading, prepare
from erfjax.readings.theoretical import theoretical
from erfjax.tracing.positions.index_sets import Box, full
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments import coverage
from erfjax.tracing.second_moments.coverage import Survey

MOST_ROWS = 16  # rows that share one call; more make nothing faster


@dataclasses.dataclass(frozen=True, eq=False)
class _Compiled:
    """A prepared function with its compiled pass, and what is known about it."""

    prepared: Prepared
    survey: Survey
    window: Box
    rows_at_once: int
    run: Callable[..., Any]
    theory: list[Any]

    def with_weights(self, weights: tuple[Any, ...]) -> "_Compiled":
        """The same for a model that differs in the weights it holds as a pytree: surveyed anew, not compiled anew."""
        probe = self.prepared.probe
        before = probe.consts[len(probe.consts) - len(weights) :]
        if all(a is b for a, b in zip(before, weights, strict=True)):
            return self
        probe = dataclasses.replace(probe, consts=(*probe.consts[: len(probe.consts) - len(weights)], *weights))
        prepared = dataclasses.replace(self.prepared, probe=probe).with_weights()
        run = self.run if prepared.drawn == self.prepared.drawn else _pass(prepared)
        return dataclasses.replace(self, prepared=prepared, survey=_surveyed(prepared), run=run)


def analytic(
    f: Callable[..., Any],
    x: Any,
    *,
    unit: Any = None,
    layout: str = "NHWC",
    out_layout: str | None = None,
    statistic: str = "square",
    gates: str = "data",
    weights: str = "given",
    channels: Any = "sum",
    restrict: bool = True,
) -> EffectiveField | tuple[EffectiveField, ...]:
    """The effective receptive field of a unit in closed form: E[g²], g the gradient of the unit's channels, without sampling.

    One pass pushes a second moment through the traced function, each primitive acting by its squared Jacobian; the
    transpose of that pass at the unit is the map. It is exact for independent zero-mean weights with independent gates;
    `coverage` says whether that is so here, and `notes` why not.

    Args:
        f: a function from an array to an array. It is traced and compiled once for each shape, as by `jax.jit`; a pytree
            (`jax.tree_util.Partial(apply, params)`, an Equinox module) once for all weights.
        x: inputs, averaged over the rows of N. With mean-field gates only their mean square counts, and a
            `jax.ShapeDtypeStruct` stands for one.
        unit: index of the output unit, one integer per spatial axis; None is the centre n // 2; a list is a batch of units.
        layout, out_layout: the axes of `x` and of the output.
        statistic: "square" E[g²] per input channel, summed over them; "rms" the root per channel, summed; "mean" E[g], weights as
            they are and gates E[φ'].
        gates: "data" takes φ' at the activations that `x` causes; "mean-field" computes E[φ'²] from the variance of every
            pre-activation, pushed forward through zero-mean weights.
        weights: "given" takes each weight's square; "exchangeable" replaces each weight by the mean square of its tensor at that
            tap: what the network would see before training, with these variances.
        channels: "sum" differentiates the sum of the unit's channels, whose gradient has a coherent part after a nonlinearity:
            weights are then conditioned on the activations that they cause (with gates from data). "random-signs" gives every
            channel a random sign, which leaves no such part, and is the same as "frobenius"; an integer takes one channel.
        restrict: compute the cone of the units only.

    Returns:
        The field, in squared gradient (or gradient) per unit of output; a tuple of fields if `unit` is a list.

    Raises:
        LayoutError, UnitError, SampleError: an argument does not fit.
        UnsupportedPrimitiveError: a primitive without a closed form.
        DataDependentError: branches that the data choose.

    Source: W. Luo et al., "Understanding the Effective Receptive Field in Deep CNNs", NeurIPS 2016, section 2.

    Example:
        >>> import erfjax as ej, numpy as np
        >>> blur = lambda x: (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
        >>> field = ej.analytic(blur, np.ones((3, 7, 1), np.float32), layout="NWC", statistic="mean")
        >>> field.map, field.coverage
        (array([0.  , 0.  , 0.25, 0.5 , 0.25, 0.  , 0.  ]), 'exact')
    """
    reading = Reading(statistic, gates, weights, channels, restrict)
    reading.check()
    rows, spec = _rows(x, layout, reading)
    if not jnp.isfinite(rows).all():
        raise SampleError("The input holds values that are not finite (NaN or infinity): leave these rows out.")
    key = ("analytic", str(spec), _frozen(unit), layout, out_layout, reading, str(jax.dtypes.canonicalize_dtype(float)))
    compiled: _Compiled = cached(f, key, lambda: _compile(f, spec, unit, layout, out_layout, reading))
    compiled = compiled.with_weights(take_apart(f).weights)
    prepared = compiled.prepared
    step, count = compiled.rows_at_once, len(rows)
    total: Any = 0.0
    for first in range(0, count, step):
        chunk = np.asarray(rows[first : first + step])
        padded = (
            np.concatenate([chunk, np.repeat(chunk[-1:], step - len(chunk), axis=0)])[:step] if count > step else chunk
        )
        found = np.asarray(compiled.run(prepared.weights, padded), np.float64)
        total = total + found[: len(chunk)].sum(axis=0)
    maps = _finish(total / count, prepared, np)
    window = [compiled.window[a] for a in prepared.probe.layout.spatial]
    sides = [(int(p.start), n - int(p.stop)) for p, n in zip(window, prepared.probe.shape, strict=True)]
    fields = tuple(_field(np.pad(m, sides), compiled, i, {"rows": count, "layout": layout}) for i, m in enumerate(maps))
    return fields if prepared.probe.batched else fields[0]


def analytic_map(
    f: Callable[..., Any],
    x: Any,
    *,
    unit: Any = None,
    layout: str = "NHWC",
    out_layout: str | None = None,
    statistic: str = "square",
    gates: str = "data",
    weights: str = "given",
    channels: Any = "sum",
    restrict: bool = True,
) -> Float[Array, "*space"]:
    """The map of `analytic` as a JAX array that can be jitted, mapped and differentiated, also by what f closes over.

    Arguments are those of `analytic`; a list of units gives a leading axis. Nothing is cached and no coverage is known:
    wrap the caller in `jax.jit`.

    Example:
        A regulariser that widens the field of a network: climb the gradient of its width.

        >>> import jax, jax.numpy as jnp
        >>> from erfjax.readings.analytic import analytic_map, widths
        >>> dims = ("NHWC", "HWIO", "NHWC")
        >>> def net(w):
        ...     return lambda x: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)
        >>> def width(w):
        ...     return widths(analytic_map(net(w), jnp.ones((1, 9, 11, 1)))).sum()
        >>> w = jax.random.normal(jax.random.key(0), (3, 3, 1, 4))
        >>> step = w + 0.1 * jax.grad(width)(w)
        >>> bool(width(step) > width(w))
        True
    """
    reading = Reading(statistic, gates, weights, channels, restrict)
    reading.check()
    rows, spec = _rows(x, layout, reading)
    prepared = prepare(f, spec, unit, layout, out_layout, reading)
    windows: list[Box] = []

    @jax.jit
    def every(consts: Any, rows: Any) -> Any:
        cone = prepared.cone(consts)
        windows.append(full(spec.shape) if cone is None else cone.windows[0])
        return lax.map(functools.partial(prepared.moments, consts), rows)

    maps = _finish(jnp.mean(every(prepared.weights, rows), axis=0), prepared, jnp)
    window = [windows[0][a] for a in prepared.probe.layout.spatial]
    sides = [(int(p.start), n - int(p.stop)) for p, n in zip(window, prepared.probe.shape, strict=True)]
    maps = jnp.pad(maps, [(0, 0), *sides])
    return maps if prepared.probe.batched else maps[0]


def widths(field: Float[Array, "*space"]) -> Float[Array, " axes"]:
    """The standard deviation of a non-negative map along each axis, in pixels, as a smooth JAX function of the map.

    Formula: σ_a² = Σ m (i_a - ī_a)² / Σ m.

    Example:
        >>> import jax.numpy as jnp
        >>> from erfjax.readings.analytic import widths
        >>> [round(float(w), 3) for w in widths(jnp.ones((1, 3)))]
        [0.0, 0.816]
    """
    mass = field / jnp.sum(field)
    found = []
    for axis, n in enumerate(field.shape):
        line = jnp.sum(mass, [a for a in range(field.ndim) if a != axis])
        away = jnp.arange(n, dtype=field.dtype)
        away = away - jnp.sum(line * away)
        variance = jnp.sum(line * away**2)
        found.append(jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0))
    return jnp.stack(found)


def _rows(x: Any, layout: str, reading: Reading) -> tuple[Any, jax.ShapeDtypeStruct]:
    """The inputs one by one along a leading axis, each with a batch of one; for mean field their mean square, once."""
    source = parse_input(layout, x.shape)
    shape = tuple(1 if axis == source.batch else n for axis, n in enumerate(x.shape))
    spec = jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(x.dtype))
    if isinstance(x, jax.ShapeDtypeStruct):
        if reading.gates == "data":
            raise SampleError('Gates from data need an input with values: pass an array, or gates="mean-field".')
        return np.ones(1, spec.dtype), spec
    library: Any = np if isinstance(x, np.ndarray) else jnp
    if reading.gates == "mean-field":
        return library.mean(library.square(x))[None].astype(spec.dtype), spec
    if source.batch is None:
        return x[None].astype(spec.dtype), spec
    return library.expand_dims(library.moveaxis(x, source.batch, 0), source.batch + 1).astype(spec.dtype), spec


def _compile(
    f: Callable[..., Any], spec: Any, unit: Any, layout: str, out_layout: str | None, reading: Reading
) -> _Compiled:
    """Traces f, surveys what the theory covers, and compiles the pass."""
    prepared = prepare(f, spec, unit, layout, out_layout, reading)
    cone = prepared.cone(prepared.weights)
    held = 1 if cone is None else sum(math.prod(lengths(step.box)) * step.output.dtype.itemsize for step in cone.steps)
    try:
        theory = list(theoretical(f, spec, unit=list(prepared.probe.units), layout=layout, out_layout=out_layout))
    except ErfjaxError as error:
        theory = [f"no theoretical field: {error}"] * len(prepared.probe.units)
    return _Compiled(
        prepared,
        _surveyed(prepared),
        full(spec.shape) if cone is None else cone.windows[0],
        max(1, min(MOST_ROWS, HOST_BUDGET // max(1, 2 * held))),
        _pass(prepared),
        theory,
    )


def _pass(prepared: Prepared) -> Callable[..., Any]:
    """The compiled pass: (weights, rows) -> moments of every row."""
    return jax.jit(lambda weights, rows: jax.vmap(lambda row: prepared.moments(weights, row))(rows))


def _surveyed(prepared: Prepared) -> Survey:
    """What the theory covers of a prepared function."""
    cone, reading = prepared.cone(prepared.weights), prepared.reading
    if cone is None:
        return Survey((), ("the output does not depend on the input",))
    return coverage.survey(
        cone,
        prepared.drawn,
        power=reading.power,
        data=reading.gates == "data",
        summed=reading.coherent,
        channel=prepared.probe.target.channel,
    )


def _finish(moments: Any, prepared: Prepared, library: Any) -> Any:
    """One map per unit from the moments (units, *window): the root if one is asked for, then the sum over channels."""
    source = prepared.probe.layout
    if prepared.reading.statistic == "rms":
        positive = moments > 0
        moments = library.where(positive, library.sqrt(library.where(positive, moments, 1)), 0)  # a finite slope at 0
    return library.sum(moments, axis=tuple(a + 1 for a in source.summed()))


def _field(values: np.ndarray, compiled: _Compiled, i: int, metadata: dict[str, Any]) -> EffectiveField:
    """The field of one unit."""
    survey, reading, theory = compiled.survey, compiled.prepared.reading, compiled.theory[i]
    if not np.isfinite(values).all():
        raise MapError(
            "The second moment over- or underflows, or an activation is not finite: scale the input, or compute in float64 "
            "(jax.enable_x64)."
        )
    explained = values.any() or any(word in note for note in survey.notes for word in ("silent", "does not depend"))
    dead = () if explained else ("every gradient is zero: the unit is dead",)
    unknown = (theory,) if isinstance(theory, str) else ()
    return EffectiveField(
        map=values,
        stderr=None,
        statistic=reading.statistic,  # type: ignore[arg-type]
        samples=0,
        unit=compiled.prepared.probe.units[i],
        theoretical=None if unknown else theory,
        coverage="approximate" if survey.reasons else "exact",
        notes=(*survey.reasons, *survey.notes, *dead, *unknown),
        metadata={**dataclasses.asdict(reading), **metadata},
    )


def _frozen(unit: Any) -> Any:
    """A unit, or a list of them, as something that can be hashed: a list stays apart from a tuple."""
    if isinstance(unit, list):
        return ("list", *(_frozen(u) for u in unit))
    return unit if unit is None or hasattr(unit, "__index__") else tuple(unit)
