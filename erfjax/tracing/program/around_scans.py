"""A scan with no more in its body than what steps need of each other.

A recurrent cell often multiplies its row by weights inside the step, and its state by weights on the way out. These are the same
weights at every step, but no step waits for another there: before the scan, or behind it, they are one contraction of all rows.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax import lax

from erfjax.tracing import jaxpr as jx
from erfjax.tracing import registry
from erfjax.tracing.second_moments.kinds import Kind


def taken_out(loop: jx.Loop) -> Callable[..., list[Any]] | None:
    """The scan as a function of its operands, with what needs no carry before it, and what no carry needs behind it.

    None if no contraction would leave the body.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from erfjax.tracing import jaxpr as jx
        >>> from erfjax.tracing.program.around_scans import taken_out
        >>> w = jnp.ones((3, 3))
        >>> def f(x):
        ...     return jax.lax.scan(lambda h, row: (0.5 * h + row @ w, h), jnp.zeros(3), x)[1]
        >>> scan = jx.make(f, jnp.ones((4, 3)))[0].equations[-1]
        >>> outside, _ = jx.make(taken_out(jx.loop(scan)), w, jnp.zeros(3), jnp.ones((4, 3)))
        >>> str(outside.equations[0].primitive)
        'dot_general'
    """
    jaxpr, first, last = loop.body.jaxpr, loop.n_consts, loop.n_consts + loop.n_carry
    states, rows = jaxpr.invars[first:last], jaxpr.invars[last:]
    carried, stacked = jaxpr.outvars[: loop.n_carry], jaxpr.outvars[loop.n_carry :]
    early, rest, waiting = [], [], set(states)
    for equation in loop.body.equations:
        if waiting.isdisjoint(_read([equation])):
            early.append(equation)
        else:
            rest.append(equation)
            waiting.update(equation.outvars)
    core: list[Any] = []
    late: list[Any] = []
    wanted = set(_variables(carried))
    for equation in reversed(rest):
        needed = not wanted.isdisjoint(equation.outvars)
        (core if needed else late).insert(0, equation)
        wanted.update(_read([equation]) if needed else ())
    if not any(map(_contracts, (*early, *late))):
        return None
    later = {*_read([*core, *late]), *_variables(jaxpr.outvars)}
    ready = [var for equation in early for var in equation.outvars if var in later]
    behind = {*_read(late), *_variables(stacked)}
    met = [var for var in (*states, *(var for equation in core for var in equation.outvars)) if var in behind]

    def whole(*operands: Any) -> list[Any]:
        fixed = dict(zip(jaxpr.invars[:first], operands[:first], strict=True))
        fixed.update(zip(jaxpr.constvars, loop.body.consts, strict=True))

        def part(equations: Sequence[Any], names: Sequence[Any], values: Sequence[Any], asked: Sequence[Any]) -> Any:
            held = {**fixed, **dict(zip(names, values, strict=True))}
            for equation in equations:
                results = jx.evaluate(equation, [_value(held, atom) for atom in equation.invars])
                held.update(zip(equation.outvars, results, strict=True))
            return [_value(held, atom) for atom in asked]

        def step(carry: Any, row: Any) -> Any:
            found = part(core, [*states, *rows, *ready], [*carry, *row], [*carried, *met])
            return found[: loop.n_carry], found[loop.n_carry :]

        given = list(operands[last:])
        before = jax.vmap(lambda row: part(early, rows, row, ready), axis_size=loop.length)(given)
        carry, seen = lax.scan(
            step, list(operands[first:last]), [*given, *before], length=loop.length, reverse=loop.reverse
        )
        names = [*rows, *ready, *met]
        after = jax.vmap(lambda row: part(late, names, row, stacked), axis_size=loop.length)
        return [*carry, *after([*given, *before, *seen])]

    return whole


def _variables(atoms: Iterable[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, jx.Literal)]


def _read(equations: Iterable[Any]) -> list[Any]:
    return _variables(atom for equation in equations for atom in equation.invars)


def _value(held: dict[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, jx.Literal) else held[atom]


def _contracts(equation: Any) -> bool:
    """Whether a contraction stands in an equation, at any depth."""
    inside = any(_contracts(inner) for body in jx.bodies(equation) for inner in body.equations)
    return inside or registry.moment(equation.primitive) is Kind.BILINEAR
