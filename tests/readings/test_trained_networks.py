"""The field of trained networks by the weights that they have: how much of it the closed form and shuffled gates account for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.measures import total_variation

WIDTH, STEPS = 16, 2000

pytestmark = pytest.mark.slow


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Digits of 16 x 16 pixels, in random order, and their labels."""
    data = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed here").load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = np.kron(data.images.astype(np.float32) / 8 - 1, np.ones((1, 2, 2), np.float32))
    return images[order, ..., None], data.target[order]


def trained(depth: int, seed: int) -> tuple[Any, np.ndarray, float]:
    """The trunk of a network that tells digits apart, images that it has not seen, and its accuracy on them."""
    optax = pytest.importorskip("optax", reason="optax is not installed here")
    images, labels = digits()
    keys = jax.random.split(jax.random.key(seed), depth + 1)
    fan_in = [1] + [WIDTH] * (depth - 1)
    kernels = [
        jax.random.normal(key, (3, 3, n, WIDTH)) * np.sqrt(2 / (9 * n)) for key, n in zip(keys[1:], fan_in, strict=True)
    ]
    weights = (kernels, [jnp.zeros((1, 1, 1, WIDTH))] * depth, jax.random.normal(keys[0], (WIDTH, 10)) / 4)

    def trunk(weights: Any, x: Any) -> Any:
        for i, (kernel, bias) in enumerate(zip(*weights[:2], strict=True)):
            x = jax.nn.relu(x) if i else x
            x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
        return x

    def logits(weights: Any, x: Any) -> Any:
        return jax.nn.relu(trunk(weights, x)).mean((1, 2)) @ weights[2]

    def loss(weights: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits(weights, x), y).mean()

    descent = optax.adam(3e-3)

    @jax.jit
    def step(weights: Any, state: Any, x: Any, y: Any) -> Any:
        change, state = descent.update(jax.grad(loss)(weights, x, y), state)
        return optax.apply_updates(weights, change), state

    state, rng = descent.init(weights), np.random.default_rng(seed)
    for _ in range(STEPS):
        chosen = rng.integers(0, 1400, 32)
        weights, state = step(weights, state, images[chosen], labels[chosen])
    shown = images[1400:]
    right = float((jax.jit(logits)(weights, shown).argmax(1) == labels[1400:]).mean())
    return lambda x: trunk(weights, x), shown, right


@pytest.mark.parametrize("depth", [4, 5, 6])
def test_weights_and_gates_of_single_layers_account_for_the_field(depth: int) -> None:
    """Median over three networks: the total within 25 %, σ within 5 %, the distance within that of noise and 0.05."""
    totals, sigmas, beyond = [], [], []
    for seed in range(3):
        with jax.numpy_dtype_promotion("standard"):  # optax raises numbers to whole powers
            f, x, right = trained(depth, seed)
        assert right > 0.95
        options: Any = {"channels": "random-signs"}
        measured = ej.empirical(f, x, **options)
        halves = [ej.empirical(f, x[i::2], **options).normalised() for i in (0, 1)]
        closed = ej.analytic(f, x, weights="given", positions="together", **options)
        shuffled = ej.empirical(f, x, gates="shuffled", **options)
        apart = ej.analytic(f, x, weights="exchangeable", positions="apart", **options)
        totals.append(closed.map.sum() / measured.map.sum())
        sigmas.append(closed.size("sigma") / measured.size("sigma"))
        floor = total_variation(*halves) / 2
        beyond.append(total_variation(closed.normalised(), measured.normalised()) - floor)
        low, high = shuffled.interval("total", 0.999)
        assert low < closed.map.sum() < high
        assert apart.map.sum() < 0.25 * measured.map.sum()  # squares of weights miss what coheres
    assert abs(np.median(totals) - 1) < 0.25
    assert abs(np.median(sigmas) - 1) < 0.05
    assert np.median(beyond) < 0.05
