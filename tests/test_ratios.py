"""Ratios and slopes have the intervals of their fields; a field, a comparison and a target say what they rest on."""

import dataclasses
import math

import numpy as np
import pytest

from erfjax.agreement import compare, scaling_law
from erfjax.errors import ComparisonError, MapError
from erfjax.readings.measured import _precise
from erfjax.uncertainty import Interval
from tests.test_agreement import bell, exact, measured
from tests.uncertainty.test_intervals import field_of


def test_ratios_have_the_intervals_of_the_fields_paired_where_samples_are():
    a = measured(bell(), seed=1)
    twice = dataclasses.replace(a, map=2 * a.map, batches=2 * a.batches)
    comparison = compare(a, twice)
    assert comparison.total.interval == pytest.approx((2, 2))  # what both have in common cancels
    assert comparison.total.stderr > 0.02
    found = compare(exact(bell()), a)
    assert found.total.interval == tuple(a.interval("total", relative_to=exact(bell())))
    assert tuple(found.interval("luo", 0.68)) == tuple(a.interval("luo", 0.68, relative_to=exact(bell())))
    assert found.size("luo").interval is None
    low, high = found.size("sigma").interval
    row = next(row for row in found.table().to_dict() if row["measure"] == "sigma")
    assert (row["95 % from"], row["95 % to"]) == (low, high)


def test_what_is_no_field_is_refused():
    with pytest.raises(ComparisonError, match=r"`b` must be an EffectiveField.* ndarray"):
        compare(exact(bell()), bell())


def test_the_comparison_says_why_two_means_over_weights_differ():
    theory = dataclasses.replace(exact(bell()), averages="weights", metadata={"weights": "given"})
    drawn = dataclasses.replace(
        measured(bell()), averages="inputs and weights", notes=("do not trust the error bars: x",)
    )
    notes = compare(theory, drawn).notes
    assert any('weights="exchangeable"' in note for note in notes)
    assert "measured: do not trust the error bars: x" in notes


def test_a_slope_from_intervals_has_their_two_sides():
    bars = [Interval(2.0, 1.9, 2.5, 0.95, 30, 1), Interval(4.0, 3.8, 5.0, 0.95, 30, 1)]
    fit = scaling_law([1, 2], bars)
    below = math.hypot(math.log(4 / 3.8), math.log(2.5 / 2)) / math.log(2)
    above = math.hypot(math.log(5 / 4), math.log(2 / 1.9)) / math.log(2)
    assert fit.slope == pytest.approx(1)
    assert fit.interval == pytest.approx((1 - below, 1 + above))
    with pytest.raises(MapError, match="level"):
        scaling_law([1, 2], bars, confidence=0.9)
    with pytest.raises(MapError, match="above zero"):
        scaling_law([1, 2], [bars[0], dataclasses.replace(bars[1], low=0.0)])


def test_the_printed_field_says_whether_to_believe_it():
    rng = np.random.default_rng(0)
    light, heavy = (field_of(np.exp(s * rng.normal(size=(40, 1))) * np.ones(9)) for s in (0.3, 2.5))
    assert "can be trusted" in str(light)
    assert "not to be trusted, about" in str(heavy)
    assert repr(heavy).count("not to be trusted") == 1
    assert "not to be trusted" in heavy._repr_html_()
    with pytest.raises(MapError, match=r"fraction=0.9"):
        light.size("energy_radius")


def test_an_early_lucky_stop_is_not_precise():
    rng = np.random.default_rng(1)
    values = np.exp(1.4 * rng.normal(size=(4000, 1)) - 1.4**2 / 2) * np.ones(9)
    plain = honest = 0
    for start in range(0, 4000, 40):
        field = field_of(values[start : start + 40])
        totals = field.batches.sum(1)
        plain += totals.std(ddof=1) / math.sqrt(40) <= 0.2 * totals.mean()
        honest += _precise(field, 0.2)
    assert plain > 15  # of 100, although the relative standard error of 40 samples is 0.39
    assert honest <= plain / 4
