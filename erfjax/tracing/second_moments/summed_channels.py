"""What the moments pass misses: weights know the activations that they have caused.

Given its input a and its result z = Σ w a, a random weight is no longer of zero mean: for normal weights
E[w_j | z] = w_j² a_j z / v with v = Σ w² a² (regression), and nearly all of its variance is left. So if the gradient at z goes
with z, as it does where channels are summed after a nonlinearity, the gradient at a has a mean that does not fade with width:

    E[g_a] = Σ m with m = w² a (z / v) E[g_z]          Var g_a = Σ w² (Var g_z + E[g_z]²) - Σ m²

Two linear passes give both: one for the mean, from the unit down, through all that is fixed as it is; one for the variance,
whose sources are the squared means at the results of random contractions. The moment is their sum. Where the gradient does not
go with z (a linear layer last, one random sign per channel) the mean dies at the first random contraction, and all is as
before.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from erfjax.tracing.program.equations import Atom, Equation, Known
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.kinds import PRODUCTS, Choice, bilinear, exclusive, gate, silent
from erfjax.tracing.second_moments.push import Activity, Weigh, dependent, elementwise, family, push, wanted, window_of
from erfjax.tracing.windows.cone import Cone, Step, cut

Drawn = Callable[[Equation, int], bool]


def transposed(
    cone: Cone, activities: Callable[[int], Activity], weigh: Weigh, drawn: Drawn, cotangents: list[Any]
) -> Any:
    """E g² of Σ cotangent·unit, entry by entry on the window of the input."""
    source, activity, lit = cone.block.inputs[0], activities(1), bends(cone, drawn)
    instead: dict[Atom, Callable[[Any], Any] | None] = {}
    own: dict[Atom, Callable[[Any], Any]] = {}
    for step in cone.steps:
        operand = _drawn_operand(step, drawn)
        if operand is not None:
            instead[step.output] = None
            if lit.get(step.output, False):
                instead[step.output], own[step.output] = _regression(cone, step, operand, activity, weigh)
    reached = [atom for atom in instead if atom in lit]
    shapes = [jax.ShapeDtypeStruct(lengths(cone.boxes[atom]), atom.dtype) for atom in reached]

    def mean(v: Any, results: list[Any]) -> list[Any]:
        added = dict(zip(reached, results, strict=True))
        return wanted(cone, push(cone, activity, {source: v}, 1, lambda e, i, w: w, instead, added))

    def variance(v: Any) -> list[Any]:
        watched: dict[Atom, Any] = dict.fromkeys(own)
        moments = push(cone, activities(2), {source: v}, 2, weigh, watched=watched)
        for atom, through in own.items():
            if atom in moments:
                moments[atom] = moments[atom] - through(watched[atom])
        return [moments.get(atom, jnp.zeros(s.shape, s.dtype)) for atom, s in zip(reached, shapes, strict=True)]

    direct, means = jax.linear_transpose(mean, window_of(cone), shapes)(cotangents)
    if not reached:
        return direct**2
    (spread,) = jax.linear_transpose(variance, window_of(cone))([m**2 for m in means])
    return spread + direct**2


def bends(cone: Cone, drawn: Drawn) -> dict[Atom, bool]:
    """The variables that the mean gradient reaches, and whether there it goes with their values."""
    lit: dict[Atom, bool] = dict.fromkeys(cone.wanted, False)
    for step in reversed(cone.steps):
        if step.output not in lit:
            continue
        kind, bent = (
            family(step.equation) if jnp.issubdtype(step.output.dtype, jnp.inexact) else silent,
            lit[step.output],
        )
        if kind is silent or (_drawn_operand(step, drawn) is not None and not bent):
            continue
        operands = dependent(step)
        if elementwise(step):
            bent |= kind in (gate, exclusive) or (kind in PRODUCTS and len(operands) > 1)
        bent |= isinstance(kind, Choice) or (kind is bilinear and len(operands) > 1)
        for i in operands:
            atom = step.equation.inputs[i]
            lit[atom] = lit.get(atom, False) | bent
    return lit


def _drawn_operand(step: Step, drawn: Drawn) -> int | None:
    """The variable that a random contraction acts on."""
    if not jnp.issubdtype(step.output.dtype, jnp.inexact) or family(step.equation) is not bilinear:
        return None
    operands = dependent(step)
    known = [i for i, atom in enumerate(step.equation.inputs) if isinstance(atom, Known)]
    return operands[0] if len(operands) == 1 and any(drawn(step.equation, i) for i in known) else None


def _regression(
    cone: Cone, step: Step, operand: int, activity: Activity, weigh: Weigh
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The contraction with weights as their result and its input lead to expect them, and with the squares of these."""
    values = cone.operands(step, activity.values)
    squares = weigh(step.equation, 1 - operand, values[1 - operand])

    def contract(x: Any, weights: Any) -> Any:
        return step.apply([x, weights] if operand == 0 else [weights, x])

    a = values[operand]
    variance = contract(a**2, squares)
    z = cut(activity.values[step.output], cone.boxes[step.output], step.box)
    factor = jnp.where(variance > 0, z / jnp.where(variance > 0, variance, 1), 0)
    return lambda v: factor * contract(a * v, squares), lambda v: factor**2 * contract(a**2 * v, squares**2)
