"""What the backward walk must know about the units of a network: their values, and the slopes of elementwise operations.

`observed` takes both from data; `mean_field.expected` computes what they are for random weights. Slopes are taken with respect
to a *base*: the last array that is not an elementwise function of one other array. So the slopes along x·sigmoid(x) add up
before they are squared.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.program.equations import Atom, Equation
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.second_moments.steps import dependent, elementwise, kind_of, slope
from erfjax.tracing.windows.cone import Cone, cut

IsRandom = Callable[[Equation, int], bool]
"""(equation, operand) -> whether a known operand is an independent draw of zero mean."""

Weigh = Callable[[Equation, int, Any], Scaled]
"""(equation, operand, known weight) -> what stands for its power in the walk."""

Gates = list[tuple[Atom, Box, Scaled]]
"""(base, its box, E slope^power of the step's result with respect to it)."""


@dataclasses.dataclass(frozen=True)
class Activity:
    """What the units do.

    Attributes:
        values: every variable on its box: its value, or its mean where there are no data.
        gates: for every elementwise step's result, its bases.
        raised: (variable) -> its power, or the expectation of it, on its box.
        evenly: whether extrema choose evenly, for want of data.
    """

    values: Mapping[Atom, Any]
    gates: Mapping[Atom, Gates]
    raised: Callable[[Atom], Scaled]
    evenly: bool


def observed(cone: Cone, windows: Sequence[Any]) -> Callable[[int], Activity]:
    """The activity that inputs cause, given on their windows, for the power asked for."""
    held: dict[Atom, Any] = dict(zip(cone.block.inputs, windows, strict=True))
    single: dict[Atom, tuple[Atom, Any]] = {}  # result -> its only base and the slope with respect to it
    found: dict[Atom, dict[Atom, tuple[Box, Any]]] = {}
    for step in cone.steps:
        values, output = cone.operands(step, held), step.output
        held[output] = step.apply(values)
        if not elementwise(step):
            continue
        slopes: dict[Atom, tuple[Box, Any]] = {}
        for i in dependent(step):
            base, by, box = step.equation.inputs[i], slope(step, values, i), step.operands[i] or ()
            if kind_of(step.equation) in (Kind.GATE, Kind.EXCLUSIVE):
                by = jnp.where(
                    jnp.isnan(held[output]), jnp.nan, by
                )  # no gate of what is not a number is open or closed
            if base in single and base.shape == output.shape:
                outer, (base, inner) = by, single[base]
                inner, box = cut(inner, cone.boxes[step.equation.inputs[i]], step.box), step.box
                closed = inner == 0  # whatever the slope after it, infinity too
                by = jnp.where(closed, 0, inner * jnp.where(closed, 0, outer))
            slopes[base] = (box, slopes[base][1] + by) if base in slopes else (box, by)
        if len(slopes) == 1:
            ((base, (_, by)),) = slopes.items()
            if base.shape == output.shape:
                single[output] = base, by
        found[output] = slopes

    def activity(power: int) -> Activity:
        gates = {
            atom: [(base, box, Scaled.of(by).power(power)) for base, (box, by) in slopes.items()]
            for atom, slopes in found.items()
        }
        return Activity(held, gates, lambda atom: Scaled.of(held[atom]).power(power), evenly=False)

    return activity


def fault(cone: Cone, windows: Sequence[Any]) -> str:
    """Where, for an input, something is first not finite that the backward walk needs, and what helps."""
    activity = observed(cone, windows)(1)
    for step in cone.steps:
        for _, _, gain in activity.gates.get(step.output, ()):
            if jnp.isnan(gain.digits).any():
                return (
                    f"{step.equation} meets a number that is not finite: look at the input and the weights, or compute in "
                    "float64 (jax.enable_x64), if activations overflow."
                )
            if jnp.isinf(gain.digits).any():
                return (
                    f"the slope of {step.equation} is infinite at an activation: keep its argument away from there, as "
                    "jnp.sqrt(y + 1e-6) does in place of jnp.sqrt(y)."
                )
    return "an activation is not finite: look at the input and the weights, or compute in float64 (jax.enable_x64)."
