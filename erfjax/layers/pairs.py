"""Expected gradients of a plan on a finite image, from pairs of positions: K(i, i') = E[g_i g_i'], summed over channels.

The polynomials of `second_moments` say what all units see alike. Behind an upsampling or an attention units see differently,
so here
K is a matrix over all pairs of pixels, padding is cut where it stands, and fixed maps act on both sides. Backwards,

    random layer, variance v     K(i, i') → Σ_a v(a) K(i + a, i' + a): one tap meets both positions
    fixed map M                  K → Mᵀ K M: averages, filters, zeros between pixels, resizing, uniform attention
    gate                         K(i, i') → K(i, i') E[φ'(z_i) φ'(z_i')]
    normalisation                K(i, i') → K(i, i') r_i r_i' (1 - (1 - 3ρ²) / 2d), r = 1/std, ρ the correlation, d channels
    branches                     Σ_b K_b + Σ_{b≠c} M_bᵀ K M_c, M the mean of each branch's Jacobian: zero behind random weights

Gates and normalisations read the covariance of positions, which the same rules carry forwards from an input of independent
pixels:
S → Σ_a v(a) S(i + a, i' + a), M S Mᵀ, E[φ(z_i) φ(z_i')] and so on.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from erfjax.errors import StackError
from erfjax.layers import gates
from erfjax.layers.operations import Attend, Insert, Normalise, Resize
from erfjax.layers.plan import (
    Drop,
    Fixed,
    Gain,
    Gate,
    Maximum,
    Parallel,
    Plan,
    Series,
    Shape,
    Sliding,
    Weighted,
    backwards,
    output_shape,
)
from erfjax.layers.signals import NORMALISED, Signals

MOST = 2500  # positions of an image: a matrix of all pairs takes 50 MB then
UNIFORM = (
    "attention weights are taken as uniform over what the mask leaves, the limit of small scores (exact for scale=0)"
)
PAIRS = "gates of two positions go together as for images of independent pixels of zero mean and equal variance"
LEFT_OUT = 'what summed channels have in common is left out (channels="random-signs" has none of it)'
EVENLY = "every pixel of a window is taken to be the maximum equally often"

Matrix = np.ndarray


class Signal(NamedTuple):
    """The second moments of a channel at all pairs of positions, and its mean over channels at each."""

    second: Matrix
    mean: np.ndarray


@dataclasses.dataclass
class Pairs:
    """The walks over a plan on an image, forwards once and backwards for every unit.

    Attributes:
        plan, shape: the plan and the spatial shape of its input.
        signals: what is assumed, and whether any weight is random.
        slopes: E φ' of every gate and E φ'(z) φ'(z') of its pairs.
        scales: of every normalisation: 1/std of every position, and its effect on pairs.
    """

    plan: Plan
    shape: Shape
    signals: Signals
    slopes: dict[int, tuple[np.ndarray, Matrix]] = dataclasses.field(default_factory=dict)
    scales: dict[int, tuple[np.ndarray, Matrix]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, shape: Shape) -> "Pairs":
        """The forward walk, of an input of independent pixels of unit second moment.

        Raises:
            StackError: the image has too many positions.
        """
        n = int(np.prod(shape))
        if n > MOST:
            raise StackError(
                f"The units of this stack see differently, so that its closed form goes over pairs of "
                f"positions: at most {MOST} of "
                f"them, but the image {shape} has {n}. Give a smaller `image_shape`, or ask `erfjax.analytic` about its network."
            )
        pairs = cls(plan, shape, Signals.unread(plan))
        pairs._forwards(plan, Signal(np.eye(n), np.zeros(n)), shape)
        return pairs

    def square(self, unit: Shape, summed: bool) -> Matrix | None:
        """The map of E[g²] of one output channel's unit, summed over input channels; None is zero."""
        found = self._pull(self.plan, np.outer(*[self._unit(unit)] * 2), self.shape, summed)
        return None if found is None else np.diagonal(found).reshape(self.shape)

    def mean(self, unit: Shape) -> Matrix | None:
        """The map of E[g]; None is zero."""
        found = self._mean(self.plan, self.shape)
        return None if found is None else (self._unit(unit) @ found).reshape(self.shape)

    def _unit(self, unit: Shape) -> np.ndarray:
        result = np.zeros(output_shape(self.plan, self.shape))
        result[unit] = 1
        return result.ravel()

    def _forwards(self, plan: Plan, x: Signal, shape: Shape) -> Signal:
        match plan:
            case Series():
                for part, before in backwards(plan, shape)[::-1]:
                    x = self._forwards(part, x, before)
                return x
            case Parallel():
                each = [self._forwards(part, x, shape) for part in plan.parts]
                second = sum(signal.second for signal in each)
                for a, b in itertools.permutations([self._mean(part, shape) for part in plan.parts], 2):
                    if a is not None and b is not None:
                        second = second + a @ x.second @ b.T
                return Signal(second, sum(signal.mean for signal in each))  # type: ignore[arg-type]
            case Weighted():
                mean, variance, exact = plan.moments()
                if not exact:
                    self.signals.approximate["the variance profile of the initialiser was estimated from draws"] = None
                size = int(np.prod(plan.output(shape)))
                second = np.zeros((size, size))
                for tap, units, pixels in _taps(plan, shape):
                    if variance[tap]:
                        second[np.ix_(units, units)] += variance[tap] * x.second[np.ix_(pixels, pixels)]
                found = _window(plan, mean, shape)
                return Signal(second + found @ x.second @ found.T, found @ x.mean)
            case Maximum():
                found = _evenly(plan, shape)
                second = found @ x.second @ found.T
                before = found @ np.diagonal(x.second)
                root = np.sqrt(before / np.maximum(np.diagonal(second), 1e-300))
                return Signal(second * np.outer(root, root), found @ x.mean)
            case Drop():
                return x._replace(second=_scale_diagonal(x.second, 1 / (1 - plan.rate)))
            case Gain():
                return Signal(x.second * plan.factor**2, x.mean * plan.factor)
            case Normalise():
                return self._normalise(plan, x)
            case Gate():
                return self._gate(plan, x)
            case Attend():
                if plan.scale:
                    self.signals.assume(plan, UNIFORM)
                found, (first, square) = plan.matrix(shape), _matrices(plan)
                return Signal(square * found @ x.second @ found.T, first * found @ x.mean)
        found = _fixed(plan, shape)
        return Signal(found @ x.second @ found.T, found @ x.mean)

    def _normalise(self, norm: Normalise, x: Signal) -> Signal:
        self.signals.assume(norm, NORMALISED)
        second = x.second - np.outer(x.mean, x.mean) if norm.kind == "layer" else x.second
        size = np.diagonal(second)
        if (size <= 1e-12 * np.diagonal(x.second)).any():
            raise StackError(f"{norm.label} divides by zero: all channels in front of it are the same, or zero.")
        r = 1 / np.sqrt(size)
        both = np.outer(r, r)
        correlation = second * both
        self.scales[id(norm)] = r, both * (1 - (1 - 3 * correlation**2) / (2 * norm.channels))
        return Signal(correlation, np.zeros(len(r)) if norm.kind == "layer" else x.mean * r)

    def _gate(self, gate: Gate, x: Signal) -> Signal:
        self.signals.gate(gate)
        found = gates.pairs(gate.function, x.second)
        slope, slopes = found.slope, found.slopes
        if not self.signals.random:
            straight = gates.slopes(gate.function)
            slope = slope if straight is None else np.full(len(slope), straight.right)
            slopes = np.outer(slope, slope)
        self.slopes[id(gate)] = slope, slopes
        return Signal(found.values, found.value)

    def _mean(self, plan: Plan, shape: Shape) -> Matrix | None:
        """The mean of the Jacobian of a plan, units x pixels; None is zero."""
        match plan:
            case Series():
                result = np.eye(int(np.prod(shape)))
                for part, before in backwards(plan, shape)[::-1]:
                    found = self._mean(part, before)
                    if found is None:
                        return None
                    result = found @ result
                return result
            case Parallel():
                each = [found for part in plan.parts if (found := self._mean(part, shape)) is not None]
                return sum(each[1:], start=each[0]) if each else None
            case Weighted():
                mean = plan.moments()[0]
                return _window(plan, mean, shape) if mean.any() else None
            case Maximum():
                return _evenly(plan, shape)
            case Gate():
                return np.diag(self.slopes[id(plan)][0])
            case Gain():
                return plan.factor * np.eye(int(np.prod(shape)))
            case Normalise():
                return np.diag(self.scales[id(plan)][0])
            case Attend():
                first = _matrices(plan)[0]
                return first * plan.matrix(shape) if first else None
        return _fixed(plan, shape)

    def _pull(self, plan: Plan, k: Matrix, shape: Shape, summed: bool) -> Matrix | None:
        """K at the input of a plan for that at its output; `summed`: all channels have it together, so far."""
        match plan:
            case Series():
                result: Matrix | None = k
                for part, before in backwards(plan, shape):
                    if result is None:
                        return None
                    result = self._pull(part, result, before, summed)
                    summed = summed and not _draws(part)
                return result
            case Parallel():
                found = [self._pull(part, k, shape, summed) for part in plan.parts]
                each = [one for one in found if one is not None]
                for a, b in itertools.permutations([self._mean(part, shape) for part in plan.parts], 2):
                    if a is not None and b is not None:
                        each.append(a.T @ k @ b)
                return sum(each[1:], start=each[0]) if each else None
            case Weighted():
                mean, variance, _ = plan.moments()
                found_ = _window(plan, mean, shape)
                result = found_.T @ k @ found_ if mean.any() else np.zeros((found_.shape[1],) * 2)
                for tap, units, pixels in _taps(plan, shape):
                    if variance[tap]:
                        result[np.ix_(pixels, pixels)] += variance[tap] * k[np.ix_(units, units)]
                return result
            case Maximum():
                self.signals.assume(plan, EVENLY)
                taps, alone = _evenly(plan, shape), np.diagonal(k)
                return taps.T @ (k - np.diag(alone)) @ taps + np.diag(taps.T @ alone)
            case Drop():
                return _scale_diagonal(k, 1 / (1 - plan.rate))
            case Gain():
                return plan.factor**2 * k
            case Normalise():
                return None if summed and plan.kind == "layer" else k * self.scales[id(plan)][1]
            case Gate():
                slope, slopes = self.slopes[id(plan)]
                if summed and not np.allclose(slopes, np.outer(slope, slope)):
                    self.signals.assume(plan, LEFT_OUT)
                if self.signals.random and np.count_nonzero(k) > np.count_nonzero(np.diagonal(k)):
                    self.signals.assume(plan, PAIRS)
                return k * slopes
            case Attend():
                found_ = plan.matrix(shape)
                return _matrices(plan)[1] * found_.T @ k @ found_
        found_ = _fixed(plan, shape)
        return found_.T @ k @ found_


