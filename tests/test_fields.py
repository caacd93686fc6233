"""The two results: what they derive, print and advise."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from erfjax import jackknife, measures
from erfjax.errors import GeometryError, MapError
from erfjax.fields import LayerRow, TheoreticalField
from erfjax.geometry import Window, forward
from tests.results import effective, gaussian, theoretical_field


def chain_field(windows, names, shape=(32, 32)):
    """The theoretical field of a chain of square windows, as a reading would hand it over."""

    def row(n):
        g = forward(windows[:n])
        pair = lambda v: (v, v)  # noqa: E731
        return LayerRow(
            names[n - 1],
            "conv",
            (1, *shape, 8),
            pair(g.size),
            pair(g.stride),
            pair(g.padding),
            pair(g.start),
            pair(g.size),
        )

    g = forward(windows)
    start, stop = (g.start,) * 2, (g.start + g.size,) * 2
    rows = tuple(row(n) for n in range(1, len(windows) + 1))
    return TheoreticalField(
        (0, 0),
        (1, 1),
        shape,
        start,
        stop,
        (g.stride,) * 2,
        (g.padding,) * 2,
        ((0, 0), shape),
        True,
        layers_=lambda: rows,
    )


@pytest.fixture
def field():
    return theoretical_field()


def test_theoretical_sizes_and_centre(field):
    field, _ = field
    assert field.size == (11, math.inf)
    assert field.centre == (2.0, 19.5)
    assert field.phases().minimum == (4, 3)
    assert field.phases().maximum == (5, 3)


def test_lazy_parts_are_evaluated_once_and_masks_are_copies(field):
    field, calls = field
    assert not calls
    assert field.layers is field.layers
    assert calls == ["layers"]
    mask = field.mask()
    mask[:] = False
    assert field.mask().any()


def test_theoretical_prints(field):
    field, _ = field
    text, html = str(field), field._repr_html_()
    for part in (
        "11 × ∞",
        "(3, 4)",
        "[-3, 8) × [-∞, ∞)",
        "[0, 8) × [0, 40)",
        "[0, 2)",
        "one note",
        "period 2 × 1",
        "conv <1>",
    ):
        assert part in text
    assert "conv &lt;1&gt;" in html
    assert html.count("<table") == 3
    assert "phase" in str(field.phases())
    assert "<img" in field.phases()._repr_html_()
    for panel, axis in zip(field.phases().plot().axes, (0, 1), strict=True):
        rows = [row for row in field.phases().rows if row.axis == axis]
        assert [(bar.get_x(), bar.get_width()) for bar in panel.patches] == [(row.start, row.size) for row in rows]


VGG16 = [w for n in (2, 2, 3, 3, 3) for w in [Window(3, padding_low=1)] * n + [Window(2, 2)]]
NAMES = [f"{kind}{block}_{i}" for block, n in enumerate((2, 2, 3, 3, 3), 1) for kind, i in
         [*(("conv", i) for i in range(1, n + 1)), ("pool", 1)]]  # fmt: skip


def test_advice_for_vgg16_on_small_images():
    """Fields of the inputs of VGG16's layers: ... 24, 32, 40 (pool3), 44, 60, 76, 92, 100, 132, 164, 196."""
    advice = chain_field(VGG16, NAMES).advice(32)
    assert advice.border_layer == "pool3_1"
    assert advice.unproductive == tuple(NAMES[NAMES.index("pool3_1") :])
    assert advice.feasible == ((196, 212), (196, 212))
    assert advice.ratio == (212 / 32, 212 / 32)
    assert "unproductive: conv5_3" in str(advice)
    assert "track" not in str(advice)  # what trackers want is said where the task is to track
    assert "<table" in advice._repr_html_()


def test_advice_for_large_and_oblong_images():
    field = chain_field(VGG16, NAMES)
    assert field.advice(196).unproductive == ()
    assert field.advice(196).border_layer is None
    assert field.advice((32, 300)).unproductive == ()
    assert field.advice(300).ratio == (212 / 300, 212 / 300)
    assert field.advice().image_size == (32, 32)


