"""The restrict walk: the function of an input window that computes only what a unit needs.

`restrict(program, {output: box})` finds, backwards, the interval box that every array is needed on, and evaluates, forwards,
each equation on its box. What comes out is an ordinary JAX function `window -> values` with the value and the Jacobian that the
whole program has there, so `vjp`, `jit`, `vmap` and sharding apply. Where an operation cannot be cut, its operands are whole.
"""

import dataclasses
import functools
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax import lax

from erfjax.tracing import jaxpr as jx
from erfjax.tracing import registry
from erfjax.tracing.positions.hull import refuse
from erfjax.tracing.positions.index_sets import EMPTY, Box, Points, Region, clip, full, join, shadow
from erfjax.tracing.positions.known_values import Facts
from erfjax.tracing.positions.through_zeros import trimmed
from erfjax.tracing.program.equations import Atom, Block, Equation, Known, Scan, Var
from erfjax.tracing.program.flatten import retrace
from erfjax.tracing.registry import WindowRule


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One result of one equation on its box, from operands on theirs (None: this result does not need the operand).

    A scan is one step, on whole arrays; `inner` is the cone of its body.
    """

    equation: Equation
    result: int
    operands: tuple[Box | None, ...]
    box: Box
    local: WindowRule
    inner: "Cone | None" = None

    @property
    def output(self) -> Var:
        return self.equation.outputs[self.result]

    @property
    def outputs(self) -> tuple[Var, ...]:
        """What the step computes: one result, but all results of a scan."""
        return (self.output,) if self.inner is None else self.equation.outputs

    @property
    def entries(self) -> int:
        """How many numbers it computes."""
        if self.inner is None:
            return math.prod(registry.lengths(self.box))
        return sum(math.prod(atom.shape) for atom in self.outputs)

    def own(self, operand: int, value: Any) -> Any:
        """An operand on its box as the step takes it: positions that it holds are counted from where the windows begin."""
        if self.local.relative is None:
            return value
        return self.local.relative(self.equation, operand, value, [box or () for box in self.operands], self.box)

    def apply(self, operands: Sequence[Any]) -> Any:
        """The result on its box."""
        boxes = [box or () for box in self.operands]
        return self.local.evaluate(self.equation, self.result, operands, boxes, self.box)

    def results(self, operands: Sequence[Any]) -> dict[Atom, Any]:
        """All that the step computes; for a scan its carries before each step too."""
        return {self.output: self.apply(operands)} if self.inner is None else _scanned(self, self.inner, operands)


@dataclasses.dataclass(frozen=True, eq=False)
class Cone:
    """A block cut down to what some of its arrays need.

    Attributes:
        windows: the box of each input of the block; an input that is not needed has its first position.
        boxes: the box on which each variable is computed.
        wanted: the boxes asked for.
    """

    block: Block
    steps: tuple[Step, ...]
    boxes: dict[Atom, Box]
    wanted: dict[Atom, Box]

    @property
    def windows(self) -> tuple[Box, ...]:
        return tuple(self.boxes.get(a, stand_in((EMPTY,) * len(a.shape), a.shape)) for a in self.block.inputs)

    @property
    def extents(self) -> Hashable:
        """The boxes of all that is computed: the same for two cones of one function that leave out the same positions."""
        return self.windows, tuple((step.equation.number, step.result, step.box, step.operands) for step in self.every)

    def settled(self) -> "Cone":
        """The same cone, its known operands computed now: first asked for inside a nested trace, they would belong to it."""
        for step in self.every:
            _settle(step.equation)
        return self

    @property
    def every(self) -> Iterator[Step]:
        """Its steps, those inside scans after the scan itself."""
        for step in self.steps:
            yield step
            if step.inner is not None:
                yield from step.inner.every

    @property
    def known(self) -> tuple[Known, ...]:
        """The known operands of its steps, each once, but for numbers that no weight makes: those stay constants."""
        read = [atom for step in self.every for atom in step.equation.inputs if isinstance(atom, Known)]
        return tuple(dict.fromkeys(atom for atom in read if atom.captured or math.prod(atom.shape) > 1))

    def with_known(self, values: Mapping[Known, Any]) -> "Cone":
        """The same cone with other values of known operands."""

        def given(atom: Atom) -> Atom:
            if not isinstance(atom, Known) or atom not in values:
                return atom
            return Known(
                atom.shape, atom.dtype, functools.partial(values.__getitem__, atom), atom.captured, atom.origin
            )

        equations = [dataclasses.replace(e, inputs=tuple(map(given, e.inputs))) for e in self.block.equations]
        new = {id(old): equation for old, equation in zip(self.block.equations, equations, strict=True)}
        steps = tuple(
            dataclasses.replace(
                step,
                equation=new[id(step.equation)],
                inner=None if step.inner is None else step.inner.with_known(values),
            )
            for step in self.steps
        )
        return dataclasses.replace(self, block=dataclasses.replace(self.block, equations=tuple(equations)), steps=steps)

    def __call__(self, *windows: Any) -> list[Any]:
        """The wanted boxes, in the order in which they were asked for."""
        held = self.values(*windows)
        return [self.read(held, atom, box) for atom, box in self.wanted.items()]

    def values(self, *windows: Any) -> dict[Atom, Any]:
        """Every variable on its box."""
        return self.run(self.steps, dict(zip(self.block.inputs, windows, strict=True)))

    def run(self, steps: Iterable[Step], held: Mapping[Atom, Any]) -> dict[Atom, Any]:
        """The variables held, each on its box, and beside them (or in their place) the results of these steps."""
        found = dict(held)
        for step in steps:
            found.update(step.results(self.operands(step, found)))
        return found

    def operands(self, step: Step, held: Mapping[Atom, Any]) -> list[Any]:
        """The operands of a step on their boxes; None for one that is not needed."""
        return [
            None if box is None else step.own(i, self.read(held, atom, box))
            for i, (atom, box) in enumerate(zip(step.equation.inputs, step.operands, strict=True))
        ]

    def read(self, held: Mapping[Atom, Any], atom: Atom, box: Box) -> Any:
        if isinstance(atom, Known):
            uniform = None if atom.captured else spread(atom, box)
            if uniform is not None and math.prod(uniform[0].shape) == 1:
                return uniform[1].apply([uniform[0].value])
            return cut(atom.value, full(atom.shape), box)
        return cut(held[atom], self.boxes[atom], box)


def spread(atom: Known, box: Box) -> tuple[Known, Step] | None:
    """The array of which a known array is a broadcast, and the step that makes the box from it; None if it is no broadcast."""
    if atom.origin is None or atom.origin[0].primitive is not lax.broadcast_in_dim_p:
        return None
    equation, result = atom.origin
    (source,) = equation.inputs
    return (source, cut_equation(equation, result, box)) if isinstance(source, Known) else None


def _settle(equation: Equation) -> None:
    for atom in equation.inputs:
        if isinstance(atom, Known) and atom.captured:
            _ = atom.value
    for block in equation.blocks:
        for inner in block.equations:
            _settle(inner)


def restrict(block: Block, wanted: Mapping[Atom, Box], facts: Facts | None = None) -> Cone:
    """The cone of a block under the boxes wanted of some of its arrays.

    Args:
        block: the program, or a body inside one.
        wanted: the boxes asked for.
        facts: what is known to be zero: sums leave out such terms, so that attention reads the keys that it sees.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from erfjax.tracing import trace
        >>> from erfjax.tracing.positions.index_sets import Points
        >>> from erfjax.tracing.windows.cone import restrict
        >>> program = trace(lambda x: x[1:] - x[:-1], jax.ShapeDtypeStruct((9,), jnp.float32))
        >>> cone = restrict(program, {program.output: (Points(4, 5),)})
        >>> cone.windows[0], cone(jnp.array([1.0, 3.0]))
        (([4, 6),), [Array([2.], dtype=float32)])
    """
    wanted = {atom: clip((box,), atom.shape)[0] for atom, box in wanted.items()}
    boxes: dict[Atom, Box] = {}
    for atom, box in wanted.items():
        boxes[atom] = around(boxes.get(atom), box)
    steps: list[Step] = []
    for equation in reversed(block.equations):
        if equation.scan is not None and any(output in boxes for output in equation.outputs):
            step = _whole_scan(equation, equation.scan)
            boxes.update({a: full(a.shape) for a in (*equation.outputs, *equation.inputs) if isinstance(a, Var)})
            steps.append(step)
            continue
        for result, output in enumerate(equation.outputs):
            if output in boxes:
                step = cut_equation(equation, result, boxes[output], facts)
                boxes[output] = step.box
                steps.append(step)
                for atom, operand in zip(equation.inputs, step.operands, strict=True):
                    if isinstance(atom, Var) and operand is not None:
                        boxes[atom] = around(boxes.get(atom), operand)
    return Cone(block, tuple(reversed(steps)), boxes, dict(wanted))


def cut_equation(equation: Equation, result: int, box: Box, facts: Facts | None = None) -> Step:
    """The equation on a box of one of its results, or on the whole array if it cannot be cut."""
    local = _local(equation)
    if local is not None:
        if local.enlarge is not None:
            box = local.enlarge(equation, box)
        operands = [
            None if view is None else _interval(tuple(view.pull(box)), atom.shape)
            for atom, view in zip(equation.inputs, refuse(equation, result), strict=True)
        ]
        if local.outside != "whole" or all(held is None or all(held) for held in operands):
            missing = stand_in if local.outside == "stand in" else lambda held, shape: None
            filled = [
                held if held is None or all(held) else missing(held, atom.shape)
                for atom, held in zip(equation.inputs, operands, strict=True)
            ]
            if local.narrow is not None:
                filled = list(local.narrow(equation, [held or () for held in filled]))
            filled = trimmed(equation, filled, facts)
            return Step(equation, result, tuple(filled), box, local)
    whole = tuple(full(atom.shape) for atom in equation.inputs)
    return Step(equation, result, whole, full(equation.outputs[result].shape), WHOLE)


def _whole_scan(equation: Equation, scan: Scan) -> Step:
    wanted: dict[Atom, Box] = {atom: full(atom.shape) for atom in scan.body.outputs if isinstance(atom, Var)}
    inner = restrict(scan.body, wanted)
    inner = dataclasses.replace(inner, boxes={**inner.boxes, **{a: full(a.shape) for a in scan.body.inputs}})
    whole = tuple(full(atom.shape) for atom in equation.inputs)
    return Step(equation, 0, whole, full(equation.outputs[0].shape), WHOLE, inner)


def _scanned(step: Step, inner: Cone, operands: Sequence[Any]) -> dict[Atom, Any]:
    """The results of a scan and the carries before each step."""
    scan = step.equation.scan
    assert scan is not None
    held = [jax.numpy.asarray(operands[i], a.dtype) for i, a in zip(scan.places, scan.body.inputs, strict=True)]
    first, last = len(scan.moving), len(scan.moving) + scan.n_carry

    def body(carry: Any, rows: Any) -> Any:
        values = inner.values(*held[:first], *carry, *rows)
        found = [jax.numpy.asarray(inner.read(values, new, full(new.shape)), new.dtype) for new in inner.block.outputs]
        return tuple(found[: scan.n_carry]), (tuple(found[scan.n_carry :]), carry)

    carries, (stacked, history) = lax.scan(
        body, tuple(held[first:last]), tuple(held[last:]), length=scan.length, reverse=scan.reverse
    )
    return dict(zip((*step.equation.outputs, *scan.history), (*carries, *stacked, *history), strict=True))


def _local(equation: Equation) -> WindowRule | None:
    if equation.blocks:
        return DERIVED if registry.known(equation.primitive) and not registry.bodies(equation) else None
    return registry.lookup(equation).restrict if registry.known(equation.primitive) else None


def _interval(region: Region, shape: Sequence[int]) -> Box:
    """The smallest interval box around a region inside an array; where nothing of the array is needed, some axes are empty."""
    inside = clip(join((), region), shape)
    if not inside:
        cut = (
            [points.clip(0, n) for points, n in zip(region[0], shape, strict=True)] if region else [EMPTY] * len(shape)
        )
        return tuple(Points(int(points.start), int(points.stop)) if points else EMPTY for points in cut)
    return tuple(Points(int(points.start), int(points.stop)) for points in shadow(inside))


def around(a: Box | None, b: Box) -> Box:
    """The smallest interval box around two."""
    if a is None:
        return b
    return tuple(Points(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))


def stand_in(box: Box, shape: Sequence[int]) -> Box:
    """The box with one position in place of none, for an operand that lies outside the window altogether."""
    return tuple(points or Points(0, min(n, 1)) for points, n in zip(box, shape, strict=True))


def cut(array: Any, held: Box, wanted: Box) -> Any:
    """A window of an array that is itself known on a window only."""
    if all(p.start == q.start and p.stop == q.stop for p, q in zip(held, wanted, strict=True)):
        return array
    start = [int(q.start - p.start) for p, q in zip(held, wanted, strict=True)]
    stop = [int(q.stop - p.start) for p, q in zip(held, wanted, strict=True)]
    return lax.slice(jax.numpy.asarray(array), start, stop)


def _evaluate_whole(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    return jx.evaluate(equation.raw, operands)[result]


WHOLE = WindowRule(_evaluate_whole)


def _evaluate_derived(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    """An elementwise function with a derivative of its own: both the function and its derivative act on the window."""
    if box == full(equation.outputs[result].shape):
        return _evaluate_whole(equation, result, operands, boxes, box)
    (block,) = equation.blocks
    moving = [i for i, atom in enumerate(equation.inputs) if isinstance(atom, Var)]
    primal = restrict(block, {block.outputs[result]: box})
    backward = equation.primitive is jx.CUSTOM_VJP
    derivative = restrict_derivative(equation, result, box, tuple(moving), backward)

    def value(*moved: Any) -> Any:
        held = list(operands)
        for i, x in zip(moving, moved, strict=True):
            held[i] = x
        return primal(*held)[0]

    moved = [operands[i] for i in moving]
    if backward:
        reverse = jax.custom_vjp(value)
        reverse.defvjp(lambda *moved: (value(*moved), moved), lambda moved, ct: tuple(derivative(*moved, ct)))
        return reverse(*moved)
    forward = jax.custom_jvp(value)
    forward.defjvp(lambda moved, tangents: (value(*moved), derivative(*moved, *tangents)[0]))
    return forward(*moved)


DERIVED = WindowRule(_evaluate_derived)


@functools.lru_cache(maxsize=4096)
def restrict_derivative(equation: Equation, result: int, box: Box, moving: tuple[int, ...], backward: bool) -> Cone:
    """The derivative that the function came with, traced at its full shape and cut to the window."""

    def evaluate(known: Sequence[Any], *moved: Any) -> Any:
        held = list(known)
        for i, x in zip(moving, moved, strict=True):
            held[i] = x
        return jx.evaluate(equation.raw, held)[result]

    dependent = [equation.inputs[i] for i in moving]
    extra: list[Atom] = [equation.outputs[result]] if backward else list(dependent)

    def derivative(*arrays: Any) -> Any:
        known, rest = arrays[: len(equation.inputs)], arrays[len(equation.inputs) :]
        moved = [known[i] for i in moving]
        if backward:
            return jax.vjp(functools.partial(evaluate, known), *moved)[1](rest[0])
        return [jax.jvp(functools.partial(evaluate, known), moved, list(rest))[1]]

    fresh = [Var(atom.shape, atom.dtype) for atom in extra]
    block = retrace(derivative, [*equation.inputs, *fresh])
    order = [block.inputs[i] for i in moving] + list(block.inputs[len(equation.inputs) :])
    cone = restrict(block, dict.fromkeys(block.outputs, box))
    return dataclasses.replace(cone, block=dataclasses.replace(block, inputs=tuple(order)))
