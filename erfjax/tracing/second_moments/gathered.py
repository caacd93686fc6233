"""Sums over channels, followed until they multiply an array with channels, or go back to one: how strongly they turn it.

Let all n channels that are summed grow by a common factor e^t. A sum has the size n and the slope d/dt of the order of n; what is
computed of it has a size u and a slope s. An array that is multiplied by that changes by r = s / u, relative to itself.
The gradient of one channel has r / n times a sum over n channels of either sign in it, one number for all: a part r² / n of the
squared gradient. Means and normalisations have r of about 1, at any width; a sigmoid of a sum over √n has √n.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from erfjax.tracing.program.equations import Known, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.rules.contraction import dot_axes
from erfjax.tracing.second_moments.kinds import PRODUCTS, TOTALS, Kind, Moment
from erfjax.tracing.second_moments.steps import exchanged, kind_of
from erfjax.tracing.windows.cone import Step


@dataclasses.dataclass(frozen=True)
class Gathered:
    """An array made of a sum over channels.

    Attributes:
        count: how many entries are summed.
        slope: by how much the array changes with the logarithm of the size of all of them.
        size: how large it is.
    """

    count: float
    slope: float
    size: float

    @classmethod
    def of(cls, step: Step, operand: int) -> "Gathered":
        """What a step makes that sums over channels of an operand, each of size one."""
        if kind_of(step.equation) in TOTALS:
            count = math.prod(step.equation.inputs[operand].shape) / math.prod(step.output.shape)
            return cls(count, count, count)
        atom, partner = (step.equation.inputs[i] for i in (operand, 1 - operand))
        mine, theirs, *_ = dot_axes(step.equation, operand)
        count = math.prod(atom.shape[a] for a in mine)
        weights = partner.concrete if isinstance(partner, Known) else None
        size = count if weights is None else float(np.mean(np.abs(np.sum(weights, tuple(theirs)))))
        return cls(count, size, size)

    def scaled(self, factor: float) -> "Gathered":
        return dataclasses.replace(self, slope=self.slope * factor, size=self.size * factor)

    def share(self, kind: Moment) -> float:
        """r² / n, where an operation of this kind brings it to an array with channels."""
        relative = self.slope / self.size if kind in (*PRODUCTS, Kind.BILINEAR) and self.size else self.slope
        return relative**2 / self.count


def gathered(step: Step, before: Sequence[Mapping[str, Gathered]], operands: Sequence[int]) -> dict[str, Gathered]:
    """What a step makes of sums over channels that some of its operands are made of, by the places of these sums."""
    found: dict[str, Gathered] = {}
    for operand, sums in zip(operands, before, strict=True):
        for where, total in sums.items():
            after = _through(step, operand, total)
            found[where] = max(found.get(where, after), after, key=lambda one: one.slope)
    return found


def _through(step: Step, operand: int, total: Gathered) -> Gathered:
    kind, partners = kind_of(step.equation), [a for i, a in enumerate(step.equation.inputs) if i != operand]
    if kind in TOTALS:
        return total.scaled(math.prod(step.equation.inputs[operand].shape) / math.prod(step.output.shape))
    if kind in PRODUCTS and not (kind is Kind.QUOTIENT and operand == 1):
        values = [atom.concrete for atom in partners if isinstance(atom, Known)]
        factor = float(np.mean(np.abs(values[0]))) if values and values[0] is not None else 1.0
        return total.scaled(1 / factor if kind is Kind.QUOTIENT and factor else factor)
    if kind is Kind.QUOTIENT:
        return Gathered(total.count, total.slope / total.size**2, 1 / total.size)
    return _curved(step, operand, total) if kind is Kind.GATE else total


def _curved(step: Step, operand: int, total: Gathered) -> Gathered:
    """Powers keep r but for their exponent, logarithms make it a slope; anything else may be as steep as what comes in."""
    known = [atom.concrete if isinstance(atom, Known) else None for atom in step.equation.inputs]
    box = lengths(step.operands[operand] or ())
    steep = Gathered(total.count, total.slope, 1.0)
    if sum(isinstance(atom, Var) for atom in step.equation.inputs) > 1 or total.size <= 0:
        return steep

    def at(size: float) -> float:
        array = np.full(box, size, step.equation.inputs[operand].dtype)
        return float(np.ravel(np.asarray(exchanged(step, known, [operand], [array]), np.float64))[0])

    half, one, two = at(0.5), at(1.0), at(2.0)
    if half > 0 and one > 0 and math.isclose(one / half, two / one, rel_tol=1e-3):
        size = at(total.size)
        return Gathered(total.count, abs(math.log2(two / one)) * size * total.slope / total.size, size)
    if math.isclose(one - half, two - one, rel_tol=1e-3):
        return Gathered(total.count, abs(two - one) / math.log(2) * total.slope / total.size, 1.0)
    return steep
