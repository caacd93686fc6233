"""Initialisation: corners are the optimum, fields have the derived widths, learning is reproducible."""

import numpy as np
import pytest

from erfjax.closed_form import laws
from erfjax.errors import KernelError, SampleError, StackError
from erfjax.studies._initialisation import PROFILES, ascend, initialisation
from erfjax.studies._support.convergence import interval, learn


@pytest.fixture(scope="module")
def result():
    fields = {name: PROFILES[name] for name in ("corners", "corners, softness 0.3")}
    options = {
        "initialisers": fields,
        "learning_depth": 1,
        "learning_width": 2,
        "epochs": 2,
        "seeds": 3,
        "readouts": ("centre",),
    }
    return initialisation((3,), field_depth=2, width=8, samples=200, progress=False, **options)


@pytest.mark.parametrize(("k", "gain"), [(3, 1.2247), (5, 1.4142), (7, 1.5)])
def test_gradient_ascent_ends_in_the_corners(k, gain):
    for seed in (0, 1):
        found = ascend(k, seed=seed)
        assert found.corners == pytest.approx(1.0, abs=1e-3)
        assert found.gain == pytest.approx(gain, abs=1e-4)
        assert found.gain <= laws.corner_gain(k) + 1e-6
        np.testing.assert_allclose(found.kernels.sum((1, 2)), 1.0, atol=1e-5)
        assert found.variance[0] < found.variance[-1]


def test_fields_have_the_variance_of_their_profile(result):
    expected = {"corners": 2.0, "corners, softness 0.3": 2 * 0.9}
    for one in result.pairs:
        ratio = one.ratio()
        assert abs(ratio.b - ratio.a) < 5 * ratio.b_stderr, one.name
        assert ratio.a**2 == pytest.approx(expected[one.name])


def test_learning_curves_are_those_of_their_seeds(result):
    curves = result.learning["centre"]["Glorot"]
    again = learn("glorot", "centre", depth=1, width=2, epochs=2, seeds=[0, 1], rate=result.settings["rate"])
    np.testing.assert_array_equal(curves.loss[:2], again.loss)
    assert curves.accuracy.shape == (3, 2)
    assert (curves.accuracy <= 1).all()
    assert curves.loss.mean(0)[1] < curves.loss.mean(0)[0]


def test_differences_are_taken_seed_by_seed(result):
    he, other = (result.learning["centre"][name].loss.mean(1) for name in ("He", "corners"))
    assert result.against_he("centre", "corners")[0] == interval(other - he)


def test_tables_and_figure(result, tmp_path):
    assert [len(table.rows) for table in result.tables()] == [1, 2, 4]
    assert (result.save(tmp_path) / "initialisation.png").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"seeds": 1}, SampleError),
        ({"seeds": -1}, SampleError),
        ({"kernels": (1,)}, KernelError),
        ({"kernels": ()}, KernelError),
        ({"initialisers": {}}, StackError),
    ],
)
def test_bad_settings_are_refused(options, error):
    with pytest.raises(error):
        initialisation(**options)
