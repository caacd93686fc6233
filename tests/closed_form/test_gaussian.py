"""Moments, the central limit and its corrections, against exact maps and textbook formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from erfjax.closed_form import (
    berry_esseen,
    edgeworth,
    gaussian,
    log_power,
    moments,
    power,
    saddlepoint,
)
from erfjax.errors import KernelError

KERNELS = {
    "uniform": np.ones(3),
    "skewed": np.array([0.5, 0.3, 0.1, 0.1]),
    "matrix": np.random.default_rng(0).random((3, 4)),
    "box": np.random.default_rng(1).random((2, 3, 3)),
    "flat axis": np.array([[1.0, 2, 2]]),
}


@pytest.mark.parametrize("name", KERNELS)
def test_cumulants_of_a_power_are_n_times_those_of_the_kernel(name):
    kernel, n = KERNELS[name], 7
    one, many = moments(kernel), moments(power(kernel, n))
    assert many.total == pytest.approx(one.total**n)
    assert np.allclose(many.cumulants, n * np.array(one.cumulants), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_moments_of_uniform_kernels(k):
    law = moments(np.ones((k, 1)))
    assert law.variance == pytest.approx(((k * k - 1) / 12, 0.0))
    assert law.mean == ((k - 1) / 2, 0.0)
    assert law.excess_kurtosis[0] == pytest.approx(-6 / 5 * (k * k + 1) / (k * k - 1))
    assert law.skewness[0] == pytest.approx(0, abs=1e-12)
    assert math.isnan(law.skewness[1])


def test_moments_and_gaussian_differentiate(precision):
    kernel = jnp.asarray([[0.1, 0.5, 0.3], [0.2, 0.1, 0.4]], precision)
    gradient = jax.jit(jax.grad(lambda w: moments(w).variance[1]))(kernel)
    p, x = np.asarray(kernel, np.float64), np.arange(3)
    total, mean, square = p.sum(), (p.sum(0) @ x) / p.sum(), (p.sum(0) @ x**2) / p.sum()
    exact = ((x**2 - square) - 2 * mean * (x - mean)) / total
    assert np.allclose(gradient, np.broadcast_to(exact, (2, 3)), atol=1e-5 if precision == "float32" else 1e-12)
    bell = jax.jit(lambda w: gaussian(w, 5))(kernel)
    assert bell.dtype == precision
    assert np.allclose(bell, gaussian(p, 5), rtol=1e-3, atol=1e-4)
    assert np.isfinite(jax.jit(jax.grad(lambda w: (gaussian(w, 5) ** 2).sum()))(kernel)).all()
    assert len(jax.tree.leaves(jax.jit(moments)(kernel))) == 17


@pytest.mark.parametrize("name", KERNELS)
def test_gaussian_lives_on_the_grid_of_the_power_and_converges(name):
    kernel, errors = KERNELS[name], []
    for n in (4, 16):
        exact, bell = power(kernel, n), gaussian(kernel, n)
        assert bell.shape == exact.shape
        assert bell.sum() == pytest.approx(kernel.sum() ** n, rel=1e-12)
        errors.append(np.abs(bell - exact).max() / exact.max())
    assert errors[1] < 0.6 * errors[0] < 0.2


def test_gaussian_without_variance_is_a_point_or_a_line():
    assert np.array_equal(gaussian([0, 2.0], 3), [0, 0, 0, 8])
    assert np.array_equal(gaussian(np.ones((3, 2)), 0), [[1.0]])
    diagonal = gaussian(np.eye(3), 4)
    assert np.allclose(diagonal, np.diag(gaussian(np.ones(3), 4)))


@pytest.mark.parametrize("name", ["uniform", "skewed"])
def test_edgeworth_is_the_textbook_formula(name):
    kernel, n = KERNELS[name], 12
    law = moments(kernel)
    (mean,), (variance,) = law.mean, law.variance
    y = (np.arange(n * (len(kernel) - 1) + 1) - n * mean) / math.sqrt(n * variance)
    he = scipy.special.eval_hermitenorm
    skewness, kurtosis = law.skewness[0], law.excess_kurtosis[0]
    series = (
        1
        + skewness * he(3, y) / (6 * math.sqrt(n))
        + kurtosis * he(4, y) / (24 * n)
        + skewness**2 * he(6, y) / (72 * n)
    )
    textbook = kernel.sum() ** n * scipy.stats.norm.pdf(y) / math.sqrt(n * variance) * series
    assert np.allclose(edgeworth(kernel, n), textbook, rtol=1e-10)


@pytest.mark.parametrize("name", KERNELS)
def test_corrections_are_better_than_the_gaussian(name):
    kernel, n = KERNELS[name], 12
    exact = power(kernel, n)
    bell, series, saddle = (
        np.abs(f(kernel, n) - exact).max() / exact.max() for f in (gaussian, edgeworth, saddlepoint)
    )
    assert series < bell / 4
    assert series < 6e-3
    assert saddle < 0.06


@pytest.mark.parametrize("taps", [[1, 0, 0, 2], [0, 3, 0, 1, 0, 1], [[1, 0, 2], [0, 1, 0]]], ids=str)
def test_edgeworth_and_saddlepoint_know_the_lattice_and_converge(taps):
    """Taps two or three pixels apart: the mass stands on the lattice they generate, and nowhere else."""
    kernel = np.array(taps, float)
    errors = []
    for n in (8, 32):
        exact = power(kernel, n)
        for approximation in (edgeworth, saddlepoint):
            values = approximation(kernel, n)
            assert not values[exact == 0].any()
            errors.append(np.abs(values - exact).max() / exact.max())
    assert errors[2] < errors[0] / 3
    assert errors[3] < errors[1] / 3


def test_saddlepoint_keeps_relative_accuracy_in_the_tails():
    for n in (10, 1000, 5000):
        error = saddlepoint([1, 2, 3, 1], n, log=True) - log_power([1, 2, 3, 1], n)
        assert np.abs(error).max() < 0.1
        assert np.abs(error[5:-5]).max() < 0.03
        assert np.abs(error[n : 2 * n]).max() < 0.3 / n
    assert np.allclose(np.log(saddlepoint([1, 1, 1], 9)), saddlepoint([1, 1, 1], 9, log=True))


def test_saddlepoint_knows_the_lattice():
    checkerboard = np.array([[0, 1, 0], [1, 0, 2], [0, 1, 0]])
    exact, saddle = power(checkerboard, 30), saddlepoint(checkerboard, 30)
    assert np.array_equal(exact > 0, saddle > 0)
    inner = exact > 1e-2 * exact.max()
    assert np.abs(saddle[inner] / exact[inner] - 1).max() < 0.06
    assert np.allclose(saddlepoint([1, 0, 0, 1], 6)[::3], saddlepoint([1, 1], 6))


def test_signed_kernels_with_negative_total():
    assert np.sign(gaussian([-1, -2, -1], 3).sum()) == -1
    with pytest.raises(KernelError, match="positive variance"):
        gaussian([1, -3, 1], 3)


@pytest.mark.parametrize("kernel", [np.ones(3), np.ones(2), np.array([1, 0, 0, 5.0])], ids=str)
@pytest.mark.parametrize("n", [1, 4, 100, 3000])
def test_berry_esseen_bounds_the_true_distance(kernel, n):
    result = berry_esseen(kernel, n)
    assert 0 < result.distance <= result.bound
    if len(kernel) == 2:
        exact = scipy.stats.binom(n, 0.5)
        x = np.arange(n + 1)
        normal = scipy.stats.norm.cdf((x - n / 2) / math.sqrt(n / 4))
        truth = max(np.abs(exact.cdf(x) - normal).max(), np.abs(exact.cdf(x - 1) - normal).max())
        assert result.distance == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize(
    ("kernel", "ratio"), [([1, 1], 1.0), ([1, 1, 1], math.sqrt(1.5)), ([9, 1], (0.9 * 0.001 + 0.1 * 0.729) / 0.09**1.5)]
)
def test_berry_esseen_has_the_published_constants(kernel, ratio):
    """Shevtsova 2011, theorems 1 and 2: 0.33554 (ρ + 0.415 σ³) and 0.4748 ρ, over σ³ √n; `ratio` is ρ / σ³."""
    expected = min(0.33554 * (ratio + 0.415), 0.4748 * ratio)
    assert berry_esseen(kernel, 7).bound == pytest.approx(expected / math.sqrt(7), rel=1e-12)


def test_berry_esseen_of_a_marginal():
    kernel = np.outer([1, 2, 1], [1, 1])
    assert berry_esseen(kernel, 9, axis=0) == berry_esseen([1, 2, 1], 9)
    assert berry_esseen(kernel, 9, axis=-1) == berry_esseen([1, 1], 9)
    with pytest.raises(KernelError, match="axis"):
        berry_esseen(kernel, 9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: moments([1, -1]), "sum to 0"),
        (lambda: moments([]), "at least one axis"),
        (lambda: gaussian([1, 1], -1), "0 or more"),
        (lambda: edgeworth([1, 1], 0), "at least one step"),
        (lambda: edgeworth(np.eye(2), 3), "every direction"),
        (lambda: edgeworth([2.0], 3), "every direction"),
        (lambda: saddlepoint([1, -2, 4], 3), "taps >= 0"),
        (lambda: saddlepoint(np.eye(2), 3), "every direction"),
        (lambda: berry_esseen([0, 1], 3), "no variance"),
        (lambda: berry_esseen([1, 1], 3, axis=1), "axis"),
    ],
)
def test_bad_input_is_taught(call, says):
    with pytest.raises(KernelError, match=says):
        call()
