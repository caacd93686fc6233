"""The measured reading against dense Jacobians, against theory, and against itself under every way of running it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erfjax.agreement import compare
from erfjax.fields import EffectiveField
from erfjax.layouts import parse
from erfjax.measurement import cone
from erfjax.measurement import model as model_
from erfjax.measurement.cone import cone_of, grouped
from erfjax.readings.empirical import empirical
from erfjax.tracing import trace

STATISTICS = {
    "square": np.square,
    "abs": np.abs,
    "mean": lambda g: g,
    "relu": lambda g: np.maximum(g, 0.0),
}
LAYOUTS = [("NWC", 1), ("NCW", 1), ("NHWC", 2), ("NCHW", 2), ("HWC", 2), ("CHW", 2), ("NDHWC", 3), ("HWNC", 2)]


def kernel_of(dimensions, channels_in=2, channels_out=3, seed=0):
    shape = (*(3, 2, 3)[:dimensions], channels_in, channels_out)
    return np.random.default_rng(seed).normal(size=shape)


def smooth_net(layout, kernel):
    """A strided convolution and tanh, for any layout: transposed to N...C and back."""
    space = "".join(c for c in layout if c in "DHW")
    inner = "N" + space + "C"
    numbers = (inner, space + "IO", inner)

    def f(x):
        full = x if "N" in layout else x[None]
        letters = layout if "N" in layout else "N" + layout
        y = jnp.transpose(full, [letters.index(c) for c in inner])
        strides = (2, 1, 1)[: len(space)]
        weights = jnp.asarray(kernel, y.dtype)
        y = jnp.tanh(jax.lax.conv_general_dilated(y, weights, strides, "SAME", dimension_numbers=numbers))
        y = jnp.transpose(y, [inner.index(c) for c in letters])
        return y if "N" in layout else y[0]

    return f


def oracle(f, rows, layout, unit, statistic, channels):
    """The statistic of dense Jacobians, in NumPy: one row at a time, no scaling, no streaming."""
    maps, jacobian_of = [], jax.jit(jax.jacrev(f))
    for row in rows:
        jacobian = np.asarray(jacobian_of(row), np.float64)
        for letter, position in sorted(zip([c for c in layout if c in "DHW"], unit, strict=True)):
            axis = layout.index(letter)
            jacobian = np.take(jacobian, [position], axis)
        out_channel = layout.index("C")
        if channels == "sum":
            jacobian = jacobian.sum(out_channel, keepdims=True)
        elif channels != "frobenius":
            jacobian = np.take(jacobian, [channels], out_channel)
        summed = tuple(range(len(layout))) + tuple(len(layout) + layout.index(c) for c in "NC" if c in layout)
        maps.append(STATISTICS[statistic](jacobian).sum(summed))
    return np.mean(maps, 0), np.std(maps, 0, ddof=1) / np.sqrt(len(maps))


def rows_for(layout, count, dtype, seed=1):
    sizes = {"D": 4, "H": 7, "W": 5, "C": 2, "N": 1}
    rows = np.random.default_rng(seed).normal(size=(count, *(sizes[c] for c in layout))).astype(dtype)
    stacked = rows if "N" not in layout else np.concatenate(list(rows), layout.index("N"))
    return rows, stacked


@pytest.mark.parametrize(
    ("layout", "dimensions", "precision"),
    [(*case, "float32") for case in LAYOUTS] + [(*LAYOUTS[i], "float64") for i in (0, 3, 6)],
    indirect=["precision"],
)
def test_map_and_standard_error_equal_the_dense_jacobian(layout, dimensions, precision):
    f = smooth_net(layout, kernel_of(dimensions))
    rows, inputs = rows_for(layout, 5, precision)
    unit = (1, 3, 2)[:dimensions]
    field = empirical(f, inputs, layout=layout, unit=unit)
    mean, stderr = oracle(f, rows, layout, unit, "square", "sum")
    tolerance = 1e-5 if precision == "float32" else 1e-12
    np.testing.assert_allclose(field.map, mean, rtol=tolerance, atol=tolerance * mean.max())
    np.testing.assert_allclose(field.stderr, stderr, rtol=20 * tolerance, atol=20 * tolerance * mean.max())
    assert (field.samples, field.unit, field.coverage) == (5, unit, "measured")
    assert field.map.dtype == np.float64


@pytest.mark.parametrize(
    ("statistic", "channels"),
    [*itertools.product(STATISTICS, ["frobenius"]), ("relu", "sum"), ("mean", 2), ("square", 1)],
)
def test_statistics_and_channels(statistic, channels):
    f = smooth_net("NHWC", kernel_of(2))
    rows, inputs = rows_for("NHWC", 4, np.float32)
    units = [(0, 4), (3, 1)]
    fields = empirical(f, inputs, unit=units, statistic=statistic, channels=channels)
    assert isinstance(fields, tuple)
    for unit, field in zip(units, fields, strict=True):
        mean, _ = oracle(f, rows, "NHWC", unit, statistic, channels)
        np.testing.assert_allclose(field.map, mean, rtol=1e-4, atol=1e-5 * np.abs(mean).max())


def test_rms_is_the_root_of_square():
    f = smooth_net("NHWC", kernel_of(2))
    _, inputs = rows_for("NHWC", 6, np.float32)
    square, rms = empirical(f, inputs), empirical(f, inputs, statistic="rms")
    np.testing.assert_allclose(rms.map, np.sqrt(square.map), rtol=1e-12)
    seen = square.map > 0
    np.testing.assert_allclose(rms.stderr[seen], square.stderr[seen] / (2 * rms.map[seen]), rtol=1e-12)


def test_a_short_window_is_differentiated_forwards():
    weights = np.random.default_rng(0).normal(size=(3, 2, 40)).astype(np.float32)

    def f(x):
        return jnp.tanh(jnp.einsum("nwc,wck->nk", x, jnp.asarray(weights)))[:, None]

    inputs = np.random.default_rng(1).normal(size=(4, 3, 2)).astype(np.float32)
    field = empirical(f, inputs, layout="NWC", channels="frobenius")
    jacobians = np.stack([np.asarray(jax.jacrev(f)(x[None])[0, 0, :, 0], np.float64) for x in inputs])
    np.testing.assert_allclose(field.map, (jacobians**2).sum((1, 3)).mean(0), rtol=1e-5)


def test_random_signs_estimate_the_frobenius_norm():
    f = smooth_net("NHWC", kernel_of(2))
    image = rows_for("NHWC", 1, np.float32)[1]
    exact = empirical(f, image, channels="frobenius")
    signs = empirical(
        lambda key, x: f(x), image, key=jax.random.key(3), samples=1500, channels="random-signs", batch_size=500
    )
    seen = exact.map > 0
    assert (np.abs(signs.map - exact.map)[seen] < 5 * signs.stderr[seen] + 1e-6 * exact.map.max()).all()


def sampler(depth, width, activation):
    """Random 3x3 convolutional networks, variance-preserving, fresh for every key; a loop over layers compiles quickly."""

    def f(key, x):
        first, rest = jax.random.split(key)
        scale = lambda fan_in: (9 * fan_in) ** -0.5 * (2**0.5 if activation == "relu" else 1)  # noqa: E731
        kernels = jax.random.normal(rest, (depth - 1, 3, 3, width, width), x.dtype) * scale(width)
        stem = jax.random.normal(first, (3, 3, x.shape[-1], width), x.dtype) * scale(x.shape[-1])

        def layer(x, kernel):
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return (jnp.maximum(y, jnp.zeros((), y.dtype)) if activation == "relu" else y), None

        return jax.lax.scan(layer, layer(x, stem)[0], kernels)[0]

    return f


def uniform_power(n, shape, unit):
    """The n-fold convolution of the uniform 3-tap kernel along both axes, on an image of this shape."""
    line = np.ones(1)
    for _ in range(n):
        line = np.convolve(line, np.ones(3) / 3)
    axes = []
    for size, position in zip(shape, unit, strict=True):
        axis = np.zeros(size)
        for t, value in enumerate(line):
            if 0 <= position - n + t < size:
                axis[position - n + t] = value
        axes.append(axis)
    return np.outer(*axes)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("n", "size", "width", "activation"),
    [
        (5, 13, 32, "relu"),
        *(pytest.param(n, 2 * n + 1, 32, kind, marks=slow) for n in (5, 10, 20) for kind in ("linear", "relu")),
    ],
)
def test_random_networks_measure_the_uniform_power(n, size, width, activation):
    """E g² of random weights obeys the all-ones recursion; inputs have mean zero, or else the gates of neighbours agree."""
    shape = (1, size, size + 2, 3)
    images = lambda key: jax.random.normal(key, shape)  # noqa: E731
    options = {"samples": 200, "channels": "random-signs"}  # a last ReLU makes summed channels go together
    field = empirical(sampler(n, width, activation), images, key=jax.random.key(n), **options)
    theory = uniform_power(n, shape[1:3], field.unit)
    exact = EffectiveField(theory, None, "square", 0, field.unit, field.theoretical, "exact")
    comparison = compare(exact, field, total=False)  # the kernels are those of a distribution
    assert comparison.within_chance, comparison
    assert abs(comparison.size("luo").value - 1) < 0.05, comparison
    assert comparison.total_variation < comparison.noise_floor + 0.02
    assert not field.map[theory == 0].any()


def gated(key, x):
    """Random taps along both axes and a ReLU, without a convolution to compile."""
    taps = jax.random.normal(key, (2, 3), x.dtype)
    moved = (taps[axis, t] * jnp.roll(x, t - 1, axis + 1) for axis in range(2) for t in range(3))
    return jax.nn.relu(sum(moved))


@pytest.fixture(scope="module")
def shallow():
    f = gated
    images = np.random.default_rng(5).normal(size=(3, 6, 8, 3)).astype(np.float32)
    return f, images, empirical(f, images, key=jax.random.key(11), samples=70, batch_size=70)


@pytest.mark.parametrize("batch_size", [7, 33])
def test_batch_size_changes_nothing(shallow, batch_size):
    f, images, whole = shallow
    field = empirical(f, images, key=jax.random.key(11), samples=70, batch_size=batch_size)
    np.testing.assert_allclose(field.map, whole.map, rtol=1e-5, atol=1e-6 * whole.map.max())
    np.testing.assert_allclose(field.stderr, whole.stderr, rtol=1e-4, atol=1e-6 * whole.map.max())
    np.testing.assert_allclose(field.batches, whole.batches, rtol=1e-4, atol=1e-6 * whole.map.max())


def test_sample_i_depends_on_fold_in_alone(shallow):
    f, images, whole = shallow

    @jax.jit
    def gradient(i, x):
        return jax.grad(lambda x: f(jax.random.fold_in(jax.random.key(11), i), x)[0, 3, 4].sum())(x)

    gradients = [gradient(i, images[i % 3][None]) for i in range(70)]
    np.testing.assert_allclose(
        whole.map, np.mean(np.square(gradients, dtype=np.float64), 0).sum((0, -1)), rtol=1e-5, atol=1e-6
    )


def test_rows_batches_and_generators_are_the_same_samples():
    f = smooth_net("NHWC", kernel_of(2))
    rows, inputs = rows_for("NHWC", 7, np.float32)
    whole = empirical(f, inputs, batch_size=3).map
    for other in (list(inputs), (row for row in rows), [inputs[:2], inputs[2:6], inputs[6:]], jnp.asarray(inputs)):
        np.testing.assert_array_equal(empirical(f, other, batch_size=3).map, whole)
    np.testing.assert_array_equal(
        empirical(f, iter(list(inputs)), samples=4, batch_size=3).map, empirical(f, inputs[:4], batch_size=3).map
    )


def test_target_stops_at_the_same_sample_for_every_batch_size(shallow):
    f, images, _ = shallow
    fields = [empirical(f, images, key=jax.random.key(0), target=0.1, batch_size=b) for b in (16, 50)]
    assert fields[0].samples == fields[1].samples < 5000
    assert fields[0].size_stderr() <= 0.1 * fields[0].size()
    total = fields[0].batches.sum((1, 2))
    assert total.std(ddof=1) / np.sqrt(len(total)) <= 0.1 * total.mean()
    missed = empirical(f, images, key=jax.random.key(0), target=1e-6, samples=40)
    assert any("target" in note for note in missed.notes)


def test_error_bars_cover_the_truth():
    """Of 200 repeats the 95 % interval of size and total holds the truth as often as it says (within 3.5 deviations)."""

    def f(key, x):
        weights = jnp.exp(0.4 * jax.random.normal(key, (5,))) * jnp.array([1.0, 3.0, 4.0, 2.0, 1.0])
        return x * weights[None, :, None]

    def g(key, x):
        return f(key, x).sum(1, keepdims=True)

    x = jnp.ones((1, 5, 1))
    truth = np.exp(2 * 0.4**2) * np.array([1.0, 9.0, 16.0, 4.0, 1.0])
    exact = EffectiveField(truth, None, "square", 0, (0,), None, "exact")
    pixels = widths = 0
    for seed in range(200):
        field = empirical(g, x, key=jax.random.key(seed), samples=64, layout="NWC", batch_size=64)
        pixels += np.abs(field.map[2] - truth[2]) < 1.96 * field.stderr[2]
        widths += abs(field.size("sigma") - exact.size("sigma")) < 1.96 * field.size_stderr("sigma")
    deviation = 3.5 * np.sqrt(200 * 0.95 * 0.05)
    assert pixels > 190 - deviation - 6  # squares of log-normal weights are skewed
    assert abs(widths - 190) < deviation


def test_the_same_function_is_traced_and_compiled_once():
    traced, compiled = [], []

    def f(key, x):
        traced.append(1)
        return jnp.tanh(x * jax.random.normal(key, x.shape, x.dtype))

    def draw(key):
        traced.append(1)
        return jax.random.normal(key, (1, 3, 5, 2))

    def listen(event, duration, **facts):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    images = np.ones((4, 3, 5, 2), np.float32)
    for inputs in (images, draw):
        empirical(f, inputs, key=jax.random.key(0), samples=4)
        before = len(traced)
        compiled.clear()
        empirical(f, inputs, key=jax.random.key(1), samples=4)
        assert len(traced) == before
        assert "/jax/core/compile/backend_compile_duration" not in compiled
    empirical(f, images + 1, key=jax.random.key(2), samples=4)
    assert "/jax/core/compile/backend_compile_duration" not in compiled


def test_inputs_that_end_early_are_noted():
    images = np.ones((3, 3, 5, 2), np.float32)
    field = empirical(jnp.tanh, iter(images), samples=5)
    assert field.samples == 3
    assert field.notes == ("the inputs ended after 3 of 5 samples",)


def test_single_precision_does_not_underflow():
    """Gradients of 1e-30 have squares that single precision cannot hold."""
    field = empirical(lambda x: x * jnp.float32(1e-30), np.ones((2, 5, 1), np.float32), layout="NWC")
    np.testing.assert_allclose(field.map[2], float(np.float32(1e-30)) ** 2, rtol=1e-6)


def test_bfloat16():
    f = smooth_net("NHWC", kernel_of(2))
    _, inputs = rows_for("NHWC", 3, np.float32)
    full, half = empirical(f, inputs), empirical(f, jnp.asarray(inputs, jnp.bfloat16))
    np.testing.assert_allclose(half.map, full.map, rtol=0.2, atol=0.05 * full.map.max())


def test_logits_and_tokens():
    weights = np.random.default_rng(0).normal(size=(6, 4, 2, 3)).astype(np.float32)
    images = np.random.default_rng(1).normal(size=(2, 6, 4, 2)).astype(np.float32)
    logits = empirical(lambda x: jnp.einsum("nhwc,hwck->nk", x, jnp.asarray(weights)), images, channels=1)
    np.testing.assert_allclose(logits.map, (weights[..., 1] ** 2).sum(-1), rtol=1e-5)
    assert logits.unit == ()
    tokens = empirical(lambda x: x.reshape(len(x), 24, 2), images, out_layout="NLC", unit=(9,))
    assert tokens.map[2, 1] == 2 * tokens.map.sum() / 2 > 0


def test_units_far_apart_are_measured_apart(monkeypatch):
    """Corners and centre: no window holds all of the image, and every field is the one it has alone."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 2)).astype(np.float32))

    def f(x):
        for _ in range(3):
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jnp.tanh(y / 4)
        return x

    images = np.random.default_rng(1).normal(size=(2, 24, 31, 2)).astype(np.float32)
    units = [(12, 15), (23, 30), (0, 0), (12, 16), (13, 15), (0, 1)]
    program = trace(f, images[:1])
    layout = parse("NHWC", 4)
    groups = grouped(units, lambda some: cone_of(program, layout, layout, some))
    assert groups == [(2, 5), (0, 3), (4,), (1,)]
    fields = empirical(f, images, unit=units, channels="frobenius")
    monkeypatch.setattr(cone, "_groups", lambda traced: [])
    dense = empirical(lambda x: f(x), images, unit=units, channels="frobenius")
    for unit, field, other in zip(units, fields, dense, strict=True):
        assert field.unit == unit
        np.testing.assert_allclose(field.map, other.map, rtol=1e-5, atol=1e-6 * other.map.max())


