"""`analytic_map` with positions together: the map of `analytic`, and its derivative with respect to weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.readings.moment_pass import MomentPass

WIDTH, TOKENS = 10, 14


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def pooled(w):
    """Two convolutions, a nonlinearity and means of neighbours."""
    return lambda x: conv(jnp.tanh(conv(x, w)).reshape(1, -1, 2, WIDTH).mean(2), w)


def attention(w):
    """One head, its queries and keys of the same weights."""
    return lambda x: x @ w[0] + jax.nn.softmax((x @ w[1]) @ (x @ w[1]).mT / WIDTH**0.5) @ (x @ w[2])


@pytest.fixture
def given():
    w = jax.random.normal(jax.random.key(3), (3, WIDTH, WIDTH)) / 30**0.5
    return w, jax.random.normal(jax.random.key(1), (2, TOKENS, WIDTH))


CASES = {
    "attention": (attention, "NLC", {"weights": "exchangeable"}),
    "pooled": (pooled, "NWC", {"weights": "exchangeable"}),
    "mean field": (pooled, "NWC", {"weights": "exchangeable", "gates": "mean-field"}),
    "given weights": (pooled, "NWC", {"weights": "given", "channels": "random-signs"}),
}


@pytest.mark.parametrize("case", CASES)
def test_map_and_slope(given, case):
    network, layout, options = CASES[case]
    w, x = given
    asked = {"layout": layout, "unit": 3, "positions": "together", **options}
    found, expected = ej.analytic_map(network(w), x, **asked), ej.analytic(network(w), x, **asked)
    np.testing.assert_allclose(found, expected.map, rtol=1e-5, atol=1e-6 * expected.map.max())
    apart = ej.analytic(network(w), x, **{**asked, "positions": "apart"})
    assert np.abs(apart.map / expected.map.clip(1e-9) - 1).max() > 0.005  # the option matters
    size = jax.jit(lambda s: jnp.log(ej.analytic_map(network(w.at[1].multiply(s)), x, **asked)[:6].sum()))
    step = np.float32(0.02)
    slope = float(size(1 + step) - size(1 - step)) / (2 * step)
    assert float(jax.grad(size)(np.float32(1))) == pytest.approx(slope, rel=5e-3)


def test_mean_field_of_pairs_in_single_precision_is_that_in_double(given, monkeypatch):
    w, x = given
    asked = {"layout": "NWC", "positions": "together", "weights": "exchangeable", "gates": "mean-field"}
    double = ej.analytic(pooled(w), x, **asked).map
    monkeypatch.setattr(MomentPass, "risky", False)  # as on an accelerator
    np.testing.assert_allclose(ej.analytic(pooled(w), x, **asked).map, double, rtol=1e-4, atol=1e-7)
