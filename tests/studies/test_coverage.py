"""The coverage study in small: populations, data sets, and what it says of them."""

import math

import numpy as np
import pytest

from erfjax.errors import StackError
from erfjax.studies import BY_NAME
from erfjax.studies._coverage import coverage


@pytest.fixture(scope="module")
def result():
    return coverage(
        (2,),
        widths=(8,),
        samples=(12,),
        statistics=("rms", "share"),
        measures=("total", "share"),
        levels=(0.5, 0.95),
        repeats=40,
        networks=300,
        progress=False,
    )


def test_cells_are_counts_of_intervals(result):
    assert [(cell.statistic, cell.samples) for cell in result.cells] == [("rms", 12), ("share", 12)]
    root, share = result.cells
    assert abs(root.closed - 1) < 5 * math.expm1(root.spread**2) ** 0.5 / math.sqrt(300)
    assert math.isnan(share.closed)
    assert share.covered["total"][1] >= 0.8  # almost every sample's shares sum to one
    half, wide = root.covered["total"]
    assert 0.2 < half < 0.8
    assert wide > 0.8
    assert all(40 * hits == pytest.approx(round(40 * hits)) for hits in (half, wide))


def test_the_table_and_the_figure_show_the_cells(result, tmp_path):
    rows = result.tables()[1].to_dict()
    assert [row["95 %"] for row in rows] == [cell.covered["share"][1] for cell in result.cells]
    assert "95 %" in result.claims()[0].subject
    panels = result.plot().get_axes()
    drawn = [line.get_ydata()[0] for line in panels[1].get_lines() if len(line.get_xdata()) == 1]
    expected = [cell.covered["share"][i] for i in range(2) for cell in result.cells]
    np.testing.assert_array_equal(drawn, expected)
    assert (result.save(tmp_path) / "coverage.json").exists()
    assert BY_NAME["coverage"] is coverage


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"measures": ("luck",)}, "some of total"),
        ({"statistics": ("cube",)}, "some of square"),
        ({"samples": (1,)}, "2 or more"),
        ({"depths": (0,)}, "1 or more"),
    ],
)
def test_what_makes_no_experiment_is_refused(options, words):
    with pytest.raises(StackError, match=words):
        coverage(**options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "depths", "widths", "statistics"),
    [
        *(("relu", (5, 20), (8, 32), (statistic,)) for statistic in ("square", "rms", "abs", "share")),
        ("attention", (2,), (32,), ("square", "share")),
        ("image", (3,), (8,), ("square",)),
    ],
)
def test_the_promise_is_kept(architecture, depths, widths, statistics):
    found = coverage(
        depths,
        widths=widths,
        samples=(16, 64),
        statistics=statistics,
        architectures=(architecture,),
        measures=("total", "luo", "sigma", "share"),
        repeats=100,
    )
    low = 0.93 - 2 * math.sqrt(0.05 * 0.95 / 100)
    bad = [(cell, m) for cell in found.cells for m, hits in cell.covered.items() if hits[1] < low and cell.noted < 0.5]
    assert not bad
    assert architecture != "attention" or all(c.noted > 0.5 for c in found.cells if c.statistic == "square")
