"""The closed form of a scan: its body once, whatever the number of steps, with the values of the scan unrolled."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.readings import options
from erfjax.readings.analytic import _jitted
from erfjax.readings.moment_pass import MomentPass
from erfjax.readings.options import Options
from erfjax.readings.question import ask, one_sample
from erfjax.tracing.positions.index_sets import full
from erfjax.tracing.program.equations import Var
from erfjax.tracing.program.flatten import Unrolled, record
from erfjax.tracing.second_moments.links import aligned
from erfjax.tracing.windows.cone import restrict

STEPS, FEATURES, UNITS = 6, 3, 5
RNG = np.random.default_rng(0)
IN, AGAIN, MORE = (
    (RNG.normal(size=(n, 4 * UNITS)) / np.sqrt(n)).astype(np.float32) for n in (FEATURES, UNITS, FEATURES)
)
X = RNG.normal(size=(2, STEPS, FEATURES)).astype(np.float32)


def along(x, step, start, *, reverse=False):
    """What a step returns at every position of a sequence NLC."""
    return lax.scan(step, start, x.swapaxes(0, 1), reverse=reverse)[1].swapaxes(0, 1)


def zero(x):
    return jnp.zeros((x.shape[0], UNITS), x.dtype)


def lstm(x):
    def step(held, row):
        h, cell = held
        i, g, o, f = jnp.split(row @ IN + h @ AGAIN, 4, axis=-1)
        cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (h, cell), h

    return along(x, step, (zero(x), zero(x)))


def gru(x):
    def step(h, row):
        (a, b, c), (d, e, f) = (jnp.split(z[:, : 3 * UNITS], 3, axis=-1) for z in (row @ IN, h @ AGAIN))
        update = jax.nn.sigmoid(b + e)
        h = (1 - update) * jnp.tanh(c + jax.nn.sigmoid(a + d) * f) + update * h
        return h, h

    return along(x, step, zero(x))


def bent_before(x):
    """Nothing nonlinear follows the last step, but something follows all others: they are walked in another way."""

    def step(h, row):
        h = row @ IN[:, :UNITS] + jnp.tanh(h) + h @ AGAIN[:, :UNITS]
        return h, h

    return along(x, step, zero(x))


def backwards(x):
    """From the last row to the first, around a constant that depends on the input, from a state that is not zero."""
    mean = x.mean(1) @ MORE[:, :UNITS]

    def step(h, row):
        h = jnp.tanh(row @ IN[:, :UNITS] + h @ AGAIN[:, :UNITS] + mean)
        return h, h

    return along(x, step, zero(x) + 0.1, reverse=True)


def counted(x):
    """A loop that reads its row by a counter."""

    def step(i, h):
        return jnp.tanh(x[:, i] @ IN[:, :UNITS] + h @ AGAIN[:, :UNITS])

    return lax.fori_loop(0, x.shape[1], step, zero(x))[:, None]


def smoothed(x):
    """Weights before the scan, none inside."""

    def step(h, row):
        h = 0.7 * h + 0.3 * row
        return h, h

    return jax.nn.relu(along(x @ IN[:, :UNITS], step, zero(x)))


def answer(f, unrolled, monkeypatch, **asked):
    monkeypatch.setattr(options, "FEW_STEPS", unrolled)
    return ej.analytic(lambda x: f(x), X, layout="NLC", **asked)


@pytest.mark.parametrize(
    "f", [bent_before, *(pytest.param(f, marks=pytest.mark.slow) for f in (backwards, counted, smoothed, lstm, gru))]
)
def test_a_scan_has_the_moments_of_its_steps(f, monkeypatch):
    unit = {backwards: 1, counted: 0}.get(f, STEPS - 1)
    kept, unrolled = (answer(f, n, monkeypatch, unit=unit) for n in (1, STEPS))
    np.testing.assert_allclose(kept.map, unrolled.map, rtol=2e-5, atol=1e-7 * unrolled.map.max())
    assert kept.coverage == unrolled.coverage
    kinds = [{note.split(":")[0] for note in field.notes if "silent" not in note} for field in (kept, unrolled)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(
    "asked", [{"channels": "random-signs"}, pytest.param({"statistic": "mean"}, marks=pytest.mark.slow)]
)
def test_other_moments_of_a_scan(asked, monkeypatch):
    kept, unrolled = (answer(backwards, n, monkeypatch, unit=2, **asked) for n in (1, STEPS))
    np.testing.assert_allclose(kept.map, unrolled.map, rtol=2e-5, atol=1e-7 * np.abs(unrolled.map).max())


def test_the_first_moment_of_a_linear_scan_is_its_gradient():
    def f(x):
        return along(x, lambda h, row: (0.5 * h + row @ IN, h), jnp.zeros((x.shape[0], 4 * UNITS)))

    found = ej.analytic(f, X[:1], layout="NLC", unit=STEPS - 1, statistic="mean")
    gradient = jax.grad(lambda x: f(x)[0, STEPS - 1].sum())(X[:1])
    np.testing.assert_allclose(found.map, gradient.sum((0, 2)), rtol=1e-5, atol=1e-6)


def program(steps):
    """The text of the compiled closed form of an LSTM."""
    sample, inputs = one_sample(jax.ShapeDtypeStruct((1, steps, FEATURES), jnp.float32), "NLC")
    moment_pass = MomentPass.of(ask(lambda x: lstm(x), sample, inputs, unit=steps - 1).each[0], Options())
    rows = (np.zeros((2, 1, steps, FEATURES), np.float32),)
    return _jitted(moment_pass, careful=False).lower(moment_pass.arguments(), rows).as_text()


def test_the_program_does_not_grow_with_the_steps():
    short, long = (len(program(steps).splitlines()) for steps in (25, 100))
    assert short == long


@pytest.mark.slow
def test_carries_of_one_array_are_unrolled(monkeypatch):
    """Slopes of two carries that are functions of one array add up before they are squared."""

    def f(x):
        def step(held, row):
            z = held[0] * held[1] @ AGAIN[:, :UNITS] + row @ IN[:, :UNITS]
            return (jnp.tanh(z), jax.nn.sigmoid(z)), held[0] * held[1]

        return along(x, step, (zero(x), zero(x)))

    kept, unrolled = (answer(f, n, monkeypatch, unit=STEPS - 1) for n in (1, STEPS))
    np.testing.assert_array_equal(kept.map, unrolled.map)


def test_positions_of_a_long_scan_are_taken_apart(monkeypatch):
    monkeypatch.setattr(options, "SHORT", 4)
    monkeypatch.setattr(options, "FEW_STEPS", 1)
    field = ej.analytic(bent_before, X, layout="NLC", weights="exchangeable")
    assert any("all 6 steps of a scan" in note for note in field.notes)


def decayed(x):
    """A recurrence whose decays the data choose, both ways, then rows that do not know of each other; one channel is shifted."""
    u, decay = x @ IN[:, :UNITS], jax.nn.sigmoid(x @ MORE[:, :UNITS])

    def step(h, row):
        h = row[1] * h + row[0] * jnp.roll(decay.mean(1), 1, -1)
        return h, h + row[0]

    both = [
        lax.scan(step, zero(x), (u.swapaxes(0, 1), decay.swapaxes(0, 1)), reverse=reverse)[1].swapaxes(0, 1)
        for reverse in (False, True)
    ]
    rows = lax.map(lambda row: jnp.tanh(row) * row, (both[0] + both[1]).swapaxes(0, 1))
    return rows.swapaxes(0, 1) @ AGAIN[:, :UNITS]


@pytest.mark.parametrize("unit", [1, STEPS - 1])
def test_positions_together_of_a_scan_are_those_of_its_steps(unit, monkeypatch):
    asked = {"weights": "exchangeable", "channels": "random-signs", "unit": unit}
    kept = answer(decayed, 1, monkeypatch, **asked, positions="together")
    unrolled = answer(decayed, STEPS, monkeypatch, **asked, positions="together")
    np.testing.assert_allclose(kept.map, unrolled.map, rtol=2e-5, atol=1e-7 * unrolled.map.max())
    assert kept.notes == unrolled.notes
    monkeypatch.setattr(options, "SHORT", 2)
    itself = answer(decayed, 1, monkeypatch, **asked)
    assert itself.metadata["positions"] == "together"
    np.testing.assert_array_equal(itself.map, kept.map)


def test_which_axes_go_through_a_scan():
    """Axes that the body leaves alone; the steps themselves only where no step knows of another."""

    def through(step):
        def f(x):
            return lax.scan(step, jnp.zeros((2, 3)), x)[1]

        trace = record(f, jax.ShapeDtypeStruct((7, 2, 3), jnp.float32))
        source = Var((7, 2, 3), jnp.dtype(jnp.float32))
        program = trace.program([source], unrolled=Unrolled(fixed=1))
        cone = restrict(program, {program.output: full(program.output.shape)})
        assert any(step.inner is not None for step in cone.steps)
        found = aligned(source, program.output, cone.steps)
        return [link and (link.axis, link.shift) for link in found]

    assert through(lambda h, row: (h / 2 + row, h)) == [None, (1, 0), (2, 0)]
    assert through(lambda h, row: (h, jnp.tanh(row))) == [(0, 0), (1, 0), (2, 0)]
    assert through(lambda h, row: (h / 2 + row.mean(0, keepdims=True), h + row)) == [None, None, (2, 0)]
    assert through(lambda h, row: (h, row.T)) == [(0, 0), (2, 0), (1, 0)]
    assert through(lambda h, row: (row, jnp.roll(h, 1, 1)[:, :2])) == [None, (1, 0), None]


def test_a_long_linear_recurrence_takes_positions_together():
    x = RNG.normal(size=(1, 200, FEATURES)).astype(np.float32)
    field = ej.analytic(
        smoothed_then_weighed, x, layout="NLC", unit=150, weights="exchangeable", channels="random-signs"
    )
    assert field.metadata["positions"] == "together"
    np.testing.assert_allclose(field.map[:151] / field.map[150], 0.81 ** np.arange(150, -1, -1), rtol=1e-3)
    assert not field.map[151:].any()


def weighing_inside(x):
    """Rows meet weights inside the step, and so does what leaves it."""

    def step(h, row):
        decay = jax.nn.sigmoid(row @ IN[:, :UNITS])
        h = decay * h + row @ MORE[:, :UNITS]
        return h, jnp.tanh(h) @ AGAIN

    return along(x, step, zero(x))


def weighing_outside(x):
    def step(h, row):
        h = row[0] * h + row[1]
        return h, h

    decay, u = jax.nn.sigmoid(x @ IN[:, :UNITS]), x @ MORE[:, :UNITS]
    states = lax.scan(step, zero(x), (decay.swapaxes(0, 1), u.swapaxes(0, 1)))[1]
    return jnp.tanh(states.swapaxes(0, 1)) @ AGAIN


def test_weights_that_no_step_waits_for_are_taken_out_of_a_scan():
    """They are the same at every step, which is no use of weights twice on a path."""
    x, asked = RNG.normal(size=(1, 20, FEATURES)).astype(np.float32), {"layout": "NLC", "unit": 17}
    asked |= {"weights": "exchangeable", "channels": "random-signs"}
    inside, outside = (ej.analytic(f, x, **asked) for f in (weighing_inside, weighing_outside))
    np.testing.assert_allclose(inside.map, outside.map, rtol=2e-5, atol=1e-7 * outside.map.max())
    assert inside.metadata["positions"] == "together"
    assert not any("more than once" in note for note in inside.notes)


def smoothed_then_weighed(x):
    def step(h, row):
        h = 0.9 * h + 0.1 * row
        return h, h

    return along(x @ IN[:, :UNITS], step, zero(x)) @ AGAIN


@pytest.mark.slow
@pytest.mark.parametrize("cell", [lstm, gru])
def test_the_first_call_is_linear_in_the_steps_at_most(cell):
    def seconds(steps):
        x, begin = RNG.normal(size=(2, steps, FEATURES)).astype(np.float32), time.process_time()
        ej.analytic(lambda x: cell(x), x, layout="NLC", unit=steps - 1)
        return time.process_time() - begin

    seconds(25)  # what JAX itself compiles once
    short, long = seconds(25), seconds(200)
    assert long < 8 * short  # unrolled it is more than square; what grows is the theoretical field beside it


def test_a_scan_keeps_its_exponents():
    """A state that fades to a hundredth at every step: the map of the first row lies far below single precision."""

    def f(x):
        return along(x[:, 1:], lambda h, row: (0.01 * h + 0 * row,) * 2, x[:, 0])

    x = RNG.normal(size=(1, 61, FEATURES)).astype(np.float32)
    found = ej.analytic(f, x, layout="NLC", unit=59, channels="random-signs").map
    np.testing.assert_allclose(found[0], FEATURES * 1e-240, rtol=1e-4)
    assert not found[1:].any()
