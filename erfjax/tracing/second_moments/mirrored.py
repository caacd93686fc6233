"""A control of a measured gradient: the closed form of one draw of the weights, less what it is on average, which is known.

The closed form of one draw is a sum over paths of squared weights and squared slopes (*gates*). Turn the signs of all weights of
one layer: the law of normal weights stays, their squares stay, all that lies before the layer stays, but its gates become those
of the mirrored pre-activations. So with g a squared slope, g' the mirrored one and c any constant, the gate

    c · 2 g / (g + g')

has the mean c whatever happens in the layers before, and a path through one such gate per layer has the mean of the product of
its constants and of its squared weights (last layer first, each given those before it). The *control* is

    total of (squared weights, such gates) - total of (variances of the weights, constants)

and has the mean zero: for a network of any depth and width, with any elementwise nonlinearity, without any limit. How well it
goes with the measured total is another matter: ReLUs gain much, a slope that is even (tanh) gains what the weights give.

Weights that are not normal numbers, or that are used more than once, are never turned, and their squares stand in both totals.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from erfjax.errors import ErfjaxError, SampleError
from erfjax.tracing.positions.index_sets import Box, full
from erfjax.tracing.program.equations import Atom, Equation, Known, Var
from erfjax.tracing.program.normals import Normal, Normals
from erfjax.tracing.program.origins import Origins
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments import backward
from erfjax.tracing.second_moments.activity import Activity, bases_of, passed_of, slopes, values_of
from erfjax.tracing.second_moments.kinds import Choice, Kind
from erfjax.tracing.second_moments.layerwise import fixed, live
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.second_moments.steps import dependent, elementwise, kind_of, passes
from erfjax.tracing.windows.cone import Cone, Step, cut

Place = tuple[int, int]
"""(place of a step in a cone, operand)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """The weights of a cone that are drawn, each for one use.

    Attributes:
        variances: of every such weight, entry by entry.
        kept: how many contractions have other weights.
    """

    variances: dict[Place, np.ndarray]
    kept: int


def drawn(cone: Cone) -> Drawn:
    """The weights whose signs can be turned.

    Raises:
        SampleError: there are none, or a step of the cone has no closed form that needs no data.
    """
    known, alike = Normals(), Origins()
    uses, counts = (
        dict[Place, Normal](),
        dict[int, np.ndarray](),
    )  # by the mark of the root: a key drawn from twice gives the same
    seen: set[tuple[int, int]] = set()
    contractions = set[int]()
    for at, step in enumerate(cone.steps):
        for i, atom in enumerate(step.equation.inputs):
            if not isinstance(atom, Known) or step.operands[i] is None:
                continue
            weighs = passes(step) and kind_of(step.equation) is Kind.BILINEAR and len(dependent(step)) == 1
            contractions.update({at} if weighs else ())
            normal = known.of(atom)
            again = (id(step.equation), i) in seen  # another result of the same equation
            seen.add((id(step.equation), i))
            for root in known.roots(atom):
                count = counts.setdefault(alike.mark(root), np.zeros(math.prod(root.shape), np.int8))
                part = slice(None) if normal is None else normal.places.ravel()
                count[part] = np.minimum(count[part] + (2 if again else 1), 2)
            if weighs and normal is not None:
                uses[at, i] = normal
    alone = {
        at: one for at, one in uses.items() if counts[alike.mark(one.root)][one.places.ravel()].max(initial=0) == 1
    }
    if not alone:
        raise SampleError(
            'variance="control" needs weights that are drawn for every sample as normal numbers, each used once: measure '
            "ej.redraw(f), or draw them inside f(key, x) with jax.random.normal times a constant."
        )
    _check(cone)
    return Drawn({at: np.square(one.deviation) for at, one in alone.items()}, len(contractions) - len(alone))


def _check(cone: Cone) -> None:
    """Refuses what has no closed form of one draw that needs no data beyond its gates."""
    alive = live(cone)
    for step in cone.steps:
        if step.output not in alive:
            continue
        try:
            kind = kind_of(step.equation)
        except ErfjaxError as error:
            raise SampleError(f'variance="control" does not apply: {error}') from error
        even = isinstance(kind, Choice) and kind.evenly is not None
        if not (elementwise(step) or even or fixed(step, alive)):
            raise SampleError(
                f'variance="control" does not apply: what {step.equation} passes back depends on the data (attention, sorting, '
                'gathering), so the mean of the closed form of one draw is not known. Measure with variance="plain".'
            )


@dataclasses.dataclass(frozen=True, eq=False)
class _Signs:
    """The layers of a cone.

    Attributes:
        heads: the places of the steps whose weights can be turned.
        depth: of every array, how many heads lie before it on the longest way.
        fresh: the arrays that no gate parts from the heads of their depth.
    """

    heads: frozenset[int]
    depth: dict[Atom, int]
    fresh: frozenset[Atom]

    @classmethod
    def of(cls, cone: Cone, found: Drawn) -> "_Signs":
        heads, alive = frozenset(at for at, _ in found.variances), live(cone)
        depth: dict[Atom, int] = {}
        fresh = set[Atom]()
        for at, step in enumerate(cone.steps):
            read = _read(step)
            deepest = max((depth.get(atom, 0) for atom in read), default=0)
            depth[step.output] = deepest + (at in heads)
            newest = [atom for atom in read if depth.get(atom, 0) == deepest]
            if at in heads or (deepest and fixed(step, alive) and fresh.issuperset(newest)):
                fresh.add(step.output)
        return cls(heads, depth, frozenset(fresh))

    def seen(self, step: Step, held: dict[Atom, Any], other: dict[Atom, Any]) -> dict[Atom, Any]:
        """What a step reads and gives if the newest heads before it are turned: older arrays are as they were."""
        here = self.depth[step.output]
        return {
            atom: (other if self.depth.get(atom, 0) == here and here else held)[atom]
            for atom in (*_read(step), step.output)
            if atom in held
        }


