"""The closed form with the covariance of two positions, where paths share their weights.

The one-point pass (`push`) forgets how the gradients of two positions go together. That loses nothing while positions are mixed
by random kernels only; behind a pool, a resize, a mean, attention, two paths over different positions meet the same weights and
add up coherently. This walk carries K(p, p'), the covariance over channels and weights of the gradients at two positions, from
the unit down to the input, over the pieces that `segments` cuts a cone into and by the rules in `draws` and `pairs`.

It is exact in the limit of width for independent zero-mean weights: fixed segments act by their true Jacobian at the data, so
normalisation, attention, gating, choices and sums of branches need no rule of their own.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.activity import Weigh
from erfjax.tracing.second_moments.draws import through_draw
from erfjax.tracing.second_moments.lag_plan import Plan
from erfjax.tracing.second_moments.pairs import squares_through, through_gate, through_segment
from erfjax.tracing.second_moments.passages import frame
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.second_moments.segments import Partition


def squares(
    parts: Partition,
    plan: Plan,
    values: Mapping[Atom, Any],
    weigh: Weigh,
    unit: Any,
    gates: Mapping[Var, Any] | None = None,
) -> Scaled:
    """E g² on the window of the input.

    Args:
        parts: the cone, cut into segments.
        plan: how the covariances of its arrays are held.
        values: every variable on its box.
        weigh: how the squares of random weights are read.
        unit: the covariance at the output, as it is held.
        gates: E φ'(z_p) φ'(z_p') at the ends of segments that are one elementwise function, where data do not say.

    Formula: the rules of `draws` and `pairs`, from the unit to the input; the map is the diagonal there.
    """
    source, (output,) = parts.cone.block.inputs[0], parts.cone.wanted
    assert isinstance(source, Var)
    assert isinstance(output, Var)
    held: dict[Var, Scaled] = {output: Scaled.of(unit)}
    total = Scaled.of(jnp.zeros(lengths(parts.cone.windows[0]), unit.dtype))
    into, gates = frame(parts, source), gates or {}

    def add(atom: Var, covariance: Scaled) -> None:
        held[atom] = held[atom] + covariance if atom in held else covariance

    for atom in parts.order:
        if atom not in held:
            continue
        covariance = held.pop(atom)
        if atom in parts.draws:
            draw = parts.draws[atom]
            add(draw.source, through_draw(parts, draw, covariance, plan.layouts, weigh, values))
        elif atom is source:
            variances = plan.layouts[atom].diagonal(covariance.digits)
            whole = jnp.broadcast_to(variances[:, None], (into.positions, into.channels))
            total = total + Scaled(into.join(whole), covariance.exponent)
        else:
            segment, digits, exponent = parts.segments[atom], covariance.digits, covariance.exponent
            if atom in gates:
                (start,) = segment.links
                passed = through_gate(parts, segment, start, digits, plan, gates[atom])
                add(start, Scaled.of(passed, exponent))
                continue
            if source in segment.links:
                passed = squares_through(parts, segment, source, digits, plan, values)
                total = total + Scaled.of(passed, exponent)
            inner = [start for start in segment.links if start is not source]
            for start, arrived in through_segment(parts, segment, inner, digits, plan, values).items():
                add(start, Scaled.of(arrived, exponent))
    return total
