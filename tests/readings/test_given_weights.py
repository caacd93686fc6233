"""Closed form and shuffled gates of networks with the weights that they have, against dense recursions and measurement."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.errors import SampleError

DIMS = ("NWC", "WIO", "NWC")
ROWS = np.random.default_rng(1).normal(size=(24, 11, 2)).astype(np.float32)


def kernel(seed: int, taps: int, fan_in: int, fan_out: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(taps, fan_in, fan_out)) + 0.2  # not centred: paths cohere
    return (values / np.sqrt(taps * fan_in)).astype(np.float32)


def conv(x: Any, w: Any, stride: int = 1, dilation: int = 1) -> Any:
    return lax.conv_general_dilated(x, w, (stride,), "SAME", rhs_dilation=(dilation,), dimension_numbers=DIMS)


def pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1), (1, 1, 1), "SAME")


FIRST, SECOND, THIRD = kernel(0, 3, 2, 4), kernel(1, 3, 4, 4), kernel(2, 2, 4, 3)

LAYERS = {
    "rectified": [lambda x: jax.nn.relu(conv(x, FIRST)), lambda x: jnp.tanh(conv(x, SECOND)), lambda x: conv(x, THIRD)],
    "strided": [
        lambda x: jax.nn.gelu(conv(x, FIRST, 2)),
        lambda x: jax.nn.relu(conv(x, SECOND, 1, 2)),
        lambda x: conv(x, THIRD),
    ],
    "pooled": [lambda x: pool(conv(x, FIRST)), lambda x: pool(jax.nn.relu(conv(x, SECOND))), lambda x: conv(x, THIRD)],
    "residual": [
        lambda x: jax.nn.relu(conv(x, FIRST)),
        lambda x: jax.nn.relu(x + conv(x, SECOND)),
        lambda x: conv(x, THIRD),
    ],
}


def network(layers: list[Any]) -> Any:
    def f(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return f


def dense(layers: list[Any], rows: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """E g² by the recursion K ← E_x JᵀKJ, layer by layer, with dense Jacobians in NumPy."""
    inputs, jacobians = list(rows[:, None]), []
    for layer in layers:
        shape = np.shape(layer(inputs[0]))
        found = jax.vmap(jax.jacrev(layer))(jnp.stack(inputs))
        jacobians.append(np.asarray(found, np.float64).reshape(len(rows), np.prod(shape), -1))
        inputs = list(jax.vmap(layer)(jnp.stack(inputs)))
    covariance = sent
    for jacobian in reversed(jacobians):
        covariance = np.mean([j.T @ covariance @ j for j in jacobian], 0)
    return np.diag(covariance).reshape(rows.shape[1:]).sum(1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("channels", ["random-signs", "sum", 1])
def test_the_closed_form_is_the_dense_recursion(name: str, channels: Any) -> None:
    layers = LAYERS[name]
    field = ej.analytic(network(layers), ROWS, layout="NWC", channels=channels, positions="together")
    shape = np.shape(network(layers)(ROWS[:1]))[1:]
    one = np.zeros(shape)
    one[field.unit] = np.eye(3)[1] if channels == 1 else 1
    sent = np.diag(one.ravel()) if channels == "random-signs" else np.outer(one, one)
    np.testing.assert_allclose(field.map, dense(layers, ROWS, sent), rtol=2e-4, atol=1e-6)
    assert field.coverage == "approximate"
    assert "taken as independent" in field.notes[0]


@pytest.mark.parametrize(
    "f", [lambda x: conv(conv(x, FIRST, 2), SECOND), lambda x: conv(jax.nn.gelu(conv(x, FIRST)), SECOND)]
)
def test_one_layer_of_gates_leaves_nothing_out(f: Any) -> None:
    """Linear networks, and those with a single layer of gates: exact, closed form and shuffled gates alike."""
    measured = ej.empirical(f, ROWS, layout="NWC", channels="frobenius")
    field = ej.analytic(f, ROWS, layout="NWC", channels="frobenius", positions="together")
    assert field.coverage == "exact"
    np.testing.assert_allclose(field.map, measured.map, rtol=1e-4, atol=1e-7)
    shuffled = ej.empirical(f, ROWS, layout="NWC", channels="frobenius", gates="shuffled")
    np.testing.assert_allclose(shuffled.map, measured.map, rtol=1e-4, atol=1e-7)
    assert (shuffled.samples, measured.samples) == (3, 24)


def test_gates_that_are_all_tied_are_the_measurement() -> None:
    f = network(LAYERS["pooled"])
    measured = ej.empirical(f, ROWS, layout="NWC", channels="frobenius")
    tied = ej.empirical(f, ROWS, layout="NWC", channels="frobenius", gates="shuffled", tied=9)
    np.testing.assert_allclose(tied.map, measured.map, rtol=1e-5, atol=1e-9)
    free = ej.empirical(f, ROWS, layout="NWC", channels="frobenius", gates="shuffled")
    assert abs(free.map - measured.map).max() > 0.01 * measured.map.max()


def test_shuffled_gates_meet_the_closed_form() -> None:
    f, rows = network(LAYERS["rectified"]), np.random.default_rng(2).normal(size=(800, 11, 2)).astype(np.float32)
    closed = ej.analytic(f, rows, layout="NWC", channels="frobenius", positions="together")
    shuffled = ej.empirical(f, rows, layout="NWC", channels="frobenius", gates="shuffled")
    assert shuffled.stderr is not None
    seen = closed.map > 0
    assert (np.abs(shuffled.map - closed.map)[seen] < 5 * shuffled.stderr[seen]).all()


def test_batches_change_nothing() -> None:
    f = network(LAYERS["strided"])
    one, three = (ej.empirical(f, ROWS, layout="NWC", gates="shuffled", batch_size=n) for n in (1, 3))
    np.testing.assert_allclose(one.map, three.map, rtol=1e-6)


def test_images_without_a_batch_axis_exchange_gates() -> None:
    f = network(LAYERS["rectified"])
    batched = ej.empirical(f, ROWS, layout="NWC", gates="shuffled")
    plain = ej.empirical(lambda x: f(x[None])[0], ROWS, layout="WC", gates="shuffled")
    np.testing.assert_allclose(plain.map, batched.map, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gates": "own data"}, "must be"),
        ({"gates": "shuffled", "unit": "all"}, "units of one network"),
        ({"gates": "shuffled", "tied": (0, 1)}, "one group for each of 4 layers"),
        ({"gates": "shuffled", "samples": 1}, "two at least"),
    ],
)
def test_what_cannot_be_shuffled_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SampleError, match=words):
        ej.empirical(network(LAYERS["rectified"]), ROWS, layout="NWC", **options)


def test_a_covariance_that_is_too_large_names_what_works() -> None:
    wide = np.zeros((31, 2, 4000), np.float32)
    wide[:, 0, 0] = np.linspace(-1, 1, 31)
    with pytest.raises(SampleError, match="shuffled"):
        ej.analytic(lambda x: conv(conv(x, wide), wide.transpose(0, 2, 1)), ROWS, layout="NWC", positions="together")


def test_an_account_adds_up(tmp_path: Any) -> None:
    f = network(LAYERS["rectified"])
    found = ej.account(f, ROWS, layout="NWC", channels="frobenius", locate=True)
    assert found.how == "closed form"
    measured = ej.empirical(f, ROWS, layout="NWC", channels="frobenius")
    np.testing.assert_allclose(np.prod(found.factors), measured.map.sum(), rtol=1e-6)
    np.testing.assert_allclose(np.sum(found.contributions), measured.size("sigma") ** 2, rtol=1e-6)
    assert found.distances[-1] == 0 < found.distances[0]
    assert [pair.layers for pair in found.pairs] == [(1, 2)]  # the last layer has no gates
    again = ej.Account.load(found.save(tmp_path / "account.npz"))
    assert (again.totals, again.pairs) == (found.totals, found.pairs)
    for suffix in ("json", "csv", "png"):
        assert found.save(tmp_path / f"account.{suffix}").stat().st_size > 100
    assert "coherence of the weights" in str(found)
    page = ej.report(f, ROWS, layout="NWC", channels=0, account=True, layers="none")
    assert "What it is made of" in page._repr_html_()
    assert "account of the field" in str(page)
    sampled = ej.account(f, ROWS, layout="NWC", channels="frobenius", coherence="shuffled gates")
    assert sampled.how == "shuffled gates"
    with pytest.raises(SampleError, match="one unit"):
        ej.account(f, ROWS, layout="NWC", unit=[3, 4])