def test_advice_ignores_what_does_not_widen_and_what_is_global():
    rows = tuple(
        LayerRow(name, "", (1,), (size,), (1,), (0,), (0,), (size,))
        for name, size in (("conv", 9), ("relu", 9), ("wide", 12), ("norm", 12), ("mean", math.inf))
    )
    field = TheoreticalField(
        (0,), (1,), (8,), (-math.inf,), (math.inf,), (1,), (0,), ((0,), (8,)), True, layers_=lambda: rows
    )
    advice = field.advice()
    assert advice.unproductive == ("wide",)
    assert advice.feasible == (None,)
    assert "∞" in str(advice)


def test_advice_reads_the_input_of_a_branch_where_it_is_given():
    main = LayerRow("main", "", (1,), (50,), (1,), (0,), (0,), (50,))
    side = LayerRow("side", "", (1,), (3,), (1,), (0,), (0,), (3,), input_size=(1,))
    field = TheoreticalField(
        (0,), (1,), (8,), (0,), (50,), (1,), (0,), ((0,), (8,)), True, layers_=lambda: (main, side)
    )
    assert field.advice().unproductive == ()


@pytest.mark.parametrize("bad", [0, -3, (3,), (3, 4, 5), (0, 5)])
def test_advice_wants_one_size_per_axis(bad):
    with pytest.raises(GeometryError, match="`image_size`"):
        chain_field(VGG16, NAMES).advice(bad)


def test_effective_sizes_are_measures_of_the_magnitude():
    g = gaussian((61, 83), (30, 41), (4, 6))
    signed = effective(g * np.where(np.arange(83) % 2, 1.0, -1.0), statistic="mean")
    assert signed.sigma() == pytest.approx((4, 6), rel=1e-3)
    assert signed.size() == measures.luo_size(g)
    assert signed.size("sigma") == pytest.approx(math.sqrt((16 + 36) / 2), rel=1e-3)
    assert signed.size("fwhm") == pytest.approx(2.355 * math.sqrt((16 + 36) / 2), rel=0.01)
    assert signed.size("energy_radius", fraction=0.5) == measures.energy_radius(g, 0.5)
    assert signed.size("luo", threshold=0.5) == measures.luo_size(g, threshold=0.5)
    assert signed.size("effective_area") == pytest.approx(4 * math.pi * 24, rel=1e-3)
    assert signed.size("entropy_area") == pytest.approx(2 * math.pi * math.e * 24, rel=1e-3)
    assert effective(gaussian((1, 83), (0, 41), (1, 6))).size("sigma") == pytest.approx(6, rel=1e-3)


def test_sizes_refer_to_the_centre_of_the_theoretical_field():
    g = gaussian((40, 60), (9, 50), (2, 2))
    box = TheoreticalField((0, 0), (4, 4), (40, 60), (0, 41), (19, 60), (1, 1), (0, 0), ((0, 41), (19, 60)), True)
    field = effective(g, theoretical=box)
    assert box.centre == (9, 50)
    assert field.size() == measures.luo_size(g, reference=(9, 50)) == measures.luo_size(g, reference="peak")
    assert field.size(reference="centre") == measures.luo_size(g)
    assert field.size("area_ratio", fraction=0.5) == measures.area_ratio(g, 0.5, centre=(9, 50))
    even = dataclasses.replace(box, start=(-9, 40), stop=(1, 60))
    assert effective(g, theoretical=even).size() == measures.luo_size(g, reference=(0, 50))


def test_normalised():
    assert effective(np.array([1.0, 3.0])).normalised().tolist() == [0.25, 0.75]
    with pytest.raises(MapError, match="sums to 0"):
        effective(np.zeros((3, 2))).normalised()


def test_an_unknown_measure_is_refused():
    with pytest.raises(MapError, match=r"`measure` must be one of area_ratio, .*sigma, but got 'area'"):
        effective(np.ones((2, 3))).size("area")


