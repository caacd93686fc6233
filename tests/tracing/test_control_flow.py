"""What is not arithmetic: calls, names, shared bodies, loops, branches, derivatives of one's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.errors import DataDependentError, UnsupportedPrimitiveError
from erfjax.tracing import trace
from tests.tracing.test_peers import conv

LINE = jax.ShapeDtypeStruct((1, 24, 1), jnp.float32)
line = functools.partial(ej.theoretical, layout="NWC")


def seen(f, unit, **options):
    """The pixels that a unit of a 1-D network sees."""
    return np.flatnonzero(line(f, LINE, unit=unit, **options).mask()).tolist()


@pytest.mark.parametrize(
    "name", ["relu", "inv", "conv", "conv_general_dilated", "sin", "scan", "cond", "custom_jvp_call"]
)
def test_names_change_nothing(name):
    """A function of the user's that bears the name of a primitive, jitted, is what it does and no more."""

    def f(x):
        return conv(x, 5)

    f.__name__ = f.__qualname__ = name
    assert seen(lambda x: conv(jax.jit(f)(x), 3), 12) == list(range(9, 16))
    named = jax.custom_jvp(f)
    named.defjvp(lambda primals, tangents: (f(*primals), f(*tangents)))
    assert seen(lambda x: conv(named(x), 3), 12) == list(range(9, 16))


def test_one_jitted_function_with_a_constant_and_with_an_index_from_the_data():
    """JAX shares the traced body between both calls: each row must keep its own knowledge of the index."""

    @jax.jit
    def pick(x, i):
        return lax.dynamic_index_in_dim(x, i, 1)

    def f(x):
        return jnp.concatenate([pick(x, jnp.int32(5)), pick(x, jnp.argmax(x[0, :, 0])), pick(x, jnp.int32(7))], 1)

    everything = list(range(24))
    assert [seen(f, unit) for unit in range(3)] == [[5], everything, [7]]


def test_one_jitted_function_called_twice():
    shift = jax.jit(lambda x, by: jnp.roll(x, by, 1), static_argnums=1)
    block = jax.jit(lambda x: conv(x, 3))
    assert seen(lambda x: block(block(shift(x, 2))) + block(x), 12) == [8, 9, 10, 11, 12, 13]


def test_equations_nobody_needs_are_not_asked_about():
    def f(x):
        jax.debug.print("{}", x.sum())
        _ = jnp.sort(x, 1)
        return conv(x, 3)

    assert [str(e.primitive) for e in trace(f, LINE).equations] == ["conv_general_dilated"]


def test_known_values_are_computed_once_and_only_if_asked():
    calls = []

    def count(value):
        calls.append(1)
        return value

    def f(x):
        offset = jax.pure_callback(count, jax.ShapeDtypeStruct((), np.int32), np.int32(3))
        return lax.dynamic_slice_in_dim(x, offset, 4, 1) + lax.dynamic_slice_in_dim(x, offset, 4, 1)

    fields = line(f, LINE, unit=[0, 1, 2])
    assert [field.start for field in fields] == [(3,), (4,), (5,)]
    assert len(calls) == 1
    calls.clear()
    line(lambda x: x + jax.pure_callback(count, jax.ShapeDtypeStruct((), np.float32), np.float32(3)), LINE)
    assert not calls


@pytest.mark.parametrize("reverse", [False, True])
def test_scan(reverse):
    """A recurrent network sees the past, or the future; the last state sees all."""

    def f(x):
        last, states = lax.scan(
            lambda h, row: (h * 0.5 + row,) * 2, jnp.zeros((1, 1)), x.swapaxes(0, 1), reverse=reverse
        )
        return states.swapaxes(0, 1), last[:, None]

    states, last = line(f, LINE, unit=0)
    assert states.mask().sum() == (24 if reverse else 1)
    assert last.mask().all()
    assert seen(lambda x: f(x)[0], 20) == (list(range(20, 24)) if reverse else list(range(21)))


def test_scan_over_layers():
    """Weights as the scanned operand, as large models keep them; a step that ignores its carry cuts the past off."""
    kernels = jnp.ones((3, 3, 1, 1))

    def f(x):
        dims = ("NWC", "WIO", "NWC")
        step = lambda y, w: (lax.conv_general_dilated(y, w, (1,), "SAME", dimension_numbers=dims), None)  # noqa: E731
        return lax.scan(step, x, kernels)[0]

    assert seen(f, 12) == list(range(9, 16))
    assert seen(lambda x: lax.scan(lambda c, row: (row, c), x[:, 0], x.swapaxes(0, 1))[1].swapaxes(0, 1), 7) == [6]


def test_empty_scan():
    def f(x):
        y, rows = lax.scan(lambda c, row: (conv(c, 3), row), x, jnp.zeros((0, 1)))
        return y + rows.sum()

    assert seen(f, 12) == [12]


def test_loops():
    body = lambda i, y: conv(y, 3)  # noqa: E731
    assert seen(lambda x: lax.fori_loop(0, 4, body, x), 12) == list(range(8, 17))
    assert seen(
        lambda x: lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 2, conv(c[1], 3)), (0, x))[1], 12
    ) == list(range(9, 16))


