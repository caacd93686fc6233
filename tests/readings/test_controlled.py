"""The control of a measured field: its mean is zero, it goes with the total, and fields with it are the same fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import SampleError
from erfjax.measurement import controlled
from erfjax.measurement.cone import cone_of, probe_of
from erfjax.readings.question import ask, one_sample
from erfjax.tracing.second_moments import mirrored

DIMS = ("NWC", "WIO", "NWC")


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=DIMS)


def network(act, *, between=lambda x: x, bias=0.0, shortcut=False, tied=False, width=6, depth=4):
    """A network of 3 taps that draws its weights: nothing in it is balanced."""

    def f(key, x):
        def normal(i, shape, scale):
            return scale * jax.random.normal(jax.random.fold_in(key, i), shape)

        x = conv(x, normal(0, (3, x.shape[-1], width), 0.6))
        for i in range(1, depth):
            h = act(
                conv(x, normal(1 if tied else i, (3, width, width), 0.3)) + bias * normal(100 + i, (1, 1, width), 1)
            )
            h = between(h)
            x = x + conv(h, normal(50 + i, (1, width, width), 0.4)) if shortcut else h
        return x

    return f


def question(f, shape=(1, 9, 2)):
    sample, inputs = one_sample(np.ones(shape, np.float32), "NWC")
    (one,) = ask(f, sample, inputs, key=jax.random.key(0)).each
    return one


def cone(f):
    asked = question(f)
    return cone_of(asked.program(), asked.source, asked.target, asked.units)


def pool(x):
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 3, 1), (1, 1, 1), "SAME")


def totals(f, draws):
    """Totals of single samples, and their controls."""
    asked = question(f)
    probe = probe_of(asked)
    one, _ = controlled.sample_maps(asked, probe, "square", "random-signs")

    def run(key):
        x = jax.random.normal(jax.random.fold_in(key, 1), asked.spec.shape)
        maps, exponents, _ = one(asked.consts, key, probe.crop(x))
        return jnp.ldexp(maps.sum(1), 2 * exponents)

    found = jax.jit(lambda keys: jax.lax.map(run, keys, batch_size=100))(jax.random.split(jax.random.key(7), draws))
    return np.asarray(found, np.float64).T


NETWORKS = {
    "relu": network(jax.nn.relu),
    "biases": network(jax.nn.gelu, bias=0.5),
    "shortcuts": network(jax.nn.silu, shortcut=True, bias=0.3),
    "pools": network(jax.nn.relu, between=pool, shortcut=True),
    "even slopes": network(jnp.tanh),
    "tied": network(jax.nn.relu, tied=True),
    "twice behind one layer": network(jax.nn.relu, between=lambda h: jax.nn.gelu(pool(h) - 0.4)),
    "gated": network(lambda z: z * jax.nn.sigmoid(jnp.flip(z, -1))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_control_has_no_mean(name):
    total, control = totals(NETWORKS[name], 20000)
    assert abs(control.mean()) < 4 * control.std() / 20000**0.5
    assert np.corrcoef(total, control)[0, 1] > 0.02


def test_the_control_of_a_small_network_has_no_mean_and_goes_with_the_total():
    total, control = totals(network(jax.nn.gelu, bias=0.5, width=4, depth=2), 3000)
    assert abs(control.mean()) < 4 * control.std() / 3000**0.5
    assert np.corrcoef(total, control)[0, 1] > 0.3


def test_weights_with_one_use_are_turned_and_no_others():
    found = mirrored.drawn(cone(NETWORKS["shortcuts"]))
    assert (len(found.variances), found.kept) == (7, 0)
    np.testing.assert_allclose(
        sorted(v.max() for v in found.variances.values()), [0.09] * 3 + [0.16] * 3 + [0.36], rtol=1e-6
    )
    tied = mirrored.drawn(cone(NETWORKS["tied"]))
    assert (len(tied.variances), tied.kept) == (1, 3)

    def transposed(key, x):  # an autoencoder whose decoder is its encoder, drawn at once with a third matrix
        numbers = jax.random.normal(key, (12,))
        w = numbers[:8].reshape(2, 4)
        return jax.nn.relu(x @ w) @ (2 * w.T) @ numbers[8:].reshape(2, 2)

    found = mirrored.drawn(cone(transposed))
    assert (len(found.variances), found.kept) == (1, 2)
    w = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    redrawn = ej.redraw(lambda x: jax.nn.relu(x @ w))
    (variance,) = mirrored.drawn(cone(redrawn)).variances.values()
    np.testing.assert_allclose(variance, np.mean(w.astype(float) ** 2), rtol=1e-5)


def attention(key, x):
    w = jax.random.normal(key, (2, 2))
    return jax.nn.softmax(x @ w @ jnp.swapaxes(x, 1, 2)) @ x


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"f": lambda x: x, "key": None}, "pass a key"),
        ({"statistic": "abs"}, "E\\[g²\\]"),
        ({"unit": "all"}, "give units"),
        ({"variance": "less"}, "plain"),
        ({"f": lambda key, x: jnp.tanh(x * jax.random.normal(key))}, "ej.redraw"),
        ({"f": lambda key, x: x @ jax.random.uniform(key, (2, 2))}, "jax.random.normal"),
        ({"f": attention}, "depends on the data"),
    ],
)
def test_where_there_is_no_control_it_is_refused(options, words):
    options = {"f": network(jax.nn.relu), "key": jax.random.key(0), "variance": "control", **options}
    with pytest.raises(SampleError, match=words):
        ej.empirical(options.pop("f"), np.ones((1, 9, 2), np.float32), samples=2, layout="NWC", **options)


def test_a_field_with_a_control_is_the_field_of_its_samples_less_what_the_control_explains(tmp_path):
    f = network(jax.nn.relu, width=4, depth=2)
    x = jax.random.normal(jax.random.key(2), (24, 9, 2))
    options = {"key": jax.random.key(1), "samples": 24, "layout": "NWC", "channels": "frobenius", "batch_size": 4}
    plain, less = (ej.empirical(f, x, variance=v, **options) for v in ("plain", "control"))
    batches = plain.batches - less.batches  # β d: the same control for all pixels
    singular = np.linalg.svd(batches / np.abs(batches).max(), compute_uv=False)
    assert singular[0] > 3 * singular[1]
    np.testing.assert_allclose(less.map, less.batches.mean(0), rtol=1e-6)
    np.testing.assert_allclose(less.record.column("total"), less.batches.sum(1), rtol=1e-6)
    assert less.interval("total").high > less.map.sum() > less.interval("total").low
    assert any("times as many samples" in note for note in less.notes)
    again = ej.empirical(f, x, variance="control", checkpoint=tmp_path / "run", **options)
    np.testing.assert_array_equal(again.map, less.map)
    few = ej.empirical(f, x, variance="control", **{**options, "samples": 4})
    np.testing.assert_allclose(few.map, plain.batches[:4].mean(0), rtol=1e-5)
    assert any("not used" in note for note in few.notes)


def test_auto_takes_the_control_where_it_pays_and_no_other_way(monkeypatch):
    x = jax.random.normal(jax.random.key(2), (12, 9, 2))
    options = {"key": jax.random.key(1), "samples": 12, "layout": "NWC", "channels": "frobenius"}

    def measure(f, **more):
        return ej.empirical(f, x, **{**options, **more})

    for pays, taken in ((0.0, "control"), (np.inf, "plain")):
        monkeypatch.setattr(controlled, "PAYS", pays)
        monkeypatch.setattr(controlled, "PILOTS", 16)
        f = network(jax.nn.relu, width=4, depth=2)
        one, same = measure(f, variance="auto"), measure(f, variance=taken)
        np.testing.assert_array_equal(one.map, same.map)
        assert one.notes == same.notes
    monkeypatch.setattr(controlled, "PAYS", 0.0)
    assert measure(attention, variance="auto", layout="NLC").samples == 12  # there is no control
    assert measure(f, variance="auto", statistic="abs", channels="sum").samples == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "channels", "expected"),
    [("relu", "frobenius", True), ("relu", "random-signs", False), ("tanh", "frobenius", False)],
)
def test_the_control_pays_where_it_saves_more_than_it_costs(act, channels, expected):
    stack = (ej.layers.Conv((3,)) * ej.layers.Activation(act)) ** 5
    sample, inputs = one_sample(np.ones((1, 11, 1), np.float32), "NWC")
    (asked,) = ask(stack.sampler(width=32), sample, inputs, key=jax.random.key(0)).each
    assert controlled.pays(asked, probe_of(asked), "square", channels) is expected


@pytest.mark.slow
@pytest.mark.parametrize(("width", "channels", "least"), [(32, "frobenius", 2.0), (8, "random-signs", 1.0)])
def test_what_the_control_is_worth(width, channels, least):
    stack = (ej.layers.Conv((3,)) * ej.layers.Activation("relu")) ** 5
    f, x = stack.sampler(width=width), jax.random.normal(jax.random.key(0), (4096, 11, 1))
    options = {"samples": 2000, "layout": "NWC", "channels": channels, "key": jax.random.key(1), "progress": False}
    plain, less = (ej.empirical(f, x, variance=v, **options) for v in ("plain", "control"))
    assert plain.batches.sum(1).var() > least * less.batches.sum(1).var()
    assert (less.stderr**2 < 1.05 * plain.stderr**2).all()
    error = less.batches.sum(1).std() / 2000**0.5
    assert abs(less.map.sum() - stack.analytic(width=width, channels=channels).map.sum()) < 4 * error
    assert less.map.sum() in less.interval("total")
