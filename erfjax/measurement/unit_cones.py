"""All units at once, on a cone for each: the second way to what `every_unit` finds by colours.

Units are divided into *cells*: as many neighbours along each axis as the field has phases. The cone of one cell, moved, serves
all others: it is compiled once and runs on a batch of windows cut out of the image (see `unit_copies`).
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.errors import DataDependentError
from erfjax.measurement import reduction, unit_copies
from erfjax.measurement.cone import Traced, cone_of, saves
from erfjax.measurement.engine import Parted
from erfjax.measurement.every_unit import Line, finished
from erfjax.measurement.unit_copies import (
    INPUT,
    MOST_IN_A_CELL,
    Place,
    cell_maps,
    chunked,
    evaluate,
    moves,
    room,
    size_of,
    work_of_whole,
    written,
)  # fmt: skip
from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.program.equations import Known, Program, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.pullbacks import work
from erfjax.tracing.windows.cone import Cone
from erfjax.typing import Channels, Statistic


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
        limit = unit_copies.WORTH * work_of_whole(traced, program) * (1 + probes * colours)
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
    found = Copies(units(starts), cells, {}, sum(map(work, first.steps)), size_of(first))
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
    given = [place for place in moving if place[0] != INPUT]
    programs = {written(traced, units(at), given) for at in (starts, *others, ends)}
    return found if len(programs) == 1 else None


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

    parts, cost = [], 0
    for name, copy in enumerate(copies):
        taken = room(copy.bytes, len(copy.units), probes)
        chunks, most = chunked(np.array(list(np.ndindex(copy.cells))), taken)
        cost = max(cost, int(most))
        parts += [{str(name): jnp.asarray(rows)} for rows in chunks]
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

    def values(window: Any) -> Any:
        return evaluate(cone, [window, *windows[1:]], slices)

    maps, exponents, finite, output = cell_maps(traced, cone, copy.units, windows[0], values, statistic, channels, key)
    edges = [cone.windows[0][axis] for axis in traced.source.spatial]
    maps = jnp.stack([_moved(one, along, edges, unit) for one, unit in zip(maps, copy.units, strict=True)])
    return maps * row[-1].astype(maps.dtype), exponents, finite.all(), output.all()


def _moved(map: Any, along: Sequence[Line], edges: Box | Sequence[Any], unit: Sequence[int]) -> Any:
    """A map of the window of a cell on the window of one of its units."""
    starts = [line.start(u) - int(edge.start) for line, u, edge in zip(along, unit, edges, strict=True)]
    stops = [start + line.window for start, line in zip(starts, along, strict=True)]
    sides = [(max(0, -start), max(0, stop - n)) for start, stop, n in zip(starts, stops, map.shape, strict=True)]
    padded = jnp.pad(map, sides)
    index = tuple(slice(start + low, stop + low) for start, stop, (low, _) in zip(starts, stops, sides, strict=True))
    return padded[index]