def _read(step: Step) -> list[Var]:
    """All variables that a step reads."""
    pairs = zip(step.equation.inputs, step.operands, strict=True)
    return [atom for atom, box in pairs if isinstance(atom, Var) and box is not None]


@dataclasses.dataclass(frozen=True)
class _Gate:
    """A squared slope: of which result, with respect to what; as it is, and mirrored (None: it may stay as it is)."""

    output: Atom
    base: Atom
    box: Box
    own: Any
    other: Any

    @property
    def half(self) -> Any:
        return (self.own + self.other) / 2


def _gates(cone: Cone, windows: Sequence[Any], found: Drawn) -> tuple[dict[Atom, Any], list[_Gate]]:
    """The values of a cone, and its gates in a fixed order."""
    signs, bases = _Signs.of(cone, found), bases_of(cone)
    ends, inside = passed_of(cone, bases)
    held = values_of(cone, windows)
    other, gates = dict[Atom, Any](), list[_Gate]()
    slope, mirrored = dict[Atom, Any](), dict[Atom, Any]()
    for at, step in enumerate(cone.steps):
        output, here = step.output, signs.depth[step.output]
        if at in signs.heads:
            other[output] = -held[output]
        elif here:
            turned = signs.seen(step, held, {**held, **other})
            other[output] = step.apply(cone.operands(step, turned))
        if output not in inside:
            continue
        slope[output] = slopes(cone, step, bases[output], held, slope, lambda step, i: None)
        turned = signs.seen(step, held, {**held, **other})
        before: dict[Atom, Any] = {
            atom: (mirrored if signs.depth.get(atom, 0) == here else slope)[atom]
            for atom in _read(step)
            if atom in slope
        }
        mirrored[output] = (
            slopes(cone, step, bases[output], turned, before, lambda step, i: None) if here else slope[output]
        )
        if output not in ends:
            continue
        for base, one in slope[output].items():
            mirror, free = mirrored[output][base].by, signs.depth.get(base, 0) < here or base in signs.fresh
            own = one.by * one.by
            if not here or isinstance(one.by, float):
                gates.append(_Gate(output, base, one.box, own, None))
            else:
                gates.append(_Gate(output, base, one.box, own, mirror * mirror if free else own))
    return held, gates


def halves(cone: Cone, windows: Sequence[Any], found: Drawn) -> list[Any]:
    """Of every gate the mean of itself and its mirror image, from which constants are made; zero where none is needed."""
    return [jnp.zeros(()) if gate.other is None else gate.half for gate in _gates(cone, windows, found)[1]]


def control(
    cone: Cone, windows: Sequence[Any], found: Drawn, constants: Sequence[Any], cotangent: Any
) -> tuple[Any, Any]:
    """The control of one draw for one unit: digits and exponent, digits · 2**exponent.

    Args:
        cone: of the unit, with the weights of the draw.
        windows: the sample on its windows, the input asked about first.
        found: its weights; see `drawn`.
        constants: c of every gate, in the order of `halves`.
        cotangent: of the unit, on the box of the output.
    """
    held, gates = _gates(cone, windows, found)
    place = {id(step.equation): at for at, step in enumerate(cone.steps)}

    def weighed(variance: bool) -> Callable[[Equation, int, Any], Scaled]:
        def weigh(equation: Equation, operand: int, weight: Any) -> Scaled:
            known = found.variances.get((place[id(equation)], operand)) if variance else None
            if known is None:
                return Scaled.of(weight).power(2)
            atom, step = equation.inputs[operand], cone.steps[place[id(equation)]]
            return Scaled.of(cut(jnp.asarray(known, jnp.float32), full(atom.shape), step.operands[operand] or ()))

        return weigh

    def total(variance: bool) -> Scaled:
        gains: dict[Atom, list[tuple[Atom, Box, Scaled]]] = {}
        for gate, constant in zip(gates, constants, strict=True):
            by = gate.own
            if gate.other is not None:
                half = gate.half
                by = jnp.where(half > 0, gate.own / jnp.where(half > 0, half, 1), 1) * constant
                by = jnp.broadcast_to(constant, by.shape) if variance else by
            gains.setdefault(gate.output, []).append((gate.base, gate.box, Scaled.of(jnp.asarray(by))))
        activity = Activity(held, gains, lambda atom: Scaled.of(held[atom]).power(2), evenly=True)
        moments = backward.moments(cone, activity, 2, weighed(variance), [cotangent])
        return moments.linear(jnp.sum)

    difference = total(False) - total(True)
    return difference.digits, difference.exponent


def unit_cotangent(
    box: Box, dtype: Any, spatial: Sequence[int], unit: Sequence[int], channel: tuple[int, int] | None
) -> np.ndarray:
    """Ones at the channels of a unit, zeros elsewhere on the box of the output.

    Args:
        box: of the output.
        dtype: of the result.
        spatial: the axes of the output that are space.
        unit: its index.
        channel: (axis, index) of the one that is meant; None for all.
    """
    found = np.zeros(lengths(box), dtype)
    index: list[Any] = [slice(None)] * found.ndim
    for axis, position in zip(spatial, unit, strict=True):
        index[axis] = position - int(box[axis].start)
    if channel is not None:
        index[channel[0]] = channel[1]
    found[tuple(index)] = 1
    return found
