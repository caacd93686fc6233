"""Expected gradients of a plan: E[g] as a polynomial, and E[g²] from three parts of g.

Walking from the output to the input, the gradient of one unit is a sum over paths. Each chooses one weight in every random layer
that it passes; paths with different weights are uncorrelated, while on paths with the same weights all that is fixed
(averages, given kernels, identities) interferes. So paths come in classes (D, V): an amplitude D(z), fixed and signed, and a
density V(z) >= 0 of the weights' positions. `Gradient` holds them beside what is not random at all, and

    E[g²] = Σ_classes V * D² + fixed² + aligned² q

    random layer, variance v     (D, V) → (D, v V)          fixed kernel w      (D, V) → (w D, V)
    gate: mean m, second s       (D, V) → (m D, V) and (1, (s - m²) V * D²): the noise of every pixel for itself
    branches                     amplitudes add within a class; classes of different branches stay apart
    stride s                     z → z^s in both

For example `Identity() + Conv(3)`: the identity is fixed, 1; the convolution is the class (1, v); E[g²] = 1 + v. Amplitudes are
normalised, so classes with equal D merge: an ordinary random network is a single (1, V).

Where channels are summed behind a nonlinearity, weights go with the activations that they cause (see `alignment`), and the
mean of the gradient given the activation y at a place is aligned·y. With q the second moment of y,

    gate                         fixed D, aligned A → fixed m D + E[φφ'] A, aligned κ D + λ A, and the rest as noise
    random layer, variance v     A → √(C_out / C_in) v A: all channels agree;  and the noise v A² q - v² A² q' / C_in
    normalisation                fixed D → D/std (nothing, if it takes a mean off that all channels share), aligned A → nothing
    branches                     the values of the other branches, of second moment q - q_b, are noise

in units of one output channel, so that aligned² q is the energy of all channels of the place.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from erfjax.layers.alignment import alignment
from erfjax.layers.operations import Normalise
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
)
from erfjax.layers.polynomials import Dense, Jet, total
from erfjax.layers.signals import Signals

COHERENT = (
    "summed channels agree in part; that part is computed for images of independent pixels of zero mean and equal variance "
    '(channels="random-signs" has none)'
)
ALIKE = "in the coherent part of the summed channels the pixels under its window are taken as equal"

Polynomial = Any  # Dense or Jet
Ring = type[Dense] | type[Jet]


class Paths(NamedTuple):
    """A class of paths: the fixed amplitude that they share, and the density of their weights' positions."""

    amplitude: Dense
    density: Polynomial


class Aligned(NamedTuple):
    """A gradient a·y that goes with the value y at its place: the mean of a, and of a²."""

    mean: Dense
    square: Dense


class Gradient(NamedTuple):
    """The gradient at one place of a plan: the fixed part, the part aligned with the value there, the classes of paths."""

    fixed: Dense | None
    aligned: Aligned | None
    paths: list[Paths]


