"""All units at once, on a cone for each: the second way to what `every_unit` finds by colours.

Units are divided into *cells*: as many neighbours along each axis as the field has phases. The cone of one cell, moved, serves
all others: it is compiled once and runs on a batch of windows cut out of the image. That it does serve them is looked up, not
believed: the boxes of all cones are those of the first one, moved, and the programs written for the first and the last cells
are the same word for word, with derivatives. Known arrays that vary over the image are read where each cell has its own.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.errors import DataDependentError
from erfjax.measurement import jacobian, reduction
from erfjax.measurement.cone import Traced, cone_of, cotangent_shift, saves
from erfjax.measurement.engine import Parted
from erfjax.measurement.every_unit import Line, finished
from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.program.equations import Known, Program, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.pullbacks import work
from erfjax.tracing.windows.cone import Cone, spread
from erfjax.typing import Channels, Statistic

AT_ONCE = 64  # cells at most that run together: beyond, nothing gets faster ...
ROOM = 1 << 22  # ... and of this many bytes for each sample, which caches hold
MOST_IN_A_CELL = 64  # units: a cell of more has a cone that is much larger than that of one of them
WORTH = 0.9  # of the operations that colours take: an estimate is no measurement

Place = tuple[int, int]  # of an operand: (step, operand), or (INPUT, which input)
INPUT = -1
Starts = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Segment:
    """Cells of equal size along one axis, by the place of their first units among the units of a `Line`."""

    size: int
    starts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Copies:
    """Cells whose cones are moved copies of that of the first one.

    Attributes:
        units: of the first cell.
        cells: how many there are along each axis.
        moves: of every operand that moves with the cell, one table per axis, in entries: (cells, axes of the operand).
        work: operations of one pass through a cone, forwards or backwards, about.
        bytes: of all that a cone computes.
    """

    units: tuple[tuple[int, ...], ...]
    cells: tuple[int, ...]
    moves: Mapping[Place, tuple[np.ndarray, ...]]
    work: float
    bytes: int

    def cost(self, probes: int) -> float:
        """Operations for all cells, with so many pullbacks for each unit."""
        return math.prod(self.cells) * self.work * (1 + probes * len(self.units))


def segments(line: Line) -> list[Segment]:
    """The cells of a line: of a whole period each, and one of what is left.

    Example:
        >>> from erfjax.measurement.every_unit import Line
        >>> from erfjax.measurement.unit_cones import segments
        >>> segments(Line(first=3, count=7, stride=1, offset=-2, window=5, period=2))
        [Segment(size=2, starts=(0, 2, 4)), Segment(size=1, starts=(6,))]
    """
    size = min(line.period, line.count)
    cells, left = divmod(line.count, size)
    found = [Segment(size, tuple(range(0, cells * size, size)))]
    return [*found, Segment(left, (cells * size,))] if left else found


def cheaper(traced: Traced, along: Sequence[Line], channels: Channels) -> list[Copies] | None:
    """The cells of all units; None where colours cost less, or where cones of unlike units are unlike."""
    probes, colours = (
        traced.channels if channels == "frobenius" else 1,
        math.prod(line.spacing for line in along),
    )
    found: list[Copies] = []

    def look(consts: Any, key: Any) -> int:
        program = traced.program(consts, key)
        if not isinstance(program.output, Var):
            return 0
        whole = _whole(traced, program)
        limit = WORTH * sum(map(work, whole.steps)) * (1 + probes * colours)
        for parts in itertools.product(*map(segments, along)):
            copies = copies_of(traced, program, along, parts, probes, limit)
            if copies is None:
                found.clear()
                return 0
            found.append(copies)
            limit -= copies.cost(probes)
        return 0

    try:
        jax.eval_shape(look, traced.consts, traced.key)
    except DataDependentError:
        return None
    return found or None


def copies_of(
    traced: Traced, program: Program, along: Sequence[Line], parts: Sequence[Segment], probes: int, limit: float
) -> Copies | None:
    """The cells of one segment along each axis; None where they are no copies, or take more operations than the limit."""

    def units(starts: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        lines = [
            [line.unit(start + i) for i in range(part.size)]
            for line, part, start in zip(along, parts, starts, strict=True)
        ]
        return tuple(itertools.product(*lines))

    def cone(starts: Sequence[int]) -> Cone:
        found = cone_of(program, traced.source, traced.target, units(starts))
        assert found is not None  # the input matters
        return found

    starts = [part.starts[0] for part in parts]
    cells = tuple(len(part.starts) for part in parts)
    first = cone(starts)
    found = Copies(units(starts), cells, {}, sum(map(work, first.steps)), _bytes(first))
    if len(found.units) > MOST_IN_A_CELL or not found.cost(probes) < limit or not saves(first, traced.loops):
        return None
    tables: list[dict[Place, np.ndarray]] = []
    for axis, part in enumerate(parts):
        rows = [moves(first, cone([*starts[:axis], start, *starts[axis + 1 :]])) for start in part.starts]
        alike = [row for row in rows if row is not None]
        if len(alike) < len(rows):
            return None
        tables.append({place: np.array([row[place] for row in alike], np.int32) for place in alike[0]})
    ends = [part.starts[-1] for part in parts]
    corner = moves(first, cone(ends))
    if corner is None or any((sum(t[place][-1] for t in tables) != corner[place]).any() for place in corner):
        return None
    moving = {place: tuple(t[place] for t in tables) for place in corner
              if place[0] == INPUT or any(t[place].any() for t in tables)}  # fmt: skip
    found = dataclasses.replace(found, moves=moving)
    others = [[*starts[:axis], end, *starts[axis + 1 :]] for axis, end in enumerate(ends)]
    programs = {_written(traced, units(at), found) for at in (starts, *others, ends)}
    return found if len(programs) == 1 else None


def moves(first: Cone, other: Cone) -> dict[Place, Starts] | None:
    """How far the known operands and the inputs of another cone lie from those of the first one; None if it is no copy of it."""
    found: dict[Place, Starts] = {}
    for i, (a, b) in enumerate(zip(first.windows, other.windows, strict=True)):
        if lengths(a) != lengths(b):
            return None
        found[INPUT, i] = _between(a, b)
    if len(first.steps) != len(other.steps):
        return None
    for s, (p, q) in enumerate(zip(first.steps, other.steps, strict=True)):
        if (
            p.equation is not q.equation
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
                found[s, j] = tuple(0 if same else d for same, d in zip(alike, _between(own, its), strict=True))
            elif _between(first.boxes[atom], own) != _between(other.boxes[atom], its):
                return None
    ((output, one),), (two,) = first.wanted.items(), other.wanted.values()
    return found if _between(first.boxes[output], one) == _between(other.boxes[output], two) else None


def evaluate(cone: Cone, windows: Sequence[Any], slices: Mapping[Place, Any]) -> Any:
    """The values of a cone with some of its known operands given."""
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
        held.update(step.results(operands))
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
    if not any(_between(a, b)):
        return True
    p, q = spread(atom, a), spread(atom, b)
    if p is None or q is None or p[1].operands[0] is None or q[1].operands[0] is None:
        return False
    return _same(p[0], p[1].operands[0], q[1].operands[0])


def sample_map(
    traced: Traced,
    along: Sequence[Line],
    copies: Sequence[Copies],
    unit: Sequence[int],
    statistic: Statistic,
    channels: Channels,
) -> Parted:
    """The one map of a sample, as `every_unit.sample_map` gives it."""
    plain: Statistic = "square" if statistic == "share" else statistic
    degree, probes = reduction.order(plain), traced.channels if channels == "frobenius" else 1
    room = {
        str(i): copy.bytes * (1 + min(jacobian.MOST, probes * len(copy.units)) / 2) for i, copy in enumerate(copies)
    }

    def part(consts: Any, key: Any, x: Any, others: Any, part: Any) -> Any:
        ((name, rows),) = part.items()
        copy = copies[int(name)]
        cone = cone_of(traced.program(consts, key), traced.source, traced.target, copy.units)
        assert cone is not None
        cone = cone.settled()
        mapped = functools.partial(_cell, traced, along, copy, cone, plain, channels, key, (x, *others))
        maps, exponents, finite, output = jax.vmap(mapped)(rows)
        maps, exponents = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in (maps, exponents))
        total, exponent = reduction.mean(maps, exponents, degree, 1)
        return total, exponent, finite.all(), output.all()

    parts = []
    for name, copy in enumerate(copies):
        cells = np.array([(*cell, 1) for cell in np.ndindex(copy.cells)], np.int32)
        most = max(1, min(AT_ONCE, int(ROOM // max(1, room[str(name)]))))
        chunk = -(-len(cells) // -(-len(cells) // most))
        spare = np.repeat(cells[-1:], -len(cells) % chunk, axis=0) * np.array([1] * len(along) + [0], np.int32)
        parts += [
            {str(name): jnp.asarray(rows)} for rows in np.concatenate([cells, spare]).reshape(-1, chunk, cells.shape[1])
        ]
    cost = max(int(len(next(iter(p.values()))) * room[next(iter(p))]) for p in parts)
    finish = finished(traced, along, unit, statistic)

    def join(found: Sequence[Any]) -> Any:
        maps, exponents, finite, output = (jnp.stack(leaves) for leaves in zip(*found, strict=True))
        return finish((maps, exponents, finite), output.all(0))

    return Parted(part, parts, join, cost)


def _cell(
    traced: Traced, along: Sequence[Line], copy: Copies, cone: Cone, statistic: Statistic, channels: Channels,
    key: Any, leaves: Sequence[Any], row: Any,
) -> Any:  # fmt: skip
    """The maps of the units of a cell, each on the window of its unit; exponents; whether gradients and output are finite."""

    def read(array: Any, box: Box, place: Place) -> Any:
        start = np.array([int(p.start) for p in box], np.int32) + sum(
            jnp.asarray(t)[row[i]] for i, t in enumerate(copy.moves[place])
        )
        return jax.lax.dynamic_slice(array, list(start), lengths(box))

    windows = [read(leaf, box, (INPUT, i)) for i, (leaf, box) in enumerate(zip(leaves, cone.windows, strict=True))]
    slices = {}
    for s, j in copy.moves:
        atom, known = (None, None) if s == INPUT else (cone.steps[s].equation.inputs[j], cone.steps[s].operands[j])
        if isinstance(atom, Known) and known is not None:
            slices[s, j] = read(atom.value, known, (s, j))
    (box,) = cone.wanted.values()
    origin = [int(box[axis].start) for axis in traced.target.spatial]
    places = [tuple(u - o for u, o in zip(unit, origin, strict=True)) for unit in copy.units]

    def function(window: Any) -> Any:
        values = evaluate(cone, [window, *windows[1:]], slices)
        return jnp.stack([traced.target.unit_channels(values, place) for place in places])

    shift = cotangent_shift([cone])
    rows = traced.channels if channels == "frobenius" else 1
    output, gradients = jacobian.differentiate(function, windows[0], rows * len(places), jacobian.MOST)
    probes = jacobian.cotangents(channels, traced.channels, output.dtype, key) * np.asarray(2.0**shift, output.dtype)
    maps, exponents, finite = jacobian.for_each(
        lambda unit: reduction.reduce(gradients(unit, probes), statistic, traced.source),
        jnp.arange(len(places)),
        jacobian.MOST,
    )
    edges = [cone.windows[0][axis] for axis in traced.source.spatial]
    maps = jnp.stack([_moved(one, along, edges, unit) for one, unit in zip(maps, copy.units, strict=True)])
    return maps * row[-1].astype(maps.dtype), exponents - shift, finite.all(), jnp.isfinite(output).all()


def _moved(map: Any, along: Sequence[Line], edges: Box | Sequence[Any], unit: Sequence[int]) -> Any:
    """A map of the window of a cell on the window of one of its units."""
    starts = [line.start(u) - int(edge.start) for line, u, edge in zip(along, unit, edges, strict=True)]
    stops = [start + line.window for start, line in zip(starts, along, strict=True)]
    sides = [(max(0, -start), max(0, stop - n)) for start, stop, n in zip(starts, stops, map.shape, strict=True)]
    padded = jnp.pad(map, sides)
    index = tuple(slice(start + low, stop + low) for start, stop, (low, _) in zip(starts, stops, sides, strict=True))
    return padded[index]


def _whole(traced: Traced, program: Program) -> Cone:
    shape = traced.target.space(program.output.shape)
    found = cone_of(program, traced.source, traced.target, [(0,) * len(shape), tuple(n - 1 for n in shape)])
    assert found is not None
    return found


def _bytes(cone: Cone) -> int:
    return sum(step.entries * step.output.dtype.itemsize for step in cone.steps)


def _between(a: Box, b: Box) -> Starts:
    return tuple(int(q.start - p.start) for p, q in zip(a, b, strict=True))


def _written(traced: Traced, units: Sequence[tuple[int, ...]], copies: Copies) -> str:
    """The program of the cone of a cell and of its derivative, where what moves is given: equal for copies."""

    def run(consts: Any, key: Any) -> Any:
        cone = cone_of(traced.program(consts, key), traced.source, traced.target, units)
        assert cone is not None
        dtypes = [atom.dtype for atom in cone.block.inputs]
        windows = [jnp.zeros(lengths(box), dtype) for box, dtype in zip(cone.windows, dtypes, strict=True)]
        given = [(s, j) for s, j in copies.moves if s != INPUT]
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

        written = jax.make_jaxpr(values)(windows, slices)
        concrete = [c for c in written.consts if not isinstance(c, jax.core.Tracer)]
        texts.append(str(written) + "".join(np.asarray(c).tobytes().hex() for c in concrete))
        return 0

    texts: list[str] = []
    jax.eval_shape(run, traced.consts, traced.key)
    return re.sub(r"0x[0-9a-f]+", "", texts[0])
