"""Which options programs are compiled with: those that this JAX knows, and only where they cost no speed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.tracing import jaxpr as jx
from erfjax.tracing import trace
from erfjax.tracing.windows import compiler
from erfjax.tracing.windows.cpu_taps import piecewise_linear
from tests.tracing.layers import weights

DIMS = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def asked_again():
    compiler._names.cache_clear()
    yield
    compiler._names.cache_clear()


@pytest.fixture
def asked(monkeypatch):
    """The options of every compilation, in order."""
    seen = []
    plain = compiler.known
    monkeypatch.setattr(compiler, "known", lambda options: seen.append(dict(options)) or plain(options))
    return seen


def test_options_that_this_jax_does_not_know_are_left_out(monkeypatch):
    options = {"xla_no_such_option": True, compiler.PASSES: 2}
    monkeypatch.setattr(compiler, "LASTING", options)
    assert compiler.known(options) == {compiler.PASSES: 2}


def test_what_is_known_is_accepted():
    assert {compiler.PASSES, compiler.EXPENSIVE, compiler.LIBRARY, compiler.HEAP} <= set(compiler._names())
    for options in (compiler.BRIEF, compiler.LASTING, compiler.PRODUCTS, compiler.NOTHING, compiler.SMALLER):
        assert compiler.Jitted(lambda x: x + 1, options)(jnp.ones(())) == 2


def test_other_back_ends_have_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler.known({**compiler.BRIEF, **compiler.SMALLER}) == {}


def test_many_batched_products_keep_all_passes():
    assert compiler.brief_options(2 * compiler.MOST_BATCHED) == {}
    assert compiler.brief_options() == compiler.BRIEF
    assert set(compiler.BRIEF) - set(compiler.brief_options(1.0)) == {compiler.EMITTERS}


def test_options_follow_the_arrays(asked):
    traced = []
    double = compiler.Jitted(lambda x: traced.append(x.shape) or jnp.sin(x) * 2)
    small, large = np.zeros(8, np.float32), np.zeros(compiler.ROOM // 4 + 1, np.float32)
    for x in (small, large, small + 1):
        np.testing.assert_allclose(double(x), np.sin(x) * 2)
    assert [compiler.HEAP in options for options in asked] == [True, False]
    assert traced == [small.shape, large.shape]  # what is asked of a program costs no second trace


def test_arrays_inside_loops_count():
    def f(x):
        return lax.map(lambda row: jnp.outer(row, row).sum(), x)

    assert jx.largest(jx.make(f, np.ones((2, 50), np.float32))[0]) == 50 * 50 * 4


@pytest.mark.parametrize(("tokens", "expected"), [(200, [2_560_000] * 2), (20, [25_600] * 2)])
def test_large_products_with_batch_axes_are_left_to_eigen(tokens, expected, asked):
    q = np.ones((3, tokens, 64), np.float32)

    def f(q):
        return lax.map(lambda _: jnp.einsum("hqk,hkd->hqd", q @ q.mT, q), jnp.arange(2))

    assert jx.batched_products(jx.make(f, q)[0]) == expected
    compiler.Jitted(f)(q)
    compiler.Jitted(lambda q: q @ np.ones((64, 5), np.float32))(q)
    library = "" if min(expected) >= compiler.LARGE else compiler.PRODUCTS[compiler.LIBRARY]
    assert [options[compiler.LIBRARY] for options in asked] == [library, compiler.PRODUCTS[compiler.LIBRARY]]


def test_convolutions_are_not_those_of_another_library():
    """YNNPACK's run on one thread; its products are kept, as small ones that XLA writes itself take long to compile."""
    w = weights(3, 3, 64, 64).astype(np.float32)
    alone = compiler.Jitted(lambda x: lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=DIMS))
    assert "ynn" not in alone.lower(np.ones((4, 21, 21, 64), np.float32)).compile().as_text()


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
def test_only_piecewise_linear_programs(name, asked):
    f, expected = NETWORKS[name]
    program = trace(f, jax.ShapeDtypeStruct((1, 6, 8, 2), jnp.float32))
    assert all(map(piecewise_linear, program.equations)) is expected
    ej.empirical(f, np.ones((1, 6, 8, 2), np.float32), unit=(1, 2), progress=False)
    assert (compiler.PASSES in asked[-1]) is expected
    ej.analytic(f, np.ones((1, 6, 8, 2), np.float32), unit=(1, 2))
    assert (compiler.EMITTERS in asked[-1]) is (name != "attention")
