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

from collections.abc import Iterable, Mapping
from typing import Protocol

from erfjax.tracing.program.equations import Var
from erfjax.tracing.second_moments.covariances import Band, Lags, Layout, Matrix, diagonal
from erfjax.tracing.second_moments.draws import lags_after, lags_before
from erfjax.tracing.second_moments.passages import frame, passage
from erfjax.tracing.second_moments.reaches import windows
from erfjax.tracing.second_moments.segments import Partition, Segment

FEW = 0.25  # of the positions: bands of more lags are no cheaper than the matrix


class Way(Protocol):
    """How lags pass from the end of a segment to a start."""

    def reached(self, lags: Lags) -> Lags: ...

    def needed(self, lags: Lags) -> Lags: ...


def layouts(parts: Partition) -> dict[Var, Layout]:
    """How the covariance is held at every array of a partition."""
    between = {atom: ways(parts, segment) for atom, segment in parts.segments.items()}
    needed = _needed(parts, between)
    (output,) = parts.cone.wanted
    assert isinstance(output, Var)
    reached = {output: diagonal(frame(parts, output).sizes).lags}
    found: dict[Var, Layout] = {}
    for atom in parts.order:
        sizes = frame(parts, atom).sizes
        every = Matrix(sizes)
        if atom not in reached:
            found[atom] = diagonal(sizes)  # the unit leads nowhere here
            continue
        kept = _both(reached[atom], needed.get(atom, every.lags))
        if atom in parts.draws:
            source = parts.draws[atom].source
            onwards = {source: lags_before(parts, parts.draws[atom], kept)}
        else:
            here = between.get(atom, {})
            onwards = {
                start: Matrix(frame(parts, start).sizes).lags if way is None else way.reached(kept)
                for start, way in here.items()
            }
        for start, lags in onwards.items():
            reached[start] = either([reached[start], lags] if start in reached else [lags])
        found[atom] = every if None in between.get(atom, {}).values() else layout(sizes, kept)
    return found


def layout(sizes: tuple[int, ...], lags: Lags) -> Layout:
    """A band of these lags where they are few, else a matrix."""
    band, every = Band(sizes, lags), Matrix(sizes)
    return band if len(band.rows) == 1 or len(band.rows) <= FEW * every.positions else every


def ways(parts: Partition, segment: Segment) -> dict[Var, Way | None]:
    """How lags pass to the starts of a segment; None where all pairs of positions have to be known."""
    found: dict[Var, Way | None] = {}
    for start in segment.links:
        way = passage(parts, segment, start)
        found[start] = way if way.local else windows(way, segment, start) if way.separate else None
    return found


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
