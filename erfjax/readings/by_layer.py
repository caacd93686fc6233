"""`by_layer`: the effective receptive field of every layer on the way to a unit, from one pass over the inputs.

The centre unit of every layer is one entry of a single function of the input, so the network runs forwards once for a sample, and
backwards once for every layer. Of a hidden layer the sum of its channels is differentiated: they have no names to choose by.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erfjax.errors import FunctionError, SampleError, UnitError
from erfjax.fields import EffectiveField, LayerRow, TheoreticalField
from erfjax.measurement import reduction
from erfjax.measurement.accumulate import Accumulator
from erfjax.measurement.checkpoint import State
from erfjax.measurement.cone import MOST_UNROLLED, read, unit_box, whole_probe
from erfjax.measurement.engine import assemble, choose_batch_size
from erfjax.measurement.inputs import open_source
from erfjax.measurement.probe import Probe
from erfjax.measurement.run import Run
from erfjax.readings.question import Question, ask, of_image, require_floating
from erfjax.readings.reader import Reader
from erfjax.readings.theoretical import reader_of
from erfjax.tracing.positions.index_sets import Box, Points
from erfjax.tracing.program.equations import Program, Var
from erfjax.tracing.windows.cone import restrict
from erfjax.typing import Function, Given, Statistic


@dataclasses.dataclass(frozen=True)
class _Hidden:
    """The centre unit of a layer: which result of which equation of the program, on which box, and its theoretical field."""

    equation: int
    result: int
    box: Box
    field: TheoreticalField


def by_layer(
    f: Given,
    inputs: Given,
    *,
    layers: Given = None,
    unit: Given = None,
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: str = "square",
    samples: Given = None,
    progress: bool | None = None,
) -> dict[str, EffectiveField]:
    """The measured effective field of the centre unit of every layer, by the name of the layer, from the input to the output.

    One compiled pass: a sample costs one forward pass and, for each layer, one backward pass through the network.
    A layer counts if it lies on the way to the unit and widens the theoretical field, unless `layers` says otherwise.

    Args:
        f: a differentiable function from an array to an array.
        inputs: an array of rows, as for `empirical`.
        layers: names of rows of `theoretical(f, x).layers`, or parts of their names ("block3"); None is every layer that widens
            the theoretical field, "all" every row.
        unit: index of the output unit whose layers are meant, one integer per spatial axis; None is the centre.
        layout, out_layout: as in `empirical`.
        statistic: as in `empirical`; of the gradient of the sum of a layer's channels.
        samples: how many rows; None is all of them.
        progress: whether to show a bar; by default on a terminal.

    Returns:
        The fields on the pixels of the input, in the squared gradient (or gradient) per unit of the layer. Each has the
        theoretical field of its layer's centre unit, so `ej.plot.depth` draws both sizes.

    Raises:
        LayoutError, UnitError: layout or unit do not fit.
        SampleError: no samples, one that is not finite, or a name that no layer has.
        FunctionError: f takes or returns several arrays, holds loops that are too long to take apart, or has no layer.

    Source: W. Luo et al., NeurIPS 2016, section 3, for every layer; sizes of layers as in A. Araujo et al., Distill 2019.

    Example:
        >>> import erfjax as ej, jax, numpy as np
        >>> f = (ej.layers.Conv(3) ** 3).network(jax.random.key(0), width=4, in_channels=3)
        >>> fields = ej.by_layer(f, np.random.default_rng(0).normal(size=(4, 12, 13, 3)).astype(np.float32))
        >>> [field.theoretical.size for field in fields.values()]
        [(3, 3), (5, 5), (7, 7)]
    """
    chosen = reduction.check_statistic(statistic)

    def opened(layout: Any) -> tuple[Any, Question]:
        source = open_source(inputs, None, layout)
        require_floating(source.spec, source.layouts)
        asked = ask(f, source.spec, source.layouts, unit=unit, out_layout=out_layout)
        question = asked.only("by_layer")
        if question.several:
            raise UnitError("`by_layer` is about one unit, but got a list of units.")
        return source, question

    source, question = of_image(lambda layout: opened(layout), inputs, layout)
    question.check_differentiable()
    found = _chosen(_hidden(f, question), layers)
    engine = assemble(
        _probe(f, question, tuple(found.values())), chosen, "sum", None, jax.random.key(0), None, question.main
    )
    count = source.total if samples is None else operator.index(samples)
    if count is not None and (count < 1 or (source.total is not None and count > source.total)):
        raise SampleError(f"`samples` must be from 1 to the {source.total} rows of `inputs`, but got {count}.")
    state = State(Accumulator.empty((len(found), *engine.probe.window)), batch_size=choose_batch_size(engine, count))
    state = Run(
        engine, source, jax.random.key(0), reduction.order(chosen), count, lambda _: False, False, None, progress, state
    ).finish()
    return _fields(found, state, chosen, engine.probe, question.notes)


def _fields(
    found: dict[str, _Hidden], state: State, statistic: Statistic, probe: Probe, notes: tuple[str, ...]
) -> dict[str, EffectiveField]:
    moments = state.accumulator
    stderr, batches = moments.stderr(), moments.batches()
    result = {}
    for i, (name, hidden) in enumerate(found.items()):
        mean, error = reduction.finish(moments.mean[i], None if stderr is None else stderr[i], statistic)
        result[name] = EffectiveField(
            map=probe.embed(mean),
            stderr=None if error is None else probe.embed(error),
            statistic=statistic,
            samples=moments.count,
            unit=hidden.field.unit,
            theoretical=hidden.field,
            coverage="measured",
            notes=(*notes, *state.notes),
            batches=None if batches is None else probe.embed(batches[:, i]),
            metadata={"layer": name, "statistic": statistic},
            channels="sum",
            averages="inputs" if moments.count > 1 else None,
        )
    return result


def _hidden(f: Function, question: Question) -> dict[str, _Hidden]:
    """The centre unit of every layer on the way to the unit."""
    reader = reader_of(question, f)
    atom = reader.program.outputs[question.output]
    if not isinstance(atom, Var):
        raise FunctionError("The output does not depend on the input: no layer lies between them.")
    equations = reader.program.equations
    place = {output: (i, j) for i, equation in enumerate(equations) for j, output in enumerate(equation.outputs)}
    found = {}
    for name, visit in reader.visits(atom, unit_box(atom.shape, question.target, question.units[0])):
        var = next(v for v in equations[visit.last].outputs if v in reader.roles)
        unit = reader.centre(var)[1]
        box = tuple(Points(unit[a], unit[a] + 1) if a in unit else Points(0, n) for a, n in enumerate(var.shape))
        found[name] = _Hidden(*place[var], box, _field(reader, var, box, reader.layer(name, visit)))
    if not found:
        raise FunctionError("No layer lies between the input and the unit: there is nothing to compare by layer.")
    return found


def _field(reader: Reader, var: Var, box: Box, row: LayerRow) -> TheoreticalField:
    """The theoretical field of the centre unit of a layer."""
    playing, unit = reader.centre(var)
    along = [playing.get(axis) for axis in reader.source.spatial]
    region = reader.region(var, box, clipped=True, until=reader.made[var])
    start, stop = reader.interval(region)
    return TheoreticalField(
        unit=tuple(0 if part is None else unit[part.along] for part in along),
        output_shape=tuple(1 if part is None else var.shape[part.along] for part in along),
        image_shape=reader.source.space(reader.program.input.shape),
        start=row.start,
        stop=row.stop,
        stride=row.stride,
        padding=row.padding,
        clipped=(tuple(map(int, start)), tuple(map(int, stop))),
        shift_invariant=all(part is not None and part.role.stride is not None for part in along),
        channels=reader.channels(region),
        notes=(f"the centre unit of layer {row.name}; whether others see more was not asked",),
        mask_=lambda: reader.mask(region),
    )


def _chosen(found: dict[str, _Hidden], layers: Any) -> dict[str, _Hidden]:
    """The layers that are asked for."""
    if layers is None:
        widest, kept = None, {}
        for name, hidden in found.items():
            if hidden.field.size != widest:
                kept[name], widest = hidden, hidden.field.size
        return kept
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if wanted == ["all"]:
        return found
    unknown = [part for part in wanted if not any(part in name for name in found)]
    if unknown or not wanted:
        raise SampleError(f"No layer is called {', '.join(map(repr, unknown))}: the layers are {', '.join(found)}.")
    return {name: hidden for name, hidden in found.items() if any(part in name for part in wanted)}


def _probe(f: Function, question: Question, hidden: Sequence[_Hidden]) -> Probe:
    """The probe of the centre units of layers, on the whole input: one number for each, the sum of its channels."""
    whole = whole_probe(question)

    def wanted(program: Program) -> dict[Any, Box]:
        return {program.equations[one.equation].outputs[one.result]: one.box for one in hidden}

    def functions(consts: Any, key: Any, others: Sequence[Any]) -> list[Callable[[Any], Any]]:
        program = question.whole(consts, key)
        cone = restrict(program, wanted(program)).settled()

        def centres(x: Any) -> Any:
            leaves = (x, *(read(*pair) for pair in zip(others, cone.windows[1:], strict=True)))
            return jnp.stack([value.sum()[None] for value in cone(read(x, cone.windows[0]), *leaves[1:])])

        return [centres]

    if question.loops and len(question.whole().equations) > MOST_UNROLLED:
        raise FunctionError(
            "The layers stand in a loop (`scan`), which would have to be taken apart: call `empirical` on each step's output."
        )
    units = tuple(range(len(hidden)))
    piece = dataclasses.replace(whole.pieces[0], units=units)
    return dataclasses.replace(
        whole, functions=functions, pieces=(piece,), units=tuple((i,) for i in units), channels=1, shift=0
    )
