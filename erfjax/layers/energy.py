"""Expected gradients of a plan: E[g] as a polynomial, and E[g²] as a sum of words.

Walking from the output to the input, the gradient of one unit is a sum over *words*: a choice of one weight in every random
layer on a path. Words of different weights are uncorrelated, and within one word all that is fixed (averages, given
kernels, identities) interferes. So a class of words is a pair (D, V): an amplitude D(z), fixed and signed, and a density
V(z) >= 0 of the weights' positions, and

    E[g²] = Σ_words V * D²,   with one class without weights, V = 1.

    random layer, variance v     (D, V) → (D, v V)          fixed kernel w      (D, V) → (w D, V)
    gate: mean m, second s       (D, V) → (m D, V) and (1, (s - m²) V * D²): the noise of every pixel for itself
    branches                     amplitudes add within a class; classes of different branches stay apart
    stride s                     z → z^s in both

Amplitudes are normalised, so classes with equal D merge: an ordinary random network is a single (1, V).
"""

import dataclasses
import math
from typing import Any

import numpy as np

from erfjax.layers import gates
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
    Weighted,
    backwards,
    steps,
)
from erfjax.layers.polynomials import Dense, Jet, total

Polynomial = Any  # Dense or Jet
Word = tuple[Dense, Polynomial]
Ring = type[Dense] | type[Jet]


@dataclasses.dataclass
class Walk:
    """What a walk knows beside the plan: the statistics of the gates, and, collected on the way, why a result is approximate."""

    gates: dict[int, gates.Moments]
    random: bool  # whether any weight is: if not, gates are constants
    approximate: dict[str, None] = dataclasses.field(default_factory=dict)
    notes: dict[str, None] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> "Walk":
        """The walk of a plan, its gates under mean field: a normal input of unit second moment."""
        walk = cls({}, any(isinstance(step, Weighted) and step.moments()[1].any() for step in steps(plan)))
        walk._signal(plan, 1.0)
        return walk

    def _signal(self, plan: Plan, q: float) -> float:
        """The second moment of the output for that of the input; notes the moments of every gate."""
        match plan:
            case Series():
                for part in plan.parts:
                    q = self._signal(part, q)
            case Parallel():
                return sum(self._signal(part, q) for part in plan.parts)
            case Weighted():
                mean, variance, exact = plan.moments()
                if not exact:
                    self.approximate["the variance profile of the initialiser was estimated from draws"] = None
                return q * (float(variance.sum()) + float(mean.sum()) ** 2)
            case Fixed():
                return q * float(plan.weights.sum()) ** 2
            case Drop():
                return q / (1 - plan.rate)
            case Gain():
                return q * plan.factor**2
            case Gate():
                return self._gate(plan, q)
        return q

    def _gate(self, gate: Gate, q: float) -> float:
        found = gates.moments(gate.function, q)
        slopes = gates.slopes(gate.function)
        if slopes is None:
            self.approximate[f"{gate.label}: mean field, for an input of unit second moment and infinite width"] = None
        if self.random:
            self.notes[f"{gate.label}: gates are taken as independent of the weights, as at infinite width"] = None
        else:
            open_ = slopes.right if slopes is not None else found.mean
            found = found._replace(mean=open_, square=open_**2)
            self.notes[f"{gate.label}: without random weights gates are constant, as for positive activations"] = None
        self.gates[id(gate)] = found
        return found.signal

    def mean(self, plan: Plan, p: Polynomial, shape: Shape) -> Polynomial | None:
        """E[g] at the input of a plan for the field p at its output; None is zero."""
        match plan:
            case Series():
                for part, before in backwards(plan, shape):
                    p = self.mean(part, p, before)
                    if p is None:
                        return None
                return p
            case Parallel():
                found = [self.mean(part, p, shape) for part in plan.parts]
                return total(q for q in found if q is not None)
            case Weighted():
                taps = plan.moments()[0]
                return _slide(plan, taps, p, shape) if taps.any() else None
            case Fixed():
                return _slide(plan, plan.weights, p, shape)
            case Maximum():
                self.approximate[f"{plan.label}: every pixel of a window is taken to be the maximum equally often"] = (
                    None
                )
                return _slide(plan, np.full(plan.kernel, 1 / math.prod(plan.kernel)), p, shape)
            case Gate():
                return p.scaled(m) if (m := self.gates[id(plan)].mean) else None
            case Gain():
                return p.scaled(plan.factor) if plan.factor else None
        return p

    def square(self, plan: Plan, d: Dense, ring: Ring, shape: Shape) -> tuple[Dense | None, list[Word]]:
        """What a plan makes of the amplitude d at its output: the amplitude at its input, and the new words."""
        match plan:
            case Series():
                return self._series(plan, d, ring, shape)
            case Parallel():
                found = [self.square(part, d, ring, shape) for part in plan.parts]
                coherent = total(c for c, _ in found if c is not None)
                return coherent, merge([word for _, words in found for word in words])  # type: ignore[return-value]
            case Weighted():
                mean, variance, _ = plan.moments()
                coherent = _slide(plan, mean, d, shape) if mean.any() else None
                return coherent, [self._word(plan, variance, d, ring, shape)] if variance.any() else []
            case Maximum():
                self.mean(plan, d, shape)  # notes why
                return None, [self._word(plan, np.full(plan.kernel, 1 / math.prod(plan.kernel)), d, ring, shape)]
            case Gate():
                found_ = self.gates[id(plan)]
                return self._noise(plan.label, d, found_.mean, found_.square, ring, assumed=True)
            case Drop():
                return self._noise(plan.label, d, 1.0, 1 / (1 - plan.rate), ring, assumed=False)
        return self.mean(plan, d, shape), []

    def _series(self, plan: Series, d: Dense, ring: Ring, shape: Shape) -> tuple[Dense | None, list[Word]]:
        coherent: Dense | None = d
        words: list[Word] = []
        for part, before in backwards(plan, shape):
            strides = _strides(part, before)
            after: list[Word] = []
            for amplitude, density in words:
                kept, new = self.square(part, amplitude, ring, before)
                density = density.spread(strides)
                after += [] if kept is None else [(kept, density)]
                after += [(a, density * v) for a, v in new]
            if coherent is not None:
                coherent, new = self.square(part, coherent, ring, before)
                after += new
            words = merge(after)
        return coherent, words

    def _word(self, plan: Any, variance: np.ndarray, d: Dense, ring: Ring, shape: Shape) -> Word:
        one = ring.one(len(shape))
        return d.spread(plan.stride), _slide(plan, variance, one, shape)

    def _noise(
        self, label: str, d: Dense, mean: float, square: float, ring: Ring, assumed: bool
    ) -> tuple[Dense | None, list[Word]]:
        coherent = d.scaled(mean) if mean else None
        excess = square - mean**2
        if not self.random:  # uniform kernels average the noise of their channels away
            if excess > 0:
                self.approximate[f"{label}: its noise averages out over the channels of uniform kernels"] = None
            return coherent, []
        if excess <= 1e-15 * square:
            return coherent, []
        if assumed and not d.is_pixel():
            self.approximate[
                f"{label}: the gates of neighbouring pixels under a fixed kernel are taken as independent"
            ] = None
        return coherent, [(Dense.one(d.values.ndim), ring.of(d.squared()).scaled(excess))]


