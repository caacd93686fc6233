"""What is easily lost: rows of attention with one key, and masks of more pieces than a few; what is lost is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej

N = 6


@pytest.fixture(autouse=True)
def promotions():
    with jax.numpy_rank_promotion("allow"):
        yield


def lonely():
    """Causal, but for two rows that see one other token each."""
    mask = np.tril(np.ones((N, N), bool))
    mask[[3, 5]] = False
    mask[3, 1] = mask[5, 0] = True
    return jnp.asarray(mask)[None]


def scores(x):
    return jnp.einsum("nic,njc->nij", x, x)


def weighted(softmax):
    return lambda x: jnp.einsum("nij,njc->nic", softmax(scores(x)), x)


def in_half(s):
    """Softmax in another precision than the scores."""
    return jax.nn.softmax(jnp.where(lonely(), s, -jnp.inf).astype(jnp.bfloat16)).astype(jnp.float32)


FORMS = {
    "-inf": weighted(lambda s: jax.nn.softmax(jnp.where(lonely(), s, -jnp.inf))),
    "-1e9": weighted(lambda s: jax.nn.softmax(jnp.where(lonely(), s, -1e9))),
    "where": weighted(lambda s: jax.nn.softmax(s, where=lonely())),
    "half": weighted(in_half),
    "jax": lambda x: jax.nn.dot_product_attention(*[x[:, :, None]] * 3, mask=lonely()[:, None])[:, :, 0],
}


@pytest.mark.parametrize("name", FORMS)
def test_attention_of_one_key_is_a_lookup(name):
    """Its weight is one whatever the score, so the query of that row is not seen."""
    x = jax.ShapeDtypeStruct((1, N, 4), jnp.float32)
    for unit, field in enumerate(ej.theoretical(FORMS[name], x, unit=list(range(N)), layout="NLC")):
        expected = {3: [1], 5: [0]}.get(unit, list(range(unit + 1)))
        assert np.flatnonzero(field.mask()).tolist() == expected


def test_a_quotient_by_another_sum_is_no_constant():
    """The sum must be over the terms that are divided, along their own rows."""
    f = weighted(lambda s: jnp.exp(jnp.where(lonely(), s, -jnp.inf)) / jnp.exp(s).sum(-1, keepdims=True))
    field = ej.theoretical(f, jax.ShapeDtypeStruct((1, N, 4), jnp.float32), unit=3, layout="NLC")
    assert field.mask().all()


def disc(n):
    y, x = np.mgrid[:n, : n + 6]
    return (y - n / 2 + 0.7) ** 2 + (x - n / 2 - 2.1) ** 2 < (0.45 * n) ** 2


@pytest.mark.parametrize(
    ("name", "mask"), [("disc", disc(90)), ("noise", np.random.default_rng(0).random((90, 96)) < 0.5)]
)
def test_masks_of_images_keep_their_holes(name, mask):
    f = lambda x: jnp.sum(x * jnp.asarray(mask, jnp.float32)[None, :, :, None], (1, 2), keepdims=True)  # noqa: E731
    field = ej.theoretical(f, jax.ShapeDtypeStruct((1, *mask.shape, 1), jnp.float32))
    np.testing.assert_array_equal(field.mask(), mask)
    assert not field.notes


def test_masks_of_too_many_pieces_are_said_to_be_approximate():
    mask = np.random.default_rng(0).random((520, 40)) < 0.5
    f = lambda x: jnp.sum(x * jnp.asarray(mask, jnp.float32)[None, :, :, None], (1, 2), keepdims=True)  # noqa: E731
    field = ej.theoretical(f, jax.ShapeDtypeStruct((1, *mask.shape, 1), jnp.float32))
    assert (field.mask() | ~mask).all()  # an upper bound
    assert len(field.notes) == 1
    assert field.notes[0].startswith("Approximate: what `mul` at")
    assert "test_exactness.py" in field.notes[0]
