"""The closed form of a network that draws its weights, one draw at a time: what `analytic` averages where it has a key."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from erfjax.errors import SampleError
from erfjax.measurement import jacobian
from erfjax.measurement.cone import cone_of
from erfjax.measurement.controlled import DEGREE
from erfjax.readings.moment_pass import MomentPass, sides
from erfjax.readings.options import Options
from erfjax.readings.question import Question
from erfjax.tracing.program.normals import Normals
from erfjax.tracing.second_moments.random_weights import contracted

CLOSED = "closed form"
NOTE = (
    "mean of the closed forms of networks, each with the weights and gates of its draw: what they take as independent that is "
    "not is a bias, which comparing with ej.empirical shows"
)


def check(options: Options, key: Any) -> None:
    """Refuses what is no mean over draws.

    Raises:
        SampleError: samples without a key, or options that draw nothing.
    """
    if key is None:
        raise SampleError(
            "`samples` counts networks that a key draws: pass key=jax.random.key(0) and ej.redraw(f), or leave it out."
        )
    if options.weights != "given" or options.gates != "data" or options.power != 2 or options.together:
        raise SampleError(
            'With a key analytic averages over drawn networks as they are: it needs weights="given", gates="data", '
            'positions="apart" and statistic="square" or "rms". Without a key, weights="exchangeable" has that mean in one pass.'
        )


def sample_maps(question: Question, options: Options) -> Callable[..., Any]:
    """The function (consts, key, input, others) -> (maps, exponents, fault) of one draw; see `jacobian.sample_maps`."""
    moment_pass = MomentPass.of(question, dataclasses.replace(options, positions="apart"))
    if moment_pass.cone is not None:  # what the key draws is random, whatever its numbers look like
        known = Normals()
        new = {(equation.number, i) for equation, i, atom in contracted(moment_pass.cone) if known.drawn(atom)}
        moment_pass = dataclasses.replace(moment_pass, random=moment_pass.random | new)

    def sample(consts: Any, key: Any, x: Any, others: Any = ()) -> Any:
        program = question.program(consts, key, unrolled=moment_pass.unrolled)
        cone = cone_of(program, question.source, question.target, question.units)
        leaves = (*others[: question.main], x, *others[question.main :])
        found = moment_pass.drawn(None if cone is None else cone.settled(), leaves)
        digits = jnp.sum(found.digits, [a + 1 for a in question.source.summed()])
        power = jnp.maximum(jnp.broadcast_to(jnp.asarray(found.exponent), digits.shape[:1]), -(2**20)).astype(jnp.int32)
        half = power // DEGREE
        scaled = jnp.ldexp(digits, (power - DEGREE * half).reshape(-1, *(1,) * (digits.ndim - 1)))
        maps = jnp.pad(scaled, [(0, 0), *sides(moment_pass)])
        return maps, half, jnp.where(jnp.isfinite(maps).all(), 0, jacobian.GRADIENT_FAULT)

    return sample
