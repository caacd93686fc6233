"""Elementwise islands: arrays that are a function of one other array, position by position, and their Gaussian expectations.

The function of an island runs from its *base*, a normal variable of some mean and variance at every position, to a result φ.
What mean field asks of it are E φ, E φ² and E φ'^p. They are integrals over panels with Gauss-Legendre nodes; jumps of φ and φ'
(relu6, hard tanh ...) are found beforehand and are ends of panels.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.tracing import registry
from erfjax.tracing.families import ELEMENTWISE, linear, quotient, scaled, silent
from erfjax.tracing.program import Atom, Block, Equation, Known, Var
from erfjax.tracing.restrict import Cone, Step, cut

REACH = 8.0  # standard deviations integrated over; beyond lies 1e-15 of the mass
NODES, MASSES = ((a + b) / 2 for a, b in zip(np.polynomial.legendre.leggauss(8), (1.0, 0.0), strict=True))
"""One panel [0, 1]."""
GAUSSIAN_ENDS = (-REACH, -5.0, -2.5, 0.0, 2.5, 5.0, REACH)  # in standard deviations: they resolve the density
FEATURE_ENDS = (-16.0, -4.0, -1.0, 0.0, 1.0, 4.0, 16.0)  # in units of the base: they resolve φ, whatever the variance
PROBES = np.sinh(
    np.linspace(-7.9034876, 7.9021123, 2**13)
)  # where jumps are looked for: 2e-3 apart at 0, 2e-3 |x| further out
JUMP = 0.02  # of the range within reach: a step between neighbours that is no slope
MOST_JUMPS = 16


@dataclasses.dataclass(frozen=True)
class Island:
    """A result as a function of its base: the steps between them, in order."""

    base: Atom
    steps: tuple[Step, ...]

    def then(self, step: Step) -> "Island":
        return Island(self.base, (*self.steps, step))


def islands(cone: Cone) -> dict[Atom, Island]:
    """The island of every variable that is an elementwise function of exactly one other."""
    found: dict[Atom, Island] = {}
    order = {id(step): i for i, step in enumerate(cone.steps)}
    for step in cone.steps:
        if not _pointwise(step.equation):
            continue
        parts = [atom for atom in step.equation.inputs if isinstance(atom, Var)]
        own = [found.get(atom, Island(atom, ())) for atom in parts]
        if len({island.base for island in own}) == 1 and all(a.shape == step.output.shape for a in parts):
            before = {id(s): s for island in own for s in island.steps}
            found[step.output] = Island(own[0].base, (*sorted(before.values(), key=lambda s: order[id(s)]), step))
    return found


def _pointwise(equation: Equation) -> bool:
    if registry.bodies(equation) or not registry.known(equation.primitive):
        return False
    kind = registry.lookup(equation).moment
    return kind in ELEMENTWISE or (kind is silent and registry.pointwise(Block((), (equation,), ())))


def straightened(island: Island) -> tuple[list[Step], Island]:
    """The affine steps at the beginning through which everything passes, and the island that begins after them."""
    taken, at = 0, island.base
    for k, step in enumerate(island.steps):
        moving = [i for i, atom in enumerate(step.equation.inputs) if isinstance(atom, Var)]
        kind = registry.lookup(step.equation).moment
        affine = kind in (linear, scaled) or (kind is quotient and moving[0] == 0)
        if len(moving) != 1 or step.equation.inputs[moving[0]] is not at or not affine:
            break
        if any(at in later.equation.inputs for later in island.steps[k + 1 :]):
            break
        taken, at = k + 1, step.output
    return list(island.steps[:taken]), Island(at, island.steps[taken:])


def expectations(cone: Cone, island: Island, mean: Any, variance: Any, power: int) -> tuple[Any, Any, Any]:
    """E φ, Var φ and E φ'^power on the box of the island's result, for a normal base of this mean (None: zero) and variance."""
    result = island.steps[-1]
    held = cone.boxes[island.base]

    def narrow(array: Any) -> Any:
        return cut(array, held, result.box)

    lines = _lines(island) if mean is None else None
    if lines is not None:
        left, right = lines
        half = jnp.sqrt(jnp.maximum(variance, 0) / (2 * math.pi)) * (right - left)
        square = variance * (left**2 + right**2) / 2
        gate = jnp.full_like(variance, (left**power + right**power) / 2)
        return narrow(half), narrow(square - half**2), narrow(gate)

    def both(z: Any) -> tuple[Any, Any]:
        value, pull = jax.vjp(lambda a: run(cone, island, a), z)
        return value, narrow(pull(jnp.ones_like(value))[0])

    mean = jnp.zeros_like(variance) if mean is None else mean
    sigma = jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))
    ends = np.concatenate([FEATURE_ENDS, _jumps(island)]).astype(variance.dtype)
    features = jnp.clip((ends.reshape(-1, *[1] * variance.ndim) - mean[None]) / sigma[None], -REACH, REACH)
    fixed = np.array(GAUSSIAN_ENDS, variance.dtype).reshape(-1, *[1] * variance.ndim)
    panels = jnp.sort(jnp.concatenate([features, jnp.broadcast_to(fixed, (len(fixed), *variance.shape))]), axis=0)

    def panel(sums: Any, ends: Any) -> tuple[Any, None]:
        low, high = ends

        def node(sums: Any, rule: Any) -> tuple[Any, None]:
            at, mass = rule
            t = low + (high - low) * at
            density = narrow((high - low) * mass * jnp.exp(-(t**2) / 2) / math.sqrt(2 * math.pi))
            value, slope = both(mean + sigma * t)
            terms = (value, value**2, slope**power)
            return tuple(s + density * term for s, term in zip(sums, terms, strict=True)), None

        rules = (jnp.asarray(NODES, variance.dtype), jnp.asarray(MASSES, variance.dtype))
        return lax.scan(node, sums, rules)[0], None

    zero = jnp.zeros(registry.lengths(result.box), variance.dtype)
    (first, second, gate), _ = lax.scan(panel, (zero, zero, zero), (panels[:-1], panels[1:]))
    return first, jnp.maximum(second - first**2, 0), gate


def at_mean(cone: Cone, island: Island, mean: Any, variance: Any, power: int) -> tuple[Any, Any, Any]:
    """The same where the base hardly varies: φ and φ' at its mean."""
    held, box = cone.boxes[island.base], island.steps[-1].box
    value, pull = jax.vjp(lambda a: run(cone, island, a), jnp.zeros_like(variance) if mean is None else mean)
    slope = cut(pull(jnp.ones_like(value))[0], held, box)
    return value, slope**2 * cut(variance, held, box), slope**power


