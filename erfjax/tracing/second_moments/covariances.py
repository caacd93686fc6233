"""How a covariance over pairs of positions is held: whole, as a matrix, or as a band of the few lags that matter.

Along a band, row l holds K(p, p + lag_l) for every position p, zero where p + lag lies outside. A covariance is symmetric: of
every lag and its opposite only one is held.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

Lags = tuple[tuple[int, ...], ...]
"""Per axis of positions, the sizes of lags that occur, ascending from 0."""


@dataclasses.dataclass(frozen=True)
class Matrix:
    """All pairs of positions: (positions, positions)."""

    sizes: tuple[int, ...]

    @property
    def positions(self) -> int:
        return math.prod(self.sizes)

    @property
    def lags(self) -> Lags:
        """Those that may occur: all."""
        return tuple(tuple(range(max(1, n))) for n in self.sizes)

    @property
    def shape(self) -> tuple[int, int]:
        return self.positions, self.positions

    @property
    def counts(self) -> np.ndarray:
        """For how many pairs of positions each number stands: (1, 1)."""
        return np.ones((1, 1))

    def outer(self, vector: Any) -> Any:
        """v_p v_p' for a vector over positions."""
        return jnp.outer(vector, vector)

    def inner(self, rows: Any) -> Any:
        """Σ_c h_pc h_p'c for an array (positions, channels)."""
        return rows @ rows.T

    def spread(self, vector: Any) -> Any:
        """A covariance that has a vector on its diagonal, and zeros beside it."""
        return jnp.diag(vector)

    def diagonal(self, covariance: Any) -> Any:
        return jnp.diagonal(covariance)

    def times(self, covariance: Any, rows: Any) -> Any:
        """Σ_p' K(p, p') h_p'c."""
        return jnp.tensordot(covariance, rows, 1)

    def read(self, covariance: Any, lags: np.ndarray) -> Any:
        """K(p, p + lag) for lags (count, axes): (count, positions)."""
        there, held = inside(self.sizes, lags)
        return jnp.where(held, covariance[np.arange(self.positions)[None], there], 0)

    def whole(self, covariance: Any) -> Any:
        """The covariance as a matrix."""
        return covariance

    def of(self, matrix: Any) -> Any:
        """What is held of a matrix."""
        return matrix

    def seen(self, covariance: Any, other: "Layout") -> Any:
        """The covariance as another layout holds it."""
        return other.of(covariance)


