"""The law of the log of a squared gradient: exactly solvable products of Gaussians, sampled ReLU networks, large widths."""

import math

import numpy as np
import pytest
from scipy import special

from erfjax.closed_form import log_total
from erfjax.errors import KernelError


def sampled(widths, inputs, relu, count, seed):
    """‖gradient‖² / outputs of `count` dense networks, forwards and backwards, under random signs of the outputs."""
    rng = np.random.default_rng(seed)
    x, layers = rng.standard_normal((count, inputs, 1)), []
    for n in widths:
        weight = rng.standard_normal((count, n, x.shape[1])) * math.sqrt((2 if relu else 1) / x.shape[1])
        y = weight @ x
        gate = y > 0 if relu else np.ones_like(y)
        x = y * gate
        layers.append((weight, gate))
    gradient = rng.choice([-1.0, 1.0], (count, widths[-1], 1))
    for weight, gate in reversed(layers):
        gradient = np.swapaxes(weight, 1, 2) @ (gradient * gate)
    return (gradient[..., 0] ** 2).sum(1) / widths[-1]


@pytest.mark.parametrize(
    ("widths", "inputs", "activation"),
    [([6, 9, 5, 8], 4, "relu"), ([12] * 8, 3, "relu"), ([7], 5, "relu"), ([4, 7], 5, "linear"), ([3] * 6, 2, "linear")],
)
def test_the_law_is_that_of_sampled_networks(widths, inputs, activation):
    law, total = log_total(widths, inputs, activation), sampled(widths, inputs, activation == "relu", 6000, len(widths))
    alive = total > 0
    logs = np.log(total[alive])
    fourth = ((logs - logs.mean()) ** 4).mean()
    assert abs(logs.mean() - law.mean) < 4 * logs.std() / math.sqrt(len(logs))
    assert abs(logs.var() - law.variance) < 4 * math.sqrt((fourth - logs.var() ** 2) / len(logs))
    assert abs(alive.mean() - law.alive) < 4 * math.sqrt(law.alive * (1 - law.alive) / 6000) + 1e-12


def test_a_linear_network_is_a_product_of_chi_squared_variables():
    law = log_total([4, 4, 4], 4, "linear")  # three matrices; the norm of the probe is fixed
    assert law.mean == pytest.approx(3 * (special.digamma(2.0) + math.log(2 / 4)))
    assert law.variance == pytest.approx(3 * special.polygamma(1, 2.0))
    assert law.alive == 1


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_wide_networks_follow_the_asymptotic_law(activation):
    narrow, wide = (log_total([n] * 30, n, activation) for n in (40, 4000))
    for law, tolerance in ((narrow, 0.2), (wide, 0.002)):
        assert law.variance == pytest.approx(law.beta, rel=tolerance)
        assert law.mean == pytest.approx(-law.beta / 2, rel=tolerance)
    assert wide.beta == pytest.approx(narrow.beta / 100)
    mean_total = math.exp(wide.mean + wide.variance / 2)  # of a log-normal variable: one, as the weights promise
    assert mean_total == pytest.approx(1, rel=1e-4)


def test_what_makes_no_network_is_refused():
    for arguments in (([], 3), ([4, 0], 3), ([4], 0)):
        with pytest.raises(KernelError, match="numbers of units"):
            log_total(*arguments)
    with pytest.raises(KernelError, match="tanh"):
        log_total([4], 3, "tanh")