def run(cone: Cone, island: Island, base: Any) -> Any:
    """The result of an island for values of its base."""
    held: dict[Atom, Any] = {island.base: base}
    for step in island.steps:
        held[step.output] = step.apply(cone.operands(step, held))
    return held[island.steps[-1].output]


def homogeneous(island: Island | None) -> bool:
    """Whether φ is a multiple of its base on either side of 0, so that its gates do not depend on the variance."""
    return island is not None and _lines(straightened(island)[1]) is not None


def _lines(island: Island) -> tuple[float, float] | None:
    """The slopes of φ left and right of 0 if it is two straight lines through 0; None if it is anything else."""
    phi = _scalar(island) if island.steps else None
    if phi is None:
        return None
    at = np.array([-16.0, -2.0, -1.0, -0.25, 0.25, 1.0, 2.0, 16.0])
    value = phi(at)[0] / np.abs(at)
    left, right = -value[2], value[5]
    straight = np.allclose(value, np.where(at < 0, -left, right), rtol=1e-5, atol=1e-12)
    return (float(left), float(right)) if straight else None


def _jumps(island: Island) -> np.ndarray:
    """Where φ or φ' jumps, if φ is one function of one number; found on a grid and bisected."""
    phi = _scalar(island)
    if phi is None:
        return np.empty(0)
    low, high = PROBES[:-1], PROBES[1:]
    near = phi(PROBES[np.abs(PROBES) < REACH])
    scale = np.nanmax(np.abs(near), axis=1, keepdims=True, initial=1e-30)
    steps = np.abs(np.diff(phi(PROBES), axis=1)) / scale
    smooth = 8 * np.minimum(np.r_[steps.T[1:], [[np.inf] * 2]], np.r_[[[np.inf] * 2], steps.T[:-1]]).T
    jumps = np.flatnonzero(((steps > JUMP) & (steps > smooth)).any(axis=0))[:MOST_JUMPS]
    low, high = low[jumps], high[jumps]
    for _ in range(30):
        middle = (low + high) / 2
        at = [phi(x) / scale for x in (low, middle, high)]
        first = np.abs(at[1] - at[0]).max(axis=0) > np.abs(at[2] - at[1]).max(axis=0)
        low, high = np.where(first, low, middle), np.where(first, middle, high)
    return low


def _scalar(island: Island) -> Callable[[np.ndarray], np.ndarray] | None:
    """φ and φ' as a function of a vector on the host, if everything known in it is one known number."""
    numbers: dict[Atom, Any] = {}
    for step in island.steps:
        for atom in step.equation.inputs:
            if isinstance(atom, Known):
                value = atom.concrete
                if value is None or value.size == 0 or (value != value.flat[0]).any():
                    return None
                numbers[atom] = value.flat[0]

    def function(x: Any) -> Any:
        held = {**numbers, island.base: x}
        _evaluate([step.equation for step in island.steps], held, x.shape)
        return held[island.steps[-1].output]

    def both(x: np.ndarray) -> np.ndarray:
        with jax.ensure_compile_time_eval():
            z = jnp.asarray(x, island.base.dtype)
            value, pull = jax.vjp(function, z)
            return np.stack([np.asarray(a, np.float64) for a in (value, pull(jnp.ones_like(value))[0])])

    return both


def _evaluate(equations: Sequence[Equation], held: dict[Atom, Any], shape: tuple[int, ...]) -> None:
    """Runs elementwise equations on vectors."""
    for equation in equations:
        operands = [jnp.broadcast_to(jnp.asarray(held[a], a.dtype), shape) for a in equation.inputs]
        if equation.blocks:
            (block,) = equation.blocks
            inner = dict(zip(block.inputs, operands, strict=True))
            inner.update({a: a.value for e in block.equations for a in e.inputs if isinstance(a, Known)})
            _evaluate(block.equations, inner, shape)
            held.update({o: inner[b] for o, b in zip(equation.outputs, block.outputs, strict=True)})
        else:
            found = equation.primitive.bind(*operands, **equation.params)
            held.update(zip(equation.outputs, found if equation.primitive.multiple_results else [found], strict=True))
