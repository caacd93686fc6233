"""Large depthwise kernels by Fourier transforms: the same values and gradients, in measurements alone, and zeros stay zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.tracing.windows import fourier
from tests.tracing.layers import weights
from tests.tracing.test_restrict import CORNERS, INSIDE, check

KERNELS = {
    "same": {"kernel": (3, 5, 1, 4)},
    "strided": {"kernel": (4, 3, 1, 4), "window_strides": (2, 3), "padding": ((1, 0), (0, 2))},
    "cropped": {"kernel": (2, 3, 1, 4), "padding": ((-1, 4), (2, -1))},
    "channels first": {"kernel": (4, 1, 3, 2), "numbers": ("NCHW", "OIHW", "NCHW"), "layout": "NCHW"},
    "odd layout": {"kernel": (1, 2, 4, 3), "numbers": ("WCHN", "IHOW", "WHCN"), "layout": "WCHN", "out": "WHCN"},
}


@pytest.fixture
def called(monkeypatch):
    """The transforms so far; every large depthwise kernel that may be transformed is."""
    calls, transformed = [], fourier.transformed
    monkeypatch.setattr(fourier, "DEARER", 0.0)
    monkeypatch.setattr("erfjax.tracing.rules.convolution.transformed", lambda *a: calls.append(a) or transformed(*a))
    return calls


@pytest.mark.parametrize("name", KERNELS)
def test_values_and_derivatives(name, called, monkeypatch):
    monkeypatch.setattr(fourier, "DEPTHWISE_TAPS", 1)
    monkeypatch.setattr("erfjax.tracing.windows.cpu_taps.DEPTHWISE_TAPS", 1)
    options = {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 4} | KERNELS[name]
    kernel, layout = weights(*options.pop("kernel")), options.pop("layout", "NHWC")
    numbers, out_layout = options.pop("numbers", ("NHWC", "HWIO", "NHWC")), options.pop("out", None)
    sizes = {"N": 1, "C": 4, "H": 7, "W": 9}
    with jax.enable_x64(True), fourier.transforms(range(9)):
        x = jnp.asarray(np.random.default_rng(0).standard_normal([sizes[letter] for letter in layout]))

        def f(x):  # a unit of four positions of the convolution
            found = lax.conv_general_dilated(x, kernel.astype(x.dtype), dimension_numbers=numbers, **options)
            window = [2 if letter in "HW" else 1 for letter in out_layout or layout]
            return lax.reduce_window(found, 0.0, lax.add, window, [1] * 4, "VALID")

        check(f, x, layout, [unit[:2] for unit in (*CORNERS, INSIDE)], out_layout)
    assert called


def network(kernel):
    def f(x):
        for _ in range(2):
            x = jax.nn.relu(
                lax.conv_general_dilated(
                    x,
                    kernel,
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=kernel.shape[-1],
                )
            )
        return x

    return f


def test_a_measurement_is_that_of_the_dense_gradient(called):
    f, x = network(weights(9, 9, 1, 3)), jax.random.normal(jax.random.key(0), (2, 21, 20, 3))
    dense = jax.vmap(jax.grad(lambda x: f(x[None])[0, 10, 10].sum()))(x)
    np.testing.assert_allclose(
        ej.empirical(f, x, unit=(10, 10)).map, (dense**2).mean(0).sum(-1), atol=1e-6 * float((dense**2).max())
    )
    assert called


def test_zeros_of_kernels_and_moments_are_not_transformed(called):
    kernel, x = weights(9, 9, 1, 3), jax.random.normal(jax.random.key(0), (2, 21, 20, 3))
    ej.analytic(network(kernel), x)
    field = ej.empirical(network(kernel * (np.indices((9, 9)).sum(0) % 2)[..., None, None].astype(np.float32)), x)
    assert not called
    np.testing.assert_array_equal(field.map[~field.theoretical.mask()], 0)
