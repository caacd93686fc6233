"""The closed form with the covariance of two positions, where paths share their weights.

The one-point pass (`push`) forgets how the gradients of two positions go together. That loses nothing while positions are mixed
by random kernels only; behind a pool, a resize, a mean, attention, two paths over different positions meet the same weights and
add up coherently. This walk carries K(p, p'), the covariance over channels and weights of the gradients at two positions, from
the unit down to the input, over the pieces that `segments` cuts a cone into and by the rules in `pairs`.

It is exact in the limit of width for independent zero-mean weights: fixed segments act by their true Jacobian at the data, so
normalisation, attention, gating, choices and sums of branches need no rule of their own.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.activity import Weigh
from erfjax.tracing.second_moments.pairs import squares_through, through_draw, through_gate, through_segment
from erfjax.tracing.second_moments.passages import frame, passage
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.second_moments.segments import Partition


def squares(
    parts: Partition, values: Mapping[Atom, Any], weigh: Weigh, unit: Any, gates: Mapping[Var, Any] | None = None
) -> Scaled:
    """E g² on the window of the input.

    Args:
        parts: the cone, cut into segments.
        values: every variable on its box.
        weigh: how the squares of random weights are read.
        unit: the covariance at the output: (positions, positions) of its box.
        gates: E φ'(z_p) φ'(z_p') at the ends of segments that are one elementwise function, where data do not say.

    Formula: the rules of `pairs`, from the unit to the input; the map is the diagonal there.
    """
    source, (output,) = parts.cone.block.inputs[0], parts.cone.wanted
    assert isinstance(source, Var)
    assert isinstance(output, Var)
    held: dict[Var, Scaled] = {output: Scaled.of(unit)}
    total = Scaled.of(jnp.zeros(lengths(parts.cone.windows[0]), unit.dtype))
    diagonal, into, gates = variances_only(parts), frame(parts, source), gates or {}

    def add(atom: Var, covariance: Scaled) -> None:
        if atom in diagonal and covariance.digits.ndim == 2:
            covariance = covariance.linear(jnp.diagonal)
        held[atom] = held[atom] + covariance if atom in held else covariance

    for atom in parts.order:
        if atom not in held:
            continue
        covariance = held.pop(atom)
        if atom in parts.draws:
            add(parts.draws[atom].source, through_draw(parts, parts.draws[atom], covariance, weigh, values))
        elif atom is source:
            whole = jnp.broadcast_to(covariance.digits[:, None], (into.positions, into.channels))
            total = total + Scaled(into.join(whole), covariance.exponent)
        else:
            segment, digits, exponent = parts.segments[atom], covariance.digits, covariance.exponent
            if atom in gates:
                (start,) = segment.links
                add(start, Scaled.of(through_gate(parts, segment, start, digits, gates[atom]), exponent))
                continue
            if source in segment.links:
                total = total + Scaled.of(squares_through(parts, segment, source, digits, values), exponent)
            inner = [start for start in segment.links if start is not source]
            for start, arrived in through_segment(parts, segment, inner, digits, values).items():
                add(start, Scaled.of(arrived, exponent))
    return total


def variances_only(parts: Partition) -> set[Var]:
    """The arrays at which variances are enough, because all the way from there to the input is random or position by position."""
    source = parts.cone.block.inputs[0]
    found: set[Atom] = {source}
    for atom in reversed(parts.order):
        if atom in parts.draws:
            enough = parts.draws[atom].source in found
        else:
            segment = parts.segments.get(atom)
            enough = segment is not None and all(
                start in found and passage(parts, segment, start).local for start in segment.links
            )
        if enough:
            found.add(atom)
    return found  # type: ignore[return-value]
