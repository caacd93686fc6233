"""Tails of known shape, and the rules that follow from them."""

import math

import numpy as np
import pytest

from erfjax.uncertainty import pareto


def quantiles(count):
    return (np.arange(count) + 0.5) / count


@pytest.mark.parametrize("k", [-0.4, 0.001, 0.3, 0.7, 1.3])
@pytest.mark.parametrize("count", [200, 3000])
def test_the_fit_finds_shape_and_scale(k, count):
    found, scale = pareto.fit(2.5 * (quantiles(count) ** -k - 1) / k)
    assert abs(found - k) < 8 * (1 + abs(k)) / count**0.5 / 3
    assert abs(scale / 2.5 - 1) < 8 / count**0.5


def test_the_fit_is_unbiased_on_samples():
    rng, k = np.random.default_rng(0), 0.6
    found = np.array([pareto.fit((rng.random(400) ** -k - 1) / k)[0] for _ in range(100)])
    error = (1 + k) / 400**0.5  # of a maximum-likelihood estimate
    assert abs(found.mean() - k) < 0.03
    assert 0.8 * error < found.std() < 1.2 * error


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (lambda u: u**-0.5, 0.4, 0.6),
        (lambda u: u**-1.1, 1.0, 1.2),
        (lambda u: -np.log(u), -0.05, 0.15),  # exponential: k = 0
        (lambda u: 1 - u, -1.0, -0.5),  # bounded: k = -1, drawn towards 1/2
    ],
)
def test_shapes_of_known_tails(values, low, high):
    sample = np.random.default_rng(1).permutation(values(quantiles(2000)))
    assert low < pareto.shape(sample, 2000) < high
    assert pareto.shape(np.sort(sample)[-400:], 2000) == pareto.shape(sample, 2000)  # the largest are enough


@pytest.mark.parametrize("values", [np.ones(100), np.zeros(100), np.arange(10.0), np.r_[np.ones(99), 5.0]])
def test_where_there_is_no_tail_there_is_no_shape(values):
    assert math.isnan(pareto.shape(values, len(values)))


def test_what_a_shape_allows():
    assert [pareto.tail_length(n) for n in (10, 100, 225, 10**6)] == [2, 20, 45, 3000]
    assert pareto.largest_shape(10**9) == 0.7
    assert pareto.largest_shape(100) == pytest.approx(0.5)
    assert [pareto.samples_for(k) for k in (-3.0, 0.5, 0.9999, 1.0)] == [10.0, 100.0, math.inf, math.inf]
    for count in (100, 1000, 2000):  # the two rules are one: at the limit, the samples are just enough
        assert pareto.samples_for(pareto.largest_shape(count)) == pytest.approx(count)


def test_arviz_agrees():
    stats = pytest.importorskip("arviz_stats.base")
    values = np.random.default_rng(3).pareto(1.6, 1600)
    _, k = stats.array_stats.psislw(-np.log(values), r_eff=1.0)  # it takes log likelihoods, weights are their inverse
    assert float(k) == pytest.approx(pareto.shape(values, 1600), abs=1e-6)
