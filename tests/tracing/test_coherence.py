"""What the covariance of two positions takes as random and as independent.

Known transforms are not random, weights met twice are not independent, nor are gradients that go with the weights before them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from jax import lax

from tests.tracing.families import layer_norm, relu, split
from tests.tracing.test_families import TOKENS, closed, drawn, notes

NAMES = ("NWC", "WIO", "NWC")
ITSELF, SUMMED, ALIKE, UNEVEN, SHARED = (
    "contracted with itself",
    "summed after a nonlinearity",
    "positions for a nonlinearity",
    "not used alike",
    "more than once",
)


def cubic(x):
    return jax.image.resize(x, (x.shape[0], 8, x.shape[2]), "cubic")


def cosines(x):
    return jnp.einsum("st,btc->bsc", scipy.fft.dct(np.eye(x.shape[1]), axis=0, norm="ortho").astype(np.float32), x)


def wavelets(x):
    small = np.kron(np.eye(x.shape[1] // 2), [[1, 1], [1, -1]]) / math.sqrt(2)
    order = np.r_[: len(small) : 2, 1 : len(small) : 2]
    return jnp.einsum("st,btc->bsc", small[order].astype(np.float32), x)


@pytest.mark.parametrize(("mixed", "size"), [(cubic, 5), (cosines, 8), (wavelets, 8)])
def test_known_transforms_of_positions_are_no_random_weights(mixed, size):
    def network(w, x):
        return w.dense(mixed(w.dense(x, 32)), 32)

    unit = 5
    field = closed(network, TOKENS, (unit,), *drawn(network, (size, 32), jax.random.key(0)))
    row = np.asarray(jax.jacrev(lambda t: mixed(t[None, :, None])[0, unit, 0])(jnp.zeros(size)), np.float64)
    assert field.coverage == "exact"
    np.testing.assert_allclose(field.normalised(), row**2 / (row**2).sum(), atol=1e-5)


def flipped(w, x):
    """A decoder with the kernel of the encoder."""
    kernel = w.draw((3, 32, 32), 96, 2.0)
    h = relu(w.conv(x, 32, kernel=kernel))
    return lax.conv_transpose(h, kernel, (1,), "SAME", dimension_numbers=NAMES, transpose_kernel=True)


def scaled(w, x):
    u = w.draw((32, 32), 32)
    return w.dense(relu(w.dense(x @ u, 32)) @ (-2 * u), 32)


def sliced(w, x):
    u = w.draw((32, 64), 32, 2.0)
    return relu(x @ u)[..., :32] @ u[:, 16:48]


def parts(w, x):
    """Two halves of one array: each is met once."""
    u = w.draw((32, 64), 32, 2.0)
    return relu(x @ u[:, :32]) @ u[:, 32:]


def itself(w, x):
    h = w.dense(x, 32)
    return w.dense(jnp.einsum("bij,bjc->bic", jax.nn.softmax(jnp.einsum("bic,bjc->bij", h, h) / 6), h), 32)


def two(w, x):
    q, k, v = (w.dense(x, 32) for _ in range(3))
    return w.dense(jnp.einsum("bij,bjc->bic", jax.nn.softmax(jnp.einsum("bic,bjc->bij", q, k) / 6), v), 32)


def channel_mean(w, x):
    return w.conv(relu(w.dense(x, 64, 2.0)).mean(-1, keepdims=True) * 8, 32, 25)


def linear_mean(w, x):
    return w.conv(w.dense(x, 64).mean(-1, keepdims=True) * 8, 32, 25)


def ones(w, x):
    """A mean over channels as a product with known ones."""
    h = relu(w.dense(x, 64, 2.0))
    return w.conv(jnp.einsum("bic,c->bi", h, jnp.ones(64))[..., None] / 8, 32, 25)


def group_means(w, x, groups=4):
    return w.dense(w.dense(split(relu(w.dense(x, 64, 2.0)), groups).mean(-1), 32), 32)


def pairs_of_channels(w, x):
    return group_means(w, x, 32)


def gated_by_energy(w, x, scale=32**0.5):
    """A gate of all channels by their squares, added up like scores: over √channels."""
    h = w.dense(x, 32)
    return w.dense(h * jax.nn.sigmoid(((h * h).sum(-1, keepdims=True) - 32) / scale), 32)


def gated_by_mean_energy(w, x):
    return gated_by_energy(w, x, 32)


def gated_by_norm(w, x):
    h = w.dense(x, 32)
    size = jnp.sqrt((h * h).sum(1, keepdims=True))  # global response normalisation
    return w.dense(h * size / size.mean(-1, keepdims=True), 32)


def scored(w, x, asking, answering, share):
    q, k, v = (w.dense(x, 32) for _ in range(3))
    scores = share(jnp.einsum("bic,bjc->bij", asking(q), answering(k)))
    return w.dense(jnp.einsum("bij,bjc->bic", scores, v), 32)


def softened(scores):
    return jax.nn.softmax(scores / math.sqrt(32))


def positive_features(w, x):
    return scored(w, x, relu, relu, softened)


def shares_of_positive_features(w, x):
    return scored(w, x, relu, relu, lambda scores: scores / scores.sum(-1, keepdims=True))


def positive_keys(w, x):
    return scored(w, x, lambda q: q, relu, softened)


def normalised_queries(w, x):
    return scored(w, x, layer_norm, layer_norm, softened)


def recurrent(w, x, read):
    """A running sum of tokens in a scan, and what is read of it at each step."""
    h = w.dense(x, 32)

    def step(state, token):
        state = state / 2 + token
        return state, read(state)

    states = lax.scan(step, jnp.zeros_like(h[:, 0]), jnp.swapaxes(h, 0, 1))[1]
    return w.conv(jnp.swapaxes(states, 0, 1), 32, 25)


def scan_of_means(w, x):
    return recurrent(w, x, lambda state: relu(state).mean(-1, keepdims=True))


def scan_of_energies(w, x):
    return recurrent(w, x, lambda s: s * jax.nn.sigmoid(((s * s).sum(-1, keepdims=True) - 32) / math.sqrt(32)))


def scan_of_norms(w, x):
    return recurrent(w, x, lambda state: layer_norm(state))


def normed(w, x):
    return w.dense(layer_norm(relu(w.dense(x, 32, 2.0))), 32)


def tokens(w, h):
    h = jnp.swapaxes(w.dense(jnp.swapaxes(h, 1, 2), h.shape[1]), 1, 2)
    return w.dense(relu(w.dense(h, h.shape[2], 2.0)).mean(1, keepdims=True), h.shape[2])


def tokens_then_one(w, x):
    h = jnp.swapaxes(w.dense(jnp.swapaxes(x, 1, 2), x.shape[1]), 1, 2)
    return w.dense(relu(w.dense(layer_norm(h), 32, 2.0)), 32)


def tokens_summed(w, x):
    return w.dense(jnp.swapaxes(w.dense(jnp.swapaxes(x, 1, 2), x.shape[1]), 1, 2).mean(1, keepdims=True), 32)


def groups(w, x, first=slice(32)):
    """The second group reads other tokens than the first one, which alone is used."""
    z = w.dense(x, 64)
    h = jnp.concatenate([z[..., :32], jnp.roll(z[..., 32:], 2, 1)], -1)
    return w.dense(w.conv(relu(h), 64, 1, groups=2)[..., first], 32)


def groups_alike(w, x):
    return groups(w, x, slice(None))


def groups_shuffled(w, x):
    h = relu(w.conv(w.dense(x, 64), 64, 1, groups=2))
    return w.dense(jnp.swapaxes(split(h, 2), 2, 3).reshape(h.shape), 32)


@pytest.mark.parametrize(
    ("network", "why", "size", "unit"),
    [
        (flipped, SHARED, 5, 2),
        (scaled, SHARED, 5, 2),
        (sliced, SHARED, 5, 2),
        (parts, "", 5, 2),
        (itself, ITSELF, 5, 2),
        (two, "", 5, 2),
        (channel_mean, SUMMED, 5, 2),
        (linear_mean, "", 5, 2),
        (ones, SUMMED, 5, 2),
        (group_means, SUMMED, 5, 2),
        (pairs_of_channels, "", 5, 2),
        (gated_by_energy, SUMMED, 5, 2),
        (gated_by_mean_energy, "", 5, 2),
        (gated_by_norm, "", 5, 2),
        (positive_features, SUMMED, 5, 2),
        (shares_of_positive_features, "", 5, 2),
        (positive_keys, "", 5, 2),
        (normalised_queries, "", 5, 2),
        (scan_of_means, SUMMED, 5, 2),
        (scan_of_energies, SUMMED, 5, 2),
        (scan_of_norms, "", 5, 2),
        (normed, "", 5, 2),
        (tokens, ALIKE, 32, 0),
        (tokens_then_one, "", 32, 5),
        (tokens_summed, "", 32, 0),
        (groups, UNEVEN, 5, 2),
        (groups_alike, "", 5, 2),
        (groups_shuffled, "", 5, 2),
    ],
)
def test_gradients_that_go_with_the_weights_before_them_are_named(network, why, size, unit):
    coverage, said = notes(network, 32, size=(size,), unit=(unit,))
    assert coverage == ("approximate" if why else "exact"), said
    if why:
        assert why in said[0]
        assert any(f"` at {file}.py" in said[0] for file in ("test_coherence", "families")) or "->" in said[0]
