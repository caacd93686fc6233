"""Published protocols: their numbers on maps, and each measurement against a plain reading of its own script."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erfjax import protocols
from erfjax.errors import LayoutError, MapError
from erfjax.fields import EffectiveField

# X. Ding et al. 2022, `get_rectangle` of erf/analyze_erf.py run on synthetic maps: (side, area ratio) at 0.2, 0.3, 0.5, 0.99.
LOGARITHMIC = (
    (77, 0.005654335021972656),
    (99, 0.009346961975097656),
    (135, 0.017380714416503906),
    (345, 0.1135110855102539),
)
LINEAR = (
    (73, 0.005082130432128906),
    (91, 0.007897377014160156),
    (127, 0.015381813049316406),
    (337, 0.1083078384399414),
)
UNIFORM = ((29, 0.205322265625), (37, 0.334228515625), (47, 0.539306640625), (None, None))


def gaussian(n, centre, sigma):
    line = np.exp(-0.5 * ((np.arange(n) - centre) / sigma) ** 2)
    return np.outer(line, line)


@pytest.mark.parametrize(
    ("m", "log", "expected"),
    [
        (gaussian(1024, 512, 60), True, LOGARITHMIC),
        (gaussian(1024, 512, 60), False, LINEAR),
        (np.ones((64, 64)), True, UNIFORM),
    ],
    ids=["log10(map + 1)", "linear", "uniform"],
)
def test_replknet_squares_are_those_of_the_script(m, log, expected):
    found = protocols.replknet_squares(m, log=log)
    assert tuple(row[0] for row in found) == (0.2, 0.3, 0.5, 0.99)
    assert tuple(row[1:] for row in found) == expected


def test_replknet_depends_on_the_scale_as_published():
    m = gaussian(1024, 512, 60)
    small, large = (protocols.replknet_squares(m * scale, (0.2,))[0][2] for scale in (1e-3, 1e6))
    assert (round(100 * small, 2), round(100 * large, 2)) == (0.51, 3.26)


def test_replknet_on_an_oblong_map():
    assert protocols.replknet_squares(np.ones((8, 16)), (0.2,)) == ((0.2, 7, 49 / 128),)
    ((_, side, area),) = protocols.replknet_squares(np.ones((40, 6)), (0.5,))  # wraps around: larger than the map
    assert (side, area) == (21, pytest.approx(21**2 / 240))


@pytest.mark.parametrize(
    "bad", [np.zeros((8, 8)), np.full((8, 8), np.nan), -np.ones((8, 8)), np.ones(8), np.ones((0, 3))]
)
def test_replknet_refuses_what_is_no_map(bad):
    with pytest.raises(MapError, match="two-dimensional map"):
        protocols.replknet_squares(bad)


RNG = np.random.default_rng(3)
KERNELS = tuple(RNG.standard_normal((3, 3, inputs, 4), np.float32) / 3 for inputs in (3, 4))
IMAGES = RNG.standard_normal((5, 22, 18, 3), np.float32)


def network(x):
    """Two strided convolutions with a tanh each; features of any sign."""
    for kernel, stride in zip(KERNELS, ((2, 1), (1, 2)), strict=True):
        x = jnp.tanh(
            jax.lax.conv_general_dilated(x, kernel, stride, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )
    return x


def gradients(reduce):
    """The gradient of `reduce` of the centre unit's channels for each image."""
    one = jax.grad(lambda image: reduce(network(image[None])[0, 5, 4]))
    return np.stack([np.asarray(one(image), np.float64) for image in jnp.asarray(IMAGES)])


def test_replknet_measures_as_its_script_does():
    result = protocols.replknet(network, IMAGES, thresholds=(0.2, 0.5), progress=False)
    expected = np.maximum(gradients(lambda unit: jax.nn.relu(unit).sum()), 0).sum(-1).mean(0)
    np.testing.assert_allclose(result.field.map, expected, atol=1e-6)
    assert result.squares == protocols.replknet_squares(result.field.map, (0.2, 0.5))
    assert result.field.samples == 5
    assert "area ratio" in str(result)
    assert result._repr_html_().count("<img") == 1


def test_replknet_leaves_images_out_whose_gradient_is_not_finite():
    images = IMAGES.copy()
    images[2, 9, 9, 1] = np.nan
    result = protocols.replknet(network, images, progress=False)
    expected = np.maximum(gradients(lambda unit: jax.nn.relu(unit).sum()), 0).sum(-1)[[0, 1, 3, 4]].mean(0)
    assert result.field.samples == 4
    np.testing.assert_allclose(result.field.map, expected, atol=1e-6)


