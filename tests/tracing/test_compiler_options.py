"""Which options programs are compiled with: those that this JAX knows, and only where they cost no speed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.measurement import engine
from erfjax.tracing import trace
from erfjax.tracing.windows import brief
from erfjax.tracing.windows.cpu_taps import piecewise_linear
from tests.tracing.layers import weights

DIMS = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def asked_again():
    brief._names.cache_clear()
    yield
    brief._names.cache_clear()


def test_options_that_this_jax_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(brief, "LASTING_OPTIONS", {"xla_no_such_option": True, brief.PASSES: 2})
    assert brief.lasting_options() == {brief.PASSES: 2}


def test_what_is_known_is_accepted():
    for options in (brief.lasting_options(), brief.compiler_options()):
        assert set(options) <= {brief.PASSES, brief.EMITTERS, brief.EXPENSIVE}
        assert jax.jit(lambda x: x + 1, compiler_options=options)(jnp.ones(())) == 2


def test_other_back_ends_have_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert brief.lasting_options() == brief.compiler_options() == {}


def test_many_batched_products_keep_all_passes():
    assert brief.compiler_options(2 * brief.MOST_BATCHED) == {}


def conv(x, **options):
    w = weights(3, 3, x.shape[-1] // options.get("feature_group_count", 1), 4).astype(x.dtype)
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=DIMS, **options)


def pooled(x):
    return lax.reduce_window(x, np.float32(-np.inf), lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


NETWORKS = {
    "ReLU and pooling": (lambda x: conv(pooled(jax.nn.relu(conv(x) + 1) - 0.5)), True),
    "GELU": (lambda x: conv(jax.nn.gelu(conv(x))), False),
    "depthwise": (lambda x: conv(conv(x), feature_group_count=4), False),
    "attention": (lambda x: jnp.einsum("nhwc,nhvc->nhwv", conv(x), conv(x)), False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_only_piecewise_linear_programs(name, monkeypatch):
    f, expected = NETWORKS[name]
    program = trace(f, jax.ShapeDtypeStruct((1, 6, 8, 2), jnp.float32))
    assert all(map(piecewise_linear, program.equations)) is expected
    asked = []
    monkeypatch.setattr(engine, "lasting_options", lambda: asked.append(1) or {})
    ej.empirical(f, np.ones((1, 6, 8, 2), np.float32), unit=(1, 2), progress=False)
    assert bool(asked) is expected
