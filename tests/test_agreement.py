"""Comparisons call equal fields equal and different ones different; fitted laws have the intervals that they claim."""

import copy
import dataclasses
import functools
import json
import math
import pickle

import numpy as np
import pytest
from scipy import stats

from erfjax.agreement import Comparison, compare, scaling_law
from erfjax.errors import ComparisonError, MapError
from erfjax.fields import EffectiveField, TheoreticalField


def bell(shape=(21, 17), sigma=(2.5, 2.0), centre=None):
    centre = tuple(n // 2 for n in shape) if centre is None else centre
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return np.exp(-sum((t - c) ** 2 / (2 * s**2) for t, c, s in zip(axes, centre, sigma, strict=True)))


def theory_at(centre, shape):
    start = tuple(c - 8 for c in centre)
    stop = tuple(c + 9 for c in centre)
    unit, ones = tuple(centre), (1,) * len(shape)
    return TheoreticalField(unit, shape, shape, start, stop, ones, (8,) * len(shape), (start, stop), True)


def exact(values, theoretical=None, statistic="square"):
    unit = tuple(n // 2 for n in values.shape)
    return EffectiveField(values, None, statistic, 0, unit, theoretical, "exact")


def measured(truth, seed=0, samples=400, groups=40, statistic="square", theoretical=None):
    """Samples with independent noise per pixel and a gain of mean one that all pixels of a sample share."""
    random = np.random.default_rng(seed)
    gains = np.exp(-0.125 + 0.5 * random.normal(size=(samples, *(1,) * truth.ndim)))
    draws = truth * gains * random.chisquare(4, size=(samples, *truth.shape)) / 4
    batches = draws.reshape(groups, samples // groups, *truth.shape).mean(1)
    mean, stderr = draws.mean(0), draws.std(0, ddof=1) / math.sqrt(samples)
    if statistic == "rms":
        mean, stderr = np.sqrt(mean), stderr / (2 * np.sqrt(mean))
    unit = tuple(n // 2 for n in truth.shape)
    return EffectiveField(mean, stderr, statistic, samples, unit, theoretical, "measured", batches=batches)


@functools.cache
def twenty():
    return [compare(exact(bell()), measured(bell(), seed)) for seed in range(20)]


def test_equal_fields_agree_within_noise():
    truth, comparisons = bell(), twenty()
    distances = np.array([c.total_variation for c in comparisons])
    floors = np.array([c.noise_floor for c in comparisons])
    assert abs(distances.mean() / floors.mean() - 1) < 0.1
    scores = np.stack([c.z for c in comparisons])[:, truth > 0.2]
    assert abs(scores.std() - 1) < 0.1
    ratios = np.array([(c.size("sigma").value - 1) / c.size("sigma").stderr for c in comparisons])
    assert abs(ratios.mean()) < 5 / math.sqrt(20)
    assert 0.5 < ratios.std() < 1.6


def test_different_fields_differ():
    comparison = compare(exact(bell()), measured(bell(sigma=(3.0, 2.0))))
    assert not comparison.within_chance
    assert comparison.total_variation > 2 * comparison.noise_floor
    sigma = comparison.size("sigma")
    assert sigma.value > 1 + 5 * sigma.stderr


def test_two_measurements_share_their_noise():
    truth = bell()
    comparison = compare(measured(truth, 1), measured(truth, 2))
    alone = compare(exact(truth), measured(truth, 2))
    assert comparison.noise_floor == pytest.approx(math.sqrt(2) * alone.noise_floor, rel=0.1)
    assert comparison.within_chance


def test_roots_compare_with_roots():
    truth = bell()
    comparison = compare(exact(np.sqrt(truth), statistic="rms"), measured(truth, statistic="rms"))
    assert comparison.within_chance
    assert comparison.size("luo").value == pytest.approx(1, abs=0.05)


def test_scale_matters_to_the_total_only():
    truth = bell()
    one, other = compare(exact(truth), measured(truth)), compare(exact(3 * truth), measured(truth))
    assert one.total_variation == pytest.approx(other.total_variation, rel=1e-12)
    assert other.total.value == pytest.approx(one.total.value / 3)


def test_two_closed_forms_have_no_noise():
    comparison = compare(exact(bell()), exact(bell()))
    assert (comparison.total_variation, comparison.noise_floor, comparison.compared, comparison.beyond) == (0, 0, 0, 0)
    assert comparison.within_chance
    assert comparison.total.stderr is None
    assert "no error bars" in str(comparison)


def test_without_batches_the_pixels_errors_serve():
    field = measured(bell())
    loose = EffectiveField(field.map, field.stderr, "square", 400, field.unit, None, "measured")
    assert compare(exact(bell()), loose).within_chance


def test_error_bars_that_are_unknown_add_no_noise():
    unknown = EffectiveField(bell(), np.full_like(bell(), np.nan), "square", 5, (10, 8), None, "measured")
    comparison = compare(exact(bell()), unknown)
    assert (comparison.noise_floor, comparison.compared) == (0, 0)


def test_maps_of_different_shapes_meet_at_their_centres():
    small, large = bell((17, 13), centre=(8, 6)), bell((31, 40), centre=(9, 30))
    at = theory_at((8, 6), (17, 13)), theory_at((9, 30), (31, 40))
    comparison = compare(exact(small, at[0]), exact(large, at[1]))
    assert comparison.total_variation < 2e-3
    assert comparison.size("luo").value == pytest.approx(1, abs=0.01)
    odd = bell((31, 41), centre=(15, 20))
    assert compare(exact(small), exact(odd)).total_variation < 2e-3
    with pytest.raises(MapError, match="half a pixel"):
        compare(exact(small), exact(bell((30, 41))))


def test_a_comparison_prints_itself():
    comparison = compare(exact(bell()), measured(bell()))
    text = str(comparison)
    for word in (
        "luo",
        "sigma",
        "total variation",
        "noise",
        "standard errors",
        "measured / exact",
        "exact against measured",
    ):
        assert word in text
    assert comparison._repr_html_().startswith("<table")
    json.dumps(comparison.table().to_dict())
    with pytest.raises(MapError, match="luo, sigma"):
        comparison.size("area")


@pytest.mark.parametrize("bad", [np.zeros((21, 17)), np.ones(21)])
def test_what_cannot_be_compared_is_refused(bad):
    with pytest.raises(MapError):
        compare(exact(bell()), exact(bad))


NOISE = 0.01  # the standard error of every pixel of `known`, in units of the peak


def known(samples=400):
    """A field without batches, whose standard error is one number."""
    values = bell()
    return EffectiveField(
        values, np.full_like(values, NOISE), "square", samples, (10, 8), None, "measured", channels="frobenius"
    )


def test_the_noise_floor_is_the_mean_distance_of_noise():
    """Drawn: half the sum of |normal numbers| with the standard errors of the shares."""
    field = known()
    draws = np.random.default_rng(0).normal(size=(4000, *field.map.shape)) * NOISE / field.map.sum()
    distances = np.abs(draws).sum((1, 2)) / 2
    error = distances.std(ddof=1) / math.sqrt(len(distances))
    assert error < 0.002 * distances.mean()
    assert abs(compare(exact(bell()), field).noise_floor - distances.mean()) < 5 * error


@pytest.mark.parametrize(("samples", "chance"), [(2, 1 - 2 * math.atan(5) / math.pi), (3, 1 - 5 / math.sqrt(27))])
def test_chance_is_the_tail_of_students_t(samples, chance):
    """Both tails beyond 5 have elementary forms at one degree of freedom (Cauchy) and at two."""
    assert compare(exact(bell()), known(samples)).chance == pytest.approx(chance, rel=1e-9)


def scaled(field, factor):
    return dataclasses.replace(field, map=factor * field.map)


def asked(comparison):
    return {question.what: question.p for question in comparison.questions}


def test_chance_is_as_likely_as_it_says():
    for what in ("sigma", "effective_area", "total"):
        p = np.array([asked(pair)[what] for pair in twenty()])
        assert abs(p.mean() - 0.5) < 4 / math.sqrt(12 * len(p)), what  # uniform between 0 and 1
    assert all(pair.within_chance for pair in twenty())


WIDE = {"shape": (61, 49), "sigma": (7.5, 6.0)}


def test_a_width_many_errors_off_is_no_chance_though_no_pixel_sticks_out():
    found = measured(bell((61, 49), (7.5 * 1.006, 6.0 * 1.006)), samples=640)
    comparison = compare(exact(bell(**WIDE)), found)
    sigma = comparison.size("sigma")
    assert sigma.value - 1 > 5 * sigma.stderr
    assert comparison.beyond < 0.001
    assert comparison.within_chance is False
    assert asked(comparison)["pixels"] > 1e-3
    assert asked(comparison)["sigma"] < 1e-5
    assert "sigma (p =" in str(comparison)


def test_a_total_that_is_off_is_no_chance_unless_it_is_not_asked():
    found = measured(bell())
    comparison = compare(exact(1.3 * bell()), found)
    assert [what for what, p in asked(comparison).items() if p < 1e-4] == ["total"]
    assert comparison.within_chance is False
    shapes = compare(exact(1.3 * bell()), found, total=False)
    assert shapes.within_chance is True
    assert "total" not in asked(shapes)


def test_the_limit_is_shared_by_the_questions():
    """A total 3.85 errors off, by its interval, has p = 4e-4: too rare for one question in 1000, but not for one of four."""
    found = measured(bell())
    error = -math.log(compare(exact(found.map), found).total.interval[0]) / stats.t.ppf(0.975, len(found.batches) - 1)
    comparison = compare(scaled(exact(found.map), math.exp(-3.85 * error)), found)
    assert 1e-3 / 4 < asked(comparison)["total"] < 1e-3
    assert len(comparison.questions) == 4
    assert comparison.within_chance is True
    farther = compare(scaled(exact(found.map), math.exp(-4.2 * error)), found)
    assert farther.within_chance is False


def test_noise_makes_an_effective_area_smaller_and_the_verdict_knows():
    """The bias is 1/N of the squared relative noise of a pixel, here 0.64/16; the mean over 30 repeats shows it."""
    exactly = exact(bell()).size("effective_area")
    found = [measured(bell(), seed, samples=16, groups=16) for seed in range(30)]
    raw = np.array([field.size("effective_area") for field in found]) / exactly - 1
    mended = np.array([field.unbiased_size("effective_area")[0] for field in found]) / exactly - 1
    error = raw.std(ddof=1) / math.sqrt(len(raw))
    assert abs(raw.mean() + 0.64 / 16) < 5 * error < 0.64 / 16
    assert abs(mended.mean()) < 4 * error
    assert compare(exact(bell()), found[0]).within_chance is True


def test_samples_outside_of_every_batch_move_a_size_by_what_they_weigh():
    """The bias is that of the batches: a map of a few samples more must not have it multiplied by the number of batches."""
    found = measured(bell(), samples=400, groups=40)
    more = dataclasses.replace(found, map=found.map * 0.99 + 0.01 * bell(sigma=(4.0, 3.0)))
    moved = more.size("sigma") - found.size("sigma")
    assert moved > 0.005
    assert more.unbiased_size()[0] - found.unbiased_size()[0] == pytest.approx(moved, rel=1e-9)


def test_two_closed_forms_agree_up_to_rounding():
    rounded = exact(bell().astype(np.float32).astype(np.float64) * (1 + 1e-7))
    assert compare(exact(bell()), rounded).within_chance is True
    assert compare(exact(bell()), exact(bell(sigma=(2.501, 2.0)))).within_chance is False
    skewed = bell(centre=(10, 9))
    assert compare(exact(skewed), exact(skewed[:, ::-1])).within_chance is False  # equal sizes, another map


def test_rounding_is_no_difference_where_every_sample_is_equal():
    """A network of fixed positive weights: its batches differ by rounding alone, and their mean is rounded too."""
    truth = bell()
    batches = truth * (1 + 1e-9 * np.random.default_rng(0).normal(size=(8, *truth.shape)))
    mean = batches.mean(0) * (1 + 1e-6 * np.random.default_rng(1).normal(size=truth.shape))
    field = EffectiveField(mean, batches.std(0), "square", 8, (10, 8), None, "measured", batches=batches)
    assert compare(exact(truth), field).within_chance is True


def test_statistics_and_channels_must_be_the_same():
    with pytest.raises(ComparisonError, match=r"'square', the other 'rms'.*read both with statistic='square'"):
        compare(exact(bell()), measured(bell(), statistic="rms"))
    one, other = (dataclasses.replace(exact(bell()), channels=channels) for channels in ("sum", "random-signs"))
    with pytest.raises(
        ComparisonError, match=r"channels='sum', the other 'random-signs'.*Read both with channels='sum'"
    ):
        compare(one, other)
    with pytest.raises(ComparisonError, match="channels=2"):
        compare(dataclasses.replace(one, channels=2), dataclasses.replace(one, channels=3))
    assert compare(other, dataclasses.replace(other, channels="frobenius")).within_chance
    signed = [dataclasses.replace(exact(bell(), statistic="mean"), channels=c) for c in ("random-signs", "frobenius")]
    with pytest.raises(ComparisonError, match="random-signs"):
        compare(*signed)  # a random sign makes the mean of a gradient zero
    assert "does not say which output channels" in str(compare(one, exact(bell())))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_mean_over_weights_and_one_network_are_not_called_different(swapped):
    theory = dataclasses.replace(exact(bell()), averages="weights")
    network = dataclasses.replace(measured(bell(sigma=(4.0, 2.0))), averages="inputs")
    pair = (network, theory) if swapped else (theory, network)
    comparison = compare(*pair)
    assert comparison.within_chance is None
    assert "exact is a mean over weights, measured is one network" in str(comparison)
    assert "not asked" in str(comparison)
    drawn = dataclasses.replace(network, averages="inputs and weights")
    assert compare(theory, drawn).within_chance is False


def test_labels_name_the_columns():
    comparison = compare(exact(bell()), measured(bell()), labels=("before", "after"))
    assert comparison.table().columns[1::2] == ("before", "after", "after / before", "95 % from")
    assert str(comparison).startswith("before against after\n")
    assert repr(comparison).startswith("Comparison(before against after, total variation 0.0")
    assert len(set(comparison.table().columns)) == len(comparison.table().columns)  # or rows as dicts would lose some
    assert compare(exact(bell()), exact(bell())).labels == ("exact a", "exact b")
    for labels in (("one", "one"), ("one",), ("one", "two", "three")):
        with pytest.raises(ComparisonError, match="two different words"):
            compare(exact(bell()), exact(bell()), labels=labels)


def test_a_comparison_is_saved_pickled_and_copied(tmp_path):
    found = measured(bell(), theoretical=theory_at((10, 8), (21, 17)))
    comparison = compare(exact(bell()), found, labels=("theory", "mean of 400"))
    again = Comparison.load(comparison.save(tmp_path / "comparison.npz"))
    for copied in (again, pickle.loads(pickle.dumps(comparison)), copy.deepcopy(again)):
        assert str(copied) == str(comparison)
        assert copied.questions == comparison.questions
        assert copied.sizes == comparison.sizes
        np.testing.assert_array_equal(copied.z, comparison.z)
        np.testing.assert_array_equal(copied.b.batches, found.batches)
        np.testing.assert_array_equal(copied.b.theoretical.mask(), found.theoretical.mask())
    rows = comparison.save(tmp_path / "comparison.csv").read_text().splitlines()
    assert rows[0] == "measure,theory,± theory,mean of 400,± mean of 400,mean of 400 / theory,± ratio,95 % from,95 % to"
    assert float(rows[2].split(",")[1]) == comparison.size("sigma").a
    content = json.loads(comparison.save(tmp_path / "comparison.json").read_text())
    assert content["within_chance"] is True
    assert content["total"]["b"] == comparison.total.b


def test_exact_slopes_of_the_uniform_kernel():
    sizes = (8.30662, 11.7047, 16.1555, 22.7376)
    fit = scaling_law([5, 10, 20, 40], sizes)
    assert fit.slope == pytest.approx(0.482, abs=5e-4)
    ratios = [size / (2 * n + 1) for n, size in zip((5, 10, 20, 40), sizes, strict=True)]
    shrink = scaling_law([5, 10, 20, 40], ratios)
    assert shrink.slope == pytest.approx(-0.478, abs=5e-4)
    law = scaling_law([5, 10, 20, 40], sizes, law=lambda n: 3.0 * n**0.5)
    assert law.exact == pytest.approx(0.5, abs=1e-12)
    assert "0.500" in str(law)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("confidence", [0.68, 0.95])
def test_intervals_cover_the_slope(weighted, confidence):
    random = np.random.default_rng(3)
    n = np.array([4, 6, 9, 17, 30])
    relative = np.array([0.01, 0.02, 0.03, 0.02, 0.05]) if weighted else np.full(5, 0.02)
    inside = 0
    for _ in range(1000):
        y = 2.0 * n**0.5 * np.exp(relative * random.normal(size=5))
        fit = scaling_law(n, y, y * relative if weighted else None, confidence=confidence)
        inside += fit.interval[0] < 0.5 < fit.interval[1]
    assert abs(inside - 1000 * confidence) < 4 * math.sqrt(1000 * confidence * (1 - confidence))


def test_two_points_have_a_slope_but_no_error():
    fit = scaling_law([2, 8], [1.0, 2.0])
    assert fit.slope == pytest.approx(0.5)
    assert fit.interval == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("n", "y", "stderr", "says"),
    [
        ([5], [1.0], None, "two or more"),
        ([5, 5], [1.0, 2.0], None, "two or more"),
        ([5, 6], [1.0], None, "two or more"),
        ([5, 6], [1.0, 0.0], None, "positive"),
        ([5, 6], [1.0, 2.0], [0.1, 0.0], "positive"),
        ([5, 6], [1.0, math.nan], None, "positive"),
    ],
)
def test_slopes_that_do_not_exist(n, y, stderr, says):
    with pytest.raises(MapError, match=says):
        scaling_law(n, y, stderr)
