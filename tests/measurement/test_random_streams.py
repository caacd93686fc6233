"""What is drawn for one sample is drawn apart: weights, input, signs of channels; and the target of a root."""

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.readings.empirical import empirical


def test_inputs_are_independent_of_the_weights():
    def f(key, x):
        return x**2 * jax.random.normal(key, x.shape)

    field = empirical(
        f,
        lambda key: jax.random.normal(key, (1, 5, 1)),
        key=jax.random.key(0),
        samples=300,
        layout="NWC",
        statistic="mean",
    )
    assert 0.08 < field.stderr[2] < 0.16  # of 2 x w, √4 / √300
    assert abs(field.map[2]) < 5 * field.stderr[2]  # were x the weight, 2


def test_random_signs_are_independent_of_the_weights():
    def f(key, x):
        return x * jax.random.rademacher(key, (1, 1, 8), x.dtype)

    ones = np.ones((1, 3, 1), np.float32)
    field = empirical(f, ones, key=jax.random.key(0), samples=300, layout="NWC", channels="random-signs")
    assert abs(field.map[1] - 8) < 5 * field.stderr[1]  # were they the weights, 64
    assert field.stderr[1] > 0.3


def test_the_target_of_a_root_is_met_with_a_quarter_of_the_samples():
    def f(key, x):
        return x * jnp.exp(0.5 * jax.random.normal(key))

    ones = np.ones((1, 3, 1), np.float32)
    square, root = (
        empirical(f, ones, key=jax.random.key(0), layout="NWC", statistic=statistic, target=0.08)
        for statistic in ("square", "rms")
    )
    assert square.samples > 150  # (e - 1) / 0.08² = 268
    assert square.samples / 6 < root.samples < square.samples / 2.2
