"""Second moments of stacks: what is fixed, by enumerating sign patterns; what goes with activations, by integrals; jets."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erfjax.layers import Activation, AvgPool, Conv, Identity
from erfjax.layers.alignment import alignment
from erfjax.layers.polynomials import Dense, Jet


def _brute(stack_weights, output_to_input):
    """E[g²] of a 1-D chain or sum by enumerating independent ±1 signs of the weights; each entry gives g for signs."""
    signs = itertools.product((-1.0, 1.0), repeat=stack_weights)
    return np.mean([output_to_input(np.array(s)) ** 2 for s in signs], axis=0)


def test_fixed_kernels_interfere_before_they_are_squared():
    """(1 + w·u) u with random ±1/√3 weights w (three taps) and averages u, enumerated."""
    stack = (Identity() + Conv((3,)) * AvgPool((3,), stride=1)) * AvgPool((3,), stride=1)
    u = np.ones(3) / 3

    def gradient(signs):
        branch = np.convolve(signs / math.sqrt(3), u)
        branch[2] += 1
        return np.convolve(branch, u)

    field = stack.analytic(in_channels=1, width=1, out_channels=1)
    np.testing.assert_allclose(field.map, _brute(3, gradient), rtol=1e-12)


def _taps(name, w, scale):
    half = np.ones(2) / 2
    if name == "block":
        return np.array([1.0, 0.0]) + 0.5 * scale * w
    if name == "wide":
        return np.array([1.0, 0.0, 0.0]) + np.convolve(w, half)
    return {"conv": w, "avg": half, "fixed": np.array([1.0, -2.0])}[name]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["conv", "avg", "fixed", "block", "wide"]), min_size=1, max_size=4), st.integers(1, 3))
def test_paths_against_enumeration(names, scale):
    """Random products of random layers, averages, given kernels and residual blocks: every sign pattern, one channel."""
    pieces = {
        "conv": Conv((2,)),
        "avg": AvgPool((2,), stride=1),
        "fixed": Conv(weights=[1.0, -2.0]),
        "block": Identity() + 0.5 * scale * Conv((2,)),
        "wide": Identity() + AvgPool((2,), stride=1) * Conv((2,)),
    }
    stack = math.prod([pieces[name] for name in names], start=Identity())
    count = 2 * sum(name in ("conv", "block", "wide") for name in names)

    def gradient(signs):
        signs, result = list(signs), np.ones(1)
        for name in names:
            w = np.array([signs.pop(), signs.pop()]) / math.sqrt(2) if name in ("conv", "block", "wide") else None
            result = np.convolve(result, _taps(name, w, scale))
        return result

    field = stack.analytic(in_channels=1, width=1, out_channels=1)
    start, stop = field.theoretical.start[0], field.theoretical.stop[0]
    np.testing.assert_allclose(field.map[start:stop], _brute(count, gradient), rtol=1e-10, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_jets_are_moments_of_dense_polynomials(seed):
    rng = np.random.default_rng(seed)
    a, b = (Dense(rng.random(rng.integers(1, 5, 2)), tuple(rng.integers(-3, 4, 2).tolist())) for _ in range(2))
    for dense, jet in (
        (a * b, Jet.of(a) * Jet.of(b)),
        (a + b, Jet.of(a) + Jet.of(b)),
        (a.spread((2, 3)).scaled(-2.0), Jet.of(a).spread((2, 3)).scaled(-2.0)),
    ):
        expected = Jet.of(dense)
        np.testing.assert_allclose(jet.centre, expected.centre, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(jet.axial, expected.axial, rtol=1e-9, atol=1e-8)
        np.testing.assert_allclose(jet.joint, expected.joint, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(1, 2, (2,)), (3, 5, (3,)), (2, 8, (2, 3))])
def test_summed_channels_of_one_layer(inputs, outputs, kernel):
    """Exact at any width. With z = w·x, n weights per channel and |x| free to vary: E[φ'(z) w] = Var w x / (√(2π Var w) |x|),
    and E[x_a²/|x|²] = 1/n, so the mean gradient has C(C - 1) Var w / (2π n) in each weight's place, beside C Var w / 2.
    """
    taps = math.prod(kernel)
    n = inputs * taps
    variance = 2 / n  # He's
    each = inputs * (outputs * variance / 2 + outputs * (outputs - 1) * variance / (2 * math.pi * n))
    settings = {"in_channels": inputs, "out_channels": outputs}
    field = (Conv(kernel, padding="VALID") * Activation("relu")).analytic(**settings)
    np.testing.assert_allclose(field.map, np.full(kernel, each), rtol=1e-12)


SLOPES = {"relu": lambda z: z > 0, "softplus": lambda z: 1 / (1 + np.exp(-z)), "tanh": lambda z: 1 / np.cosh(z) ** 2}


@pytest.mark.parametrize("q", [0.3, 2.0])
@pytest.mark.parametrize("name", ["relu", "softplus", "tanh"])
def test_alignment_is_made_of_gaussian_moments(name, q):
    edges = np.linspace(-12, 12, 2**17 + 1)
    u = (edges[1:] + edges[:-1]) / 2  # midpoints: a kink at 0 is an edge
    z = u * math.sqrt(q)
    value = {"relu": np.maximum(z, 0), "softplus": np.logaddexp(z, 0), "tanh": np.tanh(z)}[name]
    weight, slope = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi) * (u[1] - u[0]), SLOPES[name](z)
    integrands = (value * slope, z * slope / q, z * value * slope / q, value * slope**2, (value * slope) ** 2)
    function = {"relu": jax.nn.relu, "softplus": jax.nn.softplus, "tanh": jax.numpy.tanh}[name]
    np.testing.assert_allclose(alignment(function, q), [weight @ f for f in integrands], rtol=1e-8, atol=1e-12)
