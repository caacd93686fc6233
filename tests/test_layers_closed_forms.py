"""Closed forms of stacks, and what they say was assumed, against published and derived numbers."""

import math

import numpy as np
import pytest

from erfjax.closed_form import cascade, gaussian, power
from erfjax.errors import UnitError
from erfjax.layers import Activation, AvgPool, Conv, Dropout, Identity, MaxPool, SparseConv

C = Conv(3)
RELU = Activation("relu")


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (2, 5), (3, 2, 4)])
@pytest.mark.parametrize("statistic", ["square", "mean"])
def test_plain_powers_are_closed_form_powers(kernel, statistic):
    stack = Conv(kernel) ** 4
    uniform = np.full(kernel, 1 / math.prod(kernel))
    field = stack.analytic(statistic)
    start, stop = field.theoretical.start, field.theoretical.stop
    inner = field.map[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    np.testing.assert_allclose(inner, 32 * power(uniform, 4), rtol=1e-12)
    np.testing.assert_allclose(inner.sum(), field.map.sum(), rtol=1e-12)


def test_chains_are_cascades():
    stack = Conv((3,)) * AvgPool((2,)) * Conv((5,), dilation=2) * Conv((3,), stride=3, padding="VALID") * Conv((2,))
    field = stack.analytic("mean")
    kernels = [np.full(k, 1 / k) for k in (3, 2, 5, 3, 2)]
    expected = cascade(kernels, [1, 2, 1, 3, 1], [1, 1, 2, 1, 1])
    inner = field.map[field.theoretical.start[0] : field.theoretical.stop[0]]
    np.testing.assert_allclose(inner, 32 * np.asarray(expected), rtol=1e-12)


def test_given_weights_are_the_map_and_square_where_nothing_is_random():
    w = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    stack = Conv(weights=w)
    kernel = stack.analytic("mean", in_channels=1, image_shape=(6, 7), unit=(2, 3))
    np.testing.assert_array_equal(kernel.map[2:4, 2:5], w)
    np.testing.assert_array_equal(
        stack.analytic("square", in_channels=2).map, 2 * stack.analytic("mean", in_channels=1).map ** 2
    )


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_residual_blocks_are_binomial_mixtures(scale):
    n, m = 7, 2
    stack = (Identity() + scale * C**m) ** n
    one = np.full((3, 3), 1 / 9)
    for statistic, weight in (("mean", scale), ("square", scale**2)):
        p = weight / (1 + weight)
        mixture = np.zeros((2 * n * m + 1,) * 2)
        for active in range(n + 1):
            branch = power(one, active * m) if active else np.ones((1, 1))
            pad = n * m - active * m
            mixture += math.comb(n, active) * p**active * (1 - p) ** (n - active) * np.pad(branch, pad)
        field = stack.analytic(statistic)
        np.testing.assert_allclose(field.normalised(), mixture, rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(stack.variance(statistic), n * p * m * 2 / 3, rtol=1e-12)
    if scale == 1.0:
        plain = (C ** (n * m)).variance()[0]
        assert stack.variance()[0] == pytest.approx(plain / 2, rel=1e-12)


@pytest.mark.parametrize(("k", "gain"), [(3, 1.2247), (5, 1.4142), (7, 1.5)])
def test_corner_kernels_are_widest(k, gain):
    corner = Conv(weights=[0.5, *[0.0] * (k - 2), 0.5]) ** 6
    uniform = Conv((k,)) ** 6
    assert math.sqrt(corner.variance("mean")[0] / uniform.variance("mean")[0]) == pytest.approx(gain, abs=5e-5)
    lattice = corner.analytic("mean").map
    assert np.all(lattice.reshape(-1)[np.arange(lattice.size) % (k - 1) != 0] == 0)


def test_luo_sizes():
    sizes = [(C**n).analytic().size("luo") for n in (5, 10, 20, 40)]
    np.testing.assert_allclose(sizes, [8.31, 11.70, 16.16, 22.74], atol=0.005)


def test_flat_field_of_signed_three_tap_products():
    n = 8
    phi = 2 * math.pi / (2 * n + 1)
    factors = [Conv(weights=[1.0, -2 * math.cos(i * phi), 1.0]) for i in range(1, n + 1)]
    stack = math.prod(factors[1:], start=factors[0])
    np.testing.assert_allclose(stack.analytic("mean", in_channels=1).map, np.ones(2 * n + 1), atol=1e-12)


def test_gates_dropout_and_factors():
    base = (C**3).analytic().map
    relu = C * RELU * C * RELU * C * RELU
    for stack, net in ((relu, {}), (C**3, {"activation": "relu"})):
        apart = net | {"channels": "random-signs"}
        np.testing.assert_allclose(stack.analytic(**apart).map, base, rtol=1e-12)  # He: 2/fan_in, halved by the gate
        np.testing.assert_allclose(stack.analytic(init="lecun", **apart).map, base / 8, rtol=1e-12)
    np.testing.assert_allclose((C**2 * Dropout(0.75) * C).analytic().map, 4 * base, rtol=1e-12)
    np.testing.assert_allclose((C**3 * Dropout(0)).analytic().map, base)
    np.testing.assert_allclose((C * 3.0 * C**2).analytic().map, 9 * base, rtol=1e-12)
    np.testing.assert_allclose((C**3).analytic("rms", in_channels=5).map, np.sqrt(5 * base), rtol=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("tanh", 0.4644), ("sigmoid", 0.0448)])
def test_mean_field_gates(name, expected):
    """E[φ'(z)²] at q = 1, of which the first layer of a LeCun network on unit input has exactly one."""
    field = (C * Activation(name)).analytic(init="lecun", out_channels=1)
    assert field.map.sum() == pytest.approx(expected, abs=1e-4)
    assert field.coverage == "approximate"
    assert "mean field" in field.notes[0]


def test_channels_mean_what_they_mean_in_a_measurement():
    linear = C * RELU * C
    whole = linear.analytic()
    assert whole.channels == "sum"
    assert whole.averages == "weights"
    for channels, share in (("random-signs", 1), ("frobenius", 1), (7, 1 / 32)):
        field = linear.analytic(channels=channels)
        assert field.channels == channels
        np.testing.assert_allclose(field.map, whole.map * share, rtol=1e-14)
    uniform = {"init": "uniform", "in_channels": 2, "out_channels": 4}  # g = 1/18 for each of 4 equal channels
    for channels, total in (("sum", 16), ("frobenius", 4), (3, 1)):
        assert C.analytic(channels=channels, **uniform).map.sum() == pytest.approx(2 * 9 * total / 18**2)
    assert C.analytic("mean", channels=np.int64(0)).map.sum() == pytest.approx(1)
    for channels, statistic, says in (
        (32, "square", "32 output channels"),
        ("all", "square", "channels"),
        ("random-signs", "mean", "squares only"),
    ):
        with pytest.raises(UnitError, match=says):
            C.analytic(statistic, channels=channels)


def test_the_coherent_part_of_summed_channels_is_said():
    stack = C * RELU * C * RELU
    field = stack.analytic()
    assert field.coverage == "approximate"
    assert "relu: summed channels agree in part" in field.notes[0]
    assert stack.analytic(channels="random-signs").coverage == "exact"
    assert stack.analytic(out_channels=1).coverage == "exact"  # nothing to sum
    assert (stack * Conv(1)).analytic().coverage == "exact"
    np.testing.assert_allclose(stack.moments().variance, np.square(field.sigma()), rtol=1e-12)
    assert stack.moments().total == pytest.approx(field.map.sum(), rel=1e-12)
    odd = C * Activation("tanh")  # φ' is even: weights and slopes are uncorrelated
    np.testing.assert_array_equal(odd.analytic().map, odd.analytic(channels="random-signs").map)
    assert any("MaxPool" in note and "left out" in note for note in (C * MaxPool(2)).analytic().notes)


def test_what_is_assumed_is_said():
    assert (C * RELU * C).analytic().coverage == "exact"
    assert "limit of width" in (C * RELU * C).analytic().notes[0]
    assert "maximum equally often" in (C * MaxPool(2)).analytic().notes[0]
    border = (C**5).analytic(image_shape=(7, 20))
    assert border.coverage == "approximate"
    assert "border" in border.notes[0]
    assert border.map.shape == (7, 20)


def test_gaussian_has_the_moments_of_the_map():
    stack = (Conv((3, 5)) * Conv(3, dilation=2)) ** 8
    field, normal = stack.analytic(), stack.gaussian()
    np.testing.assert_allclose(normal.sigma(), field.sigma(), rtol=1e-2)
    assert normal.map.sum() == pytest.approx(field.map.sum(), rel=1e-2)
    assert 0.5 * np.abs(normal.normalised() - field.normalised()).sum() < 0.1
    assert (Identity() * Conv(1)).gaussian().map.tolist() == [[32.0]]


def test_gaussian_of_a_diagonal_kernel_is_a_tilted_ellipse():
    kernel = [[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]
    found = (Conv(weights=kernel) ** 9).gaussian("mean", in_channels=1)
    np.testing.assert_allclose(found.map, gaussian(kernel, 9), rtol=1e-9, atol=1e-6)
    line = (Conv(weights=np.eye(3)) ** 4).gaussian("mean", in_channels=1)
    assert np.array_equal(line.map > 0, np.eye(9) > 0)


def test_moments_without_a_map_match_those_of_the_map():
    stack = (Identity() + 0.7 * Conv((3, 4), dilation=(1, 2)) * RELU * Conv((2, 3))) ** 3 * Conv(3, stride=(2, 1))
    for statistic in ("square", "mean"):
        found, field = stack.moments(statistic), stack.analytic(statistic)
        inner = field.normalised()
        for axis in range(2):
            marginal = inner.sum(axis=1 - axis)
            t = np.arange(len(marginal)) - field.theoretical.start[axis]
            mean = marginal @ t
            m2, m3, m4 = (marginal @ (t - mean) ** r for r in (2, 3, 4))
            np.testing.assert_allclose(found.mean[axis], mean, rtol=1e-11)
            np.testing.assert_allclose(found.variance[axis], m2, rtol=1e-11)
            np.testing.assert_allclose(found.skewness[axis], m3 / m2**1.5, rtol=1e-9, atol=1e-10)
            np.testing.assert_allclose(found.excess_kurtosis[axis], m4 / m2**2 - 3, rtol=1e-9)
        assert found.total == pytest.approx(field.map.sum(), rel=1e-11)


def test_covariance_of_a_product_of_edge_filters():
    """1 + (1 - z₂)(1 - z₁): factors that sum to zero have no mean to count from, so their cross moments meet unsymmetrically."""
    stack = Identity() + Conv(weights=[[1.0, -1.0]]) * Conv(weights=[[2.0], [-2.0]])
    values = stack.analytic("mean", in_channels=1).map
    at = np.argwhere(np.ones_like(values))
    weight = values.reshape(-1) / values.sum()
    mean = weight @ at
    expected = (at - mean).T @ (weight[:, None] * (at - mean))
    assert expected[0, 1] != 0
    np.testing.assert_allclose(stack.moments("mean", in_channels=1).covariance, expected, atol=1e-12)


def test_kurtosis_of_uniform_chains():
    """-(6/5)(k² + 1)/((k² - 1) n); 300 layers lose no digits that matter."""
    for k, n in ((3, 10), (5, 7), (3, 300)):
        expected = -6 / 5 * (k**2 + 1) / ((k**2 - 1) * n)
        assert (Conv((k,)) ** n).excess_kurtosis()[0] == pytest.approx(expected, rel=1e-8)


def test_sparse_connections_raise_the_variance_at_equal_cost():
    sparse, dense = SparseConv(15, count=9, seed=1) ** 5, C**5
    assert min(sparse.variance()) > 10 * min(dense.variance())
    offsets = np.array((SparseConv(15, count=9, seed=1)).positions(2))
    np.testing.assert_allclose(sparse.variance(), 5 * offsets.var(axis=0), rtol=1e-12)
    field = SparseConv((5, 7), count=4).analytic(out_channels=8)
    assert np.count_nonzero(field.map) == 4
    assert np.unique(field.map[field.map > 0]).tolist() == [2.0]
    assert field.theoretical.mask().sum() == 4
