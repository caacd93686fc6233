"""Whether the cones of two units are moved copies of each other, and how one program serves for both.

That it does serve is looked up, not believed: the boxes of one cone are those of the other, moved, and the programs written for
both are the same word for word, with derivatives. Known arrays that vary over the image are read where each cone has its own.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.measurement import jacobian, reduction
from erfjax.measurement.cone import Traced, cone_of, cotangent_shift
from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.program.equations import Known, Program
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.pullbacks import work
from erfjax.tracing.windows.cone import Cone, Step, spread
from erfjax.tracing.windows.cpu_taps import is_depthwise, on_cpu
from erfjax.typing import Channels, Statistic

AT_ONCE = 64  # cones at most that run together: beyond, nothing gets faster ...
ROOM = 1 << 22  # ... and of this many bytes for each sample, which caches hold
MOST_IN_A_CELL = 64  # units: a cell of more has a cone that is much larger than that of one of them
WORTH = 0.9  # of the operations that colours take: an estimate is no measurement

DEPTHWISE = 10  # XLA's depthwise convolutions on a CPU over the same as a sum over taps, which cones take

Place = tuple[int, int]  # of an operand: (step, operand), or (INPUT, which input)
INPUT = -1
Starts = tuple[int, ...]
Run = Callable[[int, Step, list[Any]], Mapping[Any, Any]]
"""(number of a step, the step, its operands) -> what it computes."""


def moves(first: Cone, other: Cone) -> dict[Place, Starts] | None:
    """How far the known operands and the inputs of another cone lie from those of the first one; None if it is no copy of it."""
    found: dict[Place, Starts] = {}
    for i, (a, b) in enumerate(zip(first.windows, other.windows, strict=True)):
        if lengths(a) != lengths(b):
            return None
        found[INPUT, i] = between(a, b)
    if len(first.steps) != len(other.steps):
        return None
    for s, (p, q) in enumerate(zip(first.steps, other.steps, strict=True)):
        if (
            p.local.relative is not None  # the positions that an operand holds would have to move as well
            or p.equation is not q.equation
            or p.result != q.result
            or p.local is not q.local
            or lengths(p.box) != lengths(q.box)
        ):
            return None
        for j, (atom, own, its) in enumerate(zip(p.equation.inputs, p.operands, q.operands, strict=True)):
            if own is None and its is None:
                continue
            if own is None or its is None or lengths(own) != lengths(its):
                return None
            if isinstance(atom, Known):
                alike = [_same(atom, own, (*own[:i], its[i], *own[i + 1 :])) for i in range(len(own))]
                found[s, j] = tuple(0 if same else d for same, d in zip(alike, between(own, its), strict=True))
            elif between(first.boxes[atom], own) != between(other.boxes[atom], its):
                return None
    ((output, one),), (two,) = first.wanted.items(), other.wanted.values()
    return found if between(first.boxes[output], one) == between(other.boxes[output], two) else None


def plainly(number: int, step: Step, operands: list[Any]) -> Mapping[Any, Any]:
    """What a step computes."""
    return step.results(operands)


def evaluate(cone: Cone, windows: Sequence[Any], slices: Mapping[Place, Any], run: Run = plainly) -> Any:
    """The values of a cone with some of its known operands given, each step run by `run`."""
    held = dict(zip(cone.block.inputs, windows, strict=True))
    for s, step in enumerate(cone.steps):
        operands = [
            None
            if box is None
            else slices[s, j]
            if (s, j) in slices
            else _known(cone, atom, box)
            if isinstance(atom, Known)
            else cone.read(held, atom, box)
            for j, (atom, box) in enumerate(zip(step.equation.inputs, step.operands, strict=True))
        ]
        held.update(run(s, step, operands))
    ((atom, box),) = cone.wanted.items()
    return cone.read(held, atom, box)


def _known(cone: Cone, atom: Known, box: Box) -> Any:
    """A known array on a box: what is broadcast is read before."""
    made = spread(atom, box)
    if made is None or made[1].operands[0] is None:
        return cone.read({}, atom, box)
    source, step = made
    return step.apply([_known(cone, source, made[1].operands[0])])


def _same(atom: Known, a: Box, b: Box) -> bool:
    """Whether a known array is the same on two boxes of one shape, since they are one box of what it is a broadcast of."""
    if not any(between(a, b)):
        return True
    p, q = spread(atom, a), spread(atom, b)
    if p is None or q is None or p[1].operands[0] is None or q[1].operands[0] is None:
        return False
    return _same(p[0], p[1].operands[0], q[1].operands[0])


def whole(traced: Traced, program: Program) -> Cone:
    shape = traced.target.space(program.output.shape)
    found = cone_of(program, traced.source, traced.target, [(0,) * len(shape), tuple(n - 1 for n in shape)])
    assert found is not None
    return found


def work_of_whole(traced: Traced, program: Program) -> float:
    """Operations of one pass through the whole function as it is written, forwards or backwards, about."""
    steps = whole(traced, program).steps
    return sum(work(step) * (DEPTHWISE if on_cpu() and is_depthwise(step.equation) else 1) for step in steps)


def size_of(cone: Cone) -> int:
    return sum(step.entries * step.output.dtype.itemsize for step in cone.steps)


def between(a: Box, b: Box) -> Starts:
    return tuple(int(q.start - p.start) for p, q in zip(a, b, strict=True))


def written(traced: Traced, units: Sequence[tuple[int, ...]], given: Collection[Place]) -> str:
    """The program of the cone of a cell and of its derivative, where what moves is given: equal for copies."""

    def run(consts: Any, key: Any) -> Any:
        cone = cone_of(traced.program(consts, key), traced.source, traced.target, units)
        assert cone is not None
        dtypes = [atom.dtype for atom in cone.block.inputs]
        windows = [jnp.zeros(lengths(box), dtype) for box, dtype in zip(cone.windows, dtypes, strict=True)]
        atoms = [cone.steps[s].equation.inputs[j] for s, j in given]
        slices = [
            jnp.zeros(lengths(cone.steps[s].operands[j] or ()), atom.dtype)
            for (s, j), atom in zip(given, atoms, strict=True)
        ]

        def values(windows: Any, slices: Any) -> Any:
            output, pullback = jax.vjp(
                lambda window: evaluate(cone, [window, *windows[1:]], dict(zip(given, slices, strict=True))), windows[0]
            )
            return output, pullback(jnp.ones_like(output))

        program = jax.make_jaxpr(values)(windows, slices)
        concrete = [c for c in program.consts if not isinstance(c, jax.core.Tracer)]
        texts.append(str(program) + "".join(np.asarray(c).tobytes().hex() for c in concrete))
        return 0

    texts: list[str] = []
    jax.eval_shape(run, traced.consts, traced.key)
    return re.sub(r"0x[0-9a-f]+", "", texts[0])


def cell_maps(
    traced: Traced,
    cone: Cone,
    units: Sequence[tuple[int, ...]],
    window: Any,
    values: Callable[[Any], Any],
    statistic: Statistic,
    channels: Channels,
    key: Any,
) -> tuple[Any, Any, Any, Any]:
    """The maps of some units on the window of a cone of all of them.

    Args:
        traced, statistic, channels, key: what is measured.
        cone: of the units; its place does not matter.
        units: of which it is.
        window: the values of the input on the window.
        values: from the window to what the cone gives.

    Returns:
        Of every unit: the map, its exponent, whether the gradients are finite, whether the output is.
    """
    (box,) = cone.wanted.values()
    origin = [int(box[axis].start) for axis in traced.target.spatial]
    places = [tuple(u - o for u, o in zip(unit, origin, strict=True)) for unit in units]

    def function(window: Any) -> Any:
        found = values(window)
        return jnp.stack([traced.target.unit_channels(found, place) for place in places])

    shift = cotangent_shift([cone])
    rows = traced.channels if channels == "frobenius" else 1
    output, gradients = jacobian.differentiate(function, window, rows * len(places), jacobian.MOST)
    probes = jacobian.cotangents(channels, traced.channels, output.dtype, key) * np.asarray(2.0**shift, output.dtype)
    maps, exponents, finite = jacobian.for_each(
        lambda unit: reduction.reduce(gradients(unit, probes), statistic, traced.source),
        jnp.arange(len(places)),
        jacobian.MOST,
    )
    return maps, exponents - shift, finite, jnp.isfinite(output).reshape(len(places), -1).all(1)


def chunked(cells: np.ndarray, room: float) -> tuple[np.ndarray, float]:
    """The rows of cells in equal chunks that run together, the last one filled up by repeating a row with a zero behind it.

    Args:
        cells: (cells, axes), in order.
        room: the bytes that one cell takes.

    Returns:
        (chunks, cells of a chunk, axes + 1), where the last number says whether the cell counts; and the bytes of a chunk.
    """
    rows = np.concatenate([cells, np.ones((len(cells), 1))], 1).astype(np.int32)
    most = max(1, min(AT_ONCE, int(ROOM // max(1, room))))
    chunk = -(-len(rows) // -(-len(rows) // most))
    spare = np.repeat(rows[-1:], -len(rows) % chunk, axis=0) * np.array([1] * cells.shape[1] + [0], np.int32)
    return np.concatenate([rows, spare]).reshape(-1, chunk, rows.shape[1]), chunk * room


def room(size: int, units: int, probes: int) -> float:
    """The bytes of a cell of so many units with its pullbacks, if its cone takes `size` forwards."""
    return size * (1 + min(jacobian.MOST, probes * units) / 2)
