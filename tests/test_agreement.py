"""Comparisons call equal fields equal and different ones different; fitted laws have the intervals that they claim."""

import json
import math

import numpy as np
import pytest

from erfjax.agreement import compare, scaling_law
from erfjax.errors import MapError
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
    """Samples with independent noise per pixel and a gain that all pixels of a sample share."""
    random = np.random.default_rng(seed)
    gains = np.exp(0.5 * random.normal(size=(samples, *(1,) * truth.ndim)))
    draws = truth * gains * random.chisquare(4, size=(samples, *truth.shape)) / 4
    batches = draws.reshape(groups, samples // groups, *truth.shape).mean(1)
    mean, stderr = draws.mean(0), draws.std(0, ddof=1) / math.sqrt(samples)
    if statistic == "rms":
        mean, stderr = np.sqrt(mean), stderr / (2 * np.sqrt(mean))
    unit = tuple(n // 2 for n in truth.shape)
    return EffectiveField(mean, stderr, statistic, samples, unit, theoretical, "measured", batches=batches)


def test_equal_fields_agree_within_noise():
    truth = bell()
    comparisons = [compare(exact(truth), measured(truth, seed)) for seed in range(20)]
    distances = np.array([c.total_variation for c in comparisons])
    floors = np.array([c.noise_floor for c in comparisons])
    assert abs(distances.mean() / floors.mean() - 1) < 0.1
    assert all(c.within_chance for c in comparisons)
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
    for word in ("luo", "sigma", "total variation", "noise", "standard errors", "b / a", "exact against measured"):
        assert word in text
    assert comparison._repr_html_().startswith("<table")
    json.dumps(comparison.table().to_dict())
    with pytest.raises(MapError, match="luo, sigma"):
        comparison.size("area")
    mixed = compare(exact(bell()), measured(bell(), statistic="rms"))
    assert "statistics square, rms" in str(mixed)


@pytest.mark.parametrize("bad", [np.zeros((21, 17)), np.ones(21)])
def test_what_cannot_be_compared_is_refused(bad):
    with pytest.raises(MapError):
        compare(exact(bell()), exact(bad))


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
