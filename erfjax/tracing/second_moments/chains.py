"""Elementwise chains: arrays that are a function of one other array, position by position, and their Gaussian expectations.

The function of a chain runs from its *base*, a normal variable of some mean and variance at every position, to a result φ. What
mean field asks of it are E φ, Var φ and E φ'^p, by the quadrature of `closed_form.gaussian_integrals`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax

from erfjax.closed_form import gaussian_integrals
from erfjax.closed_form.gaussian_integrals import BLOCK, FEATURE_ENDS, two_slopes
from erfjax.tracing import jaxpr as jx
from erfjax.tracing import registry
from erfjax.tracing.program.equations import Atom, Block, Equation, Known, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.rules.known_arithmetic import by_numpy
from erfjax.tracing.second_moments.kinds import ELEMENTWISE, Kind
from erfjax.tracing.second_moments.scaled import EMPTY, Scaled
from erfjax.tracing.windows.cone import Cone, Step, cut

QUANTILES = 256  # of the normal distribution, at which comparisons are taken
LOOKED_AT = (
    -4.0,
    -2.0,
    -1.0,
    -0.5,
    -0.25,
    -0.1,
    0.0,
    0.1,
    0.25,
    0.5,
    1.0,
    2.0,
    4.0,
)  # standard deviations, for the scale
NARROWEST = -90  # exponent of the smallest standard deviation at which φ is evaluated; below, φ is taken as straight


@dataclasses.dataclass(frozen=True)
class Chain:
    """A result as a function of its base: the steps between them, in order."""

    base: Atom
    steps: tuple[Step, ...]


def chains(cone: Cone) -> dict[Atom, Chain]:
    """The chain of every variable that is an elementwise function of exactly one other."""
    found: dict[Atom, Chain] = {}
    order = {id(step): i for i, step in enumerate(cone.steps)}
    for step in cone.steps:
        if not _pointwise(step.equation):
            continue
        parts = [atom for atom in step.equation.inputs if isinstance(atom, Var)]
        own = [found.get(atom, Chain(atom, ())) for atom in parts]
        if len({chain.base for chain in own}) == 1 and all(a.shape == step.output.shape for a in parts):
            before = {id(s): s for chain in own for s in chain.steps}
            found[step.output] = Chain(own[0].base, (*sorted(before.values(), key=lambda s: order[id(s)]), step))
    return found


def _pointwise(equation: Equation) -> bool:
    if registry.bodies(equation) or not registry.known(equation.primitive):
        return False
    kind = registry.lookup(equation).moment
    return kind in ELEMENTWISE or (kind is Kind.SILENT and registry.pointwise(Block((), (equation,), ())))


def straightened(chain: Chain) -> tuple[list[Step], Chain]:
    """The affine steps at the beginning through which everything passes, and the chain that begins after them."""
    taken, at = 0, chain.base
    for k, step in enumerate(chain.steps):
        moving = [i for i, atom in enumerate(step.equation.inputs) if isinstance(atom, Var)]
        kind = registry.lookup(step.equation).moment
        affine = kind in (Kind.LINEAR, Kind.SCALED) or (kind is Kind.QUOTIENT and moving[0] == 0)
        if len(moving) != 1 or step.equation.inputs[moving[0]] is not at or not affine:
            break
        if any(at in later.equation.inputs for later in chain.steps[k + 1 :]):
            break
        taken, at = k + 1, step.output
    return list(chain.steps[:taken]), Chain(at, chain.steps[taken:])


def expectations(
    cone: Cone, chain: Chain, mean: Scaled | None, variance: Scaled, power: int
) -> tuple[Scaled, Scaled, Scaled]:
    """E φ, Var φ and E φ'^power on the box of the chain's result, for a normal base of this mean (None: zero) and variance."""
    held, box = cone.boxes[chain.base], chain.steps[-1].box

    def narrow(part: Scaled) -> Scaled:
        return part.linear(lambda a: cut(a, held, box))

    lines = two_lines(chain)
    if lines is not None:
        first, spread, gate = _bent(lines, mean, variance, power)
        return narrow(first), narrow(spread), narrow(gate)

    dtype = variance.digits.dtype
    own, floor = variance.root(), Scaled.of(jnp.ones((), dtype), NARROWEST)
    sigma = jnp.maximum(own.restored(), floor.restored())
    share = narrow(own / Scaled.of(sigma))  # of the standard deviation at which φ is evaluated: nearly always 1
    centre = jnp.zeros_like(sigma) if mean is None else mean.restored()
    value_unit, slope_unit = _units(cone, chain, centre, sigma)

    def terms(z: Any, weight: Any) -> tuple[Any, Any, Any]:
        weight = cut(weight, held, box)
        parts = zip(value_and_slope(cone, chain, z), (value_unit, slope_unit), strict=True)
        value, slope = (Scaled(part, 0).at(unit) for part, unit in parts)
        return weight * value, weight * value**2, weight * slope**power

    zero = jnp.zeros(lengths(box), dtype)
    first, second, gate = gaussian_integrals.integrals(terms, (zero,) * 3, panel_ends(chain), centre, sigma)
    spread = Scaled.of(jnp.maximum(second - first**2, 0), 2 * value_unit) * share.power(2)
    at_centre = Scaled.of(value_and_slope(cone, chain, centre)[0])
    moved = (Scaled.of(first, value_unit) - at_centre) * share
    return at_centre + moved, spread, Scaled.of(gate, power * slope_unit)


CERTAIN = (
    10.0  # standard deviations from 0 at which a normal variable lies on one side; the other has 1e-23 of its mass
)


def _bent(
    lines: tuple[float, float], mean: Scaled | None, variance: Scaled, power: int
) -> tuple[Scaled, Scaled, Scaled]:
    """The same for straight lines of these slopes left and right of 0, in closed form.

    With t the mean in standard deviations, h its density and H its distribution function: E z 1[z > 0] = σ (t H + h) and
    E z² 1[z > 0] = σ² ((t² + 1) H + t h).
    """
    (left, right), root = lines, variance.root()
    if mean is None:
        first = root.linear(lambda a: a * ((right - left) / math.sqrt(2 * math.pi)))
        spread = variance.linear(lambda a: a * ((left**2 + right**2) / 2 - (right - left) ** 2 / (2 * math.pi)))
        return first, spread, Scaled(jnp.full_like(variance.digits, (left**power + right**power) / 2))
    side = jnp.sign(mean.digits) * CERTAIN
    t = jnp.where(root.digits == 0, side, jnp.clip((mean / root).restored(), -CERTAIN, CERTAIN))
    density = jnp.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    far = _tail(jnp.abs(t))
    above, below = jnp.where(t > 0, 1 - far, far), jnp.where(t > 0, far, 1 - far)
    first = mean.linear(lambda a: a * (left * below + right * above)) + root.linear(
        lambda a: a * ((right - left) * density)
    )
    inner = t * (left * below + right * above) + (right - left) * density
    second = left**2 * ((t**2 + 1) * below - t * density) + right**2 * ((t**2 + 1) * above + t * density)
    certain = jnp.where(t > 0, right**2, left**2)
    share = jnp.where(jnp.abs(t) >= CERTAIN, certain, jnp.maximum(second - inner**2, 0))
    return first, variance.linear(lambda a: a * share), Scaled(left**power * below + right**power * above)


TAIL = (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368)
"""W. Press et al., Numerical Recipes, section 6.2: the complementary error function with a relative error below 1.2e-7."""


def _tail(t: Any) -> Any:
    """How often a standard normal variable is above t >= 0; in few operations, since XLA's erfc is long to compile."""
    z = t / math.sqrt(2)
    u = 1 / (1 + z / 2)
    return u * jnp.exp(-(z**2) - 1.26551223 + u * functools.reduce(lambda sum, c: sum * u + c, TAIL)) / 2


