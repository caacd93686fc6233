"""The backward walk: second moments of gradients from a unit to the input, in closed form.

For independent zero-mean weights and independent gates the expected squared gradient of a unit obeys a linear recursion whose
coefficients are squared Jacobians (Luo et al. 2016, section 2; the second moment of a sum of independent terms is the sum of
second moments). One walk over the steps, last to first, gives the whole map with no sampling.

Where the channels of the unit are summed after a nonlinearity, this misses that weights know the activations that they have
caused. Given its input a and its result z = Σ w a, a random weight is no longer of zero mean: for normal weights
E[w_j | z] = w_j² a_j z / v with v = Σ w² a² (regression), and nearly all of its variance is left. So if the gradient at z goes
with z, the gradient at a has a mean that does not fade with width:

    E[g_a] = Σ m with m = w² a (z / v) E[g_z]          Var g_a = Σ w² (Var g_z + E[g_z]²) - Σ m²

So the walk may carry two arrays beside each other: the mean of the gradient, which passes fixed operations as they are and
random ones by this regression, and its variance. Where the gradient does not go with z (a linear layer last, one random sign per
channel) the mean ends at the first random contraction, and its square goes on as variance.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.program.equations import Atom, Known
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.activity import Activity, IsRandom, Weigh
from erfjax.tracing.second_moments.kinds import PRODUCTS, Choice, Kind
from erfjax.tracing.second_moments.scaled import Scaled, widened
from erfjax.tracing.second_moments.steps import (
    applied,
    dependent,
    elementwise,
    exchanged,
    kind_of,
    passes,
    precision,
)
from erfjax.tracing.windows.cone import Cone, Step, cut


def moments(cone: Cone, activity: Activity, power: int, weigh: Weigh, cotangents: Sequence[Any]) -> Scaled:
    """The expected power of the gradient of Σ ±cotangent·unit, one random sign per entry, on the window of the input."""
    arrived = _Arrived(cone, power, cotangents)
    for step in reversed(cone.steps):
        moment = arrived.take(step)
        if moment is not None:
            arrived.add_all(_pulled(cone, step, activity, power, weigh, moment))
    return arrived.at_input()


def coherent_moments(
    cone: Cone,
    activities: Callable[[int], Activity],
    weigh: Weigh,
    is_random: IsRandom,
    cotangents: Sequence[Any],
) -> Scaled:
    """E g² of Σ cotangent·unit, entry by entry on the window of the input."""
    nonlinear = nonlinear_downstream(cone, is_random)
    plain, squared = activities(1), activities(2)
    mean, variance = _Arrived(cone, 1, cotangents), _Arrived(cone, 2, ())
    for step in reversed(cone.steps):
        m, v = mean.take(step), variance.take(step)
        operand = random_operand(step, is_random) if m is not None else None
        if m is not None and operand is None:
            mean.add_all(_pulled(cone, step, plain, 1, as_given, m))
        elif m is not None and operand is not None:
            v = m.power(2) if v is None else v + m.power(2)
            if nonlinear.get(step.output, False):
                atom, box = step.equation.inputs[operand], step.operands[operand] or ()
                onwards, known = _regression(cone, step, operand, plain, weigh, m)
                mean.add(atom, box, onwards)
                variance.add(atom, box, known.linear(jnp.negative))
        if v is not None:
            variance.add_all(_pulled(cone, step, squared, 2, weigh, v))
    return (variance.at_input() + mean.at_input().power(2)).linear(lambda a: jnp.maximum(a, 0))  # rounding aside


def as_given(equation: Any, operand: int, weight: Any) -> Scaled:
    """A weight read as it is."""
    return Scaled.of(weight)


def nonlinear_downstream(cone: Cone, is_random: IsRandom) -> dict[Atom, bool]:
    """The variables that the mean gradient reaches, and whether something nonlinear lies between them and the unit."""
    reached: dict[Atom, bool] = dict.fromkeys(cone.wanted, False)
    for step in reversed(cone.steps):
        nonlinear = reached.get(step.output)
        if nonlinear is None or not passes(step):
            continue
        if random_operand(step, is_random) is not None and not nonlinear:
            continue
        kind, operands = kind_of(step.equation), dependent(step)
        curved = kind in (Kind.GATE, Kind.EXCLUSIVE) or isinstance(kind, Choice)
        curved |= kind in (Kind.BILINEAR, *PRODUCTS) and len(operands) > 1
        for i in operands:
            atom = step.equation.inputs[i]
            reached[atom] = reached.get(atom, False) or nonlinear or curved
    return reached


def random_operand(step: Step, is_random: IsRandom) -> int | None:
    """The variable that a contraction with random weights acts on; None if the step is no such contraction."""
    if not passes(step) or kind_of(step.equation) is not Kind.BILINEAR:
        return None
    operands = dependent(step)
    known = [i for i, atom in enumerate(step.equation.inputs) if isinstance(atom, Known)]
    return operands[0] if len(operands) == 1 and any(is_random(step.equation, i) for i in known) else None


RESCALED_EVERY = 4  # contractions: each changes a moment of digits near one by 2**22 at most, for weights of known size


class _Arrived:
    """What has arrived at each variable, on its box, from the steps that read it.

    Digits are brought back near one every few contractions: to look for the largest costs a compiler more than the step itself.
    """

    def __init__(self, cone: Cone, power: int, cotangents: Sequence[Any]):
        self.cone, self.held, self.dtype = cone, dict[Atom, Scaled](), precision(cone)
        self.ages: dict[Atom, int] = {}
        self.age = 0  # contractions since the last search, behind the step that was taken last
        for (atom, box), cotangent in zip(cone.wanted.items(), cotangents, strict=False):
            self.add(atom, box, Scaled.of(cotangent).power(power))

    def add(self, atom: Atom, box: Box, moment: Scaled) -> None:
        """Adds to what has arrived, zero outside the box."""
        whole = self.cone.boxes[atom]
        sides = [(int(p.start - w.start), int(w.stop - p.stop), 0) for p, w in zip(box, whole, strict=True)]
        placed = moment.astype(self.dtype).linear(lambda a: lax.pad(a, jnp.zeros((), a.dtype), sides))
        self.held[atom] = self.held[atom] + placed if atom in self.held else placed
        self.ages[atom] = max(self.ages.get(atom, 0), self.age)

    def add_all(self, parts: Iterator[tuple[Atom, Box, Scaled]]) -> None:
        for part in parts:
            self.add(*part)

    def take(self, step: Step) -> Scaled | None:
        """What has arrived at the result of a step."""
        found, self.age = self.held.pop(step.output, None), self.ages.get(step.output, 0)
        if found is None or not passes(step) or kind_of(step.equation) is not Kind.BILINEAR:
            return found
        self.age += 1
        if self.age >= RESCALED_EVERY:
            found, self.age = Scaled.of(found.digits, found.exponent), 0
        return found

    def at_input(self) -> Scaled:
        source, window = self.cone.block.inputs[0], self.cone.windows[0]
        return self.held.get(source, Scaled.of(jnp.zeros(lengths(window), self.dtype)))


def _pulled(
    cone: Cone, step: Step, activity: Activity, power: int, weigh: Weigh, moment: Scaled
) -> Iterator[tuple[Atom, Box, Scaled]]:
    """What a step passes back: (variable, box, moment)."""
    if not passes(step):
        return
    dtype = moment.digits.dtype
    if elementwise(step):
        for base, box, gain in activity.gates.get(step.output, ()):
            yield base, box, _summed_to(gain.astype(dtype).times(moment), lengths(box))
        return
    kind, operands, inputs = kind_of(step.equation), dependent(step), step.equation.inputs
    if kind is Kind.BILINEAR:
        for i in operands:
            raised = _raised(cone, step, activity, weigh, 1 - i)
            yield inputs[i], step.operands[i] or (), _contracted(step, i, raised.astype(dtype), moment)
    elif isinstance(kind, Choice) and activity.evenly and kind.evenly is not None:
        (i,), evenly = operands, kind.evenly
        shape = jax.ShapeDtypeStruct(lengths(step.operands[i] or ()), dtype)
        (back,) = jax.linear_transpose(lambda a: evenly(step, a)[0], shape)(moment.digits)
        yield inputs[i], step.operands[i] or (), Scaled.of(back, moment.exponent)
    else:
        values = [widened(value, dtype) for value in cone.operands(step, activity.values)]
        moved = [values[i] for i in operands]
        _, pull = jax.vjp(lambda *arrays: widened(exchanged(step, values, operands, arrays), dtype), *moved)
        for i, back in zip(operands, pull(moment.digits), strict=True):
            yield inputs[i], step.operands[i] or (), Scaled(back, moment.exponent)


def _raised(cone: Cone, step: Step, activity: Activity, weigh: Weigh, i: int) -> Scaled:
    """The power of an operand, on its box."""
    atom, box = step.equation.inputs[i], step.operands[i] or ()
    if isinstance(atom, Known):
        return weigh(step.equation, i, cone.read(activity.values, atom, box))
    return activity.raised(atom).linear(lambda a: cut(a, cone.boxes[atom], box))


def _contracted(step: Step, operand: int, partner: Scaled, cotangent: Scaled) -> Scaled:
    """The transpose of a contraction as a function of one operand, with this partner."""
    dtype = cotangent.digits.dtype
    shape = jax.ShapeDtypeStruct(lengths(step.operands[operand] or ()), dtype)

    def contract(x: Any) -> Any:
        return applied(step, _ordered(operand, x, partner.digits), dtype)

    (back,) = jax.linear_transpose(contract, shape)(cotangent.digits)
    return Scaled(back, cotangent.exponent + partner.exponent)


def _ordered(operand: int, x: Any, partner: Any) -> list[Any]:
    """The two operands of a contraction in their places."""
    return [x, partner] if operand == 0 else [partner, x]


def _summed_to(moment: Scaled, shape: tuple[int, ...]) -> Scaled:
    """The sum over the positions that share one entry of an operand of that shape."""
    if moment.shape == shape:
        return moment
    if len(shape) != len(moment.shape):
        return moment.linear(jnp.sum)
    axes = [a for a, (n, m) in enumerate(zip(shape, moment.shape, strict=True)) if n != m]
    return moment.linear(lambda a: jnp.sum(a, axes, keepdims=True))


def _regression(
    cone: Cone, step: Step, operand: int, activity: Activity, weigh: Weigh, mean: Scaled
) -> tuple[Scaled, Scaled]:
    """The mean gradient through weights as their result and its input lead to expect them, and Σ m², what is known of them."""
    dtype, box = mean.digits.dtype, cone.boxes[step.output]
    values = cone.operands(step, activity.values)
    weights = weigh(step.equation, 1 - operand, values[1 - operand]).astype(dtype)
    a, z = Scaled.of(values[operand]), Scaled.of(cut(activity.values[step.output], box, step.box)).astype(dtype)
    a = a.astype(dtype)
    squares = applied(step, _ordered(operand, a.digits**2, weights.digits), dtype)
    share = mean * (z / Scaled.of(squares, weights.exponent + 2 * a.exponent))
    onwards = a * _contracted(step, operand, weights, share)
    return onwards, a.power(2) * _contracted(step, operand, weights.power(2), share.power(2))
