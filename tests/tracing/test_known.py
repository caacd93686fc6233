"""Known equations: NumPy evaluates them as JAX does, dtype and shape included, and resizing needs no compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.tracing import jaxpr as jx
from erfjax.tracing import registry

RNG = np.random.default_rng(0)
F = RNG.normal(size=(3, 4)).astype(np.float32)
G = RNG.normal(size=(3, 4)).astype(np.float32)
K, J = RNG.integers(-9, 9, (3, 4)), np.array([[1, -2, 3, 4], [5, -6, 0, 8], [-1, 2, -3, 7]])
K, J = K.astype(np.int32), J.astype(np.int32)
B, C = F > 0, G > 0

CASES = {
    "add": (lax.add, F, G),
    "sub": (lax.sub, K, J),
    "mul": (lax.mul, F, G),
    "div": (lax.div, F, G),
    "integer div": (lax.div, K, np.where(J == 0, 1, J).astype(np.int32)),
    "rem": (lax.rem, K, np.where(J == 0, 1, J).astype(np.int32)),
    "float rem": (lax.rem, F, G),
    "max": (lax.max, F, G),
    "min": (lax.min, K, J),
    "neg": (lax.neg, F),
    "abs": (lax.abs, K),
    "sign": (lax.sign, F),
    "floor": (lax.floor, 3 * F),
    "ceil": (lax.ceil, 3 * F),
    "sqrt": (lax.sqrt, abs(F)),
    "is_finite": (lax.is_finite, np.where(B, np.inf, F).astype(np.float32)),
    "eq": (lax.eq, K, J),
    "ne": (lax.ne, K, J),
    "lt": (lax.lt, F, G),
    "le": (lax.le, K, J),
    "gt": (lax.gt, F, G),
    "ge": (lax.ge, K, J),
    "and": (lax.bitwise_and, K, J),
    "or": (lax.bitwise_or, B, C),
    "xor": (lax.bitwise_xor, B, C),
    "not": (lax.bitwise_not, B),
    "integer not": (lax.bitwise_not, K),
    "clamp": (lambda x: lax.clamp(np.float32(-0.5), x, np.float32(0.5)), F),
    "integer_pow": (lambda x: lax.integer_pow(x, 3), F),
    "negative power": (lambda x: lax.integer_pow(x, -2), F),
    "iota": (lambda: lax.broadcasted_iota(jnp.int32, (3, 4), 1),),
    "broadcast_in_dim": (lambda x: lax.broadcast_in_dim(x, (2, 3, 5, 4), (1, 3)), F),
    "reshape": (lambda x: lax.reshape(x, (2, 6)), F),
    "squeeze": (lambda x: lax.squeeze(x, (1,)), F[:, None]),
    "transpose": (lambda x: lax.transpose(x, (1, 0)), F),
    "to integers": (lambda x: lax.convert_element_type(x, jnp.int32), 5 * F),
    "to bfloat16": (lambda x: lax.convert_element_type(x, jnp.bfloat16), F),
    "to booleans": (lambda x: lax.convert_element_type(x, jnp.bool_), K),
    "select_n": (lambda b, x, y: lax.select_n(b, x, y), B, F, G),
    "select of three": (lambda i, x, y: lax.select_n(i, x, y, x + y), (K % 3).astype(np.int32), F, G),
    "slice": (lambda x: lax.slice(x, (0, 1), (3, 4), (2, 2)), F),
    "concatenate": (lambda x, y: lax.concatenate([x, y], 1), F, G),
    "reduce_sum": (lambda x: lax.reduce_sum(x, (1,)), K),
    "reduce_max": (lambda x: lax.reduce_max(x, (0,)), F),
    "reduce_min": (lambda x: lax.reduce_min(x, (0, 1)), F),
    "reduce_and": (lambda x: lax.reduce_and(x, (1,)), B),
    "reduce_or": (lambda x: lax.reduce_or(x, (0,)), B),
}


@pytest.mark.parametrize("name", CASES)
def test_numpy_gives_what_jax_gives(name):
    f, *operands = CASES[name]
    body, _ = jx.make(f, *operands)
    env = dict(zip(body.jaxpr.invars, operands, strict=True))
    met = 0
    for equation in body.equations:
        values = [a.val if isinstance(a, jx.Literal) else env[a] for a in equation.invars]
        expected = jx.evaluate(equation, values)
        found = registry.evaluate(equation, values)
        assert isinstance(found[0], np.ndarray)  # it was NumPy that found it
        assert found[0].dtype == expected[0].dtype
        np.testing.assert_array_equal(np.asarray(found[0], np.float64), np.asarray(expected[0], np.float64))
        env.update(zip(equation.outvars, expected, strict=True))
        met += 1
    assert met


def test_a_resize_compiles_nothing():
    """Three resizes of a decoder: their matrices are index arithmetic."""

    def decoder(x):
        for side in (20, 40, 80):
            x = jax.image.resize(x, (1, side, 2 * side, 2), "bilinear")
        return x

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *a, **k: compiled.append(event))
    field = ej.theoretical(decoder, jax.ShapeDtypeStruct((1, 10, 20, 2), jnp.float32))
    compiled = [event for event in compiled if "backend_compile" in event]
    assert not compiled
    g = jax.grad(lambda x: decoder(x)[0, 40, 80].sum())(jnp.ones((1, 10, 20, 2)))
    np.testing.assert_array_equal(field.mask(), np.asarray(g[0, :, :, 0]) != 0)