def test_a_while_loop_that_depends_on_the_data_is_refused():
    def f(x):
        return lax.while_loop(lambda y: y.sum() < 10, lambda y: conv(y, 3), x)

    with pytest.raises(DataDependentError, match=r"number of steps.*test_control_flow.*fori_loop.*empirical"):
        line(f, LINE)


def test_an_endless_loop_is_refused():
    from erfjax.tracing.program import flatten

    limit, flatten.MAX_STEPS = flatten.MAX_STEPS, 20
    try:
        with pytest.raises(DataDependentError, match="did not end within 20 steps"):
            line(lambda x: lax.while_loop(lambda c: c[0] < 30, lambda c: (c[0] + 1, c[1]), (0, x))[1], LINE)
    finally:
        flatten.MAX_STEPS = limit


def test_branches():
    """A known predicate picks its branch; one from the data joins them, and the pixels that decide are seen too."""
    small, large = (functools.partial(conv, kernel=k) for k in (3, 7))
    assert seen(lambda x: lax.cond(jnp.float32(2) > 1, small, large, x), 12) == [11, 12, 13]
    assert seen(lambda x: lax.switch(1, [small, large], x), 12) == list(range(9, 16))
    assert seen(lambda x: lax.cond(x[0, 0, 0] > 0, small, large, x), 12) == [0, *range(9, 16)]
    assert seen(lambda x: lax.cond(x[0, 12, 0] > 0, lambda y: y[:, ::-1], lambda y: y, x), 3) == [3, 12, 20]


def test_branches_inside_branches():
    def inner(y):
        return lax.cond(y[0, 1, 0] > 0, lambda z: conv(z, 3), lambda z: z, y)

    assert seen(lambda x: lax.cond(x[0, 0, 0] > 0, inner, lambda y: y[:, :, ::-1], x), 12) == [0, 1, 11, 12, 13]


def test_branches_count_in_the_period():
    """A stride inside a branch is a stride."""

    def f(x):
        return lax.cond(x.sum() > 0, lambda y: y[:, ::2], lambda y: y[:, 1::2], x)

    def local(x):
        return lax.cond(x[0, 0, 0] > 0, lambda y: y[:, ::2], lambda y: y[:, 1::2], x)

    assert line(f, LINE).shift_invariant
    assert not line(local, LINE).shift_invariant  # the pixel that decides stays where it is


def test_custom_derivatives_do_not_change_the_field():
    @jax.custom_vjp
    def straight_through(x):
        return jnp.round(conv(x, 3))

    straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, g: (g,))
    assert seen(lambda x: straight_through(conv(x, 3)), 12) == list(range(10, 15))
    assert seen(lambda x: jax.nn.relu(conv(x, 3)), 12) == [11, 12, 13]
    assert seen(lambda x: lax.stop_gradient(conv(x, 3)), 12) == [11, 12, 13]


def test_checkpointed_and_named():
    from jax.ad_checkpoint import checkpoint_name

    f = jax.checkpoint(lambda x: checkpoint_name(conv(jnp.sin(x), 3), "middle"))
    assert seen(lambda x: f(f(x)), 12) == list(range(10, 15))


def test_inside_jit_vmap_and_grad():
    """A field may be asked for while the weights are traced: what needs their values is then taken whole."""
    sizes = []

    @jax.jit
    def outer(w):
        sizes.append(line(lambda x: conv(x, 3) * w, LINE).size)
        sizes.append(line(lambda x: jnp.einsum("vw,nwc->nvc", w * jnp.eye(24), x), LINE).size)
        return w

    jax.grad(outer)(1.0)
    jax.vmap(outer)(jnp.ones(2))
    assert sizes[:2] == [(3,), (np.inf,)]
    assert line(lambda x: jnp.einsum("vw,nwc->nvc", jnp.eye(24), x), LINE).size == (1,)


def test_unknown_primitives_inside_bodies_are_named():
    from jax.extend.core import Primitive

    mystery = Primitive("mystery")
    mystery.def_abstract_eval(lambda x: x)

    def f(x):
        return lax.cond(x.sum() > 0, lambda y: mystery.bind(y), lambda y: conv(y, 3), x)

    with pytest.raises(UnsupportedPrimitiveError, match="mystery"):
        line(f, LINE)
    field = line(f, LINE, unknown="everything")
    assert "mystery" in field.notes[0]
    assert field.mask().all()


def test_a_rule_of_ones_own():
    """The remedy that the error names works: one row for a primitive of the user's."""
    from jax.extend.core import Primitive

    from erfjax.tracing import Rule, register
    from erfjax.tracing.positions.access import Along, View

    shift = Primitive("shift_by_three")
    shift.def_abstract_eval(lambda x: x)
    with pytest.raises(UnsupportedPrimitiveError):
        line(lambda x: shift.bind(x), LINE)
    register(shift, Rule(hull=lambda equation, result: [View((Along(0), Along(1, offset=3), Along(2)))]))
    assert seen(lambda x: shift.bind(conv(x, 3)), 12) == [14, 15, 16]


def test_the_program_prints_itself():
    text = str(trace(lambda x: jax.nn.relu(conv(x, 3)), LINE))
    assert "program of 2 equations on [1, 24, 1]" in text
    assert "conv_general_dilated" in text
