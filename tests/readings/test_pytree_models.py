"""A model that is a pytree is read like the function that closes over its weights, and compiled once for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import erfjax as ej
from erfjax.measurement.model import take_apart

X = np.random.default_rng(0).normal(size=(3, 11, 13, 2)).astype(np.float32)


def apply(weights, x):
    for w in weights["kernels"]:
        x = jnp.tanh(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
    return x * weights["scale"]


def weights(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    kernels = [jax.random.normal(key, (3, 3, 2, 2), jnp.float32) / 3 for key in keys]
    return {"kernels": kernels, "scale": jnp.asarray(1.0 + seed, jnp.float32)}


@pytest.mark.parametrize("read", [ej.empirical, ej.analytic])
def test_other_weights_give_the_field_of_those_weights_without_tracing(read):
    traced = []

    def counted(weights, x):
        traced.append(1)
        return apply(weights, x)

    for seed in range(3):
        own = weights(seed)
        before = len(traced)
        field = read(Partial(counted, own), X)
        assert (len(traced) > before) == (seed == 0)
        expected = read(lambda x, own=own: apply(own, x), X)
        np.testing.assert_array_equal(field.map, expected.map)
        assert field.notes == expected.notes


def test_the_survey_is_that_of_the_weights_at_hand():
    smooth = jax.tree.map(jnp.abs, weights(0))
    random = ej.analytic(Partial(apply, weights(0)), X)
    positive = ej.analytic(Partial(apply, smooth), X)
    assert not any("no independent draws" in note for note in random.notes)
    assert any("no independent draws" in note for note in positive.notes)


def test_what_is_no_weight_tells_models_apart():
    def rolled(places, weights, x):
        return apply(weights, x[:, :, places])

    own = weights(0)
    plain, reversed_ = (ej.empirical(Partial(rolled, jnp.arange(13)[::step], own), X, unit=(5, 3)) for step in (1, -1))
    assert plain.map.any()
    assert reversed_.map.any()
    assert not plain.map[:, 7:].any()  # three layers reach three pixels around column 3, or around its mirror image
    assert not reversed_.map[:, :6].any()


def test_flax_and_equinox_models_are_pytrees():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed here")
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed here")

    for seed in range(2):
        one = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(seed))
        np.testing.assert_array_equal(ej.empirical(one, X).map, ej.empirical(lambda x, f=one: f(x), X).map)
        other = eqx.nn.Conv2d(2, 3, 3, padding=1, key=jax.random.key(seed))
        planes = X.transpose(0, 3, 1, 2)
        found = ej.empirical(other, planes, layout="CHW").map
        np.testing.assert_array_equal(found, ej.empirical(lambda x, f=other: f(x), planes, layout="CHW").map)
    assert take_apart(other).structure is not None


def test_a_plain_function_has_no_weights():
    assert take_apart(jnp.sin).weights == ()
    assert take_apart(jnp.sin).structure is None


@pytest.mark.parametrize(
    "asked", [{}, {"weights": "exchangeable", "channels": "random-signs", "positions": "band"}], ids=["given", "band"]
)
def test_models_whose_fixed_matrices_have_other_zeros(asked):
    places = np.arange(12)

    def net(weights, x):
        return jnp.einsum("pq,nqc->npc", weights["between"], x @ weights["mixed"])

    mixed = jax.random.normal(jax.random.key(0), (2, 2), jnp.float32)
    for reach in (1, 3, 2, 11):
        between = jnp.asarray(np.abs(places[:, None] - places) <= reach, jnp.float32)
        own = {"between": between, "mixed": mixed}
        served = ej.analytic(Partial(net, own), jnp.ones((1, 12, 2), jnp.float32), layout="NWC", **asked)
        np.testing.assert_array_equal(served.map > 0, np.abs(places - 6) <= reach)


@pytest.mark.parametrize("positions", ["apart", "matrix", "band"])
def test_analytic_map_knows_the_zeros_of_a_fixed_matrix(positions):
    places = np.arange(12)
    between = jnp.asarray(np.abs(places[:, None] - places) <= 1, jnp.float32)
    mixed = jax.random.normal(jax.random.key(0), (2, 2), jnp.float32)
    asked = {"weights": "exchangeable", "channels": "random-signs", "positions": positions}
    found = ej.analytic_map(
        lambda x: jnp.einsum("pq,nqc->npc", between, x @ mixed),
        jnp.ones((1, 12, 2), jnp.float32),
        layout="NWC",
        **asked,
    )
    np.testing.assert_array_equal(found > 0, np.abs(places - 6) <= 1)


def test_measurements_of_models_whose_fixed_matrices_have_other_zeros():
    """The mean over all units, the size of each, and gates of other images: each model has its own, not the first one's."""
    places = np.arange(12)
    x = np.random.default_rng(0).normal(size=(3, 12, 2)).astype(np.float32)
    mixed = jax.random.normal(jax.random.key(0), (2, 2), jnp.float32)

    def net(weights, x):
        return jnp.einsum("pq,nqc->npc", weights["between"], jnp.tanh(x @ weights["mixed"]))

    for reach in (1, 3, 2):
        near = np.abs(places[:, None] - places) <= reach
        f = Partial(net, {"between": jnp.asarray(near, jnp.float32), "mixed": mixed})
        field = ej.empirical(f, x, layout="NWC")
        assert field.theoretical.size == (2 * reach + 1,)
        for asked in ({"unit": "all"}, {"gates": "shuffled"}):
            seen = ej.empirical(f, x, layout="NWC", **asked).map > 0
            np.testing.assert_array_equal(seen, near[6])
        every = ej.every_unit(f, x, step=1, layout="NWC", progress=False)
        np.testing.assert_array_equal(every.stop[0] - every.start[0], near.sum(1))
