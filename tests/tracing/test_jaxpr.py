"""The quarantine: every shape of JAX's language that it has seen, those of other releases included."""

import ast
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax
from erfjax.tracing import jaxpr as jx


def equations(f, *args):
    return jx.make(f, *args)[0].jaxpr.eqns


def test_only_the_quarantine_touches_the_extensions():
    root = pathlib.Path(erfjax.__file__).parent
    for path in root.rglob("*.py"):
        imports = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [f"{getattr(node, 'module', '')}.{alias.name}" for node in imports for alias in node.names]
        assert not [name for name in names if "_src" in name or "interpreters" in name], path
        if path.name != "jaxpr.py":
            assert not [name for name in names if "jax.extend" in name or name.startswith("jax.core")], path


def test_bodies_closed_open_and_merged():
    """JAX 0.10: a closed jaxpr holds an open one and constants; remat's is open; since 0.11 there is one class with constants."""
    body, shape = jx.make(lambda x: x + np.arange(3.0, dtype=np.float32), jnp.ones(3))
    assert len(body.jaxpr.constvars) == len(body.consts)
    assert shape.shape == (3,)
    open_ = types.SimpleNamespace(eqns=[])
    assert jx.Body.of(open_) == jx.Body(open_, ())
    closed = types.SimpleNamespace(jaxpr=open_, consts=[7])
    assert jx.Body.of(closed) == jx.Body(open_, (7,))
    merged = types.SimpleNamespace(eqns=[], consts=(7,))
    assert jx.Body.of(merged) == jx.Body(merged, (7,))


@pytest.mark.parametrize(
    "f",
    [jax.jit(jnp.sin), jax.checkpoint(jnp.sin), jax.named_call(jnp.sin, name="inner")],
    ids=["jit", "checkpoint", "named_call"],
)
def test_calls(f):
    """Inlined: they leave nothing but their body."""
    from erfjax.tracing import trace

    assert [str(e.primitive) for e in trace(lambda x: f(x) * 2, jnp.ones(3)).equations] == ["sin", "mul"]


def test_no_call():
    (equation,) = equations(jnp.sin, jnp.ones(3))
    assert jx.call(equation, ["x"]) is None


def test_a_linear_solve_is_its_solver():
    found = [e for e in equations(jnp.linalg.solve, jnp.eye(3), jnp.ones(3)) if e.primitive is jx.LINEAR_SOLVE]
    outer = equations(jnp.linalg.solve, jnp.eye(3), jnp.ones(3))
    while not found:
        outer = [
            e for o in outer for name in ("jaxpr",) if name in o.params for e in jx.Body.of(o.params[name]).jaxpr.eqns
        ]
        found = [e for e in outer if e.primitive is jx.LINEAR_SOLVE]
    body, operands = jx.solver(found[0], found[0].invars)
    assert len(body.jaxpr.invars) == len(operands)
    assert operands[-1] is found[0].invars[-1]
    assert [v.aval.shape for v in body.jaxpr.outvars] == [v.aval.shape for v in found[0].outvars]


def test_custom_derivatives():
    (equation,) = equations(jax.nn.relu, jnp.ones(3))
    assert equation.primitive is jx.CUSTOM_JVP
    assert len(jx.derived(equation).jaxpr.invars) == 1
    assert jx.label(equation) == "relu"
    f = jax.custom_vjp(lambda x: jnp.sin(x))
    f.defvjp(lambda x: (f(x), None), lambda _, g: (g,))
    (equation,) = equations(f, jnp.ones(3))
    assert equation.primitive is jx.CUSTOM_VJP
    assert [e.primitive for e in jx.derived(equation).jaxpr.eqns] == [lax.sin_p]


def test_scan_in_this_release_and_in_both_forms():
    def f(x):
        return lax.scan(lambda c, row: (c + row @ jnp.ones((2, 2)), c[0]), jnp.zeros(2), x, reverse=True)

    (equation,) = [e for e in equations(f, jnp.ones((5, 2))) if e.primitive is jx.SCAN]
    loop = jx.loop(equation)
    assert (loop.length, loop.reverse, loop.n_carry) == (5, True, 1)
    assert len(loop.body.jaxpr.invars) == loop.n_consts + loop.n_carry + 1
    both = {"jaxpr": loop.body.jaxpr, "length": 5, "reverse": False}
    old = types.SimpleNamespace(params=both | {"num_consts": 2, "num_carry": 1})
    tree = types.SimpleNamespace(unpack=lambda: (iter([0, 0]), iter([0]), iter([0, 0, 0])))
    new = types.SimpleNamespace(params=both | {"ft_in": tree})
    assert [(jx.loop(e).n_consts, jx.loop(e).n_carry) for e in (old, new)] == [(2, 1), (2, 1)]


