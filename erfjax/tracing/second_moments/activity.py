"""What the backward walk must know about the units of a network: their values, and the slopes of elementwise operations.

`observed` takes both from data; `mean_field.expected` computes what they are for random weights. Slopes are taken with respect
to a *base*: the last array that is not an elementwise function of one other array. So the slopes along x·sigmoid(x) add up
before they are squared.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.program.equations import Atom, Equation, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.kinds import PRODUCTS, Kind
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.second_moments.steps import dependent, elementwise, kind_of, passes, slope
from erfjax.tracing.windows.brief import once
from erfjax.tracing.windows.cone import Cone, Step, cut

IsRandom = Callable[[Equation, int], bool]
"""(equation, operand) -> whether a known operand is an independent draw of zero mean."""

Weigh = Callable[[Equation, int, Any], Scaled]
"""(equation, operand, known weight) -> what stands for its power in the walk."""

STRAIGHT = frozenset({lax.max_p, lax.min_p, lax.clamp_p, lax.abs_p})
"""Operations of one variable whose slope is 0, 1 or -1."""

Gates = list[tuple[Atom, Box, Scaled]]
"""(base, its box, E slope^power of the step's result with respect to it)."""


@dataclasses.dataclass(frozen=True)
class Activity:
    """What the units do.

    Attributes:
        values: every variable on its box: its value, or its mean where there are no data.
        gates: for every elementwise step's result, its bases.
        raised: (variable) -> its power, or the expectation of it, on its box.
        evenly: whether extrema choose evenly, for want of data.
        inside: (cone of the body of a scan, what its inputs are) -> the activity there, by power.
    """

    values: Mapping[Atom, Any]
    gates: Mapping[Atom, Gates]
    raised: Callable[[Atom], Scaled]
    evenly: bool
    inside: "Callable[[Cone, Sequence[Any]], Callable[[int], Activity]] | None" = None


@dataclasses.dataclass(frozen=True)
class Slope:
    """The slope of a result with respect to a base.

    Attributes:
        box: where the base is read.
        by: the slope: a number, or an array on the box of the result.
        size: the exponent of the largest, if it is known beforehand (see `random_weights.sizes`).
    """

    box: Box
    by: Any
    size: int | None

    def plus(self, other: "Slope") -> "Slope":
        known = self.size is not None and other.size is not None
        return Slope(self.box, self.by + other.by, max(self.size or 0, other.size or 0) if known else None)


def observed(
    cone: Cone,
    windows: Sequence[Any],
    sizes: Mapping[tuple[int, int], int],
    *,
    careful: bool = True,
    every: bool = False,
) -> Callable[[int], Activity]:
    """The activity that inputs cause, given on their windows, for the power asked for.

    Args:
        sizes: exponents of known operands (see `random_weights.sizes`).
        careful: search for the size of slopes and values where it is not known beforehand.
        every: find the slopes of all elementwise operations, not only of those that a walk from the unit passes.
    """
    held, bases = values_of(cone, windows), bases_of(cone)
    ends, inside = (set(bases), set(bases)) if every else passed_of(cone, bases)
    found: dict[Atom, dict[Atom, Slope]] = {}
    for step in cone.steps:
        output = step.output
        if output not in inside:
            continue
        found[output] = slopes(cone, step, bases[output], held, found, _size_of(sizes))

    def sized(array: Any, size: int | None) -> Scaled:
        return Scaled.sized(jnp.asarray(array), size if careful else size or 0)

    def activity(power: int) -> Activity:
        gates = {
            atom: [(base, s.box, sized(s.by, s.size).power(power)) for base, s in by_base.items()]
            for atom, by_base in found.items()
            if atom in ends
        }
        return Activity(held, gates, lambda atom: sized(held[atom], None).power(power), evenly=False, inside=within)

    def within(body: Cone, windows: Sequence[Any]) -> Callable[[int], Activity]:
        return observed(body, windows, sizes)

    return activity


def slopes(
    cone: Cone,
    step: Step,
    pairs: Sequence[tuple[int, Atom]],
    held: Mapping[Atom, Any],
    found: Mapping[Atom, Mapping[Atom, "Slope"]],
    size: Callable[[Step, int], int | None],
) -> dict[Atom, "Slope"]:
    """The slopes of an elementwise step's result with respect to its bases.

    Args:
        cone: that the step is of.
        step: elementwise.
        pairs: its operands and their bases; see `bases_of`.
        held: the values of its operands and of its result.
        found: the slopes of the elementwise results before it.
        size: (step, operand) -> the exponent of the greatest slope, if it is known beforehand.
    """
    values, by_base = cone.operands(step, held), dict[Atom, Slope]()
    for i, base in pairs:
        own = Slope(step.operands[i] or (), slope(step, values, i), size(step, i))
        if kind_of(step.equation) in (Kind.GATE, Kind.EXCLUSIVE):  # no gate of what is not a number is open or closed
            own = dataclasses.replace(own, by=jnp.where(jnp.isnan(held[step.output]), jnp.nan, own.by))
        atom = step.equation.inputs[i]
        if base is not atom:
            own = _chained(found[atom][base], own, cone.boxes[atom], step.box)
        by_base[base] = by_base[base].plus(own) if base in by_base else own
    return by_base


def _size_of(sizes: Mapping[tuple[int, int], int]) -> Callable[[Step, int], int | None]:
    return lambda step, operand: _size(step, operand, sizes)


def values_of(cone: Cone, windows: Sequence[Any]) -> dict[Atom, Any]:
    """Every variable on its box.

    What a contraction reads is computed once: left to itself, the compiler computes all since the last contraction anew in
    every kernel that needs it, and compiles long kernels.
    """
    read = {atom for step in cone.steps if kind_of(step.equation) is Kind.BILINEAR for atom in step.equation.inputs}
    held: dict[Atom, Any] = dict(zip(cone.block.inputs, windows, strict=True))
    for step in cone.steps:
        found = step.results(cone.operands(step, held))
        if step.output in read and elementwise(step):
            found = {output: once(value) for output, value in found.items()}
        held.update(found)
    return held


def held_bytes(cone: Cone) -> int:
    """How much of the values of one sample lies in memory: what contractions and scans read and give."""
    kept = [step for step in cone.steps if step.inner is not None or kind_of(step.equation) is Kind.BILINEAR]
    atoms = {atom for step in kept for atom in (*step.outputs, *step.equation.inputs) if atom in cone.boxes}
    return sum(math.prod(lengths(cone.boxes[atom])) * atom.dtype.itemsize for atom in atoms)


def bases_of(cone: Cone) -> dict[Atom, list[tuple[int, Atom]]]:
    """For every elementwise step's result, the operands that move it and the bases that they are functions of."""
    return _chains(cone)[0]


def _singles(cone: Cone) -> dict[Atom, Atom]:
    """The base of every array that is an elementwise function of one other."""
    return _chains(cone)[1]


def _chains(cone: Cone) -> tuple[dict[Atom, list[tuple[int, Atom]]], dict[Atom, Atom]]:
    single: dict[Atom, Atom] = {}
    found: dict[Atom, list[tuple[int, Atom]]] = {}
    for step in cone.steps:
        if elementwise(step):
            own = [(i, step.equation.inputs[i]) for i in dependent(step)]
            own = [(i, single[a] if a in single and a.shape == step.output.shape else a) for i, a in own]
            found[step.output] = own
            bases = {base for _, base in own}
            if len(bases) == 1 and own[0][1].shape == step.output.shape:
                single[step.output] = own[0][1]
    return found, single


def entangled(step: Step) -> bool:
    """Whether two carries of a scan are functions of one array, whose slopes would have to be added up behind them."""
    if step.inner is None or step.equation.scan is None:
        return False
    single = _singles(step.inner)
    carries = step.equation.scan.body.outputs[: step.equation.scan.n_carry]
    bases = [single.get(atom, atom) for atom in carries if jnp.issubdtype(atom.dtype, jnp.inexact)]
    return len(set(bases)) < len(bases)


def passed_of(cone: Cone, bases: Mapping[Atom, Sequence[tuple[int, Atom]]]) -> tuple[set[Atom], set[Atom]]:
    """The elementwise results at which a walk from the unit arrives, and these with all between them and their bases."""
    reached, ends, inside = set[Atom](cone.wanted), set[Atom](), set[Atom]()
    for step in reversed(cone.steps):
        arrives = passes(step) and not reached.isdisjoint(step.outputs)
        if arrives and not elementwise(step):
            reached.update(step.equation.inputs[i] for i in dependent(step))
        elif arrives:
            ends.add(step.output)
            inside.add(step.output)
            reached.update(base for _, base in bases[step.output])
        if step.output in inside:
            inside.update(
                step.equation.inputs[i] for i, base in bases[step.output] if base is not step.equation.inputs[i]
            )
    return ends, inside


def _size(step: Step, operand: int, sizes: Mapping[tuple[int, int], int]) -> int | None:
    """The exponent of the greatest slope of an elementwise operation, if it is known beforehand."""
    equation, kind = step.equation, kind_of(step.equation)
    if kind in (Kind.LINEAR, Kind.EXCLUSIVE) or (kind is Kind.GATE and _straight(equation)):
        return 0
    known = sizes.get((equation.number, 1 - operand)) if kind in PRODUCTS else None
    return known if known is None or kind is Kind.SCALED else -known


def _straight(equation: Equation) -> bool:
    """Whether every operand is passed on as it is or not at all: a ReLU."""
    if len({atom for atom in equation.inputs if isinstance(atom, Var)}) > 1:
        return False
    if equation.blocks:
        return all(inner.primitive in STRAIGHT for block in equation.blocks for inner in block.equations)
    return equation.primitive in STRAIGHT


def _chained(inner: Slope, outer: Slope, held: Box, box: Box) -> Slope:
    """The slope of an operation after another one. A closed gate is closed whatever comes after it, an infinite slope too."""
    size = None if inner.size is None or outer.size is None else inner.size + outer.size
    by = inner.by if isinstance(inner.by, float) else cut(inner.by, held, box)
    if size is not None or isinstance(inner.by, float) or isinstance(outer.by, float):
        return Slope(box, by * outer.by, size)
    closed = by == 0
    return Slope(box, jnp.where(closed, 0, by * jnp.where(closed, 0, outer.by)), size)


def fault(cone: Cone, windows: Sequence[Any]) -> str:
    """Where, for an input, something is first not finite that the backward walk needs, and what helps."""
    activity = observed(cone, windows, {}, every=True)(1)
    for step in cone.steps:
        for _, _, gain in activity.gates.get(step.output, ()):
            if jnp.isnan(gain.digits).any():
                return (
                    f"{step.equation} meets a number that is not finite: look at the input and the weights, or compute in "
                    "float64 (jax.enable_x64), if activations overflow."
                )
            if jnp.isinf(gain.digits).any():
                return (
                    f"the slope of {step.equation} is infinite at an activation: keep its argument away from there, as "
                    "jnp.sqrt(y + 1e-6) does in place of jnp.sqrt(y)."
                )
    return "an activation is not finite: look at the input and the weights, or compute in float64 (jax.enable_x64)."
