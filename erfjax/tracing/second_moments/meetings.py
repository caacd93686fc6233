"""How a covariance passes a contraction of two arrays that both depend on the input: attention's values, keys and queries.

The segment from end to start is cut once more where the start meets its partner P in a contraction S,

    S[b, r, y] = Σ_x P[b, r, x] a[b, x, y],

if every row r of S belongs to one position of the end. What arrives at S from channel m of the end is then an array D[b, r, y],
one pullback for all positions, and what arrives at a is Σ_r P[b, r, x] D[b, r, y]. So, with the covariance K of the end,

* positions of a along y (keys): K_jj' = Σ_m,b Σ_rr' D[b, r, j] D[b, r', j'] K_rr' Σ_x P[b, r, x] P[b, r', x];
* positions of a along x (values): K_jj' = Σ_b Σ_rr' P[b, r, j] P[b, r', j'] K_rr' Σ_m,y D[b, r, y] D[b, r', y];

divided by the number of channels of a: a few products of matrices over positions in place of the whole Jacobian.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.tracing.program.equations import Atom, Known, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.rules.contraction import dot_axes
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.second_moments.links import Link, aligned
from erfjax.tracing.second_moments.passages import Frame, Passage, frame
from erfjax.tracing.second_moments.segments import Partition, Segment
from erfjax.tracing.second_moments.steps import dependent, kind_of, passes
from erfjax.tracing.windows.cone import Step


@dataclasses.dataclass(frozen=True, eq=False)
class Meeting:
    """Where a start meets another array that depends on the input.

    Attributes:
        step: the contraction.
        operand: which of its operands is the start, relabelled by the steps `before`.
        before: the steps from the start to there.
        after: the steps from the contraction to the end.
        place: the axis of the operand along which its positions lie.
    """

    step: Step
    operand: int
    before: tuple[Step, ...]
    after: tuple[Step, ...]
    place: int

    @property
    def axes(self) -> tuple[Sequence[int], ...]:
        """Contracted axes of the operand and of its partner, batch axes of these."""
        return dot_axes(self.step.equation, self.operand)

    @property
    def summed(self) -> bool:
        """Whether positions are summed over, as those of values are."""
        return self.place in self.axes[0]

    @property
    def rows(self) -> range:
        """The axes of the result that are the partner's."""
        mine, _, batch, _ = self.axes
        free = len(self.step.output.shape) - len(batch)
        own = len(self.step.equation.inputs[self.operand].shape) - len(batch) - len(mine)
        first = len(batch) if self.operand == 1 else len(batch) + own
        return range(first, first + free - own)

    def arranged(self, partner: Any, result: Any) -> tuple[Any, Any]:
        """The partner as (batch, rows, contracted, 1) or (batch, rest, rows, positions); the result the other way round."""
        mine, theirs, batch, their_batch = self.axes
        free = [a for a in range(partner.ndim) if a not in theirs and a not in their_batch]
        partner = jnp.transpose(partner, (*their_batch, *free, *theirs))
        count = len(batch)
        rows = math.prod(partner.shape[count : count + len(free)])
        size = math.prod(partner.shape[:count])
        inner = partner.shape[count + len(free) :]
        others = [a for a in range(count, result.ndim) if a not in self.rows]
        result = jnp.transpose(result, (*range(count), *self.rows, *others))
        outer = result.shape[count + len(self.rows) :]
        if self.summed:
            at = list(mine).index(self.place)
            return _last(partner.reshape(size, rows, *inner), at), result.reshape(size, rows, -1)
        own = [a for a in range(len(self.step.equation.inputs[self.operand].shape)) if a not in mine and a not in batch]
        return partner.reshape(size, rows, -1), _last(result.reshape(size, rows, *outer), own.index(self.place))


def _last(array: Any, at: int) -> Any:
    """(batch, rows, *axes) as (batch, all other axes, rows, the axis at this place)."""
    moved = jnp.moveaxis(jnp.moveaxis(array, 2 + at, -1), 1, -2)
    return moved.reshape(moved.shape[0], -1, *moved.shape[-2:])


def meeting(parts: Partition, segment: Segment, start: Var) -> Meeting | None:
    """Where a start of a segment meets its partner, if that is the only way to the end and fits the formula."""
    reached: set[Atom] = {start}
    before: list[Step] = []
    found: tuple[Step, int] | None = None
    for step in segment.steps:
        mine = [i for i in dependent(step) if step.equation.inputs[i] in reached] if passes(step) else []
        if mine and _relabels(step):
            before.append(step)
            reached.add(step.output)
        elif mine:
            partners = [i for i in dependent(step) if i not in mine]
            if (
                found is not None
                or step.equation.primitive is not lax.dot_general_p
                or not len(mine) == len(partners) == 1
            ):
                return None
            found = step, mine[0]
    if found is None or segment.end in reached:
        return None
    step, operand = found
    after, moved = [], {step.output}
    for later in segment.steps:
        if not moved.isdisjoint(later.equation.inputs):
            moved.update(later.outputs)
            after.append(later)
    source, end = frame(parts, start), frame(parts, segment.end)
    place = _position(parts, start, source, step, operand, before)
    if place is None:
        return None
    met = Meeting(step, operand, tuple(before), tuple(after), place)
    return met if place not in met.axes[2] and _by_rows(parts, segment, end, met) else None


