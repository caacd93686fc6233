"""Measures of a map: against their closed forms on Gaussians, under shifts and scalings, and on maps that are none."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erfjax import measures
from erfjax.errors import MapError

MEASURES = {
    "luo_size": measures.luo_size,
    "area_ratio": lambda m: measures.area_ratio(m, 0.5),
    "sigma": measures.sigma,
    "centroid": measures.centroid,
    "energy_radius": lambda m: measures.energy_radius(m, 0.9),
    "fwhm": measures.fwhm,
    "effective_area": measures.effective_area,
    "entropy_area": measures.entropy_area,
    "gaussian_fit": measures.gaussian_fit,
    "radial_profile": measures.radial_profile,
    "total_variation": lambda m: measures.total_variation(m, np.ones(np.shape(m))),
}


def gaussian(shape, centre, sigma):
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.exp(-0.5 * sum(((t - c) / s) ** 2 for t, c, s in zip(grid, centre, sigma, strict=True)))


SIGMA = 12.0
DISC = gaussian((181, 165), (90, 82), (SIGMA, SIGMA))
"""A round Gaussian, five standard deviations and more from every border."""


def uniform_power(n):
    """The map of n uniform 3 x 3 convolutions."""
    line = np.ones(1)
    for _ in range(n):
        line = np.convolve(line, np.ones(3))
    return np.outer(line, line)


@pytest.mark.parametrize(("n", "size"), [(5, 8.31), (10, 11.70), (20, 16.16), (40, 22.74)])
def test_luo_sizes_of_uniform_convolutions(n, size):
    assert measures.luo_size(uniform_power(n)) == pytest.approx(size, abs=0.005)


@pytest.mark.parametrize(
    ("measure", "per_sigma"),
    [
        (measures.luo_size, math.sqrt(2 * math.pi * math.log(1 / 0.0455))),
        (lambda m: measures.luo_size(m, threshold=0.5), math.sqrt(2 * math.pi * math.log(2))),
        (lambda m: measures.fwhm(m)[0], math.sqrt(8 * math.log(2))),
        (lambda m: measures.sigma(m)[1], 1.0),
        (lambda m: math.sqrt(measures.effective_area(m)), math.sqrt(4 * math.pi)),
        (lambda m: math.sqrt(measures.entropy_area(m)), math.sqrt(2 * math.pi * math.e)),
        (lambda m: measures.energy_radius(m, 0.5), math.sqrt(2 * math.log(2))),
        (lambda m: measures.energy_radius(m, 0.9), math.sqrt(2 * math.log(10))),
    ],
    ids=["luo", "luo at half", "fwhm", "sigma", "effective", "entropy", "radius 50 %", "radius 90 %"],
)
def test_a_gaussian_has_its_textbook_sizes(measure, per_sigma):
    assert measure(DISC) / SIGMA == pytest.approx(per_sigma, rel=6e-3)


def test_the_luo_disc_holds_all_but_the_threshold_of_a_gaussian():
    inside = DISC / DISC.max() > 0.0455
    assert DISC[inside].sum() / DISC.sum() == pytest.approx(1 - 0.0455, abs=1e-3)


def test_area_ratio_of_a_gaussian():
    half = next(x for x in np.arange(0, 3, 1e-4) if math.erf(x / math.sqrt(2)) ** 2 >= 0.5)  # in σ
    side = math.sqrt(measures.area_ratio(DISC, 0.5) * DISC.size)
    assert abs(side - 2 * half * SIGMA) < 2  # an odd side


def test_area_ratio_of_published_squares():
    """Sides that the RepLKNet script finds on a linear Gaussian of σ = 60 in 1024 pixels."""
    line = np.exp(-0.5 * ((np.arange(1024) - 512) / 60) ** 2)
    sides = [math.sqrt(measures.area_ratio(np.outer(line, line), t)) * 1024 for t in (0.2, 0.3, 0.5, 0.99)]
    assert sides == pytest.approx([73, 91, 127, 337])


def test_area_ratio_cuts_the_square_at_the_border():
    ones = np.ones((4, 9))
    assert measures.area_ratio(ones, 1.0) == 1.0
    assert measures.area_ratio(ones, 1e-9) == 1 / 36
    assert measures.area_ratio(ones, 0.1, centre=(0, 0)) == 4 / 36


@pytest.mark.parametrize("shape", [(97,), (61, 85), (33, 41, 37)], ids=["1-D", "2-D", "3-D"])
def test_measures_in_every_dimension(shape):
    d = len(shape)
    centre, spread = tuple(n / 2 - 1.3 for n in shape), tuple(3.0 + a / 2 for a in range(d))
    m = gaussian(shape, centre, spread)
    volume = math.prod(spread)
    assert measures.centroid(m) == pytest.approx(centre, abs=1e-3)
    assert measures.sigma(m) == pytest.approx(spread, rel=1e-3)
    assert measures.fwhm(m) == pytest.approx([2.3548 * s for s in spread], rel=0.02)
    assert measures.effective_area(m) == pytest.approx((4 * math.pi) ** (d / 2) * volume, rel=1e-3)
    assert measures.entropy_area(m) == pytest.approx((2 * math.pi * math.e) ** (d / 2) * volume, rel=2e-3)
    ball = {1: 2.0, 2: math.pi, 3: 4 * math.pi / 3}[d] * (2 * math.log(1 / 0.0455)) ** (d / 2) * volume
    assert measures.luo_size(m, reference="peak") ** d == pytest.approx(ball, rel=0.06)
    fit = measures.gaussian_fit(m)
    assert (fit.amplitude, fit.offset, fit.r2) == pytest.approx((1, 0, 1))
    assert (fit.centre, fit.sigma) == (pytest.approx(centre), pytest.approx(spread))
    np.testing.assert_allclose(fit(shape), m, atol=1e-6)


def test_gaussian_fit_with_a_background_and_noise():
    rng = np.random.default_rng(0)
    clean = 5 * gaussian((51, 71), (20.25, 40.5), (4.0, 9.0)) + 2
    fit = measures.gaussian_fit(clean + 0.01 * rng.standard_normal(clean.shape), offset=True)
    assert fit.amplitude == pytest.approx(5, abs=0.01)
    assert fit.offset == pytest.approx(2, abs=0.002)
    assert fit.sigma == pytest.approx((4, 9), abs=0.02)
    assert fit.centre == pytest.approx((20.25, 40.5), abs=0.02)
    assert 0.999 < fit.r2 < 1
    assert measures.gaussian_fit(clean).r2 < fit.r2


def test_gaussian_fit_of_a_gaussian_narrower_than_a_pixel():
    fit = measures.gaussian_fit(gaussian((21, 31), (10, 15), (0.3, 0.4)))
    assert fit.sigma == pytest.approx((0.3, 0.4), rel=1e-4)


def test_gaussian_fit_survives_maps_that_are_no_gaussian():
    rng = np.random.default_rng(1)
    for m in (rng.random((17, 23)), np.eye(9), uniform_power(2), 1 - gaussian((21, 33), (10, 16), (3, 3)) * 0.99):
        fit = measures.gaussian_fit(m)
        assert all(map(math.isfinite, (*fit.centre, *fit.sigma, fit.amplitude, fit.r2)))


def test_radial_profile():
    profile = measures.radial_profile(DISC, centre=(90, 82))
    near = profile.radius < 3 * SIGMA
    expected = np.exp(-0.5 * (profile.radius / SIGMA) ** 2)
    np.testing.assert_allclose(profile.mean[near], expected[near], atol=8e-3)
    assert profile.mass[-1] == pytest.approx(1)
    assert profile.mass[round(1.177 * SIGMA)] == pytest.approx(0.5, abs=0.03)
    assert measures.radial_profile(DISC).centre == pytest.approx((90, 82))
    outside = measures.radial_profile(np.ones(2), centre=(5.0,))
    assert np.isnan(outside.mean[0])
    assert outside.mean[-2:] == pytest.approx([1, 1])


def test_total_variation():
    a, b = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 2.0]])
    assert measures.total_variation(a, b) == pytest.approx(0.5)
    assert measures.total_variation(a, 7 * a) == 0
    assert measures.total_variation(np.eye(2)[0], np.eye(2)[1]) == 1
    with pytest.raises(MapError, match="crop one"):
        measures.total_variation(a, np.ones(3))


maps = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((7, 11)) ** 4)


@settings(max_examples=30, deadline=None)
@given(maps, st.sampled_from([1e-300, 1e-12, 1e6, 1e300]))
def test_no_size_depends_on_the_scale(m, scale):
    for name in (
        "luo_size",
        "area_ratio",
        "sigma",
        "centroid",
        "energy_radius",
        "effective_area",
        "entropy_area",
        "fwhm",
    ):
        try:
            expected = MEASURES[name](m)
        except MapError:
            assert name == "fwhm"
            continue
        assert MEASURES[name](m * scale) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(maps, st.integers(0, 5), st.integers(0, 8))
def test_sizes_move_with_the_map(m, down, right):
    shifted = np.pad(m, ((down, 5 - down), (right, 8 - right)))
    for name in ("sigma", "effective_area", "entropy_area", "energy_radius"):
        assert MEASURES[name](shifted) == pytest.approx(MEASURES[name](m), abs=1e-9)
    assert measures.centroid(shifted) == pytest.approx(np.add(measures.centroid(m), (down, right)))
    at = tuple(np.add((3, 5), (down, right)).tolist())
    assert measures.luo_size(shifted, reference=at) == measures.luo_size(m, reference=(3, 5)) == measures.luo_size(m)


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_constant_map(height, width):
    m = np.full((height, width), 0.1)
    n = height * width
    assert measures.luo_size(m) == pytest.approx(math.sqrt(n))
    assert measures.effective_area(m) == pytest.approx(n)
    assert measures.entropy_area(m) == pytest.approx(n)
    assert measures.sigma(m) == pytest.approx([math.sqrt((k**2 - 1) / 12) for k in (height, width)])
    assert measures.area_ratio(m, 1) == 1
    for name in ("fwhm", "gaussian_fit"):
        with pytest.raises(MapError):
            MEASURES[name](m)


@pytest.mark.parametrize("shape", [(1,), (5, 8), (3, 4, 2)])
def test_a_single_bright_pixel(shape):
    m = np.zeros(shape)
    m[tuple(n // 2 for n in shape)] = 3.0
    assert measures.luo_size(m) == measures.effective_area(m) == measures.entropy_area(m) == 1
    assert measures.sigma(m) == (0,) * len(shape)
    assert measures.energy_radius(m, 1) == 0
    assert measures.area_ratio(m, 1) == 1 / m.size
    with pytest.raises(MapError, match="no Gaussian is determined"):
        measures.gaussian_fit(m)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 4)), "zero"),
        (np.array([[1.0, np.nan]]), "must be finite, but 1 of 2"),
        (np.array([np.inf, 1.0, 2.0]), "must be finite"),
        (np.array([1.0, -1.0, 2.0]), r"must not be negative.*np\.abs"),
        (np.zeros((0, 4)), r"got shape \(0, 4\)"),
        (np.ones(()), r"at least one axis"),
        (np.ones((2, 2)) * 1j, "must be real"),
        (np.array(["dark", "bright"]), "known numbers"),
    ],
    ids=["zero", "nan", "inf", "negative", "empty", "scalar", "complex", "words"],
)
def test_what_is_no_map_is_refused_with_a_reason(name, bad, message):
    with pytest.raises(MapError, match=message):
        MEASURES[name](bad)


def test_bad_arguments():
    m = np.ones((3, 5))
    for fraction in (0, -1, 1.01, math.nan):
        with pytest.raises(MapError, match="`fraction`"):
            measures.energy_radius(m, fraction)
        with pytest.raises(MapError, match="`fraction`"):
            measures.area_ratio(m, fraction)
    for reference in ((3, 0), (1,), (0, -1), (0.5, 1.0), "middle", np.zeros((2, 2))):
        with pytest.raises(MapError, match="`reference` must be the indices"):
            measures.luo_size(m, reference=reference)
    for threshold in (-0.1, 1.0, math.nan):
        with pytest.raises(MapError, match="`threshold`"):
            measures.luo_size(m, threshold=threshold)
    with pytest.raises(MapError, match="`centre`"):
        measures.radial_profile(m, centre=(1.0, math.inf))
    assert measures.luo_size(m, reference=np.array([1, 2])) == measures.luo_size(m)
    assert measures.luo_size(m, reference=np.unravel_index(7, m.shape)) == measures.luo_size(m)
    assert measures.energy_radius(m, 0.1, centre=np.array([1, 2])) == 1
    dark = np.array([1.0, 0.0, 2.0])
    with pytest.raises(MapError, match="that pixel is zero"):
        measures.luo_size(dark)
    assert measures.luo_size(dark, reference="peak") == 2


def test_jax_arrays_of_any_dtype(precision):
    m = jnp.asarray(DISC, dtype=precision)
    assert measures.luo_size(m) == measures.luo_size(DISC)
    assert measures.sigma(m) == pytest.approx(measures.sigma(DISC), rel=1e-5)
    assert measures.luo_size(jnp.asarray(DISC, jnp.bfloat16)) == pytest.approx(measures.luo_size(DISC), rel=0.01)
    assert measures.luo_size(np.ones((2, 8), bool)) == measures.luo_size(np.ones((2, 8), int)) == 4
