"""Weights told from filters, and the test of what the theory assumes of them: independent draws of zero mean."""

import math
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
import scipy

from erfjax.tracing.program.equations import Equation, Known
from erfjax.tracing.rules.contraction import channel_axes, partners
from erfjax.tracing.second_moments.kinds import PRODUCTS, Kind
from erfjax.tracing.second_moments.scaled import size_of
from erfjax.tracing.second_moments.steps import kind_of
from erfjax.tracing.windows.cone import Cone

CHANCE = 1e-3  # how often independent weights may be called dependent, over all tests of a network
SEVERAL = 16  # weights that have one sign by chance once in thirty thousand tensors
LISTED = 5  # places that a line names

Operand = tuple[int, int]
"""A place in a program: (number of the equation, index of the operand)."""


def weights(cone: Cone) -> frozenset[Operand]:
    """The known operands of contractions that stand for random draws.

    Those that the function closed over, unless they are filters (the same for all channels); and what it computed by itself
    if that looks like random draws of zero mean, which the matrices of a resize do not.
    """
    found = set()
    for equation, i, atom in contracted(cone):
        if stands_for_draws(atom.concrete, channel_axes(equation, i), atom.captured):
            found.add((equation.number, i))
    return frozenset(found)


def stands_for_draws(value: np.ndarray | None, channels: Sequence[int], captured: bool) -> bool:
    """Whether a known operand of a contraction stands for random draws; see `weights`. None is a value not known yet."""
    if captured:
        return value is None or not is_filter(value, channels)
    if value is None or not (np.less(value, 0).any() and np.greater(value, 0).any()):
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

    A filter is the same for all channels (an average, a blur), has zeros and one sign (a graph), or is a symmetric matrix.
    """
    if not weight.any():
        return False
    if not weight.all() and (weight.min() >= 0 or weight.max() <= 0) and np.count_nonzero(weight) >= SEVERAL:
        return True
    matrix = weight.squeeze()
    if matrix.ndim == 2 and np.array_equal(matrix, matrix.T):
        return True
    first = weight[tuple(slice(0, 1) if a in channels else slice(None) for a in range(weight.ndim))]
    if weight.size == first.size:
        return bool((first >= 0).all() or (first <= 0).all())
    return bool((weight == first).all())


class Uses:
    """Which weights have been met already: the same array, or another of exactly these values, transposed or not."""

    def __init__(self) -> None:
        self.met: dict[object, list[np.ndarray]] = {}

    def again(self, weight: np.ndarray) -> bool:
        """Whether these weights were met before; from now on they were.

        Example:
            >>> import numpy as np
            >>> from erfjax.tracing.second_moments.random_weights import Uses
            >>> uses, matrix = Uses(), np.array([[1.0, -1.0], [2.0, 3.0]])
            >>> uses.again(matrix), uses.again(-matrix), uses.again(matrix.T.copy())
            (False, False, True)
        """
        corners = (float(weight.flat[0]), float(weight.flat[-1])) if weight.size else ()
        others = self.met.setdefault((tuple(sorted(weight.shape)), corners), [])
        known = any(np.array_equal(weight, other) or np.array_equal(weight.T, other) for other in others)
        others.append(weight)
        return known


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
            found.append((name, float(scipy.special.erfc(abs(float(terms.sum())) / scale / math.sqrt(2)))))
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
