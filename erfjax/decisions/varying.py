"""Which tiles are alike: they lie alike in their windows, the function does the same there, and knows the same numbers there.

Masks, tables and coordinates are as long as the axis, and a slice or a patch may begin at an absolute position. Where they
change, tiles differ that otherwise are translates of each other, so one of each must be proved.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from erfjax.decisions.certificate import Traced
from erfjax.decisions.spans import Span, Spans, all_held, through
from erfjax.tracing.positions.hull import refuse
from erfjax.tracing.positions.index_sets import full
from erfjax.tracing.program.equations import Known, Var

MOST_READ = 1 << 24  # entries of a known array that is looked at
MOST_VARYING = 4  # tiles that differ otherwise than in how they lie are all proved; of more, so many of each kind

Table = tuple[np.ndarray, dict[int, Fraction]]
Kinds = dict[tuple[Hashable, tuple[Hashable, ...]], int]
"""One tile, by number, for each way to lie, for what is seen, and for what is known in its window."""


def tables(whole: Traced, part: Traced, axis: int, unread: dict[str, int]) -> list[Table]:
    """The known arrays beside the data that are longer where an axis of the input is.

    Args:
        whole, part: the function at two shapes.
        axis: of the input.
        unread: the equations whose arrays are too large to look at, and the length of the axis; more are added.

    Returns:
        Each with its axes that grow, and their positions per position of the input.
    """
    n, m = (traced.program.input.shape[axis] for traced in (whole, part))
    found: list[Table] = []
    if n == m:
        return found
    for mine, other in zip(whole.program.equations, part.program.equations, strict=False):
        if mine.primitive is not other.primitive:
            break
        for a, b in zip(mine.inputs, other.inputs, strict=False):
            if not (isinstance(a, Known) and isinstance(b, Known)) or len(a.shape) != len(b.shape):
                continue
            grows = {i: Fraction(p - q, n - m) for i, (p, q) in enumerate(zip(a.shape, b.shape, strict=True)) if p != q}
            if not grows or not any(isinstance(v, Var) for v in mine.inputs):
                continue
            if math.prod(a.shape) > MOST_READ or str(mine) in unread:
                unread.setdefault(str(mine), n)
                continue
            value: Any = a.concrete
            if value is not None:
                found.append((value, grows))
    return found


def seen(whole: Traced, out: int, writes: Sequence[tuple[int, int]]) -> list[Hashable]:
    """What the tiles along an axis of the output see of every hidden array, known ones too, from where they are."""
    low, high = np.array(writes, float).T
    wanted = tuple(Span.of(points.start, points.stop) for points in full(whole.output.shape))
    wanted = (*wanted[:out], Span(low, high), *wanted[out + 1 :])
    edges: list[tuple[Spans, Sequence[int]]] = []
    through(whole.program, {whole.output: wanted}, refuse, clipped=True, edges=edges)
    number, columns = np.arange(len(low)), []
    for spans, shape in edges:
        held = all_held(spans)
        for span, n in zip(spans, shape, strict=True):
            for ends in (span.start, np.where(span.stop == n, np.inf, span.stop)):
                steps = np.diff(ends[np.isfinite(ends)])
                moved = ends - number * (np.median(steps) if steps.size else 0)
                columns.append(np.where(held, moved, -np.inf))
    return [row.tobytes() for row in np.array(columns).T] if columns else [b""] * len(low)


def kinds_of(
    lies: Sequence[Hashable], reads: Sequence[tuple[int, int]], looks: Sequence[Hashable], known: Sequence[Table]
) -> Kinds:
    """The kinds of the tiles along an axis.

    Args:
        lies: how each tile lies in its window, and that to the ends of the axis.
        reads: its window.
        looks: what it sees.
        known: the known arrays that may vary along the axis.
    """
    found: Kinds = {}
    for i, (place, (start, stop), look) in enumerate(zip(lies, reads, looks, strict=True)):
        found.setdefault((place, (look, *_read(known, start, stop))), i)
    return found


def _read(known: Sequence[Table], start: int, stop: int) -> Iterator[Hashable]:
    """What the arrays hold in a window of the axis."""
    for value, grows in known:
        cut = [slice(None)] * value.ndim
        for i, scale in grows.items():
            cut[i] = slice(math.floor(start * scale), math.ceil(stop * scale))
        part = value[tuple(cut)]
        yield hash(part.tobytes())
        if np.issubdtype(part.dtype, np.integer) and part.size:  # positions: alike where they move with the tile
            yield hash((part - part.flat[0]).tobytes())


def unproved(kinds: Kinds, proved: Mapping[Any, int]) -> tuple[list[int], list[int]]:
    """The tiles of which one like them is not proved: one for each way to lie, and those that differ from it otherwise.

    Of the latter, many are a few for everything by which they differ.
    """
    first = {} if proved else {place: i for (place, _), i in reversed(kinds.items())}
    others = {i: held for (place, held), i in kinds.items() if (place, held) not in proved and first.get(place) != i}
    if len(others) <= MOST_VARYING:
        return list(first.values()), list(others)
    some = set(_few(list(others)))
    for parts in zip(*others.values(), strict=True):
        one = dict(zip(reversed(parts), reversed(others), strict=True))
        some |= set(one.values()) if len(one) <= MOST_VARYING else set()
    return list(first.values()), sorted(some)


def _few(tiles: Sequence[int]) -> list[int]:
    """Some of many, from the first to the last."""
    return [tiles[k * (len(tiles) - 1) // (MOST_VARYING - 1)] for k in range(MOST_VARYING)]
