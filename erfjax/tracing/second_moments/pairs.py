"""How the covariance of two positions passes a random contraction, and how it passes a fixed segment.

K(p, p') is a matrix over the paired positions of an array (see `segments`): the mean over its channels of E g_p g_p'. Where only
variances are needed it is a vector, the diagonal.

*Random contraction* z = W a. One weight meets both positions only if it is the same entry of W, so K is summed over the taps that
both have in common and the lag is kept: K_a(i, i') = Σ_t v(t) K_z(o_t(i), o_t(i')), v the variance of a weight at tap t times the
number of weights there that lead to one channel of a. Positions with weights of their own have no covariance.

*Fixed segment* with Jacobian J at the data, from channel m of position q of its end to channel c of position p of a start:
K_pp' = mean over c of Σ_m Σ_qq' J(qm, pc) K_qq' J(q'm, p'c). It is computed by pullbacks of the segment:

* positions aligned: K ∘ Γ with Γ = mean over c of Σ_m h h', h the pullback of a one at channel m of all positions; one pullback
  for each channel that the segment mixes (a chain of elementwise functions: one in all);
* channels aligned: the pullback on every column of K, then on every row;
* neither: J itself, one channel m after the other;
* where the start meets another array in a contraction on its way (attention): as `meetings` says.

Formula: S. Schoenholz et al., "Deep Information Propagation", ICLR 2017, carries one position; that gradients meet independent
weights on their way back is proved for wide networks by G. Yang, "Tensor Programs II", 2020.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.tracing import registry
from erfjax.tracing.positions.access import Along, View
from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.second_moments.activity import Weigh
from erfjax.tracing.second_moments.meetings import meeting, shown, through_meeting
from erfjax.tracing.second_moments.passages import Frame, Passage, frame, passage
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.second_moments.segments import Draw, Partition, Segment

Sent = Callable[[Any], list[Any]]
AT_ONCE = 1 << 22  # entries that the pullbacks of one batch hold


def through_draw(parts: Partition, draw: Draw, covariance: Scaled, weigh: Weigh, values: Mapping[Atom, Any]) -> Scaled:
    """The covariance at the operand of a random contraction from that at its result; a diagonal gives the diagonal."""
    weights = 1 - draw.operand
    atom, box = draw.step.equation.inputs[weights], draw.step.operands[weights] or ()
    squares = weigh(draw.step.equation, weights, parts.cone.read(values, atom, box))
    digits = _untraced(frame(parts, draw.step.output), draw.traced, covariance.digits)
    taps, shared = _taps(parts, draw, squares.digits)
    padded = jnp.pad(digits, [(0, 1)] * digits.ndim)

    def add(total: Any, tap: Any) -> tuple[Any, None]:
        at, variance = tap
        if digits.ndim == 1:
            return total + padded[at] * variance, None
        return total + padded[at[:, None], at[None, :]] * variance[:, None], None

    zero = jnp.zeros((frame(parts, draw.source).positions,) * digits.ndim, digits.dtype)
    total, _ = lax.scan(add, zero, (taps[0], taps[1].astype(digits.dtype)))
    if len(shared) and digits.ndim == 2:
        total = jnp.where((shared[:, :, None] == shared[:, None, :]).all(0), total, 0)
    return Scaled.of(total, covariance.exponent + squares.exponent)


def _untraced(after: Frame, traced: frozenset[int], covariance: Any) -> Any:
    """The mean of the diagonal over axes that only the weights have, where they are paired."""
    extra = [k for k, a in enumerate(after.paired) if a in traced]
    sides, count = covariance.ndim, len(after.paired)
    whole = covariance.reshape(after.sizes * sides)
    for k in reversed(extra):
        if sides == 2:
            whole, count = jnp.mean(jnp.diagonal(whole, axis1=k, axis2=count + k), axis=-1), count - 1
        else:
            whole = jnp.mean(whole, axis=k)
    size = math.prod(n for k, n in enumerate(after.sizes) if k not in extra)
    return whole.reshape((size,) * sides)


def _taps(parts: Partition, draw: Draw, squares: Any) -> tuple[tuple[Any, Any], np.ndarray]:
    """Per tap, for every position of the operand: which position of the result it meets there (one beyond the last: none), and
    the variance of the weights times their number.

    Beside it, for every position, the indices that two positions must share to have weights in common.
    """
    equation, weights = draw.step.equation, 1 - draw.operand
    mine, theirs = (registry.lookup(equation).hull(equation, draw.step.result)[i] for i in (draw.operand, weights))
    assert isinstance(mine, View)
    assert isinstance(theirs, View)
    before, after = frame(parts, draw.source), frame(parts, draw.step.output)
    along = {axis.out: (a, axis) for a, axis in enumerate(mine.axes) if isinstance(axis, Along)}
    alone = {axis.out: a for a, axis in enumerate(theirs.axes) if isinstance(axis, Along) and axis.out in along}
    box = draw.step.operands[weights] or ()
    kept = [*draw.taps.values(), *alone.values()]
    squares = jnp.moveaxis(squares, kept, range(len(kept)))
    squares = jnp.sum(squares, range(len(kept), squares.ndim)) / math.prod(before.shape[a] for a in draw.contracted)

    kept_there = [o for o in after.paired if o not in draw.traced]
    grid = np.indices(before.sizes).reshape(len(before.paired), before.positions)
    index = {a: grid[k] + before.first[a] for k, a in enumerate(before.paired)}
    shared = [index[along[o][0]] for o in alone] + [index[a] for a in before.paired if a in draw.contracted]
    meets, variances = [], []
    for tap in np.ndindex(squares.shape[: len(draw.taps)]):
        at, held = np.zeros(before.positions, np.int64), np.ones(before.positions, bool)
        slid = dict(zip(draw.taps, tap, strict=True))
        for o in kept_there:
            a, axis = along[o]
            reached = index[a] * axis.base - slid.get(a, 0) * axis.dilation - axis.offset
            place = reached // axis.stride - after.first[o]
            held &= (reached % axis.stride == 0) & (place >= 0) & (place < after.shape[o])
            at = at * after.shape[o] + place
        entry = [*tap, *(np.clip(index[along[o][0]] - int(box[a].start), 0, None) for o, a in alone.items())]
        meets.append(np.where(held, at, math.prod(after.shape[o] for o in kept_there)))
        variances.append(jnp.broadcast_to(squares[tuple(entry)], at.shape))
    rows = np.stack(shared) if shared else np.zeros((0, before.positions), np.int64)
    return (jnp.asarray(np.stack(meets), np.int32), jnp.stack(variances)), rows


def through_segment(
    parts: Partition, segment: Segment, starts: Iterable[Var], covariance: Any, values: Mapping[Atom, Any]
) -> dict[Var, Any]:
    """The covariances at starts of a segment from that at its end; a diagonal gives diagonals, where all ways are local."""
    groups: dict[Any, dict[Var, Passage]] = {}
    found: dict[Var, Any] = {}
    for start in starts:
        way = passage(parts, segment, start)
        met = None if way.local else meeting(parts, segment, start)
        if met is not None:
            found[start] = through_meeting(parts, segment, way, met, covariance, values)
            continue
        rule = _gated if way.local else _two_sided if way.separate else _by_channels
        alone = start if rule is _two_sided else way.probes.tobytes()
        groups.setdefault((rule, alone), {})[start] = way
    for (rule, _), ways in groups.items():
        sent = _sender(parts, segment, ways, values)
        found.update(zip(ways, rule(segment, list(ways.values()), sent, covariance), strict=True))
    return found


def through_gate(parts: Partition, segment: Segment, start: Var, covariance: Any, gate: Any) -> Any:
    """K ∘ Γ, or its diagonal, for a segment that is one elementwise function with a known Γ."""
    gate = gate if covariance.ndim == 2 else jnp.diagonal(gate)
    return passage(parts, segment, start).placed(covariance * gate)


def _gated(segment: Segment, ways: list[Passage], sent: Sent, covariance: Any) -> list[Any]:
    """K ∘ Γ, for positions that are aligned."""

    def gate(totals: list[Any], probe: Any) -> tuple[list[Any], None]:
        arrived = sent(probe[None, :])
        return [
            t + (h @ h.T if t.ndim == 2 else jnp.sum(h**2, axis=1)) for t, h in zip(totals, arrived, strict=True)
        ], None

    zeros = [jnp.zeros((way.start.positions,) * covariance.ndim, covariance.dtype) for way in ways]
    gates, _ = lax.scan(gate, zeros, shown(ways[0], covariance))
    return [way.placed(covariance) * g / way.start.channels for way, g in zip(ways, gates, strict=True)]


def _two_sided(segment: Segment, ways: list[Passage], sent: Sent, covariance: Any) -> list[Any]:
    """The pullback on columns, then on rows, for channels that are aligned."""
    (way,) = ways
    columns = lax.map(
        lambda column: sent(column[:, None])[0], covariance, batch_size=_at_once(segment, way.end.positions)
    )

    def row(p: Any) -> Any:
        (arrived,) = sent(way.returned(lax.dynamic_index_in_dim(columns, p, 1, keepdims=False)))
        return jnp.mean(arrived, axis=1)

    size = way.start.positions
    return [lax.map(row, jnp.arange(size), batch_size=_at_once(segment, size))]


def _by_channels(segment: Segment, ways: list[Passage], sent: Sent, covariance: Any) -> list[Any]:
    """The Jacobian itself, from one channel of the end after the other."""

    def channel(totals: list[Any], probe: Any) -> tuple[list[Any], None]:
        after = []
        for total, jacobian in zip(totals, _jacobian(segment, ways[0].end, sent, probe), strict=True):
            other = jnp.tensordot(covariance, jacobian, 1)
            after.append(total + jnp.tensordot(jacobian, other, ((0, 2), (0, 2))))
        return after, None

    zeros = [jnp.zeros((way.start.positions,) * 2, covariance.dtype) for way in ways]
    totals, _ = lax.scan(channel, zeros, shown(ways[0], covariance))
    return [total / way.start.channels for way, total in zip(ways, totals, strict=True)]


def squares_through(parts: Partition, segment: Segment, start: Var, covariance: Any, values: Mapping[Atom, Any]) -> Any:
    """E g² at a start of a segment, entry by entry, from the covariance at its end, or its diagonal if the way is local."""
    way = passage(parts, segment, start)
    sent = _sender(parts, segment, [start], values)
    local, placed = way.local, None
    if local:
        placed = way.placed(covariance if covariance.ndim == 1 else jnp.diagonal(covariance))[:, None]

    def channel(total: Any, probe: Any) -> tuple[Any, None]:
        if local:
            return total + placed * sent(probe[None, :])[0] ** 2, None
        (jacobian,) = _jacobian(segment, way.end, sent, probe)
        return total + jnp.sum(jacobian * jnp.tensordot(covariance, jacobian, 1), 0), None

    nothing = jnp.zeros((way.start.positions, way.start.channels), covariance.dtype)
    return way.start.join(lax.scan(channel, nothing, jnp.asarray(way.probes, covariance.dtype))[0])


def _jacobian(segment: Segment, end: Frame, sent: Sent, probe: Any) -> list[Any]:
    """What arrives from every position of the end, at the channels of a probe: (positions, positions there, channels there)."""
    ones = jnp.eye(end.positions, dtype=probe.dtype)
    return lax.map(lambda one: sent(one[:, None] * probe[None, :]), ones, batch_size=_at_once(segment, end.positions))


def _at_once(segment: Segment, count: int) -> int:
    """How many pullbacks share a batch."""
    entries = sum(step.entries for step in segment.steps)
    return max(1, min(count, AT_ONCE // max(1, entries)))


def _sender(parts: Partition, segment: Segment, starts: Iterable[Var], values: Mapping[Atom, Any]) -> Sent:
    """What arrives at starts, (positions, channels) each, of what the end sends: (positions, channels), or broadcast to that."""
    starts = list(starts)
    end, frames = frame(parts, segment.end), [frame(parts, start) for start in starts]
    value, pull = jax.vjp(
        lambda arrays: run(parts, segment, starts, arrays, values), [values[start] for start in starts]
    )

    def sent(matrix: Any) -> list[Any]:
        whole = jnp.broadcast_to(matrix, (end.positions, end.channels)).astype(value.dtype)
        (arrived,) = pull(end.join(whole))
        return [into.split(array).astype(matrix.dtype) for into, array in zip(frames, arrived, strict=True)]

    return sent


def run(
    parts: Partition, segment: Segment, starts: Iterable[Var], arrays: Iterable[Any], values: Mapping[Atom, Any]
) -> Any:
    """The end of a segment for these arrays at starts, everything else as it is."""
    held: dict[Atom, Any] = {**values}
    held.update(zip(starts, arrays, strict=True))
    return parts.cone.run(segment.steps, held)[segment.end]