@dataclasses.dataclass(frozen=True)
class Band:
    """The pairs at some lags: (lags, positions)."""

    sizes: tuple[int, ...]
    lags: Lags

    @property
    def positions(self) -> int:
        return math.prod(self.sizes)

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The lags that are held, of each pair of opposite ones the first that is ahead: (lags, axes)."""
        signed = [sorted({*axis, *(-lag for lag in axis)}) for axis in self.lags]
        every = list(itertools.product(*signed))
        return np.array([lag for lag in every if lag >= (0,) * len(lag)], np.int64).reshape(-1, len(self.sizes))

    @functools.cached_property
    def _places(self) -> dict[tuple[int, ...], int]:
        return {tuple(lag): row for row, lag in enumerate(self.rows.tolist())}

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.positions

    @property
    def counts(self) -> np.ndarray:
        """For how many pairs of positions each number stands: (lags, 1)."""
        return np.where(self.rows.any(1), 2.0, 1.0)[:, None]

    def outer(self, vector: Any) -> Any:
        """v_p v_p' for a vector over positions."""
        return self.each(lambda lag: vector * self.ahead(vector, lag))

    def inner(self, rows: Any) -> Any:
        """Σ_c h_pc h_p'c for an array (positions, channels)."""
        return self.each(lambda lag: jnp.sum(rows * self.ahead(rows, lag), axis=1))

    def spread(self, vector: Any) -> Any:
        """A covariance that has a vector on its diagonal, and zeros beside it."""
        return jnp.zeros(self.shape, vector.dtype).at[self._places[(0,) * len(self.sizes)]].set(vector)

    def diagonal(self, covariance: Any) -> Any:
        return covariance[self._places[(0,) * len(self.sizes)]]

    def times(self, covariance: Any, rows: Any) -> Any:
        """Σ_p' K(p, p') h_p'c."""

        def add(total: Any, one: tuple[Any, Any]) -> tuple[Any, None]:
            lag, held = one
            ahead = held[:, None] * self.ahead(rows, lag)
            behind = jnp.where(jnp.any(lag != 0), self.ahead(held[:, None] * rows, -lag), 0)
            return total + ahead + behind, None

        if len(self.rows) == 1:
            return covariance[0][:, None] * rows
        total, _ = lax.scan(add, jnp.zeros_like(rows), (jnp.asarray(self.rows), covariance))
        return total

    def read(self, covariance: Any, lags: np.ndarray) -> Any:
        """K(p, p + lag) for lags (count, axes), zero for those that are not held: (count, positions)."""
        opposite = np.array([tuple(lag) < (0,) * len(lag) for lag in lags.tolist()], bool)
        ahead = np.where(opposite[:, None], -lags, lags)
        rows = np.array([self._places.get(tuple(lag), len(self.rows)) for lag in ahead.tolist()])
        if not opposite.any() and np.array_equal(rows, np.arange(len(self.rows))):
            return covariance
        found = jnp.pad(covariance, [(0, 1), (0, 0)])[rows]
        if not opposite.any():
            return found
        turned = lax.map(lambda one: self.ahead(one[0], one[1]), (found, jnp.asarray(lags)))
        return jnp.where(opposite[:, None], turned, found)

    def between(self, covariance: Any, here: Any, there: Any) -> Any:
        """K(p, p') for positions given axis by axis, (axes, count) each; zero for negative ones, and beyond the band."""
        furthest, lags = [max(axis) for axis in self.lags], there - here
        table = np.full([2 * m + 1 for m in furthest], len(self.rows))
        first = np.zeros_like(table, bool)  # whether the lag itself is held, not its opposite
        for row, lag in enumerate(self.rows):
            table[tuple(furthest - lag)] = table[tuple(furthest + lag)] = row
            first[tuple(furthest + lag)] = True
        held = jnp.ones(here.shape[1:], bool)
        number: Any = jnp.zeros(here.shape[1:], int)
        one = other = number
        for lag, p, q, m, n in zip(lags, here, there, furthest, self.sizes, strict=True):
            held &= (p >= 0) & (q >= 0) & (jnp.abs(lag) <= m)
            number = number * (2 * m + 1) + jnp.clip(lag, -m, m) + m
            one, other = one * n + p, other * n + q
        chosen = jnp.where(held, jnp.asarray(table).ravel()[number], len(self.rows))
        at = jnp.where(held, jnp.where(jnp.asarray(first).ravel()[number], one, other), 0)
        return jnp.pad(covariance, [(0, 1), (0, 0)])[chosen, at]

    def whole(self, covariance: Any) -> Any:
        """The covariance as a matrix."""
        there, held = inside(self.sizes, self.rows)
        rows, here = np.nonzero(held)
        nothing, at, values = jnp.zeros((self.positions,) * 2, covariance.dtype), there[held], covariance[rows, here]
        return nothing.at[here, at].set(values).at[at, here].set(values)

    def of(self, matrix: Any) -> Any:
        """What is held of a matrix."""
        return Matrix(self.sizes).read(matrix, self.rows)

    def seen(self, covariance: Any, other: "Layout") -> Any:
        """The covariance as another layout holds it."""
        return self.whole(covariance) if isinstance(other, Matrix) else self.read(covariance, other.rows)

    def within(self, covariance: Any) -> Any:
        """The covariance without pairs of which one lies outside."""
        return jnp.where(inside(self.sizes, self.rows)[1], covariance, 0)

    def each(self, of: Any) -> Any:
        """A row for every lag."""
        if len(self.rows) == 1:
            return of(None)[None]
        return lax.map(of, jnp.asarray(self.rows))

    def ahead(self, array: Any, lag: Any) -> Any:
        """What lies a lag ahead of every position, zero beyond the last: (positions, ...)."""
        if lag is None:
            return array
        furthest = [max(axis) for axis in self.lags]
        rest = array.shape[1:]
        whole = jnp.pad(array.reshape(*self.sizes, *rest), [*((m, m) for m in furthest), *((0, 0) for _ in rest)])
        first = [lag[k] + m for k, m in enumerate(furthest)]
        return lax.dynamic_slice(whole, [*first, *(0 for _ in rest)], (*self.sizes, *rest)).reshape(array.shape)


Layout = Matrix | Band


def inside(sizes: Sequence[int], lags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the position a lag ahead of every position, and whether there is one: (lags, positions)."""
    number, held = np.zeros((len(lags), math.prod(sizes)), np.int64), np.ones((len(lags), math.prod(sizes)), bool)
    for k, places in enumerate(np.indices(sizes).reshape(len(sizes), -1)):
        there = places[None] + lags[:, k : k + 1]
        held &= (there >= 0) & (there < sizes[k])
        number = number * sizes[k] + there
    return np.where(held, number, 0), held


def diagonal(sizes: Sequence[int]) -> Band:
    """No pairs but of a position with itself."""
    return Band(tuple(sizes), ((0,),) * len(sizes))
