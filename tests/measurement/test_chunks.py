"""Many cotangents of one sample: in chunks one after the other, in a loop or all at once, they give the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.measurement import jacobian

RNG = np.random.default_rng(8)
KERNEL = jnp.asarray(RNG.normal(size=(3, 2, 70)), jnp.float32)
X = RNG.normal(size=(2, 11, 2)).astype(np.float32)


def f(x):
    return jnp.tanh(jax.lax.conv_general_dilated(x, KERNEL, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")))


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 40])
def test_chunks_are_the_rows_one_by_one(rows):
    given = jnp.asarray(RNG.normal(size=(rows, 3)), jnp.float32)
    found = jax.jit(lambda given: jacobian.for_each(lambda row: {"s": (row**2).sum()}, given, 4))(given)
    np.testing.assert_allclose(found["s"], (np.asarray(given) ** 2).sum(1), rtol=1e-5)


@pytest.mark.parametrize(("most", "unrolled"), [(64, 8), (16, 8), (16, 1)], ids=["at once", "unrolled", "loop"])
def test_seventy_channels_and_three_units(most, unrolled, monkeypatch):
    monkeypatch.setattr(jacobian, "MOST", most)
    monkeypatch.setattr(jacobian, "UNROLLED", unrolled)
    units = [0, 5, 9]
    fields = ej.empirical(lambda x: f(x), X, layout="NWC", unit=units, channels="frobenius", progress=False)
    g = np.stack([np.asarray(jax.jacrev(lambda row: f(row[None])[0])(row), np.float64) for row in X])
    maps = (g**2).sum((2, 4)).mean(0)
    for unit, field in zip(units, fields, strict=True):
        np.testing.assert_allclose(field.map, maps[unit], rtol=1e-4, atol=1e-6)
