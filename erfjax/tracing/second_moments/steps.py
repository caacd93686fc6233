"""What the walks ask of one step: its kind, its operands that carry gradients, its slopes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.errors import DataDependentError, UnsupportedPrimitiveError
from erfjax.tracing import jaxpr as jx
from erfjax.tracing import registry
from erfjax.tracing.program.equations import Equation, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.kinds import ELEMENTWISE, PRODUCTS, Choice, Kind, Moment
from erfjax.tracing.second_moments.scaled import searches, widened, wider
from erfjax.tracing.windows.cone import Cone, Step


def kind_of(equation: Equation) -> Moment:
    """The moment column of an equation.

    Raises:
        DataDependentError: it chooses a body by the data.
        UnsupportedPrimitiveError: there is no rule, or it acts on complex numbers.
    """
    if equation.scan is not None:
        return Kind.LOOP
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


def passes(step: Step) -> bool:
    """Whether a gradient can pass the step at all."""
    return step.inner is not None or (
        jnp.issubdtype(step.output.dtype, jnp.inexact) and kind_of(step.equation) is not Kind.SILENT
    )


def elementwise(step: Step) -> bool:
    """Whether the step acts position by position on floating-point operands."""
    return jnp.issubdtype(step.output.dtype, jnp.inexact) and kind_of(step.equation) in ELEMENTWISE


def dependent(step: Step) -> list[int]:
    """The operands of a step that a gradient can pass through."""
    return [
        i
        for i, (atom, box) in enumerate(zip(step.equation.inputs, step.operands, strict=True))
        if isinstance(atom, Var) and box is not None and jnp.issubdtype(atom.dtype, jnp.inexact)
    ]


def multiplies(step: Step) -> bool:
    """Whether the step is a product whose two factors a gradient can pass through: each is in the other's slope."""
    if step.inner is not None or not passes(step) or kind_of(step.equation) not in (Kind.BILINEAR, *PRODUCTS):
        return False
    return len(dependent(step)) > 1


def bends(step: Step) -> bool:
    """Whether the step is a nonlinearity or a choice: its slope depends on what comes in. Of products, see `multiplies`."""
    kind = kind_of(step.equation)
    return kind in (Kind.GATE, Kind.EXCLUSIVE) or isinstance(kind, Choice)


def exchanged(step: Step, values: Sequence[Any], places: Sequence[int], arrays: Sequence[Any]) -> Any:
    """The step on `values`, those at some places exchanged."""
    held = list(values)
    for i, array in zip(places, arrays, strict=True):
        held[i] = array
    return step.apply(held)


def precision(cone: Cone) -> Any:
    """The precision of a walk: the widest in the cone, and single at least; double where nothing is searched."""
    if not searches():
        return jnp.dtype(jnp.float64)
    atoms = {atom for step in cone.every for atom in (step.output, *step.equation.inputs)} | set(cone.block.inputs)
    dtypes = {atom.dtype for atom in atoms if jnp.issubdtype(atom.dtype, jnp.floating)}
    return functools.reduce(wider, dtypes, jnp.dtype(jnp.float32))


def applied(step: Step, operands: Sequence[Any], dtype: Any) -> Any:
    """The step with all floating-point operands in one precision, whatever that of the model."""
    return widened(step.apply([widened(operand, dtype) for operand in operands]), dtype)


SIGNS: dict[Any, tuple[float, ...]] = {
    lax.add_p: (1.0, 1.0),
    lax.sub_p: (1.0, -1.0),
    lax.neg_p: (-1.0,),
    lax.convert_element_type_p: (1.0,),
}
"""The slopes of the commonest linear operations."""


def slope(step: Step, values: Sequence[Any], operand: int) -> Any:
    """∂f/∂x_operand of an elementwise operation at `values`, computed in the precision of the model; a number if it is one."""
    primitive = step.equation.primitive
    if primitive in SIGNS:
        return SIGNS[primitive][operand]
    if primitive is lax.mul_p:
        return jnp.broadcast_to(widened(values[1 - operand]), lengths(step.box))
    held = [
        value if value is None or value.dtype == atom.dtype else jnp.asarray(value, atom.dtype)
        for value, atom in zip(values, step.equation.inputs, strict=True)
    ]
    x = held[operand]

    def moved(a: Any) -> Any:
        return exchanged(step, held, [operand], [a])

    if step.equation.primitive is jx.CUSTOM_VJP:
        y, pull = jax.vjp(moved, x)
        return widened(pull(jnp.ones_like(y))[0])
    return widened(jax.jvp(moved, [x], [jnp.ones_like(x)])[1])
