"""Masks and known zeros: the field is the support of the float64 Jacobian, for every form of mask that people write."""

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
