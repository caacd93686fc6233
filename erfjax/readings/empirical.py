"""The measured reading: effective receptive fields from Jacobians, with error bars. A page over `erfjax.measurement`."""

import dataclasses
import functools
import operator
import os
from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import numpy as np

from erfjax.errors import ErfjaxError, MapError, SampleError
from erfjax.fields import EffectiveField
from erfjax.layouts import is_index
from erfjax.measurement import probe, reduction
from erfjax.measurement.accumulate import Accumulator
from erfjax.measurement.checkpoint import State, fingerprint
from erfjax.measurement.engine import Engine, assemble, cached, choose_batch_size
from erfjax.measurement.inputs import Source, open_source
from erfjax.measurement.model import take_apart
from erfjax.measurement.run import Run
from erfjax.readings.cone import narrowed
from erfjax.readings.theoretical import theoretical
from erfjax.typing import Statistic


def empirical(
    f: Callable[..., Any],
    inputs: Any,
    *,
    key: Any = None,
    samples: SupportsIndex | None = None,
    unit: Any = None,
    layout: str = "NHWC",
    out_layout: str | None = None,
    statistic: str = "square",
    channels: SupportsIndex | str = "sum",
    batch_size: SupportsIndex | None = None,
    target: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    nonfinite: str = "raise",
    restrict: bool = True,
) -> EffectiveField | tuple[EffectiveField, ...]:
    """The effective receptive field of a unit, averaged over samples: E[s(∂ unit / ∂ pixel)] with its standard error.

    Without a key a sample is one row of `inputs`, and f(x) is called with a batch of one. With a key sample i calls
    f(fold_in(key, i), x_i): fresh random weights each time. Sample i depends on nothing else, and samples are added in
    float64 in their order: batch size, number of devices and interruptions change nothing beyond rounding.

    Args:
        f: a differentiable function from an array to an array; of (key, x) if there is a key. It is traced and compiled
            once for each shape, as by `jax.jit`: pass the same function object again and nothing is compiled anew. A
            pytree (`jax.tree_util.Partial(apply, params)`, an Equinox module) is compiled once for all weights.
        inputs: an array of rows (along N, or along a leading axis if the layout has no N), or an iterable of rows or
            batches for data that does not fit into memory. With a key the rows of an array are reused in turn, and a
            function key -> x (one sample, traceable by JAX) may be given instead.
        key: the random key of all samples.
        samples: how many samples; by default every row once. It may be left out if there is a target.
        unit: index of the output unit, one integer per spatial axis; None is the centre n // 2; a list is a batch of
            units.
        layout: the axes of one sample: N batch, C channels, D, H, W, L space.
        out_layout: the axes of the output; by default those of the input, or "NC" where there is no space left.
        statistic: s, taken per input channel and summed over them: "square" g², "rms" the root of its mean, "abs" |g|,
            "relu" max(g, 0), "signed" g.
        channels: "sum" differentiates the sum of the unit's channels, an integer one channel, "frobenius" every channel
            by itself and sums their statistics, "random-signs" estimates that for squares with one random sign per
            channel.
        batch_size: samples computed at once; by default what a memory budget allows.
        target: stop when the relative standard errors of the map's total and of its Luo size are both this small.
        mesh: devices to share every batch; in a run of several processes each calls with the same arguments.
        checkpoint: a file that keeps the state every few seconds; the same call continues from it, to the same bits.
            Several processes must see the same file.
        progress: whether to show a bar; by default on a terminal.
        restrict: compute only the cone of the units: the part of every layer that can reach them.
        nonfinite: "raise" stops at a sample whose output or gradient is not finite, "skip" leaves it out and says so.

    Returns:
        The field in the squared gradient (or gradient) per unit of output on the input's pixels; a tuple of fields, one
        per unit, if `unit` is a list. Ctrl-C ends a run early with a valid field of the samples so far.

    Raises:
        LayoutError, UnitError: layout, unit or channel do not fit the input or the output.
        SampleError: no samples, or one that is not finite.
        CheckpointError: the checkpoint is damaged or of another run.

    Source: W. Luo et al., "Understanding the Effective Receptive Field in Deep CNNs", NeurIPS 2016, section 3.

    Example:
        >>> import erfjax as ej, numpy as np
        >>> blur = lambda x: (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
        >>> ej.empirical(blur, np.ones((3, 7, 1), np.float32), layout="NWC", statistic="abs").map
        array([0.  , 0.  , 0.25, 0.5 , 0.25, 0.  , 0.  ])
    """
    chosen = reduction.check_statistic(statistic)
    if nonfinite not in ("raise", "skip"):
        raise SampleError(f'`nonfinite` must be "raise" or "skip", but got {nonfinite!r}.')
    _check_key(key)
    source = open_source(inputs, key, layout)
    count = _count(samples, source, key, target)
    base = jax.random.key(0) if key is None else key
    model = {
        "input": f"{source.spec.dtype}{list(source.spec.shape)}",
        "layout": (layout, out_layout),
        "unit": _frozen(unit),
        "statistic": chosen,
        "channels": channels,
        "restrict": restrict,
    }
    compiled = _engine(f, source, key, base, model, mesh)
    size = choose_batch_size(compiled, count) if batch_size is None else operator.index(batch_size)
    if size < 1 or size % compiled.devices:
        raise SampleError(f"`batch_size` must be a positive multiple of {compiled.devices} devices, but got {size}.")

    def fields(state: State) -> tuple[EffectiveField, ...]:
        metadata = {**model, "batch_size": state.batch_size, "device": jax.devices()[0].device_kind}
        return _fields(compiled, state, chosen, metadata)

    def reached(accumulator: Accumulator) -> bool:
        return target is not None and all(_precise(field, target) for field in fields(State(accumulator)))

    shape = (len(compiled.probe.units), *compiled.probe.window)
    state, save = State(Accumulator.empty(shape), batch_size=size), None
    if checkpoint is not None:
        settings = {**model, "samples": count, "target": target, "nonfinite": nonfinite}
        mark = fingerprint(compiled.lowered(base, source.row), compiled.consts, base, settings)
        state = State.load(checkpoint, mark) or state
        state.check_shared(checkpoint)
        save = functools.partial(_save, checkpoint, mark)
    if not state.done:
        source.resume(state.position, state.digest)
        degree = reduction.order(chosen)
        state = Run(compiled, source, base, degree, count, reached, nonfinite == "skip", save, progress, state).finish()
    if not state.accumulator.count:
        raise SampleError(f"None of the {state.position} samples is finite: look at the weights and the inputs.")
    if target is not None and not reached(state.accumulator):
        state = dataclasses.replace(state, notes=(*state.notes, f"the target of {target:g} was not reached"))
    result = fields(state)
    return result if compiled.probe.batched else result[0]


