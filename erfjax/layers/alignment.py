"""How a gradient that has passed a gate goes with the activation in front of it.

Behind a gate φ let the gradient be D, or A φ(z), with numbers D and A; in front of it, it is D φ'(z) or A φ(z) φ'(z). For a
normal z of variance q both are split into a constant, a part proportional to z, and a rest that is uncorrelated with both:

    D φ'  = D (E φ' + κ z) + ...          κ  = E[z φ'] / q
    A φφ' = A (E φφ' + λ z) + ...         λ  = E[z φφ'] / q

By Stein's lemma E[w ψ(z)] = Var w · a · E[z ψ]/q for a normal weight w that reads the activation a into z: only the part
proportional to z leads the weights to agree.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from erfjax.closed_form import mean_field
from erfjax.layers import gates

EVEN = 1e-9  # a κ below this share of the gate is zero but for rounding: φ' is even, as for tanh


class Alignment(NamedTuple):
    """Gaussian moments of φ and φ' that the split needs, beside E φ' and E φ'²."""

    constant: float  # E[φφ']
    slope: float  # κ
    growth: float  # λ
    mixed: float  # E[φφ'²]
    square: float  # E[φ²φ'²]


@functools.lru_cache(maxsize=4096)
def alignment(function: gates.Function, q: float) -> Alignment:
    """The moments for a normal input of variance q: in closed form for a positively homogeneous φ, else by quadrature."""
    found = gates.slopes(function)
    if found is not None:
        left, right = found
        deviation = math.sqrt(q / (2 * math.pi))
        even = right**2 + left**2
        return Alignment(
            (right**2 - left**2) * deviation,
            (right - left) * deviation / q,
            even / 2,
            (right**3 - left**3) * deviation,
            (right**4 + left**4) / 2 * q,
        )
    constant, slope, growth, mixed, square = (float(mean_field.mean_gain(f, q)) for f in _integrands(function))
    negligible = abs(slope) * math.sqrt(q) <= EVEN * math.sqrt(gates.moments(function, q).square)
    return Alignment(constant, 0.0 if negligible else slope / q, growth / q, mixed, square)


@functools.lru_cache(maxsize=256)
def _integrands(function: gates.Function) -> tuple[Callable[[Any], Any], ...]:
    """Functions whose derivatives are the integrands: `mean_gain` is E of a derivative."""

    def with_slope(integrand: Callable[[Any, Any, Any], Any]) -> Callable[[Any], Any]:
        @jax.custom_jvp
        def primitive(x: Any) -> Any:
            return jnp.zeros_like(x)

        @primitive.defjvp
        def _rule(primals: Any, tangents: Any) -> Any:
            (x,), (t,) = primals, tangents
            value, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
            return jnp.zeros_like(x), integrand(x, value, slope) * t

        return primitive

    return (
        with_slope(lambda z, f, d: f * d),
        with_slope(lambda z, f, d: z * d),
        with_slope(lambda z, f, d: z * f * d),
        with_slope(lambda z, f, d: f * d**2),
        with_slope(lambda z, f, d: f**2 * d**2),
    )
