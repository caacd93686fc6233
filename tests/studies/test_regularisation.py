"""Training with the size of the field in the loss: it widens the field, and seeds decide everything else."""

import numpy as np
import pytest

from erfjax.errors import SampleError, StackError
from erfjax.studies._regularisation import Task, regularisation


@pytest.fixture(scope="module")
def result():
    return regularisation([("sum", 4)], steps=40, strength=0.3, seeds=3, progress=False)


def test_a_wide_loss_widens_the_field(result):
    kinds = result.trained[Task("sum", 4)]
    for plain, wide in (("He", "He, wide"), ("corners, softness 0.3", "corners, softness 0.3, wide")):
        np.testing.assert_array_equal(kinds[plain].sigma[:, 0], kinds[wide].sigma[:, 0])
        gained = (kinds[wide].sigma - kinds[plain].sigma)[:, -1]
        assert gained.min() > 0.1  # pixels, whatever the seed


def test_fields_before_training_have_the_width_of_their_initialiser(result):
    for name, variance in (("He", 8 * 2), ("corners, softness 0.3", 8 * (0.7 * 4 + 0.3 * 2))):
        sigma = result.trained[Task("sum", 4)][name].sigma[:, 0]  # of three networks of finite width
        assert abs(sigma.mean() - np.sqrt(variance)) < 5 * sigma.std(ddof=1) / np.sqrt(3) + 0.1


def test_what_the_label_needs_is_learned(result):
    one = result.trained[Task("sum", 4)]["corners, softness 0.3"]
    assert one.accuracy[:, -1].mean() > one.accuracy[:, 0].mean() + 0.05
    np.testing.assert_allclose(one.measured.sum(1), 1.0)


def test_gains_are_taken_seed_by_seed(result):
    kinds = result.trained[Task("sum", 4)]
    rows = {row[1]: row[2:] for row in result.differences().rows}
    assert list(rows) == [
        "the loss term, from He",
        "the loss term, from corners, softness 0.3",
        "the start, corners, softness 0.3 for He",
    ]
    gain = (kinds["He, wide"].sigma - kinds["He"].sigma)[:, -1]
    half = 4.302652729911275 * gain.std(ddof=1) / np.sqrt(3)  # Student's t, 97.5 %, two degrees of freedom
    assert rows["the loss term, from He"][2] == f"{gain.mean():.2f} ± {half:.2f}"


def test_table_and_figure(result, tmp_path):
    assert [row[1] for row in result.table().rows][:2] == ["He", "He, wide"]
    assert (result.save(tmp_path) / "regularisation.png").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tasks": []}, StackError),
        ({"strength": -1.0}, StackError),
        ({"steps": 0}, SampleError),
        ({"tasks": [("sum", 17)]}, StackError),
        ({"tasks": [("ratio", 3)]}, StackError),
        ({"seeds": 1}, SampleError),
    ],
)
def test_bad_settings_are_refused(options, error):
    with pytest.raises(error):
        regularisation(**options)
