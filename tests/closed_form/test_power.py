"""Powers: every method against exact integers and against the others."""

import itertools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erfjax.closed_form import extended_binomial, log_power, power
from erfjax.errors import KernelError
from tests.closed_form.oracles import exact_log_power, integer_power, log_of

SMOOTH = [(1, 1, 1), (1, 2, 3, 4, 5), (0.1, 0.7, 0.2), (1 / 3, 1 / 3, 1 / 3), (5, 1), (0.3, 0.0, 0.041, 0.0, 0.0, 0.2)]
HARD = [
    (3, 0, 1),
    (1, 0, 0, 1, 0, 1, 1),
    (1, 1e-9, 1),
    (1, 1e-12, 1e-3, 1),
    (1e-5, 1, 1e-8, 0, 3),
    (1, 0, 0, 0, 1e-4, 0, 0, 1),
    (0.95, 0.67, 0.82, 0.91, 0.56),
]
EXTREME = [(1.1e-106, 0.9999, 4.4e-112, 9.6e-5), (8.4e-27, 3.8e-95, 1, 6.2e-108)]


def error_of_logs(ours, exact):
    """Largest difference of logarithms in units of the claim: 1e-10, or two ulps where the logarithm is that coarse."""
    assert np.array_equal(np.isneginf(ours), np.isneginf(exact))
    kept = np.isfinite(exact)
    ours, exact = ours[kept], exact[kept]
    return np.max(np.abs(ours - exact) / np.maximum(1e-10, 2 * np.spacing(np.abs(exact))))


@pytest.mark.parametrize(
    ("taps", "n"),
    [*itertools.product(SMOOTH + HARD, (1, 2, 7, 211)), *itertools.product(EXTREME, (3, 43))],
    ids=str,
)
def test_every_point_against_exact_integers(taps, n):
    exact = exact_log_power(taps, n)
    assert error_of_logs(log_power(taps, n), exact) < 1
    normal = (exact > -708) & (exact < 709)
    for method in ("auto", "tilted"):
        ours = power(taps, n, method)
        assert np.max(np.abs(np.log(ours[normal]) - exact[normal]), initial=0) < 1e-10
        assert not ours[np.isneginf(exact)].any()


def test_two_thousand_layers_of_three_taps():
    exact = extended_binomial(2000, 3)
    values, logs = power([1, 1, 1], 2000), log_power([1, 1, 1], 2000)
    assert sum(exact) == 3**2000
    for ours, log, count in zip(values, logs, exact, strict=True):
        if count < 2**1023:
            assert abs(ours / count - 1) < 1e-10
        assert abs(log - log_of(count)) < 1e-10
    normalised = power(np.ones(3) / 3, 2000)
    truth = exact_log_power([1 / 3] * 3, 2000)
    normal = truth > -708
    assert np.abs(np.log(normalised[normal]) - truth[normal]).max() < 1e-10


def test_hundred_thousand_layers_at_fifty_points():
    n, generator = 100_000, np.random.default_rng(0)
    points = {int(m) for m in generator.integers(0, 20_001, 50)}
    logs = log_power([1, 1, 1], n)
    mirrored = logs[::-1]
    for m, count in zip(range(max(points) + 1), integer_power((1, 1, 1), n), strict=False):
        if m in points:
            truth = log_of(count)
            assert abs(logs[m] - truth) < max(1e-10, 2 * np.spacing(truth))
            assert abs(mirrored[m] - truth) < max(1e-10, 2 * np.spacing(truth))


def test_a_million_layers_within_five_seconds():
    start = time.process_time()
    logs = log_power([1, 1, 1], 1_000_000)
    assert time.process_time() - start < 5
    assert logs.shape == (2_000_001,)
    assert np.isfinite(logs).all()
    middle = 1_000_000 * math.log(3) - 0.5 * math.log(2 * math.pi * 1_000_000 * 2 / 3)
    assert abs(logs[1_000_000] - middle) < 1e-6
    assert abs(np.exp(logs - 1_000_000 * math.log(3)).sum() - 1) < 1e-9


@pytest.mark.parametrize(("shape", "n"), [((3, 4), 9), ((1, 4), 6), ((2, 3, 3), 5), ((5, 2), 14)])
def test_methods_agree_on_kernels_that_do_not_separate(shape, n):
    kernel = np.random.default_rng(1).random(shape) ** 3
    direct = power(kernel, n, "direct")
    assert direct.shape == tuple(n * (k - 1) + 1 for k in shape)
    assert np.abs(np.log(power(kernel, n, "tilted") / direct)).max() < 1e-10
    assert np.abs(log_power(kernel, n) - np.log(direct)).max() < 1e-10
    assert np.abs(power(kernel, n, "fft") - direct).max() < 1e-13 * n * kernel.sum() ** n


@pytest.mark.parametrize(
    "kernel",
    [np.eye(3), np.array([[0, 1, 0], [1, 0, 2], [0, 1, 0]]), np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 3]])],
    ids=["diagonal", "checkerboard", "corners"],
)
def test_kernels_with_holes(kernel):
    direct, tilted = power(kernel, 12, "direct"), power(kernel, 12, "tilted")
    assert np.array_equal(direct > 0, tilted > 0)
    assert np.abs(tilted[direct > 0] / direct[direct > 0] - 1).max() < 1e-10


