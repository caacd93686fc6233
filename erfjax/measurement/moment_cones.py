"""The moments of many units' maps, on a cone for each: the second way to what `unit_moments` finds by colours.

Units are divided into cells, as in `unit_cones`; here those at the border count as well. One cone in the middle of the image,
moved, serves all of them: where it runs past the border, what lies there is what the layer pads with. So every convolution,
pooling and padding has what it reads beyond its operand filled in, and what it makes beyond its result cut off, gradients
included. That the cones of units at the border are parts of the moved one, and read nothing else, is looked up for each.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.errors import DataDependentError
from erfjax.measurement import reduction, unit_copies
from erfjax.measurement.cone import Traced, cone_of, saves
from erfjax.measurement.engine import Parted
from erfjax.measurement.every_unit import along_axis, faults
from erfjax.measurement.unit_copies import INPUT, MOST_IN_A_CELL, Place, between, cell_maps, chunked, evaluate, moves
from erfjax.measurement.unit_moments import Row, moments_of, shared, together
from erfjax.tracing.positions.hull import refuse
from erfjax.tracing.positions.index_sets import Box, clip
from erfjax.tracing.program.equations import Known, Program, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.pullbacks import work
from erfjax.tracing.windows.cone import Cone, Step
from erfjax.tracing.windows.cpu_taps import on_cpu
from erfjax.typing import Channels, Statistic

BESIDE = 2e5  # operations that take as long as reading the window of one cell and summing up its map: 25 µs
MASKED = 1.2  # what filling in beyond the border adds to all operations of a cone
SWAPPED = 8  # XLA's gradient on a CPU of a strided convolution with more taps than results, over what it need take
RESULT = -1  # in a place: not an operand of the step, but what it computes
PADDED: Mapping[Any, Callable[[list[Any]], Any]] = {  # what lies beyond the first operand
    lax.conv_general_dilated_p: lambda operands: 0,
    lax.pad_p: lambda operands: operands[1],
    lax.reduce_window_sum_p: lambda operands: 0,
    lax.reduce_window_max_p: lambda operands: -math.inf,
    lax.reduce_window_min_p: lambda operands: math.inf,
}
Cell = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Cells of units, all on the moved cone of one of them.

    Attributes:
        units: of the cell whose cone it is.
        home: which cell that is.
        counts: how many cells there are along each axis; the last ones may hold fewer units.
        sizes: units of a cell along each axis.
        drift: how far everything moves from one cell to the next, in entries: (axes of cells, axes of the array).
        beyond: the operands that are read beyond their ends.
        window: of the cone.
        work: operations of one pass through the cone, forwards or backwards, about.
        bytes: of all that it computes.
    """

    units: tuple[tuple[int, ...], ...]
    home: Cell
    counts: Cell
    sizes: tuple[int, ...]
    drift: Mapping[Place, np.ndarray]
    beyond: frozenset[Place]
    window: Box
    work: float
    bytes: int

    @property
    def number(self) -> int:
        return math.prod(self.counts)

    def cost(self, probes: int) -> float:
        """Operations for all cells, with so many pullbacks for each unit."""
        return self.number * (BESIDE + MASKED * self.work * (1 + probes * len(self.units)))

    def reach(self, place: Place, box: Box) -> tuple[list[int], list[int]]:
        """From where to where a box of the cone lies at most, over all cells."""
        first, last = (np.array(at) - self.home for at in ((0,) * len(self.home), [n - 1 for n in self.counts]))
        by = [np.minimum(first @ self.drift[place], last @ self.drift[place]),
              np.maximum(first @ self.drift[place], last @ self.drift[place])]  # fmt: skip
        return [int(p.start + d) for p, d in zip(box, by[0], strict=True)], [
            int(p.stop + d) for p, d in zip(box, by[1], strict=True)
        ]