def _draws(plan: Plan) -> bool:
    """Whether all paths through a part meet random weights."""
    if isinstance(plan, Series):
        return any(map(_draws, plan.parts))
    if isinstance(plan, Parallel):
        return all(map(_draws, plan.parts))
    return isinstance(plan, Weighted | Attend)


def _matrices(plan: Attend) -> tuple[float, float]:
    """The mean and the second moment of values and outputs, times the channels that they read."""
    mean, square = 1.0, 1.0
    for kernel in plan.kernels[:2]:
        first, second, _ = kernel.moments()
        mean, square = mean * float(first.sum()), square * float(second.sum() + first.sum() ** 2)
    return mean, square


def _fixed(plan: Any, shape: Shape) -> Matrix:
    """What an operation without random weights does to positions, units x pixels."""
    if isinstance(plan, Fixed):
        return _window(plan, plan.weights, shape)
    assert isinstance(plan, Insert | Resize), plan
    return plan.matrix(shape)


def _window(plan: Sliding, weights: np.ndarray, shape: Shape) -> Matrix:
    """The matrix of a window with these weights, units x pixels."""
    result = np.zeros((int(np.prod(plan.output(shape))), int(np.prod(shape))))
    for tap, units, pixels in _taps(plan, shape):
        result[units, pixels] += weights[tap]
    return result


