"""The moments walk: forwards through a cone, carrying values and, beside them, pushed moments.

For independent zero-mean weights and independent gates the expected squared gradient of a unit obeys a linear recursion whose
coefficients are squared Jacobians (Luo et al. 2016, section 2; the second moment of a sum of independent terms is the sum of
second moments). So one linear pass `v -> (J∘J) v`, transposed at the unit, gives the whole map with no sampling.

What the pass needs to know about the units of the network is an `Activity`: their values and the slopes of elementwise chains.
`observed` takes both from data; `meanfield.expected` computes what they are for random weights.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erfjax.errors import DataDependentError, UnsupportedPrimitiveError
from erfjax.tracing import registry
from erfjax.tracing.program.equations import Atom, Equation, Known, Var
from erfjax.tracing.second_moments.kinds import ELEMENTWISE, Push, slope, sum_of
from erfjax.tracing.windows.cone import Cone, Step, cut

Weigh = Callable[[Equation, int, Any], Any]
"""(equation, operand, known weight) -> what stands for its power in the pass."""

Gates = list[tuple[Atom, Any]]
"""(root, E slope^power of the step's result with respect to it)."""


@dataclasses.dataclass(frozen=True)
class Activity:
    """What the pass needs to know about the units.

    Attributes:
        values: every variable on its box: its value, or its mean where there are no data.
        gates: for every elementwise step's result, the roots it depends on.
        raised: (variable) -> its power, or the expectation of it, on its box.
        evenly: whether extrema choose evenly, for want of data.
    """

    values: Mapping[Atom, Any]
    gates: Mapping[Atom, Gates]
    raised: Callable[[Atom], Any]
    evenly: bool


def observed(cone: Cone, windows: Sequence[Any]) -> Callable[[int], Activity]:
    """The activity that inputs cause, given on their windows, for the power asked for."""
    held: dict[Atom, Any] = dict(zip(cone.block.inputs, windows, strict=True))
    paths: dict[Atom, tuple[Atom, Any]] = {}
    found: dict[Atom, Gates] = {}
    for step in cone.steps:
        values = cone.operands(step, held)
        held[step.output] = step.apply(values)
        if elementwise(step):
            slopes: dict[Atom, Any] = {}
            for i in dependent(step):
                by, root = slope(step, values, i), step.equation.inputs[i]
                if root in paths and root.shape == step.output.shape:
                    (root, before), box = paths[root], cone.boxes[root]
                    by = by * cut(before, box, step.box)
                slopes[root] = slopes[root] + by if root in slopes else by
            if len(slopes) == 1 and all(root.shape == step.output.shape for root in slopes):
                paths[step.output] = next(iter(slopes.items()))
            found[step.output] = list(slopes.items())

    def activity(power: int) -> Activity:
        gates = {atom: [(root, by**power) for root, by in slopes] for atom, slopes in found.items()}
        return Activity(held, gates, lambda atom: held[atom] ** power, evenly=False)

    return activity


def push(
    cone: Cone,
    activity: Activity,
    start: Mapping[Atom, Any],
    power: int,
    weigh: Weigh,
    instead: Mapping[Atom, Callable[[Any], Any] | None] | None = None,
    added: Mapping[Atom, Any] | None = None,
    watched: dict[Atom, Any] | None = None,
) -> dict[Atom, Any]:
    """The moments of all variables on their boxes; linear in `start` and `added`.

    Args:
        cone: what is computed.
        activity: what the units do.
        start: the moments of the inputs on their windows.
        power: 2 for second moments, 1 for first.
        weigh: how known weights are read.
        instead: for results of contractions, what is done in place of the contraction; None: nothing passes.
        added: moments that results have of their own.
        watched: results of contractions, for which the moment of the variable they act on is to be kept.
    """
    moments: dict[Atom, Any] = dict(start)
    instead, added = instead or {}, added or {}
    for step in cone.steps:
        if jnp.issubdtype(step.output.dtype, jnp.inexact):
            parts = [_moment(cone, step, activity, moments, power, weigh, instead, watched), added.get(step.output)]
            parts = [part for part in parts if part is not None]
            if parts:
                moments[step.output] = sum_of(parts)
    return moments


def _moment(
    cone: Cone,
    step: Step,
    activity: Activity,
    moments: Mapping[Atom, Any],
    power: int,
    weigh: Weigh,
    instead: Mapping[Atom, Callable[[Any], Any] | None],
    watched: dict[Atom, Any] | None,
) -> Any:
    """What a step passes on; None if nothing."""
    if elementwise(step):
        gates = [
            (gain, moments[root] if root.shape != step.output.shape else cut(moments[root], cone.boxes[root], step.box))
            for root, gain in activity.gates.get(step.output, ())
            if root in moments
        ]
        return family(step.equation)(Push(step, (), (), None, gates, activity.evenly)) if gates else None
    pushed: list[Any] = [None] * len(step.operands)
    for i in dependent(step):
        atom = step.equation.inputs[i]
        if atom in moments:
            pushed[i] = cut(moments[atom], cone.boxes[atom], step.operands[i] or ())
    moving = [v for v in pushed if v is not None]
    if not moving:
        return None
    if watched is not None and step.output in watched:
        watched[step.output] = moving[0]
    if step.output in instead:
        rule = instead[step.output]
        return None if rule is None else rule(moving[0])
    values, raised = cone.operands(step, activity.values), _raiser(cone, step, activity, power, weigh)
    return family(step.equation)(Push(step, values, pushed, raised, (), activity.evenly))


def wanted(cone: Cone, moments: Mapping[Atom, Any]) -> list[Any]:
    """The moments of the wanted boxes; zero where nothing arrives."""
    return [
        cut(moments[atom], cone.boxes[atom], box) if atom in moments else jnp.zeros(registry.lengths(box), atom.dtype)
        for atom, box in cone.wanted.items()
    ]


def transposed(cone: Cone, activity: Activity, power: int, weigh: Weigh, cotangents: list[Any]) -> Any:
    """The expected power of the gradient of Σ ±cotangent·unit, one random sign per entry, on the window of the input."""

    def forwards(v: Any) -> list[Any]:
        return wanted(cone, push(cone, activity, {cone.block.inputs[0]: v}, power, weigh))

    (gradient,) = jax.linear_transpose(forwards, window_of(cone))(cotangents)
    return gradient


def window_of(cone: Cone) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the window of the input."""
    source, window = cone.block.inputs[0], cone.windows[0]
    return jax.ShapeDtypeStruct(registry.lengths(window), source.dtype)


def dependent(step: Step) -> list[int]:
    """The operands of a step that a gradient can pass through."""
    return [
        i
        for i, (atom, box) in enumerate(zip(step.equation.inputs, step.operands, strict=True))
        if isinstance(atom, Var) and box is not None and jnp.issubdtype(atom.dtype, jnp.inexact)
    ]


def elementwise(step: Step) -> bool:
    """Whether the step acts position by position on floating-point operands."""
    return jnp.issubdtype(step.output.dtype, jnp.inexact) and family(step.equation) in ELEMENTWISE


def family(equation: Equation) -> registry.Moment:
    """The family of an equation.

    Raises:
        DataDependentError: it chooses a body by the data.
        UnsupportedPrimitiveError: there is no rule, or it acts on complex numbers.
    """
    if registry.bodies(equation):
        raise DataDependentError(
            f"{equation} chooses or derives by a rule of its own what no closed form can follow: measure with ej.empirical."
        )
    moment = registry.lookup(equation, "moment").moment
    assert moment is not None  # `lookup` has refused it
    if any(jnp.issubdtype(atom.dtype, jnp.complexfloating) for atom in equation.inputs):
        raise UnsupportedPrimitiveError(
            f"{equation} acts on complex numbers, whose squares are no second moments: measure with ej.empirical."
        )
    return moment


def _raiser(cone: Cone, step: Step, activity: Activity, power: int, weigh: Weigh) -> Callable[[int], Any]:
    """The powers of a step's operands, computed when asked for."""

    def raised(i: int) -> Any:
        atom, box = step.equation.inputs[i], step.operands[i]
        if box is None:
            return None
        if isinstance(atom, Known):
            return weigh(step.equation, i, cone.read(activity.values, atom, box))
        return cut(activity.raised(atom), cone.boxes[atom], box)

    return raised
