"""Masks and known zeros: the field is the support of the float64 Jacobian, for every form of mask that people write."""

import subprocess
import sys
import time
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from tests import oracles
from tests.tracing import masked

ROUNDING = 1e-13


@pytest.fixture(autouse=True)
def as_people_write():
    """Networks of other people mix types and ranks; supports are decided in double precision."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def tokens(seed=7):
    rng = np.random.default_rng(seed)
    return rng, jnp.asarray(rng.standard_normal((1, masked.N, masked.C)))


def supported(jacobian):
    """Which tokens each token depends on, from a Jacobian (1, n, c, 1, n, c)."""
    size = np.abs(np.asarray(jacobian))
    return (size > ROUNDING * size.max()).any((0, 2, 3, 5))


def fields_of(f, x, support):
    """The fields of all tokens; each is its row of the support."""
    fields = ej.theoretical(f, x, unit=list(range(len(support))), layout="NLC")
    np.testing.assert_array_equal(np.array([field.mask() for field in fields]), support)
    return fields


@pytest.mark.parametrize("form", masked.FORMS)
def test_masks(form):
    """Every way to write a mask, for masks of every shape; one that only makes scores small says so."""
    rng, x = tokens()
    softmax = masked.softmax_by_hand if "where" in form else jax.nn.softmax
    f = masked.attention(rng, masked.FORMS[form], softmax)
    jacobian = jax.jit(jax.jacrev(f), compiler_options=oracles.QUICK)
    for name, mask in (
        masked.MASKS.items() if form in ("where -inf", "add -1e9") else [("dilated", masked.MASKS["dilated"])]
    ):
        mask = masked.awake(mask)
        support = supported(jacobian(x, jnp.asarray(mask)))
        np.testing.assert_array_equal(support, mask | np.eye(masked.N, dtype=bool), err_msg=name)
        fields = fields_of(lambda x, mask=mask: f(x, jnp.asarray(mask)), x, support)
        finite = form not in ("where -inf", "where least", "add -inf") and not mask.all()
        assert all(("Assumed" in "".join(field.notes)) == finite for field in fields)


@pytest.mark.parametrize("name", masked.NETWORKS)
def test_networks(name):
    rng, x = tokens()
    f = masked.NETWORKS[name](rng)
    jacobian = jax.jit(jax.jacrev(f), compiler_options=oracles.QUICK)(x)
    fields = fields_of(f, x, supported(jacobian))
    assert ("no mask" in name) == all(field.mask().all() for field in fields)


def test_causal_attention():
    q = lambda x: x[:, :, None]  # noqa: E731
    f = lambda x: jax.nn.dot_product_attention(q(x), q(x), q(x), is_causal=True)[:, :, 0]  # noqa: E731
    field = ej.theoretical(f, jax.ShapeDtypeStruct((2, 24, 8), jnp.float32), unit=12, layout="NLC")
    assert (field.size, field.start, field.stop, field.stride) == ((13,), (0,), (13,), (1,))
    assert field.mask().sum() == 13
    assert field.notes == ()  # JAX hides with 0.7 of the least number: no score reaches that


def test_masks_that_data_make():
    """Whatever the data choose, a known mask beside their choice holds."""
    rng, x = tokens()
    fields = ej.theoretical(masked.chosen_by_data(rng), x, unit=list(range(masked.N)), layout="NLC")
    np.testing.assert_array_equal([field.mask() for field in fields], masked.MASKS["causal"])


def test_sliding_attention_is_a_convolution():
    """Far from the border, attention over a window has a size, a stride and virtual positions as a convolution has."""
    q = lambda x: x[:, :, None]  # noqa: E731

    def f(x):
        for _ in range(2):
            x = x + jax.nn.dot_product_attention(q(x), q(x), q(x), local_window_size=(3, 1))[:, :, 0]
        return x

    x = jax.ShapeDtypeStruct((1, 64, 8), jnp.float32)
    middle, edge = ej.theoretical(f, x, unit=[32, 1], layout="NLC")
    assert (middle.start, middle.stop, middle.stride, middle.shift_invariant) == ((26,), (35,), (1,), True)
    assert (edge.start, edge.stop, edge.clipped) == ((-5,), (4,), ((0,), (4,)))


def pixel(kernel, x):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def raster(size, centre):
    """The mask of PixelCNN: rows above, and what lies to the left."""
    mask = np.zeros((size, size, 1, 1))
    mask[: size // 2] = 1
    mask[size // 2, : size // 2 + centre] = 1
    return mask


def test_masked_kernels():
    """PixelCNN has its blind spot, and no pixel sees itself; a kernel of zeros only is a silent branch."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((1, 9, 7, 2)))
    first, *rest = (jnp.asarray(rng.standard_normal((3, 3, 2, 2))) for _ in range(3))

    def f(x):
        y = pixel(first * raster(3, centre=0), x)
        for kernel in rest:
            y = pixel(kernel * raster(3, centre=1), jnp.tanh(y))
        return y

    support = oracles.support(f, x).any((0, 3, 4, 7))
    units = [(4, 3), (8, 0), (0, 6), (5, 5)]
    for unit, field in zip(units, ej.theoretical(f, x, unit=units), strict=True):
        np.testing.assert_array_equal(field.mask(), support[unit])
    blind = ej.theoretical(f, x, unit=(8, 3)).mask()
    assert not blind[8, 3]
    assert not blind[7, 6]  # a raster scan has been there, three layers see no further right than two
    silent = ej.theoretical(lambda x: x + pixel(jnp.zeros((3, 3, 2, 2)), x), x, unit=(4, 3))
    assert silent.size == (3, 3)


