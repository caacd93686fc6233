"""Exponential tilting of a non-negative kernel: a change of measure that puts any point of a power in the middle of a
bell.

For any θ in R^D

    w^{*n}(m) = M(θ)^n e^{-θ·m} q(m),     q = p^{*n},     p(j) = w(j) e^{θ·j} / M(θ),     M(θ) = Σ_j w(j) e^{θ·j},

and q is a bell around n K'(θ) with covariance n K''(θ), K = log M. Because q <= 1, the plane n K(θ) - θ·m also bounds
log w^{*n}(m) from above everywhere (Chernoff). `tilts` finds θ for given points; `tilt_at` adds what needs more digits
than a double has.
"""

import decimal
import itertools
import math
import operator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DIGITS = decimal.Context(prec=40, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
"""M^n e^{-θ·m} is a tiny number times a huge one, each of up to 10^6 digits before the comma of its logarithm."""

Index = tuple[int, ...]
Vector = Float[np.ndarray, " D"]


class Base(NamedTuple):
    """A non-negative kernel as its T non-zero taps, and the power n >= 1 that is wanted, of the given shape."""

    points: Int[np.ndarray, "T D"]
    weights: Float[np.ndarray, " T"]
    n: int
    shape: Index


class Tilt(NamedTuple):
    """The tilted taps p, and the plane log w^{*n}(m) = height - θ·(m - centre) + log q(m).

    `sigma` are the standard deviations of q per axis, `drift` = K'(θ) - centre/n is what the bell misses the centre by.
    """

    centre: Index
    theta: Vector
    p: Float[np.ndarray, " T"]
    height: float
    drift: Vector
    sigma: Vector

    def at(self, unit: Index) -> float:
        """Upper bound of log w^{*n} at one point."""
        return self.height - float(self.theta @ np.subtract(unit, self.centre))

    def plane(self, low: Index, shape: Index, share: float = 1.0) -> Float[np.ndarray, "..."]:
        """The upper bound on the box of the given corner and shape; with `share` that of the power share·n."""
        result = np.full((1,) * len(shape), share * self.height)
        for axis, (slope, first, size) in enumerate(zip(self.theta, low, shape, strict=True)):
            line = slope * (np.arange(first, first + size) - share * self.centre[axis])
            result = result - line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return result


def tilts(
    points: Int[np.ndarray, "T D"],
    logs: Float[np.ndarray, " T"],
    targets: Float[np.ndarray, "M D"],
    start: Float[np.ndarray, "M D"] | None = None,
    tolerance: float = 1e-12,
    steps: int = 200,
) -> tuple[Float[np.ndarray, "M D"], Float[np.ndarray, "M D D"]]:
    """Tilts θ with K'(θ) = target, and the covariance K''(θ), for M targets at once.

    Newton's method on the convex K(θ) - θ·target. |K'''| <= range · K'', so a step of length d, in units of the range
    of the taps, shortened to log(1 + d) always descends. `tolerance` is relative to the standard deviation of one tap.
    """
    theta = np.zeros(targets.shape) if start is None else np.array(start)
    for _ in range(steps):
        power = logs + theta @ points.T
        p = np.exp(power - power.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        mean = p @ points
        spread = points - mean[:, None]
        covariance = np.swapaxes(p[..., None] * spread, 1, 2) @ spread
        variance = np.einsum("maa->ma", covariance)
        slope = targets - mean
        if (slope**2 <= tolerance**2 * variance + 1e-300).all():
            break
        ridge = (1e-13 * variance.sum(axis=1) + 1e-300)[:, None, None] * np.eye(targets.shape[1])
        step = np.linalg.solve(covariance + ridge, slope[..., None])[..., 0]
        length = np.ptp(step @ points.T, axis=1)[:, None] + 1e-300
        theta += step * (np.log1p(length) / length)
    return theta, covariance


def tilt_at(base: Base, centre: Index, start: Vector) -> Tilt:
    """The tilt whose bell stands on `centre`, drawn in by half a tap so that it exists on the border too.

    height, drift and p are summed in 40 digits and rounded once: M(θ)^n loses nothing, whatever n is.
    """
    n = base.n
    target = (np.array(centre) + 0.5 * base.points.mean(axis=0)) / (n + 0.5)
    theta, covariance = tilts(
        base.points, np.log(base.weights), target[None], start[None], tolerance=0.05 / math.sqrt(n)
    )
    with decimal.localcontext(DIGITS):
        slopes, taps = [decimal.Decimal(t) for t in theta[0].tolist()], base.points.T.tolist()
        terms = [decimal.Decimal(w) for w in base.weights.tolist()]
        for slope, along in zip(slopes, taps, strict=True):
            powers = list(itertools.accumulate([slope.exp()] * max(along), operator.mul, initial=decimal.Decimal(1)))
            terms = [term * powers[j] for term, j in zip(terms, along, strict=True)]
        total = sum(terms, decimal.Decimal(0))
        p = [term / total for term in terms]
        height = n * total.ln() - sum(slope * m for slope, m in zip(slopes, centre, strict=True))
        drift = [
            float(sum(map(operator.mul, p, along)) - decimal.Decimal(m) / n)
            for along, m in zip(taps, centre, strict=True)
        ]
    sigma = np.sqrt(n * np.diagonal(covariance[0]))
    return Tilt(centre, theta[0], np.array([float(x) for x in p]), float(height), np.array(drift), sigma)
