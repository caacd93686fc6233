"""Chains of different layers, path counts and transfer functions against sums over all paths and against each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erfjax.closed_form import cascade, extended_binomial, laws, power, transfer_function
from erfjax.errors import KernelError
from tests.closed_form.oracles import all_paths, integer_power

CHAINS = [
    ([(3,), (2,), (4,)], (2, 1, 3), (1, 2, 1)),
    ([(1,), (5,), (1,)], (7, 2, 2), (3, 1, 1)),
    ([(3, 2), (2, 4), (3, 1)], ((1, 2), (2, 1), (1, 1)), ((1, 1), (3, 1), (1, 2))),
    ([(2, 1, 3), (3, 2, 1)], ((4, 1, 2), (1, 1, 1)), ((1, 2, 1), (1, 1, 5))),
]


def rows(values, dims):
    return [v if isinstance(v, tuple) else (v,) * dims for v in values]


@pytest.mark.parametrize(("shapes", "strides", "dilations"), CHAINS)
@pytest.mark.parametrize("signed", [False, True])
def test_against_the_sum_over_all_paths(shapes, strides, dilations, signed):
    generator = np.random.default_rng(len(shapes[0]))
    layers = [generator.normal(size=s) if signed else generator.random(s) for s in shapes]
    truth = all_paths(layers, rows(strides, len(shapes[0])), rows(dilations, len(shapes[0])))
    assert np.allclose(cascade(layers, strides, dilations), truth, rtol=1e-13, atol=1e-13)
    assert truth.shape == laws.theoretical_size(layers, strides, dilations)


def test_chain_in_jax_equals_numpy_and_differentiates(precision):
    shapes, strides, dilations = CHAINS[2]
    layers = [np.random.default_rng(0).normal(size=s) for s in shapes]
    traced = jax.jit(lambda ws: cascade(ws, strides, dilations))([jnp.asarray(w, precision) for w in layers])
    tolerance = 1e-5 if precision == "float32" else 1e-13
    assert traced.dtype == precision
    assert np.allclose(traced, cascade(layers, strides, dilations), rtol=tolerance, atol=tolerance)
    mixed = jax.jit(lambda w: cascade([w, *layers[1:]], strides, dilations))(jnp.asarray(layers[0], precision))
    assert np.allclose(mixed, traced, rtol=tolerance, atol=tolerance)
    total = jax.jit(jax.grad(lambda w: cascade([w, layers[1], layers[2]], strides, dilations).sum()))
    gradient = total(jnp.asarray(layers[0], precision))
    assert np.allclose(gradient, layers[1].sum() * layers[2].sum(), rtol=1e-4)


def test_one_kernel_repeated_is_a_power():
    kernel = np.random.default_rng(3).random((2, 3))
    assert np.allclose(cascade([kernel] * 6), power(kernel, 6), rtol=1e-13)


@pytest.mark.parametrize("depth", [1, 3, 12, 40, 100, 300, 1500])
def test_signed_kernels_can_stay_perfectly_flat(depth):
    flat = cascade(laws.flat_kernels(depth))
    assert flat.shape == (2 * depth + 1,)
    assert np.abs(flat - 1).max() < 1e-14 * depth**1.5 + 1e-14


def test_float32_loses_the_flat_field_near_twelve_layers():
    def error(depth):
        return np.abs(cascade([jnp.asarray(w, jnp.float32) for w in laws.flat_kernels(depth)]) - 1).max()

    assert error(4) < 1e-4 < 1e-3 < error(14)


@pytest.mark.parametrize(("n", "k"), [(0, 3), (1, 1), (5, 1), (4, 2), (7, 3), (6, 4), (5, 7), (1, 9), (30, 5)])
def test_extended_binomial_counts_paths(n, k):
    counts = extended_binomial(n, k)
    assert counts == list(integer_power((1,) * k, n))
    assert all(type(c) is int for c in counts)
    assert sum(counts) == k**n

    def formula(t):
        signs = ((-1) ** i * math.comb(n, i) * math.comb(t + n - 1 - k * i, n - 1) for i in range(t // k + 1) if i <= n)
        return sum(signs)

    assert n == 0 or counts == [formula(t) for t in range(n * (k - 1) + 1)]


def test_transfer_function_turns_convolution_into_products():
    generator = np.random.default_rng(5)
    a, b = generator.normal(size=(2, 3)), generator.random((3, 2))
    omega = generator.normal(size=(4, 5, 2))
    chain = cascade([a, b], strides=((2, 3), (1, 1)), dilations=((1, 1), (1, 2)))
    product = transfer_function(a, omega) * transfer_function(b, omega * np.array([2, 6]))
    assert product.shape == (4, 5)
    assert np.allclose(transfer_function(chain, omega), product, rtol=1e-12)
    grid = 2 * np.pi * np.arange(9) / 9
    assert np.allclose(transfer_function(power([1, 2, 0.5], 4), grid), transfer_function([1, 2, 0.5], grid) ** 4)
    assert transfer_function([1, 1, 1], 0.0) == 3


def test_transfer_function_in_jax(precision):
    w, omega = np.array([0.2, 0.5, -0.1]), np.linspace(-3, 3, 7)
    traced = jax.jit(transfer_function)(jnp.asarray(w, precision), jnp.asarray(omega, precision))
    assert traced.dtype == {"float32": "complex64", "float64": "complex128"}[precision]
    assert np.allclose(traced, transfer_function(w, omega), atol=1e-6)
    slope = jax.grad(lambda v: jnp.abs(transfer_function(v, 0.0)))(jnp.asarray(w, precision))
    assert np.allclose(slope, 1.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cascade([]), "at least one kernel"),
        (lambda: cascade([[1, 1], [[1, 1]]]), "same number of axes"),
        (lambda: cascade([[1, 1], [1]], strides=(1, 2, 3)), r"one entry per layer \(2\)"),
        (lambda: cascade([[1, 1], [1]], strides=(1, 0)), "positive integers"),
        (lambda: cascade([[1, 1], [1]], dilations=((1, 1), (1, 1))), "one per axis"),
        (lambda: cascade([[1, 1], [1]], dilations=1.5), "positive integers"),
        (lambda: extended_binomial(3, 0), "k >= 1"),
        (lambda: extended_binomial(-1, 2), "0 or more"),
        (lambda: transfer_function(np.ones((2, 2)), np.zeros((5, 3))), "2 components"),
    ],
)
def test_bad_chains_are_taught(call, says):
    with pytest.raises(KernelError, match=says):
        call()
