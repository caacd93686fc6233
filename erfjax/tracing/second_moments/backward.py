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

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.program.equations import Atom, Known
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.activity import Activity, IsRandom, Weigh
from erfjax.tracing.second_moments.kinds import PRODUCTS, Choice, Kind
from erfjax.tracing.second_moments.scaled import EMPTY, Scaled, widened
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


def moments(
    cone: Cone, activity: Activity, power: int, weigh: Weigh, cotangents: Sequence[Any], *, careful: bool = True
) -> Scaled:
    """The expected power of the gradient of Σ ±cotangent·unit, one random sign per entry, on the window of the input.

    Without care, for slopes that were not searched, it is not a number where digits have gone far from one.
    """
    arrived = _Arrived(cone, power, cotangents, careful)
    for step in reversed(cone.steps):
        moment = arrived.take(step).get(power)
        if moment is not None:
            moment = arrived.near_one(moment) if arrived.due(step) else moment
            arrived.add_all(power, _pulled(cone, step, activity, power, weigh, moment))
    return arrived.at_input(power)


def coherent_moments(
    cone: Cone,
    activities: Callable[[int], Activity],
    weighs: Mapping[int, Weigh],
    is_random: IsRandom,
    cotangents: Sequence[Any],
    *,
    careful: bool,
) -> Scaled:
    """E g² of Σ cotangent·unit, entry by entry on the window of the input.

    Args:
        cone: what the unit needs.
        activities: what the units do, for both powers.
        weighs: how known weights are read: as they are, squared, and to the fourth power.
        is_random: which known operands are random.
        cotangents: one for each wanted array.
        careful: search for the size of activations whose squares may leave the range of the precision. Otherwise they are
            squared as they are, slopes too, and the result is not a number where that goes wrong.
    """
    nonlinear = nonlinear_downstream(cone, is_random)
    plain, squared = activities(1), activities(2)
    arrived = _Arrived(cone, 1, cotangents, careful)
    for step in reversed(cone.steps):
        found = arrived.take(step)
        m, v = found.get(1), found.get(2)
        operand = random_operand(step, is_random) if m is not None else None
        if m is not None and operand is not None:
            v = arrived.squared(m) if v is None else v + arrived.squared(m)
        if (m is not None or v is not None) and arrived.due(step):
            m, v = arrived.searched(m, v)
        if m is not None and operand is None:
            arrived.add_all(1, _pulled(cone, step, plain, 1, weighs[1], m))
        elif m is not None and operand is not None and nonlinear.get(step.output, False):
            atom, box = step.equation.inputs[operand], step.operands[operand] or ()
            onwards, known = _regression(cone, step, operand, plain, weighs, m, arrived.squared(m), careful)
            arrived.add(1, atom, box, onwards)
            arrived.add(2, atom, box, known.linear(jnp.negative))
        if v is not None:
            arrived.add_all(2, _pulled(cone, step, squared, 2, weighs[2], v))
    whole = arrived.at_input(2) + arrived.at_input(1).power(2)
    return whole.linear(lambda a: jnp.maximum(a, 0))  # rounding aside


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


FEWEST, MOST = 4, 8  # contractions between two searches for the largest digit
FAR = 72  # exponents by which digits may have moved between two searches, if slopes were not searched


