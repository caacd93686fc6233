"""The moment column: how a primitive acts on a pushed second moment.

If v holds E g² of the operands (one non-negative number per entry), then the result holds (J∘J) v: the squared Jacobian of the
primitive, entry by entry, applied to v. A few families cover what can be covered:

| family | Jacobian | what is done |
|---|---|---|
| `linear`, `scaled`, `quotient`, `exclusive`, `gate` | diagonal | multiply by the squared slope with respect to the *root* |
| `selection` | entries 0 or 1, whatever the data (structure) | J itself, by `jax.jvp` |
| `total`, `window_total` | entries 0 or 1, rows with several (sums) | J itself |
| `Choice` | entries 0 or 1, chosen by the data (extrema, sorting) | J itself, or evenly where there are no data |
| `bilinear` | linear in each operand (convolution, dot) | the same operation with squared partners |
| `silent` | zero | nothing passes |
| none | dense and dependent (fft, linear algebra) | refused |

A *root* is the last array that is not an elementwise function of one other array: slopes along x·sigmoid(x) add up before
they are squared. The elementwise families differ only where there are no data. With power 1 the same pass pushes first
moments: squares become plain values.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.windows.cone import Step


@dataclasses.dataclass(frozen=True)
class Push:
    """One step of the pass.

    Attributes:
        step: the equation on its window.
        values: the operands (their means, where there are no data), None where one is left out; empty if elementwise.
        pushed: the moments of the operands; None where nothing is pushed (known, or not differentiable).
        raised: operand index -> the operand to the power of the pass; a known one as the weights are to be read.
        gates: pairs (E slope^power with respect to a root, moment of that root), where the step is elementwise.
        evenly: whether extrema choose evenly, for want of data.
    """

    step: Step
    values: Sequence[Any]
    pushed: Sequence[Any]
    raised: Callable[[int], Any] | None
    gates: Sequence[tuple[Any, Any]]
    evenly: bool

    @property
    def moving(self) -> list[int]:
        """The operands that carry a moment."""
        return [i for i, v in enumerate(self.pushed) if v is not None]

    def with_operands(self, places: Sequence[int], arrays: Sequence[Any]) -> Any:
        """The step with some operands exchanged."""
        return exchanged(self.step, self.values, places, arrays)


def exchanged(step: Step, values: Sequence[Any], places: Sequence[int], arrays: Sequence[Any]) -> Any:
    """The step on `values`, those at some places exchanged."""
    held = list(values)
    for i, array in zip(places, arrays, strict=True):
        held[i] = array
    return step.apply(held)


def slope(step: Step, values: Sequence[Any], operand: int) -> Any:
    """∂f/∂x_operand of an elementwise operation."""
    x = values[operand]
    if step.equation.primitive is jx.CUSTOM_VJP:
        y, pull = jax.vjp(lambda a: exchanged(step, values, [operand], [a]), x)
        return pull(jnp.ones_like(y))[0]
    return jax.jvp(lambda a: exchanged(step, values, [operand], [a]), [x], [jnp.ones_like(x)])[1]


def selection(push: Push) -> Any:
    """The Jacobian has entries 0 and 1, so it is its own square."""
    at = push.moving
    return jax.jvp(lambda *x: push.with_operands(at, x), [push.values[i] for i in at], [push.pushed[i] for i in at])[1]


def total(push: Push) -> Any:
    """A sum of many terms: it concentrates about its mean."""
    return selection(push)


def window_total(push: Push) -> Any:
    """A sum over a window."""
    return selection(push)


@dataclasses.dataclass(frozen=True)
class Choice:
    """An extremum or an order statistic: one of several entries, which the data choose.

    Attributes:
        evenly: (step, array) -> the mean of an array over the entries to choose from, and their number; None: without data
            the family is refused.
        sign: 1 for the greatest, -1 for the least.
    """

    evenly: Callable[[Step, Any], tuple[Any, Any]] | None = None
    sign: int = 1

    def __call__(self, push: Push) -> Any:
        if push.evenly and self.evenly is not None:
            (i,) = push.moving
            return self.evenly(push.step, push.pushed[i])[0]
        return selection(push)


def gate(push: Push) -> Any:
    """A nonlinear elementwise operation: each root through its own slope."""
    return sum_of(gain * moment for gain, moment in push.gates)


def linear(push: Push) -> Any:
    """An elementwise operation that is linear in all operands together: add, subtract, convert."""
    return gate(push)


def exclusive(push: Push) -> Any:
    """An elementwise operation that passes one of its operands on at every position."""
    return gate(push)


def scaled(push: Push) -> Any:
    """An elementwise product."""
    return gate(push)


def quotient(push: Push) -> Any:
    """An elementwise quotient."""
    return gate(push)


PRODUCTS = (scaled, quotient)
ELEMENTWISE = (gate, linear, exclusive, *PRODUCTS)


def bilinear(push: Push) -> Any:
    """Each operand through the same operation with its partners raised to the power."""

    def through(i: int) -> Any:
        assert push.raised is not None
        partners = [value if j == i else push.raised(j) for j, value in enumerate(push.values)]
        partners[i] = push.pushed[i]
        return push.step.apply(partners)

    return sum_of(through(i) for i in push.moving)


def silent(push: Push) -> None:
    """Nothing passes: steps, comparisons and stopped gradients have slope 0."""
    return


def sum_of(terms: Any) -> Any:
    """The sum of one or more arrays."""
    first, *rest = terms
    for term in rest:
        first = first + term
    return first
