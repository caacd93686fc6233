"""Weights told from filters, and the test of what the theory assumes of them: independent draws of zero mean."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy

from erfjax.tracing.program.equations import Equation, Known
from erfjax.tracing.program.origins import Origins, drawn, moved
from erfjax.tracing.rules.contraction import channel_axes, partners
from erfjax.tracing.second_moments.kinds import PRODUCTS, Kind
from erfjax.tracing.second_moments.scaled import size_of
from erfjax.tracing.second_moments.steps import kind_of
from erfjax.tracing.windows.cone import Cone

CHANCE = 1e-3  # how often independent weights may be called dependent, over all tests of a network
SEVERAL = 16  # weights that have one sign by chance once in thirty thousand tensors; different values that no two tensors share
LARGEST_TRANSFORM = 4096  # rows of a matrix of which is asked whether it is orthogonal
EVEN = 1e-3  # by which its rows may miss that, of their squares
LISTED = 5  # places that a line names

Operand = tuple[int, int]
"""A place in a program: (number of the equation, index of the operand)."""


def weights(cone: Cone) -> frozenset[Operand]:
    """The known operands of contractions that stand for random draws.

    Those that the function closed over, unless they are filters (the same for all channels); and what it drew by itself, if that
    looks like draws of zero mean.
    """
    found = set()
    for equation, i, atom in contracted(cone):
        if stands_for_draws(atom, channel_axes(equation, i)):
            found.add((equation.number, i))
    return frozenset(found)


def stands_for_draws(known: Known, channels: Sequence[int]) -> bool:
    """Whether a known operand of a contraction stands for random draws; see `weights`. Without a value, what is captured does."""
    value = known.concrete
    if known.captured:
        return value is None or not is_filter(value, channels)
    if value is None or not drawn(known) or not (np.less(value, 0).any() and np.greater(value, 0).any()):
        return False
    return all(p > CHANCE for _, p in independence(value, channels))


def sizes(cone: Cone) -> dict[Operand, int]:
    """The exponents of what known operands of products multiply a gradient by, as far as their values are there.

    That is the greatest factor of an elementwise product, and √(Σ w² / n) of a contraction, n the positions that it pulls back
    to: so squared weights of this exponent leave a moment about as large as it was.
    """
    found = {}
    for kinds in ((Kind.BILINEAR,), PRODUCTS):
        for equation, i, atom in contracted(cone, kinds):
            value, k = atom.concrete, equation.number
            if value is not None and Kind.BILINEAR in kinds:
                found[k, i] = size_of(norm(value) / math.sqrt(max(1, partners(equation, i))))
            elif value is not None:
                found[k, i] = size_of(float(np.max(np.abs(value), initial=0)))
    return found


def norm(value: np.ndarray) -> float:
    """√Σ w², in single precision where that holds it."""
    flat = value.ravel()
    with np.errstate(over="ignore"):
        square = float(np.dot(flat, flat)) if flat.dtype in (np.float32, np.float64) else 0.0
    if 1e-24 < square < 1e30:
        return math.sqrt(square)
    return float(np.linalg.norm(flat.astype(np.float64)))


def contracted(cone: Cone, kinds: Sequence[Kind] = (Kind.BILINEAR,)) -> Iterable[tuple[Equation, int, Known]]:
    """The known operands of contractions, or of steps of other kinds."""
    for step in cone.every:
        if kind_of(step.equation) in kinds:
            for i, atom in enumerate(step.equation.inputs):
                if isinstance(atom, Known) and jnp.issubdtype(atom.dtype, jnp.inexact):
                    yield step.equation, i, atom


def is_filter(weight: np.ndarray, channels: Sequence[int]) -> bool:
    """Whether nobody draws weights like that.

    A filter is the same for all channels (an average, a blur), has zeros and one sign (a graph), or is a symmetric matrix or a
    transform: an orthogonal matrix with zeros (wavelets) or with neighbours that are alike or opposite (cosines).
    """
    if not weight.any():
        return False
    if not weight.all() and (weight.min() >= 0 or weight.max() <= 0) and np.count_nonzero(weight) >= SEVERAL:
        return True
    matrix = weight.squeeze()
    if matrix.ndim == 2 and (np.array_equal(matrix, matrix.T) or _is_transform(matrix)):
        return True
    first = weight[tuple(slice(0, 1) if a in channels else slice(None) for a in range(weight.ndim))]
    if weight.size == first.size:
        return bool((first >= 0).all() or (first <= 0).all())
    return bool((weight == first).all())


def _is_transform(matrix: np.ndarray) -> bool:
    """Whether a square matrix has orthogonal rows, and some zeros, or products of neighbours that do not cancel."""
    rows, columns = matrix.shape
    if rows != columns or not SEVERAL // 2 <= rows <= LARGEST_TRANSFORM:
        return False
    squares = np.sum(np.square(matrix, dtype=np.float64), 1)
    if np.ptp(squares) > EVEN * squares.max():
        return False
    gram = matrix.astype(np.float64) @ matrix.T
    if np.abs(gram - np.diag(squares)).max() > EVEN * squares.max():
        return False
    chance = CHANCE ** (2 * rows / SEVERAL)
    if not matrix.all() and np.count_nonzero(matrix, 1).min() > 1:  # a permutation is what weights may begin as
        return True
    return any(_alike(m) < chance for m in (matrix.astype(np.float64), matrix.T.astype(np.float64)))


def _alike(rows: np.ndarray) -> float:
    """The probability that independent draws have such products of neighbours along rows: Σ (Σ w w' )² / Σ (w w')² is χ²."""
    products = rows[:, 1:] * rows[:, :-1]
    scales = np.sum(products**2, 1)
    held = scales > 0
    return float(scipy.stats.chi2.sf(np.sum(np.sum(products[held], 1) ** 2 / scales[held]), max(1, held.sum())))


class Uses:
    """Which weights have been met already, by their numbers: also sliced, flipped, transposed or scaled."""

    def __init__(self) -> None:
        self.origins = Origins()
        self.met: dict[int, np.ndarray] = {}  # origin -> which of its entries
        self.values: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}  # size -> two sums of an array, the array

    def again(self, weight: Known) -> bool:
        """Whether some of these weights were met before; from now on they were.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from erfjax.tracing import trace
            >>> from erfjax.tracing.second_moments.random_weights import Uses
            >>> w = jax.random.normal(jax.random.key(0), (6, 6))
            >>> program = trace(lambda x: x @ w[:3, :3] @ w[3:, 3:] @ w[2:5, :3].T, jax.ShapeDtypeStruct((3,), jnp.float32))
            >>> uses = Uses()
            >>> [uses.again(equation.inputs[1]) for equation in program.equations]
            [False, False, True]
        """
        number = self.origins.number(weight)
        origin = self.origins.found[number]
        size = math.prod(origin.shape)
        entries: Any = slice(None)
        if math.prod(weight.shape) < size:
            entries = np.asarray(moved(weight, np.arange(size, dtype=np.int32).reshape(origin.shape))).ravel()
        met = self.met.setdefault(number, np.zeros(size, bool))
        known = bool(met[entries].any())
        met[entries] = True
        return self._equal(np.asarray(weight.value)) or known

    def _equal(self, weight: np.ndarray) -> bool:
        """Whether another array had these numbers, in any order and times any number."""
        largest = float(np.max(np.abs(weight), initial=0)) or 1.0
        sums = np.array([np.abs(weight).sum(dtype=np.float64) / largest, norm(weight) / largest])
        others = self.values.setdefault(weight.size, [])
        known = any(np.allclose(sums, mine, rtol=1e-4) and _rearranged(weight, other) for mine, other in others)
        others.append((sums, weight))
        return known


def _rearranged(weight: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays hold the same absolute values but for a factor; those of few values have to be equal or transposed."""
    mine, theirs = (np.sort(np.abs(array), axis=None).astype(np.float64) for array in (weight, other))
    if np.count_nonzero(np.diff(mine)) < SEVERAL:
        return bool(np.array_equal(weight, other) or np.array_equal(weight.T, other))
    return bool(np.allclose(mine / mine[-1], theirs / theirs[-1], rtol=1e-4, atol=1e-6))


