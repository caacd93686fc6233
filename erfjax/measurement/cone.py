"""The probe of a traced function: its units with the cones that they need, or the whole function where cutting saves nothing.

The program is flattened again inside the compiled function, so weights stay arguments and known equations are computed there.
Which boxes are needed follows from shapes alone and is found beforehand, on abstract values.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from erfjax.errors import DataDependentError
from erfjax.layouts import Layout
from erfjax.measurement.probe import Piece, Probe
from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.index_sets import Box, Points, full
from erfjax.tracing.program.equations import Equation, Known, Program, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.windows import fourier
from erfjax.tracing.windows.cone import Cone, around, restrict
from erfjax.tracing.windows.cpu_taps import piecewise_linear

Unit = Sequence[int]

LOOP_SHARE = (
    0.5  # a cone unrolls loops: worth its compiling if it computes no more than this share of all positions ...
)
MOST_UNROLLED = 64  # ... in no more equations than this
COTANGENT = 48  # the exponent of cotangents: gradients from 1e-52 to 1e23 then are normal numbers
MOST_PIECES = 16  # units that would fall into more groups than that share one cone: compiling has a cost too


@runtime_checkable
class Traced(Protocol):
    """What is known about the function that is measured; see `erfjax.readings.question.Question`."""

    @property
    def source(self) -> Layout: ...
    @property
    def target(self) -> Layout: ...
    @property
    def units(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def channels(self) -> int: ...
    @property
    def sample(self) -> tuple[jax.ShapeDtypeStruct, ...]: ...
    @property
    def main(self) -> int: ...
    @property
    def key(self) -> Any: ...
    @property
    def consts(self) -> tuple[Any, ...]: ...
    @property
    def footprint(self) -> int: ...
    @property
    def loops(self) -> bool: ...
    def program(self, consts: Sequence[Any] | None = None, key: Any = None) -> Program: ...
    def evaluate(self, consts: Sequence[Any], key: Any, leaves: Sequence[Any]) -> Any: ...


def unit_box(shape: Sequence[int], target: Layout, unit: Sequence[int]) -> Box:
    """The box of all channels of one unit, in the first row of the batch."""
    box = list(full(shape))
    if target.batch is not None:
        box[target.batch] = Points(0, 1)
    for axis, position in zip(target.spatial, unit, strict=True):
        box[axis] = Points(position, position + 1)
    return tuple(box)


def cone_of(program: Program, source: Layout, target: Layout, units: Iterable[Unit]) -> Cone | None:
    """The cone of several units together, all channels of its window; None where the input does not matter."""
    output, shape = program.output, program.input.shape
    if isinstance(output, Known):
        return None
    cone = restrict(program, {output: functools.reduce(around, (unit_box(output.shape, target, u) for u in units))})
    window = cone.windows[0]
    kept = tuple(p if a in source.spatial else Points(0, n) for a, (p, n) in enumerate(zip(window, shape, strict=True)))
    return dataclasses.replace(cone, boxes={**cone.boxes, program.input: kept})


def abstract_cone(traced: Traced) -> Cone | None:
    """The cone of all units as a compiled function finds it, which takes weights as arguments and does not see their zeros."""
    found: list[Cone | None] = []

    def look(consts: Any, key: Any) -> int:
        found.append(cone_of(traced.program(consts, key), traced.source, traced.target, traced.units))
        return 0

    jax.eval_shape(look, traced.consts, traced.key)
    return found[0]


def positions(cone: Cone) -> int:
    """How many positions the cone computes."""
    return sum(math.prod(lengths(step.box)) for step in cone.steps)


def share(cone: Cone) -> float:
    """The positions that the cone computes, as a share of the whole program's."""
    return positions(cone) / max(1, sum(math.prod(v.shape) for e in cone.block.equations for v in e.outputs))


def saves(cone: Cone, loops: bool) -> bool:
    """Whether the cone of all units is worth compiling in place of the whole function."""
    return not loops or (share(cone) <= LOOP_SHARE and len(cone.steps) <= MOST_UNROLLED)


def grouped(units: Sequence[Unit], cone: Callable[[Sequence[Unit]], Cone]) -> list[tuple[int, ...]]:
    """Which units share a cone: neighbours in reading order, while one cone for all of them computes less than several.

    A group costs its cone once forwards and once backwards for every unit.
    """

    def cost(group: tuple[int, ...]) -> int:
        return positions(cone([units[i] for i in group])) * (1 + len(group))

    groups: list[tuple[tuple[int, ...], int]] = []
    for i in sorted(range(len(units)), key=lambda i: tuple(units[i])):
        alone = cost((i,))
        if groups:
            last, before = groups[-1]
            joint = cost((*last, i))
            if joint <= before + alone:
                groups[-1] = (*last, i), joint
                continue
        groups.append(((i,), alone))
    return [group for group, _ in groups] if len(groups) <= MOST_PIECES else [tuple(range(len(units)))]


def whole_probe(traced: Traced) -> Probe:
    """The probe of a function on its whole input."""
    spec, source = traced.sample[traced.main], traced.source
    shape = source.space(spec.shape)
    return Probe(
        functools.partial(_whole, traced),
        (Piece(tuple(range(len(traced.units))), (0,) * len(shape), shape),),
        traced.consts,
        source,
        shape,
        traced.units,
        traced.channels,
        math.prod(spec.shape) * spec.dtype.itemsize // max(1, math.prod(shape)),
        traced.footprint,
    )


