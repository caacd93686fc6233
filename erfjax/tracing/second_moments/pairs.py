"""How the covariance of two positions passes a fixed segment.

K(p, p') over the paired positions of an array (see `segments`) is the mean over its channels of E g_p g_p', held as a matrix or a
band (see `covariances`). Through a segment with Jacobian J at the data, from channel m of position q of its end to channel c of
position p of a start: K_pp' = mean over c of Σ_m Σ_qq' J(qm, pc) K_qq' J(q'm, p'c). It is computed by pullbacks of the segment:

* positions aligned: K ∘ Γ with Γ = mean over c of Σ_m h h', h the pullback of a one at channel m of all positions; one pullback
  for each channel that the segment mixes (a chain of elementwise functions: one in all);
* channels aligned, K a matrix: the pullback on every column of K, then on every row;
* channels aligned, K a band and positions met by windows: as `windowed` says;
* neither: J itself, one channel m after the other;
* where the start meets another array in a contraction on its way (attention): as `meetings` says.

Formula: S. Schoenholz et al., "Deep Information Propagation", ICLR 2017, carries one position; that gradients meet independent
weights on their way back is proved for wide networks by G. Yang, "Tensor Programs II", 2020.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.second_moments.covariances import Band, Layout, Matrix
from erfjax.tracing.second_moments.lag_plan import Plan
from erfjax.tracing.second_moments.meetings import meeting, shown, through_meeting
from erfjax.tracing.second_moments.passages import Frame, Passage, passage
from erfjax.tracing.second_moments.pullbacks import Sent, at_once, sender, summed
from erfjax.tracing.second_moments.segments import Partition, Segment
from erfjax.tracing.second_moments.windowed import crossing


def through_segment(
    parts: Partition,
    segment: Segment,
    starts: Iterable[Var],
    covariance: Any,
    plan: Plan,
    values: Mapping[Atom, Any],
) -> dict[Var, Any]:
    """The covariances at starts of a segment from that at its end, all held as planned."""
    there = plan.layouts[segment.end]
    groups: dict[Any, dict[Var, Passage]] = {}
    found: dict[Var, Any] = {}
    for start in starts:
        way, here = passage(parts, segment, start), plan.layouts[start]
        crossed = crossing(parts, plan, segment, start)
        met = None if way.local or crossed is not None else meeting(parts, segment, start)
        if crossed is not None:
            found[start] = crossed.band(covariance, values)
        elif met is not None:
            found[start] = here.of(through_meeting(parts, segment, way, met, there.whole(covariance), values))
        else:
            rule = _gated if way.local else _two_sided if way.separate else _by_channels
            alone = start if rule is _two_sided else way.probes.tobytes()
            groups.setdefault((rule, alone, isinstance(here, Band)), {})[start] = way
    for (rule, _, _), ways in groups.items():
        sent = sender(parts, segment, ways, values)
        layouts = [plan.layouts[start] for start in ways]
        found.update(zip(ways, rule(segment, list(ways.values()), sent, covariance, there, layouts), strict=True))
    return found


def through_gate(parts: Partition, segment: Segment, start: Var, covariance: Any, plan: Plan, gate: Any) -> Any:
    """K ∘ Γ for a segment that is one elementwise function with a known Γ, which is held as K is."""
    way = passage(parts, segment, start)
    return placed(way, covariance * gate, plan.layouts[segment.end], plan.layouts[start])


def placed(way: Passage, covariance: Any, there: Layout, here: Layout) -> Any:
    """A covariance over positions of the end as one over those of a start that are aligned with them."""
    if isinstance(here, Matrix):
        return way.placed(there.whole(covariance))
    return jax.vmap(way.placed)(there.read(covariance, way.lags_there(here.rows)))


def _gated(
    segment: Segment, ways: list[Passage], sent: Sent, covariance: Any, there: Layout, layouts: list[Layout]
) -> list[Any]:
    """K ∘ Γ, for positions that are aligned."""

    def gate(totals: list[Any], probe: Any) -> tuple[list[Any], None]:
        arrived = sent(probe[None, :])
        return [total + here.inner(h) for total, here, h in zip(totals, layouts, arrived, strict=True)], None

    zeros = [jnp.zeros(here.shape, covariance.dtype) for here in layouts]
    gates = summed(gate, zeros, shown(ways[0], covariance))
    return [
        placed(way, covariance, there, here) * g / way.start.channels
        for way, here, g in zip(ways, layouts, gates, strict=True)
    ]


def _two_sided(
    segment: Segment, ways: list[Passage], sent: Sent, covariance: Any, there: Layout, layouts: list[Layout]
) -> list[Any]:
    """The pullback on columns, then on rows, for channels that are aligned."""
    (way,), (here,) = ways, layouts
    columns = lax.map(
        lambda column: sent(column[:, None])[0],
        there.whole(covariance),
        batch_size=at_once(segment, way.end.positions),
    )

    def row(p: Any) -> Any:
        (arrived,) = sent(way.returned(lax.dynamic_index_in_dim(columns, p, 1, keepdims=False)))
        return jnp.mean(arrived, axis=1)

    size = way.start.positions
    return [here.of(lax.map(row, jnp.arange(size), batch_size=at_once(segment, size)))]


def _by_channels(
    segment: Segment, ways: list[Passage], sent: Sent, covariance: Any, there: Layout, layouts: list[Layout]
) -> list[Any]:
    """The Jacobian itself, from one channel of the end after the other."""
    whole = there.whole(covariance)

    def channel(totals: list[Any], probe: Any) -> tuple[list[Any], None]:
        after = []
        for total, jacobian in zip(totals, _jacobian(segment, ways[0].end, sent, probe), strict=True):
            other = jnp.tensordot(whole, jacobian, 1)
            after.append(total + jnp.tensordot(jacobian, other, ((0, 2), (0, 2))))
        return after, None

    zeros = [jnp.zeros((way.start.positions,) * 2, covariance.dtype) for way in ways]
    totals, _ = lax.scan(channel, zeros, shown(ways[0], covariance))
    return [here.of(total / way.start.channels) for way, here, total in zip(ways, layouts, totals, strict=True)]


def squares_through(
    parts: Partition,
    segment: Segment,
    start: Var,
    covariance: Any,
    plan: Plan,
    values: Mapping[Atom, Any],
) -> Any:
    """E g² at a start of a segment, entry by entry, from the covariance at its end."""
    way, there = passage(parts, segment, start), plan.layouts[segment.end]
    crossed = crossing(parts, plan, segment, start)
    if crossed is not None:
        return way.start.join(crossed.squares(covariance, values))
    sent = sender(parts, segment, [start], values)
    nothing = jnp.zeros((way.start.positions, way.start.channels), covariance.dtype)
    variances = way.placed(there.diagonal(covariance))[:, None] if way.local else None
    whole = None if way.local else there.whole(covariance)

    def channel(total: Any, probe: Any) -> tuple[Any, None]:
        if whole is None:
            return total + variances * sent(probe[None, :])[0] ** 2, None
        (jacobian,) = _jacobian(segment, way.end, sent, probe)
        return total + jnp.sum(jacobian * jnp.tensordot(whole, jacobian, 1), 0), None

    return way.start.join(summed(channel, nothing, jnp.asarray(way.probes, covariance.dtype)))


def _jacobian(segment: Segment, end: Frame, sent: Sent, probe: Any) -> list[Any]:
    """What arrives from every position of the end, at the channels of a probe: (positions, positions there, channels there)."""
    ones = jnp.eye(end.positions, dtype=probe.dtype)
    return lax.map(lambda one: sent(one[:, None] * probe[None, :]), ones, batch_size=at_once(segment, end.positions))