def _units(cone: Cone, chain: Chain, centre: Any, sigma: Any) -> tuple[Any, Any]:
    """The exponents of the greatest φ and φ' near the centre, so that no square under- or overflows."""

    def greatest(most: tuple[Any, Any], at: Any) -> tuple[tuple[Any, Any], None]:
        value, slope = (jnp.max(jnp.abs(part)) for part in value_and_slope(cone, chain, centre + at * sigma))
        return (jnp.maximum(most[0], value), jnp.maximum(most[1], slope)), None

    zero = jnp.zeros((), sigma.dtype)
    most, _ = lax.scan(greatest, (zero, zero), jnp.asarray(LOOKED_AT, sigma.dtype))
    exponents = (Scaled.of(lax.stop_gradient(m)).exponent for m in most)
    value, slope = (jnp.where(e == EMPTY, 0, e) for e in exponents)
    return value, slope


def value_and_slope(cone: Cone, chain: Chain, z: Any) -> tuple[Any, Any]:
    """φ and φ' on the box of the chain's result."""
    held, box = cone.boxes[chain.base], chain.steps[-1].box
    value, pull = jax.vjp(lambda a: run(cone, chain, a), z)
    return value, cut(pull(jnp.ones_like(value))[0], held, box)


def chance(cone: Cone, chain: Chain, mean: Scaled, variance: Scaled) -> Any:
    """How often a comparison holds, for a normal base of this mean and variance."""
    centre, sigma = mean.restored(), variance.root().restored()

    def add(count: Any, quantile: Any) -> tuple[Any, None]:
        return count + run(cone, chain, centre + sigma * quantile), None

    zero = jnp.zeros(lengths(chain.steps[-1].box), sigma.dtype)
    at = scipy.special.ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES)
    return lax.scan(add, zero, jnp.asarray(at, sigma.dtype))[0] / QUANTILES