def test_causal_dilated_kernels():
    """WaveNet: a kernel of three taps of which the last is masked, dilated by 1, 2, 4."""
    taps = jnp.array([1.0, 1.0, 0.0])[:, None, None]

    def f(x):
        for d in (1, 2, 4):
            x = jax.lax.conv_general_dilated(
                x, taps, (1,), [(2 * d, 0)], rhs_dilation=(d,), dimension_numbers=("NWC", "WIO", "NWC")
            )
        return x

    field = ej.theoretical(f, jax.ShapeDtypeStruct((1, 40, 1), jnp.float64), unit=30, layout="NWC")
    assert (field.start, field.stop) == ((16,), (24,))


def test_shifted_windows_of_an_image():
    """Swin: 8 x 8 tokens in windows of 4 x 4, rolled by 2, with -100 between regions that the roll has joined."""
    rng = np.random.default_rng(1)
    w = [jnp.asarray(rng.standard_normal((2, 2))) for _ in range(3)]
    region = np.zeros((8, 8), int)
    for i, rows in enumerate((slice(0, 4), slice(4, 6), slice(6, 8))):
        for j, columns in enumerate((slice(0, 4), slice(4, 6), slice(6, 8))):
            region[rows, columns] = 3 * i + j

    def windows(y, c):
        return y.reshape(1, 2, 4, 2, 4, c).transpose(0, 1, 3, 2, 4, 5).reshape(4, 16, c)

    ids = np.asarray(windows(jnp.asarray(region)[None, ..., None], 1))[..., 0]
    mask = jnp.asarray(np.where(ids[:, :, None] != ids[:, None, :], -100.0, 0.0))

    def f(x):
        y = windows(jnp.roll(x, (-2, -2), (1, 2)), 2)
        q, k, v = (y @ a for a in w)
        y = jax.nn.softmax(jnp.einsum("wid,wjd->wij", q, k) + mask) @ v
        y = y.reshape(1, 2, 2, 4, 4, 2).transpose(0, 1, 3, 2, 4, 5).reshape(1, 8, 8, 2)
        return jnp.roll(y, (2, 2), (1, 2))

    x = jnp.asarray(0.3 * rng.standard_normal((1, 8, 8, 2)))
    support = oracles.support(f, x, 1e-13).any((0, 3, 4, 7))
    units = [(0, 0), (1, 5), (4, 3), (7, 7)]
    for unit, field in zip(units, ej.theoretical(f, x, unit=units), strict=True):
        np.testing.assert_array_equal(field.mask(), support[unit])
        assert "Assumed: where a mask holds -100" in field.notes[-1]


def test_zeros_of_a_fresh_network_are_no_mask():
    """A projection, a scale or a gate that starts at zero hides nothing; nor does a mean that is subtracted from an image."""
    _, x = tokens()
    zero = jnp.zeros((masked.C, masked.C))
    g = lambda x: x + (x.mean(1, keepdims=True) @ zero) * jnp.zeros(masked.C)  # noqa: E731
    assert ej.theoretical(g, x, layout="NLC").mask().all()
    stacked = jnp.zeros((2, masked.C))
    h = lambda x: jax.lax.scan(lambda y, s: (y + s * y.mean(1, keepdims=True), None), x, stacked)[0]  # noqa: E731
    assert ej.theoretical(h, x, layout="NLC").mask().all()
    image = jax.ShapeDtypeStruct((1, 9, 8, 3), jnp.float64)
    means = jnp.array([123.68, 116.78, 103.94])
    field = ej.theoretical(lambda x: jnp.exp(pixel(jnp.ones((3, 3, 3, 1)), x - means)), image)
    assert (field.size, field.notes) == ((3, 3), ())