def _evenly(plan: Maximum, shape: Shape) -> Matrix:
    """The matrix that averages the pixels of each window, without the padding."""
    found = _window(plan, np.ones(plan.kernel), shape)
    return found / np.maximum(found.sum(axis=1, keepdims=True), 1)


def _taps(plan: Sliding, shape: Shape) -> Iterator[tuple[Shape, np.ndarray, np.ndarray]]:
    """Every tap of a window with the units that it serves and the pixels that these read there, as flat indices."""
    windows, output = plan.windows(shape), plan.output(shape)
    for tap in itertools.product(*(range(w.kernel) for w in windows)):
        units, pixels = [], []
        for t, w, n, m in zip(tap, windows, shape, output, strict=True):
            read = np.arange(m) * w.stride + t * w.dilation - w.padding_low
            held = np.flatnonzero((read >= 0) & (read < n))
            units.append(held)
            pixels.append(read[held])
        yield tap, _flat(units, output), _flat(pixels, shape)


def _flat(index: list[np.ndarray], shape: Shape) -> np.ndarray:
    return np.ravel_multi_index(np.meshgrid(*index, indexing="ij"), shape).ravel()


def _scale_diagonal(k: Matrix, factor: float) -> Matrix:
    return k + (factor - 1) * np.diag(np.diagonal(k))
