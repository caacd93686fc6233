"""Generating polynomials of maps, twice: `Dense` holds every coefficient, `Jet` the moments up to order four and no map.

The coefficient of z^t is what the pixel at offset t from unit 0 contributes. Both know the same four operations: product
(layers in a row), sum (branches), a factor, and `spread(s)`, the substitution z → z^s of a layer of stride s below.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from erfjax.closed_form.kernels import add_shifted

ORDER = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """Σ_t values[t] z^(offset + t)."""

    values: Float[np.ndarray, "..."]
    offset: tuple[int, ...]

    @classmethod
    def one(cls, ndim: int) -> "Dense":
        """The polynomial 1: a single pixel."""
        return cls(np.ones((1,) * ndim), (0,) * ndim)

    @classmethod
    def of(cls, dense: "Dense") -> "Dense":
        """Itself: `Jet.of` makes a jet."""
        return dense

    def spread(self, strides: Sequence[int]) -> "Dense":
        """z → z^s per axis."""
        if all(s == 1 for s in strides):
            return self
        shape = tuple((n - 1) * s + 1 for n, s in zip(self.values.shape, strides, strict=True))
        values = np.zeros(shape)
        values[tuple(slice(None, None, s) for s in strides)] = self.values
        return Dense(values, tuple(o * s for o, s in zip(self.offset, strides, strict=True)))

    def __mul__(self, other: "Dense") -> "Dense":
        """The convolution, tap by tap: for non-negative coefficients every one keeps its relative accuracy."""
        small, large = sorted((self.values, other.values), key=np.size)
        return Dense(add_shifted(large, small, (1,) * large.ndim), _plus(self.offset, other.offset))

    def __add__(self, other: "Dense") -> "Dense":
        low = tuple(map(min, self.offset, other.offset))
        ends = [_plus(p.offset, p.values.shape) for p in (self, other)]
        values = np.zeros(tuple(max(a, b) - o for a, b, o in zip(*ends, low, strict=True)))
        for p in (self, other):
            values[tuple(slice(o - a, o - a + n) for o, a, n in zip(p.offset, low, p.values.shape, strict=True))] += (
                p.values
            )
        return Dense(values, low)

    def scaled(self, factor: float) -> "Dense":
        """Every coefficient times a factor."""
        return Dense(self.values * factor, self.offset)

    def squared(self) -> "Dense":
        """Every coefficient squared (not the product with itself)."""
        return Dense(self.values**2, self.offset)

    def is_pixel(self) -> bool:
        """Whether at most one coefficient is not zero."""
        return bool(np.count_nonzero(self.values) <= 1)

    def on_image(self, shape: Sequence[int], at: Sequence[int]) -> tuple[Float[np.ndarray, "..."], bool]:
        """The map on an image with offset 0 at pixel `at`, and whether all of it lies inside."""
        image = np.zeros(tuple(shape))
        index = np.argwhere(self.values)
        pixels = index + np.array(self.offset) + np.array(at)
        inside = ((pixels >= 0) & (pixels < image.shape)).all(axis=1)
        image[tuple(pixels[inside].T)] = self.values[tuple(index[inside].T)]
        return image, bool(inside.all())


@dataclasses.dataclass(frozen=True, eq=False)
class Jet:
    """Moments of a polynomial about `centre`: axial[r, a] = Σ_t c(t) (t_a - centre_a)^r for r = 0..4, and the joint second ones.

    Moments along an axis form a ring of their own. The centre follows the mean, which keeps the fourth moment of n layers
    accurate to about n rounding errors.
    """

    centre: Float[np.ndarray, " D"]
    axial: Float[np.ndarray, "5 D"]
    joint: Float[np.ndarray, "D D"]

    @classmethod
    def one(cls, ndim: int) -> "Jet":
        """The polynomial 1."""
        axial = np.zeros((ORDER + 1, ndim))
        axial[0] = 1
        return cls(np.zeros(ndim), axial, np.zeros((ndim, ndim)))

    @classmethod
    def of(cls, dense: Dense) -> "Jet":
        """The moments of a polynomial."""
        at = np.nonzero(dense.values)
        c, t = dense.values[at], np.array(at, float)
        axial = np.array([t**r @ c for r in range(ORDER + 1)])
        return cls(np.array(dense.offset, float), axial, (t * c) @ t.T).recentred()

    def recentred(self, at: Float[np.ndarray, " D"] | None = None) -> "Jet":
        """The same about another centre; None: the mean, if the total is not zero."""
        if at is None:
            if not self.axial[0].all():
                return self
            at = self.centre + self.axial[1] / self.axial[0]
        step = self.centre - at
        return Jet(
            at, *_product((self.axial, self.joint), (step ** np.arange(ORDER + 1)[:, None], np.outer(step, step)))
        )

    def spread(self, strides: Sequence[int]) -> "Jet":
        """z → z^s per axis."""
        s = np.array(strides, float)
        return Jet(self.centre * s, self.axial * s ** np.arange(ORDER + 1)[:, None], self.joint * np.outer(s, s))

    def __mul__(self, other: "Jet") -> "Jet":
        product = _product((self.axial, self.joint), (other.axial, other.joint))
        return Jet(self.centre + other.centre, *product).recentred()

    def __add__(self, other: "Jet") -> "Jet":
        other = other.recentred(self.centre)
        return Jet(self.centre, self.axial + other.axial, self.joint + other.joint).recentred()

    def scaled(self, factor: float) -> "Jet":
        """Every coefficient times a factor."""
        return Jet(self.centre, self.axial * factor, self.joint * factor)


def total(polynomials: Iterable[Dense | Jet]) -> Dense | Jet | None:
    """The sum; None for no terms."""
    result = None
    for p in polynomials:
        result = p if result is None else result + p  # type: ignore[operator]
    return result


def _product(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Moments of a product: m_r = Σ_k C(r, k) a_k b_(r-k), and likewise the joint second ones."""
    (p, p_joint), (q, q_joint) = a, b
    axial = np.array([sum(math.comb(r, k) * p[k] * q[r - k] for k in range(r + 1)) for r in range(ORDER + 1)])
    mixed = np.outer(p[1], q[1])
    return axial, p_joint * q[0, 0] + q_joint * p[0, 0] + mixed + mixed.T


def _plus(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(x) + int(y) for x, y in zip(a, b, strict=True))