def test_openerf_metrics_by_hand():
    m = np.zeros((5, 8))
    m[2, 4], m[2, 1], m[0, 4], m[4, 7] = 4, 3, 2, 1
    found = protocols.radial_metrics(m, radii=(1, 2, 3))
    assert found["radial_cumulative_mass"] == pytest.approx({1: 0.4, 2: 0.6, 3: 0.9})
    assert (found["shape"], found["argmax_yx"], found["center_yx"]) == ((5, 8), (2, 4), (2, 4))
    assert (found["sum"], found["min"], found["max"], found["center_value"]) == pytest.approx((1, 0, 0.4, 0.4))
    assert (found["com_x"], found["com_y"]) == pytest.approx((3.4, 1.8))


def test_openerf_clips_after_the_mean_over_colours():
    result = protocols.openerf(network, IMAGES, radii=(2, 4), fit=True, progress=False)
    expected = np.maximum(gradients(jnp.mean).mean(-1), 0).sum(0)
    np.testing.assert_allclose(result.map, expected / expected.sum(), atol=1e-7)
    assert result.metrics == protocols.radial_metrics(result.field.map, (2, 4))
    assert 0 < result.r_squared < 1
    for part in ("com_x", "mass within 4 pixels", "Gaussian σ", "5 images"):
        assert part in str(result)
    assert result._repr_html_().count("<img") == 1


def test_openerf_channels_first_and_from_an_iterable():
    expected = protocols.openerf(network, IMAGES, progress=False).map
    found = protocols.openerf(
        lambda x: jnp.moveaxis(network(jnp.moveaxis(x, 1, -1)), -1, 1),
        (np.moveaxis(image[None], -1, 1) for image in IMAGES),
        layout="NCHW",
        progress=False,
    ).map
    np.testing.assert_allclose(found, expected, atol=1e-7)
    with pytest.raises(LayoutError, match="channels C"):
        protocols.openerf(lambda x: x, np.ones((2, 5, 5)), layout="NHW")


@pytest.mark.parametrize("bad", [np.zeros((3, 4)), np.full((3, 4), np.nan), np.ones(3)])
def test_openerf_refuses_what_is_no_map(bad):
    with pytest.raises(MapError, match="positive sum"):
        protocols.radial_metrics(bad)


def test_openerf_radii_are_positive():
    with pytest.raises(MapError, match="`radii`"):
        protocols.radial_metrics(np.ones((3, 4)), radii=(5, 0))


def test_luo_map_weighs_runs_alike():
    g = np.random.default_rng(0).standard_normal((4, 5, 7))
    expected = protocols.luo_map(g)
    np.testing.assert_allclose(protocols.luo_map(g * np.array([1e-9, 1, 7, 1e12])[:, None, None]), expected)
    assert expected.sum() == pytest.approx(1)
    with pytest.raises(MapError, match="a net is dead"):
        protocols.luo_map(np.stack([np.ones(3), np.zeros(3)]))


def test_luo2016_finds_the_reported_slopes():
    """Twenty nets of one channel: 0.576 and -0.385 expected; 0.56 and -0.43 were reported, 1/2 is the limit."""
    result = protocols.luo2016()
    assert result.theoretical == (11, 21, 41, 81)
    assert abs(result.slope - 0.576) < 0.03
    assert abs(result.ratio_slope + 0.385) < 0.03
    trend = np.polyfit(np.log(result.depths), np.log(result.theoretical), 1)[0]
    assert result.slope - result.ratio_slope == pytest.approx(trend)
    assert result.slope_stderr == pytest.approx(result.ratio_slope_stderr)
    assert 0.003 < result.slope_stderr < 0.05
    assert [m.shape for m in result.maps] == [(n, n) for n in result.theoretical]
    assert "reported 0.56" in str(result)
    assert result._repr_html_().count("<img") == 1


def test_luo2016_with_an_activation_and_a_key():
    one, two = (protocols.luo2016((2, 4), runs=3, activation="tanh", key=jax.random.key(seed)).sizes for seed in (1, 2))
    assert one != two


@pytest.mark.parametrize("wrong", [{"depths": (5,)}, {"depths": (5, 5)}, {"depths": (0, 5)}, {"runs": 1}])
def test_luo2016_needs_two_of_each(wrong):
    with pytest.raises(MapError, match="A slope needs"):
        protocols.luo2016(**wrong)


def published_rate(distribution, first, last):
    """The ERF rate as the U-Net study computes it: `distribution` (height, width, images), field [first, last]."""
    erf = np.mean(distribution, axis=2)
    length = last - first + 1
    zone = erf[first : first + length, first : first + length]
    counts, edges = np.histogram(zone.ravel(), bins=100)
    middles = (edges[1:] + edges[:-1]) / 2
    for i, count in enumerate(counts):
        window = counts[i - 10 : i + 5]
        if len(window) and count < np.mean(window):
            bright = zone[zone > middles[i]]
            return np.sum(zone > middles[i]) / length**2 * (1 + bright.mean())
    return None


