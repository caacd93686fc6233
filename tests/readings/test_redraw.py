"""Weights drawn anew: in every framework, for every contraction, per tap, once for all uses; and the closed form agrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.tree_util import Partial

import erfjax as ej

KEYS = jax.random.split(jax.random.key(5), 1000)
CHANNELS, HIDDEN, OUT = 2, 6, 3
TAPS = np.array([0.1, 1.0, 0.4])  # of the first kernel: far from even


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


KERNEL = normal(0, 3, CHANNELS, HIDDEN) * TAPS[:, None, None].astype(np.float32)
BIAS, DENSE, SHIFT = normal(1, HIDDEN), normal(2, HIDDEN, OUT), normal(3, OUT)


def linen():
    nn = pytest.importorskip("flax.linen", reason="flax is not installed here")
    model = nn.Sequential([nn.Conv(HIDDEN, (3,)), nn.Dense(OUT)])
    params = {"layers_0": {"kernel": KERNEL, "bias": BIAS}, "layers_1": {"kernel": DENSE, "bias": SHIFT}}
    return model, {"params": jax.tree.map(jnp.asarray, params)}


def linen_closure():
    model, variables = linen()
    return lambda x: model.apply(variables, x)


def linen_partial():
    model, variables = linen()
    return Partial(model.apply, variables)


def linen_bound():
    model, variables = linen()
    return model.bind(variables)


def nnx():
    nn = pytest.importorskip("flax.nnx", reason="flax is not installed here")
    conv = nn.Conv(CHANNELS, HIDDEN, (3,), rngs=nn.Rngs(0))
    dense = nn.Linear(HIDDEN, OUT, rngs=nn.Rngs(1))
    for layer, kernel, bias in ((conv, KERNEL, BIAS), (dense, DENSE, SHIFT)):
        layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
    return nn.Sequential(conv, dense)


def equinox():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed here")
    conv = eqx.nn.Conv1d(CHANNELS, HIDDEN, 3, padding=1, key=KEYS[0])
    dense = eqx.nn.Linear(HIDDEN, OUT, key=KEYS[0])
    conv = eqx.tree_at(lambda m: (m.weight, m.bias), conv, (jnp.asarray(KERNEL.T), jnp.asarray(BIAS[:, None])))
    dense = eqx.tree_at(lambda m: (m.weight, m.bias), dense, (jnp.asarray(DENSE.T), jnp.asarray(SHIFT)))
    return lambda x: jax.vmap(dense)(conv(x[0].T).T)[None]


def haiku():
    hk = pytest.importorskip("haiku", reason="haiku is not installed here")
    net = hk.transform(lambda x: hk.Linear(OUT, name="dense")(hk.Conv1D(HIDDEN, 3, name="conv")(x)))
    params = {"conv": {"w": KERNEL, "b": BIAS}, "dense": {"w": DENSE, "b": SHIFT}}
    return lambda x: net.apply(params, None, x)


def keras():
    keras = pytest.importorskip("keras", reason="keras is not installed here")
    layers = [keras.layers.Conv1D(HIDDEN, 3, padding="same"), keras.layers.Dense(OUT)]
    model = keras.Sequential([keras.Input((7, CHANNELS)), *layers])
    model.set_weights([KERNEL, BIAS, DENSE, SHIFT])
    return lambda x: model(x)


def plain():
    def conv(x):
        return lax.conv_general_dilated(x, KERNEL, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    return lambda x: (conv(x) + BIAS[None, None]) @ DENSE + SHIFT[None, None]


@pytest.mark.filterwarnings("ignore")  # of the frameworks
@pytest.mark.parametrize(
    "make",
    [linen_closure, linen_partial, linen_bound, nnx, equinox, haiku, keras, plain],
    ids=lambda make: make.__name__,
)
def test_every_framework_keeps_biases_and_the_variance_of_every_tap(make):
    """A convolution and a dense layer of given weights: mean and variance of what comes out, over draws."""
    x = np.zeros((1, 7, CHANNELS), np.float32)
    x[0, 3] = 1.0, -2.0
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        f = make()
        given = (
            lax.conv_general_dilated(x, KERNEL, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")) + BIAS
        ) @ DENSE
        np.testing.assert_allclose(f(x), given + SHIFT, rtol=0, atol=1e-5)  # the model is the one described here
        g = ej.redraw(f)
        y = np.asarray(jax.jit(jax.vmap(g, (0, None)))(KEYS, x))[:, 0]
    taps, scale = np.square(KERNEL).mean((1, 2)), np.square(DENSE).mean()
    reach = np.zeros(7)
    reach[2:5] = taps[::-1] * np.square(x[0, 3]).sum() * HIDDEN
    expected = (scale * (reach + np.square(BIAS).sum()))[:, None] * np.ones(OUT)
    away = y - SHIFT
    for values, mean in ((away, np.zeros((7, OUT))), (away**2, expected)):
        assert (np.abs(values.mean(0) - mean) < 5 * values.std(0) / np.sqrt(len(KEYS))).all()
    assert g.notes[0].startswith("2 weights drawn anew")


def conv(x, w, dims=("NWC", "WIO", "NWC"), stride=1, **options):
    return lax.conv_general_dilated(x, w, (stride,) * (w.ndim - 2), "SAME", dimension_numbers=dims, **options)


def stacked(x, w):
    return lax.scan(lambda x, kernel: (x @ kernel, None), x, w)[0]


LINEAR = {  # one weight, of which every entry of the Jacobian is at most one entry: (function, shape of x and of w, channel axes)
    "strided": (lambda x, w: conv(x, w, stride=2), (1, 9, 2), (3, 2, 4), (1, 2)),
    "grouped": (lambda x, w: conv(x, w, feature_group_count=2), (1, 5, 4), (3, 2, 6), (1, 2)),
    "depthwise": (lambda x, w: conv(x, w, feature_group_count=4), (1, 5, 4), (3, 1, 4), (1, 2)),
    "transposed": (
        lambda x, w: lax.conv_transpose(x, w, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")),
        (1, 4, 2),
        (3, 2, 3),
        (1, 2),
    ),
    "planes": (lambda x, w: conv(x, w, ("NCHW", "OIHW", "NCHW")), (1, 2, 4, 3), (3, 2, 3, 2), (0, 1)),
    "volume": (lambda x, w: conv(x, w, ("NDHWC", "DHWIO", "NDHWC")), (1, 2, 3, 2, 2), (2, 3, 2, 2, 2), (3, 4)),
    "dense": (lambda x, w: x @ w, (1, 5, 3), (3, 4), (0, 1)),
    "heads": (lambda x, w: jnp.einsum("nlc,chd->nhld", x, w), (1, 3, 4), (4, 2, 3), (0, 1, 2)),
    "bfloat16": (
        lambda x, w: (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(jnp.float32),
        (1, 2, 3),
        (3, 4),
        (0, 1),
    ),
    "nested": (lambda x, w: jax.checkpoint(jax.jit(lambda x: jax.jit(conv)(x, w)))(x), (1, 5, 2), (3, 2, 3), (1, 2)),
    "masked": (lambda x, w: conv(x, w * np.array([1, 0, 1], np.float32)[:, None, None]), (1, 5, 2), (3, 2, 3), (1, 2)),
    "chosen": (
        lambda x, w: lax.cond(x.sum() > -9, lambda x: conv(x, w), lambda x: 2 * conv(x, w), x),
        (1, 5, 2),
        (3, 2, 3),
        (1, 2),
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_every_contraction_is_drawn_entry_by_entry(name):
    apply, shape, weights, channels = LINEAR[name]
    taps = tuple(1 if a in channels else n for a, n in enumerate(weights))
    w = normal(1, *weights) * np.linspace(0.3, 1.0, np.prod(taps), dtype=np.float32).reshape(taps)
    g = ej.redraw(lambda x: apply(x, w))
    x = jnp.zeros(shape)
    drawn = np.asarray(jax.jit(jax.vmap(jax.jacrev(g, 1), (0, None)))(KEYS, x))
    deviation = np.broadcast_to(np.sqrt(np.square(w).mean(channels, keepdims=True)), w.shape)
    known = jax.jit(jax.vmap(jax.jacrev(lambda w, x: apply(x, w), 1), (0, None)))(np.stack([w, deviation]), x)
    given, expected = np.asarray(known[0]), np.square(np.asarray(known[1]))
    for one in drawn[:3]:
        assert ((one != 0) == (given != 0)).all()
        assert len(np.unique(one)) == len(np.unique(given))  # no two entries share a draw
    for values, mean in ((drawn, 0 * expected), (np.square(drawn), expected)):
        rounding = 2e-2 * expected if name == "bfloat16" else 1e-5 * expected
        assert (np.abs(values.mean(0) - mean) <= 5 * values.std(0) / np.sqrt(len(KEYS)) + rounding).all()


def test_the_steps_of_a_stack_are_independent_and_each_of_its_own_variance():
    w = normal(0, 3, 4, 4) * np.array([1, 2, 3], np.float32)[:, None, None]
    y = jax.vmap(ej.redraw(lambda x: stacked(x, w)), (0, None))(KEYS, jnp.ones((1, 4)))
    square = np.square(np.asarray(y)).mean((1, 2))
    expected = 4 * np.prod(4 * np.square(w).mean((1, 2))) / 4
    assert abs(square.mean() - expected) < 5 * square.std() / np.sqrt(len(KEYS))
    assert square.std() > 0.1 * expected


@pytest.mark.parametrize(
    "pair",
    [
        lambda w: (w, w.T),
        lambda w: (w.astype(jnp.float16).astype(jnp.float32), jnp.transpose(w)),
        lambda w: (jnp.reshape(w, (-1, 4)), w[None, :, :][0].T),
        lambda w: (w / jnp.linalg.norm(w), (w / jnp.linalg.norm(w)).T),
    ],
    ids=["transposed", "cast", "reshaped", "normalised"],
)
def test_tied_weights_are_drawn_once(pair):
    w = jnp.asarray(normal(0, 4, 4))

    def f(x):
        first, second = pair(w)
        return x @ first @ second

    g = ej.redraw(f)
    matrix = np.asarray(jax.jacobian(g, 1)(KEYS[0], jnp.ones(4)))
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-2 * np.abs(matrix).max())
    assert (np.linalg.eigvalsh(matrix) > -1e-3).all()
    assert any("drawn once" in note for note in g.notes)
    same = ej.redraw(lambda x: x @ w @ jnp.asarray(np.asarray(w)).T)  # equal, but another array
    matrix = np.asarray(jax.jacobian(same, 1)(KEYS[0], jnp.ones(4)))
    assert np.abs(matrix - matrix.T).max() > 0.1 * np.abs(matrix).max()


def test_a_recurrence_meets_the_same_draw_at_every_step():
    w = normal(0, 3, 3)
    f = lambda x: lax.fori_loop(0, 3, lambda i, y: y @ w, x)  # noqa: E731
    g = ej.redraw(f)
    cube, one = (np.asarray(jax.jacobian(h, 1)(KEYS[1], jnp.ones(3))) for h in (g, ej.redraw(lambda x: x @ w)))
    np.testing.assert_allclose(cube, one @ one @ one, rtol=1e-4)
    assert any("drawn once" in note for note in g.notes)


def test_filters_and_what_multiplies_entry_by_entry_are_kept():
    blur = jnp.asarray(np.array([0.25, 0.5, 0.25], np.float32)[:, None, None] * np.ones((1, 1, 4), np.float32))
    f = lambda x: conv(x, blur, feature_group_count=4) * normal(0, 1, 1, 4) + 1  # noqa: E731
    g, x = ej.redraw(f), jnp.asarray(normal(1, 1, 5, 4))
    np.testing.assert_array_equal(g(KEYS[0], x), f(x))
    assert g.notes[0] == "0 weights drawn anew"
    assert any("fixed filters" in note for note in g.notes)


def ring(n=12):
    """The adjacency of a ring, each node with itself, as a graph convolution takes it."""
    near = np.eye(n) + np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)
    return (near / 3).astype(np.float32)


@pytest.mark.parametrize("mixing", [ring(), ring() - np.eye(12, dtype=np.float32), np.tril(ring())])
def test_a_graph_is_fixed_and_its_closed_form_exact(mixing):
    """Two rounds on one graph: paths over different nodes meet the same weights."""
    a, b = normal(0, 64, 64) / 8, normal(1, 64, 64) / 8
    f = lambda x: mixing @ (mixing @ x @ a) @ b  # noqa: E731
    g, x = ej.redraw(f), jnp.asarray(normal(2, 12, 64))
    assert not np.allclose(g(KEYS[0], x), f(x))
    assert any("fixed filters" in note for note in g.notes)
    field = ej.analytic(f, x, layout="LC", unit=5, weights="exchangeable", channels="random-signs")
    assert field.coverage == "exact"
    expected = np.square(mixing.astype(float) @ mixing)[5]
    np.testing.assert_allclose(field.normalised(), expected / expected.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("w", "lost"),
    [
        (np.roll(np.eye(8), 1, 0), "zeros between channels"),
        (np.linalg.qr(normal(0, 12, 6))[0], "orthogonal"),
        (normal(0, 12, 2) @ normal(1, 2, 9), "low rank"),
        (np.abs(normal(0, 12, 9)), "a mean"),
        (normal(0, 12, 9), None),
    ],
)
def test_structure_that_is_lost_is_named(w, lost):
    w = jnp.asarray(w, jnp.float32)
    g = ej.redraw(lambda x: x @ w)
    assert "not traced yet" in repr(g)
    g(KEYS[0], jnp.ones((2, len(w))))
    said = [note for note in g.notes if note.startswith("lost")]
    assert (lost is None and not said) or any(lost in note for note in said)
    assert all(note in repr(g) for note in g.notes)


def test_weights_inside_a_derivative_of_its_own():
    """An operand of such a function is drawn; what its body makes of a constant of its own is kept, and said to be."""
    w = jnp.asarray(normal(0, 3, 3))

    @jax.custom_vjp
    def dense(x, w):
        return x @ w

    dense.defvjp(lambda x, w: (x @ w, (x, w)), lambda held, ct: (ct @ held[1].T, held[0].T @ ct))
    x = jnp.ones((2, 3))
    g, plain = ej.redraw(lambda x: dense(x, w)), ej.redraw(lambda x: x @ w)
    np.testing.assert_array_equal(g(KEYS[0], x), plain(KEYS[0], x))
    np.testing.assert_array_equal(*(jax.grad(lambda x, h=h: jnp.square(h(KEYS[0], x)).sum())(x) for h in (g, plain)))


def test_under_jit_weights_may_be_traced():
    w, x = jnp.asarray(normal(0, 3, 4)), jnp.asarray(normal(1, 2, 3))
    inside = jax.jit(lambda w, key, x: ej.redraw(lambda x: jnp.tanh(x @ w))(key, x))(w, KEYS[0], x)
    np.testing.assert_allclose(inside, ej.redraw(lambda x: jnp.tanh(x @ w))(KEYS[0], x), rtol=1e-5)


def test_functions_of_several_arrays_and_with_several_outputs():
    w = jnp.asarray(normal(0, 3, 4))
    g = ej.redraw(lambda x: {"sum": x["a"] @ w + x["b"] @ w, "b": x["b"]})
    x = {"a": jnp.asarray(normal(1, 2, 3)), "b": jnp.asarray(normal(2, 2, 3))}
    y = g(KEYS[0], x)
    drawn = ej.redraw(lambda x: x @ w)(KEYS[0], jnp.eye(3))
    np.testing.assert_allclose(y["sum"], (x["a"] + x["b"]) @ drawn, rtol=1e-5)
    np.testing.assert_array_equal(y["b"], x["b"])


def corners(seed, *shape):
    """Weights of unequal variance along the taps, most of it at one end."""
    taps = np.linspace(1.5, 0.2, shape[0], dtype=np.float32)
    return jnp.asarray(normal(seed, *shape) * taps[:, None, None] / np.sqrt(shape[0] * shape[1]).astype(np.float32))


@pytest.mark.parametrize("channels", ["sum", "random-signs"])
def test_the_closed_form_is_what_redrawn_weights_measure(channels):
    """Unequal taps, a bias, a norm's scale and a shortcut: pixels, total and σ within five standard errors."""
    weights = [corners(0, 4, 2, 24), corners(1, 3, 24, 24), corners(2, 2, 24, 8)]
    bias, scale = jnp.asarray(normal(3, 24)), jnp.asarray(normal(4, 24))

    def f(x):
        x = conv(x, weights[0]) + bias[None, None]
        x = x + scale[None, None] * conv(x, weights[1])
        return conv(x, weights[2])

    x = jnp.asarray(normal(5, 4, 15, 2))
    closed = ej.analytic(f, x, layout="NWC", weights="exchangeable", channels=channels)
    assert closed.coverage == "exact"
    measured = ej.empirical(ej.redraw(f), x, key=KEYS[0], samples=1500, layout="NWC", channels=channels)
    found = ej.compare(closed, measured)
    for ratio in (found.total, found.size("sigma")):
        assert abs(ratio.value - 1) < 5 * ratio.stderr
        assert ratio.stderr < 0.05
    z = np.abs(closed.map - measured.map)[closed.map > 0] / measured.stderr[closed.map > 0]
    assert (z < 5).all()
    assert abs(closed.map @ np.arange(15) / closed.map.sum() - 7) > 0.5  # lopsided: a mean over taps would be seen