def at_mean(
    cone: Cone, chain: Chain, mean: Scaled | None, variance: Scaled, power: int
) -> tuple[Scaled, Scaled, Scaled]:
    """The same where the base hardly varies: φ and φ' at its mean."""
    held, box = cone.boxes[chain.base], chain.steps[-1].box
    parts = value_and_slope(cone, chain, jnp.zeros_like(variance.digits) if mean is None else mean.restored())
    value, slope = map(Scaled.of, parts)
    return value, slope.power(2) * variance.linear(lambda a: cut(a, held, box)), slope.power(power)


def run(cone: Cone, chain: Chain, base: Any) -> Any:
    """The result of a chain for values of its base, which are rounded to the precision of the model."""
    held = cone.run(chain.steps, {chain.base: jnp.asarray(base, chain.base.dtype)})
    return jnp.asarray(held[chain.steps[-1].output], base.dtype)


def outermost(cone: Cone) -> dict[Atom, Chain | None]:
    """All chains; None in place of one whose result only a larger chain reads."""
    found = chains(cone)
    read = set(cone.wanted)
    for step in cone.steps:
        base = found[step.output].base if step.output in found else None
        read.update(atom for atom in step.equation.inputs if atom in found and found[atom].base is not base)
    return {atom: chain if atom in read else None for atom, chain in found.items()}


def affine(chain: Chain) -> bool:
    """Whether φ' is the same for all values of the base."""
    return not straightened(chain)[1].steps


def shifts(chain: Chain) -> list[Known] | None:
    """What is added to the base before two straight lines through 0 act on it; None if φ is anything but that."""
    before, rest = straightened(chain)
    if two_lines(rest) is None:
        return None
    added = [step for step in before if registry.lookup(step.equation).moment is Kind.LINEAR]
    return [atom for step in added for atom in step.equation.inputs if isinstance(atom, Known)]


def two_lines(chain: Chain) -> tuple[float, float] | None:
    """The slopes of φ left and right of 0 if it is two straight lines through 0; None if it is anything else."""
    phi = _scalar(chain) if chain.steps else None
    return None if phi is None else _once("slopes", chain, lambda: two_slopes(_values(chain) or phi))


def panel_ends(chain: Chain) -> np.ndarray:
    """Ends of panels that resolve φ, if it is one function of one number."""
    phi = _scalar(chain)
    if phi is None:
        return np.array(FEATURE_ENDS)
    eps = float(jnp.finfo(_wide(chain.base.dtype)).eps)
    return _once("panels", chain, lambda: gaussian_integrals.panels(phi, eps))


_FOUND: dict[tuple[str, str], Any] = {}
MOST_FOUND = 256  # functions that are remembered


def _once(what: str, chain: Chain, find: Callable[[], Any]) -> Any:
    """What is found of a function of one number: once for all chains that say the same, as those of equal blocks do."""
    key = what, _said(chain)
    if "0x" in key[1]:  # the address of something, which tells nothing of what it is
        return find()
    if key not in _FOUND:
        if len(_FOUND) >= MOST_FOUND:
            _FOUND.clear()
        _FOUND[key] = find()
    return _FOUND[key]


def _said(chain: Chain) -> str:
    """A chain whose known arrays are numbers, in words that are the same for equal ones."""
    names: dict[Atom, str] = {chain.base: f"x {chain.base.dtype}"}

    def of(equation: Equation) -> str:
        inputs = [names.get(a) or repr(a.concrete.flat[0]) for a in equation.inputs]  # type: ignore[union-attr]
        if not equation.blocks:
            return f"{equation.primitive} {id(equation.primitive)} {sorted(equation.params.items())} {inputs}"
        (block,) = equation.blocks
        names.update({new: names.get(old, "") or repr(old.concrete.flat[0]) for new, old in _read(block, equation)})
        return f"{inputs} {[told(inner) for inner in block.equations]} {[names.get(a, '') for a in block.outputs]}"

    def told(equation: Equation) -> str:
        text = of(equation)
        names.update({o: f"{len(names)}.{i} {o.dtype}" for i, o in enumerate(equation.outputs)})
        return text

    return "; ".join(told(step.equation) for step in chain.steps)


