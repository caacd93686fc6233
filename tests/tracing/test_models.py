"""Models as their libraries ship them: the field is that of a textbook recurrence, or of a measured gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from tests import oracles
from tests.catalogue import Node
from tests.tracing import models

pytestmark = pytest.mark.filterwarnings("ignore")  # not ours


@pytest.fixture(autouse=True)
def relaxed():
    """What libraries do with dtypes and ranks is their own affair."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


NAMES = {
    "flax.linen": ["ResNet/stem", "ResNet/block1/Conv_0", "ResNet/block1/shortcut", "ResNet/block2"],
    "flax.nnx": ["stem", "block1/first", "block1/shortcut", "block2"],
    "equinox": ["stem/eqx.nn.Conv", "blocks/0/first/eqx.nn.Conv", "blocks/1"],
    "haiku": ["stem", "block1/first", "block1/shortcut", "block2"],
}


@pytest.mark.parametrize("name", models.MAKERS)
def test_small_resnet(name):
    """Hull of the centre unit = support of one gradient.

    Kernels are positive and the image grows outwards from the centre of the field, so that every maximum is an outermost one.
    """
    pytest.importorskip(name.split(".")[0], reason=f"{name} is not installed here")
    with jax.enable_x64(True):
        f = models.MAKERS[name]()
        field = ej.theoretical(f, jax.ShapeDtypeStruct(models.SHAPE, jnp.float64))
        rows, columns = (np.abs(np.arange(n) - c) for n, c in zip(models.SHAPE[1:3], field.centre, strict=True))
        x = jnp.asarray(1 + np.broadcast_to((rows[:, None] + columns)[..., None], models.SHAPE[1:]))[None]
        seen = np.asarray(jax.jit(jax.grad(lambda x: f(x)[0, *field.unit].sum()))(x))[0].any(-1)
    for axis, (start, stop) in enumerate(zip(*field.clipped, strict=True)):
        line = np.flatnonzero(seen.any(1 - axis))
        assert (line[0], line[-1] + 1) == (start, stop)
    assert (field.size, field.stride, field.shift_invariant) == ((51, 51), (8, 8), True)
    assert field.mask().sum() == 51 * 51
    assert [row.size[0] for row in field.layers if row.operation == "conv_general_dilated"] == [
        7,
        19,
        27,
        11,
        35,
        51,
        27,
    ]
    names = [row.name for row in field.layers]
    assert len(set(names)) == len(names)
    assert [row for row in names if row in NAMES[name]] == NAMES[name]


KERAS = {"VGG16": 212, "MobileNetV2": 491, "ResNet50": 483, "DenseNet121": 2071, "InceptionV3": 1311}


@pytest.mark.parametrize("name", ["VGG16", *(pytest.param(name, marks=pytest.mark.slow) for name in list(KERAS)[1:])])
def test_keras_applications(name, monkeypatch):
    """Every layer of the model against the recurrence over Keras's own description of it."""
    keras = pytest.importorskip("keras", reason="keras is not installed here")
    ones = lambda self, shape, dtype=None: jnp.ones(shape, jnp.float32)  # noqa: E731  (random weights take minutes)
    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", ones)
    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", ones)
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(None, None, 3))
    trained, other = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))
    image = (160, 128)
    field = ej.theoretical(
        lambda x: model.stateless_call(trained, other, x, training=False)[0],
        jax.ShapeDtypeStruct((1, *image, 3), jnp.float32),
    )
    nodes = described(model)
    expected, sizes = oracles.recurrence(nodes, image), oracles.shapes(nodes, image)
    rows = {row.name: row for row in field.layers}
    assert set(rows) == {n.name for n in nodes}
    for n in nodes:
        row = rows[n.name]
        assert row.shape[1:3] == sizes[n.name], n
        for axis, (stride, start, stop) in enumerate(expected[n.name]):
            assert row.stride[axis] == stride, n
            at = row.shape[1 + axis] // 2 * stride
            assert (row.start[axis], row.stop[axis]) == (at + start, at + stop), n
            assert row.padding[axis] == -start, n
    assert (field.size, field.stride, field.shift_invariant) == ((KERAS[name],) * 2, (32, 32), True)


def described(model):
    """The nodes of a Keras model, from the configuration of its layers."""
    found = []
    for layer in model.layers:
        tensors = layer.input if isinstance(layer.input, list) else [layer.input]
        origins = tuple(tensor._keras_history.operation for tensor in tensors)
        inputs = tuple("input" if type(o).__name__ == "InputLayer" else o.name for o in origins)
        kind = type(layer).__name__
        if kind == "InputLayer":
            continue
        if kind in ("Conv2D", "DepthwiseConv2D"):
            window = {"kernel": layer.kernel_size, "stride": layer.strides, "dilation": layer.dilation_rate}
            found.append(Node(layer.name, "conv", inputs, **window, padding=layer.padding.upper(), base=(1, 1)))
        elif kind in ("MaxPooling2D", "AveragePooling2D"):
            window = {"kernel": layer.pool_size, "stride": layer.strides, "dilation": (1, 1)}
            found.append(Node(layer.name, "pool", inputs, **window, padding=layer.padding.upper(), base=(1, 1)))
        elif kind == "ZeroPadding2D":
            found.append(Node(layer.name, "pad", inputs, padding=layer.padding, base=(1, 1)))
        else:
            assert kind in {"BatchNormalization", "Activation", "ReLU", "Add", "Concatenate"}, kind
            found.append(Node(layer.name, "add", inputs))
    return found