def _check_key(key: Any) -> None:
    """Refuses what is not one random key, typed or raw."""
    typed = hasattr(key, "dtype") and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    if key is not None and getattr(key, "ndim", None) != (0 if typed else 1):
        raise SampleError(f"`key` must be one random key such as jax.random.key(0), but got {key!r}.")


def _count(samples: SupportsIndex | None, source: Source, key: Any, target: float | None) -> int | None:
    """How many samples to take; None is as many as the source or the target allows."""
    if target is not None and not target > 0:
        raise SampleError(f"`target` is a relative standard error such as 0.01, but got {target!r}.")
    if samples is None:
        if key is not None and target is not None:
            return None
        if source.draw is not None:
            raise SampleError("`inputs` is a function without end: say how many samples, or give a target.")
        return source.total
    count = operator.index(samples)
    if count < 1:
        raise SampleError(f"`samples` must be a positive integer, but got {count}.")
    if key is None and source.total is not None and count > source.total:
        raise SampleError(
            f"`samples` is {count}, but `inputs` has {source.total} rows: without a key a row gives one map."
        )
    return count


def _frozen(unit: Any) -> Any:
    """A unit, or a list of them, as something that can be hashed: a list stays apart from a tuple."""
    if isinstance(unit, list):
        return ("list", *(_frozen(u) for u in unit))
    return unit if unit is None or is_index(unit) else tuple(map(operator.index, unit))


