"""Fields of all layers from one pass, against the gradients of each layer by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax import errors

KERNELS = [jax.random.normal(jax.random.key(i), (3, 2, c, 4)) / 3 for i, c in enumerate((3, 4, 4))]
X = np.random.default_rng(0).normal(size=(5, 13, 16, 3)).astype(np.float32)


def states(x):
    """What each of three layers gives; the second has a stride."""
    found = []
    for i, kernel in enumerate(KERNELS):
        with jax.named_scope(f"layer{i}"):
            stride = (2, 1) if i == 1 else (1, 1)
            dims = ("NHWC", "HWIO", "NHWC")
            x = jnp.tanh(jax.lax.conv_general_dilated(x, kernel, stride, "SAME", dimension_numbers=dims))
            found.append(x)
    return found


def network(x):
    return states(x)[-1]


def test_every_layer_is_that_of_its_own_gradient():
    fields = ej.by_layer(network, X)
    assert list(fields) == ["layer0", "layer1", "layer2"]
    rows = ej.theoretical(network, X).layers
    for i, (field, row) in enumerate(zip(fields.values(), rows, strict=True)):
        centre = tuple(n // 2 for n in row.shape[1:3])
        assert field.unit == centre
        assert (field.theoretical.size, field.theoretical.start) == (row.size, row.start)
        gradients = [jax.grad(lambda x, i=i, c=centre: states(x)[i][(0, *c)].sum())(x[None]) for x in X]
        squares = np.square(gradients).sum((1, 4))
        np.testing.assert_allclose(field.map, squares.mean(0), rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(field.stderr, squares.std(0, ddof=1) / 5**0.5, rtol=1e-3, atol=1e-7)
        assert not field.map[~field.theoretical.mask()].any()
    np.testing.assert_allclose(fields["layer2"].map, ej.empirical(network, X).map, rtol=1e-5, atol=1e-9)


def test_layers_are_chosen_by_name():
    assert list(ej.by_layer(network, X, layers=["layer1", "2"], samples=2)) == ["layer1", "layer2"]
    with pytest.raises(errors.SampleError, match=r"No layer is called 'dense'.*layer0, layer1, layer2"):
        ej.by_layer(network, X, layers="dense")
    with pytest.raises(errors.SampleError, match="from 1 to the 5 rows"):
        ej.by_layer(network, X, samples=6)
    with pytest.raises(errors.UnitError, match="one unit"):
        ej.by_layer(network, X, unit=[(0, 0), (1, 1)])
    with pytest.raises(errors.FunctionError, match=r"No layer|does not depend"):
        ej.by_layer(lambda x: x, X)
