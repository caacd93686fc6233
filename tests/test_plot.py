"""Figures: they can be drawn for every dimension, without pyplot, and show what they should."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax import plot
from erfjax.errors import MapError
from erfjax.plot import panels


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


def stack_field(depth=4, shape=(21, 17), dilation=1):
    return (ej.layers.Conv((3,) * len(shape), dilation=dilation) ** depth).analytic(image_shape=shape)


def noisy(exact, batches=6, seed=0):
    """A field that was measured, as far as a figure can tell."""
    draws = exact.map * np.random.default_rng(seed).exponential(size=(batches, *exact.map.shape))
    changes = {"stderr": draws.std(0, ddof=1) / batches**0.5, "batches": draws, "samples": batches}
    return dataclasses.replace(exact, map=draws.mean(0), coverage="measured", **changes)


def curve(axes, label):
    """The line of that label, as x and y."""
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.array(line.get_data())


def bar_lengths(bars):
    """How long the vertical bars of a series of points are."""
    (lines,) = bars.lines[2]
    return np.array([segment[1, 1] - segment[0, 1] for segment in lines.get_segments()])


def boxes(axes):
    """Left, top, right and bottom of every box, white ones left out."""
    extents = [patch.get_bbox().extents for patch in axes.patches if patch.get_edgecolor()[:3] != (1, 1, 1)]
    return [tuple(float(edge) for edge in extent) for extent in extents]


def test_a_map_has_ticks_a_scale_and_the_theoretical_box():
    field = stack_field()
    map_axes, section, bar = field.plot(spacing=0.5, units="mm").axes
    (image,) = map_axes.images
    np.testing.assert_allclose(image.get_array(), field.map / field.map.max())
    assert image.get_extent() == [-0.25, 8.25, 10.25, -0.25]
    assert image.get_clim() == (0, 1)
    assert boxes(map_axes) == [(1.75, 2.75, 6.25, 7.25)]  # nine pixels about the unit (10, 8)
    assert (map_axes.get_xlabel(), map_axes.get_ylabel()) == ("width in mm", "height in mm")
    assert bar.get_ylabel() == "E[g²] / peak"
    assert section.get_xlabel() == "mm from the middle"
    offset, values = curve(section, "along height")
    np.testing.assert_array_equal(offset, 0.5 * (np.arange(21) - 10))
    np.testing.assert_array_equal(values, field.map[:, 8])
    assert len(map_axes.get_xticks()) > 2


@pytest.mark.parametrize(
    ("layout", "counted", "axis"), [("NLC", "tokens", "position in tokens"), ("NWC", "positions", "position")]
)
def test_the_axis_of_a_sequence_counts_no_pixels(layout, counted, axis):
    exact = (ej.layers.Conv((3,)) ** 2).analytic(image_shape=(12,))
    closed = dataclasses.replace(exact, metadata={"layout": layout})  # as the readings of a function leave it
    used = dataclasses.replace(noisy(exact), metadata={"layout": (layout, layout)})
    (section,) = used.plot().axes
    assert (section.get_xlabel(), section.get_title()) == (f"{counted} from the middle", "measured, unit (6)")
    assert all(float(tick).is_integer() for tick in section.get_xticks())
    assert used.plot(spacing=5, units="ms").axes[0].get_xlabel() == "ms from the middle"
    assert plot.profile({"used": used}).axes[0].get_xlabel() == f"{counted} from the centre of the field"
    assert plot.depth({"used": used}).axes[0].get_ylabel() == f"size in {counted}"
    assert plot.fields({"used": used}, ratios=()).axes[-1].get_ylabel() == f"share of E[g²] per {counted[:-1]}"
    compared = ej.compare(closed, used).plot().axes
    assert (compared[0].get_xlabel(), compared[3].get_xlabel()) == (axis, f"{counted} from the middle")
    assert exact.theoretical.plot().axes[0].get_title() == "unit (6) sees 5 positions (dashed)"  # it knows no layout
    assert {row[3] for row in used.table().rows} == {"positions"}


def test_sections_of_several_fields_share_given_axes():
    with plot.figure(4, 3) as drawing:
        axes = drawing.subplots()
    one, other = stack_field(), noisy(stack_field(8))
    assert one.plot(ax=axes, label="before") is axes
    assert other.plot(ax=axes, label="after") is axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["before", "after"]
    np.testing.assert_array_equal(curve(axes, "before")[1], one.map[10])
    middle = plot.middle(other.map)
    np.testing.assert_array_equal(curve(axes, "after")[1], other.map[middle[0]])
    assert len({line.get_linestyle() for line in axes.lines}) == 2  # told apart in grey as well
    band = axes.collections[-1].get_paths()[0].vertices
    top = other.band(lambda m: m[middle[0]], normalised=False)[1].max()
    assert band[:, 1].max() == pytest.approx(top)
    assert axes.get_ylim()[1] > top


def test_a_map_and_boxes_in_given_axes():
    with plot.figure(6, 3) as drawing:
        left, right = drawing.subplots(1, 2)
    field, wide = stack_field(), stack_field(dilation=2)
    assert field.plot(ax=left, label="mine", kind="map") is left
    assert left.get_title() == "mine"
    for name, theory in (("plain", field.theoretical), ("dilated", wide.theoretical)):
        assert theory.plot(ax=right, label=name) is right
    assert boxes(right) == [(3.5, 5.5, 12.5, 14.5), (-0.5, 1.5, 16.5, 18.5)]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["plain", "dilated"]
    assert len(right.images) == 1
    assert right.get_ylim() == (21.5, -1.5)  # rows grow downwards still
    with pytest.raises(MapError, match="section, map"):
        field.plot(ax=left, kind="profile")


def test_a_comparison_has_one_scale_and_its_labels():
    a, b = stack_field(4), noisy(stack_field(6))
    result = ej.compare(a, b, labels=("short", "long"))
    panels = result.plot().axes
    titles = [axes.get_title() for axes in panels[:4]]
    assert titles == ["short", "long", "long - short", "cross-sections"]
    scale = max(a.normalised().max(), b.normalised().max())
    assert [axes.images[0].get_clim() for axes in panels[:2]] == [(0, scale)] * 2
    difference = np.asarray(panels[2].images[0].get_array())
    np.testing.assert_allclose(difference, (b.normalised() - a.normalised()) / a.normalised().max())
    np.testing.assert_allclose(curve(panels[3], "short")[1], a.normalised()[10])
    np.testing.assert_allclose(curve(panels[3], "long")[1], b.normalised()[plot.middle(b.map)[0]])
    with plot.figure(3, 3) as drawing:
        axes = drawing.subplots()
    assert result.plot(ax=axes, label="net") is axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["net, short", "net, long"]


def test_a_volume_says_which_plane_it_shows():
    values = np.random.default_rng(0).uniform(size=(5, 6, 7))
    values[3, 1, 2] = 2.0
    volume = dataclasses.replace(field((5, 6, 7)), map=values)
    cases = ((None, values[3], "depth 3", "width"), ({2: 4}, values[..., 4], "width 4", "height"))
    cases = (*cases, ({-2: 0}, values[:, 0], "height 0", "width"))
    for plane, shown, words, across in cases:
        axes = volume.plot(plane=plane).axes[0]
        np.testing.assert_allclose(axes.images[0].get_array(), shown / 2)
        assert axes.get_title().endswith(words)
        assert axes.get_xlabel() == f"{across} in pixels"
    for plane in ({}, {0: 5}, {0: 1, 1: 1}):
        with pytest.raises(MapError, match=r"`plane` must give 1 of the axes .* as in \{0: 2\}"):
            volume.plot(plane=plane)
    with pytest.raises(MapError, match="leave it out"):
        field((4, 5)).plot(plane={0: 1})


def test_models_by_layers_stand_on_one_scale():
    grid = {
        name: {str(n): noisy(stack_field(n, (33, 29), dilation), seed=n) for n in (2, 4)}
        for name, dilation in (("plain", 1), ("dilated", 2))
    }
    drawing = ej.plot.fields(grid, scale="root", ratios=(0.3, 0.99))
    maps, ratios = drawing.axes[:4], drawing.axes[5:]
    flat = [field for row in grid.values() for field in row.values()]
    top = max(field.normalised().max() for field in flat)
    for axes, shown in zip(maps, flat, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), shown.normalised())
        assert axes.images[0].get_clim() == (0, top)
        low, high = shown.interval("sigma")
        assert f"σ {shown.size('sigma'):.3g} ({low:.3g} to {high:.3g})" in axes.get_xlabel()
        assert axes.get_xlim() == maps[0].get_xlim()
    assert [axes.get_title() for axes in maps[:2]] == ["2", "4"]
    assert [axes.get_ylabel().splitlines()[0] for axes in maps[::2]] == ["plain", "dilated"]
    assert [axes.get_title() for axes in ratios] == ["2", "4"]
    bars = ratios[1].containers[1]
    assert bars.get_label() == "dilated"
    wide = grid["dilated"]["4"]
    expected = [100 * wide.size("area_ratio", fraction=t) for t in (0.3, 0.99)]
    np.testing.assert_allclose(bars.lines[0].get_ydata().astype(float), expected)
    ends = [wide.interval("area_ratio", fraction=t) for t in (0.3, 0.99)]
    np.testing.assert_allclose(bar_lengths(bars), [100 * (e.high - e.low) for e in ends], atol=1e-9)


def test_models_alone_stand_side_by_side():
    drawing = ej.plot.fields({"short": stack_field(2), "long": stack_field(6)}, ratios=(), contour=None)
    assert [axes.get_title() for axes in drawing.axes[:2]] == ["short", "long"]
    assert not drawing.axes[0].collections
    assert len(drawing.axes) == 3
    png(ej.plot.fields({"a": stack_field(2, (9,)), "b": stack_field(3, (12,))}))


@pytest.mark.parametrize(
    ("models", "options", "says"),
    [
        ({}, {}, "a dict of fields"),
        ({"a": {"1": 1}, "b": {"2": 2}}, {}, "the same names"),
        ({"a": 0, "b": 1}, {"scale": "log"}, "linear, root"),
    ],
)
def test_grids_that_do_not_exist(models, options, says):
    exact = stack_field(2)
    fill = lambda value: dict.fromkeys(value, exact) if isinstance(value, dict) else exact  # noqa: E731
    with pytest.raises(MapError, match=says):
        ej.plot.fields({name: fill(value) for name, value in models.items()}, **options)
    roots = dataclasses.replace(exact, statistic="rms")
    with pytest.raises(MapError, match="one statistic"):
        ej.plot.fields({"a": exact, "b": roots})


def test_profiles_by_distance():
    line = noisy(stack_field(3, (40,), 2))
    axes = ej.plot.profile({"line": line}, spacing=0.125, units="ms").axes[0]
    distance, share = curve(axes, "line")
    np.testing.assert_allclose(distance, 0.125 * (np.arange(40) - 20))
    np.testing.assert_allclose(share, line.normalised())
    assert axes.get_xlabel().startswith("ms from")
    assert len(axes.collections) == 1  # the band of two standard errors
    plane = stack_field()
    rings = ej.measures.radial_profile(plane.normalised(), plane.theoretical.centre)
    axes = ej.plot.profile({"mean": plane}, log=True).axes[0]
    np.testing.assert_allclose(curve(axes, "mean"), [rings.radius, rings.mean])
    assert axes.get_yscale() == "log"
    assert ej.plot.profile({"mass": plane}, ax=axes, cumulative=True, centre=(9, 8)) is axes
    off = ej.measures.radial_profile(plane.map, (9, 8))
    np.testing.assert_allclose(curve(axes, "mass"), [off.radius, off.mass])
    assert len({line.get_linestyle() for line in axes.lines}) == 2


def test_sizes_by_layer():
    layers = {f"conv{n}": noisy(stack_field(n, (33, 29)), seed=n) for n in (1, 2, 4)}
    axes = ej.plot.depth(layers, spacing=2, units="µm", measure="sigma").axes[0]
    bars = axes.containers[0]
    sizes = [2 * field.size("sigma") for field in layers.values()]
    np.testing.assert_allclose(bars.lines[0].get_ydata().astype(float), sizes)
    ends = [field.interval("sigma") for field in layers.values()]
    np.testing.assert_allclose(bar_lengths(bars), [2 * (e.high - e.low) for e in ends], atol=1e-9)
    assert curve(axes, "theoretical")[1].tolist() == [6, 10, 18]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["conv1", "conv2", "conv4"]
    assert axes.get_ylabel() == "size in µm"
    theory = {name: field.theoretical for name, field in layers.items()}
    assert ej.plot.depth(theory, ax=axes, label="bare") is axes
    assert curve(axes, "bare: theoretical")[1].tolist() == [3, 5, 9]
    with pytest.raises(MapError, match="is empty"):
        ej.plot.depth({})


def test_figures_are_embedded_whole(tmp_path):
    """A TrueType font in a PDF, outlines in an SVG: nothing depends on the fonts of the reader."""
    drawing = ej.plot.fields({"σ": stack_field(2)})
    pdf = plot.save(drawing, tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    svg = plot.save(drawing, tmp_path / "a.svg").read_text()
    assert "<text" not in svg
    assert "<svg" in svg


def test_gaussian_keeps_total_and_spread():
    values = ej.closed_form.power(np.ones((3, 3)) / 9, 20)
    bell = plot.gaussian_of(values)
    assert bell.sum() == pytest.approx(1, abs=1e-12)
    assert plot.gaussian_of(np.zeros((3, 4))).tolist() == np.zeros((3, 4)).tolist()
    assert plot.gaussian_of(np.eye(7)[4:5] * 3).round(9).tolist() == (np.eye(7)[4:5] * 3).tolist()
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


def test_a_box_that_does_not_fit_is_not_cut_to_a_smaller_one():
    """A dashed edge inside the picture is an edge of the field."""
    for layers, shown in ((30, True), (120, False)):
        field = (ej.layers.Conv(3) ** layers).theoretical((40, 60))
        axes = field.plot().axes[0]
        box = axes.patches[-1]
        assert (box.get_width(), box.get_height()) == tuple(field.size[::-1])
        left, right = axes.get_xlim()
        assert (left < box.get_x() and box.get_x() + box.get_width() < right) == shown
        assert any("goes on" in text.get_text() for text in axes.texts) == (not shown)


def test_decisions_have_pictures():
    x = jax.ShapeDtypeStruct((1, 24, 30, 1), jnp.float32)
    tiles = ej.tiling(lambda x: x[:, 2:, 1:] + x[:, :-2, :-1], x, tile=(12, 10))
    filled, window = tiles.plot().axes[0].patches[-2:]
    assert filled.get_bbox().bounds == (10, 12, 10, 10)
    assert window.get_bbox().bounds == (
        10,
        10,
        11,
        14,
    )  # as large as that of the first tile: all windows have one shape

    def lagged(x):
        with jax.named_scope("lag"):
            return x[:, 3:] + x[:, :-3]

    lags = ej.context(lagged, jax.ShapeDtypeStruct((1, 24, 1), jnp.float32))
    fields = {name: (ej.layers.Conv(3) ** n).analytic(image_shape=(21, 21)) for name, n in (("P3", 1), ("P4", 4))}
    found = ej.match(fields, (2, 8))
    assert found.best == ("P3", "P4")
    for shown in (tiles, lags, lags.plan(8), found):
        assert "<img" in shown._repr_html_()


def test_sections_of_one_panel_run_through_one_pixel():
    """Two maps with their peak at one pixel and tails of different length: the peaks stand at one place."""
    t = np.arange(21)
    maps = [np.exp(-np.abs(t - 15) / s) * (t <= 15) for s in (0.5, 6.0)]
    fields = {str(i): ej.EffectiveField(m, None, "square", 0, (15,), None, "exact") for i, m in enumerate(maps)}
    first, second = panels.section_panel(fields, 0, "along position").axes[0].lines
    assert first.get_xdata()[first.get_ydata().argmax()] == second.get_xdata()[second.get_ydata().argmax()] == 0
