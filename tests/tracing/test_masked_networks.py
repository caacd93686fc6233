"""Certificates: on random networks with random masks, the field is the support of the Jacobian in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from tests.tracing import fuzzed

SLOW = 10_000


@pytest.fixture(autouse=True)
def ranks_may_differ():
    """The random networks are written once for NumPy and JAX, and broadcast as NumPy does."""
    with jax.numpy_rank_promotion("allow"):
        yield


def wrong(seed, units=None):
    """The units of a random network whose mask is not the support of their gradient."""
    rng = np.random.default_rng(seed)
    steps, x = fuzzed.network(rng)
    support = (fuzzed.jacobian(steps, x) != 0).any((1, 3))
    asked = list(range(len(x))) if units is None else rng.choice(len(x), units, replace=False).tolist()
    fields = ej.theoretical(
        lambda x: fuzzed.run(steps, x, jnp), jax.ShapeDtypeStruct(x.shape, jnp.float64), unit=asked, layout="LC"
    )
    return [u for u, field in zip(asked, fields, strict=True) if not np.array_equal(field.mask(), support[u])]


@pytest.mark.parametrize("block", range(3))
def test_random_masked_networks(block):
    with jax.enable_x64(True):
        assert [seed for seed in range(100 * block, 100 * block + 100) if wrong(seed, units=2)] == []


def test_a_row_of_zeros_hides_the_other_factor():
    """Found by the long run: a query that is zero as a whole does not look at its keys."""
    with jax.enable_x64(True):
        assert wrong(1337) == []


@pytest.mark.slow
@pytest.mark.parametrize("block", range(SLOW // 500))
def test_many_random_masked_networks(block):
    with jax.enable_x64(True):
        assert [seed for seed in range(1000 + 500 * block, 1500 + 500 * block) if wrong(seed)] == []
