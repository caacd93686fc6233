"""One question of `empirical`, measured: the compiled engine from the cache, the run, and the fields of its units."""

import dataclasses
import functools
import math
import operator
import os
from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex, cast

import jax
import numpy as np

from erfjax.errors import MapError, SampleError
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.measurement import every_unit, reduction, shuffled, unit_cones
from erfjax.measurement.accumulate import Accumulator
from erfjax.measurement.checkpoint import State, fingerprint
from erfjax.measurement.cone import abstract_cone, probe_of, probe_of_parts, whole_probe
from erfjax.measurement.controlled import controlled, pays
from erfjax.measurement.controlled import sample_maps as mirrored_maps
from erfjax.measurement.engine import Engine, Parted, choose_batch_size
from erfjax.measurement.engine import assemble as engine_of
from erfjax.measurement.every_unit import lines
from erfjax.measurement.inputs import Source
from erfjax.measurement.model import cached
from erfjax.measurement.probe import Probe
from erfjax.measurement.run import Run, so_far
from erfjax.readings import drawn, rounding
from erfjax.readings.analytic import theory_of
from erfjax.readings.options import Options
from erfjax.readings.question import Question, reversible
from erfjax.readings.remarks import swapped
from erfjax.readings.theoretical import fields_of
from erfjax.tracing.second_moments.layerwise import contractions, fixed, layers, live
from erfjax.tracing.windows.brief import rounded
from erfjax.typing import Averages, Function, Given, Number, Statistic