def test_values_and_gradients():
    """A gradient stops where a value goes on: behind stop_gradient, at roundings and comparisons."""
    x = jax.ShapeDtypeStruct((1, 12, 1), jnp.float64)

    def f(x):
        return x + jax.lax.stop_gradient(jnp.roll(x, 1, 1)) + jnp.round(jnp.roll(x, 2, 1)) * (jnp.roll(x, 3, 1) > 0)

    def seen(follow):
        return np.flatnonzero(ej.theoretical(f, x, unit=6, layout="NWC", follow=follow).mask()).tolist()

    assert seen("values") == [3, 4, 5, 6]
    assert seen("gradients") == [6]


def decoder(x, layers, window=None):
    for _ in range(layers):
        q = x[:, :, None]
        x = x + jax.nn.dot_product_attention(q, q, q, is_causal=True, local_window_size=window)[:, :, 0]
    return x


@pytest.mark.parametrize(
    ("tokens", "window", "unit", "expected"),
    [(2048, None, 2047, (0, 2048)), (32768, (255, 0), 20000, (20000 - 24 * 255, 20001))],
)
def test_long_sequences(tokens, window, unit, expected):
    """Masks are intervals: neither time nor memory goes with the square of the sequence."""
    x = jax.ShapeDtypeStruct((1, tokens, 16), jnp.float32)
    ej.theoretical(lambda x: decoder(x, 1, window), x, layout="NLC", unit=unit)
    begin = time.process_time()
    field = ej.theoretical(lambda x: decoder(x, 24, window), x, layout="NLC", unit=unit)
    assert (field.start[0], field.stop[0]) == expected
    assert field.mask().sum() == expected[1] - expected[0]
    assert time.process_time() - begin < 8  # about 1 s on a quiet machine
    tracemalloc.start()
    ej.theoretical(lambda x: decoder(x, 4, window), x, layout="NLC", unit=unit)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6


DECODER = """
import time, jax, jax.numpy as jnp
import erfjax as ej

def resident():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))

def f(x):
    for _ in range(24):
        q = x[:, :, None]
        x = x + jax.nn.dot_product_attention(q, q, q, is_causal=True, local_window_size=(255, 0))[:, :, 0]
    return x

before = resident()
field = ej.theoretical(f, jax.ShapeDtypeStruct((1, 32768, 16), jnp.float32), layout="NLC", unit=20000)
memory, start = resident(), time.process_time()
rows = len(field.layers)
print(field.stop[0] - field.start[0], rows, before, memory, time.process_time() - start)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read as Linux has it")
def test_a_deep_decoder():
    """24 layers of sliding attention over 32,768 tokens: layers share their masks, and all of the process is below 500 MB.

    The table of its layers asks for the same boxes of them again and again: 80 CPU s where each was computed anew, now 2.
    """
    done = subprocess.run([sys.executable, "-c", DECODER], capture_output=True, text=True, check=True)
    size, rows, before, after, seconds = map(float, done.stdout.split())
    assert size == 24 * 255 + 1
    assert rows >= 24
    assert seconds < 20
    assert after < 500e6
    assert after - before < 150e6  # one set of masks per layer takes 310 MB


def test_masks_of_libraries():
    """The causal masks of Flax (both kinds), Haiku and Equinox: token u sees u + 1 tokens."""
    eqx, hk, linen, nnx = (pytest.importorskip(name) for name in ("equinox", "haiku", "flax.linen", "flax.nnx"))
    key, n = jax.random.key(0), 6
    x = jax.ShapeDtypeStruct((1, n, 8), jnp.float32)
    fresh = jnp.ones((1, n, 8), jnp.float32)
    real = jnp.arange(n)[None] < 5
    flax_mask = linen.combine_masks(
        linen.make_causal_mask(jnp.ones((1, n))), linen.make_attention_mask(jnp.ones((1, n)), real)
    )
    layer = linen.MultiHeadDotProductAttention(num_heads=2, param_dtype=jnp.float32, dtype=jnp.float32)
    weights = layer.init(key, fresh, mask=flax_mask)
    other = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
    own = eqx.nn.MultiheadAttention(2, 8, dtype=jnp.float32, key=key)
    tril = jnp.tril(jnp.ones((n, n), bool))
    model = hk.without_apply_rng(
        hk.transform(
            lambda y: hk.MultiHeadAttention(2, 4, w_init=hk.initializers.Constant(0.1))(y, y, y, mask=tril[None, None])
        )
    )
    params = model.init(key, fresh)
    functions = {
        "linen": lambda x: layer.apply(weights, x, mask=flax_mask),
        "nnx": lambda x: other(x, mask=nnx.make_causal_mask(jnp.ones((1, n)))),
        "equinox": lambda x: own(x[0], x[0], x[0], mask=tril)[None],
        "haiku": lambda x: model.apply(params, x),
    }
    for name, f in functions.items():
        for unit, field in enumerate(ej.theoretical(f, x, unit=list(range(5)), layout="NLC")):
            assert np.flatnonzero(field.mask()).tolist() == list(range(unit + 1)), (name, unit)
