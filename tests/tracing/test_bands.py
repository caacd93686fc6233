"""Covariances of two positions as bands of lags: equal to whole matrices, which `test_two_points` holds against fresh draws."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.errors import DataDependentError, SampleError
from erfjax.tracing import trace
from erfjax.tracing.positions.index_sets import full
from erfjax.tracing.second_moments.covariances import Band, Matrix
from erfjax.tracing.second_moments.lag_plan import plan
from erfjax.tracing.second_moments.reaches import reaches
from erfjax.tracing.second_moments.segments import partition
from erfjax.tracing.second_moments.windowed import Crossing
from erfjax.tracing.windows.cone import restrict

CHANNELS = 4
RANDOM = {"weights": "exchangeable", "channels": "random-signs"}


def weights(key, *shape):
    return jax.random.normal(jax.random.key(key), shape) * math.sqrt(2 / math.prod(shape[:-1]))


def conv(x, w, stride=1, padding="SAME", base=1, dilation=1):
    space = x.ndim - 2
    numbers = ("NWC", "WIO", "NWC") if space == 1 else ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, w, (stride,) * space, padding, (base,) * space, (dilation,) * space, dimension_numbers=numbers
    )


def windowed(x, size, stride, padding="VALID", largest=False):
    window, strides = ((1, *(n,) * (x.ndim - 2), 1) for n in (size, stride))
    if largest:
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
    return lax.reduce_window(x, 0.0, lax.add, window, strides, padding) / size ** (x.ndim - 2)


def grown(x):
    return jax.image.resize(x, (x.shape[0], *(2 * n for n in x.shape[1:-1]), x.shape[-1]), "bilinear")


LINE = [weights(i, 3, CHANNELS, CHANNELS) for i in range(4)]
PLANE = [weights(i, 3, 3, CHANNELS, CHANNELS) for i in range(6)]
JOINED = [weights(i, 3, 3, 2 * CHANNELS, CHANNELS) for i in range(6, 8)]


def pools(x):
    x = windowed(jax.nn.relu(conv(x, LINE[0])), 2, 2)
    x = windowed(jax.nn.relu(conv(x, LINE[1])), 2, 2)
    return conv(windowed(x, 3, 1), LINE[2])


def strided(x):
    x = windowed(jnp.tanh(conv(x, LINE[0])), 3, 1)
    x = conv(conv(x, LINE[1], stride=2), LINE[2], padding=[(2, 2)], base=2)
    return conv(windowed(x, 2, 1), LINE[3], dilation=2)


def metaformer(x):
    for w in LINE:
        x = x + conv(windowed(jax.nn.relu(x), 3, 1, "SAME"), w)
    return x


def largest(x):
    x = windowed(jnp.tanh(conv(x, PLANE[0])), 3, 1)
    return conv(windowed(conv(x, PLANE[1], stride=2), 3, 2, "SAME", largest=True), PLANE[2])


def residual(x):
    x = windowed(jax.nn.relu(conv(x, PLANE[0])), 3, 2, "SAME", largest=True)
    for i in (1, 3):
        short = conv(windowed(x, 2, 2), PLANE[i][:1, :1])
        x = jax.nn.relu(short + conv(jax.nn.relu(conv(x, PLANE[i], stride=2)), PLANE[i + 1]))
    return x


def unet(x):
    fine = jax.nn.relu(conv(x, PLANE[0]))
    middle = jax.nn.relu(conv(windowed(fine, 2, 2), PLANE[1]))
    coarse = jax.nn.relu(conv(windowed(middle, 2, 2), PLANE[2]))
    middle = jax.nn.relu(conv(jnp.concatenate([grown(coarse), middle], -1), JOINED[0]))
    return conv(jnp.concatenate([grown(middle), fine], -1), JOINED[1])


def split(x):
    n = x.shape[1]
    x = conv(x, PLANE[0]).reshape(-1, n // 2, 2, n // 2, 2, CHANNELS).mean((2, 4))
    x = jnp.repeat(jnp.repeat(jax.nn.gelu(conv(x, PLANE[1])), 2, axis=1), 2, axis=2)
    return conv(windowed(x, 3, 1), PLANE[2])


def pooled_input(x):
    return conv(windowed(conv(windowed(x, 3, 1), LINE[0]), 2, 1), LINE[1])


def linear(x):
    for w in LINE:  # two kernels in a row: what lies beyond the border between them is padding
        x = windowed(conv(conv(x, w), w), 3, 1, "SAME")
    return conv(x, LINE[0])


NETWORKS = [(pools, 40), (strided, 32), (metaformer, 24), (largest, 16), (residual, 24), (unet, 16), (split, 12)]
NETWORKS.append((pooled_input, 16))
LINEAR = [
    pytest.param(*pair, marks=[] if pair[0] in (pools, unet, split) else pytest.mark.slow)
    for pair in NETWORKS
    if pair[0] not in (largest, residual)
]


def spec(f, n):
    space = 1 if f in (pools, strided, metaformer, pooled_input, linear) else 2
    return jax.ShapeDtypeStruct((1, *(n,) * space, CHANNELS), jnp.float32), "NWC" if space == 1 else "NHWC"


def both(f, n, gates, unit=None):
    shape, layout = spec(f, n)
    x = shape if gates == "mean-field" else jax.random.normal(jax.random.key(9), shape.shape)
    ask = {"layout": layout, "gates": gates, "unit": unit, **RANDOM}
    return [ej.analytic(lambda x: f(x), x, positions=p, **ask).map for p in ("matrix", "band")]


@pytest.mark.parametrize(("f", "n"), NETWORKS)
def test_a_band_holds_what_the_matrix_does(f, n):
    matrix, band = both(f, n, "data")
    np.testing.assert_allclose(band, matrix, rtol=1e-5, atol=1e-6 * matrix.max())


@pytest.mark.parametrize(("f", "n"), LINEAR)
def test_mean_field_on_bands(f, n):
    matrix, band = both(f, n, "mean-field")
    np.testing.assert_allclose(band, matrix, rtol=1e-5, atol=1e-6 * matrix.max())


@pytest.mark.parametrize(("f", "n"), [(metaformer, 24), (largest, 16), (pooled_input, 16)])
@pytest.mark.parametrize("way", ["by_taps", "by_products"])
def test_both_ways_through_windows(f, n, way, monkeypatch):
    monkeypatch.setattr(Crossing, "price", property(lambda crossing: getattr(crossing, way)))
    matrix, band = both(f, n, "data")
    np.testing.assert_allclose(band, matrix, rtol=1e-5, atol=1e-6 * matrix.max())


@pytest.mark.parametrize(
    ("f", "n", "unit"),
    [(unet, 16, (0, 15)), (pools, 40, (0,)), (linear, 24, (0,)), (linear, 24, (23,)), (strided, 32, (29,))],
)
def test_bands_end_at_the_border(f, n, unit):
    matrix, band = both(f, n, "data", unit)
    np.testing.assert_allclose(band, matrix, rtol=1e-5, atol=1e-6 * matrix.max())


def test_slopes_of_a_band():
    shape, layout = spec(pools, 40)
    x = jax.random.normal(jax.random.key(9), shape.shape)

    def far(scale, positions):
        f = lambda x: pools(x * scale)  # noqa: E731
        found = ej.analytic_map(f, x, layout=layout, positions=positions, **RANDOM)
        return jnp.sum(found * jnp.arange(len(found), dtype=found.dtype) ** 2)

    slopes = [float(jax.grad(far)(1.3, positions)) for positions in ("band", "matrix")]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-4)


def plan_of(f, shape, unit=None, asked="together"):
    """How covariances are held, from the unit to the input."""
    program = trace(f, shape)
    whole = full(program.output.shape)
    box = whole if unit is None else tuple(full((1,))[0].shift(u) for u in unit)
    cone = restrict(program, {program.output: box})
    last = len(shape.shape) - 1
    parts = partition(cone, lambda equation, operand: operand == 1, [last], [last])
    held = plan(parts, asked)
    return [held.layouts[atom] for atom in parts.order]


def test_few_lags_are_held_of_a_large_image():
    shape = jax.ShapeDtypeStruct((1, 256, 256, CHANNELS), jnp.float32)
    for f in (unet, residual):
        size = jax.eval_shape(f, shape).shape
        layouts = plan_of(f, shape, (0, *(n // 2 for n in size[1:-1]), 0))
        assert all(isinstance(layout, Band) for layout in layouts if layout.positions > 64)
        assert max(len(layout.rows) for layout in layouts if isinstance(layout, Band)) <= 5


def test_lags_that_the_input_does_not_ask_for_are_left_out():
    shape = jax.ShapeDtypeStruct((1, 64, CHANNELS), jnp.float32)

    def f(x):  # the lag is one between the pools, and none below the lower one, of windows side by side
        x = windowed(conv(windowed(conv(x, LINE[0]), 2, 2), LINE[1]), 2, 1)
        return conv(windowed(conv(x, LINE[2]), 4, 1), LINE[3])

    lags = [max(layout.lags[1]) for layout in plan_of(f, shape, (0, 10, 0), "band")]
    assert lags == [0, 0, 1, 1, 0, 0, 0, 0]


def test_strides_spread_lags():
    shape = jax.ShapeDtypeStruct((1, 64, CHANNELS), jnp.float32)

    def f(x):  # neighbours behind the stride are two apart before it, and come together again in windows of three
        x = conv(windowed(conv(x, LINE[0]), 3, 1), LINE[1], stride=2)
        return conv(windowed(x, 2, 1), LINE[2])

    lags = [layout.lags[1] for layout in plan_of(f, shape, (0, 10, 0), "band")]
    assert lags == [(0,), (0,), (0, 1), (0, 2), (0,), (0,)]


def random_operations(rng):
    """A few fixed operations along one axis."""
    kinds = {
        "pool": lambda x: windowed(x[None, :, None], 3, 2)[0, :, 0],
        "pad": lambda x: jnp.pad(x, (2, 1)),
        "slice": lambda x: x[1:-2],
        "stride": lambda x: x[::2],
        "turn": lambda x: x[::-1],
        "repeat": lambda x: jnp.repeat(x, 2),
        "blur": lambda x: jnp.convolve(x, jnp.ones(3), "same"),
        "grow": lambda x: jax.image.resize(x, (x.shape[0] * 3 // 2,), "bilinear"),
        "mean": lambda x: x[: x.shape[0] // 2 * 2].reshape(-1, 2).mean(1),
        "sum": lambda x: x + jnp.roll(x, 1).at[0].set(0.0),
        "join": lambda x: jnp.concatenate([x[:3], 2 * x]),
        "gather": lambda x: x[np.arange(0, x.shape[0], 3)],
        "relu": jax.nn.relu,
    }
    chosen = [kinds[name] for name in rng.choice(sorted(kinds), 4)]

    def f(x):
        for operation in chosen:
            x = operation(x)
        return x

    return f


@pytest.mark.parametrize("seed", range(60))
def test_reaches_hold_all_that_an_index_needs(seed):
    f, n = random_operations(np.random.default_rng(seed)), 24
    program = trace(f, jax.ShapeDtypeStruct((n,), jnp.float32))
    cone = restrict(program, {program.output: full(program.output.shape)})
    (reach,) = reaches(cone.block.inputs[0], program.output, cone.steps)
    if reach is None:
        return
    jacobian = np.asarray(jax.jacrev(f)(jnp.linspace(1.0, 2.0, n)))
    at = np.arange(n)
    inside = (at >= reach.first[:, None]) & (at <= reach.last[:, None])
    assert not jacobian[~inside].any()


def test_most_reaches_are_known():
    known = 0
    for seed in range(60):
        program = trace(random_operations(np.random.default_rng(seed)), jax.ShapeDtypeStruct((24,), jnp.float32))
        cone = restrict(program, {program.output: full(program.output.shape)})
        known += reaches(cone.block.inputs[0], program.output, cone.steps)[0] is not None
    assert known >= 40


@pytest.mark.parametrize(("sizes", "lags"), [((7,), ((0, 1, 3),)), ((4, 5), ((0, 2), (0, 1)))])
def test_a_band_is_a_part_of_its_matrix(sizes, lags):
    band, matrix, rng = Band(sizes, lags), Matrix(sizes), np.random.default_rng(0)
    places = np.indices(sizes).reshape(len(sizes), -1)
    apart = np.abs(places[:, :, None] - places[:, None, :])
    held = np.all([np.isin(apart[k], lags[k]) for k in range(len(sizes))], axis=0)
    whole = rng.normal(size=(band.positions,) * 2)
    whole = jnp.asarray(np.where(held, whole + whole.T, 0), jnp.float32)
    rows = jnp.asarray(rng.normal(size=(band.positions, 3)), jnp.float32)
    mine = band.of(whole)
    np.testing.assert_array_equal(band.whole(mine), whole)
    np.testing.assert_array_equal(band.diagonal(mine), matrix.diagonal(whole))
    np.testing.assert_allclose(band.times(mine, rows), matrix.times(whole, rows), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(band.inner(rows), band.of(matrix.inner(rows)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(band.outer(rows[:, 0]), band.of(matrix.outer(rows[:, 0])), rtol=1e-5)
    every = np.array([(-1,) * len(sizes), (1,) * len(sizes), (0,) * len(sizes), (3,) * len(sizes)])
    np.testing.assert_array_equal(band.read(mine, every), matrix.read(whole, every))
    one, other = np.nonzero(np.ones((band.positions,) * 2))
    between = band.between(mine, jnp.asarray(places[:, one]), jnp.asarray(places[:, other]))
    np.testing.assert_array_equal(between, whole[one, other])


def test_a_band_is_refused_where_all_positions_meet():
    x = jax.random.normal(jax.random.key(0), (1, 12, CHANNELS))

    def f(x):
        for w in LINE[:2]:
            x = conv(jax.nn.softmax(x @ x.swapaxes(1, 2)) @ x, w)
        return x

    with pytest.raises(DataDependentError, match="any number of lags apart"):
        ej.analytic(f, x, layout="NWC", positions="band", **RANDOM)
    with pytest.raises(SampleError, match='weights="exchangeable"'):
        ej.analytic(pools, jnp.ones((1, 40, CHANNELS)), layout="NWC", positions="band")
