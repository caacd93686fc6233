"""Figures: they can be drawn for every dimension, without pyplot, and show what they should."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax import plot


def field(shape, stderr=True, **options):
    values = np.random.default_rng(0).uniform(size=shape)
    settings = {
        "statistic": "square",
        "samples": 9,
        "unit": (0,) * len(shape),
        "theoretical": None,
        "coverage": "measured",
    }
    return ej.EffectiveField(values, values / 9 if stderr else None, **settings | options)


def png(drawing):
    data = drawing._repr_png_()
    assert data.startswith(b"\x89PNG")
    return data


@pytest.mark.parametrize("shape", [(9,), (7, 11), (1, 5), (4, 5, 6), (1, 1)])
@pytest.mark.parametrize("stderr", [True, False])
def test_effective_fields_of_every_dimension(shape, stderr):
    png(field(shape, stderr).plot())


def test_signed_and_dead_fields_can_be_drawn():
    png(plot.effective(ej.EffectiveField(np.array([[-1.0, 2.0], [0.5, 0.0]]), None, "mean", 0, (0, 0), None, "exact")))
    png(plot.effective(ej.EffectiveField(np.zeros((3, 4)), None, "square", 0, (0, 0), None, "exact")))


def test_comparison():
    png(ej.compare(field((6, 9)), field((6, 9), stderr=False)).plot())


@pytest.mark.parametrize("unit", [(0, 0), (3, 4)])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_theoretical_field_over_an_image(unit, channels):
    f = ej.layers.Conv(3, dilation=2).network(jax.random.key(0), width=2, in_channels=1)
    found = ej.theoretical(f, jax.ShapeDtypeStruct((1, 8, 13, 1), jnp.float32), unit=unit)
    image = None if channels is None else np.random.default_rng(0).uniform(size=(8, 13, channels))
    drawing = found.plot(image if channels != 1 else image[..., 0])
    png(drawing)
    left, right = drawing.axes[0].get_xlim()
    assert left <= min(found.start[1], 0)
    assert right >= max(found.stop[1], 13) - 1


@pytest.mark.parametrize(
    ("shape", "letters", "axes"), [((1, 9, 2), "NWC", (1,)), ((1, 4, 5, 6, 2), "NDHWC", (1, 2, 3))]
)
def test_theoretical_fields_of_other_dimensions_and_global_ones(shape, letters, axes):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    png(ej.theoretical(lambda x: jnp.cumsum(x, axis=1), x, layout=letters).plot())
    png(ej.theoretical(lambda x: x - x.mean(axes, keepdims=True), x, layout=letters).plot())


def test_what_is_used_is_drawn_in_what_is_seen():
    field = (ej.layers.Conv(3) ** 4).analytic(image_shape=(21, 17))
    drawing = field.theoretical.plot(np.zeros((21, 17)), used=field)
    (axes,) = drawing.axes
    assert "uses" in axes.get_title()
    line = np.concatenate([path.vertices for path in axes.collections[-1].get_paths()])
    half = field.size() / 2
    assert np.abs(np.abs(line - [8, 10]).max(0) - half).max() < 0.75


def test_gaussian_keeps_total_and_spread():
    values = ej.closed_form.power(np.ones((3, 3)) / 9, 20)
    bell = plot.gaussian_of(values)
    assert bell.sum() == pytest.approx(1, abs=1e-6)
    assert ej.measures.sigma(bell) == pytest.approx(ej.measures.sigma(values), rel=1e-3)


def test_writing_replaces_or_leaves_the_old_file(tmp_path):
    drawing = field((5, 4)).plot()
    path = plot.save(drawing, tmp_path / "a.png")
    before = path.read_bytes()

    def broken(*args, **options):
        raise OSError("disk full")

    drawing.savefig = broken
    with pytest.raises(OSError, match="disk full"):
        plot.save(drawing, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_pyplot_stays_out():
    code = "import sys, erfjax; erfjax.layers.Conv(3).analytic().plot(); sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