def _relabels(step: Step) -> bool:
    """Whether a step passes every entry on once, all times the same number."""
    known = [atom for atom in step.equation.inputs if isinstance(atom, Known)]
    moving = dependent(step)
    kind = kind_of(step.equation)
    if len(moving) != 1 or math.prod(lengths(step.operands[moving[0]] or ())) != step.entries or step.inner is not None:
        return False
    if kind in (Kind.SCALED, Kind.QUOTIENT):
        return bool(known) and all(math.prod(atom.shape) == 1 for atom in known) and moving == [0]
    return kind is Kind.SELECTION or (kind is Kind.LINEAR and not known)


def _single(held: Frame) -> int | None:
    """The only axis of positions that has several."""
    several = [a for a in held.paired if held.shape[a] > 1]
    return several[0] if len(several) == 1 else None


def _position(
    parts: Partition, start: Var, source: Frame, step: Step, operand: int, before: Sequence[Step]
) -> int | None:
    """The axis of the operand along which all positions of the start lie, the others being its channels."""
    atom, box, axis = step.equation.inputs[operand], step.operands[operand] or (), _single(source)
    assert isinstance(atom, Var)
    links = aligned(start, atom, before)
    places = [a for a, link in enumerate(links) if link == Link(axis if axis is not None else -1)]
    rest = [link for a, link in enumerate(links) if a not in places and lengths(box)[a] > 1]
    if len(places) != 1 or any(link is None or link.axis not in source.even for link in rest):
        return None
    (place,), here = places, parts.cone.boxes[start]
    whole = axis is not None and (box[place].start, box[place].stop) == (here[axis].start, here[axis].stop)
    return place if whole else None


def _by_rows(parts: Partition, segment: Segment, end: Frame, met: Meeting) -> bool:
    """Whether each row of the contraction belongs to the position of the end of the same index."""
    axis, here = _single(end), parts.cone.boxes[met.step.output]
    rows = [a for a in met.rows if lengths(here)[a] > 1]
    if axis is None or len(rows) != 1 or met.step.box != here:
        return False
    there = parts.cone.boxes[segment.end][axis]
    same = (here[rows[0]].start, here[rows[0]].stop) == (there.start, there.stop)
    return same and aligned(met.step.output, segment.end, met.after)[axis] == Link(rows[0])


def through_meeting(
    parts: Partition, segment: Segment, way: Passage, met: Meeting, covariance: Any, values: Mapping[Atom, Any]
) -> Any:
    """The covariance at the start from that at the end."""
    cone, step = parts.cone, met.step

    def forwards(array: Any) -> Any:
        return cone.run(met.after, {**values, step.output: array})[segment.end]

    value, pull = jax.vjp(forwards, values[step.output])
    other = 1 - met.operand
    partner = cone.read(values, step.equation.inputs[other], step.operands[other] or ())

    def arrived(probe: Any) -> tuple[Any, Any]:
        whole = jnp.broadcast_to(probe, (way.end.positions, way.end.channels)).astype(value.dtype)
        (result,) = pull(way.end.join(whole))
        mine, theirs = met.arranged(partner, result)
        return mine.astype(covariance.dtype), theirs.astype(covariance.dtype)

    def sandwiched(total: Any, one: tuple[Any, Any]) -> tuple[Any, None]:
        carriers, gate = one
        weighed = covariance * gate
        for_all = lax.map(lambda a: a.T @ (weighed @ a), carriers) if len(carriers) > 1 else None
        alone = carriers[0].T @ (weighed @ carriers[0]) if for_all is None else jnp.sum(for_all, 0)
        return total + alone, None

    zero = jnp.zeros((way.start.positions,) * 2, covariance.dtype)
    probes = shown(way, covariance)
    if met.summed:

        def gate(total: Any, probe: Any) -> tuple[Any, None]:
            _, result = arrived(probe)
            return total + result @ jnp.swapaxes(result, 1, 2), None

        carriers, first = arrived(probes[0])
        gates, _ = lax.scan(gate, first @ jnp.swapaxes(first, 1, 2), probes[1:])
        total, _ = lax.scan(sandwiched, zero, (carriers, gates))
    else:

        def keys(total: Any, probe: Any) -> tuple[Any, None]:
            own, carriers = arrived(probe)
            after, _ = lax.scan(lambda t, one: sandwiched(t, (one[0], one[1] @ one[1].T)), total, (carriers, own))
            return after, None

        total, _ = lax.scan(keys, zero, probes)
    return total * _scale(parts, met, way, values).astype(total.dtype) ** 2 / way.start.channels


def shown(way: Passage, covariance: Any) -> Any:
    """The probes of a passage, behind a barrier: products of what is known the compiler would work out by itself, slowly."""
    return lax.optimization_barrier(jnp.asarray(way.probes, covariance.dtype))


def _scale(parts: Partition, met: Meeting, way: Passage, values: Mapping[Atom, Any]) -> Any:
    """What the steps from the start to the contraction multiply every entry by."""
    if not met.before:
        return jnp.ones(())
    start = next(atom for atom in met.before[0].equation.inputs if isinstance(atom, Var))

    def forwards(array: Any) -> Any:
        held = parts.cone.run(met.before, {**values, start: array})
        return held[met.step.equation.inputs[met.operand]]

    value, pull = jax.vjp(forwards, values[start])
    return jnp.max(jnp.abs(pull(jnp.ones_like(value))[0]))


def price(segment: Segment, way: Passage, met: Meeting, pullback: float) -> tuple[float, float]:
    """About how many operations that takes, and how many entries it holds at once."""
    q, p, probes = way.end.positions, way.start.positions, len(way.probes)
    entries = float(met.step.entries)
    partner = math.prod(lengths(met.step.operands[1 - met.operand] or ()))
    matrices = partner / (q * p) if met.summed else probes * entries / (q * p)
    return probes * pullback + matrices * 2.0 * (q * q * p + q * p * p), 4 * entries + 2.0 * partner