def test_while_and_cond():
    def f(x, n):
        return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] * x), (0, x))[1]

    (equation,) = [e for e in equations(f, jnp.ones(3), 4) if e.primitive is jx.WHILE]
    loop = jx.while_loop(equation)
    assert (loop.n_test, loop.n_body) == (1, 1)
    assert len(loop.test.jaxpr.outvars) == 1
    (equation,) = [
        e for e in equations(lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), jnp.ones(3)) if e.primitive is jx.COND
    ]
    assert [branch.jaxpr.eqns[0].primitive for branch in jx.branches(equation)] == [lax.cos_p, lax.sin_p]


def test_evaluation():
    """By JAX itself: repeated operands, several results, literals; at once even while something else is traced."""
    (equation,) = equations(lambda x: x * x, jnp.arange(3.0))
    np.testing.assert_array_equal(jx.evaluate(equation, [jnp.arange(3.0)] * 2)[0], [0, 1, 4])
    (equation,) = equations(lambda x: lax.top_k(x, 2), jnp.arange(5.0))
    values, indices = jx.evaluate(equation, [jnp.arange(5.0)])
    assert (values.tolist(), indices.tolist()) == ([4, 3], [4, 3])
    (equation,) = equations(lambda x: x + 2.5, jnp.float32(1))
    kinds = []

    @jax.jit
    def traced(x):
        kinds.append(isinstance(jx.evaluate(equation, [np.float32(1), 2.5])[0], jax.core.Tracer))
        kinds.append(isinstance(jx.evaluate(equation, [x, 2.5])[0], jax.core.Tracer))
        return x

    traced(jnp.float32(1))
    assert kinds == [False, True]


def test_parameters_are_plain():
    """JAX keeps axes that came from NumPy as NumPy's integers."""
    (equation,) = equations(lambda x: jnp.sum(x, axis=np.int64(1)), jnp.ones((2, 3)))
    raw = types.SimpleNamespace(
        params={"axes": (np.int64(1), (np.int32(2),)), "name": "f", "dims": ConvNumbers(np.int64(3))}
    )
    assert jx.parameters(equation)["axes"] == (1,)
    plain = jx.parameters(raw)
    assert plain == {"axes": (1, (2,)), "name": "f", "dims": ConvNumbers(3)}
    assert {type(plain["axes"][0]), type(plain["axes"][1][0]), type(plain["dims"].lhs)} == {int}


class ConvNumbers(tuple):
    """Like JAX's dimension numbers, a named tuple."""

    _fields = ("lhs",)

    def __new__(cls, lhs):
        return super().__new__(cls, (lhs,))

    @property
    def lhs(self):
        return self[0]


def test_places():
    def f(x):
        with jax.named_scope("block"), jax.named_scope("conv"):
            return jnp.sin(x)

    (equation,) = equations(f, jnp.ones(3))
    assert jx.scope(equation) == "block/conv"
    assert "test_jaxpr.py" in jx.source_line(equation)
    assert jx.label(equation) == "sin"


def test_functions_called_unknown_have_a_place_too():
    def unknown(x):
        return jnp.sin(x)

    (equation,) = equations(unknown, jnp.ones(3))
    assert "(test_functions_called_unknown_have_a_place_too.<locals>.unknown)" in jx.source_line(equation)


def test_primitives_by_name_of_this_release():
    assert jx.lax_primitive("sin_p") is lax.sin_p
    assert jx.lax_primitive("reduce_window_sum_p") is not None
    assert jx.lax_primitive("no_such_thing_p") is None


def test_literals_need_not_be_scalars():
    """An array that becomes a literal is read by its aval."""
    from erfjax.tracing.program.flatten import _constant

    value = np.arange(3.0, dtype=np.float32)
    known = _constant(value, jax.core.ShapedArray((3,), np.dtype("float32")))
    assert known.shape == (3,)
    np.testing.assert_array_equal(known.concrete, value)
