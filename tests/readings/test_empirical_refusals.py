"""What cannot be measured is said: silent networks, samples that are not finite, arguments that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erfjax.errors import LayoutError, SampleError, UnitError
from erfjax.readings.empirical import empirical


def test_no_gradient_at_all_is_said():
    field = empirical(lambda x: jnp.zeros_like(x) * jax.lax.stop_gradient(x), np.ones((1, 4, 3, 1), np.float32))
    assert not field.map.any()
    assert any("zero" in note for note in field.notes)


def test_non_finite_samples_are_named_or_skipped():
    images = np.ones((9, 4, 3, 1), np.float32)
    images[4] = np.nan
    with pytest.raises(SampleError, match="Sample 4: the output"):
        empirical(jnp.tanh, images, batch_size=2)
    field = empirical(jnp.tanh, images, batch_size=2, nonfinite="skip")
    assert field.samples == 8
    assert any("left out" in note and "4" in note for note in field.notes)
    images[4] = 0.0
    with pytest.raises(SampleError, match="Sample 4: the gradient"):
        empirical(jnp.sqrt, images)
    with pytest.raises(SampleError, match="None of the"):
        empirical(jnp.sqrt, images[4:5], nonfinite="skip")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"unit": (4, 0)}, UnitError, r"inside the output \(4, 3\)"),
        ({"unit": (1,)}, UnitError, "each spatial axis"),
        ({"unit": []}, UnitError, "empty list"),
        ({"channels": 2}, UnitError, "2 output channels"),
        ({"channels": "all"}, UnitError, "frobenius"),
        ({"channels": "random-signs", "statistic": "abs"}, UnitError, "squares only"),
        ({"layout": "NWC"}, LayoutError, "names 3 axes"),
        ({"layout": "NHHC"}, LayoutError, "twice"),
        ({"layout": "NHWQ"}, LayoutError, "unknown letter 'Q'"),
        ({"out_layout": "NC"}, LayoutError, "names 2 axes"),
        ({"samples": 0}, SampleError, "positive integer"),
        ({"samples": 4}, SampleError, "3 rows"),
        ({"target": 0.0}, SampleError, "relative standard error"),
        ({"key": 0}, SampleError, "one random key"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, SampleError, "one random key"),
        ({"batch_size": 0}, SampleError, "positive multiple"),
    ],
)
def test_errors_teach(options, error, says):
    with pytest.raises(error, match=says):
        empirical(lambda x: x * 2, np.ones((3, 4, 3, 2), np.float32), **options)


@pytest.mark.parametrize(
    ("f", "inputs", "error", "says"),
    [
        (lambda x: x > 0, np.ones((1, 4, 3, 2), np.float32), SampleError, "floating-point output"),
        (lambda x: x, np.ones((1, 4, 3, 2), np.uint8), SampleError, "floating-point inputs"),
        (lambda x: x[:, 0], np.ones((1, 4, 3, 2), np.float32), LayoutError, "out_layout"),
        (lambda x: jnp.concatenate([x, x]), np.ones((1, 4, 3, 2), np.float32), LayoutError, "batch of one"),
        (lambda x: x, [], SampleError, "empty"),
        (lambda x: x, np.ones((0, 4, 3, 2), np.float32), SampleError, "no rows"),
        (lambda x: x, 3, SampleError, "iterable"),
        (lambda x: x, lambda key: key, SampleError, "pass key"),
        (lambda x: x, [np.ones((4, 3, 2), np.float32), np.ones((5, 3, 2), np.float32)], SampleError, "sample 1 has"),
    ],
)
def test_models_and_inputs_that_cannot_be_measured(f, inputs, error, says):
    with pytest.raises(error, match=says):
        empirical(f, inputs)