def centred(known: Known) -> bool:
    """Whether shifts are zero, or look like draws of zero mean."""
    value = known.concrete
    if value is None or not np.any(value):
        return value is not None
    shifts = np.unique(np.asarray(value, np.float64))  # one for each channel, wherever it is added
    return bool(shifts[0] < 0 < shifts[-1]) and dict(independence(shifts, (0,)))["mean"] > CHANCE


def independence(weight: np.ndarray, channels: Sequence[int]) -> list[tuple[str, float]]:
    """Named p-values of a weight tensor under independent draws of zero mean.

    Formula: Σw / √Σw² for the mean and Σ w_i w_{i+1} / √Σ (w_i w_{i+1})² for neighbouring taps along each axis are standard
    normal for independent zero-mean weights whatever the variance of each.

    Example:
        >>> import numpy as np
        >>> from erfjax.tracing.second_moments.random_weights import independence
        >>> smooth = np.random.default_rng(0).normal(size=(1, 50, 50)) + np.zeros((3, 1, 1))
        >>> [(name, p < 1e-6) for name, p in independence(smooth, (1, 2))]
        [('mean', False), ('neighbours', True)]
    """
    tests, size = [("mean", weight)], norm(weight)
    if weight.dtype != np.float32 or not 1e-6 < size < 1e12:
        weight = weight.astype(np.float64) / (size or 1)
        tests = [("mean", weight)]
    for axis in range(weight.ndim):
        if axis not in channels and weight.shape[axis] > 1:
            ahead, behind = np.moveaxis(weight, axis, 0)[1:], np.moveaxis(weight, axis, 0)[:-1]
            tests.append(("neighbours", ahead * behind))
    found = []
    for name, terms in tests:
        scale = norm(terms)
        if scale:
            found.append((name, math.erfc(abs(float(terms.sum())) / scale / math.sqrt(2))))
    return found


def unlikely(tests: Sequence[tuple[str, str, float]]) -> list[str]:
    """One line about the tensors that fail; all tests together fail by chance once in a thousand networks."""
    worst: dict[str, tuple[float, str]] = {}
    for layer, name, p in tests:
        if p < CHANCE / len(tests):
            worst[layer] = min(worst.get(layer, (1.0, "")), (p, f"{layer} ({name}, p {_probability(p)})"))
    if not worst:
        return []
    return [
        f"weights are no independent draws of zero mean in {len(worst)} of {len({layer for layer, _, _ in tests})} layers, so "
        f"their paths interfere: measure with ej.empirical{listed([text for _, text in worst.values()])}."
    ]


def _probability(p: float) -> str:
    return "< 1e-300" if p < 1e-300 else f"= {p:.1g}"


def listed(places: Sequence[str]) -> str:
    """The first places of a line, and how many more there are."""
    named = [p for p in places if p]
    if not named:
        return ""
    more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
    return f": {', '.join(named[:LISTED])}{more}"
