"""The growth study: closed form and measurement agree, tables and files hold what they say."""

import json

import jax
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import FileFormatError, SampleError, StackError
from erfjax.growth_laws import Growth
from erfjax.studies import datasets
from erfjax.studies._growth import growth

PUBLISHED = {5: 8.31, 10: 11.70, 20: 16.16, 40: 22.74}  # exact Luo sizes of n uniform 3x3 kernels


@pytest.fixture(scope="module")
def result():
    return growth((2, 3), samples=200, width=8, progress=False)


def test_closed_forms_have_the_published_sizes_and_slopes():
    closed = tuple((ej.layers.Conv(3) ** n).analytic("mean", width=1) for n in PUBLISHED)
    curve = Growth("uniform", tuple(PUBLISHED), closed, closed, (), (), "luo", {})
    assert np.round(curve.closed_sizes, 2).tolist() == list(PUBLISHED.values())
    assert curve.trf == (11, 21, 41, 81)
    size, share = curve.laws()
    assert (size.closed, share.closed) == (pytest.approx(0.482, abs=0.002), pytest.approx(-0.478, abs=0.002))


def test_uniform_linear_networks_have_the_same_sizes():
    curve = growth((5, 10), activations=["linear"], weights=["uniform"], samples=2, progress=False).curves[0]
    assert np.round(curve.sizes, 2).tolist() == [8.31, 11.70]
    assert curve.stderrs == (0.0, 0.0)


def test_every_map_agrees_with_its_closed_form_within_sampling_noise(result):
    for curve in result.curves:
        for closed, measured in zip(curve.closed, curve.measured, strict=True):
            distance = ej.compare(closed, measured)
            assert distance.total_variation < 2 * distance.noise_floor + 1e-6, curve.name


def test_shallow_nets_get_more_samples(result):
    assert [field.samples for field in result.curves[0].measured] == [300, 200]


def test_tables_have_a_row_per_network(result):
    rows = result.table().to_dict()
    assert [(row["network"], row["n"], row["TRF"]) for row in rows[:3]] == [
        ("uniform, linear", 2, 5),
        ("uniform, linear", 3, 7),
        ("uniform, relu", 2, 5),
    ]
    assert [row["measured"] for row in rows] == [size for curve in result.curves for size in curve.sizes]
    assert len(result.slopes().rows) == 8
    assert "log-log slopes" in str(result)
    assert "random: both sides: statistic 'square', channels 'random-signs'" in str(result)
    assert result._repr_html_().count("<table") == 3  # sizes, slopes, and what the paper has


def test_the_figure_has_the_measured_sizes_of_every_network(result):
    axes = next(axes for axes in result.plot().get_axes() if axes.get_title() == "size of the ERF")
    assert len(axes.containers) == len(result.curves)
    for bars, curve in zip(axes.containers, result.curves, strict=True):
        np.testing.assert_allclose(bars[0].get_ydata(), curve.sizes)


def test_saved_folder_holds_figure_tables_and_maps(result, tmp_path):
    folder = result.save(tmp_path / "new" / "folder")
    assert sorted(file.name for file in folder.iterdir()) == ["growth.json", "growth.npz", "growth.png", "growth.txt"]
    saved = json.loads((folder / "growth.json").read_text())
    assert list(saved["tables"].values()) == [result.table().to_dict(), result.slopes().to_dict()]
    assert [claim["reported"] for claim in saved["claims"]] == ["0.56", "-0.43"]
    with np.load(folder / "growth.npz") as arrays:
        np.testing.assert_array_equal(arrays["random_relu_3_measured"], result.curves[-1].measured[-1].map)


def test_root_statistics_meet_the_root_of_the_closed_form():
    options = {"activations": ["linear"], "weights": ["random"], "samples": 200, "width": 8, "statistic": "rms"}
    curve = growth((1, 2), **options).curves[0]
    for closed, measured in zip(curve.closed, curve.measured, strict=True):
        distance = ej.compare(closed, measured)
        assert distance.total_variation < 2 * distance.noise_floor


def test_units_that_most_crops_leave_dead_have_no_error_bar(tmp_path):
    """A bias-free net of positive weights with ReLU is dead on dark crops; half of few samples may all be."""
    options = {"activations": ["relu"], "weights": ["uniform"], "samples": 8}
    found = growth((5, 20), **options, progress=False)
    assert np.isnan(found.curves[0].stderrs).any()
    assert "no interval" in str(found)
    assert (found.save(tmp_path) / "growth.png").exists()


def test_same_seed_same_numbers():
    first, again = (growth((1, 2), activations=["relu"], weights=["random"], samples=4, width=2) for _ in range(2))
    np.testing.assert_array_equal(first.curves[0].measured[1].map, again.curves[0].measured[1].map)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"depths": (5,)}, StackError),
        ({"depths": (0, 5)}, StackError),
        ({"statistic": "mean"}, StackError),
        ({"weights": []}, StackError),
        ({"samples": 0}, SampleError),
        ({"image": "no such file.png"}, FileNotFoundError),
        ({"depths": (5, 300)}, FileFormatError),
    ],
)
def test_bad_settings_are_refused(options, error):
    with pytest.raises(error):
        growth(**{"depths": (1, 2), "samples": 1, "weights": ["uniform"], "progress": False} | options)


def test_a_dead_unit_is_no_crash_of_the_table(tmp_path):
    from matplotlib import image

    image.imsave(tmp_path / "grey.png", np.full((20, 30, 3), 0.5))
    with pytest.raises(SampleError, match="dead in all 2 samples"):
        growth((1, 2), activations=["relu"], weights=["uniform"], samples=1, image=tmp_path / "grey.png")


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(FileFormatError, match=r"a\.png"):
        datasets.photograph(tmp_path / "a.png")


def test_crops_lie_inside_the_image_and_keep_its_pixels():
    image = np.arange(5 * 8 * 1, dtype=np.float32).reshape(5, 8, 1)
    draw = jax.jit(datasets.crops(image, 4))
    seen = [np.asarray(draw(key))[0] for key in jax.random.split(jax.random.key(0), 64)]
    assert {crop.shape for crop in seen} == {(4, 4, 1)}
    upright = [crop for crop in seen if crop[0, 0] < crop[0, 1] and crop[0, 0] < crop[1, 0]]
    assert {int(crop[0, 0, 0]) for crop in upright} <= {row * 8 + column for row in range(2) for column in range(5)}
    assert len({int(crop.min()) for crop in seen}) == 10


def test_grey_and_transparent_images_become_three_colours(tmp_path):
    from matplotlib import image

    image.imsave(tmp_path / "rgba.png", np.random.default_rng(0).uniform(size=(5, 7, 4)))
    assert datasets.photograph(tmp_path / "rgba.png").shape == (5, 7, 3)