def _read(block: Block, equation: Equation) -> list[tuple[Atom, Any]]:
    """The inputs of a body beside the operands that they are."""
    return list(zip(block.inputs, equation.inputs, strict=True))


def _numbers(chain: Chain) -> dict[Atom, Any] | None:
    """What is known in a chain, if each is one number."""
    numbers: dict[Atom, Any] = {}
    for step in chain.steps:
        for atom in step.equation.inputs:
            if isinstance(atom, Known):
                value = atom.concrete
                if value is None or value.size == 0 or (value != value.flat[0]).any():
                    return None
                numbers[atom] = value.flat[0]
    return numbers


def _values(chain: Chain) -> Callable[[np.ndarray], np.ndarray] | None:
    """φ alone, in the first row, by NumPy: nothing is compiled. None where NumPy lacks an operation, or not all is numbers."""
    numbers, equations = _numbers(chain), [step.equation for step in chain.steps]
    inner = [e for equation in equations for block in equation.blocks for e in block.equations]
    plain = [e for e in (*equations, *inner) if not e.blocks]
    if numbers is None or any(block for e in inner for block in e.blocks):
        return None
    if any(by_numpy(e.primitive) is None for e in plain):
        return None

    def bind(equation: Equation, operands: Sequence[Any]) -> Any:
        function = by_numpy(equation.primitive)
        assert function is not None  # it has been looked for above
        return np.asarray(function(equation.params, *operands), _wide(equation.outputs[0].dtype))

    def values(x: np.ndarray) -> np.ndarray:
        held = {**numbers, chain.base: x}
        with np.errstate(all="ignore"):
            _evaluate(equations, held, x.shape, np, bind)
        return np.asarray(held[chain.steps[-1].output], np.float64)[None]

    return values


def _scalar(chain: Chain) -> Callable[[np.ndarray], np.ndarray] | None:
    """φ and φ' as a function of a (not too long) vector on the host, if everything known in it is one known number."""
    numbers = _numbers(chain)
    if numbers is None:
        return None

    def function(x: Any) -> Any:
        held = {**numbers, chain.base: x}
        _evaluate([step.equation for step in chain.steps], held, x.shape)
        return held[chain.steps[-1].output]

    @jax.jit  # one program to compile, not one for each operation
    def value_and_slope(x: Any) -> Any:
        value, pull = jax.vjp(function, x)
        return value, pull(jnp.ones_like(value))[0]

    def both(x: np.ndarray) -> np.ndarray:
        blocks = np.zeros(-(-x.size // BLOCK) * BLOCK)  # of one size, so that JAX compiles once
        blocks[: x.size] = x.ravel()
        found = []
        with jax.ensure_compile_time_eval():
            for block in blocks.reshape(-1, BLOCK):
                parts = value_and_slope(jnp.asarray(block, _wide(chain.base.dtype)))
                found.append([np.asarray(a, np.float64) for a in parts])
        return np.concatenate(found, axis=1)[:, : x.size].reshape(2, *x.shape)

    return both


def _wide(dtype: Any) -> Any:
    """The dtype, or float32 in place of a narrower one, in which smooth functions look like stairs."""
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32 else dtype


def _evaluate(
    equations: Sequence[Equation],
    held: dict[Atom, Any],
    shape: tuple[int, ...],
    library: Any = jnp,
    bind: Any = jx.bind,
) -> None:
    """Runs elementwise equations on vectors, by JAX or NumPy."""
    for equation in equations:
        operands = [library.broadcast_to(library.asarray(held[a], _wide(a.dtype)), shape) for a in equation.inputs]
        if equation.blocks:
            (block,) = equation.blocks
            inner = dict(zip(block.inputs, operands, strict=True))
            inner.update({a: a.value for e in block.equations for a in e.inputs if isinstance(a, Known)})
            _evaluate(block.equations, inner, shape, library, bind)
            held.update({o: inner[b] for o, b in zip(equation.outputs, block.outputs, strict=True)})
        else:
            found = bind(equation, operands)
            held.update(zip(equation.outputs, found if equation.primitive.multiple_results else [found], strict=True))
