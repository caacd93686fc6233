"""Where other tools fail, with the true values: each was seen in a tool that people use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.errors import UnsupportedPrimitiveError
from tests import catalogue, oracles

LINE = jax.ShapeDtypeStruct((1, 40, 1), jnp.float32)
IMAGE = jax.ShapeDtypeStruct((1, 64, 48, 1), jnp.float32)
VOLUME = jax.ShapeDtypeStruct((1, 12, 14, 10, 1), jnp.float32)


def conv(x, kernel, stride=1, dilation=1, padding="SAME", base=1):
    """All-ones convolution of any rank, channels last."""
    rank = x.ndim - 2
    dims = (catalogue.LAYOUTS[rank], catalogue.KERNELS[rank], catalogue.LAYOUTS[rank])
    w = jnp.ones((*(kernel,) * rank, x.shape[-1], 1), x.dtype)
    return lax.conv_general_dilated(x, w, (stride,) * rank, padding, (base,) * rank, (dilation,) * rank, dims)


def max_pool(x, size):
    window = (1, *(size,) * (x.ndim - 2), 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def test_parallel_branches_are_not_summed():
    """conv7 beside conv5: 7. Tools that follow the call order say 11."""
    field = ej.theoretical(lambda x: conv(x, 7) + conv(x, 5), IMAGE)
    assert (field.size, field.shift_invariant) == ((7, 7), True)


def test_relu_without_bias():
    """5, although the gradient at a dead unit is zero. Tools that read gradients say 0."""
    field = ej.theoretical(lambda x: jax.nn.relu(-jax.nn.relu(conv(jax.nn.relu(conv(x, 3)), 3))), IMAGE)
    assert field.size == (5, 5)


def test_dilation():
    """k3 d4: 9 pixels of extent, 3 of them seen."""
    field = ej.theoretical(lambda x: conv(x, 3, dilation=4), IMAGE)
    assert field.size == (9, 9)
    rows, columns = np.nonzero(field.mask())
    assert set(rows.tolist()) == {28, 32, 36}
    assert set(columns.tolist()) == {20, 24, 28}
    assert field.mask().sum() == 9


def test_dilation_moves_the_start():
    field = ej.theoretical(lambda x: conv(conv(x, 3, dilation=3), 3, stride=2, padding="VALID"), LINE, layout="NWC")
    assert (field.size, field.stride, field.padding) == ((9,), (2,), (3,))


def test_pooling_between_convolutions():
    """conv3, maxpool2, conv3: 8. A gradient follows the maximum and sees 7."""
    field = ej.theoretical(lambda x: conv(max_pool(conv(x, 3), 2), 3), IMAGE)
    assert (field.size, field.stride) == ((8, 8), (2, 2))


def test_field_larger_than_the_input():
    """91 on 64 pixels: unclipped 91, clipped 64, and the stride stays 8 (torchvision's ResNet-50 up to layer2)."""
    nodes = catalogue.resnet((3, 4), bottleneck=True)
    f = catalogue.build(nodes)
    field = ej.theoretical(f, jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32))
    assert (field.size, field.stride, field.padding) == ((91, 91), (8, 8), (45, 45))
    assert field.clipped == ((0, 0), (64, 64))
    assert field.mask().all()


