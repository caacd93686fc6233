"""Elementwise nonlinearities: the functions behind their names, and the moments of their derivatives (the gates)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from erfjax.closed_form import mean_field
from erfjax.closed_form.gaussian_integrals import Profile, two_slopes
from erfjax.closed_form.mean_field import ACTIVATIONS
from erfjax.errors import StackError

Function = Callable[[Any], Any]


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
    found = two_slopes(Profile(function))
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
def moments(function: Function, q: float) -> Moments:
    """The mean and the second moment of the gate, and the second moment of the output, for a normal input of variance q."""
    found = slopes(function)
    if found is not None:
        square = (found.left**2 + found.right**2) / 2
        return Moments((found.left + found.right) / 2, square, square * q)
    each = (mean_field.mean_gain, mean_field.gain, mean_field.second_moment)
    return Moments(*(float(moment(function, q)) for moment in each))
