"""A cone by layers, and its gradient with the data of every layer chosen apart.

A *layer* begins with contractions with weights (convolutions, dense layers) and goes on with everything up to the next ones: the
*gates*, whose Jacobian the data decide. Layer 0 lies before the first weights.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.second_moments import random_weights
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.second_moments.steps import dependent, kind_of
from erfjax.tracing.windows.cone import Cone, Step

FIXED = (Kind.LINEAR, Kind.SELECTION, Kind.TOTAL, Kind.WINDOW_TOTAL, Kind.SILENT)
"""The kinds whose Jacobian is the same for all data; of products, those of one array with a known one."""


def contractions(cone: Cone) -> frozenset[int]:
    """The places in `cone.steps` of contractions of one array with weights."""
    weights = random_weights.weights(cone)
    found = set()
    for at, step in enumerate(cone.steps):
        places = {(step.equation.number, i) for i in range(len(step.equation.inputs))}
        if len(dependent(step)) == 1 and not places.isdisjoint(weights):
            found.add(at)
    return frozenset(found)


def layers(cone: Cone, heads: Container[int]) -> tuple[int, ...]:
    """For every step of a cone, how many contractions with weights lie before it, itself included, on the longest way.

    Args:
        heads: see `contractions`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from erfjax.tracing import trace
        >>> from erfjax.tracing.positions.index_sets import full
        >>> from erfjax.tracing.second_moments.layerwise import contractions, layers
        >>> from erfjax.tracing.windows.cone import restrict
        >>> w = jax.random.normal(jax.random.key(0), (3, 3))
        >>> program = trace(lambda x: jnp.tanh(jnp.tanh(x) @ w) @ w, jax.ShapeDtypeStruct((2, 3), jnp.float32))
        >>> cone = restrict(program, {program.output: full((2, 3))})
        >>> layers(cone, contractions(cone))
        (0, 1, 1, 2)
    """
    depth: dict[Atom, int] = {}
    for at, step in enumerate(cone.steps):
        before = max((depth.get(step.equation.inputs[i], 0) for i in dependent(step)), default=0)
        depth[step.output] = before + (at in heads)
    return tuple(depth[step.output] for step in cone.steps)


def live(cone: Cone) -> frozenset[Atom]:
    """The arrays through which the gradient of the first input of a cone passes."""
    found: set[Atom] = {cone.block.inputs[0]}
    for step in cone.steps:
        if any(step.equation.inputs[i] in found for i in dependent(step)) and _continuous(step):
            found.add(step.output)
    return frozenset(found)


def fixed(step: Step, alive: frozenset[Atom]) -> bool:
    """Whether the Jacobian of a step does not depend on the data."""
    moving = [i for i in dependent(step) if step.equation.inputs[i] in alive]
    kind = kind_of(step.equation)
    others = [atom for atom in step.equation.inputs if isinstance(atom, Var) and atom not in alive]
    if kind in (Kind.BILINEAR, Kind.SCALED):
        return len(moving) == 1 and not others
    return kind in FIXED and not others


def pulled(
    cone: Cone, steps: Sequence[tuple[Step, Callable[[Atom], Any]]], alive: Container[Atom], arrived: dict[Atom, Any]
) -> dict[Atom, Any]:
    """What gradients become behind some steps.

    Args:
        cone: that the steps are of.
        steps: in their order, each with the data that it is to be differentiated at: array -> its values on its box.
        alive: the arrays whose gradients are wanted; see `live`.
        arrived: gradients of arrays on their boxes.
    """
    arrived = dict(arrived)
    for step, data in reversed(steps):
        gradient = arrived.pop(step.output, None)
        if gradient is None or not _continuous(step):
            continue
        for atom, part in _through(cone, step, data, alive, gradient):
            arrived[atom] = arrived[atom] + part if atom in arrived else part
    return arrived


def _continuous(step: Step) -> bool:
    return jnp.issubdtype(step.output.dtype, jnp.inexact)


def _through(
    cone: Cone, step: Step, data: Callable[[Atom], Any], alive: Container[Atom], gradient: Any
) -> Iterator[tuple[Atom, Any]]:
    """What one step passes back to the arrays that it reads, each on its whole box."""
    used = {atom for atom, box in zip(step.equation.inputs, step.operands, strict=True) if box is not None}
    held: dict[Atom, Any] = {atom: data(atom) for atom in used if isinstance(atom, Var)}
    moving = list(dict.fromkeys(atom for i in dependent(step) if (atom := step.equation.inputs[i]) in alive))
    if not moving:
        return

    def apply(*arrays: Any) -> Any:
        return step.apply(cone.operands(step, {**held, **dict(zip(moving, arrays, strict=True))}))

    _, pull = jax.vjp(apply, *(held[atom] for atom in moving))
    yield from zip(moving, pull(gradient), strict=True)
