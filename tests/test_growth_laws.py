"""Growth laws of families of networks: those of stacks in other words, slopes by hand, and a figure that shows what was found."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.errors import FileFormatError, MapError, SampleError, StackError
from erfjax.layers import AvgPool, Conv, Identity

WIDTH, LENGTH = 8, 65
X = np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
OPTIONS = {"layout": "NWC", "measure": "sigma", "progress": False}


def signs(key, shape, dtype=jnp.float32, **_):
    """Weights of variance 1 / fan-in, exactly."""
    fan = np.asarray(np.sqrt(np.prod(shape[:-1])), np.float32)
    return jax.random.rademacher(key, shape).astype(jnp.float32) / fan


def flax_resnet(n):
    nn = pytest.importorskip("flax.linen", reason="flax is not installed here")

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(n):
                y = nn.Conv(WIDTH, (3,), use_bias=False, kernel_init=signs)(x)
                x = x + nn.Conv(WIDTH, (3,), use_bias=False, kernel_init=signs)(y)
            return x

    model = ResNet()
    params = model.init(jax.random.key(n), X[:1])
    return lambda x: model.apply(params, x)


def equinox_chain(n, dilations, pooled):
    eqx = pytest.importorskip("equinox", reason="equinox is not installed here")
    layers = []
    for i in range(n):
        d = dilations[i % len(dilations)]
        layer = eqx.nn.Conv1d(WIDTH, WIDTH, 3, dilation=d, padding=d, use_bias=False, key=jax.random.key(i))
        kernel = signs(jax.random.key(i), (3, WIDTH, WIDTH)).transpose(2, 1, 0)
        layers += [eqx.tree_at(lambda m: m.weight, layer, kernel), *([eqx.nn.AvgPool1d(2, 2)] if pooled else [])]
    model = eqx.nn.Sequential(layers)
    return lambda x: model(x[0].T).T[None]


FAMILIES = {
    "residual blocks in Flax": (flax_resnet, lambda n: (Identity() + Conv((3,)) ** 2) ** n, (1, 3)),
    "dilations in Equinox": (
        lambda n: equinox_chain(n, (1, 2, 4), pooled=False),
        lambda n: _product([Conv((3,), dilation=(1, 2, 4)[i % 3]) for i in range(n)]),
        (3, 6, 9),
    ),
    "poolings in Equinox": (
        lambda n: equinox_chain(n, (1,), pooled=True),
        lambda n: (Conv((3,)) * AvgPool((2,), stride=2)) ** n,
        (1, 2, 3),
    ),
}


def _product(layers):
    result = layers[0]
    for layer in layers[1:]:
        result = result * layer
    return result


@pytest.mark.filterwarnings("ignore")  # of the frameworks
@pytest.mark.parametrize("name", FAMILIES)
def test_other_frameworks_grow_like_their_stacks(name):
    family, stacks, depths = FAMILIES[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = ej.growth(family, depths, X, samples=200, key=jax.random.key(1), **OPTIONS)
    fields = [stacks(n).analytic(image_shape=(LENGTH,), width=WIDTH, in_channels=WIDTH) for n in depths]
    np.testing.assert_allclose(found.closed_sizes, [field.size("sigma") for field in fields], rtol=1e-4)
    assert found.trf == tuple(float(field.theoretical.size[0]) for field in fields)
    slope = np.polyfit(np.log(depths), np.log([field.size("sigma") for field in fields]), 1)[0]
    size, share = found.laws()
    assert abs(size.measured - slope) < 4 * size.stderr
    assert abs(share.measured - share.closed) < 4 * share.stderr
    assert size.stderr < 0.05
    if "pool" in name:  # the field doubles with every layer
        assert size.closed > 0.6
        assert "not n^0.5; so does the closed form" in str(found.slopes())


@pytest.fixture(scope="module")
def chains():
    """Stacks of unpadded convolutions, read with a sampler and a closed form of their own."""
    noise = {n: lambda key, n=n: jax.random.normal(key, (1, 2 * n + 1, 3)) for n in (2, 4)}
    return ej.growth(
        lambda n: Conv((3,), padding="VALID") ** n,
        (4, 2),
        noise,
        channels="random-signs",
        samples={2: 80, 4: 40},
        predict=(8, 4),
        width=6,
        name="chains",
        **OPTIONS,
    )


def test_both_sides_read_the_same(chains):
    assert (chains.depths, chains.predicted_depths, chains.trf) == ((2, 4), (8,), (5.0, 9.0))
    assert [field.samples for field in chains.measured] == [80, 40]
    np.testing.assert_allclose(chains.closed_sizes, np.sqrt([2 * 2 / 3, 4 * 2 / 3]))
    assert {field.statistic for field in (*chains.closed, *chains.measured)} == {"square"}
    assert {field.metadata["channels"] for field in chains.measured} == {"random-signs"}
    assert chains.predicted[0].size("sigma") == pytest.approx(np.sqrt(16 / 3))
    for size, error, field in zip(chains.sizes, chains.stderrs, chains.measured, strict=True):
        assert (size, error) == (field.size("sigma"), field.size_stderr("sigma"))


def test_functions_are_read_with_exchangeable_and_with_redrawn_weights():
    kernel = np.random.default_rng(1).normal(size=(3, 2, 2)).astype(np.float32)
    x, key, asked = X[:, :9, :2], jax.random.key(4), {"layout": "NWC", "channels": "frobenius"}

    def family(n):
        dims = ("NWC", "WIO", "NWC")
        return lambda x: lax.conv_general_dilated(x, kernel, (1,), "SAME", rhs_dilation=(n,), dimension_numbers=dims)

    found = ej.growth(family, (1, 2), x, channels="frobenius", statistic="abs", samples=3, key=key, **OPTIONS)
    for n, closed, measured in zip((1, 2), found.closed, found.measured, strict=True):
        theory = ej.analytic(family(n), x, weights="exchangeable", statistic="rms", **asked)
        np.testing.assert_allclose(closed.map, np.sqrt(2 / np.pi) * theory.map, rtol=1e-5)  # E|g| of a normal g
        again = ej.empirical(
            ej.redraw(family(n)), x, key=jax.random.fold_in(key, n), samples=3, statistic="abs", **asked
        )
        np.testing.assert_allclose(measured.map, again.map, rtol=1e-5)
        assert (closed.statistic, closed.coverage, measured.statistic) == ("abs", "approximate", "abs")


def test_slopes_and_their_intervals_by_hand(chains):
    size, share = chains.laws()
    (a, b), (ea, eb) = chains.sizes, chains.stderrs
    assert size.measured == pytest.approx(np.log(b / a) / np.log(2))
    assert size.stderr == pytest.approx(np.sqrt((ea / a) ** 2 + (eb / b) ** 2) / np.log(2))
    assert size.closed == pytest.approx(0.5)
    assert size.beyond == pytest.approx(0.5)
    assert share.measured == pytest.approx(size.measured - np.log(9 / 5) / np.log(2))
    assert share.beyond == pytest.approx(0.5 - np.log(17 / 9) / np.log(2))
    (first, last) = (field.interval("sigma") for field in chains.measured)
    low = np.hypot(np.log(b / last.low), np.log(first.high / a)) / np.log(2)  # Zou and Donner's ends, of a difference
    high = np.hypot(np.log(last.high / b), np.log(a / first.low)) / np.log(2)
    assert size.interval == pytest.approx((size.measured - low, size.measured + high))
    assert share.interval[1] - share.interval[0] == pytest.approx(low + high)
    assert size.holds(size.measured + 0.99 * high)
    assert not size.holds(size.measured + 1.01 * high)
    nothing = (float("nan"), float("nan"))
    assert dataclasses.replace(size, stderr=float("nan"), interval=nothing).against(0.5) == "no interval"
    assert dataclasses.replace(size, stderr=0.0, measured=0.4, interval=(0.4, 0.4)).against(0.5) == "other (-0.100)"


def test_the_table_holds_every_depth(chains):
    rows = chains.table().to_dict()
    assert [(row["n"], row["TRF"], row["samples"]) for row in rows] == [(2, 5.0, 80), (4, 9.0, 40), (8, 17.0, 0)]
    assert rows[0]["measured"] == chains.sizes[0]
    assert rows[2]["measured"] is None
    assert rows[0]["95 %"] == "[{:.2f}, {:.2f}]".format(*chains.intervals[0])
    assert "statistic 'square', channels 'random-signs'" in str(chains)


def test_the_figure_shows_measured_sizes_as_markers_and_closed_forms_as_lines(chains):
    drawn = {axes.get_title(): axes for axes in chains.plot().get_axes()}
    for title, scale in (("size of the ERF", (1, 1)), ("its share of the TRF", (1 / 5, 1 / 9))):
        axes = drawn[title]
        (bars,) = axes.containers
        np.testing.assert_allclose(bars[0].get_ydata(), np.array(chains.sizes) * scale)
        spread = np.ptp([segment[:, 1] for segment in bars[2][0].get_segments()], axis=1)
        np.testing.assert_allclose(spread, np.diff(chains.intervals)[:, 0] * scale)
        line = next(line for line in axes.get_lines() if line.get_label().startswith("closed form"))
        np.testing.assert_allclose(line.get_ydata(), np.array(chains.closed_sizes) * scale)
    assert not np.allclose(chains.sizes, chains.closed_sizes, rtol=1e-3)  # or markers could not be told from lines


def test_a_saved_folder_holds_figure_tables_and_maps(chains, tmp_path):
    folder = chains.save(tmp_path / "new" / "folder")
    assert {file.name for file in folder.iterdir()} == {
        "growth.png",
        "growth.npz",
        "growth.txt",
        "growth.json",
        "fields",
    }
    with np.load(folder / "growth.npz") as arrays:
        np.testing.assert_array_equal(arrays["4_measured"], chains.measured[1].map)
        np.testing.assert_array_equal(arrays["8_closed"], chains.predicted[0].map)
    assert (folder / "growth.txt").read_text() == f"{chains}\n"
    again = ej.Growth.load(folder)
    assert str(again) == str(chains)
    assert again.sizes == chains.sizes
    np.testing.assert_array_equal(again.stderrs, chains.stderrs)
    (folder / "fields" / "measured-4.npz").write_text("damaged")
    with pytest.raises(FileFormatError):
        ej.Growth.load(folder)


def test_sizes_leave_as_axes_and_as_a_dataset(chains):
    from matplotlib.figure import Figure

    pytest.importorskip("xarray")
    axes = Figure().subplots()
    assert chains.plot(ax=axes) is axes
    np.testing.assert_allclose(axes.containers[0].lines[0].get_ydata(), chains.sizes)
    found = chains.to_xarray()
    assert found.depth.values.tolist() == list(chains.depths)
    np.testing.assert_array_equal(found.measured, chains.sizes)
    np.testing.assert_array_equal(found.closed, chains.closed_sizes)
    np.testing.assert_allclose(found.predicted, [field.size(chains.measure) for field in chains.predicted])
    shown = chains._repr_html_()
    assert shown.count("<table") == 2
    assert shown.count("data:image/png;base64,") == 1


def flat(n):
    """A function of n dense layers along the channels, one pixel at a time."""
    weights = [jnp.asarray(signs(jax.random.key(i), (WIDTH, WIDTH))) for i in range(n)]

    def f(x):
        for w in weights:
            x = x @ w
        return lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1, 1, 1), "SAME")

    return f


def test_what_limits_a_growth_law_is_said():
    found = ej.growth(lambda n: lambda x: jnp.cumsum(flat(n)(x), 1), (1, 2), X[:, :9], samples=4, **OPTIONS)
    assert found.trf == (None, None)
    assert len(found.laws()) == 1  # no share of an endless field
    cut = ej.growth(lambda n: Conv((3,)) ** n, (1, 9), X[:1, :9], samples=4, **OPTIONS)
    assert "the image cuts the theoretical field at n = 9" in str(cut)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"depths": (3,)}, StackError, "at least 2 different depths"),
        ({"depths": (0, 3)}, StackError, "1 or more"),
        ({"width": 8}, StackError, "build them into it"),
        ({"x": {1: X}}, SampleError, "n = 2"),
        ({"family": lambda n: n}, StackError, "gave int at n = 1"),
        ({"family": lambda n: lambda x: 0 * flat(n)(x)}, SampleError, "dead"),
        ({"measure": "weight"}, MapError, "closed form at n = 1 has no size 'weight'"),
    ],
)
def test_what_makes_no_growth_law_is_refused(options, error, says):
    with pytest.raises(error, match=says):
        ej.growth(**{"family": flat, "depths": (1, 2), "x": X[:, :5], "samples": 2, **OPTIONS} | options)
