"""Shapes: every measured map is its closed form within error bars, and Gaussian as deep as theory says."""

import itertools

import numpy as np
import pytest

from erfjax.errors import StackError
from erfjax.layers import Conv
from erfjax.studies._shapes import shapes
from erfjax.studies._support.pairs import Pair


@pytest.fixture(scope="module")
def result():
    return shapes((2, 3), activations=("tanh",), activation_depth=3, width=16, samples=200, progress=False)


def test_every_panel_agrees_with_its_closed_form(result):
    assert len(result.pairs) == 2 * 3 + 1
    for one in result.pairs[2:]:
        ratio = one.ratio("sigma")
        assert abs(ratio.b - ratio.a) < 5 * ratio.b_stderr, one.name
        assert one.comparison.within_chance, one.name
        assert one.comparison.total_variation < 2 * one.comparison.noise_floor, one.name


def test_closed_forms_are_powers_of_the_uniform_kernel(result):
    for one in result.pairs:
        depth = (one.trf - 1) // 2
        assert one.ratio().a ** 2 == pytest.approx(depth * 2 / 3), one.name


def test_uniform_panels_are_exact(result):
    for one in result.by_depth["uniform"]:
        np.testing.assert_allclose(one.measured.normalised(), one.closed.normalised(), rtol=1e-5)


def test_maps_become_gaussian_with_depth():
    fields = [(Conv(3) ** n).analytic() for n in (2, 4, 8, 16)]
    found = [1 - Pair("", field, field).gaussianity[0] for field in fields]
    assert all(later < earlier / 3 for earlier, later in itertools.pairwise(found))


def test_tables_and_figure(result, tmp_path):
    assert [row[0] for row in result.table().rows][-1] == "tanh, 3 layers"
    assert (result.save(tmp_path) / "shapes.png").stat().st_size > 10_000


@pytest.mark.parametrize("bad", [{"depths": ()}, {"depths": (0,)}, {"statistic": "mean"}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(StackError):
        shapes(**{"depths": (1,)} | bad)
