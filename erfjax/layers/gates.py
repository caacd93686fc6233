"""Elementwise nonlinearities: the functions behind their names, and the moments of their derivatives (the gates)."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from erfjax.closed_form import mean_field
from erfjax.closed_form.gaussian_integrals import Profile, expectations, straight_pairs, two_slopes
from erfjax.closed_form.mean_field import ACTIVATIONS
from erfjax.errors import StackError

Function = Callable[[Any], Any]
TERMS, NODES = 24, 120  # of the Hermite expansion of an activation


def resolve(activation: Any) -> Function | None:
    """The function that a name or a callable stands for; None is the identity.

    Raises:
        StackError: no such name, or not callable.

    Example:
        >>> from erfjax.layers.gates import resolve
        >>> float(resolve("relu")(-1.0))
        0.0
    """
    if activation is None or activation in ("linear", "identity"):
        return None
    function = ACTIVATIONS.get(activation) if isinstance(activation, str) else activation
    if not callable(function):
        raise StackError(f"An activation is a function or one of {', '.join(sorted(ACTIVATIONS))}; got {activation!r}.")
    return function


class Slopes(NamedTuple):
    """φ(x) = right·x for x > 0 and left·x for x < 0."""

    left: float
    right: float


@functools.lru_cache(maxsize=256)
def slopes(function: Function) -> Slopes | None:
    """The two slopes of a positively homogeneous function such as a ReLU; None for any other.

    Only for these is E[φ'²] = (left² + right²)/2 whatever the scale of the data.
    """
    found = two_slopes(_profile(function))
    return None if found is None else Slopes(*found)


def gain(function: Function | None) -> float:
    """1/E[φ'²], what a convolution before the gate must gain for gradients to keep their size: He's 2 for a ReLU, else 1."""
    found = slopes(function) if function is not None else None
    return 2 / (found.left**2 + found.right**2) if found is not None and any(found) else 1.0


class Moments(NamedTuple):
    """E[φ'(z)], E[φ'(z)²] and E[φ(z)²] for a normal z of variance q."""

    mean: float
    square: float
    signal: float


@functools.lru_cache(maxsize=4096)
def mean(function: Function, q: float) -> float:
    """E[φ(z)] for a normal z of variance q."""
    found = slopes(function)
    if found is not None:
        return (found.right - found.left) * math.sqrt(q / (2 * math.pi))
    return float(expectations(_profile(function), lambda both: both[0], np.array([float(q)]))[0])


@functools.lru_cache(maxsize=4096)
def moments(function: Function, q: float) -> Moments:
    """The mean and the second moment of the gate, and the second moment of the output, for a normal input of variance q."""
    found = slopes(function)
    if found is not None:
        square = (found.left**2 + found.right**2) / 2
        return Moments((found.left + found.right) / 2, square, square * q)
    each = (mean_field.mean_gain, mean_field.gain, mean_field.second_moment)
    return Moments(*(float(moment(function, q)) for moment in each))


class PairMoments(NamedTuple):
    """Of positions: E φ and E φ'; of all pairs of them: E[φ(z) φ(z')] and E[φ'(z) φ'(z')]."""

    value: np.ndarray
    slope: np.ndarray
    values: np.ndarray
    slopes: np.ndarray


def pairs(function: Function, second: np.ndarray) -> PairMoments:
    """The moments of φ and φ' at all pairs of normal variables with these second moments (n, n) and zero mean.

    For a positively homogeneous φ these are the arc-cosine kernels; any other is expanded into Hermite polynomials,
    E[f(z) f(z')] = Σ_k a_k a'_k ρ^k with a_k = E[f(√q h) H_k(h)] / √k!, and the pairs of a position with itself are exact.

    Source: Y. Cho, L. Saul, Kernel Methods for Deep Learning, NeurIPS 2009.

    Example:
        >>> import jax, numpy as np
        >>> from erfjax.layers.gates import pairs
        >>> pairs(jax.nn.relu, np.array([[1.0, 0.5], [0.5, 1.0]])).slopes.round(4)
        array([[0.5   , 0.3333],
               [0.3333, 0.5   ]])
    """
    q = np.diagonal(second)
    root = np.sqrt(np.maximum(q, 0))
    rho = np.clip(second / np.maximum(np.outer(root, root), 1e-300), -1, 1)
    np.fill_diagonal(rho, 1.0)
    found = slopes(function)
    if found is not None:
        mean, values, products = straight_pairs(found, root, rho)
        return PairMoments(mean, np.full(len(q), (found.left + found.right) / 2), values, products)
    sizes, which = np.unique(np.round(q, 12), return_inverse=True)
    terms = np.array([_hermite(function, float(size)) for size in sizes])[which]  # (n, 2, terms)
    pair = [
        np.sum([np.outer(c, c) * rho**k for k, c in enumerate(part.T)], axis=0) for part in terms.transpose(1, 0, 2)
    ]
    exact = np.array([moments(function, float(size)) for size in sizes])[which]
    for matrix, diagonal in zip(pair, (exact[:, 2], exact[:, 1]), strict=True):
        np.fill_diagonal(matrix, diagonal)
    return PairMoments(terms[:, 0, 0], terms[:, 1, 0], *pair)


@functools.lru_cache(maxsize=4096)
def _hermite(function: Function, q: float) -> np.ndarray:
    """The first coefficients of φ and φ' in normalised Hermite polynomials, for a normal variable of variance q."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    basis = np.polynomial.hermite_e.hermevander(nodes, TERMS - 1)
    norms = np.sqrt([float(math.factorial(k)) for k in range(TERMS)])
    return _profile(function)(nodes * math.sqrt(q)) @ (weights[:, None] * basis / norms / math.sqrt(2 * math.pi))


_profile = functools.lru_cache(maxsize=256)(Profile)
