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

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.program.equations import Atom, Known
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.activity import Activity, IsRandom, Weigh
from erfjax.tracing.second_moments.arrived import Arrived
from erfjax.tracing.second_moments.downstream import Downstream, nonlinear_downstream, random_operand
from erfjax.tracing.second_moments.kinds import Choice, Kind
from erfjax.tracing.second_moments.scaled import Scaled, widened
from erfjax.tracing.second_moments.scans import Run, length_of
from erfjax.tracing.second_moments.steps import (
    applied,
    dependent,
    elementwise,
    exchanged,
    kind_of,
    passes,
    precision,
)
from erfjax.tracing.windows.brief import once
from erfjax.tracing.windows.cone import Cone, Step, cut


def moments(
    cone: Cone, activity: Activity, power: int, weigh: Weigh, cotangents: Sequence[Any], *, careful: bool = True
) -> Scaled:
    """The expected power of the gradient of Σ ±cotangent·unit, one random sign per entry, on the window of the input.

    Without care, for slopes that were not searched, it is not a number where digits have gone far from one.
    """
    arrived = Arrived(cone, precision(cone), careful)
    arrived.start(power, cotangents)
    _walk(arrived, activity, power, weigh)
    return arrived.at_input(power)


def _walk(arrived: Arrived, activity: Activity, power: int, weigh: Weigh) -> None:
    cone = arrived.cone

    def body(step: Step, sent: Any, inside: Callable[[int], Activity]) -> Any:
        return arrived.inside(step, sent, lambda inner: _walk(inner, inside(power), power, weigh))

    for step in reversed(cone.steps):
        if step.inner is not None:
            arrived.scan(step, activity, power, [Run(0, length_of(step), functools.partial(body, step))])
            continue
        moment = arrived.take(step).get(power)
        if moment is not None:
            moment = arrived.near_one(moment) if arrived.due(step) else moment
            arrived.add_all(power, _pulled(cone, step, activity, power, weigh, moment))


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
    arrived = Arrived(cone, precision(cone), careful)
    arrived.start(1, cotangents)
    _coherent_walk(arrived, activities, weighs, is_random, nonlinear_downstream(cone, is_random))
    whole = arrived.at_input(2) + arrived.at_input(1).power(2)
    return whole.linear(lambda a: jnp.maximum(a, 0))  # rounding aside


def _coherent_walk(
    arrived: Arrived,
    activities: Callable[[int], Activity],
    weighs: Mapping[int, Weigh],
    is_random: IsRandom,
    downstream: Downstream,
) -> None:
    cone, nonlinear = arrived.cone, downstream.reached
    plain, squared = activities(1), activities(2)

    def body(step: Step, below: Downstream, sent: Any, inside: Callable[[int], Activity]) -> Any:
        return arrived.inside(step, sent, lambda inner: _coherent_walk(inner, inside, weighs, is_random, below))

    for step in reversed(cone.steps):
        if step.inner is not None:
            runs = [
                Run(first, stop, functools.partial(body, step, Downstream(reached, {})))
                for first, stop, reached in downstream.runs.get(step.output, [(0, length_of(step), {})])
            ]
            arrived.scan(step, squared, 2, runs)
            continue
        found = arrived.take(step)
        m, v = found.get(1), found.get(2)
        operand = random_operand(step, is_random) if m is not None else None
        if m is not None and operand is not None:
            m = m.linear(once)
            v = arrived.squared(m) if v is None else v + arrived.squared(m)
        if (m is not None or v is not None) and arrived.due(step):
            m, v = arrived.searched(m, v)
        if m is not None and operand is None:
            arrived.add_all(1, _pulled(cone, step, plain, 1, weighs[1], m))
        elif m is not None and operand is not None and nonlinear.get(step.output, False):
            atom, box = step.equation.inputs[operand], step.operands[operand] or ()
            square = arrived.squared(m)
            onwards, known = _regression(cone, step, operand, plain, weighs, m, square, arrived.careful)
            arrived.add(1, atom, box, onwards)
            arrived.add(2, atom, box, known.linear(jnp.negative))
        if v is not None:
            arrived.add_all(2, _pulled(cone, step, squared, 2, weighs[2], v))


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
    share = once(mean.digits * Scaled(ratio).at(root.exponent))
    onwards = a.digits * _transposed(step, operand, weights.digits, share)
    known = a.digits**2 * _transposed(step, operand, fourth.digits, share**2)
    return mean.product(root, onwards), square.product(weights, known)