LEVEL, NORMAL = 0.95, 1.959964  # of the interval that ends a run with a target, and its standard errors if normal


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure; see `empirical`."""

    key: Any
    samples: Given
    statistic: Statistic
    channels: Given
    batch_size: SupportsIndex | None
    target: Given
    mesh: jax.sharding.Mesh | None
    progress: bool | None
    nonfinite: str
    every: tuple[int, ...] | None
    gates: str
    tied: Given
    variance: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Compiled:
    """A compiled measurement, the theoretical field of every unit, or in words why there is none, and notes."""

    engine: Engine
    theory: tuple[TheoreticalField | str, ...]
    notes: tuple[str, ...] = ()
    shuffled: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # where the gates are


@reversible()
def measured(
    f: Function, question: Question, source: Source, settings: Settings, checkpoint: str | os.PathLike[str] | None
) -> tuple[EffectiveField, ...]:
    """The fields of all units of a question."""
    if settings.variance == "auto":
        settings = dataclasses.replace(settings, variance=_paying(f, question, settings))
    base = jax.random.key(0) if settings.key is None else settings.key
    target, degree = settings.target, reduction.order(settings.statistic)
    nested = isinstance(settings.samples, tuple)
    per_draw = settings.samples[1] if nested else 1
    count = math.prod(settings.samples) if nested else _count(settings.samples, source, settings.key, target)
    if settings.gates == "shuffled":
        size = _block(count)
        source = shuffled.in_blocks(source, question.main, question.source, size)
        count = None if count is None else count // size
    compiled = _compiled(f, question, source, settings, base, _runs(question, settings, count))
    engine = compiled.engine
    size = choose_batch_size(engine, count) if settings.batch_size is None else operator.index(settings.batch_size)
    if size < 1 or size % engine.devices:
        raise SampleError(f"`batch_size` must be a positive multiple of {engine.devices} devices, but got {size}.")
    model = {
        "input": ", ".join(f"{spec.dtype}{list(spec.shape)}" for spec in question.sample),
        "layout": (question.source.letters, question.target.letters),
        "unit": "all" if settings.every is not None else [list(unit) for unit in question.units],
        "statistic": settings.statistic,
        "channels": settings.channels if isinstance(settings.channels, str) else int(settings.channels),
    }

    if settings.variance != "plain":
        model["variance"] = settings.variance
    if any(step > 1 for step in settings.every or ()):
        model["step"] = ", ".join(map(str, settings.every or ()))
    if per_draw > 1:
        model["inputs per draw"] = per_draw
    if settings.gates == "shuffled":
        model |= {"gates": "shuffled", **compiled.shuffled, "images per sample": source.block}

    def fields(state: State) -> tuple[EffectiveField, ...]:
        metadata = {**model, "batch_size": state.batch_size, "device": jax.devices()[0].device_kind}
        return _fields(question, compiled, state, settings, metadata)

    def reached(accumulator: Accumulator) -> bool:
        return target is not None and all(_precise(field, target) for field in fields(State(accumulator)))

    shape, references = (len(question.units), *engine.probe.window), _references(compiled)
    if settings.variance == "control":  # the control of a unit is one more map
        shape, references = (2 * shape[0], *shape[1:]), (*references, *(0 for _ in references))
    state, save = State(Accumulator.empty(shape, references, per_draw), batch_size=size), None
    if checkpoint is not None:
        marked = {**model, "samples": count, "target": target, "nonfinite": settings.nonfinite}
        mark = fingerprint(engine.lowered(base, source.row), engine.consts, base, marked)
        state = State.load(checkpoint, mark) or state
        state.check_shared(checkpoint)
        save = functools.partial(_save, checkpoint, mark)
    if not state.done:
        source.resume(state.position, state.digest)
        skip = settings.nonfinite == "skip"
        controls = len(question.units) if settings.variance == "control" else 0
        precision = functools.partial(so_far, controls=controls)
        state = Run(
            engine, source, base, degree, count, reached, skip, save, settings.progress, state, precision
        ).finish()
    if not state.accumulator.count:
        raise SampleError(f"None of the {state.position} samples is finite: look at the weights and the inputs.")
    if target is not None and not reached(state.accumulator):
        state = dataclasses.replace(state, notes=(*state.notes, f"the target of {target:g} was not reached"))
    return fields(state)


OWN_WEIGHTS = 4  # times as much is won by what takes long to compile, where every sample has weights of its own


def _runs(question: Question, settings: Settings, count: int | None) -> Number:
    """How many gradients there are to take, rounded; infinity where nobody knows, and of all units."""
    if count is None or settings.every is not None:
        return math.inf
    each = len(question.units) * (question.channels if settings.channels == "frobenius" else 1)
    return rounded(count * each * (1 if settings.key is None else OWN_WEIGHTS))


def _compiled(
    f: Function, question: Question, source: Source, settings: Settings, base: Any, runs: Number
) -> _Compiled:
    """The compiled measurement of f, from the cache if it was measured like this before."""
    question.check_differentiable()
    question.check_channels(settings.channels, settings.statistic)

    def make() -> _Compiled:
        per_draw = settings.samples[1] if isinstance(settings.samples, tuple) else 1
        options = (settings.statistic, settings.channels, source.draw, base, settings.mesh, question.main)
        assemble = functools.partial(engine_of, per_draw=per_draw, runs=runs)
        notes = rounding.notes(question, settings.channels)
        if settings.gates == "shuffled":
            size = source.block
            probe = shuffled.probe_of_blocks(question, size)
            one, note, layered = _of_blocks(question, settings, probe, size)
            return _Compiled(assemble(probe, *options, one), theory_of(question, f), (note, *notes), layered)
        if settings.variance == drawn.CLOSED:
            one = drawn.sample_maps(question, Options(settings.statistic, channels=settings.channels))
            return _Compiled(assemble(whole_probe(question), *options, one), theory_of(question, f), (drawn.NOTE,))
        if settings.variance == "control":
            probe = probe_of(question)
            one, note = _with_control(question, settings, probe)
            return _Compiled(assemble(probe, *options, one), theory_of(question, f), (note, *notes))
        if settings.every is None:
            return _Compiled(assemble(probe_of(question), *options), theory_of(question, f), notes)
        return _over_units(f, question, settings, lambda probe, one: assemble(probe, *options, one), notes)

    identity = (
        "empirical",
        question.identity,
        settings.statistic,
        settings.channels,
        source.draw,
        settings.mesh,
        settings.every,
        settings.gates,
        settings.tied,
        settings.variance,
        settings.samples[1] if isinstance(settings.samples, tuple) else 1,
        source.block,
        runs,
    )
    found = cast(_Compiled, cached(f, identity, make))
    return dataclasses.replace(found, engine=found.engine.with_weights(question.weights))


def _over_units(
    f: Function,
    question: Question,
    settings: Settings,
    assemble: Callable[[Probe, Parted], Engine],
    notes: tuple[str, ...],
) -> _Compiled:
    """The measurement of the mean over units, in the way that costs less."""
    (field,) = theory = fields_of(question, f)
    axes = len(field.output_shape)
    given = settings.every or ()
    if len(given) not in (0, 1, axes):
        raise SampleError(f"`step` must be a positive integer, or one for each of {axes} axes, but got {given!r}.")
    along = lines(field, given * axes if len(given) == 1 else given or None)
    cells = unit_cones.cheaper(question, along, settings.channels)
    if cells is None:
        one = every_unit.sample_map(question, along, field.unit, settings.statistic, settings.channels)
        how = f"{math.prod(line.spacing for line in along)} backward passes through the whole image"
    else:
        one = unit_cones.sample_map(question, along, cells, field.unit, settings.statistic, settings.channels)
        how = f"{sum(math.prod(cell.cells) for cell in cells)} cones"
    count = math.prod(line.count for line in along)
    note = f"the mean over {count} units that see the image alone, each moved to unit {field.unit}: by {how}"
    probe = probe_of_parts(question, question.footprint if cells is None else 0)
    return _Compiled(assemble(probe, one), theory, (note, *notes))


def _paying(f: Function, question: Question, settings: Settings) -> str:
    """ "control" where it is worth its cost, else "plain"."""

    def make() -> bool:
        return pays(question, probe_of(question), settings.statistic, settings.channels)

    identity = ("pays", question.identity, settings.statistic, settings.channels)
    return "control" if cached(f, identity, make) else "plain"


def _with_control(question: Question, settings: Settings, probe: Probe) -> tuple[Callable[..., Any], str]:
    """The maps of one sample with its controls, and what the field says of them."""
    one, found = mirrored_maps(question, probe, settings.statistic, settings.channels)
    kept = f", {found.kept} others kept as they are" if found.kept else ""
    return one, f"control: the closed form of every draw, over {len(found.variances)} drawn weights{kept}"


def _of_blocks(
    question: Question, settings: Settings, probe: Probe, size: int
) -> tuple[Callable[..., Any], str, dict[str, Any]]:
    """The map of one block of images that exchange gates, what the field says of it, and where the gates are.

    Raises:
        SampleError: `tied` does not name a group for every layer.
    """
    cone = abstract_cone(question)
    assert cone is not None  # `probe_of_blocks` has refused it
    layer_of = layers(cone, contractions(cone))
    count, tied = 1 + max(layer_of, default=0), settings.tied
    groups = [layer // tied for layer in range(count)] if isinstance(tied, int) else list(tied)
    if len(groups) != count:
        raise SampleError(
            f"`tied` must be a number of neighbouring layers, or one group for each of {count} layers (layer 0 lies before "
            f"the first weights), but got {tied!r}."
        )
    one = shuffled.sample_map(
        question, settings.statistic, settings.channels, probe, size, [groups[i] for i in layer_of]
    )
    note = (
        f"gates are shuffled: each of {len(set(groups))} groups of layers takes them from another image; a sample is the "
        f"mean over {size} images that exchange gates"
    )
    alive = live(cone)
    gated = {
        layer
        for step, layer in zip(cone.steps, layer_of, strict=True)
        if step.output in alive and not fixed(step, alive)
    }
    return one, note, {"layers": count, "gated": sorted(gated)}


def _block(count: int | None) -> int:
    """How many images exchange gates.

    Raises:
        SampleError: there is one image alone.
    """
    if count is not None and count < 2:
        raise SampleError(f'gates="shuffled" exchanges gates between images and needs two at least, but got {count}.')
    return shuffled.BLOCK if count is None else min(shuffled.BLOCK, count)


def _count(samples: Given, source: Source, key: Any, target: Given) -> int | None:
    """How many samples to take; None is as many as the source or the target allows."""
    if target is not None and not (isinstance(target, float | int | np.number) and target > 0):
        raise SampleError(f"`target` is a relative standard error such as 0.01, but got {target!r}.")
    if samples is None:
        if key is not None and target is not None:
            return None
        if source.draw is not None:
            raise SampleError("`inputs` is a function without end: say how many samples, or give a target.")
        return source.total
    if not isinstance(samples, int | np.integer):
        raise SampleError(f"`samples` must be a positive integer, but got {samples!r}.")
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
    question: Question, compiled: _Compiled, state: State, settings: Settings, metadata: dict[str, Any]
) -> tuple[EffectiveField, ...]:
    """The fields of all units."""
    probe, moments, notes = compiled.engine.probe, state.accumulator, [*question.notes, *compiled.notes, *state.notes]
    if state.skipped:
        shown = ", ".join(map(str, state.skipped[:10])) + (" ..." if len(state.skipped) > 10 else "")
        notes.append(f"{len(state.skipped)} samples left out because they are not finite: {shown}")
    mean, stderr, batches = moments.mean, moments.stderr(), moments.batches()
    records = [moments.record(i) for i in range(len(question.units))]
    if settings.variance == "control":
        mean, stderr, batches, records, note = controlled(moments, len(question.units))
        notes.append(note)
    averages = _averages(settings, moments.count)
    result = []
    for i, (unit, theory) in enumerate(zip(question.units, compiled.theory, strict=True)):
        field, error = reduction.finish(mean[i], None if stderr is None else stderr[i], settings.statistic)
        silent = () if field.any() else ("every gradient is zero: the unit is dead, or does not depend on the input",)
        doubts = (theory,) if isinstance(theory, str) else swapped(theory.notes)
        found = EffectiveField(
            map=probe.embed(field),
            stderr=None if error is None else probe.embed(error),
            statistic=settings.statistic,
            samples=moments.count,
            unit=unit,
            theoretical=None if isinstance(theory, str) else theory,
            coverage="approximate" if settings.variance == drawn.CLOSED else "measured",
            notes=(*notes, *silent, *doubts),
            batches=None if batches is None else probe.embed(batches[:, i]),
            metadata=dict(metadata),
            channels=metadata["channels"],
            averages=averages,
            record=records[i],
        )
        result.append(found if silent else dataclasses.replace(found, notes=(*found.notes, *found.diagnostics().notes)))
    return tuple(result)


def _averages(settings: Settings, count: int) -> Averages | None:
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


def _precise(field: EffectiveField, target: Number) -> bool:
    """Whether the total of the map and its Luo size are known to a relative standard error of `target`.

    A run that stops once its standard error looks small stops where samples happen to be alike, and so too low. So the 95 %
    interval of the total must be as short as that error says as well: it is longer with few samples, and where a heavy tail has
    not been met.
    """
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
    if error is None or error > target * size or total_error > target * abs(totals.mean()):
        return False
    found = field.interval("total", LEVEL)
    return bool((found.high - found.low) / 2 <= NORMAL * target * abs(found.value))
