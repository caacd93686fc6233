"""Which tiles are alike: those that lie alike in their windows, and in whose windows the function knows the same numbers.

Masks, tables and coordinates are as long as the axis. Where they change, at an absolute position say, tiles differ that otherwise
are translates of each other, so one of each must be proved.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from erfjax.decisions.certificate import Traced
from erfjax.tracing.program.equations import Known, Var

MOST_READ = 1 << 24  # entries of a known array that is looked at
MOST_VARYING = 4  # tiles that differ by known numbers alone are proved one by one; of more, so many

Table = tuple[np.ndarray, dict[int, Fraction]]
Kinds = dict[tuple[Hashable, Hashable], int]
"""One tile, by number, for each way to lie and for what is known in its window."""


def tables(whole: Traced, part: Traced, axis: int, unread: dict[str, int]) -> list[Table]:
    """The known arrays beside the data that are longer where an axis of the input is.

    Args:
        whole, part: the function at two shapes.
        axis: of the input.
        unread: is told the equations whose arrays are too large to look at, and the length of the axis.

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
            if math.prod(a.shape) > MOST_READ:
                unread.setdefault(str(mine), n)
                continue
            value: Any = a.concrete
            if value is not None and not all(value.shape[i] > 1 and _flat(value, i) for i in grows):
                found.append((value, grows))
    return found


def _flat(value: np.ndarray, axis: int) -> bool:
    """Whether an array does not vary along an axis."""
    return bool((value == value.take([0], axis)).all())


def kinds_of(lies: Sequence[Hashable], reads: Sequence[tuple[int, int]], known: Sequence[Table]) -> Kinds:
    """The kinds of the tiles along an axis.

    Args:
        lies: how each tile lies in its window, and that to the ends of the axis.
        reads: its window.
        known: the known arrays that may vary along the axis.
    """
    found: Kinds = {}
    for i, (place, (start, stop)) in enumerate(zip(lies, reads, strict=True)):
        found.setdefault((place, _read(known, start, stop)), i)
    return found


def _read(known: Sequence[Table], start: int, stop: int) -> Hashable:
    """What the arrays hold in a window of the axis."""
    parts = []
    for value, grows in known:
        cut = [slice(None)] * value.ndim
        for i, scale in grows.items():
            cut[i] = slice(math.floor(start * scale), math.ceil(stop * scale))
        parts.append(hash(value[tuple(cut)].tobytes()))
    return tuple(parts)


def unproved(kinds: Kinds, proved: Mapping[Any, int]) -> list[int]:
    """The tiles of which one like them is not proved: all ways to lie, and a few of those that differ by known numbers alone."""
    first = {} if proved else {place: i for (place, _), i in reversed(kinds.items())}
    others = [i for (place, held), i in kinds.items() if (place, held) not in proved and first.get(place) != i]
    most = min(len(others), MOST_VARYING)
    some = [others[k * (len(others) - 1) // max(1, most - 1)] for k in range(most)]
    return sorted({*first.values(), *some})
