"""The field of every unit by itself: against the measured maps of these units, one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import SampleError, UnitError
from erfjax.measurement.unit_moments import Row
from tests.readings.test_every_unit import X, conv, large, phased, plain, strided

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


@pytest.mark.parametrize(
    ("f", "step", "options"),
    [
        (plain, 3, {"channels": "frobenius"}),
        (strided, 2, {"statistic": "abs"}),
        (phased, (3, 5), {}),
        (large, 6, {}),
        (upsampled, (7, 9), {"channels": 1}),
        (mean_beside, (4, 6), {"statistic": "abs"}),
        (flipped, 5, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_unit_is_what_it_is_alone(f, step, options):
    found = ej.every_unit(f, X, step=step, progress=False, **options)
    totals, sigmas, centroids = one_by_one(f, found, X, **options)
    np.testing.assert_allclose(found.total, totals, rtol=1e-4)
    np.testing.assert_allclose(found.sigma(), sigmas, rtol=1e-3, atol=1e-3)
    places = np.stack(np.meshgrid(*found.places, indexing="ij"), -1)
    np.testing.assert_allclose(found.shift() + places, centroids, atol=1e-3)


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
    assert any(f"{5 * 7} backward passes" in note for note in found.notes)


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
