"""A scan in the backward walk: the walk of its body as a scan, from the last step to the first.

What the steps met is computed again from the carries before each step, which the forward pass keeps. So the body is traced and
compiled once for the values, and once for the moments, however many steps there are.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.program.flatten import weighted
from erfjax.tracing.second_moments.activity import Activity
from erfjax.tracing.second_moments.scaled import EMPTY, Scaled
from erfjax.tracing.windows.cone import Step

Moments = dict[int, Scaled]
"""The moments of one array, by power."""

Walk = Callable[[list[tuple[Atom, Moments]], Callable[[int], Activity]], Callable[[Atom], Moments]]
"""(what has arrived at outputs of the body, what the body met) -> what arrives at its inputs."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Consecutive steps that are walked alike: from `first` on, counted from the last step, before `stop`."""

    first: int
    stop: int
    walk: Walk


def through_scan(
    step: Step,
    activity: Activity,
    found: Mapping[Atom, Moments],
    runs: Sequence[Run],
    powers: Sequence[int],
    dtype: Any,
) -> list[tuple[Atom, Moments]]:
    """What a scan passes back to its operands.

    Args:
        step: the scan.
        activity: what the units do; all carries before each step are among its values.
        found: what has arrived at the results of the scan.
        runs: how its steps are walked, those of the last step first.
        powers: which moments are carried.
        dtype: the precision of the walk.
    """
    scan, inner = step.equation.scan, step.inner
    assert scan is not None
    assert inner is not None
    assert activity.inside is not None
    inside, outputs, sources = activity.inside, inner.block.outputs, inner.block.inputs
    n_consts, n_carry = len(scan.moving), scan.n_carry
    consts, states, rows = sources[:n_consts], sources[n_consts : n_consts + n_carry], sources[n_consts + n_carry :]
    values = [_value(step, activity, i) for i in scan.places]
    results = step.equation.outputs

    def nothing(atom: Atom) -> Moments:
        return {p: Scaled(jnp.zeros(atom.shape, dtype), jnp.asarray(EMPTY, jnp.int32)) for p in powers}

    def settled(moments: Moments, atom: Atom) -> Moments:
        """One floating-point array and one exponent for each power, so that every step hands on the same."""
        empty = nothing(atom)
        whole = {p: moments[p].astype(dtype).searched() if p in moments else empty[p] for p in powers}
        return {p: Scaled(m.digits, jnp.asarray(m.exponent, jnp.int32)) for p, m in whole.items()}

    stacked = {j: found[o] for j, o in enumerate(results[n_carry:]) if o in found}
    carried = [settled(found.get(o, {}), o) for o in results[:n_carry]]
    constant = [nothing(atom) for atom in consts]
    parts = []
    for run in runs:

        def body(state: Any, row: Any, run: Run = run) -> Any:
            carried, constant = state
            before, read, arrived = row
            sent = [(o, m) for o, m in zip(outputs, carried, strict=False) if _differentiable(o)]
            # Each row is searched: one of zeros must not hold the exponent of what has arrived at the carries.
            for j, digits in arrived.items():
                exponents = {p: m.exponent for p, m in stacked[j].items()}
                sent.append((outputs[n_carry + j], {p: Scaled(d, exponents[p]).searched() for p, d in digits.items()}))
            back = run.walk(sent, inside(inner, [*values[:n_consts], *before, *read]))
            added = [
                settled({p: m + other[p] for p, m in back(atom).items()}, atom)
                if _differentiable(atom) and back(atom)
                else other
                for atom, other in zip(consts, constant, strict=True)
            ]
            return ([settled(back(atom), atom) for atom in states], added), [settled(back(a), a) for a in rows]

        first, stop = (run.first, run.stop) if scan.reverse else (scan.length - run.stop, scan.length - run.first)
        history = tuple(activity.values[atom] for atom in scan.history)
        arrived = {j: {p: m.digits for p, m in moments.items()} for j, moments in stacked.items()}
        cut = jax.tree.map(
            lambda a, first=first, stop=stop: lax.slice_in_dim(a, first, stop),
            (history, tuple(values[n_consts + n_carry :]), arrived),
        )
        (carried, constant), back = lax.scan(
            body, (carried, constant), cut, length=stop - first, reverse=not scan.reverse
        )
        parts.append(back)
    ordered = parts if scan.reverse else parts[::-1]
    whole = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *ordered) if len(parts) > 1 else parts[0]
    arrived_at = [*constant, *carried, *({p: _of_one_exponent(m) for p, m in moments.items()} for moments in whole)]
    return [
        (atom, moments)
        for i, moments in zip(scan.places, arrived_at, strict=True)
        if _differentiable(atom := step.equation.inputs[i])
    ]


def length_of(step: Step) -> int:
    """How many steps a scan has."""
    assert step.equation.scan is not None
    return step.equation.scan.length


def with_weights(step: Step) -> bool:
    """Whether a step is a scan that contracts what depends on the input with known arrays."""
    return step.inner is not None and any(weighted(inside.equation) for inside in step.inner.every)


def _value(step: Step, activity: Activity, i: int) -> Any:
    atom = step.equation.inputs[i]
    return activity.values[atom] if isinstance(atom, Var) else atom.value


def _differentiable(atom: Atom) -> bool:
    return isinstance(atom, Var) and jnp.issubdtype(atom.dtype, jnp.inexact)


def _of_one_exponent(moment: Scaled) -> Scaled:
    """Rows with an exponent each as one array."""
    highest = jnp.max(moment.base)
    return Scaled(jax.vmap(lambda digits, base: Scaled(digits, base).at(highest))(moment.digits, moment.base), highest)
