"""The field of every unit by itself: against the measured maps of these units, one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import SampleError, UnitError
from erfjax.measurement import unit_copies
from erfjax.measurement.unit_moments import Row
from tests.readings.test_every_unit import PLACES, SAID, X, conv, gathered, large, phased, placed, plain, strided

RNG = np.random.default_rng(5)
FLIPPED = RNG.normal(size=(3, 3, 2, 2)).astype(np.float32)
LINE = RNG.normal(size=(3, 19, 2)).astype(np.float32)


def upsampled(x):
    """Every pixel twice: fields move by half a pixel per unit."""
    return conv(jnp.repeat(jnp.repeat(jnp.tanh(x), 2, 1), 2, 2), jnp.ones((3, 3, 2, 2)) / 9)


def mean_beside(x):
    """One axis is seen whole by all units."""
    return conv(x, jnp.ones((3, 1, 2, 2))) + jnp.tanh(x).mean(2, keepdims=True)


def flipped(x):
    return jnp.flip(conv(jnp.tanh(x), FLIPPED), 1)


def causal(x):
    return jnp.cumsum(jnp.tanh(x), 1)


def pooled(x):
    """A pooling whose windows run past the border, and what is not zero at zero behind it."""
    sides = ((0, 0), (1, 1), (1, 1), (0, 0))
    return conv(
        jax.nn.gelu(
            jax.lax.reduce_window(conv(x, FLIPPED), -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), sides) + 0.3
        ),
        FLIPPED,
    )


def singular(x):
    """What stands beyond the border has no root: it may not be differentiated, not even times zero."""
    held = jnp.abs(jnp.sign(x)) + jnp.sin(x) ** 2 / 10  # one or more, beyond the border zero
    y = conv(held, jnp.ones((3, 3, 2, 2)), padding="VALID")  # 18 or more, beyond the border less than 14
    return conv(jnp.sqrt(y - 17), FLIPPED)


def summed(x):
    y = jax.lax.reduce_window(jnp.cos(x), 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return conv(jnp.sin(y), FLIPPED)


def padded(x):
    """Padded with a number that is not zero, which opens and shuts gates."""
    y = jnp.pad(jnp.tanh(conv(x, FLIPPED)), ((0, 0), (2, 1), (1, 2), (0, 0)), constant_values=1.5)
    return conv(jnp.sin(conv(y, FLIPPED, padding="VALID")), FLIPPED)


def mirrored(x):
    """Padded with itself: units at the border see it twice."""
    y = jnp.pad(jnp.tanh(conv(x, FLIPPED)), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return conv(y, FLIPPED, padding="VALID")


def transposed(x):
    """A transposed convolution, its operand beyond the border zero as well."""
    y = jnp.tanh(conv(x * PLACES, FLIPPED, 2))
    strides, shape = (2, 2), jnp.ones((2, 2, 2, 2)) / 3
    return conv(jax.lax.conv_transpose(y, shape, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")), FLIPPED)


def by_place(x):
    """A convolution of what is added where it lies, with a bias."""
    return placed(x) + 0.5


def one_by_one(f, found, x, statistic="square", channels="sum"):
    """Total, σ and centroid of the maps of the same units, by the dense Jacobian."""
    read = np.ix_(*found.units)

    def units(row):
        values = f(row[None])[0][read]
        return values if channels == "frobenius" else values[..., channels] if channels != "sum" else values.sum(-1)

    g = np.stack([np.asarray(jax.jit(jax.jacrev(units))(row), np.float64) for row in x])
    maps = (g * g if statistic == "square" else abs(g)).sum(-1).mean(0)
    maps = maps.sum(len(found.shape)) if channels == "frobenius" else maps
    flat = maps.reshape(-1, *x.shape[1:-1])
    sigmas = np.array([ej.measures.sigma(one) for one in flat]).reshape(*found.shape, -1)
    centroids = np.array([ej.measures.centroid(one) for one in flat]).reshape(*found.shape, -1)
    return flat.reshape(flat.shape[0], -1).sum(1).reshape(found.shape), sigmas, centroids


COLOURS = "colours"
CASES = [
    (plain, 3, {"channels": "frobenius"}, "cones"),
    (strided, 2, {"statistic": "abs"}, "cones"),
    (phased, (3, 5), {}, COLOURS),
    (phased, (1, 3), {}, "cones"),
    (large, 6, {}, COLOURS),
    (upsampled, (7, 9), {"channels": 1}, "cones"),
    (mean_beside, (4, 6), {"statistic": "abs"}, COLOURS),
    (flipped, 5, {}, "cones"),
    (by_place, 2, {"channels": "frobenius"}, "cones"),
    (pooled, 1, {}, "cones"),
    (singular, 2, {}, "cones"),
    (summed, 2, {}, "cones"),
    (padded, 2, {}, "cones"),
    (mirrored, 3, {}, COLOURS),
    (gathered, 3, {}, COLOURS),
    (transposed, 2, {}, "cones"),
]


@pytest.mark.parametrize(("f", "step", "options", "taken"), CASES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("way", ["cones", COLOURS])
def test_every_unit_is_what_it_is_alone(f, step, options, taken, way, monkeypatch):
    """Both ways; by colours where no moved cone serves all units."""
    monkeypatch.setattr(unit_copies, "WORTH", np.inf if way == "cones" else 0.0)
    found = ej.every_unit(lambda x: f(x), X, step=step, progress=False, **options)
    assert SAID[taken if way == "cones" else way] in found.notes[0]
    totals, sigmas, centroids = one_by_one(f, found, X, **options)
    np.testing.assert_allclose(found.total, totals, rtol=1e-4)
    np.testing.assert_allclose(found.sigma(), sigmas, rtol=1e-3, atol=1e-3)
    places = np.stack(np.meshgrid(*found.places, indexing="ij"), -1)
    np.testing.assert_allclose(found.shift() + places, centroids, atol=1e-3)


def test_the_batch_and_how_many_cones_run_together_change_nothing(monkeypatch):
    def moments(size):
        return ej.every_unit(lambda x: plain(x), X, step=2, batch_size=size, progress=False).moments

    monkeypatch.setattr(unit_copies, "WORTH", np.inf)
    one, two = moments(1), moments(2)
    monkeypatch.setattr(unit_copies, "AT_ONCE", 7)  # cells that do not divide their number
    few = moments(2)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5 * abs(two).max())
    np.testing.assert_allclose(few, two, rtol=1e-5, atol=1e-5 * abs(two).max())


def test_a_unit_that_is_not_finite_is_a_fault_and_what_lies_beyond_the_border_is_none(monkeypatch):
    monkeypatch.setattr(unit_copies, "WORTH", np.inf)

    assert np.isfinite(ej.every_unit(lambda x: singular(x), X, step=3, progress=False).moments).all()
    broken = X.copy()
    broken[1, 8, 9] = np.inf
    with pytest.raises(SampleError, match="not finite"):
        ej.every_unit(lambda x: singular(x), broken, step=3, progress=False)


def test_a_line_of_units_that_see_ever_more():
    found = ej.every_unit(causal, LINE, layout="NWC", progress=False)
    totals, sigmas, _ = one_by_one(causal, found, LINE)
    np.testing.assert_allclose(found.total, totals, rtol=1e-4)
    np.testing.assert_allclose(found.sigma(), sigmas, rtol=1e-3, atol=2e-3)
    assert found.shape == (19,)
    assert "past the border" in found.groups()


def test_shares_and_standard_errors_are_those_of_the_samples():
    x = RNG.normal(size=(6, 17, 20, 2)).astype(np.float32)
    found = ej.every_unit(plain, x, step=8, statistic="share", progress=False)
    (field,) = ej.empirical(plain, x, unit=[tuple(int(u[1]) for u in found.units)], statistic="share", progress=False)
    assert found.total[1, 1] == pytest.approx(1, rel=1e-5)
    assert found.size()[1, 1] == pytest.approx(field.size("sigma"), rel=1e-4)
    error = field.unbiased_size("sigma")[1]
    assert found.size_stderr()[1, 1] == pytest.approx(error, rel=1e-3)
    assert found.total_stderr()[1, 1] == pytest.approx(0, abs=1e-6)


def test_units_at_the_border_see_less_and_are_named():
    found = ej.every_unit(plain, X, step=1, progress=False)  # a field of 5 x 7 pixels
    assert found.shape == (17, 20)
    counts = {name: int(here.sum()) for name, here in found.groups().items()}
    assert counts == {"inside": 13 * 14, "past one border": 4 * 14 + 6 * 13, "past two": 24}
    assert found.size()[0, 0] < 0.9 * found.typical
    assert found.less()[0, 0]
    assert not found.less()[8, 10]
    assert "past two" in str(found)
    assert "smallest field" in str(found)
    assert found.notes[0] == "340 units, by 35 backward passes through the whole image for each sample"


def test_the_way_that_costs_less_is_taken():
    """Cones of wide layers; not of narrow ones, whose windows cost more to read than to compute."""

    def note(width, depth):
        f = (ej.layers.Conv(3) ** depth).network(jax.random.key(0), width=width, in_channels=3)
        return ej.every_unit(f, np.ones((1, 33, 30, 3), np.float32), step=3, progress=False).notes[0]

    assert note(64, 4) == "110 units, by 110 cones for each sample"
    assert note(2, 4) == "110 units, by 9 backward passes through the whole image for each sample"
    assert note(8, 20).endswith("whole image for each sample")  # no unit sees the image alone


def test_a_second_call_compiles_nothing():
    f = (ej.layers.Conv(3) ** 2).network(jax.random.key(0), width=4, in_channels=2)
    first = ej.every_unit(f, X, step=4, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", lambda *args, **kwargs: pytest.fail("compiled again"))
        np.testing.assert_array_equal(ej.every_unit(f, X, step=4, progress=False).moments, first.moments)


def test_phases_are_told_apart():
    found = ej.every_unit(phased, X, progress=False)
    assert found.period == (2, 2)
    assert found.shape == (5, 7)  # every third unit: every second would leave out a phase
    assert {"inside, phase (0, 0)", "inside, phase (1, 1)"} <= set(found.groups())


def test_random_weights_are_drawn_for_each_sample():
    def drawn(key, x):
        return conv(x, jax.random.normal(key, (3, 3, 2, 2)))

    found = ej.every_unit(drawn, X, key=jax.random.key(0), samples=5, step=8, progress=False)
    (field,) = ej.empirical(
        drawn, X, key=jax.random.key(0), samples=5, unit=[tuple(int(u[1]) for u in found.units)], progress=False
    )
    assert found.samples == 5
    assert found.total[1, 1] == pytest.approx(field.map.sum(), rel=1e-5)


def test_files_and_figures(tmp_path):
    found = ej.every_unit(plain, X, step=6, progress=False)
    again = ej.EveryUnit.load(found.save(tmp_path / "all.npz"))
    np.testing.assert_array_equal(again.size_stderr(), found.size_stderr())
    assert str(again) == str(found)
    for suffix in ("json", "csv", "png"):
        assert found.save(tmp_path / f"all.{suffix}").stat().st_size > 100
    assert [axes.get_title() for axes in found.plot().axes[:2]] == ["σ in pixels", "total, relative to units inside"]
    line = ej.every_unit(causal, LINE, layout="NWC", step=3, progress=False)
    drawn = line.plot()
    assert len(drawn.axes) == 2
    assert line.plot(drawn.axes[0], label="again") is drawn.axes[0]


def test_windows_that_are_not_what_units_see_are_refused():
    def sheared(x):  # row i is moved by i columns
        return jnp.stack([jnp.roll(x[:, i], i, 1) for i in range(x.shape[1])], 1)

    with pytest.raises(UnitError, match="depends on their place along another"):
        ej.every_unit(sheared, X, progress=False)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"step": 0}, SampleError, "`step`"),
        ({"step": (1, 2, 3)}, SampleError, "`step`"),
        ({"statistic": "mean"}, SampleError, "one sign"),
        ({"samples": 9}, SampleError, "`samples`"),
    ],
)
def test_what_it_cannot_answer_is_said(options, error, says):
    with pytest.raises(error, match=says):
        ej.every_unit(plain, X, **options)


def test_units_share_a_colour_only_if_no_windows_overlap():
    start = np.array([0, 0, 2, 4, 6, 8])
    row = Row(np.arange(6), start, np.minimum(start + 5, 11), start + 2.0, (6, 11))
    assert row.spacing == 4  # [0, 5) and [4, 9) overlap, [0, 5) and [6, 11) do not
    for line in row.weights()[:, 0]:
        assert line.sum(0).max() == 1
