"""Sliding-window attention in chunks: the keys that a chunk sees move with it, so the chunks are the whole."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.decisions import varying
from erfjax.tracing.program.equations import Known
from tests.tracing.masked import rotary

N, C, CHUNK = 46, 4, 8
WINDOWS = (4, 3)  # keys that a query sees, itself among them
RNG = np.random.default_rng(0)
WEIGHTS = [[jnp.asarray(RNG.normal(0, 0.5, (C, C)), jnp.float32) for _ in range(3)] for _ in WINDOWS]
TABLE = jnp.asarray(RNG.normal(size=(4096, C)), jnp.float32)


@pytest.fixture(autouse=True)
def promotions():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def near(n, window):
    away = jnp.arange(n)[:, None] - jnp.arange(n)[None, :]
    return (away >= 0) & (away < window), away


def by_jax(q, k, v, window):
    heads = (a[:, :, None] for a in (q, k, v))
    return jax.nn.dot_product_attention(*heads, local_window_size=(window - 1, 0), is_causal=True)[:, :, 0]


def scored(bias):
    def attend(q, k, v, window):
        s = jnp.einsum("nic,njc->nij", q, k) + bias(*near(q.shape[1], window))[None]
        return jnp.einsum("nij,njc->nic", jax.nn.softmax(s, -1), v)

    return attend


def turned(q, k, v, window):
    """With rotary positions."""
    q, k = (rotary(a[:, :, None])[:, :, 0] for a in (q, k))
    return by_jax(q, k, v, window)


FORMS = {
    "by jax": by_jax,
    "-inf": scored(lambda seen, away: jnp.where(seen, 0.0, -jnp.inf)),
    "-1e9": scored(lambda seen, away: (1 - seen.astype(jnp.float32)) * -1e9),
    "alibi": scored(lambda seen, away: jnp.where(seen, -0.5 * away.astype(jnp.float32), -jnp.inf)),
    "rotary": turned,
}


def stack(attend):
    def f(x):
        for (a, b, c), window in zip(WEIGHTS, WINDOWS, strict=True):
            x = x + attend(x @ a, x @ b, x @ c, window)
        return x

    return f


@pytest.mark.parametrize(
    "name", ["by jax", "-1e9", "rotary", *(pytest.param(name, marks=pytest.mark.slow) for name in ("-inf", "alibi"))]
)
def test_chunks_of_sliding_attention_are_the_whole(name):
    f, x = stack(FORMS[name]), np.random.default_rng(1).normal(size=(1, N, C)).astype(np.float32)
    found = ej.context(f, x)
    plan = found.plan(CHUNK)
    assert plan.exact, plan.why
    assert plan.halo == ((sum(WINDOWS) - len(WINDOWS), 0),)
    assert (found.left, found.right) == plan.halo[0]
    whole = jax.jit(f)(x)
    np.testing.assert_allclose(plan(f, x), whole, atol=2e-5 * float(jnp.abs(whole).max()))
    assert all(tile.read[1].stop <= (i + 1) * CHUNK for i, tile in enumerate(plan.tiles()))  # nothing is read too early
    assert any("tried" in note for note in plan.notes) == (name == "rotary")
    assert any("-1e+09" in note for note in plan.notes) == (name == "-1e9")


def learned(n):
    return TABLE[:n]


def sines(n):
    return jnp.sin(jnp.arange(n, dtype=jnp.float32)[:, None] / 10.0 ** jnp.arange(C))


@pytest.mark.parametrize("embedding", [learned, sines])
def test_absolute_positions_are_refused_by_name(embedding):
    inner = stack(FORMS["-inf"])

    def embedded(x):
        return inner(x + embedding(x.shape[1])[None])

    plan = ej.context(embedded, jax.ShapeDtypeStruct((1, N, C), jnp.float32)).plan(CHUNK)
    assert not plan.exact
    assert "`add` at" in plan.why
    assert "embedded) uses numbers that depend on the position" in plan.why


def test_full_causal_attention_has_no_plan():
    f = stack(scored(lambda seen, away: jnp.where(away >= 0, 0.0, -jnp.inf)))
    plan = ej.context(f, jax.ShapeDtypeStruct((1, N, C), jnp.float32)).plan(CHUNK)
    assert not plan.exact
    assert "`dot_general`" in plan.why


def test_masks_of_long_sequences_are_not_written_out(monkeypatch):
    """A mask that is too large to be looked at is not needed either: no plan goes with the square of the sequence."""
    value = Known.value.fget

    def small(known):
        assert math.prod(known.shape) <= varying.MOST_READ
        return value(known)

    monkeypatch.setattr(varying, "MOST_READ", 300_000)
    monkeypatch.setattr(Known, "value", property(small))
    f, x = stack(FORMS["by jax"]), jax.ShapeDtypeStruct((1, 1200, C), jnp.float32)
    plan = ej.tiling(f, x, tile=CHUNK, layout="NLC", streamed=True)
    assert (plan.exact, plan.halo) == (True, ((sum(WINDOWS) - len(WINDOWS), 0),))
    assert any("more numbers along an axis of 1200" in note for note in plan.notes)
