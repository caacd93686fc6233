"""Layers of every kind: the field holds the support of the Jacobian, and is it wherever no value decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.layouts import parse_input, parse_output
from tests import oracles
from tests.tracing.layers import CASES


def some(units, most):
    """The first, the last and a few between."""
    chosen = np.random.default_rng(0).choice(len(units), min(most, len(units)), replace=False)
    return [units[i] for i in sorted({0, len(units) - 1, *chosen.tolist()})]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_support_of_all_units(name):
    check_support(CASES[name], 10**6)


@pytest.mark.parametrize("name", CASES)
def test_support(name):
    check_support(CASES[name], 10)


def check_support(case, most):
    with jax.enable_x64(True), jax.numpy_dtype_promotion(case.promotion):
        x = jnp.asarray(np.random.default_rng(1).uniform(case.least, 1, case.shape))
        shape = jax.eval_shape(case.f, x).shape
        source, target = parse_input(case.layout, x.shape), parse_output(case.out_layout, shape, case.layout)
        jacobian = (oracles.support if case.differentiable else oracles.influence)(case.f, x)
        units = [unit if len(unit) != 1 else unit[0] for unit in np.ndindex(target.space(shape))] or [None]
        units = some(units, most)
        fields = ej.theoretical(case.f, x, unit=units, layout=case.layout, out_layout=case.out_layout)
    larger = False
    for field in fields:
        channels = jacobian[target.index(field.unit)].reshape(-1, *x.shape).any(0)
        pixels = np.moveaxis(channels, source.spatial, range(len(source.spatial)))
        seen, mask = pixels.reshape(*source.space(x.shape), -1).any(-1), field.mask()
        assert not (seen & ~mask).any(), (field.unit, np.argwhere(seen & ~mask))
        assert not case.exact or not (mask & ~seen).any(), (field.unit, np.argwhere(mask & ~seen))
        larger |= bool((mask & ~seen).any())
        start, stop = (np.array(edge) for edge in field.clipped)
        assert mask.any() or (start == stop).all()
        for axis in range(mask.ndim):
            line = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
            assert not line.size or (start[axis], stop[axis]) == (line[0], line[-1] + 1)
            assert not line.size or field.start[axis] <= start[axis] < stop[axis] <= field.stop[axis]
    assert case.exact or larger or case is CASES["gradient_of_max_pool_inside"], "this case is exact: say so"
