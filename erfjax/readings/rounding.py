"""Whether the gradient of a unit's summed channels is rounding and nothing else.

Behind a softmax, a layer norm, any normalisation over channels, and behind a last layer whose weights sum to zero over its
outputs, the sum of the channels is a constant. Its gradient is zero; what a computer finds is rounding of a plausible shape.
Two steps tell: first the program is asked whether anything behind the last contraction could make the sum constant (nothing is
computed for a network that ends in a convolution); then one sample is pulled back twice, once with ones and once with random
signs. If the first gradient is as much smaller than the second as rounding is than one, there is nothing in it.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.errors import ErfjaxError
from erfjax.readings.question import Question
from erfjax.tracing import registry
from erfjax.tracing.positions.access import Along, View
from erfjax.tracing.program.equations import Atom, Equation, Known, Program, Var
from erfjax.tracing.second_moments.kinds import TOTALS, Kind
from erfjax.tracing.second_moments.scaled import widened
from erfjax.typing import Given

ROUNDINGS = 16.0  # a sum of some 250 roundings of random sign; a signal this small would have no correct digit
NEARLY_ZERO = 1e-3  # of the sum of absolute weights: below, a pullback decides

NOTE = (
    "the sum of the unit's channels is constant (as behind a softmax or a layer norm), so its gradient is zero and this map "
    'rounding: ask for channels="random-signs", channels="frobenius" or one channel.'
)


def notes(question: Question, channels: Given) -> tuple[str, ...]:
    """One note if the map of the summed channels is rounding; none otherwise."""
    floating = [spec for spec in question.sample if jnp.issubdtype(spec.dtype, jnp.floating)]
    if channels != "sum" or question.channels < 2:
        return ()
    try:
        program = question.program()
        eps = may_cancel(program) if isinstance(program.output, Var) else None
    except ErfjaxError:  # a program that no walk can follow
        eps = _eps(floating)
    if eps is None:
        return ()
    sizes = jax.jit(functools.partial(_sizes, question))(question.consts, question.key)
    summed, signed = np.asarray(sizes, np.float64)
    return (NOTE,) if summed <= ROUNDINGS * eps * signed and signed > 0 else ()


def _sizes(question: Question, consts: Any, key: Any) -> Any:
    """The root of the mean squared gradient at the first unit, for a cotangent of ones and one of random signs.

    The input is uniform in [0, 1): what makes a sum of channels constant does so whatever the data.
    """
    leaves = [
        jax.random.uniform(jax.random.key(i), spec.shape, spec.dtype)
        if jnp.issubdtype(spec.dtype, jnp.floating)
        else jnp.zeros(spec.shape, spec.dtype)
        for i, spec in enumerate(question.sample)
    ]

    def unit(x: Any) -> Any:
        held = [x if i == question.main else leaf for i, leaf in enumerate(leaves)]
        return question.target.unit_channels(question.evaluate(consts, key, held), question.units[0])

    output, pull = jax.vjp(unit, leaves[question.main])
    signs = jax.random.rademacher(jax.random.key(1), output.shape, output.dtype)
    gradients = [widened(pull(row)[0]) for row in (jnp.ones_like(output), signs)]
    largest = jnp.maximum(*(jnp.max(jnp.abs(g)) for g in gradients))
    scale = jnp.where(largest > 0, largest, 1)  # so that no square underflows
    return jnp.stack([jnp.sqrt(jnp.mean(jnp.square(g / scale))) for g in gradients])


def may_cancel(program: Program) -> float | None:
    """The coarsest precision behind the last contractions with known arrays, if something there can make a sum constant.

    That is a sum over several positions (normalisation, centring), a product of two sums, or weights that sum to zero.
    """
    front: set[Atom] = {program.output}
    held: list[Any] = [program.output]
    able = False
    for equation in reversed(program.equations):
        if front.isdisjoint(equation.outputs):
            continue
        held += [output for output in equation.outputs if jnp.issubdtype(output.dtype, jnp.floating)]
        kind = registry.lookup(equation).moment if not registry.bodies(equation) else None
        moving = [atom for atom in equation.inputs if isinstance(atom, Var)]
        if kind is Kind.BILINEAR and len(moving) == 1:
            able |= _sums_to_zero(equation)
        else:
            able |= kind is None or kind in (*TOTALS, Kind.BILINEAR)
            front.update(moving)
    return _eps(held) if able else None


def _sums_to_zero(equation: Equation) -> bool:
    """Whether the known array of a contraction nearly sums to zero along some axis of the result."""
    views = registry.lookup(equation).hull(equation, 0)
    for atom, view in zip(equation.inputs, views, strict=True):
        if not isinstance(atom, Known) or not isinstance(view, View) or atom.concrete is None:
            continue
        weights = np.asarray(atom.concrete, np.float64)
        for axis in itertools.compress(range(weights.ndim), (isinstance(a, Along) for a in view.axes)):
            if weights.shape[axis] > 1:
                sums, sizes = np.abs(weights.sum(axis)), np.abs(weights).sum(axis)
                if sums.max() <= NEARLY_ZERO * sizes.max():
                    return True
    return False


def _eps(held: list[Any]) -> float:
    """The coarsest relative rounding of floating-point arrays."""
    return max(float(jnp.finfo(atom.dtype).eps) for atom in held if jnp.issubdtype(atom.dtype, jnp.floating))