def _thawed(unit: Any) -> Any:
    """The unit that `_frozen` froze."""
    return [_thawed(u) for u in unit[1:]] if isinstance(unit, tuple) and unit[:1] == ("list",) else unit


def _engine(f: Callable[..., Any], source: Source, key: Any, base: Any, model: dict[str, Any], mesh: Any) -> Engine:
    """The compiled measurement of f, from the cache if it was measured like this before."""
    layout, out_layout = model["layout"]

    def make() -> Engine:
        built = probe.build(f, source.spec, key, layout, out_layout, _thawed(model["unit"]))
        probe.check_channels(model["channels"], built.channels, model["statistic"])
        narrow = narrowed(built, source.spec, base) if model["restrict"] else built
        made = assemble(narrow, model["statistic"], model["channels"], source.draw, base, mesh)
        made.facts["theoretical"] = _theoretical(f, source.spec, key, built.units, layout, out_layout)
        return made

    kind = None if key is None else (key.shape, str(key.dtype))
    precision = (getattr(jax.config, "jax_default_matmul_precision", None), str(jax.dtypes.canonicalize_dtype(float)))
    settings = (*model.values(), kind, source.draw, mesh, precision)
    return cached(f, settings, make).with_weights(take_apart(f).weights)


def _theoretical(f: Callable[..., Any], x: Any, key: Any, units: Any, layout: str, out_layout: str | None) -> list[Any]:
    """The theoretical field of every unit, or in words why there is none."""
    try:
        g = f if key is None else functools.partial(f, key)
        return theoretical(g, x, unit=list(units), layout=layout, out_layout=out_layout)
    except ErfjaxError as error:
        return [f"no theoretical field: {error}"] * len(units)


def _save(path: str | os.PathLike[str], mark: dict[str, str], state: State) -> None:
    """Keeps the state; of several processes the first writes."""
    if jax.process_index() == 0:
        state.save(path, mark)


def _fields(engine: Engine, state: State, statistic: Statistic, metadata: dict[str, Any]) -> tuple[EffectiveField, ...]:
    """The fields of all units."""
    probe, moments, notes = engine.probe, state.accumulator, list(state.notes)
    if state.skipped:
        shown = ", ".join(map(str, state.skipped[:10])) + (" ..." if len(state.skipped) > 10 else "")
        notes.append(f"{len(state.skipped)} samples left out because they are not finite: {shown}")
    mean, stderr, batches = moments.mean, moments.stderr(), moments.batches()
    result = []
    for i, (unit, theory) in enumerate(zip(probe.units, engine.facts["theoretical"], strict=True)):
        field, error = reduction.finish(mean[i], None if stderr is None else stderr[i], statistic)
        silent = () if field.any() else ("every gradient is zero: the unit is dead, or does not depend on the input",)
        unknown = (theory,) if isinstance(theory, str) else ()
        result.append(
            EffectiveField(
                map=probe.embed(field),
                stderr=None if error is None else probe.embed(error),
                statistic=statistic,
                samples=moments.count,
                unit=unit,
                theoretical=None if unknown else theory,
                coverage="measured",
                notes=(*notes, *silent, *unknown),
                batches=None if batches is None else probe.embed(batches[:, i]),
                metadata=dict(metadata),
            )
        )
    return tuple(result)


def _precise(field: EffectiveField, target: float) -> bool:
    """Whether the total of the map and its Luo size are known to a relative standard error of `target`."""
    if not field.map.any():
        return True
    if field.batches is None:
        return False
    try:
        size, error = field.size(), field.size_stderr()
    except MapError:
        return False
    totals = field.batches.reshape(len(field.batches), -1).sum(1)
    total_error = totals.std(ddof=1) / np.sqrt(len(totals)) / (2 if field.statistic == "rms" else 1)
    return error is not None and error <= target * size and bool(total_error <= target * abs(totals.mean()))
