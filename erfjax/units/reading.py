"""`every_unit`: measures the field of every unit, those with disjoint fields in one backward pass, or each on a cone."""

import dataclasses
import math
import operator
from typing import Any

import jax
import numpy as np

from erfjax.errors import SampleError, UnitError
from erfjax.fields import TheoreticalField
from erfjax.measurement import moment_cones, reduction, unit_moments
from erfjax.measurement.accumulate import Accumulator
from erfjax.measurement.checkpoint import State
from erfjax.measurement.cone import probe_of_parts, unit_box
from erfjax.measurement.engine import Engine, assemble, choose_batch_size
from erfjax.measurement.inputs import open_source
from erfjax.measurement.model import cached
from erfjax.measurement.run import Run
from erfjax.measurement.unit_moments import Row
from erfjax.readings.question import Question, ask, of_image, require_floating
from erfjax.readings.reader import Reader
from erfjax.readings.theoretical import fields_of, reader_of
from erfjax.typing import Channels, Function, Given, Statistic
from erfjax.units.result import EveryUnit

MOST = 256  # units that are measured if no step is given
AT_ONCE = 4  # samples in a batch: so that the progress bar moves


def every_unit(
    f: Given,
    inputs: Given,
    *,
    step: Given = None,
    key: Given = None,
    samples: Given = None,
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: str = "square",
    channels: Given = "sum",
    batch_size: Given = None,
    progress: bool | None = None,
) -> EveryUnit:
    """The measured fields of all units, one by one: their sizes, totals and centroids over the image, with standard errors.

    Units whose fields do not overlap share one backward pass through the whole image, or every unit takes a cone of its own,
    whichever is estimated to take fewer operations. Of every map its total, centroid and standard deviation along each axis are
    kept, not the map: memory grows with the number of units, not with their fields. For other sizes, or the maps themselves,
    give `empirical` a list of units; for their mean, `unit="all"`.

    Args:
        f: a differentiable function from an array to an array; of (key, x) if there is a key.
        inputs, key, samples, layout, out_layout, channels: as in `empirical`.
        step: every how many units along each axis, an integer or one per axis; None takes the smallest for which there are at
            most 256 units, of all phases. The centre unit n // 2 is always among them.
        statistic: "square", "abs", "relu" or "share", as in `empirical`; of "mean" maps, which have two signs, σ says nothing.
        batch_size: samples computed at once.
        progress: whether to show a bar; by default on a terminal.

    Returns:
        An `EveryUnit`, which prints which units see less, and draws itself.

    Raises:
        LayoutError, UnitError: layouts do not fit, the output has other spatial axes than the input, or what units see along one
            axis depends on their place along another.
        SampleError: no samples, one that is not finite, or a statistic or step that does not exist.
        FunctionError: f cannot be traced, or takes or returns several arrays.

    Source: sizes as in W. Luo et al., NeurIPS 2016, section 3, unit by unit.

    Example:
        >>> import erfjax as ej, jax, numpy as np
        >>> f = (ej.layers.Conv(3) ** 3).network(jax.random.key(0), width=4, in_channels=3)
        >>> found = ej.every_unit(f, np.random.default_rng(0).normal(size=(4, 12, 15, 3)).astype(np.float32))
        >>> found.shape, {name: int(here.sum()) for name, here in found.groups().items()}
        ((12, 15), {'inside': 54, 'past one border': 90, 'past two': 36})
    """
    chosen = reduction.check_statistic(statistic)
    if chosen in ("mean", "rms"):
        raise SampleError(
            f'`statistic` must be "square", "abs", "relu" or "share", but got {statistic!r}: sizes of all units are read off '
            "sums over their maps, which have one sign and no root."
        )

    def opened(layout: Any) -> tuple[Any, Question]:
        source = open_source(inputs, key, layout)
        require_floating(source.spec, source.layouts)
        asked = ask(f, source.spec, source.layouts, key=key, out_layout=out_layout)
        return source, asked.only("every_unit")

    source, question = of_image(opened, inputs, layout)
    question.check_differentiable()
    question.check_channels(channels, chosen)
    if len(question.target.spatial) != len(question.source.spatial):
        raise UnitError("`every_unit` needs an output with the spatial axes of the input: name them with out_layout.")
    count = source.total if samples is None else operator.index(samples)
    if count is None or count < 1 or (key is None and source.total is not None and count > source.total):
        raise SampleError(
            f"`samples` must be a positive number of samples that `inputs` can give, but got {samples!r}."
        )
    (field,) = fields_of(question, f)
    steps = _steps(step, field)
    base = jax.random.key(0) if key is None else key
    settings = ("every_unit", question.identity, steps, chosen, channels, source.draw)
    compiled: _Compiled = cached(
        f, settings, lambda: _compiled(f, question, field, steps, chosen, channels, source.draw, base)
    )
    engine, rows = compiled.engine.with_weights(question.weights), compiled.rows
    size = min(AT_ONCE, choose_batch_size(engine, count)) if batch_size is None else operator.index(batch_size)
    grid = tuple(len(row.units) for row in rows)
    state = State(Accumulator.empty((1, *grid, len(unit_moments.powers(len(rows))))), batch_size=size)
    degree = reduction.order(chosen)
    run = Run(engine, source, base, degree, count, lambda _: False, False, None, progress, state, lambda _: "")
    state = run.finish()
    batches = state.accumulator.batches()
    return EveryUnit(
        units=tuple(row.units for row in rows),
        places=tuple(row.place for row in rows),
        start=tuple(row.start for row in rows),
        stop=tuple(row.stop for row in rows),
        whole=compiled.whole,
        period=_period(field),
        image_shape=field.image_shape,
        moments=state.accumulator.mean[0],
        batches=None if batches is None else batches[:, 0],
        statistic=chosen,
        channels=channels if isinstance(channels, str) else int(channels),
        samples=state.accumulator.count,
        notes=(f"{math.prod(grid)} units, by {compiled.how} for each sample", *question.notes, *state.notes),
        metadata={"layout": (question.source.letters, question.target.letters), "batch_size": state.batch_size},
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Compiled:
    """A measurement of all units, the units along every axis, which of them see the image alone, and how it is done, in words."""

    engine: Engine
    rows: tuple[Row, ...]
    whole: tuple[np.ndarray, ...]
    how: str


def _compiled(
    f: Function,
    question: Question,
    field: TheoreticalField,
    steps: tuple[int, ...],
    statistic: Statistic,
    channels: Channels,
    draw: Any,
    base: Any,
) -> _Compiled:
    """The measurement in the way that costs less."""
    rows, whole = _rows(f, question, field, steps)
    cells = moment_cones.cheaper(question, rows, _period(field), channels)
    if cells is None:
        one = unit_moments.sample_moments(question, rows, statistic, channels)
        how = f"{unit_moments.pullbacks(rows, channels, question.channels)} backward passes through the whole image"
    else:
        one = moment_cones.sample_moments(question, rows, cells, statistic, channels)
        how = f"{cells.number} cones"
    probe = probe_of_parts(question, question.footprint if cells is None else 0)
    return _Compiled(assemble(probe, statistic, channels, draw, base, None, question.main, one), rows, whole, how)


def _steps(step: Any, field: TheoreticalField) -> tuple[int, ...]:
    """The step along every axis; one that is chosen meets all phases.

    Raises:
        SampleError: it is no positive integer, or there are not as many as axes.
    """
    shape = field.output_shape
    if step is None:
        least, periods = 1, _period(field)
        while math.prod(-(-n // least) for n in shape) > MOST or any(math.gcd(least, p) > 1 for p in periods):
            least += 1
        return (least,) * len(shape)
    steps = tuple(step) if isinstance(step, tuple | list) else (step,) * len(shape)
    if len(steps) != len(shape) or not all(isinstance(s, int | np.integer) and s > 0 for s in steps):
        raise SampleError(f"`step` must be a positive integer, or one for each of {len(shape)} axes, but got {step!r}.")
    return tuple(map(int, steps))


def _rows(
    f: Function, question: Question, field: TheoreticalField, steps: tuple[int, ...]
) -> tuple[tuple[Row, ...], tuple[np.ndarray, ...]]:
    """The chosen units along every axis, and which of them see the image alone; the other axes are at their centres."""
    reader = reader_of(question, f)
    rows, whole = [], []
    for axis, (units, n, step) in enumerate(zip(field.output_shape, field.image_shape, steps, strict=True)):
        chosen = np.arange((units // 2) % step, units, step)
        seen = [_seen(reader, question, field.unit, axis, int(u)) for u in chosen]
        start, stop = (np.array([pair[i] for pair in seen]) for i in range(2))
        inside = np.array([low >= 0 and high <= n for _, _, low, high in seen])
        place = np.array([
            (low + high - 1) / 2 if math.isfinite(low) and math.isfinite(high) else (u + 0.5) * n / units - 0.5
            for u, (_, _, low, high) in zip(chosen, seen, strict=True)
        ])  # fmt: skip
        rows.append(Row(chosen, start, stop, place, (units, n)))
        whole.append(inside)
    return tuple(rows), tuple(whole)


def _seen(
    reader: Reader, question: Question, centre: tuple[int, ...], axis: int, u: int
) -> tuple[int, int, float, float]:
    """What a unit sees along an axis: start and stop inside the image, and of the unclipped hull."""
    atom = reader.program.outputs[question.output]
    box = unit_box(atom.shape, question.target, (*centre[:axis], u, *centre[axis + 1 :]))
    ends = []
    for clipped in (True, False):
        start, stop = reader.interval(reader.region(atom, box, clipped=clipped))
        ends += [start[axis], stop[axis]]
    return int(ends[0]), int(ends[1]), float(ends[2]), float(ends[3])


def _period(field: TheoreticalField) -> tuple[int, ...]:
    """After how many units the field repeats; 1 where it never does, so that no phases are told apart."""
    if field.shift_invariant:
        return (1,) * len(field.output_shape)
    periods = field.phases().period
    return tuple(p if p <= n // 2 else 1 for p, n in zip(periods, field.output_shape, strict=True))