def test_gates_of_the_mean_field_meet_redrawn_rectifiers():
    weights = [corners(0, 3, 2, 64), corners(1, 3, 64, 64), corners(2, 3, 64, 8)]

    def f(x):
        for w in weights[:-1]:
            x = jax.nn.relu(conv(x, w))
        return conv(x, weights[-1])

    x = jnp.asarray(normal(5, 8, 11, 2))
    closed = ej.analytic(f, x, layout="NWC", weights="exchangeable", gates="mean-field")
    measured = ej.empirical(ej.redraw(f), x, key=KEYS[0], samples=1000, layout="NWC")
    found = ej.compare(closed, measured)
    for ratio in (found.total, found.size("sigma")):
        assert abs(ratio.value - 1) < 5 * ratio.stderr
    assert ej.empirical(ej.redraw(lambda x: f(x)), x, key=KEYS[1], samples=4, layout="NWC").map.any()


def test_devices_of_a_mesh_measure_the_same():
    w = corners(0, 3, 2, 4)
    g, x = ej.redraw(lambda x: conv(x, w)), jnp.asarray(normal(0, 1, 6, 2))
    mesh = jax.make_mesh((1,), ("samples",))
    one, other = (ej.empirical(g, x, key=KEYS[0], samples=8, layout="NWC", mesh=m) for m in (None, mesh))
    np.testing.assert_allclose(one.map, other.map, rtol=1e-6)