@pytest.mark.parametrize("statistic", ["square", "rms"])
def test_the_jackknife_error_is_the_spread_over_repeats(statistic):
    """σ² of a Poisson map has sampling variance (μ₄ - σ⁴)/N = 2σ⁴/N for a Gaussian; √ doubles σ² of the map."""
    rng = np.random.default_rng(7)
    line = gaussian((61,), (30,), (5,))
    errors, sizes = [], []
    for _ in range(60):
        batches = rng.poisson(40 * line, size=(16, 61)).astype(np.float64)
        mean = batches.mean(axis=0)
        values = np.sqrt(mean) if statistic == "rms" else mean
        field = effective(values, statistic=statistic, samples=16, coverage="measured", batches=batches, unit=(1,))
        sizes.append(field.size("sigma"))
        errors.append(field.size_stderr("sigma"))
    spread = np.std(sizes, ddof=1)
    assert abs(np.mean(errors) - spread) < 5 * spread / math.sqrt(2 * 59)


def test_sizes_that_count_pixels_have_errors_of_the_right_order():
    """Leaving out one batch at a time most often moves no pixel across the threshold, and a lone one weighs too much."""
    rng = np.random.default_rng(3)
    line = gaussian((61,), (30,), (5,))
    errors, sizes = [], []
    for _ in range(60):
        batches = rng.poisson(20 * line, size=(16, 61)).astype(np.float64)
        field = effective(batches.mean(0), samples=16, coverage="measured", batches=batches, unit=(1,))
        sizes.append(field.size())
        errors.append(field.size_stderr())
    assert 0.5 < np.mean(errors) / np.std(sizes, ddof=1) < 2


@pytest.mark.parametrize("count", [2, 3, 5, 16])
def test_the_error_of_a_total_is_that_of_a_mean(count):
    """A total is linear in the batches: halves of any number, odd ones too, must give the standard error of a mean."""
    values = np.random.default_rng(count).exponential(size=count)
    errors = [jackknife.delete_half(values[:, None], np.sum)]
    assert jackknife.stderr(jackknife.without_each(values)) == pytest.approx(values.std(ddof=1) / math.sqrt(count))
    exactly = values.std(ddof=1) / math.sqrt(count)
    splits = [np.mean(pick) for pick in itertools.combinations(values, count // 2)]
    spread = math.sqrt(count // 2 / (count - count // 2)) * np.std(splits)
    assert spread == pytest.approx(exactly)  # over all halves, in place of 64 of them
    assert errors[0] == pytest.approx(exactly, rel=5 / math.sqrt(2 * jackknife.HALVES))


def test_the_bias_of_a_square_is_taken_away():
    values = np.random.default_rng(0).normal(size=(3000, 7))
    batches = values.T
    found = jackknife.unbiased(batches.mean(0) ** 2, jackknife.without_each(batches) ** 2)
    biased = batches.mean(0) ** 2  # its mean is 1/7, the variance of a mean of seven
    assert abs(found.mean()) < 5 * found.std() / math.sqrt(found.size)
    assert biased.mean() > 5 * biased.std() / math.sqrt(biased.size)


def test_without_batches_there_is_no_error():
    assert effective(np.ones((2, 3))).size_stderr() is None
    assert effective(np.ones((2, 3)), batches=np.ones((1, 2, 3))).size_stderr() is None


def test_effective_prints():
    g = gaussian((21, 33), (10, 16), (2, 3))
    batches = g * (1 + 0.1 * np.random.default_rng(0).random((8, 21, 33)))
    text = str(effective(g, samples=80, coverage="measured", batches=batches, notes=("<note>",)))
    for part in ("E[g²]", "measured", "80", "21 × 33", "Luo size", "±", "· <note>"):
        assert part in text
    assert "&lt;note&gt;" in effective(g, notes=("<note>",))._repr_html_()


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.full((3, 2), np.nan), np.ones((1,)), np.zeros((0, 4))])
def test_printing_never_fails(values):
    field = effective(values, unit=(0,) * values.ndim)
    assert "undefined" in str(field)
    assert "undefined" in field._repr_html_()
