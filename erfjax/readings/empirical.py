"""The measured reading: effective receptive fields from Jacobians, with error bars. A page over `erfjax.measurement`."""

import dataclasses
import functools
import itertools
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, SupportsIndex, cast, overload

import jax
import numpy as np

from erfjax.errors import MapError, SampleError
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.measurement import reduction
from erfjax.measurement.accumulate import Accumulator
from erfjax.measurement.checkpoint import State, fingerprint
from erfjax.measurement.cone import probe_of, whole_probe
from erfjax.measurement.engine import Engine, assemble, choose_batch_size
from erfjax.measurement.every_unit import lines, sample_map
from erfjax.measurement.inputs import Source, open_source
from erfjax.measurement.model import cached
from erfjax.measurement.run import Run
from erfjax.readings import rounding
from erfjax.readings.analytic import theory_of
from erfjax.readings.question import Question, Questions, ask, of_image, require_floating
from erfjax.readings.theoretical import fields_of
from erfjax.typing import ArrayLike, Averages, Channels, Function, Given, Statistic, Tree, Unit
from erfjax.uncertainty.diagnostics import diagnose

Inputs = ArrayLike | Iterable[Any] | Callable[..., Any]
"""Rows of samples: an array, a tuple or dict of arrays, an iterable of these, or a function of a random key."""


