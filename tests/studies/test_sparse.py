"""Sparse connections: variance of random taps on average and as drawn, and measured within error bars."""

import numpy as np
import pytest

from erfjax.errors import StackError
from erfjax.layers import SparseConv
from erfjax.studies._sparse import sparse, tap_variance


@pytest.fixture(scope="module")
def result():
    return sparse((5,), depth=2, width=8, samples=200, progress=False)


def test_variance_over_draws_is_the_expected_one():
    for window in (3, 5, 8):
        found = [np.mean(SparseConv(window, count=9, seed=seed).variance()) for seed in range(200 if window > 3 else 1)]
        error = np.std(found) / np.sqrt(len(found)) + 1e-12
        assert abs(np.mean(found) - tap_variance(window)) < 5 * error


def test_measured_fields_agree_with_their_closed_forms(result):
    for one in (*result.sparse, *result.dilated):
        ratio = one.ratio()
        assert abs(ratio.b - ratio.a) < 5 * ratio.b_stderr
        assert one.comparison.within_chance


def test_dilated_fields_are_lattices_and_sparse_ones_are_not(result):
    seen = [float((one.closed.map > 0).mean()) for one in (result.sparse[0], result.dilated[0])]
    assert seen[1] == 25 / 81
    assert seen[0] > 0.5
    assert result.dilated[0].ratio().a ** 2 == pytest.approx(2 * 4 * 2 / 3)


def test_table_and_figure(result, tmp_path):
    assert [row[1] for row in result.table().rows] == ["random taps", "dilated"]
    assert (result.save(tmp_path) / "sparse.png").exists()


def test_even_windows_and_no_layers_are_refused():
    with pytest.raises(StackError, match="odd"):
        sparse((4,))
    with pytest.raises(StackError, match="`depth`"):
        sparse((3,), depth=0)
