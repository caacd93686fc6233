"""What today's blocks add to a plan: zeros between pixels, resizing, normalisation, and attention with its mask.

Zeros between pixels, resizing and attention have units that see differently (by phase, or by their place in a sequence).
Each says
what it does to positions as a matrix with one row per unit and one column per pixel, both in row-major order.
"""

import dataclasses
import functools
import math
from typing import Literal

import numpy as np

from erfjax.layers.plan import Operation, Read, Shape, Weighted

Method = Literal["nearest", "bilinear"]
Norms = Literal["layer", "rms"]
Mask = int | Literal["full", "causal"]


@dataclasses.dataclass(frozen=True, eq=False)
class Insert(Operation):
    """`factor` - 1 zeros between the pixels of every axis: what a transposed convolution does first."""

    varies = True

    factor: Shape

    def output(self, shape: Shape) -> Shape:
        return tuple((n - 1) * f + 1 if n else 0 for n, f in zip(shape, self.factor, strict=True))

    def reads(self, shape: Shape) -> list[tuple[Read, ...]]:
        return [tuple(Read(base=f) for f in self.factor)]

    def matrix(self, shape: Shape) -> np.ndarray:
        """Units x pixels: one at a pixel, zero between pixels."""
        axes = [np.zeros((m, n)) for m, n in zip(self.output(shape), shape, strict=True)]
        for axis, f in zip(axes, self.factor, strict=True):
            axis[::f] = np.eye(axis.shape[1])
        return functools.reduce(np.kron, axes)


@dataclasses.dataclass(frozen=True, eq=False)
class Resize(Operation):
    """An image enlarged by whole factors.

    "nearest": unit o takes pixel ⌊o / f⌋. "bilinear": pixels centred at i + 1/2 weigh 1 - |(o + 1/2) / f - (i + 1/2)| where that
    is positive; at the border the last pixel has what would lie beyond it.
    """

    varies = True

    factor: Shape
    method: Method

    def output(self, shape: Shape) -> Shape:
        return tuple(n * f for n, f in zip(shape, self.factor, strict=True))

    def reads(self, shape: Shape) -> list[tuple[Read, ...]]:
        if self.method == "nearest":
            return [tuple(Read(f, offset=1 - f, base=f) for f in self.factor)]
        return [tuple(_interpolated(f) for f in self.factor)]

    def matrix(self, shape: Shape) -> np.ndarray:
        """Units x pixels: the weights of the interpolation."""
        return functools.reduce(np.kron, [self._axis(n, f) for n, f in zip(shape, self.factor, strict=True)])

    def _axis(self, n: int, f: int) -> np.ndarray:
        units, pixels = np.arange(n * f)[:, None], np.arange(n)
        if self.method == "nearest":
            return (units // f == pixels).astype(float)
        at = np.clip((units + 0.5) / f - 0.5, 0, n - 1)
        return np.maximum(1 - np.abs(at - pixels), 0)


def _interpolated(f: int) -> Read:
    """All i with |2o + 1 - f - 2 i f| < 2f: two pixels, and one where a pixel lies on the unit's centre."""
    return Read() if f == 1 else Read(2 * f - f % 2, offset=1 - f - f // 2, base=f)


@dataclasses.dataclass(frozen=True, eq=False)
class Normalise(Operation):
    """The channels of every position divided by their root mean square; kind "layer" takes their mean off before."""

    kind: Norms
    channels: int


@dataclasses.dataclass(frozen=True, eq=False)
class Attend(Operation):
    """Softmax attention over all positions that the mask leaves.

    `kernels` are the weights of values and outputs, then those of queries and keys, which a `scale` of zero needs not.
    """

    varies = True

    heads: int
    mask: Mask
    scale: float
    kernels: tuple[Weighted, ...]

    @property
    def inner(self) -> tuple[Weighted, ...]:
        return self.kernels

    @property
    def channels(self) -> int:
        """The channels that it reads and makes."""
        return self.kernels[0].shape[-1]

    def allowed(self, shape: Shape) -> np.ndarray:
        """Positions x positions: what the mask leaves."""
        n = math.prod(shape)
        if self.mask == "full":
            return np.ones((n, n), bool)
        behind = np.arange(n)[:, None] - np.arange(n)
        return (behind >= 0) & (behind < (n if self.mask == "causal" else self.mask))

    def matrix(self, shape: Shape) -> np.ndarray:
        """Units x positions: all that is allowed weighs the same."""
        allowed = self.allowed(shape)
        return allowed / allowed.sum(axis=1, keepdims=True)
