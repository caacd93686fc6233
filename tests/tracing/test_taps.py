"""Windows computed tap by tap have the values and the derivatives of XLA's own operations, equals and NaN included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from erfjax.layouts import parse_input
from erfjax.measurement.cone import cone_of
from erfjax.tracing import trace
from erfjax.tracing.windows import cpu_taps
from tests.tracing.layers import weights
from tests.tracing.test_restrict import CORNERS, INSIDE, check

CONVOLUTIONS = {
    "one pixel": {"kernel": (1, 1, 4, 3)},
    "one pixel, strided": {"kernel": (1, 1, 4, 3), "window_strides": (2, 3), "padding": ((1, 0), (0, 2))},
    "channels first": {"kernel": (3, 4, 1, 1), "numbers": ("NCHW", "OIHW", "NCHW"), "layout": "NCHW"},
    "odd layout": {"kernel": (4, 2, 3, 3), "numbers": ("WCHN", "IHOW", "WHCN"), "layout": "WCHN", "out": "WHCN"},
    "strided": {"kernel": (3, 2, 4, 5), "window_strides": (2, 1), "padding": ((2, 0), (0, 3))},
    "dilated": {"kernel": (2, 3, 4, 5), "rhs_dilation": (3, 2), "padding": ((-1, 4), (2, -1))},
    "depthwise": {"kernel": (3, 5, 1, 4), "feature_group_count": 4, "window_strides": (1, 2)},
    "depthwise, channels first": {
        "kernel": (4, 1, 3, 2),
        "feature_group_count": 4,
        "numbers": ("NCHW", "OIHW", "NCHW"),
        "layout": "NCHW",
    },
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, monkeypatch):
    options = {"window_strides": (1, 1), "padding": "SAME"} | CONVOLUTIONS[name]
    kernel, layout = weights(*options.pop("kernel")), options.pop("layout", "NHWC")
    numbers, out_layout = options.pop("numbers", ("NHWC", "HWIO", "NHWC")), options.pop("out", None)
    sizes = {"N": 1, "C": 4, "H": 7, "W": 9}
    called, convolved = [], cpu_taps.convolved
    monkeypatch.setattr(cpu_taps, "WIDE", 1)
    monkeypatch.setattr("erfjax.tracing.rules.convolution.convolved", lambda *a: called.append(a) or convolved(*a))
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal([sizes[letter] for letter in layout]))

        def f(x):
            return lax.conv_general_dilated(x, kernel.astype(x.dtype), dimension_numbers=numbers, **options)

        check(f, x, layout, [unit[:2] for unit in (*CORNERS, INSIDE)], out_layout)
    assert called


@pytest.mark.parametrize(
    ("window", "strides", "dilation", "padding"),
    [
        ((1, 3, 2, 1), (1, 1, 1, 1), (1, 1, 1, 1), "SAME"),
        ((1, 3, 3, 1), (1, 2, 2, 1), (1, 1, 1, 1), ((0, 0), (1, 1), (1, 1), (0, 0))),
        ((1, 2, 4, 2), (1, 3, 1, 2), (1, 1, 1, 1), "VALID"),
    ],
)
@pytest.mark.parametrize("extremum", ["max", "min"])
def test_of_equal_extrema_the_first_counts(window, strides, dilation, padding, extremum):
    start, operation = {"max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min)}[extremum]
    x = jnp.asarray(np.random.default_rng(1).integers(0, 3, (1, 8, 9, 4)).astype(np.float32))

    def f(x):
        return lax.reduce_window(x, np.float32(start), operation, window, strides, padding, (1, 1, 1, 1), dilation)

    check(f, x, "NHWC", [unit[:2] for unit in (*CORNERS, INSIDE)])


def test_a_pool_passes_nan_on():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, 7, 2)), jnp.float32).at[0, 3, 3, 1].set(jnp.nan)

    def f(x):
        return lax.reduce_window(x, np.float32(-np.inf), lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    layout = parse_input("NHWC", x.shape)
    program = trace(f, x)
    for unit in ((2, 2), (3, 3), (4, 4), (5, 5)):
        cone = cone_of(program, layout, layout, [unit])
        (window,) = cone.windows
        value = cone(x[tuple(slice(int(p.start), int(p.stop)) for p in window)])[0]
        np.testing.assert_array_equal(value[0, 0, 0], f(x)[(0, *unit)])
