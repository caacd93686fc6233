"""Mean field: what the units of a random network do when nobody has shown it data.

Every variable carries, position by position, a mean and a variance, pushed forwards in closed form. Weights are independent
draws of zero mean, so a contraction gives mean 0 and variance Σ w² E x² (B. Poole et al. 2016), normal at large width; a
nonlinearity gives E φ, E φ² and the gate E φ'². Terms of a sum are taken as independent: variances add, so an average over many
entries concentrates, as the statistics of a normalisation do. A maximum takes each entry of its window equally often.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

from erfjax.errors import DataDependentError
from erfjax.tracing.program.equations import Atom, Equation, Known, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments import chains
from erfjax.tracing.second_moments.kinds import (
    PRODUCTS,
    Choice,
    bilinear,
    exclusive,
    linear,
    selection,
    slope,
    sum_of,
    total,
    window_total,
)
from erfjax.tracing.second_moments.push import Activity, Gates, Weigh, dependent, elementwise, family
from erfjax.tracing.windows.cone import Cone, Step, cut

Drawn = Callable[[Equation, int], bool]
"""(equation, operand) -> whether a known operand is drawn at random with zero mean."""


@dataclasses.dataclass(frozen=True)
class State:
    """The distribution of a variable, position by position.

    Attributes:
        mean: None where it is zero by construction.
        variance: about the mean.
        concentrated: whether it hardly varies, being a sum of many terms.
    """

    mean: Any
    variance: Any
    concentrated: bool = False

    @property
    def centre(self) -> Any:
        return jnp.zeros_like(self.variance) if self.mean is None else self.mean

    @property
    def square(self) -> Any:
        """The second moment."""
        return self.variance if self.mean is None else self.variance + self.mean**2

    def cut(self, held: Any, box: Any) -> "State":
        """The state on a smaller box."""
        return State(
            None if self.mean is None else cut(self.mean, held, box), cut(self.variance, held, box), self.concentrated
        )


def expected(cone: Cone, squares: Sequence[Any], power: int, drawn: Drawn, weigh: Weigh) -> Activity:
    """The activity that inputs of zero mean and these second moments cause, over all draws of the weights.

    Raises:
        DataDependentError: the data decide what is computed.
    """
    walk = _Walk(cone, power, drawn, weigh)
    for source, window, square in zip(cone.block.inputs, cone.windows, squares, strict=True):
        if jnp.issubdtype(source.dtype, jnp.inexact):
            walk.states[source] = State(None, jnp.broadcast_to(jnp.asarray(square, source.dtype), lengths(window)))
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
        return self.walk.state(atom).centre


class _Walk:
    """States and gates, in the order of the steps; results of islands only where something asks for them."""

    def __init__(self, cone: Cone, power: int, drawn: Drawn, weigh: Weigh):
        self.cone, self.power, self.drawn, self.weigh = cone, power, drawn, weigh
        self.islands = chains.islands(cone)
        self.states: dict[Atom, State] = {}
        self.gates: dict[Atom, Gates] = {}

    def state(self, atom: Atom) -> State:
        """The state of a variable on its box."""
        if atom not in self.states:
            self.island(atom)
        return self.states[atom]

    def powered(self, state: State) -> Any:
        return state.square if self.power == 2 else state.centre

    def step(self, step: Step) -> None:
        """Notes what a step's result does, unless it is an island or no number: those are computed when asked for."""
        if step.output in self.islands or not jnp.issubdtype(step.output.dtype, jnp.inexact):
            return
        values = [self.operand(step, i) for i in range(len(step.operands))]
        if elementwise(step):
            self.states[step.output] = self.meeting(step, values)
        else:
            self.states[step.output] = self.reached(step, values)

    def operand(self, step: Step, i: int) -> Any:
        """An operand on its box: a State, a known array, the chance of a comparison, or None where the step leaves it out."""
        atom, box = step.equation.inputs[i], step.operands[i]
        if box is None:
            return None
        if isinstance(atom, Known):
            return self.cone.read({}, atom, box)
        if jnp.issubdtype(atom.dtype, jnp.inexact):
            return self.state(atom).cut(self.cone.boxes[atom], box)
        island = self.islands.get(atom)
        if family(step.equation) is exclusive and island and jnp.issubdtype(island.base.dtype, jnp.inexact):
            base = self.state(island.base)
            chance = chains.chance(self.cone, island, base.centre, base.variance)
            return cut(chance, self.cone.boxes[atom], box)
        raise _steered(step.equation)

    def island(self, atom: Atom) -> None:
        """The state of an island's result, and its gate with respect to the base."""
        whole = self.islands[atom]
        if whole.base not in self.states and whole.base not in self.islands:  # a comparison of integers
            raise _steered(whole.steps[0].equation)
        at, held = self.state(whole.base), self.cone.boxes[whole.base]
        affine, island = chains.straightened(whole)
        gain = jnp.ones_like(at.variance)
        for step in affine:
            (moving,) = dependent(step)
            at = at.cut(held, step.box)
            values = [at.centre if j == moving else self.operand(step, j) for j in range(len(step.operands))]
            by = slope(step, values, moving)
            still = at.mean is None and (len(values) == 1 or family(step.equation) is not linear)
            at = State(None if still else step.apply(values), by**2 * at.variance, at.concentrated)
            gain, held = cut(gain, held, step.box) * by, step.box
        gate = gain**self.power
        if island.steps:
            rule = chains.at_mean if at.concentrated else chains.expectations
            mean, variance, by = rule(self.cone, island, at.mean, at.variance, self.power)
            gate = cut(gate, held, island.steps[-1].box) * by
            at = State(mean, variance, at.concentrated)
        self.states[atom] = at
        self.gates[atom] = [(whole.base, gate)]

    def meeting(self, step: Step, values: list[Any]) -> State:
        """An elementwise operation on several independent variables."""
        means = [v.centre if isinstance(v, State) else v for v in values]
        kind = family(step.equation)
        if kind is exclusive and isinstance(step.equation.inputs[0], Var):
            return self.chosen(step, values, means)
        by = {i: slope(step, means, i) for i in dependent(step)}
        if kind in PRODUCTS:
            sizes = [jnp.sqrt(v.square) if isinstance(v, State) else v for v in values]
            by = {i: slope(step, sizes if self.power == 2 else means, i) for i in by}
        self.gates[step.output] = self.gated(step, {i: slopes**self.power for i, slopes in by.items()})
        mean = step.apply(means)
        still = kind in PRODUCTS and any(v.mean is None for v in values if isinstance(v, State))
        still = still or (kind is linear and all(isinstance(v, State) and v.mean is None for v in values))
        if kind in PRODUCTS or kind is exclusive:
            variance = jnp.maximum(step.apply([_squared(v) for v in values]) - mean**2, 0)
        else:
            variance = sum_of(slopes**2 * values[i].variance for i, slopes in by.items())
        concentrated = all(v.concentrated for v in values if isinstance(v, State))
        return State(None if still else mean, variance, concentrated)

    def chosen(self, step: Step, values: list[Any], means: list[Any]) -> State:
        """One of two operands, chosen by a comparison of other variables: a mixture."""
        chance, *cases = values
        shares = {1: 1 - chance, 2: chance}
        self.gates[step.output] = self.gated(step, {i: shares[i] for i in dependent(step)})
        mean = sum_of(shares[i] * means[i] for i in shares)
        square = sum_of(share * _squared(values[i]) for i, share in shares.items())
        still = all(v.mean is None for v in cases if isinstance(v, State)) and all(isinstance(v, State) for v in cases)
        return State(None if still else mean, jnp.maximum(square - mean**2, 0))

    def gated(self, step: Step, gains: dict[int, Any]) -> Gates:
        """The gates of a result with respect to the roots of its operands, from those with respect to the operands."""
        gates: dict[Atom, Any] = {}
        for i, gain in gains.items():
            atom, box = step.equation.inputs[i], step.operands[i] or ()
            self.state(atom)  # its gates, if it is an island
            for root, gate in self.gates.get(atom, [(atom, None)]) if atom in self.islands else [(atom, None)]:
                whole = gain if gate is None else gain * cut(gate, self.cone.boxes[atom], box)
                gates[root] = gates[root] + whole if root in gates else whole
        return list(gates.items())

    def reached(self, step: Step, values: list[Any]) -> State:
        """Everything that is not elementwise."""
        kind, states = family(step.equation), [v for v in values if isinstance(v, State)]
        if kind is bilinear:
            return self.contraction(step, values)
        if isinstance(kind, Choice):
            return self.extremum(step, kind, states)
        if kind not in (selection, total, window_total):
            raise DataDependentError(f'Mean field has no rule for {step.equation}: use gates="data".')
        means = [v.centre if isinstance(v, State) else v for v in values]
        still = all(v.mean is None for v in states) and not any(
            isinstance(a, Known) and jnp.issubdtype(a.dtype, jnp.inexact) for a in step.equation.inputs
        )
        spread = [v.variance if isinstance(v, State) else _nothing(v) for v in values]
        concentrated = kind is total or all(v.concentrated for v in states)
        return State(None if still else step.apply(means), step.apply(spread), concentrated)

    def contraction(self, step: Step, values: list[Any]) -> State:
        """Σ w x: random weights leave no mean; fixed ones, or other variables, pass it on."""
        if all(isinstance(v, State) for v in values):
            one, two = values
            mean = step.apply([one.centre, two.centre])
            square = step.apply([one.square, two.square]) - step.apply([one.centre**2, two.centre**2])
            return State(None if one.mean is None or two.mean is None else mean, square)
        (i,) = (k for k, v in enumerate(values) if isinstance(v, State))
        state, weight = values[i], values[1 - i]
        random = self.drawn(step.equation, 1 - i)
        squares = self.weigh(step.equation, 1 - i, weight) if self.power == 2 else weight**2
        operands = [state.square if random else state.variance, squares]
        variance = step.apply(operands if i == 0 else operands[::-1])
        if random or state.mean is None:
            return State(None, variance)
        return State(step.apply([state.mean, weight] if i == 0 else [weight, state.mean]), variance)

    def extremum(self, step: Step, kind: Choice, states: list[State]) -> State:
        """The greatest of K independent normal entries."""
        if kind.evenly is None or len(states) != 1:
            raise DataDependentError(f'Mean field has no rule for {step.equation}: use gates="data".')
        (state,) = states
        mean, count = kind.evenly(step, state.centre)
        variance, _ = kind.evenly(step, state.variance)
        number = jnp.log(jnp.asarray(count, variance.dtype))
        counts, means, variances = (a.astype(variance.dtype) for a in order_statistics())
        shift = jnp.interp(number, counts, means) * jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))
        return State(mean + kind.sign * shift, jnp.interp(number, counts, variances) * variance)


def _steered(equation: Equation) -> DataDependentError:
    return DataDependentError(f'{equation} is steered by the data, which mean field does not have: use gates="data".')


def _squared(value: Any) -> Any:
    """What a product or a choice makes second moments of."""
    if isinstance(value, State):
        return value.square
    return value**2 if jnp.issubdtype(value.dtype, jnp.inexact) else value


def _nothing(value: Any) -> Any:
    """A known operand has no variance; indices stay what they are."""
    return jnp.zeros_like(value) if value is not None and jnp.issubdtype(value.dtype, jnp.inexact) else value


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
    density, below = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), special.ndtr(x)
    mass = counts[:, None] * density * below ** (counts[:, None] - 1) * (x[1] - x[0])
    means = (mass * x).sum(axis=1)
    return np.log(counts), means, (mass * x**2).sum(axis=1) - means**2
