"""Which arrays have zero mean over channels, because they change sign with the weights that lead to a channel.

Turn the signs of all weights that lead to channel m of a random contraction z = W a. Normal weights of zero mean are as likely
with either sign, so the mean over channels of an array that is *odd*, changes its sign at m, is of the order of 1 / √width. An
array that is *even* stays as it is; any other may have a mean of its own.

| operation | odd where |
|---|---|
| random contraction | always |
| fixed linear operations, sums of several arrays | all operands are |
| a product of two arrays | one is, and the other is even or made of other weights |
| an elementwise function | the operand is, and φ(-z) = -φ(z) |
"""

import enum
from collections.abc import Mapping

import numpy as np

from erfjax.tracing.program.equations import Atom, Known, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.kinds import PRODUCTS, TOTALS, Kind
from erfjax.tracing.second_moments.segments import Partition
from erfjax.tracing.second_moments.steps import exchanged, kind_of, passes
from erfjax.tracing.windows.cone import Step


class Parity(enum.Enum):
    """What an array does if all weights that lead to a channel change their signs."""

    ODD = "changes sign"
    EVEN = "stays as it is"
    NEITHER = "neither of both"


def parities(parts: Partition) -> Mapping[Atom, Parity]:
    """The parity of every array of a cone that is made of results of random contractions."""
    found: dict[Atom, Parity] = {}
    made: dict[Atom, frozenset[Atom]] = {}  # array -> the random contractions that it is made of
    for step in parts.cone.steps:
        if step.output in parts.draws:
            found[step.output], made[step.output] = Parity.ODD, frozenset([step.output])
            continue
        read = [atom for atom in step.equation.inputs if isinstance(atom, Var)]
        roots = frozenset().union(*(made.get(atom, frozenset([atom])) for atom in read))
        held = [found.get(atom, Parity.NEITHER) for atom in read]
        apart = len(read) == 2 and made.get(read[0], {read[0]}).isdisjoint(made.get(read[1], {read[1]}))
        parity = _parity(step, held, apart)
        found.update(dict.fromkeys(step.outputs, parity))
        made.update(dict.fromkeys(step.outputs, roots))
    return found


def _parity(step: Step, held: list[Parity], apart: bool) -> Parity:
    """The parity of a result from those of the operands that vary, which may be `apart`: made of other weights."""
    if all(parity is Parity.EVEN for parity in held):
        return Parity.EVEN
    if not passes(step) or step.inner is not None:
        return Parity.NEITHER
    kind = kind_of(step.equation)
    if kind is Kind.BILINEAR or kind in PRODUCTS:
        if len(held) == 2 and Parity.ODD in held:
            even = Parity.EVEN in held and kind is not Kind.QUOTIENT
            divided = kind is Kind.QUOTIENT and held == [Parity.ODD, Parity.EVEN]
            if even or divided or apart:
                return Parity.ODD
            return Parity.EVEN if held == [Parity.ODD] * 2 else Parity.NEITHER
        return held[0] if len(held) == 1 else Parity.NEITHER
    same = held[0] if len(set(held)) == 1 else Parity.NEITHER
    if kind is Kind.LINEAR and same is Parity.ODD:
        return Parity.ODD if all(map(_centred, step.equation.inputs)) else Parity.NEITHER
    if kind is Kind.LINEAR or kind is Kind.SELECTION or kind in TOTALS:
        return same
    return _of_function(step) if kind is Kind.GATE and held == [Parity.ODD] else Parity.NEITHER


def _centred(atom: Atom) -> bool:
    """Whether a known operand of a sum adds no mean of its own."""
    if isinstance(atom, Var):
        return True
    value = atom.concrete
    return value is not None and bool(abs(np.mean(value)) * np.sqrt(np.size(value)) <= 5 * np.std(value))


def _of_function(step: Step) -> Parity:
    """The parity of an elementwise function of one array, by its values."""
    (place,) = (i for i, atom in enumerate(step.equation.inputs) if isinstance(atom, Var))
    known = [atom.concrete if isinstance(atom, Known) else None for atom in step.equation.inputs]
    if any(value is None for i, value in enumerate(known) if i != place):
        return Parity.NEITHER
    atom, box = step.equation.inputs[place], lengths(step.operands[place] or ())
    z = np.resize(np.linspace(0.1, 2, 20), box).astype(atom.dtype)
    one, other = (np.asarray(exchanged(step, known, [place], [side]), np.float64) for side in (z, -z))
    if np.allclose(one, other, equal_nan=False):
        return Parity.EVEN
    return Parity.ODD if np.allclose(one, -other, equal_nan=False) else Parity.NEITHER
