"""Slopes: what single runs are, and that both slopes are one number."""

import numpy as np
import pytest

from erfjax.errors import SampleError, StackError
from erfjax.studies._slopes import _statistics, slopes, trf_slope


@pytest.fixture(scope="module")
def result():
    return slopes((1, 8), depths=(2, 5), runs=20, repeats=8, progress=False)


def test_closed_forms_are_the_published_slopes():
    from erfjax.closed_form import laws

    assert laws.slope((5, 10, 20, 40), 3, "rms").size == pytest.approx(0.539, abs=0.002)
    assert trf_slope((5, 10, 20, 40)) == pytest.approx(0.482 + 0.478, abs=0.002)
    assert trf_slope(range(10, 101)) == pytest.approx(0.496 + 0.489, abs=0.002)


def test_wide_networks_come_near_the_closed_form(result):
    for j, closed in enumerate(result.closed):
        few_runs = 0.12  # the noisy centre pixel of 20 runs biases sizes of a few pixels
        assert abs(result.mean[1, j] - closed) < 5 * result.stderr[1, j] + few_runs


def test_statistics_weigh_runs_as_they_say():
    g = np.array([[[1.0, -3.0]], [[20.0, 20.0]]])
    square, root, share = _statistics(g)
    np.testing.assert_allclose(square, [[(1 + 400) / 2, (9 + 400) / 2]])
    np.testing.assert_allclose(root**2, square)
    np.testing.assert_allclose(share, [[(0.25 + 0.5) / 2, (0.75 + 0.5) / 2]])


def test_sizes_are_those_of_the_theoretical_field_at_most(result):
    assert (result.sizes <= np.array([5, 11])[:, None]).all()
    assert (result.sizes >= 1).all()


def test_tables_and_figure(result, tmp_path):
    rows = result.table().to_dict()
    assert rows[0]["slope of size"] == 0.56
    assert len(rows) == 1 + 3 * 3
    for row in rows[1:]:
        assert row["slope of size"] - row["slope of share"] == pytest.approx(result.offset)
    assert (result.save(tmp_path) / "slopes.png").exists()


def test_no_widths_are_refused():
    with pytest.raises(StackError, match="`widths`"):
        slopes(())


@pytest.mark.parametrize(
    ("options", "error"), [({"depths": (3,)}, StackError), ({"runs": 64}, SampleError), ({"repeats": 1}, SampleError)]
)
def test_bad_settings_are_refused(options, error):
    with pytest.raises(error):
        slopes((1,), **options)
