"""Causality, look-back and look-ahead of every position, against Jacobians; who leaks; chunks that are the whole."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from jax import lax

import erfjax as ej
from erfjax.cli import main
from erfjax.errors import ErfjaxError, GeometryError, LayoutError
from tests import oracles
from tests.decisions.networks import causal, conv, tcn


def sequence(n, channels=2):
    return jax.ShapeDtypeStruct((1, n, channels), jnp.float32)


def normalised(x):
    """A batch norm over time inside a causal network."""
    with jax.named_scope("first"):
        x = causal(x, 3)
    with jax.named_scope("norm"):
        x = (x - x.mean((0, 1), keepdims=True)) * lax.rsqrt(x.var((0, 1), keepdims=True) + 1e-3)
    return tcn(x, 3)


def padded_both_sides(x):
    x = tcn(x, 3)
    with jax.named_scope("same"):
        x = conv(x, 5, 2)
    return tcn(x, 2)


def reversed_scan(x):
    def step(state, row):
        state = jnp.tanh(state + row)
        return state, state

    return lax.scan(step, jnp.zeros(x.shape[2]), x[0], reverse=True)[1][None]


def shifted_target(x):
    return tcn(jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], 1), 2)


def off_by_one(x):
    """A triangle of ones that reaches one too far."""
    n = x.shape[1]
    return jnp.einsum("ts,nsc->ntc", jnp.tril(jnp.ones((n, n)), 1), x)


def strided(x):
    """Down by two, causal layers, up again, and a skip."""
    return jnp.repeat(tcn(causal(x, 4, stride=2), 2), 2, 1) + x


def cumulative(x):
    return jnp.cumsum(causal(x, 3), 1)


def ahead(x):
    return jnp.pad(x, ((0, 0), (0, 2), (0, 0)))[:, 2:] + x


def valid(x):
    return conv(conv(x, 10, stride=5, padding="VALID"), 8, stride=4, padding="VALID")


MODELS = [
    tcn,
    normalised,
    padded_both_sides,
    reversed_scan,
    shifted_target,
    off_by_one,
    strided,
    cumulative,
    ahead,
    valid,
]


def reach(f, n):
    """Look-back and look-ahead of all units from the support of the Jacobian; each stands for [t·s, (t + 1)·s)."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, n, 2)))
        seen = np.abs(oracles.jacobian(f, x)).reshape(*f(x).shape, *x.shape).sum((0, 2, 3, 5)) > 1e-12
    stride = {valid: 20}.get(f, 1)
    back, forward = [], []
    for t, row in enumerate(seen):
        positions = np.flatnonzero(row)
        back.append(t * stride - positions[0])
        forward.append(positions[-1] - ((t + 1) * stride - 1))
    return max(0, *back), max(0, *forward)


@pytest.mark.parametrize("f", MODELS, ids=lambda f: f.__name__)
def test_every_position_against_the_jacobian(f):
    n = 100 if f in (tcn, valid) else {reversed_scan: 9}.get(f, 26)
    found = ej.context(f, sequence(n))
    assert found.exact
    assert (found.left, found.right) == reach(f, n)
    assert found.causal == (found.right == 0) == (not found.leaks)


