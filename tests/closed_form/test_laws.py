"""The growth laws: every number that the theory states."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erfjax.closed_form import cascade, laws, moments, power
from erfjax.errors import KernelError

FIFTEEN = [3] * 15


def stride_two_at(*layers):
    return [2 if layer in layers else 1 for layer in range(1, 16)]


@pytest.mark.parametrize(
    ("strides", "dilations", "size", "sigma"),
    [
        (1, 1, 31, 3.162),
        (1, [1] * 12 + [2, 4, 8], 53, 8.0),
        (1, [8, 1, 1, 4, *[1] * 10, 2], 53, 8.0),
        (stride_two_at(5, 10, 15), 1, 71, 8.37),
        (stride_two_at(4, 8, 12), 1, 105, 13.56),
    ],
)
def test_chains_of_fifteen_layers(strides, dilations, size, sigma):
    assert laws.theoretical_size(FIFTEEN, strides, dilations) == (size,)
    assert laws.sigma(FIFTEEN, strides, dilations)[0] == pytest.approx(sigma, abs=0.005)
    chain = cascade([np.ones(3)] * 15, strides, dilations)
    assert math.sqrt(moments(chain).variance[0]) == pytest.approx(laws.sigma(FIFTEEN, strides, dilations)[0], rel=1e-12)


def test_sigma_per_axis_and_its_gradient(precision):
    kernel = np.random.default_rng(0).random((3, 2))
    exact = [math.sqrt(v) for v in moments(power(kernel, 6)).variance]
    assert laws.sigma([kernel] * 6) == pytest.approx(tuple(exact))
    assert laws.sigma([5]) == pytest.approx((math.sqrt(2),))

    first = jax.jit(lambda w: laws.sigma([w, w], strides=2)[0])
    w = jnp.asarray(kernel, precision)
    step = jnp.zeros((3, 2), precision).at[2, 1].set(1e-3)
    numeric = (first(w + step) - first(w - step)) / 2e-3
    assert jax.jit(jax.grad(first))(w)[2, 1] == pytest.approx(float(numeric), rel=1e-2)


def test_luo_sizes_of_uniform_nets():
    assert [round(laws.luo_size(3, n), 2) for n in (5, 10, 20, 40)] == [8.31, 11.70, 16.16, 22.74]
    sigma = laws.sigma([3] * 200)[0]
    assert laws.luo_size(3, 200) == pytest.approx(laws.luo_asymptote(sigma), rel=0.005)
    assert laws.luo_size(3, 200, "rms") == pytest.approx(laws.luo_asymptote(math.sqrt(2) * sigma), rel=0.01)
    assert laws.luo_asymptote(1.0) == pytest.approx(4.406, abs=5e-4)
    assert laws.luo_asymptote([2.0, 2.0]) == laws.luo_asymptote(np.float32(2.0))
    assert laws.luo_size(np.ones(3), 400) == pytest.approx(laws.luo_asymptote(laws.sigma([3] * 400)), rel=0.02)


@pytest.mark.parametrize(
    ("statistic", "depths", "size", "ratio"),
    [
        ("square", (5, 10, 20, 40), 0.482, -0.478),
        ("square", range(10, 101), 0.496, -0.489),
        ("square", range(20, 201, 5), 0.499, -0.494),
        ("rms", (5, 10, 20, 40), 0.539, -0.421),
        ("rms", range(10, 101), 0.509, -0.476),
        ("rms", range(20, 201, 5), 0.503, -0.489),
    ],
)
def test_slopes_at_finite_depth(statistic, depths, size, ratio):
    slopes = laws.slope(list(depths), 3, statistic)
    assert slopes.size == pytest.approx(size, abs=0.002)
    assert slopes.ratio == pytest.approx(ratio, abs=0.002)


def test_whole_and_numpy_numbers_are_numbers():
    assert laws.slope(np.array([5, 10, 20, 40])) == laws.slope([5, 10, 20, 40])
    assert laws.skip_peak(np.int64(3), 1) == laws.skip_peak(3)
    assert laws.luo_size(3, 4, threshold=np.float32(0.5)) == laws.luo_size(3, 4, threshold=0.5)
    assert laws.luo_size(3, 4, threshold=0) == 9


@pytest.mark.parametrize(("k", "gain"), [(3, 1.2247), (5, 1.4142), (7, 1.5), (2, 1.0)])
def test_corner_weights_are_widest(k, gain):
    assert laws.corner_gain(k) == pytest.approx(gain, abs=5e-5)
    corners = np.zeros(k)
    corners[[0, -1]] = 0.5
    assert laws.sigma([corners])[0] / laws.sigma([k])[0] == pytest.approx(laws.corner_gain(k))


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("kernel", [np.ones(3), np.array([1, 2, 5.0])], ids=["centred", "off-centre"])
def test_skip_connections(kernel, scale):
    n, layers = 6, 2
    branch = scale * power(kernel / kernel.sum(), layers)
    branch[layers] += 1
    block = power(branch / (1 + scale), n)
    sigma = math.sqrt(moments(block).variance[0])
    assert laws.skip_sigma(kernel, n, layers, scale)[0] == pytest.approx(sigma, rel=1e-12)
    alone = np.zeros_like(branch)
    alone[layers] = 1 / (1 + scale)  # every block passed by its shortcut
    assert laws.skip_peak(n, scale) == pytest.approx(power(alone, n)[n * layers], rel=1e-12)
    assert block[n * layers] > laws.skip_peak(n, scale) > 0


def test_residual_net_is_narrower_by_root_two_and_has_a_spike():
    assert laws.skip_sigma(3, 17)[0] / laws.sigma([3] * 17)[0] == pytest.approx(math.sqrt(0.5))
    assert laws.skip_peak(10) == 2.0**-10


def test_off_centre_kernels_drift_linearly():
    mean = moments(power([0, 0, 1, 1], 50)).mean[0]
    assert mean == pytest.approx(125)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: laws.sigma([]), "at least one kernel"),
        (lambda: laws.sigma([0]), "k >= 1"),
        (lambda: laws.sigma([[1, -1]]), "sum to 0"),
        (lambda: laws.slope([5]), "two different depths"),
        (lambda: laws.slope([0, 5]), "n >= 1"),
        (lambda: laws.corner_gain(1), "k >= 2"),
        (lambda: laws.skip_peak(3, -1.0), "0 or more"),
        (lambda: laws.luo_size([1, -1, 1], 3), "taps >= 0"),
        (lambda: laws.luo_size(3, 4, "abs"), "no closed form"),
        (lambda: laws.slope([5, 10], 3, "mean"), "no closed form"),
        (lambda: laws.luo_asymptote(-1.0), "σ >= 0"),
        (lambda: laws.luo_asymptote(1.0, threshold=0.0), "between 0 and 1"),
    ],
)
def test_bad_input_is_taught(call, says):
    with pytest.raises(KernelError, match=says):
        call()
