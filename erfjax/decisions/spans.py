"""The hull walk for all units of one axis at once: per variable and axis, an interval for every unit, as arrays.

`walk` follows one unit as exact sets. Here every set is its hull, an interval, and all units go through each equation together,
so that thousands of positions cost little more than one. An interval may hold positions that the set does not: what is found is
an upper bound for every unit, a proof where it says that nothing is seen, and where it says that something is, `walk` is asked.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from erfjax.tracing import registry
from erfjax.tracing.positions.access import Along, Fixed, Identity, Lookup, Prefix, Seen, Then, View
from erfjax.tracing.positions.hull import Views
from erfjax.tracing.positions.index_sets import EMPTY, Box, Points
from erfjax.tracing.program.equations import Atom, Block, Equation, Var


@dataclasses.dataclass(frozen=True)
class Span:
    """One half-open interval per unit; of length one where all units share it. Empty where it stops before it starts."""

    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def of(cls, start: float | int, stop: float | int) -> "Span":
        return cls(np.array([float(start)]), np.array([float(stop)]))

    @property
    def held(self) -> np.ndarray:
        """Where the interval is not empty."""
        return np.asarray(self.stop > self.start)

    def clip(self, low: Any, high: Any) -> "Span":
        start, stop = np.broadcast_arrays(np.maximum(self.start, low), np.minimum(self.stop, high))
        return Span(start, stop)


Spans = tuple[Span, ...]
Edge = tuple[Equation, int]
Trim = Callable[[Atom, Spans], Spans]
Answers = dict[Any, np.ndarray]
"""What views without a form of their own have answered; equations of one operand that are alike share their answers."""


def through(
    block: Block,
    wanted: Mapping[Atom, Spans],
    views: Views,
    *,
    clipped: bool,
    trimmed: Mapping[Edge, Trim] | None = None,
    answers: Answers | None = None,
    edges: list[tuple[Spans, Sequence[int]]] | None = None,
) -> dict[Atom, Spans]:
    """The spans of every variable that the wanted spans need, for all units.

    Args:
        block: the program.
        wanted: where to start.
        views: how equations are seen.
        clipped: cut all spans to their arrays.
        trimmed: what to do with that which an equation sees of one of its operands.
        answers: what earlier walks have found.
        edges: is told what every equation sees of every operand, known ones too, and its shape.
    """
    answers = {} if answers is None else answers
    found: dict[Atom, Spans] = dict(wanted)
    for equation in reversed(block.equations):
        for result, output in enumerate(equation.outputs):
            spans = found.get(output)
            if spans is None:
                continue
            if clipped:
                spans = found[output] = _inside(spans, output.shape)
            for i, atom, seen in _operands(equation, result, spans, views, clipped, answers, edges is not None):
                if trimmed and (equation, i) in trimmed:
                    seen = trimmed[equation, i](atom, seen)
                if edges is not None:
                    edges.append((_inside(seen, atom.shape) if clipped else seen, atom.shape))
                    if not isinstance(atom, Var):
                        continue
                found[atom] = _union(found[atom], seen) if atom in found else seen
    for atom in block.inputs if clipped else ():
        if atom in found:
            found[atom] = _inside(found[atom], atom.shape)
    return found


def _operands(
    equation: Equation, result: int, spans: Spans, views: Views, clipped: bool, answers: Answers, known: bool
) -> list[tuple[int, Atom, Spans]]:
    if not registry.bodies(equation):
        seen = zip(equation.inputs, views(equation, result), strict=True)
        return [
            (i, atom, _pull(view, spans, len(atom.shape), answers, _kind(equation, i, view)))
            for i, (atom, view) in enumerate(seen)
            if (known or isinstance(atom, Var)) and view is not None
        ]
    found: list[tuple[int, Atom, Spans]] = [
        (i, atom, ()) for i, atom in enumerate(equation.operands_before_blocks) if isinstance(atom, Var)
    ]
    first = len(equation.inputs) - len(equation.blocks[0].inputs)
    for body in registry.bodies(equation):
        inner = through(body, {body.outputs[result]: spans}, views, clipped=clipped, answers=answers)
        for i, (atom, var) in enumerate(zip(equation.operands_of_blocks, body.inputs, strict=True), first):
            if isinstance(atom, Var) and var in inner:
                found.append((i, atom, inner[var]))
    return found


def _kind(equation: Equation, operand: int, view: Seen) -> Any:
    """What decides how an operand is seen: of one operand, the primitive, its parameters and shapes; else the view itself."""
    if len(equation.inputs) > 1 or equation.blocks:
        return view, operand
    return str(equation.primitive), repr(equation.params), equation.inputs[0].shape, equation.outputs[0].shape


def _inside(spans: Spans, shape: Sequence[int]) -> Spans:
    return tuple(span.clip(0, n) for span, n in zip(spans, shape, strict=True))


def all_held(spans: Spans) -> np.ndarray:
    """Where no interval is empty: elsewhere the box is."""
    held = np.array([True])
    for span in spans:
        held = held & span.held
    return held


def _union(a: Spans, b: Spans) -> Spans:
    if not a:
        return a
    in_a, in_b = all_held(a), all_held(b)
    joined = []
    for p, q in zip(a, b, strict=True):
        start = np.where(in_a & in_b, np.minimum(p.start, q.start), np.where(in_b, q.start, p.start))
        stop = np.where(in_a & in_b, np.maximum(p.stop, q.stop), np.where(in_b, q.stop, p.stop))
        joined.append(Span(start, stop))
    return tuple(joined)


def _pull(view: Seen, spans: Spans, rank: int, answers: Answers, kind: Any) -> Spans:
    """What a box of the result needs of an operand."""
    if isinstance(view, Identity):
        return spans
    if isinstance(view, Then) and isinstance(view.first, View):
        between = _pull(view.first, spans, len(view.first.axes), answers, (kind, 1))
        return _pull(view.second, between, rank, answers, (kind, 2))
    if isinstance(view, View) and all(isinstance(axis, Along | Fixed | Prefix | Lookup) for axis in view.axes):
        held = list(spans)
        for axis, low, high in view.guards:
            held[axis] = held[axis].clip(low, high)
        seen = [_along(axis, held) for axis in view.axes]
        full = all_held(tuple(held))
        if full.all():
            return tuple(seen)
        return tuple(Span(np.where(full, s.start, 0.0), np.where(full, s.stop, 0.0)) for s in seen)
    return _one_by_one(view, spans, rank, answers, kind)


def _along(axis: Any, spans: Sequence[Span]) -> Span:
    if isinstance(axis, Fixed):
        return Span.of(axis.points.start, axis.points.stop)
    span = spans[axis.out]
    if isinstance(axis, Prefix):
        everywhere = np.full(span.start.shape, math.inf)
        return Span(span.start, everywhere) if axis.reverse else Span(-everywhere, span.stop)
    if isinstance(axis, Lookup):
        return _looked_up(axis, span)
    start, stop, stride = span.start, span.stop, axis.stride
    if stride < 0:
        start, stop, stride = 1 - span.stop, 1 - span.start, -stride
    low = start * stride + axis.offset
    high = (stop - 1) * stride + (axis.size - 1) * axis.dilation + axis.offset
    if axis.base > 1:
        low, high = np.ceil(low / axis.base), np.floor(high / axis.base)
    held = span.held & (axis.size > 0)
    return Span(np.where(held, low, 0.0), np.where(held, high + 1, 0.0))


def _looked_up(axis: Lookup, span: Span) -> Span:
    """By the table, once for each interval that occurs."""
    kinds, which = np.unique(np.stack([span.start, span.stop], -1), axis=0, return_inverse=True)
    ends = np.zeros(kinds.shape)
    for row, (start, stop) in zip(ends, kinds, strict=True):
        if stop > start:
            points = axis.pull((EMPTY,) * axis.out + (points_of(start, stop),))
            row[:] = (points.start, points.stop) if points else (0, 0)
    return Span(ends[which.ravel(), 0], ends[which.ravel(), 1])


def points_of(start: float, stop: float) -> Points:
    """An interval of whole numbers, or of infinities, as a set."""
    low, high = (float(edge) if math.isinf(edge) else int(edge) for edge in (start, stop))
    return Points(low, high)


def _one_by_one(view: Seen, spans: Spans, rank: int, answers: Answers, kind: Any) -> Spans:
    """What has no form of its own is asked once for each box that occurs; the hull of what it answers."""
    edges = np.zeros((max((len(span.start) for span in spans), default=1), 2 * len(spans)))
    for a, span in enumerate(spans):
        edges[:, 2 * a], edges[:, 2 * a + 1] = span.start, span.stop
    key = (kind, edges.tobytes())
    if key not in answers:
        kinds, which = np.unique(edges, axis=0, return_inverse=True) if spans else (edges, np.zeros(1, int))
        ends = np.zeros((len(kinds), rank, 2))
        for row, edge in zip(ends, kinds.tolist(), strict=True):
            box: Box = tuple(points_of(a, b) for a, b in zip(edge[::2], edge[1::2], strict=True))
            boxes = [found for found in (view.pull(box) if all(box) else ()) if all(found)]
            for a in range(rank if boxes else 0):
                row[a] = min(found[a].start for found in boxes), max(found[a].stop for found in boxes)
        answers[key] = ends[np.ravel(which)]
    ends = answers[key]
    return tuple(Span(ends[:, a, 0], ends[:, a, 1]) for a in range(rank))
