"""Axes that are flattened, seen globally, or looped over: strides, places, rows, and a note on layouts that look wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.errors import LayoutError
from erfjax.layouts import parse
from erfjax.readings.reader import Reader
from erfjax.tracing import trace
from erfjax.tracing.positions.hull import refuse

IMAGE = jax.ShapeDtypeStruct((1, 64, 48, 3), jnp.float32)
PATCHES = jnp.ones((8, 8, 3, 4))
DIMS = ("NHWC", "HWIO", "NHWC")


def tokens(x, class_token=False):
    """Patches of 8 x 8 pixels as one sequence, and global attention over it."""
    y = lax.conv_general_dilated(x, PATCHES, (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = y.reshape(1, -1, 4)
    if class_token:
        y = jnp.concatenate([jnp.zeros((1, 1, 4)), y], 1)
    y = y + jnp.ones((1, y.shape[1], 4))
    q = y[:, :, None]
    return y + jax.nn.dot_product_attention(q, q, q)[:, :, 0]


def test_a_vision_transformer_in_its_image():
    """Tokens put back into a grid stand 8 pixels apart, with or without a class token in between."""
    for f in (lambda x: tokens(x), lambda x: tokens(x, True)[:, 1:]):
        field = ej.theoretical(lambda x, f=f: f(x).reshape(1, 8, 6, 4), IMAGE, unit=(2, 5))
        assert field.stride == (8, 8)
        assert field.size == (np.inf, np.inf)
        assert field.shift_invariant
        assert field.place == (19.5, 43.5)


def test_tokens_have_a_place_in_the_image():
    """Without out_layout: three axes of an image with channels last are tokens; the class token stands nowhere."""
    first, second, last = ej.theoretical(lambda x: tokens(x, True), IMAGE, unit=[0, 1, 48])
    assert (first.stride, second.stride) == ((8, 8), (8, 8))
    assert (first.place, second.place, last.place) == ((None, None), (3.5, 3.5), (59.5, 43.5))
    assert "stands on pixel   nowhere × nowhere" in str(first)
    rows = {row.name: row for row in first.layers}
    assert all(row.stride == (8, 8) for row in rows.values())
    with pytest.raises(LayoutError, match="out_layout"):
        ej.theoretical(
            lambda x: tokens(x.transpose(0, 2, 3, 1)), jax.ShapeDtypeStruct((1, 3, 64, 48), jnp.float32), layout="NCHW"
        )


def test_patches_by_reshaping():
    """The patch embedding of many libraries: a reshape, a transposition and a dense layer."""

    def f(x):
        y = x.reshape(1, 8, 8, 6, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 48, 192)
        return y @ jnp.ones((192, 4))

    field = ej.theoretical(f, IMAGE, unit=8, out_layout="NLC")  # 48 tokens could be one row of 48 pixels, too
    assert (field.stride, field.start, field.stop, field.padding) == ((8, 8), (8, 16), (16, 24), (0, 0))
    assert field.place == (11.5, 19.5)


def window_attention(x, size, roll):
    """Swin: attention inside windows of size x size tokens of (1, H, W, C), of which a roll joins no edges (-inf between)."""
    _, h, w, c = x.shape
    rows, columns = np.arange(h), np.arange(w)

    def windows(y):
        parts = y.reshape(h // size, size, w // size, size, -1).transpose(0, 2, 1, 3, 4)
        return parts.reshape(-1, size * size, y.shape[-1])

    torn = (rows[:, None] >= h - roll) + 2 * (columns >= w - roll)
    ids = windows(torn[None, ..., None])[..., 0]
    y = windows(jnp.roll(x, (-roll, -roll), (1, 2)))
    scores = jnp.where(ids[:, :, None] == ids[:, None], jnp.einsum("wic,wjc->wij", y, y), -jnp.inf)
    y = (jax.nn.softmax(scores) @ y).reshape(h // size, w // size, size, size, c).transpose(0, 2, 1, 3, 4)
    return x + jnp.roll(y.reshape(1, h, w, c), (roll, roll), (1, 2))


def merged(x):
    """Patch merging: 2 x 2 tokens become one."""
    y = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
    return y @ jnp.ones((y.shape[-1], x.shape[-1]))


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("roll", [0, 2])
def test_units_that_share_a_window_are_a_stride_apart(sequence, roll):
    """Behind patches of 4 x 4 and patch merging: 8 x 8 pixels per token, though the tokens of a window have one field."""

    def f(x):
        x = lax.conv_general_dilated(x, jnp.ones((4, 4, 3, 2)), (4, 4), "VALID", dimension_numbers=DIMS)
        x = merged(window_attention(window_attention(x, 4, 0), 4, roll))
        x = window_attention(x, 4, 0)
        return x.reshape(1, -1, 2) if sequence else x

    x = jax.ShapeDtypeStruct((1, 128, 96, 3), jnp.float32)
    units = [(0, 0), (7, 5), (8, 3), (15, 11)]
    starts = {0: [(0, 0), (32, 32), (64, 0), (96, 64)], 2: [(0, 0), (16, 16), (48, 0), (80, 48)]}[roll]
    asked = [12 * i + j for i, j in units] if sequence else units
    for (i, j), start, field in zip(units, starts, ej.theoretical(f, x, unit=asked), strict=True):
        assert (field.stride, field.start) == ((8, 8), start)
        assert field.padding == (8 * i - start[0], 8 * j - start[1])
    if not sequence:
        assert {row.stride for row in field.layers} == {(4, 4), (16, 16), (8, 8), (32, 32)}


def recurrent(x):
    def step(h, row):
        h = jnp.tanh(h @ jnp.ones((4, 4)) + row @ jnp.ones((3, 4)))
        return h, h

    return lax.scan(step, jnp.zeros((1, 4)), x.swapaxes(0, 1))[1].swapaxes(0, 1)


def test_a_scan_is_one_row():
    x = jax.ShapeDtypeStruct((1, 20, 3), jnp.float32)

    def f(x):
        with jax.named_scope("cell"):
            y = recurrent(x)
        return y @ jnp.ones((4, 2))

    field = ej.theoretical(f, x, unit=7, layout="NLC")
    assert (field.size, field.stride) == ((8,), (1,))
    assert [(row.name, row.operation) for row in field.layers] == [("cell", "scan"), ("dot_general_1", "dot_general")]
    assert (field.layers[0].size, field.layers[0].stride, field.layers[0].padding) == ((11,), (1,), (10,))  # of step 10


def test_layers_that_the_unit_cannot_see_are_not_listed():
    """Of layers side by side only those are listed that lie on the way to the unit."""

    def f(x):
        left, right = x[:, :10], x[:, 10:]
        with jax.named_scope("left"):
            left = jnp.cumsum(left @ jnp.ones((3, 3)), 1)
        with jax.named_scope("right"):
            right = right @ jnp.ones((3, 3))
        return jnp.concatenate([left, right], 1)

    x = jax.ShapeDtypeStruct((1, 20, 3), jnp.float32)
    fields = ej.theoretical(f, x, unit=[3, 15], layout="NLC")
    assert [[row.name for row in field.layers] for field in fields] == [["left"], ["right"]]


def test_a_layout_that_looks_wrong_is_asked_about():
    """Channels first, read as channels last: what is called height is mixed, what is called channels slides."""

    def f(x):
        for w in (jnp.ones((8, 3, 3, 3)), jnp.ones((8, 8, 3, 3))):
            x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        return x

    x = jax.ShapeDtypeStruct((1, 3, 32, 40), jnp.float32)
    assert 'layout="NCHW"' in ej.theoretical(f, x).notes[-1]
    assert ej.theoretical(f, x, layout="NCHW").notes == ()
    depthwise = lambda x: x + x.mean((1, 2), keepdims=True)  # noqa: E731
    assert ej.theoretical(depthwise, IMAGE).notes == ()


def test_intervals_of_all_units():
    """The hull of every unit along an axis: what look-back, look-ahead and tiles are read from."""
    x = jax.ShapeDtypeStruct((1, 16, 8), jnp.float32)
    q = lambda x: x[:, :, None]  # noqa: E731
    f = lambda x: jax.nn.dot_product_attention(q(x), q(x), q(x), local_window_size=(3, 1))[:, :, 0]  # noqa: E731
    layout = parse("NLC", 3)
    program = trace(f, x)
    start, stop = Reader(program, layout, refuse).intervals(program.output, layout)
    units = np.arange(16)
    np.testing.assert_array_equal(start[:, 0], np.maximum(units - 3, 0))
    np.testing.assert_array_equal(stop[:, 0], np.minimum(units + 2, 16))
