"""Flat fields: 2n + 1 equal pixels in closed form and measured, as long as rounding lets them."""

import json
import math

import numpy as np
import pytest

from erfjax.errors import StackError
from erfjax.studies._flat import flat, flat_stack, leja


@pytest.fixture(scope="module")
def result():
    return flat((2, 5), rounding_depths=(4, 16), progress=False)


def test_fields_are_flat_and_grow_with_depth(result):
    for one, n in zip(result.pairs, (2, 5), strict=True):
        assert one.trf == 2 * n + 1
        for field in (one.closed, one.measured):
            np.testing.assert_allclose(field.map, 1.0, atol=1e-5)
            assert field.sigma()[0] == pytest.approx(math.sqrt(n * (n + 1) / 3), rel=1e-5)


def test_natural_order_is_lost_in_float32_and_leja_order_is_not(result):
    at = dict(zip(result.depths, zip(*result.deviation.values(), strict=True), strict=True))
    kinds = list(result.deviation)
    natural, ordered = kinds.index(("float32", "natural")), kinds.index(("float32", "Leja"))
    assert at[4][natural] < 1e-5
    assert at[16][natural] > 0.05
    assert at[16][ordered] < 1e-4
    assert at[16][kinds.index(("float64", "natural"))] < 1e-6
    assert at[16][kinds.index(("closed form", "any order"))] < 1e-12


def test_a_map_that_overflows_is_lost_and_saved_as_such(tmp_path):
    found = flat((1,), rounding_depths=(100,), progress=False)
    lost = dict(zip(found.deviation, (values[0] for values in found.deviation.values()), strict=True))
    assert lost["float32", "natural"] == math.inf
    assert lost["float32", "Leja"] < 1e-3
    row = json.loads((found.save(tmp_path) / "flat.json").read_text(), parse_constant=pytest.fail)
    assert row["tables"]["deviation from a flat field, three taps"][0]["float32, natural"] == "inf"


def test_a_plane_stays_flat_in_float32():
    """Back-propagation multiplies from the last layer on; the same order turned round loses four times as much."""
    one = flat((24,), rounding_depths=(1,), progress=False).pairs[0]
    np.testing.assert_allclose(one.measured.map, 1.0, atol=1.5e-3)


def test_partial_products_stay_small_in_leja_order():
    from erfjax.closed_form import laws

    for n in (10, 40, 100):
        product, largest = np.ones(1), 0.0
        for i in leja(n):
            product = np.convolve(product, laws.flat_kernels(n)[i])
            largest = max(largest, np.abs(product).max())
        assert largest < 3
        np.testing.assert_allclose(product, 1.0, atol=1e-11)


def test_an_asymmetric_image_is_seen_flat_inside_the_field():
    field = flat_stack(3, 2).analytic("mean", image_shape=(11, 9), unit=(5, 3), in_channels=1)
    assert (field.map.round(9) == np.pad(np.ones((7, 7)), ((2, 2), (0, 2)))).all()


def test_tables_and_figure(result, tmp_path):
    assert [len(table.rows) for table in result.tables()] == [2, 2]
    assert (result.save(tmp_path) / "flat.png").exists()


def test_bad_depths_are_refused():
    with pytest.raises(StackError):
        flat((0,))