class _Arrived:
    """What has arrived at each variable, on its box, from the steps that read it: by power, the mean (1) and the square (2).

    Weights and gates of known size change a moment of digits near one by 2**8 at most for each contraction. So digits are
    brought back near one every few contractions only: where everything that is under way has met in one array, so that all
    of it shares one exponent, and wherever too many contractions have gone by.
    """

    def __init__(self, cone: Cone, power: int, cotangents: Sequence[Any], careful: bool):
        self.careful = careful
        self.cone, self.held, self.dtype = cone, dict[Atom, dict[int, Scaled]](), precision(cone)
        self.ages: dict[Atom, int] = {}
        self.age = 0  # contractions since the last search, behind the step that was taken last
        self.doubled: list[tuple[Any, Any]] = []  # the bases of means, and of their squares
        for (atom, box), cotangent in zip(cone.wanted.items(), cotangents, strict=False):
            self.add(power, atom, box, Scaled(widened(cotangent)).power(power))

    def add(self, power: int, atom: Atom, box: Box, moment: Scaled) -> None:
        """Adds to what has arrived, zero outside the box."""
        whole = self.cone.boxes[atom]
        sides = [(int(p.start - w.start), int(w.stop - p.stop), 0) for p, w in zip(box, whole, strict=True)]
        placed = moment.astype(self.dtype)
        if any(map(any, sides)):
            placed = placed.linear(lambda a: lax.pad(a, jnp.zeros((), a.dtype), sides))
        held = self.held.setdefault(atom, {})
        held[power] = held[power] + placed if power in held else placed
        self.ages[atom] = max(self.ages.get(atom, 0), self.age)

    def add_all(self, power: int, parts: Iterator[tuple[Atom, Box, Scaled]]) -> None:
        for atom, box, moment in parts:
            self.add(power, atom, box, moment)

    def take(self, step: Step) -> dict[int, Scaled]:
        """What has arrived at the result of a step; computed once where the step passes it to several variables."""
        self.age = self.ages.get(step.output, 0)
        found = self.held.pop(step.output, {})
        if found and len(dependent(step)) > 1:
            return {power: moment.linear(lax.optimization_barrier) for power, moment in found.items()}
        return found

    def due(self, step: Step) -> bool:
        """Whether to search for the largest digit before a step."""
        if not passes(step):
            return False
        self.age += kind_of(step.equation) is Kind.BILINEAR
        due = self.age >= (MOST if self.held else FEWEST)
        self.age = 0 if due else self.age
        return due

    def near_one(self, moment: Scaled) -> Scaled:
        """The same with digits near one; not a number if they were far from it, without care."""
        found = moment.searched()
        if self.careful:
            return found
        moved = found.exponent - moment.exponent
        return found.linear(lambda digits: jnp.where(jnp.abs(moved) <= FAR, digits, jnp.nan))

    def squared(self, mean: Scaled) -> Scaled:
        """The square of a mean, of the base that squares have which were searched together with it."""
        square = mean.power(2)
        base = next((two for one, two in self.doubled if one is mean.base), square.base)
        self.doubled.append((mean.base, base))
        return Scaled(square.digits, base, square.offset)

    def searched(self, mean: Scaled | None, square: Scaled | None) -> tuple[Scaled | None, Scaled | None]:
        """The same with digits near one, both of one exponent."""
        if mean is None or square is None:
            return mean and self.near_one(mean), square and self.near_one(square)
        found = self.near_one(square)
        exponent = (found.exponent + 1) // 2  # |mean| <= √square
        self.doubled.append((exponent, 2 * exponent))
        double = self.doubled[-1][1]
        return Scaled(mean.at(exponent), exponent), Scaled(found.at(double), double)

    def at_input(self, power: int) -> Scaled:
        source, window = self.cone.block.inputs[0], self.cone.windows[0]
        found = self.held.get(source, {}).get(power, Scaled(jnp.zeros(lengths(window), self.dtype), EMPTY))
        return Scaled(found.digits, jnp.asarray(found.exponent, jnp.int32))


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
        yield inputs[i], step.operands[i] or (), Scaled(back, moment.base, moment.offset)
    else:
        values = [widened(value, dtype) for value in cone.operands(step, activity.values)]
        moved = [values[i] for i in operands]
        _, pull = jax.vjp(lambda *arrays: widened(exchanged(step, values, operands, arrays), dtype), *moved)
        for i, back in zip(operands, pull(moment.digits), strict=True):
            yield inputs[i], step.operands[i] or (), Scaled(back, moment.base, moment.offset)


def _raised(cone: Cone, step: Step, activity: Activity, weigh: Weigh, i: int) -> Scaled:
    """The power of an operand, on its box."""
    atom, box = step.equation.inputs[i], step.operands[i] or ()
    if isinstance(atom, Known):
        return weigh(step.equation, i, cone.read(activity.values, atom, box))
    return activity.raised(atom).linear(lambda a: cut(a, cone.boxes[atom], box))


def _contracted(step: Step, operand: int, partner: Scaled, cotangent: Scaled) -> Scaled:
    """The transpose of a contraction as a function of one operand, with this partner."""
    return cotangent.product(partner, _transposed(step, operand, partner.digits, cotangent.digits))


def _transposed(step: Step, operand: int, partner: Any, cotangent: Any) -> Any:
    dtype = cotangent.dtype
    shape = jax.ShapeDtypeStruct(lengths(step.operands[operand] or ()), dtype)
    (back,) = jax.linear_transpose(lambda x: applied(step, _ordered(operand, x, partner), dtype), shape)(cotangent)
    return back


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


LEAST = (
    2.0**-96
)  # variances below may have lost terms to underflow; a matter of activations, since weights are of known size


def _regression(
    cone: Cone,
    step: Step,
    operand: int,
    activity: Activity,
    weighs: Mapping[int, Weigh],
    mean: Scaled,
    square: Scaled,
    careful: bool,
) -> tuple[Scaled, Scaled]:
    """The mean gradient through weights as their result and its input lead to expect them, and Σ m², what is known of them."""
    dtype, box = mean.digits.dtype, cone.boxes[step.output]
    values = cone.operands(step, activity.values)
    weights, fourth = (weighs[p](step.equation, 1 - operand, values[1 - operand]).astype(dtype) for p in (2, 4))
    a, z = (
        Scaled(widened(part, dtype)) for part in (values[operand], cut(activity.values[step.output], box, step.box))
    )
    if careful:
        a, z = a.searched(), z.searched()
        squares = weights.product(a.power(2), applied(step, _ordered(operand, a.digits**2, weights.digits), dtype))
        share = mean * (z / squares.searched())
        onwards = a * _contracted(step, operand, weights, share)
        return onwards, a.power(2) * _contracted(step, operand, fourth, share.power(2))
    variance = applied(step, _ordered(operand, a.digits**2, weights.digits), dtype)
    held = (variance >= LEAST) & (variance < 1 / LEAST)
    ratio = jnp.where(z.digits == 0, 0, jnp.where(held, z.digits / jnp.where(held, variance, 1), jnp.nan))
    root = (
        weights.halved()
    )  # z is taken in units of the weights, so that it is about as large as the root of its variance
    share = mean.digits * Scaled(ratio).at(root.exponent)
    onwards = a.digits * _transposed(step, operand, weights.digits, share)
    known = a.digits**2 * _transposed(step, operand, fourth.digits, share**2)
    return mean.product(root, onwards), square.product(weights, known)