class Walk(NamedTuple):
    """The walk through a plan with these signals; `summed`: gradients go with activations, since channels are added."""

    signals: Signals
    summed: bool

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
                return _slide(plan, self._evenly(plan), p, shape)
            case Gate():
                return p.scaled(m) if (m := self.signals.slopes[id(plan)].mean) else None
            case Gain():
                return p.scaled(plan.factor) if plan.factor else None
            case Normalise():
                return p.scaled(self.signals.scales[id(plan)])
        return p

    def square(self, plan: Plan, ring: Ring, shape: Shape) -> Polynomial | None:
        """E[g²] of one output channel's unit with a cotangent of one, summed over input channels; None is zero."""
        fixed, aligned, paths = self._through(plan, Dense.one(len(shape)), None, ring, shape, self.summed)
        paths += _noise(ring, (_squared(fixed), 1.0), (aligned and aligned.square, 1.0))  # the input has q = 1
        return total(density * ring.of(amplitude.squared()) for amplitude, density in paths)

    def _back(self, plan: Plan, g: Gradient, ring: Ring, shape: Shape, summed: bool) -> Gradient:
        """The gradient at the input of a plan for that at its output; `summed`: all channels have its fixed part together."""
        strides, paths = _strides(plan, len(shape)), []
        for amplitude, density in g.paths:  # random signs come first on each: nothing is aligned with any value
            inner = self._through(plan, amplitude, None, ring, shape, False)
            density = density.spread(strides)
            paths += [] if inner.fixed is None else [Paths(inner.fixed, density)]
            paths += [Paths(a, density * v) for a, v in inner.paths]
        fixed, aligned, new = self._through(plan, g.fixed, g.aligned, ring, shape, summed)
        return Gradient(fixed, aligned, merge([*paths, *new]))

    def _through(
        self, plan: Plan, fixed: Dense | None, aligned: Aligned | None, ring: Ring, shape: Shape, summed: bool
    ) -> Gradient:
        """What a plan makes of the fixed and of the aligned part, and the paths that begin in it."""
        behind = self.signals.second[id(plan)][1]
        match plan:
            case Series():
                g = Gradient(fixed, aligned, [])
                for part, shape_before in backwards(plan, shape):
                    g = self._back(part, g, ring, shape_before, summed)
                return g
            case Parallel():
                starts: list[list[Paths]] = [[] for _ in plan.parts]
                if aligned is not None:
                    self.signals.approximate["sum: in the coherent part its branches are uncorrelated"] = None
                    others = [behind - self.signals.second[id(part)][1] for part in plan.parts]
                    starts = [_noise(ring, (aligned.square, q)) for q in others]
                ends = [
                    self._back(part, Gradient(fixed, aligned, noise), ring, shape, summed)
                    for part, noise in zip(plan.parts, starts, strict=True)
                ]
                paths = merge(p for g in ends for p in g.paths)
                return Gradient(_sum(g.fixed for g in ends), _together(g.aligned for g in ends), paths)
            case Weighted():
                return self._weights(plan, fixed, aligned, ring, shape)
            case Fixed():
                if fixed is not None:
                    fixed = _slide(plan, plan.weights, fixed, shape)
                if aligned is not None:
                    if plan.weights.size > 1:
                        self.signals.assume(plan, ALIKE)
                    aligned = _exactly(_slide(plan, plan.weights * plan.weights.sum(), aligned.mean, shape))
                return Gradient(fixed, aligned, [])
            case Maximum():
                return self._maximum(plan, fixed, aligned, ring, shape, summed)
            case Gate():
                return self._bend(plan, fixed, aligned, ring, summed)
            case Drop():
                keep = 1 - plan.rate
                paths = self._noise_of(ring, fixed, 1 / keep - 1, plan)
                return Gradient(fixed, _times(aligned, 1 / keep, 1 / keep**3), paths)
            case Gain():
                return Gradient(_scaled(fixed, plan.factor), _times(aligned, plan.factor**2, plan.factor**4), [])
            case Normalise():  # it takes off what all channels share, if it centres, and what is aligned with the values
                shared = summed and plan.kind == "layer"
                scale = self.signals.scales[id(plan)] * math.sqrt(1 + 1 / plan.channels)
                return Gradient(None if shared else _scaled(fixed, scale), None, [])
        return Gradient(fixed, aligned, [])

    def _weights(
        self, plan: Weighted, fixed: Dense | None, aligned: Aligned | None, ring: Ring, shape: Shape
    ) -> Gradient:
        mean, variance, _ = plan.moments()
        before, behind = self.signals.second[id(plan)]
        inputs, outputs = plan.shape[-2:]
        paths: list[Paths] = []
        kept = None
        if fixed is not None and mean.any():
            kept = _slide(plan, mean, fixed, shape)
        if fixed is not None and variance.any():
            paths.append(Paths(fixed.spread(plan.stride), _slide(plan, variance, ring.one(len(shape)), shape)))
        if aligned is not None:
            if mean.any():
                self.signals.assume(
                    plan, "the mean of its weights is left out of the coherent part of the summed channels"
                )
            noise = _slide(plan, variance * behind, ring.of(aligned.square), shape)
            own = _slide(plan, variance**2 * (-before / inputs), ring.of(aligned.mean.squared()), shape)
            paths.append(Paths(Dense.one(len(shape)), noise + own))  # a variance: without the square of each mean
            aligned = _exactly(_slide(plan, variance, aligned.mean, shape).scaled(math.sqrt(outputs / inputs)))
        return Gradient(kept, aligned, paths)

    def _maximum(
        self, plan: Maximum, fixed: Dense | None, aligned: Aligned | None, ring: Ring, shape: Shape, summed: bool
    ) -> Gradient:
        taps = self._evenly(plan)
        paths = []
        if fixed is not None:
            paths.append(Paths(fixed.spread(plan.stride), _slide(plan, taps, ring.one(len(shape)), shape)))
            if summed:
                self.signals.assume(
                    plan, "that the choice of the maximum goes with the weights is left out of the summed channels"
                )
        if aligned is not None:
            self.signals.assume(plan, ALIKE)
            aligned = Aligned(_slide(plan, taps, aligned.mean, shape), _slide(plan, taps, aligned.square, shape))
        return Gradient(None, aligned, paths)

    def _bend(self, gate: Gate, fixed: Dense | None, aligned: Aligned | None, ring: Ring, summed: bool) -> Gradient:
        found, (q, _) = self.signals.slopes[id(gate)], self.signals.second[id(gate)]
        if not summed:
            return Gradient(
                _scaled(fixed, found.mean), None, self._noise_of(ring, fixed, _rest(found.square, found.mean**2), gate)
            )
        more = alignment(gate.function, q)
        if fixed is not None and more.slope:
            self.signals.assume(gate, COHERENT)
        constant = (
            more.constant if id(gate) in self.signals.mixing else 0.0
        )  # nothing below lets pixels interfere: noise
        mean, square = aligned or (None, None)
        kept = _sum((_scaled(fixed, found.mean), _scaled(mean, constant)))
        bent = _sum((_scaled(fixed, more.slope), _scaled(mean, more.growth)))
        paths = self._noise_of(ring, fixed, _rest(found.square, found.mean**2, more.slope**2 * q), gate)
        paths += _noise(ring, (square, more.square), (_squared(mean), -(constant**2) - more.growth**2 * q))
        if fixed is not None and mean is not None:
            cross = more.mixed - found.mean * constant - more.slope * more.growth * q
            paths += _noise(ring, (_squared(fixed + mean), cross), (_squared(fixed), -cross), (_squared(mean), -cross))
        return Gradient(kept, None if bent is None else _exactly(bent), paths)

    def _noise_of(self, ring: Ring, fixed: Dense | None, excess: float, step: Any) -> list[Paths]:
        """What the variance of a factor on every pixel, a gate or dropout, makes of a fixed amplitude."""
        if fixed is None:
            return []
        if not self.signals.random:  # uniform kernels average the noise of their channels away
            if excess > 0:
                self.signals.assume(step, "its noise averages out over the channels of uniform kernels")
            return []
        paths = _noise(ring, (_squared(fixed), excess))
        if paths and id(step) in self.signals.mixing and not fixed.is_pixel():
            self.signals.assume(step, "the gates of neighbouring pixels under a fixed kernel are taken as independent")
        return paths

    def _evenly(self, plan: Maximum) -> np.ndarray:
        self.signals.assume(plan, "every pixel of a window is taken to be the maximum equally often")
        return np.full(plan.kernel, 1 / math.prod(plan.kernel))


