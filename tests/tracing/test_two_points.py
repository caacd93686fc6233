"""The covariance of two positions against draws in which gradients meet new weights: at any width and for given data that is its
definition, so that nothing but the noise of the draws may be left. A random contraction there is value(a W) + (a - value(a)) W'.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.tracing import trace
from erfjax.tracing.positions.index_sets import full
from erfjax.tracing.second_moments import closure, pairs
from erfjax.tracing.second_moments.meetings import meeting
from erfjax.tracing.second_moments.passages import passage
from erfjax.tracing.second_moments.segments import partition
from erfjax.tracing.windows.cone import restrict

IMAGE = ("NHWC", "HWIO", "NHWC")
DRAWS, MANY = 3072, 24576  # tails are heavy in the networks with many contractions, which are the slow tests


class Weights:
    """The random contractions of a network: the values of one set of weights, the gradients of another one if there is one."""

    def __init__(self, key=None, values=None, gradients=None):
        self.key, self.values, self.gradients, self.at = key, [] if values is None else values, gradients, 0

    def _apply(self, contract, a, shape, axes):
        if self.key is not None:
            key = jax.random.fold_in(self.key, len(self.values))
            terms = math.prod(shape[:-1])
            self.values.append(jax.random.normal(key, shape) * math.sqrt(2 / terms))
        i, self.at = self.at, self.at + 1
        if self.gradients is None:
            return contract(a, self.values[i])
        w = self.values[i]
        scale = jnp.sqrt(jnp.mean(w**2, axes, keepdims=True))
        fresh = scale * jax.random.normal(jax.random.fold_in(self.gradients, i), shape)
        still = lax.stop_gradient
        return still(contract(a, w)) + contract(a - still(a), fresh)

    def dense(self, a, n):
        return self._apply(lambda a, w: a @ w, a, (a.shape[-1], n), (0, 1))

    def own(self, a, n):
        """A matrix for each token."""
        return self._apply(lambda a, w: jnp.einsum("tc,tcd->td", a, w), a, (*a.shape, n), (0, 1, 2))

    def across(self, a, n):
        """Tokens mixed as they stand, not transposed."""
        return self._apply(lambda a, w: jnp.einsum("tc,ts->sc", a, w), a, (a.shape[0], n), (0, 1))

    def conv(self, a, n, size=3, stride=1, dilation=1, groups=1, grow=1):
        dims = a.ndim - 2
        numbers = IMAGE if dims == 2 else ("NWC", "WIO", "NWC")

        def contract(a, w):
            return lax.conv_general_dilated(
                a,
                w,
                (stride,) * dims,
                "SAME" if grow == 1 else ((size - 1, size - 1),) * dims,
                (grow,) * dims,
                (dilation,) * dims,
                numbers,
                feature_group_count=groups,
            )

        return self._apply(contract, a, (*[size] * dims, a.shape[-1] // groups, n), (dims, dims + 1))


def norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def pool(x, size, stride, most=False):
    dims = x.ndim - 2
    window = (1, *[size] * dims, 1), (1, *[stride] * dims, 1), "VALID"
    if most:
        return lax.reduce_window(x, -jnp.inf, lax.max, *window)
    return lax.reduce_window(x, 0.0, lax.add, *window) / size**dims


def attention(w, y, heads, causal):
    n, d = y.shape
    q, k, v = (w.dense(y, d).reshape(n, heads, d // heads) for _ in range(3))
    scores = jnp.einsum("ihe,jhe->hij", q, k) / math.sqrt(d // heads)
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((n, n), bool)), scores, -1e9)
    return w.dense(jnp.einsum("hij,jhe->ihe", jax.nn.softmax(scores), v).reshape(n, d), d)


def overlapping(w, x):
    """Averages whose windows overlap, before and behind a convolution with a stride; a branch around one of them."""
    h = pool(jax.nn.relu(w.conv(x, 6)), 3, 1)
    h = h + jnp.pad(pool(h, 3, 1), ((0, 0), (1, 1), (0, 0)))
    h = jax.nn.relu(w.conv(h, 5, stride=2))
    return w.conv(pool(h, 2, 1), 4, dilation=2)


def hourglass(w, x):
    """Largest entries on the way down, a transposed convolution and a resize on the way up, joined with what passed by."""
    a = jax.nn.relu(w.conv(x, 4))
    b = jax.nn.relu(w.conv(pool(a, 3, 2, most=True), 5))
    b = w.conv(b, 4, size=2, grow=2)[:, :-1]
    up = jax.image.resize(b, (*a.shape[:3], 4), "bilinear")
    return w.conv(jnp.concatenate([a, up], -1), 3)


def decoder(w, x):
    """Causal attention and a gated layer, normalised before; the mean of the later tokens."""
    h = w.dense(x[0], 8)
    for _ in range(2):
        h = h + attention(w, norm(h), 2, causal=True)
        y = norm(h)
        h = h + w.dense(jax.nn.silu(w.dense(y, 12)) * w.dense(y, 12), 8)
    return h[2:].mean(0, keepdims=True)[None]


def normalised_after(w, x):
    """Attention that sees everything, normalised behind each sum, and a mean over tokens."""
    h = norm(w.dense(x[0], 6))
    for _ in range(2):
        h = norm(h + attention(w, h, 1, causal=False))
    return w.dense(h.mean(0, keepdims=True), 3)[None]


def mixer(w, x):
    """Weights between tokens in turn with weights between channels, and a matrix for each token behind a running sum."""
    h = w.own(jnp.cumsum(w.dense(x[0], 6), 0) / 2, 6)
    h = h + w.across(h, 5)
    h = h + w.dense(jax.nn.gelu(w.dense(norm(h).T, 7)), 5).T
    h = h + w.dense(jax.nn.gelu(w.dense(norm(h), 9)), 6)
    return w.dense(norm(h).mean(0, keepdims=True), 4)[None]


def excited(w, x):
    """Channels scaled by what their means say; residual sums behind rectifiers."""
    h = jax.nn.relu(w.conv(x, 6))
    for _ in range(2):
        h = jax.nn.relu(h + w.conv(norm(w.conv(h, 5)), 6, size=1))
    scale = jax.nn.sigmoid(w.dense(jax.nn.relu(w.dense(h.mean((1, 2)), 3)), 6))
    return w.conv(h * scale[:, None, None, :], 3)


def recurrent(w, x):
    """A linear recurrence whose decay the data choose."""
    y = norm(w.dense(x[0], 6))
    u, decay = w.dense(y, 7), jax.nn.sigmoid(w.dense(y, 7))
    _, states = lax.scan(lambda s, at: (at[1] * s + at[0], at[1] * s + at[0]), jnp.zeros(7), (u, decay))
    return w.dense(jax.nn.silu(states), 4)[None]


def windows(w, x):
    """Attention within windows that are shifted from layer to layer."""
    h = w.dense(x[0], 4)
    for shift in (0, 1):
        y = jnp.roll(norm(h), -shift, (0, 1)).reshape(2, 2, 3, 2, 4).transpose(0, 2, 1, 3, 4).reshape(6, 4, 4)
        q, k, v = (w.dense(y, 4) for _ in range(3))
        o = w.dense(jnp.einsum("wij,wje->wie", jax.nn.softmax(jnp.einsum("wie,wje->wij", q, k) / 2), v), 4)
        h = h + jnp.roll(o.reshape(2, 3, 2, 2, 4).transpose(0, 2, 1, 3, 4).reshape(4, 6, 4), shift, (0, 1))
    return h[None]


NETWORKS = {
    "overlapping": (overlapping, (1, 13, 2), "NWC", (3,)),
    "hourglass": (hourglass, (1, 7, 6, 2), "NHWC", (3, 2)),
    "decoder": (decoder, (1, 5, 3), "NLC", (0,)),
    "normalised after": (normalised_after, (1, 5, 3), "NLC", (0,)),
    "mixer": (mixer, (1, 5, 3), "NLC", (0,)),
    "excited": (excited, (1, 5, 6, 2), "NHWC", (2, 2)),
    "recurrent": (recurrent, (1, 7, 3), "NLC", (6,)),
    "windows": (windows, (1, 4, 6, 2), "NHWC", (1, 3)),
}
QUICK = ("overlapping", "hourglass", "decoder")


def drawn(network, values, x, unit, count):
    """Squared gradients of many sets of gradient weights, summed over channels: mean and standard error per position."""

    def one(key):
        output, pull = jax.vjp(lambda x: network(Weights(values=values, gradients=key), x), x)
        signs = jax.random.rademacher(jax.random.fold_in(key, 999), output.shape[-1:], jnp.float32)
        (gradient,) = pull(jnp.zeros_like(output).at[(0, *unit)].set(signs))
        return jnp.sum(gradient[0] ** 2, -1)

    keys = jax.random.split(jax.random.key(5), count)
    maps = np.asarray(jax.jit(lambda keys: lax.map(one, keys, batch_size=1024))(keys), np.float64)
    return maps.mean(0), maps.std(0) / math.sqrt(count), maps.sum(tuple(range(1, maps.ndim)))


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NETWORKS])
def test_the_map_is_that_of_gradients_that_meet_new_weights(name):
    network, shape, layout, unit = NETWORKS[name]
    x = jax.random.normal(jax.random.key(3), shape)
    made = Weights(jax.random.key(11))
    network(made, x)
    values = made.values
    f = jax.tree_util.Partial(lambda values, x: network(Weights(values=values), x), values)
    field = ej.analytic(
        f, x, unit=unit, layout=layout, weights="exchangeable", channels="random-signs", positions="together"
    )
    count = DRAWS if name in QUICK else MANY
    mean, error, totals = drawn(network, values, x, unit, count)
    reached = mean > 1e-3 * mean.max()
    z = (field.map - mean)[reached] / error[reached]
    assert abs(field.map.sum() - totals.mean()) < 3.5 * totals.std() / math.sqrt(count)
    assert np.abs(z).max() < 4.5, np.round(z, 1)
    assert np.sqrt(np.mean(z**2)) < 1.8
    assert field.coverage == ("exact" if network is overlapping else "approximate"), field.notes
    assert network is overlapping or any("few terms" in note for note in field.notes)


def pieces(f, shape, channels=2):
    """The pieces of a whole function whose every known matrix or kernel is random."""
    program = trace(f, jax.ShapeDtypeStruct(shape, jnp.float32))
    cone = restrict(program, {program.output: full(program.output.shape)})
    last = len(program.output.shape) - 1
    return partition(cone, lambda equation, operand: True, [channels], [last])


def matrix(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_a_residual_stream_is_cut_at_every_layer_and_a_rectified_one_nowhere():
    def net(then):
        def f(x):
            h = x @ matrix(3, 4)
            for _ in range(4):
                h = then(h + norm(h) @ matrix(4, 4))
            return h

        return f

    plain, rectified = (pieces(net(then), (1, 5, 3)) for then in (lambda h: h, jax.nn.relu))
    assert sorted(len(segment.links) for segment in plain.segments.values())[-1] == 2
    assert max(len(segment.links) for segment in rectified.segments.values()) == 5


@pytest.mark.parametrize(
    ("between", "links"),
    [
        (lambda a: jnp.tanh(a) * 2, [(0, 0), (1, 0), (2, 0)]),
        (lambda a: jnp.pad(a, ((0, 0), (2, 0), (0, 0)))[:, :-3], [(0, 0), (1, -2), (2, 0)]),
        (lambda a: a[:, 1:] + a[:, :-1], [(0, 0), None, (2, 0)]),
        (lambda a: a.transpose(0, 2, 1), [(0, 0), (2, 0), (1, 0)]),
        (lambda a: norm(a), [(0, 0), (1, 0), None]),
        (lambda a: a - a.mean(1, keepdims=True), [(0, 0), None, (2, 0)]),
        (lambda a: a.reshape(1, 5, 2, 3).reshape(1, 5, 6), [(0, 0), (1, 0), (2, 0)]),
        (lambda a: jnp.cumsum(a, 1), [(0, 0), None, (2, 0)]),
    ],
)
def test_axes_are_linked_where_one_index_needs_one_index(between, links):
    parts = pieces(lambda x: between(x @ matrix(3, 6)), (1, 5, 3))
    (segment,) = parts.segments.values()
    (found,) = segment.links.values()
    assert [link and (link.axis, link.shift) for link in found][1:] == links[1:]


def test_heads_are_blocks_of_channels():
    def heads(x):
        a = (x @ matrix(3, 6)).reshape(1, 5, 2, 3)
        return jax.nn.softmax(a).reshape(1, 5, 6)

    parts = pieces(heads, (1, 5, 3))
    (segment,) = parts.segments.values()
    (start,) = segment.links
    way = passage(parts, segment, start)
    assert way.local
    assert not way.separate
    assert way.probes.tolist() == np.tile(np.eye(3), 2).tolist()


def test_where_the_covariance_does_not_close_the_field_says_so():
    once, again = jnp.asarray(matrix(4, 4)), jnp.asarray(matrix(4, 5))
    x = jax.random.normal(jax.random.key(0), (1, 6, 4))

    def tied(x):
        h = x + jnp.roll(jnp.tanh(x @ once), 1, 1)
        return jnp.roll(jnp.tanh(h @ once), 1, 1) @ again

    def notes(f, channels):
        field = ej.analytic(f, x, layout="NLC", weights="exchangeable", channels=channels, positions="together")
        return field.coverage, field.notes

    coverage, said = notes(tied, "random-signs")
    assert coverage == "approximate"
    assert any("more than once" in line for line in said[:2])
    alone = jnp.asarray(matrix(3, 1, 4))

    def depthwise(x):
        h = lax.conv_general_dilated(x, alone, (1,), "SAME", (1,), (1,), ("NWC", "WIO", "NWC"), feature_group_count=4)
        return jnp.cumsum(jnp.tanh(h), 1) @ again

    coverage, said = notes(depthwise, "random-signs")
    assert coverage == "approximate"
    assert any("depthwise" in line for line in said[:2])
    causal = jnp.asarray(np.tril(matrix(6, 6)))
    coverage, said = notes(lambda x: norm(causal @ jnp.tanh(x)) @ again, "random-signs")
    assert coverage == "approximate"
    assert any("are zero" in line for line in said[:2])
    coverage, said = notes(lambda x: jnp.tanh(x @ again), "sum")
    assert coverage == "approximate"
    assert any("summed channels" in line for line in said[:2])


def test_positions_are_taken_together_only_where_that_is_needed_and_possible():
    w, v = jnp.asarray(matrix(3, 2, 4)), jnp.asarray(matrix(3, 4, 4))
    x = jax.random.normal(jax.random.key(0), (1, 9, 2))

    def conv(a, w):
        return lax.conv_general_dilated(a, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    def plain(x):
        return conv(jnp.tanh(conv(x, w)), v)

    def pooled(x):
        return conv(pool(jnp.tanh(conv(x, w)), 3, 1), v)

    def taken(f, **options):
        options = {"weights": "exchangeable", "channels": "random-signs", "layout": "NWC", **options}
        field = ej.analytic(f, x, **options)
        return field.metadata["positions"], field.map

    how, found = taken(plain)
    assert how == "apart"
    assert np.array_equal(found, taken(plain, positions="apart")[1])
    np.testing.assert_allclose(found, taken(plain, positions="together")[1], rtol=1e-4, atol=1e-6 * found.max())
    assert taken(pooled)[0] == "together"
    assert taken(pooled, weights="given")[0] == "apart"
    with pytest.raises(ej.errors.SampleError, match="together"):
        taken(pooled, statistic="mean", positions="together")
    with pytest.raises(ej.errors.SampleError, match="exchangeable"):
        taken(pooled, gates="mean-field", weights="given", positions="together")


def bidirectional(w, x):
    """Attention whose keys are scaled and stand first, then sums of products of queries, keys and values with no scores."""
    h = w.dense(x[0], 6)
    q, k, v = (w.dense(norm(h), 6).reshape(-1, 2, 3) for _ in range(3))
    scores = jnp.einsum("jhe,ihe->hji", k * 0.7, q)
    h = h + w.dense(jnp.einsum("hji,jhe->ihe", jax.nn.softmax(scores, 1), v).reshape(-1, 6), 6)
    q, k, v = (w.dense(norm(h), 6).reshape(-1, 2, 3) for _ in range(3))
    h = jnp.einsum("hij,jhe->ihe", jnp.einsum("ihe,jhe->hij", q, -k) / 3, v).reshape(-1, 6)
    return w.dense(w.dense(h, 6).mean(0, keepdims=True), 4)[None]


@pytest.mark.slow
@pytest.mark.parametrize("network", [decoder, bidirectional])
def test_where_two_arrays_meet_a_few_products_stand_for_the_jacobian(network, monkeypatch):
    x = jax.random.normal(jax.random.key(3), (1, 5, 3))
    made, taken = Weights(jax.random.key(11)), []
    network(made, x)

    def field(meeting):
        monkeypatch.setattr(pairs, "meeting", meeting)
        f = jax.tree_util.Partial(lambda values, x: network(Weights(values=values), x), made.values)
        return ej.analytic(
            f, x, layout="NLC", weights="exchangeable", channels="random-signs", positions="together"
        ).map

    def counted(*given):
        found = meeting(*given)
        taken.append(found is not None and found.summed)
        return found

    found, whole = field(counted), field(lambda *given: None)
    np.testing.assert_allclose(found, whole, rtol=2e-4, atol=1e-6 * whole.max())
    assert taken.count(True) == 2


def test_what_costs_too_much_is_taken_apart_and_said(monkeypatch):
    monkeypatch.setattr(closure, "MOST_OPERATIONS", 10.0)
    w = jnp.asarray(matrix(2, 3))
    x = jax.random.normal(jax.random.key(0), (1, 9, 2))
    field = ej.analytic(
        lambda x: jnp.tanh(x - x.mean(1, keepdims=True)) @ w,
        x,
        layout="NWC",
        weights="exchangeable",
        channels="random-signs",
    )
    assert field.metadata["positions"] == "apart"
    assert any("operations" in note for note in field.notes)