def test_separable_kernels_multiply():
    row, column = np.array([1.0, 2, 1]), np.array([1.0, 3, 3, 2])
    logs = np.add.outer(log_power(column, 300), log_power(row, 300))
    assert np.abs(log_power(np.outer(column, row), 300) - logs).max() < 1e-10


def test_identity_one_tap_and_zeros():
    assert np.array_equal(power(np.ones((3, 5)), 0), np.ones((1, 1)))
    assert np.array_equal(log_power([2.0], 5), [5 * math.log(2)])
    assert np.array_equal(power([0, 2, 0], 3), [0, 0, 0, 8, 0, 0, 0])
    assert not power([0.0, 0.0], 3).any()
    assert np.isneginf(log_power([0.0, 0.0], 3)).all()
    assert np.array_equal(power([0, 1, 0, 2], 2), [0, 0, 1, 0, 4, 0, 4])


def test_signed_kernels_keep_their_absolute_accuracy():
    exact = np.array([math.comb(40, m) * (-1.0) ** m for m in range(41)])
    for method in ("auto", "direct", "fft"):
        assert np.abs(power([1, -1], 40, method) - exact).max() < 1e-13 * 2.0**40
    assert np.allclose(power([-1, -2, -1], 3), -power([1, 2, 1], 3), rtol=1e-12)


def test_fft_scales_without_overflow():
    big = power([1e3, 2e3, 1e3], 80, "fft")
    assert np.isfinite(big).all()
    assert abs(big[80] / power([1e3, 2e3, 1e3], 80)[80] - 1) < 1e-12


@settings(max_examples=25, deadline=None)
@given(
    taps=st.lists(st.one_of(st.just(0.0), st.floats(1e-14, 1.0)), min_size=1, max_size=6).map(lambda t: [0.5, *t]),
    n=st.integers(1, 60),
)
def test_any_non_negative_kernel_keeps_its_digits(taps, n):
    exact = exact_log_power(taps, n)
    assert error_of_logs(log_power(taps, n), exact) < 1
    normal = exact > -708
    assert np.abs(np.log(power(taps, n, "tilted")[normal]) - exact[normal]).max() < 1e-10


def test_jax_kernels_stay_in_jax_and_differentiate(precision):
    kernel = jnp.asarray(np.array([[1.0, 2, 0], [0.5, 1, 3]]), dtype=precision)
    values = jax.jit(lambda w: power(w, 4))(kernel)
    assert isinstance(values, jax.Array)
    assert values.dtype == precision
    reference = power(np.asarray(kernel), 4)
    assert np.allclose(values, reference, rtol=1e-5 if precision == "float32" else 1e-13)
    slope = jax.jit(jax.grad(lambda w: power(w, 4)[2, 3]))(kernel)
    step = np.zeros((2, 3))
    step[1, 1] = 1e-6
    numeric = (power(np.asarray(kernel, np.float64) + step, 4) - power(np.asarray(kernel, np.float64) - step, 4))[
        2, 3
    ] / 2e-6
    assert abs(slope[1, 1] / numeric - 1) < 1e-4
    assert power(jnp.ones(3, jnp.int32), 2).dtype == precision


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: power([], 2), "at least one axis and one tap"),
        (lambda: power(3.0, 2), "at least one axis and one tap"),
        (lambda: power([1, np.nan], 2), r"kernel\[1\] is nan"),
        (lambda: power([1, np.inf], 2), "finite"),
        (lambda: power(jnp.array([np.nan, 1.0]), 2), "nan"),
        (lambda: power(["a"], 2), "real numbers"),
        (lambda: power([1j, 1], 2), "complex"),
        (lambda: power(jnp.ones(2, jnp.complex64), 2), "real part"),
        (lambda: power([1, 1], -1), "no negative power"),
        (lambda: power([1, -1], 3, "tilted"), "taps >= 0"),
        (lambda: power(jnp.ones(3), 3, "fft"), "np.asarray"),
        (lambda: log_power([1, -1], 3), "taps >= 0"),
        (lambda: log_power([1, 1], -3), "0 or more"),
        (lambda: jax.jit(lambda w: log_power(w, 3))(jnp.ones(3)), "traced"),
    ],
)
def test_bad_input_is_taught(call, says):
    with pytest.raises(KernelError, match=says):
        call()


@pytest.mark.parametrize(
    ("taps", "n"),
    [
        ((2.689766060114729e-166, 1292657.0923711201), 7),
        ((128.8814761406085, 1.306543463993775e-108, 2.4717924943399474e-163), 12),
        ((25215671410.242474, 3.1713639643152092e-152), 6),
    ],
)
def test_normal_results_behind_small_taps_keep_their_digits(taps, n):
    """Plain sums of scaled partial powers would lose a tenth of the smallest results that are still normal numbers."""
    values, logs = power(np.array(taps), n), exact_log_power(taps, n)
    normal = (logs > math.log(np.finfo(float).tiny)) & (logs < 700)
    assert normal.sum() >= 2
    np.testing.assert_allclose(np.log(values[normal]), logs[normal], rtol=0, atol=1e-9)
