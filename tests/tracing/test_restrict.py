"""The cone of a unit has the value and the Jacobian of the whole network there, at corners and borders too."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from erfjax.layouts import parse_input, parse_output
from erfjax.measurement.cone import cone_of
from erfjax.tracing import trace
from tests.catalogue import LAYOUTS, build
from tests.tracing import layers
from tests.tracing.layers import CASES, conv, weights
from tests.tracing.test_random_networks import SETTINGS, networks

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiling is all the time
# The last bit of the input moves the gradient of `smooth_activations` by 1.5e-11 of its peak: rounding cannot agree better.
TOLERANCE = {"float32": 1e-5, "float64": 5e-11}


def check(f, x, layout, units, out_layout=None):
    """Value and pullback of a random cotangent at every unit, of f and of the cone cut for it."""
    shape = jax.eval_shape(f, x).shape
    source, target = parse_input(layout, x.shape), parse_output(out_layout, shape, layout)
    space = target.space(shape)
    units = sorted({tuple(round(share * (n - 1)) for share, n in zip(unit, space, strict=True)) for unit in units})
    channels = 1 if target.channel is None else shape[target.channel]
    cotangents = jnp.asarray(np.random.default_rng(0).standard_normal((len(units), channels)), x.dtype)
    program = trace(f, x)
    cones = [cone_of(program, source, target, [unit]) for unit in units]

    def at(value, unit):
        return target.unit_channels(value, unit)

    def both(x, cotangents):
        value, pullback = jax.vjp(f, x)
        whole, cut = [], []
        for unit, cone, cotangent in zip(units, cones, cotangents, strict=True):
            _, spread = jax.vjp(lambda y, unit=unit: at(y, unit), value)
            whole.append((at(value, unit), pullback(spread(cotangent)[0])[0]))
            if cone is None:
                cut.append((at(value, unit), jnp.zeros_like(x)))
                continue
            window = tuple(slice(int(p.start), int(p.stop)) for p in cone.windows[0])
            inner, pull = jax.vjp(lambda w, cone=cone: at(cone(w)[0], (0,) * len(space)), x[window])
            cut.append((inner, jnp.zeros_like(x).at[window].set(pull(cotangent)[0])))
        return whole, cut

    whole, cut = jax.jit(both, compiler_options=QUICK)(x, cotangents)
    for unit, (value, gradient), (cut_value, cut_gradient) in zip(units, whole, cut, strict=True):
        for a, b in ((value, cut_value), (gradient, cut_gradient)):
            scale = max(float(jnp.abs(a).max(initial=0)), 1e-300)
            np.testing.assert_allclose(b, a, rtol=0, atol=TOLERANCE[str(x.dtype)] * scale, err_msg=f"unit {unit}")


CORNERS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # of the output, as shares of its axes
INSIDE = (0.6, 0.8, 0.5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.differentiable])
def test_layers(name):
    case = CASES[name]
    with jax.enable_x64(True), jax.numpy_dtype_promotion(case.promotion):
        x = jnp.asarray(np.random.default_rng(1).uniform(case.least, 1, case.shape))
        rank = len(parse_output(case.out_layout, jax.eval_shape(case.f, x).shape, case.layout).spatial)
        check(case.f, x, case.layout, [unit[:rank] for unit in (CORNERS[0], INSIDE)], case.out_layout)


UNITS = st.tuples(st.floats(0, 1), st.floats(0, 1), st.just(0.5)) | st.sampled_from(CORNERS)
PRECISIONS = st.sampled_from(sorted(TOLERANCE))


@SETTINGS(max_examples=12)
@hypothesis.given(networks(), st.integers(0, 2**31 - 1), UNITS, PRECISIONS, st.sampled_from(["max", "avg"]))
def test_random_networks(network, seed, unit, dtype, pool):
    space, nodes = network
    if any(n.op == "pool" and set(n.dilation) != {1} for n in nodes):
        pool = "avg"  # JAX has no derivative of a dilated maximum
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(seed).standard_normal((1, *space, 2)), dtype)
        f = build(nodes, channels=2, seed=seed, pool=pool)
        check(f, x, LAYOUTS[len(space)], [unit[: len(space)]])


def residual(block):
    return lambda x: x + block(x)


def level(block):
    """A level of a U-Net: pool, the block, up again, beside what was there."""

    def f(x):
        low = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        y = block(low)
        up = jax.lax.conv_transpose(y, weights(2, 2, 4, 4), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.concatenate([x, up[:, : x.shape[1], : x.shape[2]]], -1) @ weights(8, 4)

    return f


def padded(mode):
    return lambda x: conv(jnp.pad(x, [(0, 0), (2, 0), (0, 2), (0, 0)], mode), 3, 3, padding="VALID")


def attention(x):
    """Over windows of 2 x 3 pixels, of the part of the image that they fill."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 3 * 3
    y = x[:, :h, :w].reshape(1, h // 2, 2, w // 3, 3, 4).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 6, 4)
    y = jax.nn.softmax(y @ y.swapaxes(1, 2), -1) @ y
    y = y.reshape(1, h // 2, w // 3, 2, 3, 4).transpose(0, 1, 3, 2, 4, 5).reshape(1, h, w, 4)
    return x.at[:, :h, :w].add(y)


def batch_norm(x):
    return (x - 0.3) * jax.lax.rsqrt(jnp.exp(weights(1, 1, 1, 4))) + weights(1, 1, 1, 4)


PARTS = {
    "conv": lambda x: jax.nn.relu(conv(x, 3, 2) / 3),
    "dilated": lambda x: jnp.tanh(conv(x, 3, 3, rhs_dilation=(2, 3)) / 3),
    "strided": lambda x: jax.nn.gelu(conv(x, 3, 3, window_strides=(1, 2)) / 3),
    "pool": lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 2, 1), (1, 1, 1, 1), "SAME"),
    "batch norm": batch_norm,
    "layer norm": layers.layer_norm,
    "instance norm": layers.instance_norm,
    "squeeze": layers.squeeze_and_excite,
    "attention": attention,
    "rolled": lambda x: jnp.roll(x, (1, -2), (1, 2)),
    **{mode: padded(mode) for mode in ("constant", "reflect", "symmetric", "edge", "wrap")},
}


@st.composite
def deep(draw, depth=3):
    """A chain of parts, some of them inside a residual branch or under a level of a U-Net."""
    names, parts = [], []
    for _ in range(draw(st.integers(1, depth))):
        name = draw(st.sampled_from(sorted(PARTS)))
        around = draw(st.sampled_from([None] if name == "strided" else [None, None, residual, level]))
        names.append(name if around is None else f"{around.__name__}({name})")
        parts.append(PARTS[name] if around is None else around(PARTS[name]))
    return names, parts


def check_architecture(network, space, unit, dtype):
    _, parts = network
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((1, *space, 4)), dtype)
        check(lambda x: functools.reduce(lambda y, part: part(y), parts, x), x, "NHWC", [unit[:2]])


@SETTINGS(max_examples=16)
@hypothesis.given(deep(), st.tuples(st.integers(9, 16), st.integers(12, 20)), UNITS, PRECISIONS)
def test_random_architectures(network, space, unit, dtype):
    check_architecture(network, space, unit, dtype)


@pytest.mark.slow
@SETTINGS(max_examples=200, derandomize=False)
@hypothesis.given(deep(5), st.tuples(st.integers(12, 24), st.integers(12, 24)), UNITS, PRECISIONS)
def test_many_random_architectures(network, space, unit, dtype):
    check_architecture(network, space, unit, dtype)
