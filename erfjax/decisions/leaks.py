"""Which equations make a sequence model look ahead: each is found, made to look no further than it may, and the next is sought.

Take the unit that looks furthest ahead, and a path from it to the last position that it sees. Along the path every hidden array
has a *time*: its position in steps of the input. From step to step the path goes ahead or back; causal layers go ahead and back
again (padding before an unpadded convolution), so a single step says nothing. What counts is the least lead that is left from
a step to the end of the path: where it rises above zero, the lead is not given back, and the equation of that step is to blame.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from erfjax.decisions.certificate import Traced
from erfjax.decisions.spans import Answers, Edge, Span, Spans, all_held, points_of, through
from erfjax.tracing.positions.access import Identity, Seen
from erfjax.tracing.positions.axis_roles import Roles
from erfjax.tracing.positions.hull import Views, walk
from erfjax.tracing.positions.index_sets import Box, Points, Region, shadow
from erfjax.tracing.program.equations import Atom, Equation

MOST_STEPS = 64  # equations that look ahead; a model with more is reported as far as this


@dataclasses.dataclass(frozen=True)
class Leak:
    """An equation that looks ahead.

    Attributes:
        operation: the primitive.
        layer: the layer path, "" outside any named scope.
        where: the user's line, "" where it is unknown.
        ahead: by how many positions of the input, from the unit that looks furthest; the most of `count` equations.
        count: how many equations of that line do: steps of a loop, layers that share their code.
    """

    operation: str
    layer: str
    where: str
    ahead: int
    count: int = 1

    def __str__(self) -> str:
        named = f" in layer {self.layer}" if self.layer else ""
        return f"`{self.operation}`{named}{f' at {self.where}' if self.where else ''} looks {self.ahead} ahead"


@dataclasses.dataclass(frozen=True, eq=False)
class Clock:
    """The time of the positions of every variable, in positions of the input along one of its axes.

    Attributes:
        axis: the axis of the input that is time.
        last: per unit of the output, the last position of the input that it may see.
    """

    traced: Traced
    axis: int
    last: np.ndarray

    @functools.cached_property
    def roles(self) -> dict[Atom, Roles]:
        return self.traced.reader.roles

    def axes(self, atom: Atom) -> list[tuple[int, Fraction]]:
        """The axes of a variable that are time, with the positions of the input per step; negative where it runs backwards."""
        found = []
        for a, role in enumerate(self.roles.get(atom, ())):
            if role is not None and role.axis == self.axis:
                stride = role.stride
                if stride is None:  # paths disagree: what the lengths say
                    stride = Fraction(self.traced.program.input.shape[self.axis], max(1, atom.shape[a]))
                found.append((a, stride))
        return found

    def time(self, atom: Atom, position: Sequence[int]) -> Fraction | None:
        """The time of a position; None for a variable without time, such as a mean or the state of a loop."""
        times = [
            stride * position[a] if stride > 0 else -stride * (atom.shape[a] - 1 - position[a])
            for a, stride in self.axes(atom)
        ]
        return min(times, default=None)

    def trim(self, atom: Atom, spans: Spans) -> Spans:
        """What of some spans, one per unit, is not ahead of the unit."""
        cut = list(spans)
        for a, stride in self.axes(atom):
            steps = np.floor(self.last / float(abs(stride)))
            low, high = (-np.inf, steps + 1) if stride > 0 else (atom.shape[a] - 1 - steps, np.inf)
            cut[a] = spans[a].clip(low, high)
        return tuple(cut)

    def trimmed(self, atom: Atom, box: Box, unit: int) -> Box:
        """The same for one unit, as exact sets."""
        spans = Clock(self.traced, self.axis, self.last[unit : unit + 1]).trim(
            atom, tuple(Span.of(points.start, points.stop) for points in box)
        )
        edges = (points_of(span.start[0], span.stop[0]) for span in spans)
        return tuple(points.clip(edge.start, edge.stop) for points, edge in zip(box, edges, strict=True))


@dataclasses.dataclass(frozen=True)
class _Trimmed:
    """A view of which only that is kept which is not ahead of a unit."""

    view: Seen
    keep: Callable[[Box], Box]

    def pull(self, box: Box) -> Iterable[Box]:
        return (kept for kept in map(self.keep, self.view.pull(box)) if all(kept))

    def shift(self, shifts: Any, whole: Any) -> Any:
        return self.view.shift(shifts, whole)


def find_leaks(clock: Clock, units: Spans, time: int, *, clipped: bool) -> tuple[list[Leak], bool]:
    """The equations that look ahead, and whether nothing looks ahead once all of them look no further than they may.

    Args:
        clock: of the traced function.
        units: the box of every unit of the output along its time axis.
        time: which axis of the output that is.
        clipped: whether padding is cut off.
    """
    traced, source, views = clock.traced, clock.traced.program.input, clock.traced.reader.views
    blamed: dict[Edge, Leak] = {}
    answers: Answers = {}
    while len(blamed) < MOST_STEPS:
        trims = dict.fromkeys(blamed, clock.trim)
        seen = through(
            traced.program, {traced.output: units}, views, clipped=clipped, trimmed=trims, answers=answers
        ).get(source)
        stops = np.array([-np.inf]) if seen is None else np.where(all_held(seen), seen[clock.axis].stop, -np.inf)
        ahead = np.broadcast_to(stops, clock.last.shape) - 1 - clock.last
        unit = int(np.argmax(ahead))
        if ahead[unit] <= 0:
            return _merged(blamed), True
        before = len(blamed)
        while len(blamed) < MOST_STEPS:  # as long as this unit looks ahead
            found = _blame(clock, _view_of(clock, views, set(blamed), unit), unit, time, clipped)
            if not set(found) - set(blamed):
                break
            blamed.update({edge: leak for edge, leak in found.items() if edge not in blamed})
        if len(blamed) == before:  # the exact sets of this unit look no further than they may
            break
    return _merged(blamed), False


def _merged(found: Mapping[Edge, Leak]) -> list[Leak]:
    """One leak for each operation of a layer and line."""
    lines: dict[tuple[str, str, str], dict[Equation, int]] = {}
    for (equation, _), leak in found.items():
        equations = lines.setdefault((leak.operation, leak.layer, leak.where), {})
        equations[equation] = max(leak.ahead, equations.get(equation, 0))
    return [Leak(*line, max(equations.values()), len(equations)) for line, equations in lines.items()]


def _view_of(clock: Clock, views: Views, blamed: set[Edge], unit: int) -> Views:
    """The views, with what is blamed made to look no further than the unit may."""

    def view(equation: Equation, result: int) -> Sequence[Seen | None]:
        seen = views(equation, result)
        if not any((equation, i) in blamed for i in range(len(seen))):
            return seen
        return [
            _Trimmed(one, functools.partial(clock.trimmed, atom, unit=unit))
            if (equation, i) in blamed and one is not None
            else one
            for i, (atom, one) in enumerate(zip(equation.inputs, seen, strict=True))
        ]

    return view


def _blame(clock: Clock, views: Views, unit: int, time: int, clipped: bool) -> dict[Edge, Leak]:
    """The steps at which the path of one unit to the last position that it sees gets ahead for good."""
    traced = clock.traced
    box = traced.units(time, unit, 1)
    regions = walk(traced.program, {traced.output: (box,)}, clipped=clipped, views=views)
    seen = regions.get(traced.program.input, ())
    if not seen:
        return {}
    last = int(shadow(seen)[clock.axis].stop) - 1
    lead, edges = [Fraction(0)], []
    for equation, operand, when in _path(clock, views, regions, last):
        if when is not None:
            lead.append(when - int(clock.last[unit]))
            edges.append((equation, operand))
    least, found = lead[-1], {}
    for i, (equation, operand) in reversed(list(enumerate(edges, 1))):
        least = min(least, lead[i])
        before = max(Fraction(0), min(lead[i - 1], least))
        if least > before:
            ahead = math.ceil(least - before)
            found[equation, operand] = Leak(str(equation.primitive), equation.layer, equation.where, ahead)
    return found


Step = tuple[Equation, int, Fraction | None]


def _path(clock: Clock, views: Views, regions: dict[Atom, Region], last: int) -> list[Step]:
    """A path from the output to a position of the input: equation, operand, and the time at which it arrives there."""
    program = clock.traced.program
    held = next(box for box in regions[program.input] if last in _set(box[clock.axis]))
    start = tuple(last if a == clock.axis else int(points.positions[0]) for a, points in enumerate(held))
    witness: dict[Atom, tuple[int, ...]] = {program.input: start}
    came: dict[Atom, tuple[Equation, int, Atom]] = {}
    for equation in program.equations:
        for result, output in enumerate(equation.outputs):
            if output not in regions or output in witness:
                continue
            for i, atom in enumerate(equation.inputs):
                if atom in witness:
                    position = _above(clock, equation, result, i, views, regions[output], witness[atom])
                    if position is not None:
                        witness[output], came[output] = position, (equation, i, atom)
                        break
    steps: list[Step] = []
    here: Atom = clock.traced.output
    while here in came:
        equation, i, here = came[here]
        steps.append((equation, i, clock.time(here, witness[here])))
    return steps if here is program.input else []


def _set(points: Points) -> Any:
    return range(int(points.start), int(points.stop)) if points.bits is None else set(points.positions.tolist())


def _above(
    clock: Clock, equation: Equation, result: int, operand: int, views: Views, region: Region, below: tuple[int, ...]
) -> tuple[int, ...] | None:
    """A position of a region of the result that needs a position of the operand: the one that is nearest to it in time."""
    output, atom = equation.outputs[result], equation.inputs[operand]
    if equation.blocks:
        same = [box for box in region if len(box) == len(below) and all(map(_holds, box, below))]
        return below if same else tuple(int(p.positions[0]) for p in region[0]) if region else None
    view = views(equation, result)[operand]
    if view is None:
        return None
    inside = [box for box in region if len(box) == len(below) and all(map(_holds, box, below))]
    here = tuple(Points(at, at + 1) for at in below)
    if inside and (isinstance(view, Identity) or any(all(map(_holds, pulled, below)) for pulled in view.pull(here))):
        return below
    when, axes = clock.time(atom, below), clock.axes(output)

    def needs(box: Box) -> bool:
        return any(all(map(_holds, pulled, below)) for pulled in view.pull(box))

    for box in region:
        if not needs(box):
            continue
        for a in [*(a for a, _ in axes), *(a for a in range(len(box)) if a not in [a for a, _ in axes])]:
            stride = dict(axes).get(a)
            near = None if when is None or stride is None or stride < 0 else when / stride
            for points in _halves(box[a], near):
                tried = (*box[:a], points, *box[a + 1 :])
                if needs(tried):
                    box = _single(tried, a, needs, near)
                    break
        return tuple(int(points.start) for points in box)
    return None


def _holds(points: Points, position: int) -> bool:
    return points.contains(Points(position, position + 1))


def _single(box: Box, a: int, needs: Callable[[Box], bool], near: Fraction | None) -> Box:
    """One position along an axis that still needs what is asked for."""
    while box[a].stop - box[a].start > 1:
        for points in _halves(box[a], near):
            tried = (*box[:a], points, *box[a + 1 :])
            if needs(tried):
                box = tried
                break
        else:
            break
    return box


def _halves(points: Points, near: Fraction | None) -> Iterator[Points]:
    """The position nearest to a time, then two halves, the nearer first."""
    if points.bits is None and points.finite:
        middle: Any = (int(points.start) + int(points.stop)) // 2
        halves = [Points(points.start, middle), Points(middle, points.stop)]
    else:
        held = points.positions
        middle = int(held[len(held) // 2])
        halves = [points.clip(points.start, middle), points.clip(middle, points.stop)]
    if near is not None:
        nearest = min(max(round(near), int(points.start)), int(points.stop) - 1)
        if _holds(points, nearest):
            yield Points(nearest, nearest + 1)
        halves = halves[::-1] if nearest >= middle else halves
    yield from (half for half in halves if half)
