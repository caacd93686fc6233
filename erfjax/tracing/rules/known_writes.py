"""Known values that are written into arrays: `scores.at[:, rows, columns].set(-jnp.inf)`, and by `add`, `multiply`, `min`."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from erfjax.tracing.positions.access import Seen
from erfjax.tracing.positions.interval_rows import LARGEST
from erfjax.tracing.positions.known_values import UNKNOWN, Constant, Fact, Facts, Low, folds, gathered, lowness
from erfjax.tracing.positions.pattern import EVERYTHING, NOTHING, Pattern, TooLargeError
from erfjax.tracing.positions.through_zeros import sharpens
from erfjax.tracing.positions.zero_views import Where
from erfjax.tracing.program.equations import Equation, Known
from erfjax.tracing.rules.indexing import written


def _places(equation: Equation, table: np.ndarray) -> Pattern:
    """The positions of the operand that are written."""
    shape = equation.inputs[0].shape
    starts, writes, sizes = written(equation, table)
    axes = [a for a, (m, n) in enumerate(zip(sizes, shape, strict=True)) if m < n]
    if not axes:
        return EVERYTHING if writes.any() else NOTHING
    if math.prod(shape[a] for a in axes) > LARGEST:
        raise TooLargeError
    held = np.zeros([shape[a] for a in axes], bool)
    rows, some = starts[writes][:, axes], [sizes[a] for a in axes]
    if math.prod(some) <= len(rows):
        for offset in np.ndindex(*some):
            held[tuple((rows + offset).T)] = True
    else:
        for row in rows.tolist():
            held[tuple(slice(at, at + m) for at, m in zip(row, some, strict=True))] = True
    return Pattern.along(tuple(axes), held)


Combine = Callable[[Constant], Constant | None]


def writes(combine: Combine) -> Callable[[Equation, int, Sequence[Fact]], Fact]:
    """The operand's constants where nothing is written; where one constant is, what `combine` says becomes of the operand."""

    def fold(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
        indices = equation.inputs[1]
        table = indices.concrete if isinstance(indices, Known) else None
        if table is None:
            return UNKNOWN
        operand, _, updates = facts
        where = _places(equation, table)
        found = [(c, held.minus(where)) for c, held in operand.pieces.items()]
        for constant, held in updates.pieces.items():
            made = combine(constant) if held.is_full else None
            if made is not None:
                found.append((made, where))
        return gathered(found)

    return fold


def _added(constant: Constant) -> Constant | None:
    low = lowness(constant)
    return None if low is None else constant if low == -math.inf else Low(low)


def unwritten(equation: Equation, result: int, seen: Sequence[Seen | None], facts: Facts) -> Sequence[Seen | None]:
    """The operand is not seen where the result is a constant and it is not."""
    view, *others = seen
    hidden = facts.of(equation.outputs[result]).constant.minus(facts.of(equation.inputs[0]).constant)
    return [Where(view, hidden.complement) if view is not None and hidden else view, *others]


def _set(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
    """`at[...].set`; a scatter with a function of its own (`at[...].apply`) writes what that makes of the operand."""
    return (
        UNKNOWN
        if equation.params["update_jaxpr"] is not None
        else writes(lambda constant: constant)(equation, result, facts)
    )


folds("scatter", _set, run=True)
folds("scatter_add", writes(_added), run=True)
folds("scatter_mul", writes(lambda constant: 0 if constant == 0 else None), run=True)
folds("scatter_min", writes(lambda constant: constant if constant == -math.inf else None), run=True)
sharpens("scatter scatter_add scatter_mul scatter_min", unwritten)
