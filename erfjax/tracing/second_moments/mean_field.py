"""Mean field: what the units of a random network do when nobody has shown it data.

Every variable carries, position by position, a mean and a variance, pushed forwards in closed form. Weights are independent
draws of zero mean, so a contraction gives mean 0 and variance Σ w² E x² (B. Poole et al. 2016), normal at large width; a
nonlinearity gives E φ, E φ² and the gate E φ'². Terms of a sum are taken as independent: variances add, so an average over many
entries concentrates, as the statistics of a normalisation do. A maximum takes each entry of its window equally often.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax

from erfjax.errors import DataDependentError
from erfjax.tracing.program.equations import Atom, Equation, Known, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments import chains, scaled
from erfjax.tracing.second_moments.activity import Activity, Gates, IsRandom, Weigh
from erfjax.tracing.second_moments.kinds import PRODUCTS, Choice, Kind
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.second_moments.steps import applied, dependent, elementwise, kind_of, precision, slope
from erfjax.tracing.windows.cone import Cone, Step, cut


@dataclasses.dataclass(frozen=True)
class State:
    """The distribution of a variable, position by position.

    Attributes:
        mean: None where it is zero by construction.
        variance: about the mean.
        concentrated: whether it hardly varies, being a sum of many terms.
    """

    mean: Scaled | None
    variance: Scaled
    concentrated: bool = False

    @property
    def centre(self) -> Scaled:
        return Scaled.of(jnp.zeros_like(self.variance.digits)) if self.mean is None else self.mean

    @property
    def square(self) -> Scaled:
        """The second moment."""
        return self.variance if self.mean is None else self.variance + self.mean.power(2)

    def computed_once(self) -> "State":
        """The same, which the compiler does not compute anew in every kernel that reads it."""
        mean = None if self.mean is None else self.mean.linear(lax.optimization_barrier)
        return State(mean, self.variance.linear(lax.optimization_barrier), self.concentrated)

    def cut(self, held: Any, box: Any) -> "State":
        """The state on a smaller box."""
        mean = None if self.mean is None else self.mean.linear(lambda a: cut(a, held, box))
        return State(mean, self.variance.linear(lambda a: cut(a, held, box)), self.concentrated)


def expected(cone: Cone, squares: Sequence[Any], power: int, is_random: IsRandom, weigh: Weigh) -> Activity:
    """The activity that inputs of zero mean and these second moments cause, over all draws of the weights.

    Raises:
        DataDependentError: the data decide what is computed.
    """
    walk = _Walk(cone, power, is_random, weigh)
    for source, window, square in zip(cone.block.inputs, cone.windows, squares, strict=True):
        if jnp.issubdtype(source.dtype, jnp.inexact):
            whole = jnp.broadcast_to(jnp.asarray(square, walk.dtype), lengths(window))
            walk.states[source] = State(None, Scaled.of(whole))
    for step in cone.steps:
        walk.step(step)
    for output in cone.wanted:
        walk.state(output)
    return Activity(_Means(walk), walk.gates, lambda atom: walk.powered(walk.state(atom)), evenly=True)


class _Means(dict[Atom, Any]):
    """The means of variables, computed when asked for."""

    def __init__(self, walk: "_Walk"):
        super().__init__()
        self.walk = walk

    def __missing__(self, atom: Atom) -> Any:
        return self.walk.state(atom).centre.restored()


class _Walk:
    """States and gates, in the order of the steps; results of chains only where something asks for them."""

    def __init__(self, cone: Cone, power: int, is_random: IsRandom, weigh: Weigh):
        self.cone, self.power, self.is_random, self.weigh = cone, power, is_random, weigh
        self.chains, self.dtype = chains.chains(cone), precision(cone)
        self.states: dict[Atom, State] = {}
        self.gates: dict[Atom, Gates] = {}

    def state(self, atom: Atom) -> State:
        """The state of a variable on its box."""
        if atom not in self.states:
            self.chain(atom)
        return self.states[atom]

    def powered(self, state: State) -> Scaled:
        return state.square if self.power == 2 else state.centre

    def step(self, step: Step) -> None:
        """Notes what a step's result does, unless it is a chain or no number: those are computed when asked for."""
        if step.output in self.chains or not jnp.issubdtype(step.output.dtype, jnp.inexact):
            return
        values = [self.operand(step, i) for i in range(len(step.operands))]
        rule = self.meeting if elementwise(step) else self.reached
        self.states[step.output] = rule(step, values).computed_once()

    def operand(self, step: Step, i: int) -> Any:
        """An operand on its box: a State, a known array, the chance of a comparison, or None where the step leaves it out."""
        atom, box = step.equation.inputs[i], step.operands[i]
        if box is None:
            return None
        if isinstance(atom, Known):
            return step.own(i, self.cone.read({}, atom, box))
        if jnp.issubdtype(atom.dtype, jnp.inexact):
            return self.state(atom).cut(self.cone.boxes[atom], box)
        chain = self.chains.get(atom)
        if kind_of(step.equation) is Kind.EXCLUSIVE and chain and jnp.issubdtype(chain.base.dtype, jnp.inexact):
            base = self.state(chain.base)
            chance = chains.chance(self.cone, chain, base.centre, base.variance)
            return cut(chance, self.cone.boxes[atom], box)
        raise _steered(step.equation)

    def scaled(self, value: Any) -> Scaled:
        """A known number as an array of the walk."""
        return Scaled.of(jnp.asarray(value)).astype(self.dtype)

    def moments_of(self, values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The means and the second moments of operands: Scaled for variables and known numbers, as they are for all else."""

        def both(value: Any) -> tuple[Any, Any]:
            if isinstance(value, State):
                return value.centre, value.square
            if value is None or not jnp.issubdtype(value.dtype, jnp.inexact):
                return value, value
            return self.scaled(value), self.scaled(value).power(2)

        means, squares = zip(*map(both, values), strict=True)
        return list(means), list(squares)

    def linear(self, step: Step, operands: Sequence[Any]) -> Scaled:
        """The step, linear in its Scaled operands together."""
        places = [i for i, operand in enumerate(operands) if isinstance(operand, Scaled)]
        digits, exponent = scaled.aligned([operands[i] for i in places])
        held = list(operands)
        for i, array in zip(places, digits, strict=True):
            held[i] = array
        return Scaled.of(applied(step, held, self.dtype), exponent)

    def product(self, step: Step, operands: Sequence[Scaled]) -> Scaled:
        """A product, quotient or contraction of two Scaled operands."""
        one, two = operands
        sign = -1 if kind_of(step.equation) is Kind.QUOTIENT else 1
        return Scaled.of(applied(step, [one.digits, two.digits], self.dtype), one.exponent + sign * two.exponent)

    def chain(self, atom: Atom) -> None:
        """The state of a chain's result, and its gate with respect to the base."""
        whole = self.chains[atom]
        if whole.base not in self.states and whole.base not in self.chains:  # a comparison of integers
            raise _steered(whole.steps[0].equation)
        at, held = self.state(whole.base), self.cone.boxes[whole.base]
        affine, rest = chains.straightened(whole)
        gain = self.scaled(jnp.ones_like(at.variance.digits))
        for step in affine:
            at, by = self.moved(step, at.cut(held, step.box))
            gain, held = gain.linear(functools.partial(cut, held=held, wanted=step.box)) * by, step.box
        gate = gain.power(self.power)
        if rest.steps:
            rule = chains.at_mean if at.concentrated else chains.expectations
            mean, variance, by = rule(self.cone, rest, at.mean, at.variance, self.power)
            gate = gate.linear(lambda a: cut(a, held, rest.steps[-1].box)) * by.astype(self.dtype)
            at = State(mean.astype(self.dtype), variance.astype(self.dtype), at.concentrated)
        self.states[atom] = at.computed_once()
        self.gates[atom] = [(whole.base, rest.steps[-1].box if rest.steps else held, gate)]

    def moved(self, step: Step, at: State) -> tuple[State, Scaled]:
        """A state behind an affine step of one variable, and the slope of that step."""
        (moving,) = dependent(step)
        zero = jnp.zeros(at.variance.shape, step.equation.inputs[moving].dtype)
        values = [zero if j == moving else self.operand(step, j) for j in range(len(step.operands))]
        by, still = self.scaled(slope(step, values, moving)), at.mean is None
        if still and (len(values) == 1 or kind_of(step.equation) is not Kind.LINEAR):
            return State(None, by.power(2) * at.variance, at.concentrated), by
        return State(by * at.centre + self.scaled(step.apply(values)), by.power(2) * at.variance, at.concentrated), by

    def meeting(self, step: Step, values: list[Any]) -> State:
        """An elementwise operation on several independent variables."""
        kind, operands = kind_of(step.equation), dependent(step)
        if kind is Kind.EXCLUSIVE and isinstance(step.equation.inputs[0], Var):
            return self.chosen(step, values)
        means, squares = self.moments_of(values)
        states = [v for v in values if isinstance(v, State)]
        points = [v.restored() if isinstance(v, Scaled) else v for v in means]
        if kind in PRODUCTS:
            powered = squares if self.power == 2 else means
            by = {i: self.partial_product(step, powered, i) for i in operands}
        else:
            by = {i: self.scaled(slope(step, points, i)).power(self.power) for i in operands}
        self.gated(step, by)
        if kind in PRODUCTS:
            mean, square = self.product(step, means), self.product(step, squares)
            still = any(v.mean is None for v in states)
        elif kind is Kind.EXCLUSIVE:
            mean, square, still = self.linear(step, means), self.linear(step, squares), False
        else:
            mean = self.linear(step, means) if kind is Kind.LINEAR else self.scaled(applied(step, points, self.dtype))
            still = kind is Kind.LINEAR and all(isinstance(v, State) and v.mean is None for v in values)
            slopes = by if self.power == 2 else {i: self.scaled(slope(step, points, i)).power(2) for i in operands}
            spread = scaled.total([slopes[i] * values[i].variance for i in operands])
            square = spread + mean.power(2)
        return State(None if still else mean, _positive(square - mean.power(2)), all(v.concentrated for v in states))

    def partial_product(self, step: Step, powered: Sequence[Scaled], i: int) -> Scaled:
        """The power of ∂(product)/∂(operand i), from the powers of the operands: the partner, or for a divisor b of a/b a/b²."""
        one, two = powered
        if kind_of(step.equation) is Kind.SCALED:
            return powered[1 - i]
        unit = self.scaled(jnp.ones_like(two.digits))
        return unit / two if i == 0 else one / two.power(2) * (unit if self.power == 2 else unit.linear(jnp.negative))

    def chosen(self, step: Step, values: list[Any]) -> State:
        """One of two operands, chosen by a comparison of other variables: a mixture."""
        chance, *cases = values
        shares = [self.scaled(1 - chance), self.scaled(chance)]
        self.gated(step, {i: shares[i - 1] for i in dependent(step)})
        mean, square = (
            scaled.total([share * m for share, m in zip(shares, moments, strict=True)])
            for moments in self.moments_of(cases)
        )
        still = all(isinstance(v, State) and v.mean is None for v in cases)
        return State(None if still else mean, _positive(square - mean.power(2)))

    def gated(self, step: Step, gains: dict[int, Scaled]) -> None:
        """Notes the gates of a result with respect to the bases of its operands, from those with respect to the operands."""
        gates: dict[Atom, tuple[Any, Scaled]] = {}
        for i, gain in gains.items():
            atom, box = step.equation.inputs[i], step.operands[i] or ()
            self.state(atom)  # its gates, if it is a chain
            if atom in self.chains and atom.shape == step.output.shape:
                ((base, held, gate),) = self.gates[atom]
                gain = gain * gate.linear(functools.partial(cut, held=held, wanted=box))
            else:
                base = atom
            gates[base] = (box, gates[base][1] + gain if base in gates else gain)
        self.gates[step.output] = [(base, box, gain) for base, (box, gain) in gates.items()]

    def reached(self, step: Step, values: list[Any]) -> State:
        """Everything that is not elementwise."""
        kind, states = kind_of(step.equation), [v for v in values if isinstance(v, State)]
        if kind is Kind.BILINEAR:
            return self.contraction(step, values)
        if isinstance(kind, Choice):
            return self.extremum(step, kind, states)
        means, _ = self.moments_of(values)
        spread = [v.variance if isinstance(v, State) else self.nothing(v) for v in values]
        added = (isinstance(a, Known) and jnp.issubdtype(a.dtype, jnp.inexact) for a in step.equation.inputs)
        still = all(v.mean is None for v in states) and not any(added)
        concentrated = kind is Kind.TOTAL or all(v.concentrated for v in states)
        return State(None if still else self.linear(step, means), self.linear(step, spread), concentrated)

    def nothing(self, value: Any) -> Any:
        """A known operand has no variance; indices stay what they are."""
        known = value is None or not jnp.issubdtype(value.dtype, jnp.inexact)
        return value if known else self.scaled(jnp.zeros_like(value))

    def contraction(self, step: Step, values: list[Any]) -> State:
        """Σ w x: random weights leave no mean; fixed ones, or other variables, pass it on."""
        if all(isinstance(v, State) for v in values):
            means, squares = self.moments_of(values)
            still = any(v.mean is None for v in values)
            square = self.product(step, squares) - self.product(step, [mean.power(2) for mean in means])
            return State(None if still else self.product(step, means), square)
        (i,) = (k for k, v in enumerate(values) if isinstance(v, State))
        state, weight, random = values[i], values[1 - i], self.is_random(step.equation, 1 - i)

        def contract(x: Scaled, weights: Scaled) -> Scaled:
            weights = weights.astype(self.dtype)
            return self.product(step, [x, weights] if i == 0 else [weights, x])

        raised = self.weigh(step.equation, 1 - i, weight) if self.power == 2 else self.scaled(weight).power(2)
        variance = contract(state.square if random else state.variance, raised)
        still = random or state.mean is None
        return State(None if still else contract(state.mean, self.scaled(weight)), variance)

    def extremum(self, step: Step, kind: Choice, states: list[State]) -> State:
        """The greatest of K independent normal entries."""
        if kind.evenly is None or len(states) != 1:
            raise DataDependentError(f'Mean field has no rule for {step.equation}: use gates="data".')
        (state,), evenly = states, kind.evenly
        mean, variance = (part.linear(lambda a: evenly(step, a)[0]) for part in (state.centre, state.variance))
        at, (counts, means, variances) = np.log(evenly(step, state.variance.digits)[1]), order_statistics()

        def read(table: np.ndarray) -> Scaled:
            found = jnp.asarray(np.interp(at, counts, table), self.dtype)
            return self.scaled(jnp.broadcast_to(found, mean.shape))

        shift, share = read(kind.sign * means), read(variances)
        return State(mean + shift * variance.root(), share * variance)


def _positive(variance: Scaled) -> Scaled:
    return variance.linear(lambda a: jnp.maximum(a, 0))


def _steered(equation: Equation) -> DataDependentError:
    return DataDependentError(f'{equation} is steered by the data, which mean field does not have: use gates="data".')


@functools.cache
def order_statistics() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log K, and the mean and variance of the greatest of K independent standard normal numbers.

    Example:
        >>> import numpy as np
        >>> from erfjax.tracing.second_moments.mean_field import order_statistics
        >>> counts, means, variances = order_statistics()
        >>> means[1].round(6) == round(1 / np.sqrt(np.pi), 6), variances[1].round(4)
        (np.True_, np.float64(0.6817))
    """
    counts = np.concatenate([np.arange(1.0, 65.0), np.geomspace(65.0, 2.0**24, 200)])
    x = np.linspace(-9.0, 9.0, 8001)
    density, below = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), scipy.special.ndtr(x)
    mass = counts[:, None] * density * below ** (counts[:, None] - 1) * (x[1] - x[0])
    means = (mass * x).sum(axis=1)
    return np.log(counts), means, (mass * x**2).sum(axis=1) - means**2