@pytest.mark.parametrize("cut", [True, False])
def test_weights_inside_a_jitted_function_are_arguments(cut, monkeypatch):
    """A model that was jitted by its user is traced through: its weights are not constants of the program."""
    if not cut:
        monkeypatch.setattr(cone, "_groups", lambda traced: [])
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(600, 500)).astype(np.float32))
    model = jax.jit(lambda x: jnp.tanh(x @ weights))
    f = lambda x: 2 * model(x)  # noqa: E731
    empirical(f, np.ones((1, 3, 600), np.float32), layout="NLC")
    (engine,) = (found.engine for found in model_._kept[f].values() if hasattr(found, "engine"))
    assert any(const.shape == weights.shape for const in jax.tree.leaves(engine.consts))


def test_weights_computed_from_weights_belong_to_the_whole_program():
    """A slice of a weight is first needed inside the test for forward mode; it must not be lost with that inner trace."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 6)).astype(np.float32))
    x = np.random.default_rng(1).normal(size=(2, 5, 2)).astype(np.float32)

    def f(x):
        return jax.lax.conv_general_dilated(
            x, 2 * kernel[:, :, 1:], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )

    units = [0, 1, 2, 3]
    fields = empirical(f, x, layout="NWC", unit=units, channels="frobenius")
    for unit, field in zip(units, fields, strict=True):
        expected = np.square(jax.jacrev(lambda x, unit=unit: f(x)[0, unit])(x[:1])).sum((0, 1, 3))
        np.testing.assert_allclose(field.map, expected, rtol=1e-5)