@pytest.mark.parametrize("unit", [(10, 6), (11, 6), (11, 7)])
def test_strided_then_transposed(unit):
    """conv3 stride 2, then a transposed convolution k4 stride 2: two phases, both exact."""

    def f(x):
        y = conv(x, 3, stride=2, padding=[(1, 1)] * 2)
        return conv(y, 4, base=2, padding=[(2, 2)] * 2)

    field = ej.theoretical(f, IMAGE, unit=unit)
    assert not field.shift_invariant or field.phases().minimum == field.phases().maximum
    with jax.enable_x64(True):
        x = jnp.ones((1, 64, 48, 1))
        seen = np.asarray(jax.grad(lambda x: f(x)[0, *unit, 0])(x))[0, ..., 0] != 0
    np.testing.assert_array_equal(field.mask(), seen)
    assert field.phases().period == (2, 2)


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic", "lanczos3", "lanczos5"])
@pytest.mark.parametrize("shape", [(23, 31), (5, 40), (46, 12)])
def test_resize(method, shape):
    """Every method, up and down, by ratios that are no integers: the pixels whose weight is not zero but for rounding."""

    def f(x):
        return jax.image.resize(conv(x, 3), (1, *shape, 1), method)

    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (1, 17, 22, 1)))
        units = [(0, 0), (shape[0] // 2, shape[1] // 2), (shape[0] - 1, 3)]
        for unit, field in zip(units, ej.theoretical(f, x, unit=units), strict=True):
            gradient = np.asarray(jax.grad(lambda x, unit=unit: f(x)[0, *unit, 0])(x))[0, ..., 0]
            seen = np.abs(gradient) > 1e-12
            if method in ("nearest", "linear"):
                np.testing.assert_array_equal(field.mask(), seen)
            else:  # weights of both signs may cancel under the convolution
                assert not (seen & ~field.mask()).any()


def test_bilinear_upsampling_of_a_strided_convolution():
    """Stride 2, then twice the size, bilinearly: the field of the two phases differs and the stride is one pixel."""

    def f(x):
        y = conv(x, 3, stride=2, padding=[(1, 1)] * 2)
        return jax.image.resize(y, (1, 2 * y.shape[1], 2 * y.shape[2], 1), "linear")

    field = ej.theoretical(f, IMAGE)
    table = field.phases()
    assert (table.period, table.shift) == ((2, 2), (2, 2))
    assert field.size == (5, 5)
    assert (field.start, field.stop) == ((29, 21), (34, 26))


def test_an_unknown_primitive_is_refused_with_location_and_remedy():
    from jax.extend.core import Primitive

    mystery = Primitive("mystery")
    mystery.def_abstract_eval(lambda x: x)

    def net(x):
        with jax.named_scope("block2"):
            return mystery.bind(conv(x, 3))

    with pytest.raises(UnsupportedPrimitiveError) as caught:
        ej.theoretical(net, IMAGE)
    message = str(caught.value)
    assert "mystery" in message
    assert "block2" in message
    assert "test_peers.py" in message
    assert "ej.empirical" in message
    assert "register" in message
    assert 'unknown="everything"' in message
    field = ej.theoretical(net, IMAGE, unknown="everything")
    assert field.size == (np.inf, np.inf)
    assert field.clipped == ((0, 0), (64, 48))
    assert "1 equation" in field.notes[0]
    assert "mystery" in field.notes[0]


def test_identity_dropout_layer_norm():
    """They raise elsewhere; here they change nothing, and a norm over channels stays at its pixel."""

    def layer_norm(x):
        return jax.nn.standardize(x, axis=-1)

    def dropout(x):
        return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x / 0.5, 0.0)

    field = ej.theoretical(lambda x: conv(layer_norm(dropout(conv(x + 0, 3))), 5), IMAGE)
    assert (field.size, field.shift_invariant) == ((7, 7), True)


def test_one_and_three_dimensions():
    assert ej.theoretical(lambda x: max_pool(conv(x, 5), 2), LINE, layout="NWC").size == (6,)
    field = ej.theoretical(lambda x: conv(max_pool(conv(x, 3), 2), 3), VOLUME, layout="NDHWC")
    assert (field.size, field.stride, field.unit) == ((8, 8, 8), (2, 2, 2), (3, 3, 2))
    assert field.mask().sum() == 8**3


def test_transposed_convolution_does_not_shrink_the_field():
    """k4 stride 2 after conv3: 4, not 3 - 4."""
    field = ej.theoretical(lambda x: conv(conv(x, 3), 4, base=2, padding=[(2, 2)] * 2), IMAGE)
    assert field.size == (4, 4)
    assert field.stride == (0.5, 0.5) or field.phases().shift == (1, 1)


def test_upsampling_by_repetition():
    field = ej.theoretical(lambda x: conv(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), 3), IMAGE, unit=[(20, 21), (21, 20)])
    assert [f.size for f in field] == [(2, 2), (2, 2)]
    assert [f.start for f in field] == [(9, 10), (10, 9)]


def test_slices_that_shift_a_path():
    """A skip that is moved by three pixels widens the hull and leaves a hole."""

    def f(x):
        return conv(x, 3)[:, :-6] + x[:, 6:]

    field = ej.theoretical(f, LINE, layout="NWC", unit=10)
    assert (field.start, field.stop) == ((9,), (17,))
    assert np.flatnonzero(field.mask()).tolist() == [9, 10, 11, 16]
    assert field.shift_invariant


def test_field_is_that_of_gradients_where_gradients_are_right():
    """The same answer as the support of a gradient with positive weights on a net without maxima."""

    def f(x):
        return conv(conv(x, 3, stride=2), 5, dilation=2)

    with jax.enable_x64(True):
        seen = oracles.support(lambda x: f(x)[0, 9, 5, 0], jnp.ones((1, 31, 23, 1)))[0, ..., 0]
        np.testing.assert_array_equal(ej.theoretical(f, jnp.ones((1, 31, 23, 1)), unit=(9, 5)).mask(), seen)
