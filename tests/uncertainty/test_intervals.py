"""Intervals against the promise they make, and against what is known of simple samples."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from erfjax import measures
from erfjax.errors import MapError
from erfjax.fields import EffectiveField
from erfjax.readings.empirical import empirical
from erfjax.uncertainty import Record, resampling
from erfjax.uncertainty.dependence import correlation_time
from erfjax.uncertainty.diagnostics import diagnose
from erfjax.uncertainty.influence import influences
from erfjax.uncertainty.records import summarise


def field_of(maps, statistic="square"):
    """The field of single samples, as a measurement makes it."""
    middle = maps.shape[1] // 2
    record = Record(summarise(maps, maps[:, middle]), np.stack([maps.sum(1), maps[:, middle]]), len(maps))
    mean = np.sqrt(maps.mean(0)) if statistic == "rms" else maps.mean(0)
    return EffectiveField(mean, None, statistic, len(maps), (0,), None, "measured", batches=maps, record=record)


def lognormal_maps(rng, count, spread, ragged=0.5, pixels=9):
    """Maps with the mean exp(-t²/8): a gain of mean one per sample, and independent factors of mean one per pixel."""
    shape = np.exp(-((np.arange(pixels) - pixels // 2) ** 2) / 8.0)
    gains = np.exp(spread * rng.normal(size=(count, 1)) - spread**2 / 2)
    return shape * gains * rng.gamma(1 / ragged**2, ragged**2, size=(count, pixels))


@pytest.mark.parametrize(("count", "spread"), [(16, 0.7), (64, 1.4)])
@pytest.mark.parametrize(("measure", "repeats"), [("total", 200), ("sigma", 40), ("share", 80)])
def test_intervals_hold_the_truth_as_often_as_they_say(count, spread, measure, repeats, monkeypatch):
    monkeypatch.setattr(resampling, "FEWEST", 400)
    rng = np.random.default_rng(count)
    truth = field_of(lognormal_maps(rng, 1, 0.0, 1e-4))
    value, hits = truth.reader(measure)(truth.map), 0
    for _ in range(repeats):
        hits += value in field_of(lognormal_maps(rng, count, spread)).interval(measure)
    error = math.sqrt(0.05 * 0.95 / repeats)
    assert 0.93 - 2 * error < hits / repeats < 0.97 + 2.5 * error


def test_plain_intervals_of_heavy_tails_miss_and_these_do_not():
    rng, repeats, count = np.random.default_rng(3), 150, 32
    plain = smoothed = 0
    for _ in range(repeats):
        values = np.exp(1.5 * rng.normal(size=count) - 1.5**2 / 2)
        half = stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count)
        plain += abs(values.mean() - 1) < half
        low, high = resampling.studentised(values, 0.95)
        smoothed += low < 1 < high
    assert plain / repeats < 0.86
    assert smoothed / repeats > 0.91


def test_few_samples_without_a_large_one_have_intervals_that_reach_it(monkeypatch):
    """Of log-normal data sets of 16 those whose own spread is small are judged trustworthy; they cover as well."""
    monkeypatch.setattr(resampling, "FEWEST", 400)
    values = np.exp(np.random.default_rng(0).normal(size=(1000, 16)) - 0.5)
    tame = [one for one in values if resampling.spread(one) < 1.04]
    held = np.mean([low < 1 < high for low, high in (resampling.studentised(one, 0.95) for one in tame)])
    assert 0.94 < held < 0.98  # 0.927 without `FEW`


def test_light_tails_give_the_interval_of_student():
    values = 10 + stats.norm.ppf((np.arange(400) + 0.5) / 400)
    low, high = resampling.studentised(values, 0.95)
    half = 1.966 / math.sqrt(400)
    assert low == pytest.approx(10 - half, abs=0.15 * half)
    assert high == pytest.approx(10 + half, abs=0.15 * half)
    assert resampling.studentised(values, 0.95) == (low, high)  # the same resamples each time
    wide = resampling.studentised(values, 0.99)
    assert wide[0] < low < high < wide[1]


def test_totals_of_any_sign_have_linear_intervals():
    values = stats.norm.ppf((np.arange(100) + 0.5) / 100)
    low, high = resampling.studentised(values, 0.95)
    assert low < 0 < high
    assert high == pytest.approx(0.1984, rel=0.2)
    with pytest.raises(MapError, match="not negative"):
        resampling.studentised(values, 0.95, values + 5)


def test_paired_samples_cancel_what_they_share():
    rng = np.random.default_rng(0)
    maps = lognormal_maps(rng, 64, 1.2, 0.1)
    other = 2 * maps * rng.gamma(100, 0.01, size=(64, 1))
    a, b = field_of(maps), field_of(other)
    paired = b.interval("total", relative_to=a)
    assert 2 in paired
    assert paired.high / paired.low < 1.2
    alone = b.interval("total", relative_to=field_of(other[:63] / 2))
    assert alone.high / alone.low > 2
    assert b.interval("sigma", relative_to=b).low == pytest.approx(1)
    with_closed = b.interval("total", relative_to=dataclasses.replace(a, samples=0, batches=None, record=None))
    assert with_closed.low == pytest.approx(b.interval("total").low / a.map.sum())
    against_closed = dataclasses.replace(a, samples=0, batches=None, record=None).interval("total", relative_to=b)
    assert against_closed.low == pytest.approx(a.map.sum() / b.interval("total").high)


def test_a_closed_form_has_no_width_and_one_sample_no_interval():
    maps = lognormal_maps(np.random.default_rng(1), 5, 0.3)
    closed = EffectiveField(maps[0], None, "square", 0, (0,), None, "exact")
    assert tuple(closed.interval("sigma")) == (closed.size("sigma"),) * 2
    with pytest.raises(MapError, match="two samples"):
        field_of(maps[:1]).interval("total")
    with pytest.raises(MapError, match="level"):
        field_of(maps).interval("total", 95)
    with pytest.raises(MapError, match="closed form"):
        closed.diagnostics()


def test_the_root_is_taken_of_the_mean():
    maps = lognormal_maps(np.random.default_rng(2), 40, 0.5)
    root, square = field_of(maps, "rms"), field_of(maps)
    for measure in ("total", "sigma", "share"):
        interval = root.interval(measure)
        assert interval.value == pytest.approx(root.reader(measure)(np.sqrt(maps.mean(0))))
        assert interval.value in interval
    assert root.interval("sigma").low > square.interval("sigma").high


def test_counts_of_pixels_have_intervals_that_hold_the_estimate():
    field = field_of(lognormal_maps(np.random.default_rng(4), 30, 0.8, pixels=15))
    for measure, options in (("luo", {}), ("area_ratio", {"fraction": 0.6}), ("energy_radius", {"fraction": 0.6})):
        interval = field.interval(measure, **options)
        assert interval.low <= field.size(measure, **options) <= interval.high
        assert 1 <= interval.low < interval.high <= 15 or measure == "area_ratio"
    assert (interval.units, interval.samples_per_unit) == (30, 1)


def test_the_total_of_shares_is_how_many_samples_live():
    maps = lognormal_maps(np.random.default_rng(8), 20, 0.5)
    maps /= maps.sum(1, keepdims=True)
    low, high = field_of(maps, "share").interval("total")
    assert (low, high) == (pytest.approx(0.025 ** (1 / 20)), 1)  # none of twenty is dead: the next may be
    maps[3] = 0
    low, high = field_of(maps, "share").interval("total")
    assert low < 0.8 < 0.95 < high < 1


def test_the_geometric_total_has_no_heavy_tail():
    maps = lognormal_maps(np.random.default_rng(5), 100, 2.0, 0.01)
    maps[7] = 0  # has no logarithm and no part in it
    interval = field_of(maps).interval("geometric total")
    logs = np.log(np.delete(maps, 7, 0).sum(1))
    half = stats.t.ppf(0.975, 98) * logs.std(ddof=1) / math.sqrt(99)
    assert interval.value == pytest.approx(math.exp(logs.mean()))
    assert (interval.low, interval.high) == pytest.approx((math.exp(logs.mean() - half), math.exp(logs.mean() + half)))


def test_neighbours_that_resemble_each_other_count_once():
    rng = np.random.default_rng(6)
    maps = lognormal_maps(rng, 60, 0.5, 0.1)
    repeated = np.repeat(maps, 8, 0)
    once, eight = field_of(maps), field_of(repeated)
    assert correlation_time(repeated.sum(1)) == pytest.approx(8, rel=0.3)
    report = eight.diagnostics()
    assert report.tails[0].effective == pytest.approx(60, rel=0.3)
    assert any("resemble" in note for note in report.notes)
    widths = [field.interval("total").high / field.interval("total").low for field in (once, eight)]
    assert math.log(widths[1]) > 0.7 * math.log(widths[0])
    assert once.diagnostics().notes == ()


@pytest.mark.parametrize(
    ("spread", "count", "trusted"), [(0.5, 16, True), (2.0, 16, False), (2.0, 1000, True), (3.0, 1000, False)]
)
def test_a_field_knows_whether_its_bars_can_be_trusted(spread, count, trusted):
    logs = spread * stats.norm.ppf((np.arange(count) + 0.5) / count)
    values = np.random.default_rng(0).permutation(np.exp(logs))
    rows = summarise(values[:, None], values)
    report = diagnose(Record(rows, np.stack([values, values]), count))
    assert report.trusted is trusted
    assert len(report.notes) == (not trusted)
    if not trusted:
        assert "samples would do" in report.notes[0] or "hardly" in report.notes[0]
    assert "Pareto" in str(report)


@pytest.mark.parametrize("count", [16, 64, 300])
def test_a_tail_of_single_pixels_is_seen_where_totals_have_none(count):
    """One tame pixel holds most of the map, the others are Pareto with an index of 1.2: sizes have no finite variance."""
    rng, told = np.random.default_rng(count), {"heavy": 0, "tame": 0}
    for _ in range(20):
        tame = rng.gamma(4.0, 0.25, (count, 15))
        heavy = 0.01 * rng.random((count, 15)) ** (-1 / 1.2)
        tame[:, 7], heavy[:, 7] = 9.0, 9.0
        for name, maps in (("heavy", heavy), ("tame", tame)):
            report = field_of(maps).diagnostics()
            assert report.spread < 1.2
            told[name] += not report.trusted
    assert told["heavy"] >= 17
    assert told["tame"] == 0
    assert "single pixels" in " ".join(field_of(heavy).diagnostics().notes)


@pytest.mark.parametrize(("count", "repeats"), [(64, 40), (256, 15), (1000, 8)])
def test_a_law_whose_large_values_are_rare_is_told_from_one_that_is_wide(count, repeats):
    """Squares over the squared norm of three numbers (no variance), products of two squares, and log-normal pixels."""
    rng, told = np.random.default_rng(count), dict.fromkeys(("rare", "wide", "log-normal"), 0)
    for _ in range(repeats):
        gains, squares = np.exp(0.2 * rng.normal(size=(count, 1))), rng.normal(size=(count, 15)) ** 2
        samples = {
            "rare": gains * squares / rng.chisquare(3, (count, 15)),
            "wide": gains * squares * rng.normal(size=(count, 15)) ** 2,
            "log-normal": gains * np.exp(1.3 * rng.normal(size=(count, 15))),
        }
        for name, maps in samples.items():
            report = field_of(maps).diagnostics()
            assert report.wide
            told[name] += not report.trusted
    assert told["rare"] > (0.6 if count < 1000 else 0.8) * repeats
    assert told["wide"] < 0.15 * repeats
    assert count < 1000 or told["log-normal"] == 0


def test_pixels_that_spread_little_are_trusted_whatever_their_kurtosis():
    rng = np.random.default_rng(0)
    report = field_of(rng.random((64, 15)) ** -0.3).diagnostics()  # Pareto, k = 0.3
    assert report.pixel_kurtosis > 1.2
    assert (report.wide, report.trusted) == (False, True)


@pytest.mark.parametrize("count", [10, 16, 64, 300])
def test_normal_logarithms_have_the_kurtosis_of_normal_numbers(count):
    values = np.exp(1.5 * np.random.default_rng(count).normal(size=(count, 4000)))
    values[:, 0] = 0
    spread, kurtosis = resampling.upper_moments(values)
    assert spread[0] == kurtosis[0] == 0
    error = kurtosis[1:].std() / 3999**0.5
    assert abs(kurtosis[1:].mean() - resampling.normal_kurtosis(count)) < 0.15 + 5 * error
    dead = np.concatenate([values, 0 * values])  # half of the samples do not see the pixel
    np.testing.assert_allclose(resampling.upper_moments(dead), (spread, kurtosis))


def test_influences_are_the_derivatives_of_what_is_read():
    rng = np.random.default_rng(2)
    maps = rng.gamma(2.0, 1.0, (30, 4, 5))
    for root in (False, True):
        found = influences(maps, (1, 3), root).values

        def read(mean, root=root):
            shown = np.sqrt(mean) if root else mean
            return sum(s**2 for s in measures.sigma(shown)), shown[1, 3] / shown.sum()

        step = 1e-6
        moved = np.array([read((1 - step) * maps.mean(0) + step * one) for one in maps]) - read(maps.mean(0))
        for values, slopes in zip(found.values(), moved.T, strict=True):
            np.testing.assert_allclose(values / np.abs(values).max(), slopes / np.abs(slopes).max(), atol=1e-4)
            assert abs(values.sum()) < 1e-9


def test_few_samples_are_not_judged_unless_all_are_alike():
    maps = lognormal_maps(np.random.default_rng(3), 9, 0.1, 0.1)
    few = field_of(maps).diagnostics()
    assert not few.trusted
    assert "too few" in few.verdict
    assert few.notes == (f"do not trust the error bars: {few.verdict.removeprefix('not to be trusted, ')}",)
    alike = field_of(np.repeat(maps[:1], 4, 0) * (1 + 1e-7 * np.arange(4))[:, None]).diagnostics()
    assert alike.trusted
    assert alike.notes == ()


def test_totals_near_zero_and_of_both_signs_are_no_heavy_tail():
    normal = np.random.default_rng(0).permutation(stats.norm.ppf((np.arange(64) + 0.5) / 64))
    for values, most in (
        (normal**2, 1.5),
        (normal, 0.0),
    ):  # the logarithm of a squared normal variable has a deviation of 2.2
        report = diagnose(Record(summarise(values[:, None], values), np.abs(np.stack([values, values])), 64))
        assert report.trusted
        assert report.spread <= most


def test_a_measured_field_says_so_itself_and_keeps_it_in_its_file(tmp_path):
    def f(key, x):
        return x * jnp.exp(2 * jax.random.normal(key, x.shape))

    field = empirical(f, jnp.ones((1, 5, 1)), key=jax.random.key(1), samples=24, layout="NWC")
    assert any("do not trust the error bars" in note for note in field.notes)
    tame = empirical(f, jnp.ones((1, 5, 1)), key=jax.random.key(1), samples=24, layout="NWC", statistic="share")
    assert tame.notes == ()
    np.testing.assert_array_equal(tame.map, [0, 0, 1, 0, 0])
    loaded = EffectiveField.load(field.save(tmp_path / "field.npz"))
    assert str(loaded.diagnostics()) == str(field.diagnostics())
    assert loaded.interval("total") == field.interval("total")
    unseen = empirical(f, jnp.ones((1, 5, 1)), key=jax.random.key(1), samples=24, layout="NWC", unit=(4,))
    np.testing.assert_allclose(unseen.record.column("reference"), unseen.record.column("total"))  # the unit's own pixel
