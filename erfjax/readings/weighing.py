"""What is known of a program before any input is, as arguments of its compiled closed form; and how its weights are read.

A closed form is compiled with everything known as an argument: a compiler would fold constants, which takes it long. Squares and
fourth powers of weights are taken on the host, where that is a pass over memory; in the program each is a kernel to compile.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.tracing.program.equations import Equation, Known
from erfjax.tracing.second_moments import random_weights
from erfjax.tracing.second_moments.activity import Weigh
from erfjax.tracing.second_moments.random_weights import Operand
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.windows.cone import Cone

Raised = Mapping[tuple[int, int, int], Any]
"""(equation, operand, power) -> weights of digits near one, to that power."""


@dataclasses.dataclass(frozen=True)
class Weighing:
    """How known weights are read.

    Attributes:
        sizes: exponents of known operands (see `random_weights.sizes`).
        exchanged: the operands that are replaced by their mean power over channels.
        raised: powers that are there already.
    """

    sizes: Mapping[Operand, int]
    exchanged: frozenset[Operand]
    raised: Raised

    def to(self, power: int) -> Weigh:
        """Weights to a power; the fourth is the square of the second."""

        def weigh(equation: Equation, operand: int, weight: Any) -> Scaled:
            at = equation.number, operand
            size, held = self.sizes.get(at), self.raised.get((*at, power))
            if held is not None and size is not None and held.shape == weight.shape:
                return Scaled(held, 0, power * size)
            if power == 4:
                return self.to(2)(equation, operand, weight).power(2)
            if at not in self.exchanged:
                return Scaled.sized(weight, size).power(power)
            axes = random_weights.channel_axes(equation, operand)
            whole = Scaled.sized(equation.inputs[operand].value, size).power(power)  # type: ignore[union-attr]
            return whole.linear(lambda a: jnp.broadcast_to(jnp.mean(a, axes, keepdims=True), weight.shape))

        return weigh


def raised(cone: Cone, sizes: Mapping[Operand, int], powers: Iterable[int]) -> dict[tuple[int, int, int], np.ndarray]:
    """Powers of the weights of contractions on the host, if that is the device too."""
    found: dict[tuple[int, int, int], np.ndarray] = {}
    if jax.default_backend() != "cpu":
        return found
    for equation, i, atom in random_weights.contracted(cone):
        value, at = atom.concrete, (equation.number, i)
        if at in sizes and value is not None and value.dtype in (np.float32, np.float64) and value.size > 1:
            digits = value if sizes[at] == 0 else value * np.asarray(2.0 ** -sizes[at], value.dtype)
            for power in sorted(powers):
                digits = np.square(digits)
                found[*at, power] = digits
    return found


def with_arguments(cone: Cone, values: Iterable[Any]) -> Cone:
    """The cone with the values of its known operands, in their order."""
    known: tuple[Known, ...] = cone.known
    return cone.with_known(dict(zip(known, values, strict=True)))