def merge(words: list[Word]) -> list[Word]:
    """Words with equal amplitudes, up to a factor and a shift, as one."""
    classes: dict[Any, Word] = {}
    for amplitude, density in words:
        scale = float(np.abs(amplitude.values).max())
        unit = Dense(amplitude.values / scale, (0,) * len(amplitude.offset))
        ring = type(density)
        shift = ring.of(Dense(np.full((1,) * len(amplitude.offset), scale**2), amplitude.offset))
        moved = density if scale == 1 and not any(amplitude.offset) else density * shift
        key = unit.values.shape, unit.values.tobytes()
        classes[key] = (unit, classes[key][1] + moved) if key in classes else (unit, moved)
    return list(classes.values())


def _strides(plan: Plan, shape: Shape) -> Shape:
    match plan:
        case Series():
            each = [_strides(part, shape) for part in plan.parts]
            return tuple(math.prod(axis) for axis in zip(*each, strict=True)) if each else (1,) * len(shape)
        case Parallel():
            return _strides(plan.parts[0], shape)
    return tuple(window.stride for window in plan.windows(shape))


def _slide(step: Any, taps: np.ndarray, p: Polynomial, shape: Shape) -> Polynomial:
    """The field p pulled back through a window with these taps: p(z^s) w(z^d) z^(-padding)."""
    windows = step.windows(shape)
    kernel = Dense(np.asarray(taps, float), (0,) * len(shape)).spread([w.dilation for w in windows])
    kernel = Dense(kernel.values, tuple(-w.padding_low for w in windows))
    return p.spread(step.stride) * type(p).of(kernel)


def energy(plan: Plan, walk: Walk, ring: Ring, shape: Shape) -> Polynomial | None:
    """E[g²] of one output channel's unit with a cotangent of one, per input channel times the input channels."""
    coherent, words = walk.square(plan, Dense.one(len(shape)), ring, shape)
    if coherent is not None:
        words = [*words, (coherent, ring.one(len(shape)))]
    return total(density * ring.of(amplitude.squared()) for amplitude, density in words)
