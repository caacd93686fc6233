"""Elementwise islands: arrays that are a function of one other array, position by position, and their Gaussian expectations.

The function of an island runs from its *base*, a normal variable of some mean and variance at every position, to a result φ.
What mean field asks of it are E φ, E φ² and E φ'^p. They are integrals over panels with Gauss-Legendre nodes. Jumps of φ and φ'
(relu6, hard tanh ...) are found beforehand and are ends of panels; panels in which φ oscillates are halved beforehand.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import special

from erfjax.tracing import jaxpr as jx
from erfjax.tracing import registry
from erfjax.tracing.program.equations import Atom, Block, Equation, Known, Var
from erfjax.tracing.second_moments.kinds import ELEMENTWISE, linear, quotient, scaled, silent
from erfjax.tracing.windows.cone import Cone, Step, cut

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
QUANTILES = special.ndtri((np.arange(256) + 0.5) / 256)  # at which comparisons are taken
MOST_PANELS = 512
FINEST = 2e-3  # panels are not halved further
RESOLVED = (
    1e-6,
    1e-7,
)  # of an integral over a panel, and of the greatest mean over a panel: errors that halve no panel


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
    ends = _ends(island).astype(variance.dtype)
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


def chance(cone: Cone, island: Island, mean: Any, variance: Any) -> Any:
    """How often a comparison holds, for a normal base of this mean and variance."""

    def add(count: Any, quantile: Any) -> tuple[Any, None]:
        return count + run(cone, island, mean + jnp.sqrt(variance) * quantile).astype(count.dtype), None

    zero = jnp.zeros(registry.lengths(island.steps[-1].box), variance.dtype)
    return lax.scan(add, zero, jnp.asarray(QUANTILES, variance.dtype))[0] / len(QUANTILES)


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


def outermost(cone: Cone) -> dict[Atom, Island | None]:
    """All islands; None in place of one whose result only a larger island reads."""
    found = islands(cone)
    read = set(cone.wanted)
    for step in cone.steps:
        base = found[step.output].base if step.output in found else None
        read.update(atom for atom in step.equation.inputs if atom in found and found[atom].base is not base)
    return {atom: island if atom in read else None for atom, island in found.items()}


def affine(island: Island) -> bool:
    """Whether φ' is the same for all values of the base."""
    return not straightened(island)[1].steps


def shifts(island: Island) -> list[Known] | None:
    """What is added to the base before two straight lines through 0 act on it; None if φ is anything but that."""
    before, rest = straightened(island)
    if _lines(rest) is None:
        return None
    added = [step for step in before if registry.lookup(step.equation).moment is linear]
    return [atom for step in added for atom in step.equation.inputs if isinstance(atom, Known)]


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


def _ends(island: Island) -> np.ndarray:
    """Ends of panels in units of the base, in which φ² and φ'² are smooth and resolved, if φ is one function of one number."""
    phi = _scalar(island)
    if phi is None:
        return np.array(FEATURE_ENDS)
    ends = np.sort([*FEATURE_ENDS, *_jumps(phi)])
    while True:
        middles, widths = (ends[:-1] + ends[1:]) / 2, np.diff(ends)
        with np.errstate(over="ignore", invalid="ignore"):  # far out φ may overflow, and stays as it is
            whole, halves = _integrals(phi, ends), _integrals(phi, np.sort([*ends, *middles]))
            both = halves[:, ::2] + halves[:, 1::2]
            greatest = np.nanmax(both / np.maximum(widths, FINEST), axis=1, keepdims=True)
            rough = np.abs(whole - both) > RESOLVED[0] * both + RESOLVED[1] * greatest * widths
        more = middles[rough.any(axis=0) & (widths > FINEST)]
        more = more[_nearest(more, MOST_PANELS - len(ends))]
        if not more.size:
            return ends
        ends = np.sort([*ends, *more])


def _nearest(points: np.ndarray, most: int) -> np.ndarray:
    """Which points are nearest to 0, where the base is likely to be."""
    return np.argsort(np.abs(points), kind="stable")[:most]


def _integrals(phi: Callable[[np.ndarray], np.ndarray], ends: np.ndarray) -> np.ndarray:
    """∫φ² and ∫φ'² over panels, by the rule that expectations use."""
    low, width = ends[:-1], np.diff(ends)
    values = phi((low[:, None] + width[:, None] * NODES).ravel()).reshape(2, *low.shape, len(NODES))
    return (values**2 @ MASSES) * width


def _jumps(phi: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Where φ or φ' jumps; found on a grid, and then on finer and finer ones."""
    near = phi(PROBES[np.abs(PROBES) < REACH])
    scale = np.nanmax(np.abs(near), axis=1, keepdims=True, initial=1e-30)
    with np.errstate(invalid="ignore"):  # far out φ may overflow: no jump is looked for there
        steps = np.abs(np.diff(phi(PROBES), axis=1)) / scale
    smooth = 8 * np.minimum(np.r_[steps.T[1:], [[np.inf] * 2]], np.r_[[[np.inf] * 2], steps.T[:-1]]).T
    jumps = np.flatnonzero(((steps > JUMP) & (steps > smooth)).any(axis=0))
    jumps = jumps[_nearest(PROBES[jumps], MOST_JUMPS)]
    low, high = PROBES[jumps], PROBES[jumps + 1]
    which = np.arange(len(low))
    for _ in range(4 if len(low) else 0):
        fine = np.linspace(low, high, len(PROBES) // MOST_JUMPS)
        steps = np.abs(np.diff(phi(fine.ravel()).reshape(2, *fine.shape), axis=1)) / scale[..., None]
        at = steps.max(axis=0).argmax(axis=0)
        low, high = fine[at, which], fine[at + 1, which]
    return low[(np.abs(phi(high) - phi(low)) > JUMP * scale).any(axis=0)]  # what oscillates is no jump from near


def _scalar(island: Island) -> Callable[[np.ndarray], np.ndarray] | None:
    """φ and φ' as a function of a (not too long) vector on the host, if everything known in it is one known number."""
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
        padded = np.zeros(len(PROBES))  # always as many points, so that JAX compiles each operation once
        padded[: len(x)] = x
        with jax.ensure_compile_time_eval():
            z = jnp.asarray(padded, _wide(island.base.dtype))
            value, pull = jax.vjp(function, z)
            slope = pull(jnp.ones_like(value))[0]
            return np.stack([np.asarray(a, np.float64)[: len(x)] for a in (value, slope)])

    return both


def _wide(dtype: Any) -> Any:
    """The dtype, or float32 in place of a narrower one, in which smooth functions look like stairs."""
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32 else dtype


def _evaluate(equations: Sequence[Equation], held: dict[Atom, Any], shape: tuple[int, ...]) -> None:
    """Runs elementwise equations on vectors."""
    for equation in equations:
        operands = [jnp.broadcast_to(jnp.asarray(held[a], _wide(a.dtype)), shape) for a in equation.inputs]
        if equation.blocks:
            (block,) = equation.blocks
            inner = dict(zip(block.inputs, operands, strict=True))
            inner.update({a: a.value for e in block.equations for a in e.inputs if isinstance(a, Known)})
            _evaluate(block.equations, inner, shape)
            held.update({o: inner[b] for o, b in zip(equation.outputs, block.outputs, strict=True)})
        else:
            found = jx.bind(equation, operands)
            held.update(zip(equation.outputs, found if equation.primitive.multiple_results else [found], strict=True))