@pytest.mark.parametrize(
    ("f", "operations", "layer"),
    [
        (normalised, {"reduce_sum"}, "norm"),
        (padded_both_sides, {"conv_general_dilated"}, "same"),
        (reversed_scan, {"slice"}, ""),
        (shifted_target, {"slice"}, ""),
        (ahead, {"slice"}, ""),
        (off_by_one, {"dot_general"}, "ts,nsc->ntc"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_leaks_name_the_line_and_the_layer(f, operations, layer):
    found = ej.context(f, sequence(8 if f is reversed_scan else 26))
    assert {leak.operation for leak in found.leaks} == operations
    assert {leak.layer for leak in found.leaks} == {layer}
    assert all("test_context.py" in leak.where or "networks.py" in leak.where for leak in found.leaks)
    assert max(leak.ahead for leak in found.leaks) == found.right
    assert any("nothing looks ahead" in note for note in found.notes)
    assert "what looks ahead" in str(found)


def test_leaks_behind_leaks_are_found():
    """Each is made to look no further than it may before the next is sought."""

    def f(x):
        for name in ("one", "two", "three"):
            with jax.named_scope(name):
                x = causal(x - x.mean(1, keepdims=True), 2)
        return x

    found = ej.context(f, sequence(30))
    assert [leak.layer for leak in found.leaks] == ["three", "two", "one"]


def test_what_grows_is_told_from_what_does_not():
    assert ej.context(cumulative, sequence(64)).grows == (True, False)
    assert ej.context(tcn, sequence(200)).grows == (False, False)
    assert ej.context(reversed_scan, sequence(16)).grows == (False, True)
    assert "all that came before: grows" in str(ej.context(cumulative, sequence(64)))


def test_seconds_layers_and_axes():
    found = ej.context(tcn, sequence(200), rate=50)
    assert (found.left, found.left_seconds, found.right_seconds) == (62, 1.24, 0)
    assert [row[3] for row in found.table().rows] == [3, 7, 15, 31, 63]
    assert [row[5] for row in found.table().rows] == [2, 6, 14, 30, 62]
    video = ej.context(
        lambda x: lax.reduce_window(
            x, 0.0, lax.add, (1, 3, 5, 5, 1), (1,) * 5, ((0, 0), (2, 0), (2, 2), (2, 2), (0, 0))
        ),
        jax.ShapeDtypeStruct((1, 9, 11, 12, 1), jnp.float32),
        layout="NDHWC",
        axis="D",
    )
    assert (video.axis, video.left, video.right) == ("D", 2, 0)
    tokens = ej.context(
        lambda x: tcn(jnp.ones((7, 2))[x], 2),
        jax.ShapeDtypeStruct((1, 40), jnp.int32),
        layout="NL",
        out_layout="NLC",
    )
    assert (tokens.left, tokens.right) == (6, 0)


@pytest.mark.parametrize(
    ("f", "n", "chunk", "halo"),
    [
        (tcn, 100, 16, (62, 0)),
        (strided, 90, 10, None),
        (valid, 400, 40, (0, 25)),
        (padded_both_sides, 75, 15, (22, 2)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_chunks_are_the_whole(f, n, chunk, halo):
    x = np.random.default_rng(0).integers(-9, 10, (1, n, 2)).astype(np.float32)
    found = ej.context(f, x)
    plan = found.plan(chunk)
    assert plan.exact, plan.why
    assert halo is None or plan.halo == (halo,)
    np.testing.assert_array_equal(plan(f, x), jax.jit(f)(x))
    for i, tile in enumerate(plan.tiles()):  # nothing is read before it has come
        latest = (i + 1) * chunk + plan.halo[0][1] + plan.grid[0] + plan.tile[0] * (f is valid)
        assert tile.read[1].stop <= max(latest, chunk + plan.halo[0][1] + plan.grid[0])


def test_units_that_are_no_positions():
    """Unit t stands for [t·s, (t + 1)·s): every second position, and two units for each; by hand."""
    down = ej.context(lambda x: causal(causal(x, 3, dilation=4), 2, dilation=3, stride=2), sequence(40))
    assert (down.stride, down.left, down.right, "stride" in str(down.facts())) == (2, 2 * 4 + 3, 0, True)
    up = ej.context(lambda x: conv(x, 3, padding=(2, 0), base=2), sequence(14))
    assert (2 * up.stride, up.left, up.right) == (1, 1, 0)


def test_transforms_give_upper_bounds():
    found = ej.context(lambda x: jnp.fft.irfft(jnp.fft.rfft(x, axis=1), 16, axis=1), sequence(16))
    assert not found.exact
    assert "at most 15" in str(found)


def test_what_looks_back_without_end_cannot_be_streamed_in_windows():
    plan = ej.context(cumulative, sequence(64)).plan(8)
    with pytest.raises(ErfjaxError, match=r"`cumsum` at .* looks at all of axis L"):
        plan(cumulative, np.zeros((1, 64, 2), np.float32))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"axis": "W"}, LayoutError, "there is no axis 'W'"),
        ({"axis": "C"}, LayoutError, "'C' is the channels in 'NLC', not a sequence"),
        ({"axis": "N"}, LayoutError, "'N' is the batch"),
        ({"layout": "HWC"}, LayoutError, "several axes that could be the sequence"),
        ({"rate": 0}, GeometryError, "positive number of positions per second"),
    ],
)
def test_errors_teach(changes, error, match):
    with pytest.raises(error, match=match):
        ej.context(tcn, sequence(20), **changes)


def test_outputs_without_the_axis_are_refused():
    with pytest.raises(LayoutError, match="no axis L"):
        ej.context(lambda x: x.mean(1), sequence(20))
    with pytest.raises(LayoutError, match="select one"):
        ej.context(lambda x: (x, x), sequence(20))
    with pytest.raises(LayoutError, match="does not depend"):
        ej.context(lambda x: jnp.ones((1, 20, 2)), sequence(20))


def test_two_thousand_positions_at_once():
    """All units of a long sequence go through the program together: no unit is left out, and none is asked by itself."""
    found = ej.context(lambda x: tcn(cumulative(x), 9), sequence(2048))
    assert (found.causal, found.left, found.grows) == (True, 2047, (True, False))


def test_command_line(tmp_path):
    (tmp_path / "model.py").write_text("import jax.numpy as jnp\ndef f(x):\n    return x - x.mean(1, keepdims=True)\n")
    target = f"{tmp_path / 'model.py'}:f"
    done = CliRunner().invoke(main, ["context", target, "--shape", "1,2048,4", "--rate", "50"])
    assert done.exit_code == 0, done.output
    assert "look-ahead  2047 = 4.094e+04 ms" in done.output
    assert "reduce_sum" in done.output
    assert "model.py:3" in done.output
    done = CliRunner().invoke(main, ["context", "jax.numpy:sin", "--shape", "1,64,4", "--chunk", "16"])
    assert "window                  16" in done.output
    wrong = CliRunner().invoke(main, ["context", target, "--shape", "1,64,4", "--axis", "H"])
    assert wrong.exit_code == 1
    assert "no axis 'H'" in wrong.output


def attention(mask=None, **options):
    def f(x):
        q = x[:, :, None]
        return jax.nn.dot_product_attention(q, q, q, mask=None if mask is None else mask[None, None], **options)[
            :, :, 0
        ]

    return f


@pytest.mark.parametrize(
    ("f", "causal", "left", "right"),
    [
        (attention(is_causal=True), True, 23, 0),
        (attention(is_causal=True, local_window_size=(4, 0)), True, 4, 0),
        (attention(jnp.tril(jnp.ones((24, 24), bool), 1)), False, 23, 1),
    ],
    ids=["causal", "sliding", "one off"],
)
def test_masked_attention(f, causal, left, right):
    """A mask that is built one off is a leak of one position, with its line."""
    found = ej.context(f, jax.ShapeDtypeStruct((1, 24, 8), jnp.float32))
    assert (found.causal, found.left, found.right) == (causal, left, right)
    assert all("test_context.py" in str(leak) for leak in found.leaks)
    assert bool(found.leaks) is not causal


def test_a_context_pickles_without_its_function():
    found = ej.context(
        lambda x: x + jnp.pad(x, ((0, 0), (3, 0), (0, 0)))[:, :-3], jax.ShapeDtypeStruct((1, 20, 2), jnp.float32)
    )
    loaded = pickle.loads(pickle.dumps(found))
    assert (loaded.left, loaded.right, loaded.layers, str(loaded)) == (3, 0, found.layers, str(found))
    assert pickle.loads(pickle.dumps(loaded)).left == 3
    with pytest.raises(ErfjaxError, match="leave out the function"):
        loaded.plan(4)


def test_a_buffer_that_a_loop_shifts():
    """The last four rows: what lies before the first row of the buffer is no position of the sequence."""
    taps = jnp.arange(1.0, 5.0)[:, None]

    def f(x):
        def step(rows, row):
            rows = jnp.concatenate([rows[1:], row[None]])
            return rows, (rows * taps).sum(0)

        return jax.lax.scan(step, jnp.zeros((4, 2)), x[0])[1][None]

    found = ej.context(f, jax.ShapeDtypeStruct((1, 24, 2), jnp.float32))
    assert (found.left, found.right, found.grows, found.exact) == (3, 0, (False, False), True)


def test_a_mean_over_some_positions():
    """A mask and a sum over the sequence: the first unit looks as far as the mask does."""
    mask = (jnp.arange(24) < 15)[None, :, None]

    def f(x):
        return x + jnp.where(mask, x, 0.0).sum(1, keepdims=True)

    found = ej.context(f, jax.ShapeDtypeStruct((1, 24, 2), jnp.float32))
    assert (found.left, found.right, [leak.operation for leak in found.leaks]) == (23, 14, ["reduce_sum"])


def test_the_figure_of_a_context_holds_all_units_also_where_there_is_no_layer():
    seen = ej.context(
        lambda x: jnp.pad(x, ((0, 0), (4, 0), (0, 0)))[:, :-4] + x, np.ones((1, 20, 1), np.float32)
    ).plot()
    (axes,) = seen.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all units"]
    assert [bar.get_width() for bar in axes.patches] == [-4, 0]


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.where(jnp.zeros((10, 1), bool), x, 1.0),
        lambda x: 2 * jnp.pad(x, ((0, 0), (10, 0), (0, 0)))[:, :10],
    ],
)
def test_units_that_see_nothing_are_not_called_causal(f):
    """A mask that hides all, a slice of padding alone: the answer says so, also in the table and in short."""
    found = ej.context(f, sequence(10))
    assert found.blind
    assert (found.left, found.right, found.leaks) == (0, 0, ())
    assert "causal" not in str(found)
    assert "no unit sees the input" in str(found)
    assert repr(found).count("no unit sees the input") == 1
    assert not ej.context(lambda x: f(x) + x, sequence(10)).blind


def test_the_command_line_says_that_nothing_is_seen(tmp_path):
    path = tmp_path / "hidden.py"
    path.write_text("import jax.numpy as jnp\n\n\ndef f(x):\n    return jnp.where(jnp.zeros((9, 1), bool), x, 0.5)\n")
    done = CliRunner().invoke(main, ["context", f"{path}:f", "--shape", "1,9,2"])
    assert done.exit_code == 0, done.output
    assert "no unit sees the input" in done.output
    assert "causal" not in done.output
