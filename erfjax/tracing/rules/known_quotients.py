"""A quotient whose denominator is the sum of one term, the numerator, is one: attention that sees a single key has weight 1.

So the query of such a row is not seen, nor is the key: the row is a lookup of one value. The denominator is followed back
through what only moves it (broadcasts, conversions) to the sum, and the sum must be over the very terms that are divided.
"""

import numpy as np

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.known_values import Fact, Facts, gathered, relate
from erfjax.tracing.positions.pattern import EVERYTHING, NOTHING, Pattern
from erfjax.tracing.program.equations import Atom, Equation

CONVERSIONS = {jx.lax_primitive(f"{name}_p") for name in ("convert_element_type", "copy", "reduce_precision")}
BROADCAST, SUM = jx.lax_primitive("broadcast_in_dim_p"), jx.lax_primitive("reduce_sum_p")
RESHAPE, SQUEEZE = jx.lax_primitive("reshape_p"), jx.lax_primitive("squeeze_p")
SELECT = jx.lax_primitive("select_n_p")

Names = dict[int, int]
"""Which axis of the quotient an axis is; axes of one position have no name."""


def _source(atom: Atom, facts: Facts) -> Atom:
    """The array before conversions."""
    made = facts.maker(atom)
    while made is not None and made[0].primitive in CONVERSIONS:
        atom = made[0].inputs[0]
        made = facts.maker(atom)
    return atom


def _before(equation: Equation, names: Names) -> Names | None:
    """The names of the axes of the operand of a broadcast or of a reshape that inserts or drops axes of one position."""
    operand, result = equation.inputs[0].shape, equation.outputs[0].shape
    if equation.primitive is BROADCAST:
        axes = list(enumerate(equation.params["broadcast_dimensions"]))
    else:
        wide = [a for a, n in enumerate(operand) if n != 1], [a for a, n in enumerate(result) if n != 1]
        if [operand[a] for a in wide[0]] != [result[a] for a in wide[1]]:
            return None
        axes = list(zip(*wide, strict=True))
    return {a: names[b] for a, b in axes if operand[a] != 1}


def _summed(atom: Atom, facts: Facts) -> tuple[Equation, Names] | None:
    """The sum that an array only moves, and which of its axes is which."""
    names = {a: a for a, n in enumerate(atom.shape) if n != 1}
    while True:
        made = facts.maker(_source(atom, facts))
        if made is None:
            return None
        equation = made[0]
        if equation.primitive is SUM:
            return equation, names
        before = _before(equation, names) if equation.primitive in (BROADCAST, RESHAPE, SQUEEZE) else None
        if before is None:
            return None
        atom, names = equation.inputs[0], before


def where_alone(equation: Equation, facts: Facts) -> Fact | None:
    """The fact that a quotient is one where its numerator is the only term of the sum that divides it."""
    terms = _source(equation.inputs[0], facts)
    found = _summed(equation.inputs[1], facts)
    if found is None:
        return None
    summed = _source(found[0].inputs[0], facts)
    chosen = _chosen(summed, terms, facts)
    over, shape = found[0].params["axes"], terms.shape
    kept = [a for a in range(len(shape)) if a not in over]
    same = all(found[1].get(i, a) == a for i, a in enumerate(kept) if shape[a] != 1)
    held = facts.of(summed).mask.complement
    wide = [a for a in over if shape[a] != 1]
    if not chosen or not same or len(wide) != 1 or held.is_full:
        return None
    one = _single(held, wide[0]).meet(chosen)
    return gathered([(1.0, one)]) if one else None


def _chosen(summed: Atom, terms: Atom, facts: Facts) -> Pattern:
    """Where what is summed is the numerator: everywhere, or where it is known to be selected (`softmax(..., where=mask)`)."""
    made = facts.maker(summed)
    if summed is terms:
        return EVERYTHING
    if made is None or made[0].primitive is not SELECT:
        return NOTHING
    which, *cases = made[0].inputs
    taken = [facts.of(which).at(k) for k, case in enumerate(cases) if _source(case, facts) is terms]
    return taken[0] if taken else NOTHING


def _single(held: Pattern, axis: int) -> Pattern:
    """The positions that are the only ones held along an axis."""
    if axis not in held.axes:
        return NOTHING
    last = max(held.axes) + 1
    names = {a: a for a in held.axes} | {axis: last}
    moved = held.renamed(names)
    rows = np.where(moved.held.lengths() == 1, np.arange(moved.held.count), -1)
    alone = Pattern(moved.axes, moved.sizes, moved.held.take(rows))
    return alone.renamed({new: old for old, new in names.items()}) if alone else NOTHING


relate("div", where_alone)