def merge(paths: Iterable[Paths]) -> list[Paths]:
    """Paths with equal amplitudes, up to a factor and a shift, as one class."""
    classes: dict[Any, Paths] = {}
    for amplitude, density in paths:
        scale = float(np.abs(amplitude.values).max())
        unit = Dense(amplitude.values / scale, (0,) * len(amplitude.offset))
        ring = type(density)
        shift = ring.of(Dense(np.full((1,) * len(amplitude.offset), scale**2), amplitude.offset))
        moved = density if scale == 1 and not any(amplitude.offset) else density * shift
        key = unit.values.shape, unit.values.tobytes()
        classes[key] = Paths(unit, classes[key].density + moved if key in classes else moved)
    return list(classes.values())


def _noise(ring: Ring, *terms: tuple[Dense | None, float]) -> list[Paths]:
    """The class of paths that begin at every pixel for itself, with the energy Σ factor · p."""
    found = [(p, factor) for p, factor in terms if p is not None and factor]
    density = total(ring.of(p).scaled(factor) for p, factor in found)
    return [] if density is None else [Paths(Dense.one(found[0][0].values.ndim), density)]


def _exactly(mean: Dense) -> Aligned:
    """What goes with the value there by a fixed factor."""
    return Aligned(mean, mean.squared())


def _times(aligned: Aligned | None, mean: float, square: float) -> Aligned | None:
    return aligned and Aligned(aligned.mean.scaled(mean), aligned.square.scaled(square))


def _together(parts: Iterable[Aligned | None]) -> Aligned | None:
    """The sum of factors that scatter independently."""
    result = None
    for part in parts:
        if part is not None:
            cross = result and (result.mean + part.mean).squared() + (
                result.mean.squared() + part.mean.squared()
            ).scaled(-1.0)
            result = part if result is None else Aligned(result.mean + part.mean, result.square + part.square + cross)
    return result


def _squared(p: Dense | None) -> Dense | None:
    return p and p.squared()


def _rest(whole: float, *parts: float) -> float:
    """What parts leave of a whole, nothing if that is rounding."""
    rest = whole - sum(parts)
    return rest if abs(rest) > 1e-12 * abs(whole) else 0.0


def _scaled(p: Dense | None, factor: float) -> Dense | None:
    return p.scaled(factor) if p is not None and factor else None


def _sum(parts: Iterable[Dense | None]) -> Dense | None:
    return total(p for p in parts if p is not None)  # type: ignore[return-value]


def _strides(plan: Plan, ndim: int) -> Shape:
    match plan:
        case Series():
            each = [(1,) * ndim, *(_strides(part, ndim) for part in plan.parts)]
            return tuple(math.prod(axis) for axis in zip(*each, strict=True))
        case Parallel():
            return _strides(plan.parts[0], ndim)
        case Sliding():
            return plan.stride
    return (1,) * ndim


def _slide(step: Any, taps: np.ndarray, p: Polynomial, shape: Shape) -> Polynomial:
    """The field p pulled back through a window with these taps: p(z^s) w(z^d) z^(-padding)."""
    windows = step.windows(shape)
    kernel = Dense(np.asarray(taps, float), (0,) * len(shape)).spread([w.dilation for w in windows])
    kernel = Dense(kernel.values, tuple(-w.padding_low for w in windows))
    return p.spread(step.stride) * type(p).of(kernel)
