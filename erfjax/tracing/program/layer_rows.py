"""Which equations of a program are one layer: the rows of `theoretical(...).layers`.

A *visit* is a run of equations under one path of the name stack. Most libraries give every layer a path of its own, and come back
to the path of a block after each of its parts: then all visits are one row, that of the last. Equinox names layers by their
class alone: there, a visit with a convolution, pooling or contraction of its own is a layer of its own. A scan is one visit,
whatever its steps hold.
"""

import collections
import dataclasses
import os.path
from collections.abc import Container, Iterator

from erfjax.tracing import registry
from erfjax.tracing.jaxpr import label
from erfjax.tracing.program.equations import Atom, Program, Var


@dataclasses.dataclass(eq=False)
class Visit:
    """A run of equations of one layer.

    Attributes:
        path: the layer path, or the operation where there is none.
        named: whether it has a path.
        operation: the last one that counts as a layer by itself, else the first.
        last: the number of its last equation.
        counts: whether some operation counts as a layer by itself.
        reads: the variables that it reads from outside.
    """

    path: str
    named: bool
    operation: str
    last: int
    counts: bool
    reads: tuple[Var, ...] = ()


def named_visits(program: Program, wanted: Container[Atom]) -> list[tuple[str, Visit]]:
    """The layers in order, under names that are unique: paths, numbered where several layers share one.

    Args:
        program: the program.
        wanted: variables; equations that make none of them are left out.
    """
    latest: dict[str, Visit] = {}
    rows: list[Visit] = []
    for visit in _visits(program, wanted):
        earlier = latest.get(visit.path)
        if earlier is not None and visit.named and not (earlier.counts and visit.counts):
            rows.remove(earlier)
            if earlier.counts:
                visit.operation, visit.reads, visit.counts = earlier.operation, earlier.reads, True
        latest[visit.path] = visit
        rows.append(visit)
    total, so_far, found = collections.Counter(row.path for row in rows), collections.Counter[str](), []
    for row in rows:
        so_far[row.path] += 1
        alone = row.named and total[row.path] == 1
        found.append((row.path if alone else f"{row.path}_{so_far[row.path]}", row))
    return found


def _visits(program: Program, wanted: Container[Atom]) -> Iterator[Visit]:
    """The runs of equations under one path, cut where an equation does not follow from the layer before it (branches)."""
    visit: Visit | None = None
    made: set[Atom] = set()  # in the run
    follows: set[Atom] = set()  # what of it depends on an operation that counts
    loop = 0
    for index, equation in enumerate(program.equations):
        if not any(output in wanted for output in equation.outputs):
            continue
        counts, operation = registry.is_layer(equation), label(equation.raw)
        if equation.loop or loop:
            if equation.loop != loop and visit is not None:
                yield visit
                visit, made, follows = None, set(), set()
            loop = equation.loop
        if loop:
            if visit is None:
                visit = Visit(equation.layer or "scan", bool(equation.layer), "scan", index, True)
            if visit.named and equation.layer:
                visit.path = os.path.commonpath([visit.path, equation.layer]) or "scan"
            visit.reads += tuple(
                a for a in equation.inputs if isinstance(a, Var) and a not in made and a not in visit.reads
            )
            visit.last = index
            made.update(equation.outputs)
            continue
        chained = not follows.isdisjoint(equation.inputs)
        reads = tuple(a for a in equation.inputs if isinstance(a, Var))
        if visit is not None and visit.path == equation.layer and (chained or not visit.counts):
            visit.last, visit.counts = index, visit.counts or counts
            visit.operation = operation if counts else visit.operation
            visit.reads += tuple(a for a in reads if a not in made and a not in visit.reads)
        else:
            if visit is not None:
                yield visit
            fresh = Visit(equation.layer or operation, bool(equation.layer), operation, index, counts, reads)
            visit, made, follows = (fresh if fresh.named else None), set(), set()
            if counts and not fresh.named:
                yield fresh
        made.update(equation.outputs)
        if counts or chained:
            follows.update(equation.outputs)
    if visit is not None:
        yield visit
