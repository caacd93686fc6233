"""Which pairs of positions are needed: for every array, whether its covariance is a whole matrix or a band of few lags.

The map is the diagonal of the covariance at the input. So two positions of an array matter together only if both lead to one
position of the input, and only if the unit leads to both: the lags that are kept are those that the input needs, found from the
input to the unit, and that the unit reaches, found on the way back.

* random contraction: both positions meet the same weight, so the lag is kept, times the stride;
* positions aligned: the lag is kept;
* fixed windows (pools, blurs, resizes): lags widen by the windows;
* what reaches all positions (attention, a global mean) needs all lags, and a matrix.

Where few lags are left, the covariance is a band, and costs one pass over the positions for each of them.
"""

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Protocol

from erfjax.errors import DataDependentError
from erfjax.tracing.program.equations import Var
from erfjax.tracing.second_moments.covariances import Band, Lags, Layout, Matrix, diagonal
from erfjax.tracing.second_moments.draws import lags_after, lags_before
from erfjax.tracing.second_moments.passages import frame, passage
from erfjax.tracing.second_moments.reaches import Windows, windows
from erfjax.tracing.second_moments.segments import Partition, Segment

FEW = 0.25  # of the positions: bands of more lags are no cheaper than the matrix


BANDED = (
    "{equation} brings positions together that are any number of lags apart, or channels with them: a band cannot hold their "
    'covariance. Use positions="together".'
)


class Way(Protocol):
    """How lags pass from the end of a segment to a start."""

    def reached(self, lags: Lags) -> Lags: ...

    def needed(self, lags: Lags) -> Lags: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """How the covariances of a partition are held.

    Attributes:
        layouts: how that at every array is held.
        windows: for the end of a segment and a start, the windows between them, where there are few positions in each.
        asked: "band" or "matrix", whichever is cheaper or not; anything else leaves the choice.
    """

    layouts: Mapping[Var, Layout]
    windows: Mapping[tuple[Var, Var], Windows]
    asked: str

    def ways(self, parts: Partition, segment: Segment) -> dict[Var, Way | None]:
        """How lags pass to the starts of a segment; None where all pairs of positions have to be known."""
        found: dict[Var, Way | None] = {}
        for start in segment.links:
            way = passage(parts, segment, start)
            found[start] = way if way.local else self.windows.get((segment.end, start))
        return found

    def onto(self, one: Partition, other: Partition) -> "Plan":
        """The plan of another partition of the same structure: of the same cone with other weights, or traced again."""
        same = dict(zip(one.order, other.order, strict=True))
        return Plan(
            {same[atom]: layout for atom, layout in self.layouts.items()},
            {(same[end], same[start]): seen for (end, start), seen in self.windows.items()},
            self.asked,
        )

    def identity(self, parts: Partition) -> Hashable:
        """What two plans of partitions of the same structure share if they are the same."""
        number = {atom: i for i, atom in enumerate(parts.order)}
        windows = {(number[end], number[start], seen.identity) for (end, start), seen in self.windows.items()}
        return self.asked, tuple(self.layouts[atom] for atom in parts.order), frozenset(windows)


def plan(parts: Partition, asked: str = "together") -> Plan:
    """How the covariance is held at every array of a partition, from the values of its fixed matrices.

    Args:
        parts: the cone, cut into segments.
        asked: see `Plan`.

    Raises:
        DataDependentError: a band was asked for, and something reaches all positions.
    """
    seen = Plan({}, dict(_windows(parts)), asked)
    between = {atom: seen.ways(parts, segment) for atom, segment in parts.segments.items()}
    needed = _needed(parts, between)
    (output,) = parts.cone.wanted
    assert isinstance(output, Var)
    made = {step.output: step.equation for step in parts.cone.steps}
    reached = {output: diagonal(frame(parts, output).sizes).lags}
    found: dict[Var, Layout] = {}
    for atom in parts.order:
        sizes, ways = frame(parts, atom).sizes, between.get(atom, {})
        every = Matrix(sizes)
        if atom not in reached:
            found[atom] = diagonal(sizes)  # the unit leads nowhere here
            continue
        kept = _both(reached[atom], needed.get(atom, every.lags))
        if atom in parts.draws:
            source = parts.draws[atom].source
            onwards = {source: lags_before(parts, parts.draws[atom], kept)}
        else:
            onwards = {start: _passed(parts, start, way, kept) for start, way in ways.items()}
        for start, lags in onwards.items():
            reached[start] = either([reached[start], lags] if start in reached else [lags])
        found[atom] = layout(sizes, kept, asked)
        if None in ways.values():
            if asked == "band" and every.positions > 1:
                raise DataDependentError(BANDED.format(equation=made[atom]))
            found[atom] = every
    return dataclasses.replace(seen, layouts=found)


def states(parts: Partition, held: Plan, ends: Iterable[Var]) -> Plan:
    """How covariances of activations are held: at the lags of these arrays' gradients, and those they are computed from."""
    lags = {atom: [held.layouts[atom].lags] for atom in ends}
    for atom in parts.order:
        if atom not in lags:
            continue
        kept = either(lags[atom])
        if atom in parts.draws:
            lags.setdefault(parts.draws[atom].source, []).append(lags_before(parts, parts.draws[atom], kept))
        elif atom in parts.segments:
            for start, way in held.ways(parts, parts.segments[atom]).items():
                lags.setdefault(start, []).append(_passed(parts, start, way, kept))
    found = {atom: layout(frame(parts, atom).sizes, either(each), held.asked) for atom, each in lags.items()}
    return dataclasses.replace(held, layouts=found)


def layout(sizes: tuple[int, ...], lags: Lags, asked: str) -> Layout:
    """A band of these lags where they are few, else a matrix; or what is asked for."""
    band, every = Band(sizes, lags), Matrix(sizes)
    few = len(band.rows) == 1 or len(band.rows) <= FEW * every.positions
    return band if asked == "band" or (few and asked != "matrix") else every


def _windows(parts: Partition) -> Iterator[tuple[tuple[Var, Var], Windows]]:
    for end, segment in parts.segments.items():
        for start in segment.links:
            way = passage(parts, segment, start)
            seen = windows(way, segment, start) if way.separate and not way.local else None
            if seen is not None:
                yield (end, start), seen


def _passed(parts: Partition, start: Var, way: Way | None, lags: Lags) -> Lags:
    """The lags at a start that those at the end of a segment lead to."""
    return Matrix(frame(parts, start).sizes).lags if way is None else way.reached(lags)


def _needed(parts: Partition, ways: Mapping[Var, Mapping[Var, Way | None]]) -> dict[Var, Lags]:
    """The lags that lead to one position of the input."""
    found: dict[Var, Lags] = {}
    for atom in reversed(parts.order):
        if atom is parts.cone.block.inputs[0]:
            found[atom] = diagonal(frame(parts, atom).sizes).lags
        elif atom in parts.draws:
            draw = parts.draws[atom]
            if draw.source in found:
                found[atom] = lags_after(parts, draw, found[draw.source])
        elif atom in ways:
            each = [
                Matrix(frame(parts, atom).sizes).lags if way is None else way.needed(found[start])
                for start, way in ways[atom].items()
                if start in found
            ]
            if each:
                found[atom] = either(each)
    return found


def either(each: Iterable[Lags]) -> Lags:
    """The lags that occur in any."""
    return tuple(tuple(sorted({0}.union(*axis))) for axis in zip(*each, strict=True))


def _both(one: Lags, two: Lags) -> Lags:
    return tuple(tuple(sorted({0} | (set(a) & set(b)))) for a, b in zip(one, two, strict=True))
