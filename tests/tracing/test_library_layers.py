"""Layers of Flax, Equinox, Haiku and Keras: none lowers to a primitive without a rule, and the fields of many are known."""

import math

import jax
import jax.numpy as jnp
import pytest

import erfjax as ej
from tests.tracing.models import positive

pytestmark = pytest.mark.filterwarnings("ignore")  # not ours
ALL = math.inf
IMAGE = (1, 16, 12, 4)
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def relaxed():
    """What libraries do with dtypes and ranks is their own affair."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def sees(f, size, shape=IMAGE, layout="NHWC", **options):
    """The centre unit of the output sees `size` pixels of the image, ALL of them on a global axis."""
    field = ej.theoretical(f, jax.ShapeDtypeStruct(shape, jnp.float32), layout=layout, **options)
    found = tuple(stop - start for start, stop in zip(*field.clipped, strict=True))
    assert found == tuple(min(a, b) for a, b in zip(size, field.image_shape, strict=True))
    assert all(a <= b for a, b in zip(found, field.size, strict=True))
    assert field.mask().any()


def of_size(table):
    return pytest.mark.parametrize(("name", "size"), table.items())


@of_size(
    {
        "Conv(4, (3, 5))": (3, 5),
        "Conv(4, (3, 3), kernel_dilation=2, feature_group_count=2)": (5, 5),
        "Conv(4, (3, 3), padding='CIRCULAR')": (3, 3),
        "Conv(4, (3, 3), padding='REFLECT')": (3, 3),
        "ConvTranspose(4, (4, 4), (2, 2))": (2, 2),
        "ConvTranspose(4, (3, 3), (2, 2), padding='CIRCULAR')": (2, 2),
        "ConvLocal(4, (3, 3))": (3, 3),
        "Dense(5)": (1, 1),
        "DenseGeneral(5, axis=(1, 3))": None,
        "BatchNorm(use_running_average=True)": (1, 1),
        "BatchNorm(use_running_average=False)": (ALL, ALL),
        "LayerNorm()": (1, 1),
        "RMSNorm()": (1, 1),
        "GroupNorm(2)": (ALL, ALL),
        "InstanceNorm()": (ALL, ALL),
        "Dropout(0.5, deterministic=True)": (1, 1),
        "SelfAttention(2)": None,
        "MultiHeadDotProductAttention(2)": None,
        "PReLU()": (1, 1),
        "RNN(nn.LSTMCell(3))": None,
        "RNN(nn.GRUCell(3))": None,
        "Bidirectional(nn.RNN(nn.SimpleCell(3)), nn.RNN(nn.GRUCell(3)))": None,
    }
)
def test_linen(name, size):
    """None: layers for sequences, tried on the rows of an image, which they see whole along the width."""
    nn = pytest.importorskip("flax.linen", reason="flax is not installed here")
    layer = eval(f"nn.{name}", {"nn": nn})
    init = {"params": KEY, "dropout": KEY}
    params = positive(jax.eval_shape(layer.init, init, jnp.zeros(IMAGE)))

    def f(x):
        y = layer.apply(params, x, mutable=["batch_stats"] if "BatchNorm" in name else False)
        return y[0] if isinstance(y, tuple) else y

    if name.startswith("DenseGeneral"):
        sees(f, (ALL, 1), out_layout="NWC")
    elif "Attention" in name:
        sees(f, (1, ALL))
    elif "Bidirectional" in name:
        tokens = (1, 12, 4)
        params = positive(jax.eval_shape(layer.init, init, jnp.zeros(tokens)))
        sees(lambda x: layer.apply(params, x), (ALL,), tokens, "NLC")
    elif "RNN" in name:
        tokens = (1, 12, 4)
        params = positive(jax.eval_shape(layer.init, init, jnp.zeros(tokens)))
        sees(lambda x: layer.apply(params, x), (7,), tokens, "NLC")
    else:
        sees(f, size)


@pytest.mark.parametrize("pool", ["max_pool", "avg_pool", "min_pool"])
def test_linen_pooling(pool):
    nn = pytest.importorskip("flax.linen", reason="flax is not installed here")
    if hasattr(nn, pool):
        sees(lambda x: getattr(nn, pool)(x, (3, 2), (2, 2), "SAME"), (3, 2))


@of_size(
    {
        "Conv(4, 5, (3, 5), rngs=rngs)": (3, 5),
        "Conv(4, 5, (3, 3), padding='CIRCULAR', rngs=rngs)": (3, 3),
        "ConvTranspose(4, 5, (4, 4), (2, 2), rngs=rngs)": (2, 2),
        "Linear(4, 5, rngs=rngs)": (1, 1),
        "LinearGeneral(4, (5, 2), rngs=rngs)": None,
        "Einsum('nhwc,cd->nhwd', (4, 5), rngs=rngs)": (1, 1),
        "BatchNorm(4, use_running_average=True, rngs=rngs)": (1, 1),
        "LayerNorm(4, rngs=rngs)": (1, 1),
        "RMSNorm(4, rngs=rngs)": (1, 1),
        "GroupNorm(4, 2, rngs=rngs)": (ALL, ALL),
        "InstanceNorm(4, rngs=rngs)": (ALL, ALL),
        "MultiHeadAttention(2, 4, decode=False, rngs=rngs)": (1, ALL),
        "Dropout(0.5, deterministic=True)": (1, 1),
        "PReLU()": (1, 1),
        "LoRA(4, 2, 5, rngs=rngs)": (1, 1),
    }
)
def test_nnx(name, size):
    nn = pytest.importorskip("flax.nnx", reason="flax is not installed here")
    make = eval(f"lambda rngs: nn.{name}", {"nn": nn})
    graph, state = nn.split(nn.eval_shape(lambda: make(nn.Rngs(0))))
    layer = nn.merge(graph, positive(state))
    if size is None:
        sees(lambda x: layer(x).reshape(1, 16, 12, 10), (1, 1))
    else:
        sees(layer, size)


@of_size(
    {
        "Conv2d(4, 5, (3, 5), padding='SAME', key=key)": (3, 5),
        "Conv2d(4, 5, 3, padding=1, padding_mode='REFLECT', key=key)": (3, 3),
        "Conv2d(4, 4, 3, dilation=2, groups=4, padding=2, key=key)": (5, 5),
        "ConvTranspose2d(4, 5, 4, 2, padding=1, key=key)": (2, 2),
        "AvgPool2d(3, 2)": (3, 3),
        "MaxPool2d(2, 2, use_ceil=True)": (2, 2),
        "AdaptiveAvgPool2d((4, 3))": (4, 4),
        "AdaptiveMaxPool2d((5, 5))": (3, 2),
        "GroupNorm(2, 4)": (ALL, ALL),
        "LayerNorm((4, 16, 12))": (ALL, ALL),
        "Identity()": (1, 1),
        "Dropout(0.5, inference=True)": (1, 1),
        "PReLU()": (1, 1),
        "Lambda(jax.nn.gelu)": (1, 1),
    }
)
def test_equinox(name, size):
    eqx = pytest.importorskip("equinox", reason="equinox is not installed here")
    make = eval(f"lambda key: nn.{name}", {"nn": eqx.nn, "jax": jax})
    layer = positive(eqx.filter_eval_shape(make, KEY))
    sees(lambda x: layer(x), size, (4, 16, 12), "CHW")


@pytest.mark.parametrize("inference", [True, False])
def test_equinox_batch_norm(inference):
    """Its statistics in training are means over a named axis of vmap, and over the image."""
    eqx = pytest.importorskip("equinox", reason="equinox is not installed here")
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="batch")

    def f(x):
        layer = lambda image: norm(image, state, inference=inference)[0]  # noqa: E731
        return jax.vmap(layer, axis_name="batch")(x)

    sees(f, (1, 1) if inference else (ALL, ALL), (2, 4, 16, 12), "NCHW")


@of_size({"MultiheadAttention(2, 4, key=key)": (ALL,), "LSTMCell(4, 4, key=key)": (7,), "GRUCell(4, 4, key=key)": (7,)})
def test_equinox_sequences(name, size):
    eqx = pytest.importorskip("equinox", reason="equinox is not installed here")
    make = eval(f"lambda key: nn.{name}", {"nn": eqx.nn})
    layer = positive(eqx.filter_eval_shape(make, KEY))

    def scanned(x):
        def step(carry, row):
            carry = layer(row, carry)
            return carry, carry[0] if isinstance(carry, tuple) else carry

        zero = jnp.zeros(4)
        return jax.lax.scan(step, (zero, zero) if "LSTM" in name else zero, x)[1]

    f = (lambda x: layer(x, x, x)) if "Attention" in name else scanned
    sees(f, size, (12, 4), "LC")


@of_size(
    {
        "Conv2D(5, (3, 5))": (3, 5),
        "Conv2D(5, 3, rate=2)": (5, 5),
        "Conv2DTranspose(5, 4, 2)": (2, 2),
        "DepthwiseConv2D(2, 3)": (3, 3),
        "SeparableDepthwiseConv2D(1, 3)": (3, 3),
        "Linear(5)": (1, 1),
        "LayerNorm(-1, True, True)": (1, 1),
        "RMSNorm(-1)": (1, 1),
        "GroupNorm(2)": (ALL, ALL),
        "InstanceNorm(True, True)": (ALL, ALL),
        "MaxPool((1, 3, 3, 1), (1, 2, 2, 1), 'SAME')": (3, 3),
        "AvgPool((1, 3, 3, 1), (1, 2, 2, 1), 'VALID')": (3, 3),
    }
)
def test_haiku(name, size):
    hk = pytest.importorskip("haiku", reason="haiku is not installed here")
    model = hk.without_apply_rng(hk.transform(lambda x: eval(f"hk.{name}", {"hk": hk})(x)))
    params = positive(jax.eval_shape(model.init, KEY, jnp.zeros(IMAGE)))
    sees(lambda x: model.apply(params, x), size)


@of_size(
    {
        "hk.dynamic_unroll(hk.LSTM(3), x, hk.LSTM(3).initial_state(None))[0]": (7,),
        "hk.MultiHeadAttention(2, 3, 1.0)(x, x, x)": (ALL,),
    }
)
def test_haiku_sequences(name, size):
    hk = pytest.importorskip("haiku", reason="haiku is not installed here")
    model = hk.without_apply_rng(hk.transform(lambda x: eval(name, {"hk": hk, "x": x})))
    params = positive(jax.eval_shape(model.init, KEY, jnp.zeros((12, 4))))
    sees(lambda x: model.apply(params, x), size, (12, 4), "LC")


@of_size(
    {
        "Conv2D(5, (3, 5), padding='same')": (3, 5),
        "Conv2DTranspose(5, 4, 2, padding='same')": (2, 2),
        "SeparableConv2D(5, 3, dilation_rate=2, padding='same')": (5, 5),
        "DepthwiseConv2D(3, 2, padding='same')": (3, 3),
        "MaxPooling2D(2)": (2, 2),
        "AveragePooling2D(3, 2, padding='same')": (3, 3),
        "UpSampling2D(2, interpolation='nearest')": (1, 1),
        "UpSampling2D(2, interpolation='bilinear')": (2, 2),
        "Resizing(8, 6, interpolation='bilinear')": (2, 2),
        "ZeroPadding2D(((1, 2), (3, 0)))": (1, 1),
        "Cropping2D(2)": (1, 1),
        "LayerNormalization()": (1, 1),
        "GroupNormalization(2)": (ALL, ALL),
        "UnitNormalization()": (1, 1),
        "BatchNormalization()": (1, 1),
        "SpatialDropout2D(0.5)": (1, 1),
        "GaussianNoise(0.5)": (1, 1),
        "Softmax()": (1, 1),
        "PReLU(shared_axes=[1, 2])": (1, 1),
        "LeakyReLU()": (1, 1),
        "Activation('gelu')": (1, 1),
        "Rescaling(0.1)": (1, 1),
        "EinsumDense('nhwc,cd->nhwd', (None, None, 5))": (1, 1),
        "TimeDistributed(keras.layers.Dense(4))": (1, 1),
        "GlobalAveragePooling2D(keepdims=True)": (ALL, ALL),
        "GlobalMaxPooling2D(keepdims=True)": (ALL, ALL),
    }
)
def test_keras(name, size):
    keras = pytest.importorskip("keras", reason="keras is not installed here")
    layer = eval(f"keras.layers.{name}", {"keras": keras})
    layer.build(IMAGE)
    values = [[v.value for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables)]
    takes = "training" in layer._call_signature.parameters if hasattr(layer, "_call_signature") else False
    options = {"training": False} if takes else {}
    sees(lambda x: layer.stateless_call(*values, x, **options)[0], size)


@of_size(
    {
        "LSTM(3, return_sequences=True)": (7,),
        "GRU(3, return_sequences=True)": (7,),
        "Bidirectional(keras.layers.SimpleRNN(3, return_sequences=True))": (ALL,),
        "Conv1D(3, 5, padding='causal')": (5,),
        "MaxPooling1D(2)": (2,),
        "UpSampling1D(2)": (1,),
    }
)
def test_keras_sequences(name, size):
    keras = pytest.importorskip("keras", reason="keras is not installed here")
    layer = eval(f"keras.layers.{name}", {"keras": keras})
    shape = (1, 12, 4)
    layer.build(shape)
    values = [[v.value for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables)]
    sees(lambda x: layer.stateless_call(*values, x)[0], size, shape, "NLC")