@pytest.mark.parametrize("seed", range(5))
def test_erf_rate_is_that_of_the_study(seed):
    rng = np.random.default_rng(seed)
    distribution = gaussian(40, 20, 3 + seed)[:, :, None] * rng.random((40, 40, 6))
    expected = published_rate(distribution, 6, 34)
    assert protocols.erf_rate(distribution.mean(axis=2), (6, 6), (35, 35)) == pytest.approx(expected, rel=1e-12)


def test_erf_rate_at_its_edges():
    assert protocols.erf_rate(np.full((5, 6), 0.5), (0, 0), (5, 6)) == pytest.approx(1.5)
    assert protocols.erf_rate(np.arange(1000.0).reshape(50, 20), (0, 0), (50, 20)) is None  # every bin holds ten
    with pytest.raises(MapError, match="pixels in the field"):
        protocols.erf_rate(np.ones((5, 6)), (2, 2), (2, 4))
    with pytest.raises(MapError, match="finite"):
        protocols.erf_rate(np.full((5, 6), np.nan), (0, 0), (5, 6))


def test_unet_map_scales_each_image():
    g = np.random.default_rng(0).standard_normal((3, 4, 5))
    g[1] = 0
    found = protocols.unet_map(g)
    one, three = (np.abs(g[i]) for i in (0, 2))
    np.testing.assert_allclose(found, sum((a - a.min()) / (a.max() - a.min()) for a in (one, three)) / 3)


@pytest.mark.parametrize("as_array", [True, False])
def test_unet_study_measures_as_the_study_does(as_array):
    images = IMAGES if as_array else (image[None] for image in IMAGES)
    study = protocols.unet_study(network, images)
    expected = protocols.unet_map(np.abs(gradients(jnp.sum)).sum(-1))
    np.testing.assert_allclose(study.map, expected, atol=1e-6)
    assert (study.start, study.stop) == ((8, 7), (15, 12))
    assert study.trf == (7, 5)
    assert study.images == 5
    assert study.rate == protocols.erf_rate(study.map, study.start, study.stop)
    assert "ERF rate" in str(study)
    assert study._repr_html_().count("<img") == 1


def test_unet_study_needs_images():
    with pytest.raises(MapError, match="at least one image"):
        protocols.unet_study(network, iter(()))


def boxes(drawing):
    """Corner and size of every square and circle that is drawn, once each."""
    return sorted({(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in drawing.axes[0].patches})


def test_pictures_show_what_the_numbers_say():
    values = gaussian(41, 20, 4)[:, 5:]
    squares = protocols.replknet_squares(values, (0.3, 0.9))
    field = EffectiveField(values, None, "relu", 3, (20, 15), None, "measured")
    (_, small, _), (_, large, _) = squares
    y, x = 20, 18  # the pixel n // 2
    drawn = protocols.RepLKNet(field, (*squares, (0.99, None, None))).plot()
    assert boxes(drawn) == [(x - n / 2, y - n / 2, n, n) for n in (large, small)]
    metrics = protocols.radial_metrics(values, (3, 6))
    found = protocols.OpenERF(field, values / values.sum(), metrics, None, None).plot()
    assert [(c.center, c.radius) for c in found.axes[0].patches[::2]] == [((x, y), 3), ((x, y), 6)]
    (masses,) = found.axes[1].lines
    assert masses.get_ydata().tolist() == [0, *metrics["radial_cumulative_mass"].values()]
    study = protocols.UNetStudy(values, (8, 4), (33, 29), (25, 25), 0.5, 3).plot()
    assert boxes(study) == [(3.5, 7.5, 25, 25)]
    assert study.axes[0].get_title() == "dashed: theoretical box; solid: above the threshold"


def test_all_four_side_by_side(tmp_path):
    images = np.random.default_rng(0).normal(size=(3, 24, 30, 3)).astype(np.float32)
    kernel = jax.random.normal(jax.random.key(0), (5, 3, 3, 4))

    def f(x):
        return jnp.tanh(
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )

    found = protocols.all(f, images)
    gradients = [jax.grad(lambda x: f(x)[0, 12, 15].sum())(image[None]) for image in images]
    np.testing.assert_allclose(found.maps["luo2016"], protocols.luo_map(np.abs(gradients).sum((1, 4))), atol=1e-6)
    np.testing.assert_array_equal(found.openerf.map, protocols.openerf(f, images).map)
    assert found.replknet.squares == protocols.replknet(f, images).squares
    assert found.unet_study.rate == protocols.unet_study(f, images).rate
    text = str(found)
    assert all(name in text and said in text for name, said in protocols._all.DEFECTS.items())
    folder = found.save(tmp_path / "four")
    assert sorted(path.name for path in folder.iterdir()) == [
        f"protocols.{end}" for end in ("json", "npz", "png", "txt")
    ]
    with pytest.raises(LayoutError, match="array of images"):
        protocols.all(f, [images[0]])
