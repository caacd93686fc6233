"""Numbers that are taken from themselves: a softmax over one visible key is one, however it is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from tests import oracles
from tests.tracing import masked

N, D = 6, 3
TRI = np.tril(np.ones((N, N), bool))


@pytest.fixture(autouse=True)
def as_people_write():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def parts(x):
    """Queries and keys of the tokens, values of the tokens three further on: the own token is seen through its score alone."""
    q, k, v = (masked.weights(np.random.default_rng(seed), D, D) for seed in (1, 2, 3))
    return x @ q, x @ k, jnp.roll(x, -3, 0) @ v


def scores(x, hidden=-jnp.inf):
    q, k, v = parts(x)
    return jnp.where(TRI, q @ k.T, hidden), v


def online(x, block, hidden=-jnp.inf, first=-jnp.inf, loop=lax.scan, guard=lambda most: most):
    """Block by block, with a running maximum and a running sum (Rabe & Staats 2021)."""
    q, k, v = parts(x)

    def step(carry, j):
        most, total, out = carry
        rows = j * block + jnp.arange(block)
        s = jnp.where(jnp.arange(N)[:, None] >= rows, q @ lax.dynamic_slice_in_dim(k, j * block, block).T, hidden)
        new = jnp.maximum(most, s.max(1))
        safe = guard(new)
        p, kept = jnp.exp(s - safe[:, None]), jnp.exp(most - safe)
        values = lax.dynamic_slice_in_dim(v, j * block, block)
        return (new, total * kept + p.sum(1), out * kept[:, None] + p @ values), None

    start = jnp.full((N,), first), jnp.zeros((N,)), jnp.zeros((N, D))
    if loop is lax.scan:
        (_, total, out), _ = lax.scan(step, start, jnp.arange(N // block))
    else:
        _, total, out = lax.fori_loop(0, N // block, lambda j, carry: step(carry, j)[0], start)
    return out / total[:, None]


def query_by_query(x):
    q, k, v = parts(x)

    def one(i):
        s = jnp.where(jnp.arange(N) <= i, k @ q[i], -jnp.inf)
        p = jnp.exp(s - s.max())
        return p @ v / p.sum()

    return lax.map(one, jnp.arange(N))


def of_scores(weight, hidden=-jnp.inf):
    def f(x):
        s, v = scores(x, hidden)
        return weight(s) @ v

    return f


GUARDS = {
    "isinf": lambda most: jnp.where(jnp.isinf(most), 0.0, most),
    "equal": lambda most: jnp.where(most == -jnp.inf, 0.0, most),
    "isfinite": lambda most: jnp.where(jnp.isfinite(most), most, 0.0),
    "greater": lambda most: jnp.where(most > -jnp.inf, most, 0.0),
}
"""Of a running maximum of which nothing is left: minus infinity less itself is no number."""
FORMS = {
    "blocks": lambda x: online(x, 3),
    **{f"blocks, guarded by {name}": functools.partial(online, block=3, guard=guard) for name, guard in GUARDS.items()},
    "blocks of one": lambda x: online(x, 1),
    "blocks of a loop": lambda x: online(x, 2, loop=lax.fori_loop),
    "blocks, least": lambda x: online(x, 3, -1e30, -1e30),
    "blocks, low": lambda x: online(x, 3, -1e9, -1e9),
    "query by query": query_by_query,
    "softmax": of_scores(jax.nn.softmax),
    "log_softmax": of_scores(lambda s: jnp.exp(jax.nn.log_softmax(s))),
    "logsumexp": of_scores(lambda s: jnp.exp(s - jax.nn.logsumexp(s, axis=-1, keepdims=True))),
    "logsumexp, no axis kept": of_scores(lambda s: jnp.exp(s - jax.nn.logsumexp(s, axis=-1)[..., None])),
    "by hand": of_scores(masked.softmax_by_hand),
    "in half precision": of_scores(lambda s: jax.nn.softmax(s.astype(jnp.bfloat16)).astype(jnp.float64)),
    "where": lambda x: jax.nn.softmax(parts(x)[0] @ parts(x)[1].T, where=TRI) @ parts(x)[2],
    "not normalised": of_scores(lambda s: jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True)))),
    "halves, not normalised": of_scores(lambda s: s - 0.5 * s.max(-1, keepdims=True), 0.0),
    "less another key": of_scores(lambda s: jnp.exp(s - s[:, :1])),
}
"""Two show what must stay: a gradient that goes around a maximum, and a difference that is not zero."""


@pytest.mark.parametrize("form", FORMS)
def test_one_visible_key(form):
    f, x = FORMS[form], jnp.asarray(np.random.default_rng(4).standard_normal((N, D)))
    size = np.abs(np.asarray(jax.jit(jax.jacrev(f), compiler_options=oracles.QUICK)(x))).sum((1, 3))
    for follow in ("values", "gradients"):
        fields = ej.theoretical(f, x, layout="LC", unit=list(range(N)), follow=follow)
        np.testing.assert_array_equal([field.mask() for field in fields], size > 1e-13 * size.max())


def test_a_number_less_itself():
    x = jax.ShapeDtypeStruct((9, D), jnp.float64)
    alone = lambda f: np.flatnonzero(ej.theoretical(f, x, layout="LC", unit=4).mask()).tolist()  # noqa: E731
    assert alone(lambda x: (x - x) + jnp.roll(x, 2, 0)) == [2]
    assert alone(lambda x: (x - lax.stop_gradient(x)) + jnp.roll(x, 2, 0)) == [2, 4]  # its gradient is one
    assert alone(lambda x: x - x.T.T[::-1][::-1] + jnp.roll(x, 2, 0)) == [2, 4]  # turned twice: not followed
    assert alone(lambda x: x / x + x.max(1, keepdims=True)) == [4]
    assert alone(lambda x: x - x[::-1]) == [4]
    assert alone(lambda x: jnp.roll(x, 1, 0) - x) == [3, 4]


@pytest.mark.parametrize(
    "number",
    [
        lambda x: jnp.log(jax.nn.relu(x)),
        lambda x: 1 / jax.nn.relu(x),
        lambda x: jnp.exp(100 * x),
        lambda x: (1e6 * x).astype(jnp.float16),
        lambda x: jnp.where(x > 0, x, -jnp.inf),
        lambda x: x + jnp.log(jnp.where(x > 0, x, 0.0)),
    ],
)
def test_what_stands_in_for_an_infinity_is_seen(number):
    """A guard against what does overflow, or is minus infinity where the data say so."""
    for finite in (jnp.isfinite, lambda y: ~jnp.isinf(y), lambda y: (y > -jnp.inf) & (y != jnp.inf)):
        f = lambda x, finite=finite: jnp.where(finite(number(x)), 0 * x, jnp.roll(x, 2, 0))  # noqa: E731
        assert 2 in np.flatnonzero(
            ej.theoretical(f, jax.ShapeDtypeStruct((9, D), jnp.float64), layout="LC", unit=4).mask()
        )


@pytest.mark.parametrize(
    ("f", "sees"),
    [
        (lambda x: x - x.astype(jnp.int32).astype(x.dtype), 1),
        (lambda x: x - x.astype(jnp.bfloat16).astype(x.dtype), 1),
        (lambda x: x - lax.reduce_precision(x, 5, 3), 1),
        (lambda x: jnp.log(jnp.exp(x).astype(jnp.float16)) - x.astype(jnp.float16), 1),
        (lambda x: x.astype(jnp.bfloat16) - x.astype(jnp.bfloat16), 0),
        (lambda x: x.astype(jnp.bfloat16).astype(x.dtype) - (x + 0).astype(jnp.bfloat16).astype(x.dtype), 0),
    ],
)
def test_what_a_conversion_rounds_away_is_seen(f, sees):
    field = ej.theoretical(f, jax.ShapeDtypeStruct((1, 5, 1), jnp.float32), layout="NLC")
    assert field.mask().sum() == sees


def chunked(x):
    """Linear attention in chunks of two, the state before each chunk as a running sum less its last term."""
    q, k, v = (part.reshape(N // 2, 2, D) for part in parts(x))
    state = jnp.einsum("cjd,cje->cde", k, v)
    state = jnp.cumsum(state, 0) - state
    return ((jnp.einsum("cid,cjd->cij", q, k) * TRI[:2, :2]) @ v + q @ state).reshape(N, D)


def behind(x):
    z = jnp.tanh(x)
    return lax.cumsum(z, 0, reverse=True) - z


def less_another(x):
    return jnp.cumsum(x, 0) - 2 * x


@pytest.mark.parametrize("f", [chunked, behind, less_another])
def test_running_sums_less_their_last_term(f):
    x = jnp.asarray(np.random.default_rng(5).standard_normal((N, D)))
    seen = np.abs(np.asarray(jax.jit(jax.jacrev(f), compiler_options=oracles.QUICK)(x))).sum((1, 3)) > 1e-13
    fields = ej.theoretical(f, x, layout="LC", unit=list(range(N)))
    np.testing.assert_array_equal([field.mask() for field in fields], seen)


def test_all_that_came_before_is_not_more_than_the_sequence():
    """A recurrence behind a padded convolution looks at padding too, which is no part of what came before."""

    def f(x):
        x = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
        return jnp.cumsum(x[:, 2:] + x[:, :-2], 1)

    found = ej.context(f, jax.ShapeDtypeStruct((1, 12, 3), jnp.float32))
    assert (found.left, found.right, found.grows) == (11, 0, (True, False))
