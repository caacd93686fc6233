"""Every unit at once: the mean over all units that see the image alone, against these units one by one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import SampleError, UnitError
from erfjax.measurement import unit_copies
from erfjax.measurement.every_unit import lines
from erfjax.tracing import WindowRule, registry

RNG = np.random.default_rng(3)
KERNEL = jnp.asarray(RNG.normal(size=(3, 5, 2, 4)), jnp.float32)
SECOND = jnp.asarray(RNG.normal(size=(3, 3, 4, 3)), jnp.float32)
X = RNG.normal(size=(2, 17, 20, 2)).astype(np.float32)
DIMS = ("NHWC", "HWIO", "NHWC")


def conv(x, w, stride=1, padding="SAME"):
    return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=DIMS)


def plain(x):
    return conv(jnp.tanh(conv(x, KERNEL)), SECOND)


def strided(x):
    return conv(jnp.tanh(conv(x, KERNEL, 2)), SECOND)


def phased(x):
    """Pooled by two and repeated: the field depends on the parity of the unit, and moves by one pixel per unit."""
    y = conv(x, SECOND[:, :, :2])[:, :16]
    y = y.reshape(1, 8, 2, 10, 2, 3).mean((2, 4))
    return jnp.repeat(jnp.repeat(y, 2, 1), 2, 2)


PLACES = jnp.asarray(RNG.normal(size=(1, 17, 20, 2)), jnp.float32)


def placed(x):
    """Units differ by what is added and multiplied where they lie."""
    return conv(
        jax.nn.relu(
            conv(x * PLACES[..., :1] + PLACES, KERNEL) + 0.1 * jnp.arange(4, dtype=jnp.float32)[None, None, None]
        ),
        SECOND,
    )


def alternating(x):
    """Every second row has weights of its own, which the field does not show."""
    even = (jnp.arange(17) % 2 == 0)[None, :, None, None]
    return jnp.where(even, conv(x, SECOND[:, :, :2]), jnp.sin(conv(x, SECOND[:, :, 1:3])))


def gathered(x):
    """Rows are read by an array of their places, in which positions of the window would have to be counted anew."""
    return conv(jnp.tanh(x)[:, np.arange(17)], SECOND[:, :, :2])


def large(x):
    """A field of more than half the image: no two units fit side by side."""
    return conv(jnp.tanh(conv(x, KERNEL)), jnp.ones((11, 13, 4, 3)) / 50)


@functools.cache
def one_by_one(f, channels, statistic, steps):
    """The mean of the maps of all units with their window inside, each moved to the centre unit, by the dense Jacobian."""
    centre = ej.theoretical(f, X)
    along = lines(centre, steps)
    units = [list(map(line.unit, range(line.count))) for line in along]
    assert all(u in line for u, line in zip(centre.unit, units, strict=True))

    def values(row):
        found = f(row[None])[0][np.ix_(*units)]
        return (
            found
            if channels == "frobenius"
            else found.sum(-1, keepdims=True)
            if channels == "sum"
            else found[..., [channels]]
        )

    g = np.stack([np.asarray(jax.jit(jax.jacrev(values))(row), np.float64) for row in X])
    maps = {"square": g * g, "abs": abs(g), "mean": g}[statistic].sum((3, -1)).mean(0)
    total = np.zeros(X.shape[1:3])
    at = tuple(slice(line.start(u), line.start(u) + line.window) for line, u in zip(along, centre.unit, strict=True))
    for i, j in np.ndindex(maps.shape[:2]):
        unit = units[0][i], units[1][j]
        own = tuple(slice(line.start(u), line.start(u) + line.window) for line, u in zip(along, unit, strict=True))
        assert abs(maps[i, j]).sum() == pytest.approx(abs(maps[i, j][own]).sum())  # its whole field is in its window
        total[at] += maps[i, j][own] / maps[..., 0, 0].size
    return total, maps[..., 0, 0].size


@pytest.fixture(params=["cones", "colours"])
def way(request, monkeypatch):
    """Both ways to all units, whatever they cost."""
    monkeypatch.setattr(unit_copies, "WORTH", np.inf if request.param == "cones" else 0.0)
    return request.param


SAID = {"cones": " cones", "colours": " backward passes through the whole image"}


@pytest.mark.parametrize(
    ("f", "channels", "statistic", "step"),
    [
        (plain, "frobenius", "abs", 1),
        (plain, "sum", "square", (2, 3)),
        (strided, "sum", "square", 1),
        (phased, "sum", "square", 1),
        (phased, 1, "mean", 3),
        (placed, "frobenius", "square", 1),
        (alternating, "sum", "square", 1),
        (large, "frobenius", "abs", 1),
    ],
)
def test_the_mean_over_all_units(f, channels, statistic, step, way):
    steps = step if isinstance(step, tuple) else (step, step)
    expected, count = one_by_one(f, channels, statistic, steps)
    field = ej.empirical(
        lambda x: f(x), X, unit="all", step=step, channels=channels, statistic=statistic, progress=False
    )
    np.testing.assert_allclose(field.map, expected, rtol=2e-5, atol=1e-6 * abs(expected).max())
    assert any(f"{count} units" in note and note.endswith(SAID[way]) for note in field.notes)
    assert field.samples == 2
    assert field.stderr.shape == field.map.shape


def test_units_that_are_no_copies_of_each_other_are_coloured(monkeypatch):
    """A rule that makes a number of the place of its box: the windows are alike, the programs are not."""
    monkeypatch.setattr(unit_copies, "WORTH", np.inf)

    def by_place(equation, result, operands, boxes, box):
        return jnp.sinh(operands[0]) * float(box[1].start)

    moved = dataclasses.replace(registry._RULES[jax.lax.sinh_p], restrict=WindowRule(by_place))
    monkeypatch.setitem(registry._RULES, jax.lax.sinh_p, moved)
    field = ej.empirical(lambda x: conv(jnp.sinh(x), SECOND[:, :, :2]), X, unit="all", progress=False)
    assert any(note.endswith(SAID["colours"]) for note in field.notes)


def test_rows_read_by_their_places_are_those_of_the_unit(monkeypatch):
    monkeypatch.setattr(unit_copies, "WORTH", np.inf)
    expected, _ = one_by_one(gathered, "sum", "square", (1, 1))
    field = ej.empirical(gathered, X, unit="all", progress=False)
    np.testing.assert_allclose(field.map, expected, rtol=2e-5, atol=1e-6 * expected.max())


def test_the_batch_changes_nothing(way, monkeypatch):
    def field(size):
        return ej.empirical(lambda x: plain(x), X, unit="all", channels="frobenius", batch_size=size, progress=False)

    one, two = field(1), field(2)
    monkeypatch.setattr(unit_copies, "AT_ONCE", 5)  # cells that do not divide their number
    few = field(2)
    np.testing.assert_allclose(one.map, two.map, rtol=1e-5)
    np.testing.assert_allclose(few.map, two.map, rtol=1e-5)
    np.testing.assert_allclose(few.stderr, two.stderr, rtol=1e-4, atol=1e-6 * two.map.max())


def test_the_way_that_costs_less_is_taken():
    def note(f):
        return next(n for n in ej.empirical(f, X, unit="all", progress=False).notes if "the mean over" in n)

    assert note(plain).endswith("by 182 cones")
    assert note(lambda x: x + conv(x, jnp.ones((1, 1, 2, 2)))).endswith("by 1 backward passes through the whole image")


@pytest.mark.parametrize("options", [{"step": 0, "unit": "all"}, {"step": (1, 2, 3), "unit": "all"}, {"step": 2}])
def test_steps_that_say_nothing_are_refused(options):
    with pytest.raises(SampleError, match="`step`"):
        ej.empirical(plain, X, **options)


def test_units_that_share_a_pullback_are_few_pullbacks():
    line, _ = lines(ej.theoretical(plain, X))
    assert (line.window, line.spacing, line.per_colour, line.count) == (5, 5, 3, 13)


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda x: x - x.mean((1, 2), keepdims=True), "seen globally"),
        (lambda x: conv(x, jnp.ones((21, 3, 2, 2))), "do not fit"),
        (lambda x: jnp.repeat(x, 2, 1), "0.5 pixels per unit"),
    ],
)
def test_what_has_no_mean_over_units_is_said(f, says):
    with pytest.raises(UnitError, match=says):
        ej.empirical(f, X, unit="all")


def test_shares_of_the_mean_over_units_sum_to_one():
    field = ej.empirical(plain, X, unit="all", channels="frobenius", statistic="share", progress=False)
    assert field.map.sum() == pytest.approx(1, rel=1e-5)
