"""Architectures: σ of fifteen layers as published and as derived, and measured within error bars."""

import json
import math

import numpy as np
import pytest

from erfjax.errors import StackError
from erfjax.layers import Conv, Dropout, Identity
from erfjax.studies._architecture import architecture, architectures

DERIVED = {  # name: TRF, σ
    "dense": (31, 3.162),
    "strided at 5, 10, 15": (71, 8.37),
    "strided at 4, 8, 12": (105, 13.56),
    "dilated 2, 4, 8": (53, 8.0),
    "dropout 0.5": (31, 3.162),
    "skip connections": (31, math.sqrt(2 / 3 + 14 / 3)),  # one convolution, then 14 taken with probability 1/2
}


@pytest.fixture(scope="module")
def result():
    stacks = {
        "dense": Conv((3,)) ** 4,
        "strided": Conv((3,)) ** 2 * Conv((3,), stride=2) * Conv((3,)) ** 2,
        "dilated": Conv((3,)) ** 2 * Conv((3,), dilation=3),
        "skip": Conv((3,)) * (Identity() + Conv((3,))) ** 3,
        "dropout": (Conv((5,)) * Dropout(0.5)) ** 2,
    }
    return architecture(stacks, activation="linear", width=8, samples=300, progress=False)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_closed_forms_have_the_derived_sizes(activation):
    stacks = architectures(activation)
    for name, (trf, sigma) in DERIVED.items():
        assert stacks[name].theoretical().size == (trf, trf), name
        assert math.sqrt(stacks[name].variance()[0]) == pytest.approx(sigma, abs=0.005), name


def test_a_pool_of_two_after_five_and_ten():
    stack = architectures("linear")["average pool after 5, 10"]
    sigma = math.sqrt(5 * (1 + 4 + 16) * 2 / 3 + (1 + 4) * 0.25)
    assert stack.theoretical().size == (74, 74)
    assert math.sqrt(stack.variance()[0]) == pytest.approx(sigma)


def test_measured_widths_agree_with_the_closed_forms(result):
    for one in result.pairs:
        ratio = one.ratio("sigma")
        assert abs(ratio.b - ratio.a) < 5 * ratio.b_stderr, one.name
        assert one.comparison.within_chance, one.name
    expected = [4 * 2 / 3, 4 * 2 / 3 + 2 * 4 * 2 / 3 - 2 / 3, (2 + 9) * 2 / 3, (1 + 3 / 2) * 2 / 3, 2 * 2]
    assert [one.ratio().a ** 2 for one in result.pairs] == pytest.approx(expected)


def test_tables_figures_and_files(result, tmp_path):
    rows = result.table().to_dict()
    assert [row["15 layers"] for row in rows] == ["dense", "strided", "dilated", "skip", "dropout"]
    assert "ERF by architecture" in str(result)
    assert "<table" in result._repr_html_()
    folder = result.save(tmp_path / "out")
    assert {file.suffix for file in folder.iterdir()} == {".png", ".txt", ".json", ".npz"}
    assert json.loads((folder / "architecture.json").read_text())["settings"]["samples"] == 300
    with np.load(folder / "architecture.npz") as arrays:
        np.testing.assert_array_equal(arrays["skip measured"], result.pairs[3].measured.map)


def test_claims_are_ratios_to_the_dense_stack(result):
    claims = {claim.subject: claim for claim in result.claims()}
    assert [claim.reported for claim in claims.values()] == [
        "wider",
        "wider, nearly a rectangle",
        "narrower",
        "no change",
    ]
    ratio = math.sqrt((1 + 3 / 2) * 2 / 3 / (4 * 2 / 3))
    measured = result.pairs[3].ratio().b / result.pairs[0].ratio().b
    assert claims["skip against dense"].here == f"σ × {ratio:.3f} in closed form, {measured:.3f} measured"
    assert "beside the paper" in str(result)


def test_no_stacks_are_refused():
    with pytest.raises(StackError, match="stacks"):
        architecture({})
