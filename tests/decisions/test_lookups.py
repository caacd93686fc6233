"""Tiles through lookups at known positions: nearest neighbours at any factor, strides, repeats; real permutations are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from tests.decisions import networks

SHAPE = (1, 48, 60, 2)


def image(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.int32)


def conv(x, seed=0):
    return networks.conv(x, 3, seed=seed)


def nearest(x, high, wide):
    """What `jax.image.resize(..., "nearest")` reads, of integers."""
    for axis, by in ((1, high), (2, wide)):
        n = x.shape[axis]
        m = round(n * by)
        x = jnp.take(x, np.floor((np.arange(m) + 0.5) * (n / m)).astype(np.int32), axis=axis)
    return x


def slices(x):
    """Windows of three rows, one every two (`lax.gather` of slices)."""
    starts = jnp.arange(0, x.shape[1] - 1, 2)[:, None]
    dims = lax.GatherDimensionNumbers(offset_dims=(1, 2, 3), collapsed_slice_dims=(), start_index_map=(0,))
    rows = lax.gather(x[0], starts, dims, (3, *x.shape[2:]), mode=lax.GatherScatterMode.CLIP)
    return rows[:, 1:].reshape(1, -1, *x.shape[2:])


FORMS = {
    "nearest": (lambda x: conv(nearest(conv(x), 2, 3), 1), (1, 1)),
    "nearest, no whole factor": (lambda x: conv(nearest(conv(x), 1.5, 2.5), 1), (2, 2)),
    "nearest, smaller": (lambda x: conv(nearest(conv(x), 1 / 3, 0.5), 1), (3, 2)),
    "repeat": (lambda x: conv(jnp.repeat(jnp.repeat(x, 2, 1), 3, 2)), (1, 1)),
    "stride": (lambda x: conv(conv(x)[:, ::2, ::3]), (2, 3)),
    "take": (lambda x: conv(jnp.take(conv(x), np.arange(1, x.shape[1], 3), axis=1)), (3, 1)),
    "index": (lambda x: conv(x[:, jnp.arange(0, x.shape[1], 2)]), (2, 1)),
    "both axes at once": (
        lambda x: conv(x[:, np.arange(x.shape[1])[:, None] // 2 * 2, np.arange(x.shape[2])[None] // 3 * 3]),
        (2, 3),
    ),
    "turned in blocks of four": (
        lambda x: x.reshape(1, -1, 4, *x.shape[2:])[:, :, np.array([2, 0, 3, 1])].reshape(x.shape),
        (4, 1),
    ),
    "slices": (lambda x: conv(slices(conv(x))), (2, 1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_lookups_in_tiles(form):
    (f, grid), x = FORMS[form], image()
    plan = ej.tiling(f, jax.ShapeDtypeStruct(SHAPE, jnp.int32), tile=(12, 30))
    assert plan.exact, plan.why
    assert (plan.grid, plan.notes) == (grid, ())
    assert max(max(pair) for pair in plan.halo) <= 6
    np.testing.assert_array_equal(plan(f, x, progress=False), f(jnp.asarray(x)))


def test_resize_by_jax():
    f = lambda x: jax.image.resize(x, (1, 2 * x.shape[1], 3 * x.shape[2] // 2, 2), "nearest")  # noqa: E731
    x = np.random.default_rng(3).normal(size=(1, 96, 40, 2)).astype(np.float32)
    plan = ej.tiling(f, jax.ShapeDtypeStruct(SHAPE, jnp.float32), tile=(12, 10))
    assert (plan.exact, plan.grid, plan.halo) == (True, (1, 2), ((0, 0), (0, 0)))
    np.testing.assert_array_equal(plan(f, x, progress=False), f(x))


def test_real_permutations_are_refused_by_name():
    def shuffled(x):
        return jnp.take(x, np.random.default_rng(0).permutation(x.shape[1]), axis=1)

    plan = ej.tiling(shuffled, jax.ShapeDtypeStruct((1, 300, 20, 2), jnp.float32), tile=(12, None))
    assert not plan.exact
    assert "`gather` at" in plan.why
    assert "shuffled) takes positions along axis H in no order that repeats" in plan.why


def test_outputs_of_one_size_are_refused():
    plan = ej.tiling(lambda x: x[:, :32], jax.ShapeDtypeStruct((1, 48, 20, 2), jnp.float32), tile=(12, None))
    assert "the output has 32 units along H at any size" in plan.why


@pytest.mark.parametrize("mode", ["clip", "fill"])
@pytest.mark.parametrize("unit", [(1,), (3,), (5,)])
def test_indices_outside_the_array(mode, unit):
    """Cones through lookups: what lies outside is clamped, or filled and not seen, as on the whole array."""
    w = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 2)), jnp.float32)

    def f(x):
        y = lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        return jnp.take(y, np.array([7, 40, 2, -3, 8, 11]), axis=1, mode=mode, fill_value=0.5)

    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 12, 2)), jnp.float32)
    found = ej.empirical(f, x, unit=unit, layout="NWC", channels="frobenius")
    gradient = np.asarray(jax.jacrev(lambda x: f(x)[0, unit[0]])(x), np.float64)
    np.testing.assert_allclose(found.map, (gradient**2).sum((0, 1, 3)), rtol=1e-5, atol=0)
