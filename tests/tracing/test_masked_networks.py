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


FOUND = {
    1031: "one key alone has weight one: its row is a lookup",
    1337: "a query that is zero as a whole does not look at its keys",
    1728: "a convolution that sees padding alone is zero",
    11087: "a sum of products is zero where in each of them one factor is",
    11275: "a mask on positions that see padding alone",
    11728: "zeros that are looked up",
    51405: "zeros that the steps of a loop stack",
    115541: "weights that are zero wherever the other factor is not",
}
"""By the long run: seeds that once were wrong, each of a kind."""


@pytest.mark.parametrize("seed", FOUND)
def test_what_the_long_run_has_found(seed):
    with jax.enable_x64(True):
        assert wrong(seed) == [], FOUND[seed]


@pytest.mark.slow
@pytest.mark.parametrize("block", range(SLOW // 500))
def test_many_random_masked_networks(block):
    with jax.enable_x64(True):
        assert [seed for seed in range(1000 + 500 * block, 1500 + 500 * block) if wrong(seed)] == []
