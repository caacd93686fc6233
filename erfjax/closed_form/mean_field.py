"""Mean field: what an elementwise nonlinearity does to variances and to squared gradients when its input is Gaussian.

With pre-activations z ~ N(0, q) a nonlinearity φ multiplies the expected squared gradient by the gain E[φ'(z)²] and
carries the variance to the next layer by q' = σ_w² E[φ(z)²] + σ_b². Expectations are integrals over one Gaussian:

    E[g(√q z)] = ∫ g(√q z) e^{-z²/2} dz / √(2π)

done in float64 whatever JAX's x64 flag says (`gaussian_integrals`), to some twelve digits. φ is any elementwise JAX function,
or a name.
"""

import functools
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from erfjax.closed_form.gaussian_integrals import Profile, expectations
from erfjax.errors import KernelError
from erfjax.typing import Number

Activation = str | Callable[..., Any]
"""An elementwise JAX function, or the name of one in `ACTIVATIONS`."""

ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "abs": jnp.abs,
    "erf": jax.lax.erf,
    "identity": lambda x: x,
    "linear": lambda x: x,
    "sin": jnp.sin,
    "softsign": jax.nn.soft_sign,
} | {
    name: getattr(jax.nn, name)
    for name in (
        *("celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu", "log_sigmoid"),
        *("mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus", "squareplus", "swish", "tanh"),
    )
}
"""Every activation that has a name, here and in `layers`."""

TABLE = 256
"""More different variances are interpolated from as many Chebyshev nodes in log q, where every gain is analytic."""

SMALLEST = 1e-24
"""Stands for the limit q -> 0."""

CLOSED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda q: np.ones_like(q),
    "identity": lambda q: np.ones_like(q),
    "abs": lambda q: np.ones_like(q),
    "relu": lambda q: np.full_like(q, 0.5),
    "erf": lambda q: 4 / (np.pi * np.sqrt(1 + 4 * q)),
    "sin": lambda q: (1 + np.exp(-2 * q)) / 2,
}
"""E[φ'(z)²] where it is elementary."""


def gain(phi: Activation, q: Any) -> Any:
    """The factor E[φ'(z)²], z ~ N(0, q), by which a nonlinearity multiplies the expected squared gradient.

    ReLU 1/2, identity 1, erf 4/(π√(1 + 4q)), leaky ReLU (a² + b²)/2; for smooth φ it tends to φ'(0)² as q -> 0.

    Args:
        phi: elementwise JAX function or a name.
        q: variance of the pre-activation, a number or an array of any shape, q >= 0 (0 means the limit from above).

    Returns:
        A float for a number, a float64 array of q's shape for an array.

    Raises:
        KernelError: an unknown name, a variance that is negative or not finite, or a φ that is not elementwise.

    Source: Luo et al. 2016, section 2.3; S. S. Schoenholz et al., *Deep Information Propagation*, 2017, equation 3.

    Example:
        >>> import erfjax as ej
        >>> [round(ej.closed_form.mean_field.gain("tanh", q), 4) for q in (0.1, 0.5, 1.0, 2.0)]
        [0.8492, 0.5924, 0.4644, 0.3495]
    """
    if isinstance(phi, str) and phi in CLOSED:
        return _over(q, CLOSED[phi])
    return _moment(phi, q, lambda both: both[1] ** 2)


def mean_gain(phi: Activation, q: Any) -> Any:
    """The factor E[φ'(z)], z ~ N(0, q), by which a nonlinearity multiplies the expected (signed) gradient: the
    first-moment twin of `gain`.

    Args:
        phi: elementwise JAX function, or a name such as "relu" or "tanh".
        q: variance of the pre-activation, a number or an array.

    Example:
        >>> import erfjax as ej
        >>> round(ej.closed_form.mean_field.mean_gain("relu", 3.0), 6)
        0.5
    """
    return _moment(phi, q, lambda both: both[1])


def second_moment(phi: Activation, q: Any) -> Any:
    """The second moment E[φ(z)²], z ~ N(0, q), of the activation.

    Args:
        phi: elementwise JAX function, or a name such as "relu" or "tanh".
        q: variance of the pre-activation, a number or an array.

    Example:
        >>> import erfjax as ej
        >>> round(ej.closed_form.mean_field.second_moment("relu", 3.0), 6)
        1.5
    """
    return _moment(phi, q, lambda both: both[0] ** 2)


