"""Masks that are written into the scores, or are products of known arrays: what is hidden is not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from tests.tracing import masked

N, C = masked.N, masked.C
CAUSAL = masked.MASKS["causal"]
ROWS, COLUMNS = np.nonzero(~CAUSAL)
SEGMENTS = jax.nn.one_hot(masked.SEGMENTS, 3)
SELF = np.eye(N, dtype=bool)
FIRST = np.broadcast_to(np.arange(N) < 9, (N, N))


@pytest.fixture(autouse=True)
def as_people_write():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def nearest():
    """Of each row the three that lie nearest, ties among them, by their distance."""
    away = jnp.abs(jnp.arange(N)[:, None] - jnp.arange(N)[None, :]).astype(jnp.float32)
    return away <= -jax.lax.top_k(-away, 3)[0][:, -1:]


def last_two(s):
    return s.at[:, :, jnp.array([N - 2, N - 1])]


WAYS = {
    "set": (lambda s: s.at[:, ROWS, COLUMNS].set(-jnp.inf), CAUSAL),
    "set, least": (lambda s: s.at[:, :, -3:].set(jnp.finfo(s.dtype).min), FIRST),
    "set by rows": (lambda s: jax.vmap(lambda r: r.at[:, 9:].set(-jnp.inf), 1, 1)(s), FIRST),
    "added": (lambda s: s.at[:, ROWS, COLUMNS].add(-1e9), CAUSAL),
    "nothing added": (lambda s: s.at[:, ROWS, COLUMNS].add(0.0), np.ones((N, N), bool)),
    "the lesser": (lambda s: s.at[:, ROWS, COLUMNS].min(-jnp.inf), CAUSAL),
    "clipped": (lambda s: s.at[:, :, jnp.array([9, 10, N + 5])].set(-jnp.inf, mode="clip"), FIRST),
    "dropped": (lambda s: s.at[:, :, jnp.array([9, 10, 11, N + 5])].set(-jnp.inf), FIRST),
    "twice": (lambda s: last_two(last_two(s).set(0.0)).set(-jnp.inf), np.arange(N) < N - 2),
    "overwritten": (lambda s: last_two(last_two(s).set(-jnp.inf)).set(s[:, :, :2]), np.ones((N, N), bool)),
    "one-hot": (lambda s: jnp.where(SEGMENTS @ SEGMENTS.T > 0, s, -jnp.inf), masked.MASKS["blocks"]),
    "one-hot, added": (lambda s: s + (1 - SEGMENTS @ SEGMENTS.T) * -1e9, masked.MASKS["blocks"]),
    "nearest": (lambda s: jnp.where(nearest(), s, -jnp.inf), nearest),
}


@pytest.mark.parametrize("way", WAYS)
def test_masks(way):
    hide, mask = WAYS[way]
    project, back = masked.head(np.random.default_rng(0))

    def f(x):
        q, k, v = (a[:, :, 0] for a in project(x))
        return back((jax.nn.softmax(hide(q @ k.mT)) @ v)[:, :, None])

    fields = ej.theoretical(f, jax.ShapeDtypeStruct((1, N, C), jnp.float32), unit=list(range(N)), layout="NLC")
    expected = np.broadcast_to(mask() if callable(mask) else mask, (N, N)) | SELF
    np.testing.assert_array_equal([field.mask() for field in fields], expected)


@pytest.mark.parametrize("write", [lambda x: x.at[:, ::2].set(0.0), lambda x: x.at[:, ::2].multiply(0.0)])
def test_many_places_that_are_set_to_zero(write):
    """More than are kept as boxes: they are known to be zero."""
    x = jax.ShapeDtypeStruct((1, 200, C), jnp.float32)
    even, odd = ej.theoretical(lambda x: write(x) @ jnp.ones((C, C)), x, unit=[4, 5], layout="NLC")
    assert (even.mask().sum(), np.flatnonzero(odd.mask()).tolist()) == (0, [5])


def test_a_function_of_what_was_there_sees_it():
    """`apply` is a scatter of zeros in form, and writes no zero."""
    field = ej.theoretical(
        lambda x: jnp.cumsum(x.at[:, jnp.array([1, 2])].apply(jnp.exp), 1), jnp.ones((1, 6, 1)), unit=4, layout="NLC"
    )
    np.testing.assert_array_equal(field.mask(), np.arange(6) < 5)


def test_what_is_drawn_hides_nothing():
    """Dropout of a pixel, which is zero for one key alone."""

    def dropout(x):
        return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), 2 * x, 0.0)

    field = ej.theoretical(lambda x: jnp.cumsum(dropout(x), 1), jnp.ones((1, 6, 1)), unit=4, layout="NLC")
    np.testing.assert_array_equal(field.mask(), np.arange(6) < 5)
