"""Where gradients go with the weights that they meet next, so that the covariance of two positions does not close at any width.

Let z = W a with random W. Behind it the gradient is Wᵀ g, and the recursion takes g as independent of W. It may depend on z if
different channels do so with different signs: what W knows of z then cancels, but for a part of 1 / width. It does not cancel
where all channels of z are read alike, g_m = C f(z_m) with one C for all m: then Σ_m W_mc f(z_m) is in proportion to a_c, and as
large as the rest. There are three ways to that:

* an array is contracted with itself over its channels: g goes with z;
* channels are summed after a nonlinearity, and the sum does not go back to an array with these channels;
* the channels of z are positions for what follows (weights across tokens, then a mean over tokens): f is the same for all.

Normalisation over channels sums too, but goes back to the array itself: its part is of the order of 1 / width.

Grouped kernels keep groups of channels apart. Their gradients are averaged over all channels, which loses which group they came
from if the groups are not used alike.
"""

import math
from collections.abc import Iterator, Mapping

from jax import lax

from erfjax.tracing import registry
from erfjax.tracing.positions import access
from erfjax.tracing.positions.access import Fixed, Identity, View
from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.rules.contraction import dot_axes
from erfjax.tracing.second_moments.coverage import place
from erfjax.tracing.second_moments.downstream import nonlinear_downstream
from erfjax.tracing.second_moments.kinds import TOTALS, Kind
from erfjax.tracing.second_moments.segments import Partition, Segment
from erfjax.tracing.second_moments.steps import bends, dependent, kind_of, multiplies, passes
from erfjax.tracing.windows.cone import Step

Axes = Mapping[int, frozenset[int]]
"""Axis of a start -> the axes of another array that it is carried to, one entry of it for each entry there."""

ITSELF = "an array that random weights have made is contracted with itself, and its gradient goes with what these weights know"
SUMMED = "channels are summed after a nonlinearity, and their gradients go with what the weights before them know"
ALIKE = (
    "the results of random weights are positions for a nonlinearity and a sum behind it, and their gradients go with what these "
    "weights know"
)
UNEVEN = "gradients are averaged over groups of channels that keep to themselves and are not used alike"


def coherent(parts: Partition) -> Iterator[tuple[str, str]]:
    """Every reason why gradients do not stay independent of the weights before them, and its place."""
    ways = [_Way(parts, segment, start) for segment in parts.segments.values() for start in segment.links]
    alone, bent = _independent(parts, ways), nonlinear_downstream(parts.cone, lambda *_: False).reached
    for way in ways:
        if way.start in parts.draws:
            yield from way.sums
    for z, draw in parts.draws.items():
        several = {a for a in draw.traced if z.shape[a] > 1}
        if bent.get(z) and not several <= alone.get(z, several):
            yield ALIKE, place(draw.step.equation)
        if draw.group is not None and any(way.partial for way in ways if way.start is z):
            yield UNEVEN, place(draw.step.equation)


class _Way:
    """How a segment reads the axes of one of its starts.

    Attributes:
        end: the axes of the start that are carried to the end of the segment, on some way.
        sums: (reason, place) of sums over its even axes that make gradients go with it.
        partial: whether something reads only a part of its channels.
    """

    def __init__(self, parts: Partition, segment: Segment, start: Var):
        self.segment, self.start = segment, start
        self.sums: list[tuple[str, str]] = []
        self.partial = False
        self.even = even = [a for a in parts.even[start] if start.shape[a] > 1]
        held: dict[Atom, Axes] = {start: {a: frozenset([a]) for a in range(len(start.shape))}}
        bent: set[Atom] = set()
        lost: dict[Atom, set[str]] = {}  # array -> sums over channels that it is made of, itself without these channels
        for step in segment.steps:
            mine = [i for i in dependent(step) if step.equation.inputs[i] in held] if passes(step) else []
            if not mine:
                continue
            if step.inner is not None:
                held.update({atom: {} for atom in step.outputs})
                continue
            inputs, kind = step.equation.inputs, kind_of(step.equation)
            channels = [frozenset().union(*(held[inputs[i]].get(a, ()) for a in even)) for i in mine]
            summed = [i for i, axes in zip(mine, channels, strict=True) if axes & _summed(step, i)]
            if kind is Kind.BILINEAR and len(summed) == 2:
                self.sums.append((ITSELF, place(step.equation)))
            mislaid = set().union(*(lost.get(inputs[i], ()) for i in mine))
            if kind in TOTALS and any(inputs[i] in bent for i in summed):
                mislaid.add(place(step.equation))
            onwards = [_carried(step, i, held[inputs[i]]) for i in mine]
            for i, before, after in zip(mine, channels, onwards, strict=True):
                now = frozenset().union(*(after.get(a, ()) for a in even))
                self.partial |= kind is Kind.SELECTION and _fewer(step, i, before, now)
            held[step.output] = {a: frozenset().union(*(o.get(a, ()) for o in onwards)) for a in held[start]}
            lost[step.output] = set() if any(held[step.output].get(a) for a in even) else mislaid
            curved = bends(step) or (len(mine) > 1 and multiplies(step))
            if curved or any(inputs[i] in bent for i in mine):
                bent.add(step.output)
        self.end = {a: axes for a, axes in held.get(segment.end, {}).items() if axes}
        self.sums += [(SUMMED, where) for where in lost.get(segment.end, ())]

    def alone(self, axis: int, after: frozenset[int]) -> bool:
        """Whether gradients are independent along an axis of the start, if they are along these axes of the end.

        Even axes that are not carried on are summed over; `sums` says whether that matters.
        """
        return self.end[axis] <= after if axis in self.end else axis in self.even


def _summed(step: Step, operand: int) -> frozenset[int]:
    """The axes of an operand that a step sums over."""
    if step.equation.primitive is lax.dot_general_p:
        return frozenset(dot_axes(step.equation, operand)[0])
    view = registry.lookup(step.equation).hull(step.equation, step.result)[operand]
    if kind_of(step.equation) not in TOTALS or not isinstance(view, View):
        return frozenset()
    return frozenset(a for a, axis in enumerate(view.axes) if isinstance(axis, Fixed))


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
