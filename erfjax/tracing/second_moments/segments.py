"""Where the covariance of two positions is kept: a cone cut at its random contractions into fixed segments.

A contraction with random weights makes the gradients of its operand independent along the axes that it contracts, whatever they
were before. What lies between two of them, a *segment*, is fixed once the data are given: it is replaced by its Jacobian there.
A segment ends at an array that a random contraction (or the unit) reads and begins at results of such contractions or at the
input. Every array at either end has two kinds of axes:

* *paired*: the covariance runs over pairs of positions along them;
* *even*: channels. The covariance is zero between different channels, and its mean over channels is all that is kept.

A segment may be cut once more at an array through which all of its paths run, if what lies before that array adds and does
nothing else, so that the mean over channels loses nothing: a residual stream is cut at every layer.

Which axes of a segment's end are *linked* with axes of a start (index o there needs index o + shift here, and no other) is read
off the same views as the hull walk.
"""

import dataclasses
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import jax.numpy as jnp

from erfjax.tracing import registry
from erfjax.tracing.positions.access import Along, Lookup, View
from erfjax.tracing.program.equations import Atom, Equation, Known, Var
from erfjax.tracing.rules.contraction import tap_axes
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.second_moments.links import Links, aligned
from erfjax.tracing.second_moments.steps import dependent, elementwise, kind_of, passes
from erfjax.tracing.windows.cone import Cone, Step

