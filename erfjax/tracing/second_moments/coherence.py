"""Where gradients go with the weights that they meet next, so that the covariance of two positions does not close at any width.

Let z = W a with random W. Behind it the gradient is Wᵀ g, and the recursion takes g as independent of W. It may depend on z if
different channels do so with different signs: what W knows of z then cancels, but for a part of 1 / width. It does not cancel
where all channels of z are read alike, g_m = C f(z_m) with one C for all m: then Σ_m W_mc f(z_m) is in proportion to a_c, and as
large as the rest. There are three ways to that:

* an array is contracted with itself over its channels: g goes with z;
* channels are summed after a nonlinearity, and the sum is all that is left of them; a contraction over channels with another
  array is such a sum if that has a mean over channels of its own (`parity`);
* the channels of z are positions for what follows (weights across tokens, then a mean over tokens): f is the same for all.

A sum that goes back to the array itself, or multiplies another one with channels (normalisation over channels, a gate by the
energy of all channels, scores of positive features), has a part r² / n, n the channels that are summed and r the change of what
multiplies the array, relative to itself, if all of them grow: about 1 for means and whatever is normalised, √n for a sigmoid of a
sum over √n (`gathered`).

Grouped kernels keep groups of channels apart. Their gradients are averaged over all channels, which loses which group they came
from if the groups are not used alike.
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping

import numpy as np
from jax import lax

from erfjax.tracing import registry
from erfjax.tracing.positions import access
from erfjax.tracing.positions.access import Fixed, Identity, View
from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.rules.contraction import dot_axes
from erfjax.tracing.second_moments.coverage import place
from erfjax.tracing.second_moments.downstream import nonlinear_downstream
from erfjax.tracing.second_moments.gathered import Gathered, gathered
from erfjax.tracing.second_moments.kinds import TOTALS, Kind
from erfjax.tracing.second_moments.parity import Parity, parities
from erfjax.tracing.second_moments.segments import Partition, Segment
from erfjax.tracing.second_moments.steps import bends, dependent, kind_of, multiplies, passes
from erfjax.tracing.windows.cone import Step

Axes = Mapping[int, frozenset[int]]
"""Axis of a start -> the axes of another array that it is carried to, one entry of it for each entry there."""
Moves = list[tuple[Atom, Atom, int]]
"""Which array goes on as which, into the body of a scan, round it or out of it, and by how much its axes are shifted."""

ITSELF = "an array that random weights have made is contracted with itself, and its gradient goes with what these weights know"
SUMMED = "channels are summed after a nonlinearity, and their gradients go with what the weights before them know"
ALIKE = (
    "the results of random weights are positions for a nonlinearity and a sum behind it, and their gradients go with what these "
    "weights know"
)
MUCH = 0.15  # of squared gradients, beyond which the part of a sum that goes back to its array is no matter of finite width
ONE_SIGN = 0.25  # share of the mean in the mean square of fixed weights over channels, beyond which they sum
UNEVEN = "gradients are averaged over groups of channels that keep to themselves and are not used alike"


def coherent(parts: Partition) -> Iterator[tuple[str, str]]:
    """Every reason why gradients do not stay independent of the weights before them, and its place."""
    parity = parities(parts)
    ways = [_Way(parts, segment, start) for segment in parts.segments.values() for start in segment.links]
    wide = {atom for way in ways for atom in way.held if way.channels(atom)}
    alone, bent = _independent(parts, ways), nonlinear_downstream(parts.cone, lambda *_: False).reached
    for way in ways:
        if way.start in parts.draws:
            yield from way.sums(wide, parity)
    for z, draw in parts.draws.items():
        several = {a for a in draw.traced if z.shape[a] > 1}
        if bent.get(z) and not several <= alone.get(z, several):
            yield ALIKE, place(draw.step.equation)
        if draw.group is not None and any(way.partial for way in ways if way.start is z):
            yield UNEVEN, place(draw.step.equation)


class _Way:
    """How a segment reads the axes of one of its starts.

    Attributes:
        even: the channels of the start.
        held: array -> the axes of the start that are carried to it, on some way.
        end: the same of the end of the segment, where there are any.
        partial: whether something reads only a part of its channels.
    """

    def __init__(self, parts: Partition, segment: Segment, start: Var):
        self.segment, self.start, self.partial = segment, start, False
        self.even = [a for a in parts.even[start] if start.shape[a] > 1]
        self.held: dict[Atom, Axes] = {start: {a: frozenset([a]) for a in range(len(start.shape))}}
        for step, mine in self.steps():
            if isinstance(step, list):
                for one, other, shift in step:
                    self._same(one, other, shift)
                continue
            inputs = step.equation.inputs
            onwards = [_carried(step, i, self.held[inputs[i]]) for i in mine]
            axes = range(len(start.shape))
            self.held[step.output] = {a: frozenset().union(*(o.get(a, ()) for o in onwards)) for a in axes}
            for i, after in zip(mine, onwards, strict=True):
                now = frozenset().union(*(after.get(a, ()) for a in self.even))
                fewer = kind_of(step.equation) is Kind.SELECTION and _fewer(step, i, self.channels(inputs[i]), now)
                self.partial |= fewer
        self.end = {a: axes for a, axes in self.held.get(segment.end, {}).items() if axes}

    def steps(self) -> Iterator[tuple[Step | Moves, list[int]]]:
        """The steps that the start leads to, those of scans among them, and the operands by which it does."""
        for step in _entered(self.segment.steps):
            if isinstance(step, list):
                yield [move for move in step if move[0] in self.held], []
                continue
            mine = [i for i in dependent(step) if step.equation.inputs[i] in self.held] if passes(step) else []
            if mine:
                yield step, mine

    def _same(self, one: Atom, other: Atom, shift: int) -> None:
        """One array goes on as another, whose axes are shifted, which may have come from elsewhere too."""
        for axis, axes in self.held[one].items():
            moved = frozenset(a + shift for a in axes if a + shift >= 0)
            held = dict(self.held.get(other, {}))
            self.held[other] = {**held, axis: held.get(axis, frozenset()) | moved}

    def channels(self, atom: Atom) -> frozenset[int]:
        """The axes of an array that are channels of the start."""
        return frozenset().union(*(self.held.get(atom, {}).get(a, ()) for a in self.even))

    def kept(self, atom: Atom) -> int:
        """How many of the channels of the start, or groups of them, an array keeps apart."""
        return math.prod(atom.shape[a] for a in self.channels(atom))

    def sums(self, wide: Container[Atom], parity: Mapping[Atom, Parity]) -> Iterator[tuple[str, str]]:
        """(reason, place) of sums over its channels that make gradients go with it.

        Args:
            wide: the arrays that have channels of their own.
            parity: which arrays have zero mean over channels.
        """
        bent: set[Atom] = set()
        lost: dict[Atom, dict[str, Gathered]] = {}  # array -> sums over channels that it is made of, and nothing else
        for step, mine in self.steps():
            if isinstance(step, list):
                for one, other, _ in step:
                    bent.update([other] if one in bent else [])
                    lost[other] = {**lost.get(other, {}), **lost.get(one, {})}
                continue
            inputs, kind = step.equation.inputs, kind_of(step.equation)
            summed = [i for i in mine if self.channels(inputs[i]) & _summed(step, i)]
            if kind is Kind.BILINEAR and len(summed) == 2:
                yield ITSELF, place(step.equation)
            before = [lost.get(inputs[i], {}) for i in mine]
            fewest = min((self.kept(inputs[i]) for i, sums in zip(mine, before, strict=True) if sums), default=0)
            mislaid = gathered(step, before, mine)
            if self.kept(step.output) > fewest or (multiplies(step) and step.output in wide):
                yield from ((SUMMED, where) for where, total in mislaid.items() if total.share(kind) > MUCH)
                mislaid = {}
            if len(summed) == 1 and inputs[summed[0]] in bent and _adds_up(step, summed[0], parity):
                mislaid[place(step.equation)] = Gathered.of(step, summed[0])
            lost[step.output] = mislaid
            curved = bends(step) or (len(mine) > 1 and multiplies(step))
            if curved or any(inputs[i] in bent for i in mine):
                bent.add(step.output)
        if self.kept(self.segment.end) * MUCH < 1:
            yield from ((SUMMED, where) for where in lost.get(self.segment.end, ()))

    def alone(self, axis: int, after: frozenset[int]) -> bool:
        """Whether gradients are independent along an axis of the start, if they are along these axes of the end.

        Even axes that are not carried on are summed over; `sums` says whether that matters.
        """
        return self.end[axis] <= after if axis in self.end else axis in self.even


def _entered(steps: Iterable[Step]) -> Iterator[Step | Moves]:
    """The steps, in place of scans those of their bodies, as often as something new can come round."""
    for step in steps:
        scan = step.equation.scan
        if step.inner is None or scan is None:
            yield step
            continue
        first, last = len(scan.moving), len(scan.moving) + scan.n_carry
        operands = [step.equation.inputs[i] for i in scan.places]
        yield [(a, b, -int(k >= last)) for k, (a, b) in enumerate(zip(operands, scan.body.inputs, strict=True))]
        for _ in range(1 + scan.n_carry):
            yield from _entered(step.inner.steps)
            yield [(a, b, 0) for a, b in zip(scan.body.outputs, scan.body.inputs[first:last], strict=False)]
        ends = enumerate(zip(scan.body.outputs, step.equation.outputs, strict=True))
        yield [(a, b, int(k >= scan.n_carry)) for k, (a, b) in ends]


def _summed(step: Step, operand: int) -> frozenset[int]:
    """The axes of an operand that a step sums over."""
    if step.equation.primitive is lax.dot_general_p:
        return frozenset(dot_axes(step.equation, operand)[0])
    view = registry.lookup(step.equation).hull(step.equation, step.result)[operand]
    if kind_of(step.equation) not in TOTALS or not isinstance(view, View):
        return frozenset()
    return frozenset(a for a, axis in enumerate(view.axes) if isinstance(axis, Fixed))


def _adds_up(step: Step, operand: int, parity: Mapping[Atom, Parity]) -> bool:
    """Whether a step that sums over channels of an operand gives all of them weights of one sign, on the whole."""
    if kind_of(step.equation) in TOTALS:
        return True
    if step.equation.primitive is not lax.dot_general_p:
        return False
    partner = step.equation.inputs[1 - operand]
    if isinstance(partner, Var):
        return parity.get(partner) is not Parity.ODD
    weights = partner.concrete
    if weights is None or not weights.any():
        return False
    means = np.mean(weights, dot_axes(step.equation, operand)[1], dtype=np.float64)
    return bool(np.mean(means**2) > ONE_SIGN * np.mean(np.square(weights, dtype=np.float64)))


def _carried(step: Step, operand: int, held: Axes) -> Axes:
    """The axes of the result that the axes of an operand become."""
    view = registry.lookup(step.equation).hull(step.equation, step.result)[operand]
    if isinstance(view, Identity):
        return held
    to: dict[int, tuple[int, ...]] = {}
    if isinstance(view, View):
        to = {a: (axis.out,) for a, axis in enumerate(view.axes) if not isinstance(axis, Fixed)}
    elif isinstance(view, access.Mapping):
        to = {a: outs for ins, outs in view.groups for a in ins}
    size = step.output.shape
    return {a: frozenset(o for b in axes for o in to.get(b, ()) if size[o] > 1) for a, axes in held.items()}


def _fewer(step: Step, operand: int, before: frozenset[int], after: frozenset[int]) -> bool:
    """Whether the result has fewer entries along these axes than the operand."""
    atom = step.equation.inputs[operand]
    return math.prod(step.output.shape[o] for o in after) < math.prod(atom.shape[a] for a in before)


def _independent(parts: Partition, ways: list[_Way]) -> dict[Var, frozenset[int]]:
    """The axes of arrays along which gradients are independent, or of one entry only."""
    found: dict[Var, frozenset[int]] = {}

    def meet(atom: Var, axes: frozenset[int]) -> None:
        found[atom] = found.get(atom, axes) & axes

    for output in parts.cone.wanted:
        meet(output, frozenset(range(len(output.shape))))  # type: ignore[arg-type]
    for atom in parts.order:
        mine = found.get(atom)
        if mine is None:
            continue
        if atom in parts.draws:
            draw = parts.draws[atom]
            view = registry.lookup(draw.step.equation).hull(draw.step.equation, draw.step.result)[draw.operand]
            assert isinstance(view, View)
            kept = {a for a, axis in enumerate(view.axes) if a in draw.contracted or getattr(axis, "out", None) in mine}
            meet(draw.source, frozenset(kept))
        for way in ways:
            if way.segment.end is atom and atom not in parts.draws:
                axes = range(len(way.start.shape))
                meet(way.start, frozenset(a for a in axes if way.start.shape[a] == 1 or way.alone(a, mine)))
    return found
