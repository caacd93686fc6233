"""Masks with more kinds of rows than boxes are kept: pairs of rows and columns are kept where they matter, and only there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.tracing.positions import through_zeros
from tests.tracing.test_masked_networks import wrong

N, C = 48, 2
RNG = np.random.default_rng(0)
W = [RNG.normal(size=(C, C)) for _ in range(3)]
ROW, COLUMN = np.arange(N)[:, None], np.arange(N)[None]


@pytest.fixture(autouse=True)
def in_double_precision():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


VALID = RNG.random((40, 16)) < 0.5  # 40 windows of 16 tokens, of each other keys


def pooled_windows(x):
    """Learned queries look at the keys of each window."""
    k, v = ((x @ w).reshape(40, 16, C) for w in W[:2])
    scores = jnp.where(jnp.asarray(VALID)[:, None], jnp.einsum("id,wjd->wij", W[2][:1], k), -jnp.inf)
    return (jax.nn.softmax(scores) @ v).sum((0, 1))[None, None]


HOLES = (RNG.random((N, N)) < 0.06) & ((ROW - COLUMN) % N % 5 != 2)


def by_distance(x):
    """One number per distance, read off the sequence."""
    table = (x @ W[0])[0, :, 0][jnp.asarray((ROW - COLUMN) % N)]
    return jnp.where(jnp.asarray(HOLES), jnp.exp(table / 9), 0.0).sum()[None, None, None]


SHIFTED = (RNG.random((N, 8)) < 0.3) & ((ROW + np.arange(8)) % 5 != 2)


def shifted_channels(x):
    """Channel c stands c positions on."""
    y = jnp.stack([jnp.roll((x @ W[0])[0, :, 0], -c) for c in range(8)], -1)
    return jnp.where(jnp.asarray(SHIFTED), jnp.exp(y / 9), 0.0).sum()[None, None, None]


def masked_twice(x):
    """A term that is zero outside one mask, and the whole outside another."""
    q, k, r = ((x @ w)[0] for w in W)
    within, without = jnp.asarray(abs(ROW - COLUMN) <= 2), jnp.asarray((abs(ROW - COLUMN) > 5) | (ROW >= 40))
    scores = jnp.where(within, jnp.exp(q @ k.T / 9), 0.0) + r[:5, 0].sum()
    return jnp.where(without, jnp.exp(scores / 9), 0.0).sum()[None, None, None]


@pytest.mark.parametrize("f", [pooled_windows, by_distance, shifted_channels, masked_twice], ids=lambda f: f.__name__)
def test_pairs_that_matter_are_kept(f):
    x = jnp.asarray(RNG.normal(size=(1, 640 if f is pooled_windows else N, C)))
    support = np.asarray(jax.grad(lambda x: f(x).sum())(x) != 0).any((0, 2))
    field = ej.theoretical(f, x, layout="NLC", out_layout="NLC")
    np.testing.assert_array_equal(field.mask(), support)
    assert not support.all()
    assert field.notes == ()


def test_queries_that_look_at_a_key():
    """Through transposed weights a token sees the queries that look at it, and what these see."""

    def f(x):
        q, k, v = (x @ w for w in W)
        near = jnp.asarray((ROW >= COLUMN) & (ROW - COLUMN <= 3))
        weights = jax.nn.softmax(jnp.where(near, q @ k.swapaxes(1, 2), -jnp.inf))
        return weights.swapaxes(1, 2) @ v

    x = jnp.asarray(RNG.normal(size=(1, N, C)))
    support = np.asarray(jax.jacrev(lambda x: f(x)[0, 20].sum())(x) != 0).any((0, 2))
    field = ej.theoretical(f, x, unit=20, layout="NLC")
    np.testing.assert_array_equal(field.mask(), support)
    assert (field.start, field.stop) == ((17,), (24,))


def test_heads_with_windows_of_their_own_take_few_boxes():
    """1,200 kinds of rows, but no array runs along queries and keys: nothing is approximate."""

    def f(x):
        q = (x @ jnp.ones((C, 8))).reshape(1, 300, 4, 2)
        i, reach = jnp.arange(300), jnp.array([5, 20, 60, 300])
        away = i[:, None] - i[None, :]
        mask = (away >= 0) & (away[None] < reach[:, None, None])
        return jax.nn.dot_product_attention(q, q, q, mask=mask[None]).reshape(1, 300, 8)

    field = ej.theoretical(lambda x: f(f(x)[..., :2]), jax.ShapeDtypeStruct((1, 300, C), jnp.float64), layout="NLC")
    assert (field.start, field.stop, int(field.mask().sum())) == ((0,), (151,), 151)
    assert not any("Approximate" in note for note in field.notes)


def test_random_networks_with_as_few_boxes_as_can_be(monkeypatch):
    """Every mask that is said to do with its rows and columns is replaced by them."""
    monkeypatch.setattr(through_zeros, "FEW", 1)
    assert [seed for seed in range(1000, 1012) if wrong(seed, units=2)] == []