Drawn = Callable[[Equation, int], bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """A contraction with random weights.

    Attributes:
        operand: which operand of the step depends on the input; the other holds the weights.
        contracted: the axes of that operand that the contraction sums over (channels; not the taps of a kernel).
        traced: the axes of the result that only the weights have.
        taps: axis of the operand -> axis of the weights along which the taps lie that slide over it.
        group: how many channels share weights with each other, where only a part of them does (grouped and depthwise kernels).
    """

    step: Step
    operand: int
    contracted: frozenset[int]
    traced: frozenset[int]
    taps: Mapping[int, int]
    group: int | None = None

    @property
    def source(self) -> Var:
        """The array that is contracted."""
        atom = self.step.equation.inputs[self.operand]
        assert isinstance(atom, Var)
        return atom


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Fixed operations from several starts to one end; the steps in order."""

    end: Var
    steps: tuple[Step, ...]
    links: Mapping[Var, Links]


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
    """A cone in pieces.

    Attributes:
        draws: result of a random contraction -> the contraction.
        segments: the array at which a segment ends -> the segment.
        even: for every array at an end of a segment, its even axes.
        order: these arrays, from the unit to the input.
        ends: the arrays that a random contraction or the unit reads.
    """

    cone: Cone
    draws: Mapping[Var, Draw]
    segments: Mapping[Var, Segment]
    even: Mapping[Var, frozenset[int]]
    order: tuple[Var, ...]
    ends: tuple[Var, ...]

    def paired(self, atom: Var) -> tuple[int, ...]:
        """The axes of an array over whose pairs of positions its covariance runs."""
        return tuple(a for a in range(len(atom.shape)) if a not in self.even[atom])

    def parted(self) -> Var | None:
        """An array that two ways over other cuts lead to from one end, so that the walk loses how these go together."""
        for end in self.ends:
            ways = {end: 1}
            for atom in self.order:
                if atom in ways and atom in self.segments:
                    for start in self.segments[atom].links:
                        ways[start] = ways.get(start, 0) + ways[atom]
            for atom, count in ways.items():
                if count > 1:
                    return atom
        return None


def partition(
    cone: Cone, drawn: Drawn, channels: Iterable[int], unit_channels: Iterable[int], also: Iterable[Atom] = ()
) -> Partition:
    """Cuts a cone into segments.

    Args:
        cone: what is computed.
        drawn: (equation, operand) -> whether a known operand of a contraction is random.
        channels: the even axes of the input (the first, if there are several).
        unit_channels: those of the output: channels that are given random signs.
        also: arrays at which segments are cut once more, which may lose something (see `Partition.parted`).
    """
    source, (output,) = cone.block.inputs[0], cone.wanted
    assert isinstance(source, Var)
    assert isinstance(output, Var)
    live: set[Atom] = {source}  # what depends on the input that is asked about
    draws = {}
    for step in cone.steps:
        if live.isdisjoint(step.equation.inputs):
            continue
        live.update(step.outputs)
        draw = _draw(step, drawn)
        if draw is not None:
            draws[step.output] = draw
    graph = _Graph(cone, draws, live)
    starts = {source: frozenset(channels), **{z: draw.traced for z, draw in draws.items()}}
    ends: dict[Var, frozenset[int]] = {output: frozenset(unit_channels)}
    for draw in draws.values():
        ends[draw.source] = ends.get(draw.source, draw.contracted) & draw.contracted
    for atom in starts.keys() & ends.keys():
        starts[atom] &= ends[atom]
    cuts = graph.cuts(starts, tuple(ends))
    even = dict(starts)
    for atom, axes in ends.items():
        if atom not in even:
            even[atom] = axes & cuts.get(atom, axes)
    even.update({atom: axes for atom, axes in cuts.items() if atom not in even})
    more = sorted((a for a in also if isinstance(a, Var) and a in live and a not in starts), key=graph.at)
    inner = {*starts, *cuts, *more}
    segments: dict[Var, Segment] = {}
    for atom in (*more, *ends, *cuts):
        if atom not in starts and atom not in segments:
            segments[atom] = graph.segment(atom, inner)
        if atom not in even:
            even[atom] = _evenly(segments[atom], even)
    order = sorted(even, key=graph.at, reverse=True)
    return Partition(cone, draws, segments, even, tuple(order), tuple(ends))


def _evenly(segment: Segment, even: Mapping[Var, frozenset[int]]) -> frozenset[int]:
    """The axes of a segment's end along which it is as even as its starts."""
    each = [
        {a for a, link in enumerate(links) if link is not None and link.part == "whole" and link.axis in even[start]}
        for start, links in segment.links.items()
    ]
    return frozenset(set.intersection(*each)) if each else frozenset()


def _draw(step: Step, drawn: Drawn) -> Draw | None:
    """The step as a random contraction, if it is one."""
    if not jnp.issubdtype(step.output.dtype, jnp.inexact) or kind_of(step.equation) is not Kind.BILINEAR:
        return None
    moving = dependent(step)
    if len(moving) != 1:
        return None
    (operand,) = moving
    if not isinstance(step.equation.inputs[1 - operand], Known) or not drawn(step.equation, 1 - operand):
        return None
    views = registry.lookup(step.equation).hull(step.equation, step.result)
    mine, theirs = views[operand], views[1 - operand]
    taps = tap_axes(step.equation, 1 - operand)
    if not isinstance(mine, View) or not isinstance(theirs, View) or taps is None:
        return None
    contracted = frozenset(a for a, axis in enumerate(mine.axes) if not isinstance(axis, Along))
    kept = {axis.out for axis in mine.axes if isinstance(axis, Along)}
    parts = [axis.pattern.most_per_row for axis in mine.axes if isinstance(axis, Lookup)] if taps else []
    traced = frozenset(range(len(step.output.shape))) - kept
    return Draw(step, operand, contracted, traced, taps, min(parts, default=None))


class _Graph:
    """What a gradient passes between random contractions."""

    def __init__(self, cone: Cone, draws: Mapping[Var, Draw], live: Container[Atom]):
        self.cone, self.draws = cone, draws
        self.steps = {atom: step for step in cone.steps if step.output not in draws for atom in step.outputs}
        self.order: dict[Atom, int] = {atom: i for i, step in enumerate(cone.steps) for atom in step.outputs}
        self.parents: dict[Atom, list[Var]] = {}
        for atom, step in self.steps.items():
            moves = jnp.issubdtype(atom.dtype, jnp.inexact) and passes(step)
            inputs = [step.equation.inputs[i] for i in dependent(step)] if moves else []
            self.parents[atom] = [a for a in dict.fromkeys(inputs) if isinstance(a, Var) and a in live]

    def cuts(self, starts: Mapping[Var, frozenset[int]], ends: Sequence[Var]) -> dict[Var, frozenset[int]]:
        """Arrays at which several segments may be cut without loss, with their even axes."""
        bit: dict[Atom, int] = {}
        before: dict[Atom, int] = {}  # the arrays that an array is computed from, without itself
        readers: dict[Atom, int] = {}
        array: Atom
        for array in (*starts, *self.steps):
            bit[array] = 1 << len(bit)
        for array in sorted(bit, key=self.at):
            before[array] = 0
            for parent in () if array in starts else self.parents[array]:
                before[array] |= before[parent] | bit[parent]
                readers[parent] = readers.get(parent, 0) | bit[array]
        adds = self._adding(starts)
        reach = {end: before[end] | bit[end] for end in ends}
        found: dict[Var, frozenset[int]] = {}
        for atom, axes in adds.items():
            needed_by = [end for end in ends if reach[end] & bit[atom]]
            if atom in starts or len(needed_by) < 2 or atom not in self.steps:
                continue
            if readers.get(atom, 0).bit_count() + (atom in ends) < 2:
                continue
            around = 0  # who else reads what this array is computed from
            for array, mark in bit.items():
                if before[atom] & mark:
                    around |= readers.get(array, 0)
            around &= ~(before[atom] | bit[atom])
            if isinstance(atom, Var) and not any(reach[end] & around for end in needed_by):
                found[atom] = axes
        return found

    def _adding(self, starts: Mapping[Var, frozenset[int]]) -> dict[Var, frozenset[int]]:
        """The arrays that are sums of starts, each as it is, with the even axes that all of these have."""
        found: dict[Var, frozenset[int]] = dict(starts)
        for atom, step in self.steps.items():
            parents = self.parents[atom]
            if not parents or not elementwise(step) or kind_of(step.equation) is not Kind.LINEAR:
                continue
            if all(p in found and p.shape == atom.shape for p in parents) and len({found[p] for p in parents}) == 1:
                found[atom] = found[parents[0]]
        return found

    def segment(self, end: Var, starts: Iterable[Var]) -> Segment:
        """The fixed operations behind one array."""
        bounds, taken, reached, pending = set(starts) - {end}, set(), set(), [end]
        while pending:
            atom = pending.pop()
            if atom in bounds:
                reached.add(atom)
            elif atom not in taken:
                taken.add(atom)
                pending += self.parents.get(atom, [])
        steps = tuple(step for step in self.cone.steps if not taken.isdisjoint(step.outputs))
        return Segment(end, steps, {start: aligned(start, end, steps) for start in sorted(reached, key=self.at)})

    def at(self, atom: Atom) -> int:
        return self.order.get(atom, -1)