def probe_of_parts(traced: Traced, cost: int) -> Probe:
    """The probe of a function whose maps are found in parts (`engine.Parted`), on arrays of so many bytes beside them."""
    found: list[bool] = []

    def look(consts: Any, key: Any) -> int:
        found.append(all(map(piecewise_linear, traced.program(consts, key).equations)))
        return 0

    try:
        jax.eval_shape(look, traced.consts, traced.key)
    except DataDependentError:
        found.append(False)
    return dataclasses.replace(whole_probe(traced), cost=cost, piecewise_linear=found[0])


def probe_of(traced: Traced) -> Probe:
    """The probe of a function: on cones, where they save something."""
    groups, whole = _groups(traced), whole_probe(traced)
    if not groups:
        return whole
    equations = [step.equation for _, cone in groups for step in cone.steps]
    held = [math.prod(lengths(step.box)) * step.output.dtype.itemsize for _, cone in groups for step in cone.steps]
    return dataclasses.replace(
        whole,
        functions=functools.partial(_cut, traced, [group for group, _ in groups]),
        pieces=tuple(cut_piece(group, cone, traced.source) for group, cone in groups),
        cost=sum(held),
        largest=max(held, default=0),
        shift=cotangent_shift([cone for _, cone in groups]),
        piecewise_linear=all(map(piecewise_linear, equations)),
        transformed=_transformed(traced, equations),
    )


def _transformed(traced: Traced, equations: Sequence[Equation]) -> frozenset[int]:
    """The numbers of large depthwise convolutions whose kernels hold no zeros, by the program with its weights."""
    large = {equation.number for equation in equations if fourier.is_large(equation)}
    known = traced.program().equations if large else ()
    return frozenset(e.number for e in known if e.number in large and not fourier.has_zeros(e))


def cotangent_shift(cones: Sequence[Cone]) -> int:
    """The exponent by which cotangents are scaled: exact, since pulling back is linear.

    Processors flush what is below the normal numbers of single precision (1e-38) to zero, and in a deep network the border of a
    field lies far below its centre. Not so in double precision, which needs no help; nor in half precision with its few
    exponents; nor behind a derivative that somebody wrote, which may clip its cotangent.
    """
    steps = [step for cone in cones for step in cone.steps]
    dtypes = {step.output.dtype for step in steps if jnp.issubdtype(step.output.dtype, jnp.inexact)}
    written = any(step.equation.primitive is jx.CUSTOM_VJP for step in steps)
    return 0 if written or not dtypes <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)} else COTANGENT


def _groups(traced: Traced) -> list[tuple[tuple[int, ...], Cone]]:
    """Which units are computed together, with their cones on abstract values; none where that saves nothing."""
    found: list[tuple[tuple[int, ...], Cone]] = []

    def look(consts: Any, key: Any) -> int:
        program = traced.program(consts, key)
        if isinstance(program.output, Var):
            for group in grouped(traced.units, functools.partial(_cone, traced, program)):
                found.append((group, _cone(traced, program, [traced.units[i] for i in group])))
        return 0

    try:
        jax.eval_shape(look, traced.consts, traced.key)
    except DataDependentError:
        return []
    return found if len(found) > 1 or (found and saves(found[0][1], traced.loops)) else []


def _cone(traced: Traced, program: Program, units: Sequence[Unit]) -> Cone:
    cone = cone_of(program, traced.source, traced.target, units)
    assert cone is not None  # only asked where the input matters
    return cone


def _whole(traced: Traced, consts: Any, key: Any, others: Sequence[Any]) -> list[Callable[[Any], Any]]:
    """The function of the whole input."""

    def channels(x: Any) -> Any:
        output = traced.evaluate(consts, key, (*others[: traced.main], x, *others[traced.main :]))
        return jnp.stack([traced.target.unit_channels(output, unit) for unit in traced.units])

    return [channels]


def _cut(
    traced: Traced, groups: Sequence[tuple[int, ...]], consts: Any, key: Any, others: Sequence[Any]
) -> list[Callable[[Any], Any]]:
    """The functions of the windows that groups of units need."""
    program = traced.program(consts, key)

    def channels(cone: Cone, units: Sequence[Unit], window: Any) -> Any:
        (values,) = cone(window, *(read(*pair) for pair in zip(others, cone.windows[1:], strict=True)))
        (box,) = cone.wanted.values()
        origin = [int(box[axis].start) for axis in traced.target.spatial]
        places = [tuple(u - o for u, o in zip(unit, origin, strict=True)) for unit in units]
        return jnp.stack([traced.target.unit_channels(values, place) for place in places])

    parts = [[traced.units[i] for i in group] for group in groups]
    return [functools.partial(channels, _cone(traced, program, units).settled(), units) for units in parts]


def read(array: Any, box: Box) -> Any:
    """The window of an array in a box."""
    return jax.lax.slice(array, [int(p.start) for p in box], [int(p.stop) for p in box])


def asked_first(traced: Traced, leaves: Sequence[Any]) -> list[Any]:
    """The leaves of a sample, the input asked about first, as the inputs of a program stand."""
    return [leaves[traced.main], *(leaf for i, leaf in enumerate(leaves) if i != traced.main)]


def windows_of(traced: Traced, cone: Cone, leaves: Sequence[Any]) -> list[Any]:
    """The same on their windows."""
    return [read(*pair) for pair in zip(asked_first(traced, leaves), cone.windows, strict=True)]


def cut_piece(group: tuple[int, ...], cone: Cone, layout: Layout) -> Piece:
    window = cone.windows[0]
    edges = [window[axis] for axis in layout.spatial]
    return Piece(group, tuple(int(p.start) for p in edges), tuple(int(p.stop - p.start) for p in edges))
