"""A probe cut down to its cone: where the measuring engine and the restrict walk meet.

The program is traced inside the compiled function, so weights stay arguments and known equations are computed there. Which
boxes are needed follows from shapes alone and is found beforehand, on abstract values.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erfjax.errors import DataDependentError
from erfjax.layouts import Layout
from erfjax.measurement.probe import Piece, Probe
from erfjax.tracing.positions.index_sets import Box, Points, full
from erfjax.tracing.program.equations import Known, Program, Var
from erfjax.tracing.program.flatten import trace
from erfjax.tracing.registry import lengths
from erfjax.tracing.windows.cone import Cone, around, restrict

Unit = Sequence[int]

WORTHWHILE = 0.97  # a cone that computes more than this share of all positions is not worth the unrolling of loops
MOST_PIECES = 16  # units that would fall into more groups than that share one cone: compiling has a cost too


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
    (window,) = cone.windows
    kept = tuple(p if a in source.spatial else Points(0, n) for a, (p, n) in enumerate(zip(window, shape, strict=True)))
    return dataclasses.replace(cone, boxes={**cone.boxes, program.input: kept})


def positions(cone: Cone) -> int:
    """How many positions the cone computes."""
    return sum(math.prod(lengths(step.box)) for step in cone.steps)


def share(cone: Cone) -> float:
    """The positions that the cone computes, as a share of the whole program's."""
    return positions(cone) / max(1, sum(math.prod(v.shape) for e in cone.block.equations for v in e.outputs))


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


def narrowed(probe: Probe, spec: jax.ShapeDtypeStruct, key: Any) -> Probe:
    """The same probe on the windows of the input that its units need; the probe itself where that saves nothing."""
    found: list[tuple[tuple[int, ...], Cone]] = []

    def cone(program: Program, units: Sequence[Unit]) -> Cone:
        cone = cone_of(program, probe.layout, probe.target, units)
        assert cone is not None  # only asked where the input matters
        return cone

    def traced(consts: Any, key: Any) -> Program:
        return trace(lambda x: probe.call(consts, key, x), spec)

    def look(consts: Any, key: Any) -> int:
        program = traced(consts, key)
        if isinstance(program.output, Var):
            for group in grouped(probe.units, functools.partial(cone, program)):
                found.append((group, cone(program, [probe.units[i] for i in group])))
        return 0

    try:
        jax.eval_shape(look, probe.consts, key)
    except DataDependentError:
        return probe
    if not found or (probe.loops and len(found) == 1 and share(found[0][1]) > WORTHWHILE):
        return probe

    def evaluate(cone: Cone, group: Sequence[int], window: Any) -> Any:
        (values,) = cone(window)
        (box,) = cone.wanted.values()
        origin = [int(box[axis].start) for axis in probe.target.spatial]
        places = [tuple(u - o for u, o in zip(probe.units[i], origin, strict=True)) for i in group]
        return jnp.stack([probe.target.unit_channels(values, place) for place in places])

    def functions(consts: Any, key: Any) -> list[Callable[[Any], Any]]:
        program = traced(consts, key)
        cones = [(cone(program, [probe.units[i] for i in group]), group) for group, _ in found]
        return [functools.partial(evaluate, *pair) for pair in cones]

    return dataclasses.replace(
        probe,
        functions=functions,
        pieces=tuple(_piece(group, cone, probe.layout) for group, cone in found),
        cost=sum(math.prod(lengths(step.box)) * step.output.dtype.itemsize for _, cone in found for step in cone.steps),
    )


def _piece(group: tuple[int, ...], cone: Cone, layout: Layout) -> Piece:
    (window,) = cone.windows
    edges = [window[axis] for axis in layout.spatial]
    return Piece(group, tuple(int(p.start) for p in edges), tuple(int(p.stop - p.start) for p in edges))