def variance(phi: Activation, q: Any, sigma_w: Number = 1.0, sigma_b: Number = 0.0) -> Any:
    """The variance of the next pre-activation, q' = σ_w² E[φ(z)²] + σ_b², z ~ N(0, q), for weights of variance σ_w² /
    fan-in.

    Args:
        phi: elementwise JAX function, or a name such as "relu" or "tanh".
        q: variance of the pre-activation, a number or an array.
        sigma_w, sigma_b: standard deviations of the weights (times √fan-in) and of the biases.

    Source: Schoenholz et al. 2017, equation 3.

    Example:
        >>> import erfjax as ej
        >>> round(ej.closed_form.mean_field.variance("relu", 3.0, sigma_w=2**0.5), 6)
        3.0
    """
    return sigma_w**2 * second_moment(phi, q) + sigma_b**2


def fixed_point(phi: Activation, sigma_w: Number = 1.0, sigma_b: Number = 0.0, start: Number = 1.0) -> float:
    """The variance q* = σ_w² E[φ(z)²] + σ_b² that a deep network settles at when its first layer has variance `start`.

    It is the nearest fixed point in the direction in which `start` moves; `start` itself where nothing moves (ReLU with
    σ_w² = 2).

    Args:
        phi: elementwise JAX function or a name.
        sigma_w, sigma_b: standard deviations of the weights (times √fan-in) and of the biases.
        start: variance to start from, > 0.

    Raises:
        KernelError: as `gain`, or the variance grows without bound.

    Source: Schoenholz et al. 2017, section 3.

    Example:
        >>> import erfjax as ej
        >>> round(ej.closed_form.mean_field.fixed_point("tanh", sigma_w=1.5, sigma_b=0.05), 4)
        0.7984
    """
    if not (math.isfinite(start) and start > 0):
        raise KernelError(f"`start` must be a positive variance, but got {start}.")
    if not (math.isfinite(sigma_w) and math.isfinite(sigma_b)):
        raise KernelError(f"`sigma_w` and `sigma_b` must be finite, but got {sigma_w} and {sigma_b}.")

    def growth(q: float) -> float:
        return variance(phi, q, sigma_w, sigma_b) - q

    start = float(start)
    first = growth(start)
    if abs(first) <= 1e-12 * start:
        return start
    factor = 2.0 if first > 0 else 0.5
    near, far = start, start * factor
    while (growth(far) > 0) == (first > 0):
        near, far = far, far * factor
        if far > 1e12:
            raise KernelError(
                f"The variance grows without bound from {start} (σ_w = {sigma_w}, σ_b = {sigma_b}): no fixed point."
            )
        if far < 1e-12:
            return 0.0
    return float(scipy.optimize.brentq(growth, near, far, xtol=1e-15, rtol=1e-13))


def _moment(phi: Activation, q: Any, g: Callable[[np.ndarray], np.ndarray]) -> Any:
    """E[g], a function of φ and φ' stacked, for every q."""
    function = _named(phi)
    profile = _profile(function) if isinstance(function, Hashable) else _checked(function)
    return _over(q, functools.partial(expectations, profile, g))


def _named(phi: Activation) -> Callable[..., Any]:
    if not isinstance(phi, str):
        return phi
    if phi not in ACTIVATIONS:
        raise KernelError(
            f"There is no activation {phi!r}: give a function, or one of {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[phi]


@functools.lru_cache(maxsize=128)
def _profile(phi: Callable[..., Any]) -> Profile:
    return _checked(phi)


def _checked(phi: Callable[..., Any]) -> Profile:
    profile = Profile(phi)
    profile.check()
    return profile


def _over(q: Any, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A function of vectors of positive variances on a number or an array; many values are interpolated in log q."""
    try:
        values = np.asarray(q, dtype=np.float64)
    except (TypeError, ValueError) as error:  # a traced array among them
        raise KernelError(f"A variance q must be a number or an array of known numbers: {error}") from error
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if wrong.size:
        raise KernelError(f"A variance q must be finite and 0 or more, but got {wrong[0]}.")
    distinct, back = np.unique(np.maximum(values, SMALLEST), return_inverse=True)
    if len(distinct) > TABLE:
        logs = np.log(distinct)
        table = np.polynomial.Chebyshev.interpolate(
            lambda s: function(np.exp(s)), TABLE - 1, domain=[logs[0], logs[-1]]
        )
        result = table(logs)
    else:
        result = function(distinct) if len(distinct) else distinct
    shaped = result[back].reshape(values.shape)
    return float(shaped) if np.ndim(q) == 0 else shaped