@overload
def empirical(
    f: Function,
    inputs: Inputs,
    *,
    key: jax.Array | None = None,
    samples: SupportsIndex | None = None,
    unit: list[Unit],
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: Statistic = "square",
    channels: Channels = "sum",
    batch_size: SupportsIndex | None = None,
    target: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    nonfinite: Literal["raise", "skip"] = "raise",
) -> tuple[EffectiveField, ...]: ...
@overload
def empirical(
    f: Function,
    inputs: Inputs,
    *,
    key: jax.Array | None = None,
    samples: SupportsIndex | None = None,
    unit: Unit | Literal["all"] = None,
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: Statistic = "square",
    channels: Channels = "sum",
    batch_size: SupportsIndex | None = None,
    target: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    nonfinite: Literal["raise", "skip"] = "raise",
) -> EffectiveField: ...
@overload
def empirical(
    f: Function,
    inputs: Inputs,
    *,
    key: jax.Array | None = None,
    samples: SupportsIndex | None = None,
    unit: Unit | list[Unit] = None,
    layout: Tree = None,
    out_layout: str | None = None,
    statistic: Statistic = "square",
    channels: Channels = "sum",
    batch_size: SupportsIndex | None = None,
    target: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    nonfinite: Literal["raise", "skip"] = "raise",
) -> Tree: ...
def empirical(
    f: Function,
    inputs: Given,
    *,
    key: Given = None,
    samples: SupportsIndex | None = None,
    unit: Given = None,
    layout: Given = None,
    out_layout: str | None = None,
    statistic: str = "square",
    channels: Given = "sum",
    batch_size: SupportsIndex | None = None,
    target: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    nonfinite: str = "raise",
) -> EffectiveField | tuple[EffectiveField, ...] | Tree:
    """The effective receptive field of a unit, averaged over samples: E[s(∂ unit / ∂ pixel)] with its standard error.

    Without a key a sample is one row of `inputs`, and f(x) is called with a batch of one. With a key sample i calls
    f(fold_in(key, i), x_i): fresh random weights each time. Sample i depends on nothing else, and samples are added in
    float64 in their order: batch size, number of devices and interruptions change nothing beyond rounding.

    Args:
        f: a differentiable function from an array to an array (or from a tuple or dict of arrays to any tree of arrays); of
            (key, x) if there is a key. It is traced and compiled once for each shape, as by `jax.jit`: pass the same function
            object again and nothing is compiled anew. A pytree (`jax.tree_util.Partial(apply, params)`, an Equinox module) is
            compiled once for all weights. Only the cone of the units is computed, unless it would unroll a long loop.
        inputs: an array of rows (along N, or along a leading axis if the layout has no N), or an iterable of rows or
            batches for data that does not fit into memory. A tuple or dict of arrays is the input of a function of several
            arrays: each with space in turn is asked about, the others held as they are in that sample. With a key the rows
            of an array are reused in turn, and a function key -> x (one sample, traceable by JAX) may be given instead.
        key: the random key of all samples.
        samples: how many samples; by default every row once. It may be left out if there is a target.
        unit: index of the output unit, one integer per spatial axis; None is the centre n // 2; a list is a batch of
            units. "all" gives the mean over all units whose field lies inside the image, each aligned on the centre unit.
        layout: the axes of one sample: N batch, C channels, D, H, W, L space; None infers NWC, NHWC or NDHWC from 3, 4 or 5
            axes (an iterable of single images may leave out N).
        out_layout: the axes of the output; by default those of the input, or "NC" where there is no space left.
        statistic: s, taken per input channel and summed over them: "square" g², "rms" the root of its mean, "abs" |g|,
            "relu" max(g, 0), "mean" g, "share" the squares of a sample divided by their sum over its pixels.
        channels: "sum" differentiates the sum of the unit's channels, an integer one channel, "frobenius" every channel
            by itself and sums their statistics, "random-signs" estimates that for squares with one random sign per
            channel.
        batch_size: samples computed at once; by default what a memory budget allows.
        target: stop when the relative standard errors of the map's total and of its Luo size are both this small.
        mesh: devices to share every batch; in a run of several processes each calls with the same arguments.
        checkpoint: a file that keeps the state every few seconds; the same call continues from it, to the same bits.
            Several processes must see the same file.
        progress: whether to show a bar; by default on a terminal.
        nonfinite: "raise" stops at a sample whose output or gradient is not finite, "skip" leaves it out and says so.

    Returns:
        The field in the squared gradient (or gradient) per unit of output on the input's pixels; a tuple of fields, one
        per unit, if `unit` is a list; trees of fields for several inputs or outputs, as `theoretical` gives them. Ctrl-C
        ends a run early with a valid field of the samples so far.

    Raises:
        LayoutError, UnitError: layout, unit or channel do not fit the input or the output.
        SampleError: no samples, or one that is not finite.
        FunctionError: f cannot be traced.
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
    once = isinstance(inputs, Iterator)
    first, again = itertools.tee(inputs) if once else (inputs, inputs)
    every = isinstance(unit, str) and unit == "all"

    def opened(layout: Any) -> tuple[Source, Questions, Any]:
        source = open_source(first, key, layout)
        require_floating(source.spec, source.layouts)
        one = None if every else unit
        return source, ask(f, source.spec, source.layouts, key=key, unit=one, out_layout=out_layout), layout

    source, asked, layout = of_image(opened, inputs, layout)
    if once:  # every output and every input reads all rows; one question alone keeps none of them
        again = list(again) if len(asked.each) > 1 else ()
    settings = _Settings(key, samples, chosen, channels, batch_size, target, mesh, progress, nonfinite, every)
    sources = iter([source])  # the first question takes the source that is open, the others open their own

    def answer(question: Question) -> tuple[EffectiveField, ...]:
        rows = next(sources, None) or open_source(again, key, layout)
        path = None if checkpoint is None else _numbered(checkpoint, asked.each.index(question))
        return _measured(f, question, rows, settings, path)

    return asked.answer(answer)


@dataclasses.dataclass(frozen=True)
class _Settings:
    """How to measure; see `empirical`."""

    key: Any
    samples: SupportsIndex | None
    statistic: Statistic
    channels: Given
    batch_size: SupportsIndex | None
    target: float | None
    mesh: jax.sharding.Mesh | None
    progress: bool | None
    nonfinite: str
    every: bool


@dataclasses.dataclass(frozen=True, eq=False)
class _Compiled:
    """A compiled measurement, the theoretical field of every unit, or in words why there is none, and notes."""

    engine: Engine
    theory: tuple[TheoreticalField | str, ...]
    notes: tuple[str, ...] = ()


def _measured(
    f: Function, question: Question, source: Source, settings: _Settings, checkpoint: str | os.PathLike[str] | None
) -> tuple[EffectiveField, ...]:
    """The fields of all units of a question."""
    base = jax.random.key(0) if settings.key is None else settings.key
    target, degree = settings.target, reduction.order(settings.statistic)
    count = _count(settings.samples, source, settings.key, target)
    compiled = _compiled(f, question, source, settings, base)
    engine = compiled.engine
    size = choose_batch_size(engine, count) if settings.batch_size is None else operator.index(settings.batch_size)
    if size < 1 or size % engine.devices:
        raise SampleError(f"`batch_size` must be a positive multiple of {engine.devices} devices, but got {size}.")
    model = {
        "input": ", ".join(f"{spec.dtype}{list(spec.shape)}" for spec in question.sample),
        "layout": (question.source.letters, question.target.letters),
        "unit": "all" if settings.every else [list(unit) for unit in question.units],
        "statistic": settings.statistic,
        "channels": settings.channels if isinstance(settings.channels, str) else int(settings.channels),
    }

    def fields(state: State) -> tuple[EffectiveField, ...]:
        metadata = {**model, "batch_size": state.batch_size, "device": jax.devices()[0].device_kind}
        return _fields(question, compiled, state, settings, metadata)

    def reached(accumulator: Accumulator) -> bool:
        return target is not None and all(_precise(field, target) for field in fields(State(accumulator)))

    shape, references = (len(question.units), *engine.probe.window), _references(compiled)
    state, save = State(Accumulator.empty(shape, references), batch_size=size), None
    if checkpoint is not None:
        marked = {**model, "samples": count, "target": target, "nonfinite": settings.nonfinite}
        mark = fingerprint(engine.lowered(base, source.row), engine.consts, base, marked)
        state = State.load(checkpoint, mark) or state
        state.check_shared(checkpoint)
        save = functools.partial(_save, checkpoint, mark)
    if not state.done:
        source.resume(state.position, state.digest)
        skip = settings.nonfinite == "skip"
        state = Run(engine, source, base, degree, count, reached, skip, save, settings.progress, state).finish()
    if not state.accumulator.count:
        raise SampleError(f"None of the {state.position} samples is finite: look at the weights and the inputs.")
    if target is not None and not reached(state.accumulator):
        state = dataclasses.replace(state, notes=(*state.notes, f"the target of {target:g} was not reached"))
    return fields(state)


def _compiled(f: Function, question: Question, source: Source, settings: _Settings, base: Any) -> _Compiled:
    """The compiled measurement of f, from the cache if it was measured like this before."""
    question.check_differentiable()
    question.check_channels(settings.channels, settings.statistic)

    def make() -> _Compiled:
        options = (settings.statistic, settings.channels, source.draw, base, settings.mesh, question.main)
        notes = rounding.notes(question, settings.channels)
        if not settings.every:
            return _Compiled(assemble(probe_of(question), *options), theory_of(question, f), notes)
        (field,) = theory = fields_of(question, f)
        along = lines(field)
        count = math.prod(line.count for line in along)
        one = sample_map(question, along, field.unit, settings.statistic, settings.channels)
        note = f"the mean over {count} units that see the image alone, each moved to unit {field.unit}"
        return _Compiled(assemble(whole_probe(question), *options, one), theory, (note, *notes))

    identity = (
        "empirical",
        question.identity,
        settings.statistic,
        settings.channels,
        source.draw,
        settings.mesh,
        settings.every,
    )
    found = cast(_Compiled, cached(f, identity, make))
    return dataclasses.replace(found, engine=found.engine.with_weights(question.weights))


def _numbered(path: str | os.PathLike[str], index: int) -> str | os.PathLike[str]:
    """The file of one of several questions: the first has the path as given."""
    return path if index == 0 else Path(path).with_name(f"{Path(path).name}.{index}")


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


def _save(path: str | os.PathLike[str], mark: dict[str, str], state: State) -> None:
    """Keeps the state; of several processes the first writes."""
    if jax.process_index() == 0:
        state.save(path, mark)


def _fields(
    question: Question, compiled: _Compiled, state: State, settings: _Settings, metadata: dict[str, Any]
) -> tuple[EffectiveField, ...]:
    """The fields of all units."""
    probe, moments, notes = compiled.engine.probe, state.accumulator, [*question.notes, *compiled.notes, *state.notes]
    if state.skipped:
        shown = ", ".join(map(str, state.skipped[:10])) + (" ..." if len(state.skipped) > 10 else "")
        notes.append(f"{len(state.skipped)} samples left out because they are not finite: {shown}")
    mean, stderr, batches = moments.mean, moments.stderr(), moments.batches()
    averages = _averages(settings, moments.count)
    result = []
    for i, (unit, theory) in enumerate(zip(question.units, compiled.theory, strict=True)):
        field, error = reduction.finish(mean[i], None if stderr is None else stderr[i], settings.statistic)
        silent = () if field.any() else ("every gradient is zero: the unit is dead, or does not depend on the input",)
        unknown = (theory,) if isinstance(theory, str) else ()
        record = moments.record(i)
        result.append(
            EffectiveField(
                map=probe.embed(field),
                stderr=None if error is None else probe.embed(error),
                statistic=settings.statistic,
                samples=moments.count,
                unit=unit,
                theoretical=None if isinstance(theory, str) else theory,
                coverage="measured",
                notes=(*notes, *silent, *unknown, *(() if silent else diagnose(record).notes)),
                batches=None if batches is None else probe.embed(batches[:, i]),
                metadata=dict(metadata),
                channels=metadata["channels"],
                averages=averages,
                record=record,
            )
        )
    return tuple(result)


def _averages(settings: _Settings, count: int) -> Averages | None:
    """What the mean is taken over: inputs without a key; weights with one, and inputs too."""
    return "inputs and weights" if settings.key is not None else "inputs" if count > 1 else None


def _references(compiled: _Compiled) -> tuple[int, ...]:
    """The pixel of every unit's map that is recorded: the nearest to the centre of its theoretical field, or the middle."""
    probe, found = compiled.engine.probe, []
    for theory in compiled.theory:
        pixels = [n // 2 for n in probe.window]
        if not isinstance(theory, str):
            centred = zip(theory.centre, probe.start, pixels, strict=True)
            pixels = [math.floor(c + 0.5) - start if math.isfinite(c) else middle for c, start, middle in centred]
        inside = [min(max(pixel, 0), n - 1) for pixel, n in zip(pixels, probe.window, strict=True)]
        found.append(int(np.ravel_multi_index(inside, probe.window)))
    return tuple(found)


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