def cheaper(traced: Traced, rows: Sequence[Row], periods: Sequence[int], channels: Channels) -> Cells | None:
    """The cells of all units; None where colours cost less, or where one cone does not serve all of them.

    Args:
        traced, rows, channels: see `unit_moments.sample_moments`.
        periods: after how many units the field repeats, per axis.
    """
    probes = traced.channels if channels == "frobenius" else 1
    colours = math.prod(row.spacing for row in rows)
    found: list[Cells] = []

    def look(consts: Any, key: Any) -> int:
        program = traced.program(consts, key)
        if isinstance(program.output, Var):
            limit = unit_copies.WORTH * unit_copies.work_of_whole(traced, program) * (1 + probes * colours)
            cells = cells_of(traced, program, rows, periods, probes, limit)
            found.extend([] if cells is None else [cells])
        return 0

    try:
        jax.eval_shape(look, traced.consts, traced.key)
    except DataDependentError:
        return None
    return found[0] if found else None


def cells_of(
    traced: Traced, program: Program, rows: Sequence[Row], periods: Sequence[int], probes: int, limit: float
) -> Cells | None:
    """The cells of the units; None where one cone does not serve all, or takes more operations than the limit."""
    sizes = tuple(
        min(period // math.gcd(period, row.step), len(row.units)) for row, period in zip(rows, periods, strict=True)
    )
    counts = tuple(-(-len(row.units) // size) for row, size in zip(rows, sizes, strict=True))
    home = tuple(min(n // 2, len(row.units) // size - 1) for n, row, size in zip(counts, rows, sizes, strict=True))

    def units(cell: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        lines = [row.units[c * size : (c + 1) * size] for row, c, size in zip(rows, cell, sizes, strict=True)]
        return tuple(tuple(map(int, unit)) for unit in itertools.product(*lines))

    def cone(cell: Sequence[int]) -> Cone:
        found = cone_of(program, traced.source, traced.target, units(cell))
        assert found is not None  # the input matters
        return found

    first = cone(home)
    found = Cells(
        units(home),
        home,
        counts,
        sizes,
        {},
        frozenset(),
        first.windows[0],
        sum(work(step) * (SWAPPED if on_cpu() and _swapped(step) else 1) for step in first.steps),
        unit_copies.size_of(first),
    )
    if len(found.units) > MOST_IN_A_CELL or not found.cost(probes) < limit or not saves(first, traced.loops):
        return None
    lines = [[(*home[:axis], c, *home[axis + 1 :]) for c in range(n)] for axis, n in enumerate(counts)]
    cones = {cell: cone(cell) for line in lines for cell in line}
    drifts = [_drift(first, [cones[cell] for cell in line], at) for line, at in zip(lines, home, strict=True)]
    if any(drift is None for drift in drifts):
        return None
    places = {place: np.array([drift[place] for drift in drifts if drift], np.int32) for place in drifts[0] or {}}
    found = dataclasses.replace(found, drift=places)
    own = places[INPUT, 0][:, list(traced.source.spatial)]
    if (own != np.diag(np.diag(own))).any():  # what units see along one axis depends on their place along another
        return None
    corners = itertools.product(*({0, n - 1} for n in counts))
    beyond: set[Place] = set()
    for cell in (*cones, *corners):
        part = _part(first, found, cell, cones.get(cell) or cone(cell))
        if part is None:
            return None
        beyond |= part
    inside = [[cell for cell in line if moves(first, cones[cell]) is not None] for line in lines]
    ends = (tuple(line[end][axis] for axis, line in enumerate(inside)) for end in (0, -1))
    given = [(s, j) for (s, j), by in places.items() if s != INPUT and j != RESULT and by.any() and _known(first, s, j)]
    programs = {unit_copies.written(traced, units(cell), given) for cell in (home, *ends)}
    return dataclasses.replace(found, beyond=frozenset(beyond)) if len(programs) == 1 else None


def _swapped(step: Step) -> bool:
    """Whether a step is a strided convolution with more taps than positions of its result."""
    params = step.equation.params
    if step.equation.primitive is not lax.conv_general_dilated_p or max(params["window_strides"], default=1) == 1:
        return False
    _, rhs, out = params["dimension_numbers"]
    positions = math.prod(lengths(step.box)[axis] for axis in out[2:])
    return math.prod(step.equation.inputs[1].shape[axis] for axis in rhs[2:]) > positions


def _known(cone: Cone, s: int, j: int) -> bool:
    return isinstance(cone.steps[s].equation.inputs[j], Known)


def _drift(first: Cone, line: Sequence[Cone], home: int) -> dict[Place, Sequence[int]] | None:
    """How far everything in a cone moves to the next cell of a line; None where that is not the same before and behind it."""
    found: dict[Place, Sequence[int]] | None = None
    for other, by in ((home - 1, -1), (home + 1, 1)):
        if not 0 <= other < len(line):
            continue
        known = moves(first, line[other])
        if known is None and other == len(line) - 1 and found is not None:
            continue  # the last cell may hold fewer units
        if known is None:
            return None
        here: dict[Place, Sequence[int]] = {(INPUT, i): move for (s, i), move in known.items() if s == INPUT}
        for s, (p, q) in enumerate(zip(first.steps, line[other].steps, strict=True)):
            here[s, RESULT] = between(p.box, q.box)
            for j, (own, its) in enumerate(zip(p.operands, q.operands, strict=True)):
                if own is not None and its is not None:
                    here[s, j] = known[s, j] if (s, j) in known else between(own, its)
        here = {place: [by * d for d in move] for place, move in here.items()}
        if found is not None and found != here:
            return None
        found = here
    if found is None:  # one cell only
        still = [(s, j) for s, step in enumerate(first.steps) for j in range(-1, len(step.operands))]
        found = {
            (s, j): (0,) * len(first.steps[s].box if j < 0 else first.steps[s].operands[j] or ()) for s, j in still
        }
        found |= {(INPUT, i): (0,) * len(box) for i, box in enumerate(first.windows)}
    return found


def _part(first: Cone, cells: Cells, cell: Cell, other: Cone) -> set[Place] | None:
    """Which operands of the cone, moved to a cell, are read beyond their ends; None where it does not hold the cell's own."""

    def moved(place: Place, box: Box) -> Box:
        by = np.subtract(cell, cells.home) @ cells.drift[place]
        return tuple(p.shift(int(d)) for p, d in zip(box, by, strict=True))

    def holds(place: Place, box: Box, part: Box) -> bool:
        return all(p.contains(q) for p, q in zip(moved(place, box), part, strict=True))

    steps = {(step.equation, step.result): s for s, step in enumerate(first.steps)}
    if not holds((INPUT, 0), first.windows[0], other.windows[0]):
        return None
    for own in other.steps:
        s = steps.get((own.equation, own.result))
        if s is None or first.steps[s].local is not own.local or not holds((s, RESULT), first.steps[s].box, own.box):
            return None
        for j, (box, part) in enumerate(zip(first.steps[s].operands, own.operands, strict=True)):
            if part is not None and (box is None or (not _known(first, s, j) and not holds((s, j), box, part))):
                return None
    beyond: set[Place] = set()
    for s, step in enumerate(first.steps):
        real = clip((moved((s, RESULT), step.box),), step.output.shape)
        if not real or not any(drift.any() for (t, _), drift in cells.drift.items() if t == s):
            continue
        for j, (view, atom) in enumerate(zip(refuse(step.equation, step.result), step.equation.inputs, strict=True)):
            if view is None or step.operands[j] is None:
                continue
            moving = np.any(cells.drift[s, j], 0).tolist()
            if all((p.start >= 0 and p.stop <= n) or not move
                   for held in view.pull(real[0]) for p, n, move in zip(held, atom.shape, moving, strict=True)):  # fmt: skip
                continue
            if j or step.equation.primitive not in PADDED or not isinstance(atom, Var) or not _floating(atom):
                return None
            beyond.add((s, j))
    return beyond


def _floating(atom: Var) -> bool:
    return bool(jnp.issubdtype(atom.dtype, jnp.floating))


def sample_moments(
    traced: Traced, rows: Sequence[Row], cells: Cells, statistic: Statistic, channels: Channels
) -> Parted:
    """The moments of all units of one sample, as `unit_moments.sample_moments` gives them."""
    plain: Statistic = "square" if statistic == "share" else statistic
    probes, many = traced.channels if channels == "frobenius" else 1, len(cells.units)
    tables = [
        _distances(cells, axis, row, position)
        for axis, (row, position) in enumerate(zip(rows, traced.source.spatial, strict=True))
    ]

    def part(consts: Any, key: Any, x: Any, others: Any, rows: Any) -> Any:
        cone = cone_of(traced.program(consts, key), traced.source, traced.target, cells.units)
        assert cone is not None
        read = _reader(cells, cone := cone.settled(), (x, *others))
        mapped = functools.partial(_cell, traced, cells, cone, read, tables, plain, channels, key)
        return jax.vmap(mapped)(rows)

    numbers = np.array(list(np.ndindex(cells.counts)))
    chunks, most = chunked(numbers, unit_copies.room(cells.bytes, many, probes))
    within = [np.arange(n * size).reshape(n, size) < len(row.units)
              for n, size, row in zip(cells.counts, cells.sizes, rows, strict=True)]  # fmt: skip
    real = np.array([
        all(line[c, p] for line, c, p in zip(within, cell, place, strict=True))
        for cell in numbers for place in np.ndindex(cells.sizes)
    ])  # fmt: skip

    def join(found: Sequence[Any]) -> Any:
        def in_order(*leaves: Any) -> Any:  # (chunks' cells, units of a cell) as the leading axis, then samples
            joined = jnp.concatenate(leaves, 1)[:, : cells.number]
            return jnp.moveaxis(joined.reshape(joined.shape[0], -1, *joined.shape[3:]), 1, 0)

        values, exponents, finite, output = (in_order(*leaves) for leaves in zip(*found, strict=True))
        moments, top = together(jnp.where(real[:, None, None], values, 0), exponents, reduction.order(plain))
        grid = (*cells.counts, *cells.sizes)
        order = [axis for i in range(len(rows)) for axis in (i, len(rows) + i)]
        split = jnp.moveaxis(moments, 0, 1).reshape(-1, *grid, moments.shape[-1])
        split = split.transpose(0, *(1 + axis for axis in order), len(grid) + 1)
        full = [n * size for n, size in zip(cells.counts, cells.sizes, strict=True)]
        whole = split.reshape(split.shape[0], *full, split.shape[-1])
        whole = whole[(slice(None), *(slice(len(row.units)) for row in rows))]
        fault = faults(finite | ~real[:, None], (output | ~real[:, None]).all(0))
        return shared(whole, statistic)[:, None], top[:, None], fault

    return Parted(part, [jnp.asarray(chunk) for chunk in chunks], join, int(most))


def _distances(cells: Cells, axis: int, row: Row, position: int) -> np.ndarray:
    """(cells, units of a cell, powers 0 to 2, one, pixels of the window): d**power of a cell's pixels for each of its units."""
    edge = cells.window[position]
    count, size = cells.counts[axis], cells.sizes[axis]
    place = np.resize(row.place, count * size).reshape(count, size)
    start = int(edge.start) + (np.arange(count) - cells.home[axis]) * cells.drift[INPUT, 0][axis, position]
    pixels = start[:, None, None] + np.arange(int(edge.stop - edge.start))
    distance = pixels - place[:, :, None]
    return np.stack([distance**power for power in range(3)], 2)[:, :, :, None]


def _reader(cells: Cells, cone: Cone, leaves: Sequence[Any]) -> Callable[[Place, Any], Any]:
    """The function (place, moves) -> what stands there for a cell, of inputs and of known operands that move."""
    boxes: dict[Place, Box] = {(INPUT, i): box for i, box in enumerate(cone.windows)}
    arrays: dict[Place, Any] = {(INPUT, i): leaf for i, leaf in enumerate(leaves)}
    for s, step in enumerate(cone.steps):
        for j, (atom, box) in enumerate(zip(step.equation.inputs, step.operands, strict=True)):
            if isinstance(atom, Known) and box is not None and cells.drift[s, j].any():
                boxes[s, j], arrays[s, j] = box, atom.value
    low = {}
    for place, box in boxes.items():
        start, stop = cells.reach(place, box)
        low[place] = [max(0, -n) for n in start]
        sides = [(a, max(0, b - n)) for a, b, n in zip(low[place], stop, arrays[place].shape, strict=True)]
        if any(map(any, sides)):
            arrays[place] = jnp.pad(arrays[place], sides, mode="edge")

    def read(place: Place, by: Any) -> Any:
        start = np.array([int(p.start) for p in boxes[place]], np.int32) + np.array(low[place], np.int32)
        moved = jnp.asarray(start) + by @ jnp.asarray(cells.drift[place])
        return lax.dynamic_slice(arrays[place], list(moved), lengths(boxes[place]))

    return read


def _cell(
    traced: Traced, cells: Cells, cone: Cone, read: Callable[[Place, Any], Any], tables: Sequence[np.ndarray],
    statistic: Statistic, channels: Channels, key: Any, row: Any,
) -> Any:  # fmt: skip
    """The moments of the units of a cell; exponents; whether gradients and output are finite."""
    by = row[:-1] - jnp.asarray(cells.home, jnp.int32)
    windows = [read((INPUT, i), by) for i in range(len(cone.windows))]
    slices = {
        (s, j): read((s, j), by)
        for (s, j), drift in cells.drift.items()
        if s != INPUT and j != RESULT and drift.any() and _known(cone, s, j)
    }

    def inside(place: Place, box: Box, shape: Sequence[int], value: Any, fill: Any) -> Any:
        """The value with what lies beyond the array filled in."""
        start, stop = cells.reach(place, box)
        held = None
        for axis, (p, n) in enumerate(zip(box, shape, strict=True)):
            if start[axis] < 0 or stop[axis] > n:
                at = int(p.start) + jnp.arange(int(p.stop - p.start)) + by @ jnp.asarray(cells.drift[place][:, axis])
                line = along_axis((at >= 0) & (at < n), axis, len(shape))
                held = line if held is None else held & line
        return value if held is None else jnp.where(held, value, jnp.asarray(fill, value.dtype))

    def run(s: int, step: Step, operands: list[Any]) -> Mapping[Any, Any]:
        padded = PADDED.get(step.equation.primitive)
        if padded is None:
            return step.results(operands)
        first, *rest = operands
        if (s, 0) in cells.beyond:
            first = inside((s, 0), step.operands[0] or (), step.equation.inputs[0].shape, first, padded(operands))
        found = step.results([first, *rest])
        # Zero, and so are its gradients: those of what follows need not be finite there.
        return {atom: inside((s, RESULT), step.box, atom.shape, value, 0) for atom, value in found.items()}

    def values(window: Any) -> Any:
        own = inside((INPUT, 0), cone.windows[0], cone.block.inputs[0].shape, window, 0)
        return evaluate(cone, [own, *windows[1:]], slices, run)

    maps, exponents, finite, output = cell_maps(traced, cone, cells.units, windows[0], values, statistic, channels, key)
    lines = [jnp.asarray(table, maps.dtype)[row[axis]] for axis, table in enumerate(tables)]
    moments = [
        moments_of(one, [line[p] for line, p in zip(lines, place, strict=True)]).reshape(-1)
        for one, place in zip(maps, np.ndindex(cells.sizes), strict=True)
    ]
    return jnp.stack(moments), exponents, finite, output
