"""What the first call costs: what is searched and compiled, that a second process compiles nothing, and that a wait is told."""

import collections
import functools
import os
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from benchmarks import models
from erfjax.closed_form.gaussian_integrals import two_slopes
from erfjax.measurement.waiting import told
from erfjax.readings.analytic import _jitted
from erfjax.readings.moment_pass import MomentPass
from erfjax.readings.options import Options
from erfjax.readings.question import ask, one_sample
from erfjax.tracing import trace
from erfjax.tracing.positions.index_sets import full
from erfjax.tracing.second_moments import chains
from erfjax.tracing.windows import brief, cpu_taps
from erfjax.tracing.windows.cone import restrict
from tests.tracing.test_moments import W1, W2, X, conv


def residual(blocks):
    """Bottlenecks with batch norms, as in ResNet-50."""

    def network(ops, x):
        x = ops.relu(ops.norm(ops.conv(x, "stem", 8), "stem"))
        for block in range(blocks):
            y = ops.relu(ops.norm(ops.conv(x, f"{block}.a", 4, 1), f"{block}.a"))
            y = ops.relu(ops.norm(ops.conv(y, f"{block}.b", 4), f"{block}.b"))
            x = ops.relu(x + ops.norm(ops.conv(y, f"{block}.c", 8, 1), f"{block}.c"))
        return x

    ops = models.Jax(models.draw(network, (1, 16, 18, 3)))
    return lambda x: network(ops, x)


def lowered(f, options):
    """The closed form of two images, before it is compiled."""
    sample, inputs = one_sample(jax.ShapeDtypeStruct((1, 16, 18, 3), jnp.float32), None)
    moment_pass = MomentPass.of(ask(f, sample, inputs).each[0], options)
    rows = (np.ones((2, 1, 16, 18, 3) if options.gates == "data" else 1, np.float32),)
    with moment_pass.quickly():
        return _jitted(moment_pass, careful=False).lower(moment_pass.arguments(), rows)


def operations(f, options):
    """How often each primitive stands in the closed form."""
    text = lowered(f, options).as_text()
    return collections.Counter(re.findall(r"stablehlo\.(\w+)", text))


@pytest.mark.parametrize("options", [Options(channels="random-signs"), Options(), Options(gates="mean-field")])
def test_the_largest_digit_is_searched_once_in_several_layers(options):
    found = operations(residual(3), options)  # 10 convolutions
    assert found["reduce"] <= 3
    assert found["while"] == 0


@pytest.mark.parametrize("options", [Options(channels="random-signs"), Options()])
def test_no_kernel_grows_with_the_depth_of_a_residual_network(options):
    def longest(blocks):
        text = lowered(residual(blocks), options).compile().as_text()
        return max(block.count("\n") for block in re.split(r"\n\n", text) if block.lstrip().startswith("%fused"))

    assert longest(12) < 1.2 * longest(6)


def test_what_is_computed_once_is_the_same_to_the_last_bit():
    x = np.array([0.1, -0.0, 2e-38, -3e38, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(np.asarray(jax.jit(brief.once)(x)).view(np.int32)[:-1], x.view(np.int32)[:-1])
    assert np.isnan(jax.jit(brief.once)(x)[-1])
    assert jax.grad(lambda x: 3 * brief.once(x))(2.0) == 3


def test_rows_come_in_parts_of_equal_size(monkeypatch):
    """Nine rows, four of which fit: three parts of three, none filled up; the map does not depend on it."""
    module, x, sizes = sys.modules["erfjax.readings.analytic"], np.random.default_rng(0).normal(size=(9, 5, 3)), []
    x, compiled = x.astype(np.float32), module._compiled

    def spied(moment_pass):
        run = compiled(moment_pass)
        return lambda arguments, rows: sizes.append(len(rows[0])) or run(arguments, rows)

    monkeypatch.setattr(module, "_compiled", spied)
    w = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    whole = ej.analytic(lambda x: jnp.tanh(x @ w) @ w, x)
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    parts = ej.analytic(lambda x: jnp.tanh(x @ w) @ w, x)
    assert sizes == [9, 3, 3, 3]
    np.testing.assert_allclose(parts.map, whole.map, rtol=1e-5)


def test_activations_whose_squares_underflow_are_answered_with_care():
    """The first layer shrinks; squares of what it gives leave single precision."""

    def f(x, scale):
        return jax.nn.relu(conv(jax.nn.relu(scale * conv(x, W1)), W2))

    one, other = (ej.analytic(functools.partial(f, scale=s), X, layout="NWC") for s in (1e-20, 1.0))
    np.testing.assert_allclose(one.map / 1e-40, other.map, rtol=1e-4)


SECOND = """
import collections, jax, jax.numpy as jnp, numpy as np
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.split("/")[-1]]))
import erfjax as ej
w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 2)) / 3, jnp.float32)
dims = ("NHWC", "HWIO", "NHWC")
f = lambda x: jax.nn.relu(jax.lax.conv_general_dilated(jax.nn.relu(x), w, (1, 1), "SAME", dimension_numbers=dims))
x = np.random.default_rng(1).normal(size=(3, 9, 11, 2)).astype(np.float32)
ej.theoretical(f, x)
for channels in ("sum", "random-signs"):
    ej.empirical(f, x, channels=channels)
ej.empirical(f, x, unit="all")
for options in ({}, {"channels": "random-signs"}, {"gates": "mean-field"}, {"weights": "exchangeable"}):
    ej.analytic(f, x, **options)
print(seen["cache_hits"], seen["cache_misses"])
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path):
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }

    def run():
        done = subprocess.run(
            [sys.executable, "-c", SECOND], env=os.environ | cache, capture_output=True, text=True, check=True
        )
        return tuple(map(int, done.stdout.split()[-2:]))

    (_, before), (hits, misses) = run(), run()
    assert before > 10
    assert (misses, hits > 10) == (0, True)


def test_a_long_wait_is_told_and_a_short_one_not(capsys):
    with told("the closed form", shown=True, after=0.02):
        time.sleep(0.2)
    assert "compiling the closed form" in capsys.readouterr().err
    with told("the closed form", shown=True, after=5):
        pass
    assert capsys.readouterr().err == ""


def chain_of(act, dtype=jnp.float32):
    program = trace(act, jax.ShapeDtypeStruct((2, 3), dtype))
    return chains.chains(restrict(program, {program.output: full((2, 3))}))[program.output]


SMOOTH = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "approximate gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "relu6": jax.nn.relu6,
    "stairs": lambda x: x.astype(jnp.int32).astype(x.dtype),
    "cube": lambda x: x**3 - 2 / (1 + x * x),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_survey_evaluates_an_elementwise_function_without_compiling_it(name, dtype):
    chain, x = chain_of(SMOOTH[name], dtype), np.array([-16.0, -2.3, -0.25, 0.0, 0.4, 1.0, 7.5])
    (found,), (wanted, _) = chains._values(chain)(x), chains._scalar(chain)(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def dense(x):
    """Two layers of 64 channels, 4,096 weights for each tap."""
    layers = [np.random.default_rng(i).normal(size=(3, 64, 64)).astype(np.float32) / 14 for i in range(2)]
    for w in layers:
        x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")))
    return x


def test_what_takes_long_to_compile_is_written_for_many_samples_alone(monkeypatch):
    """The form depends on the number of samples, not on the batches they come in; the map does not but for rounding."""
    called, convolved = [], cpu_taps.convolved
    monkeypatch.setattr("erfjax.tracing.rules.convolution.convolved", lambda *a: called.append(a) or convolved(*a))
    x = np.random.default_rng(2).normal(size=(9, 7, 64)).astype(np.float32)

    def measured(samples, **options):
        called.clear()
        return ej.empirical(lambda x: dense(x), x[:samples], **options).map, len(called)

    (few, form), (alone, other) = measured(8), measured(8, batch_size=1)
    assert form == other == 0
    np.testing.assert_allclose(alone, few, rtol=1e-5)
    monkeypatch.setattr(cpu_taps, "WORTH", 64 * 3 * 4096)  # of the last layer's one position: 9 samples count as 64
    (many, form), (alone, other) = measured(9), measured(9, batch_size=1)
    assert form == other == 2
    np.testing.assert_allclose(alone, many, rtol=1e-5)
    again, form = measured(8)  # of the first layer's three positions: 24
    assert form == 0
    np.testing.assert_allclose(again, few, rtol=1e-5)


def test_a_convolution_tap_by_tap_is_traced_once_for_equal_blocks(monkeypatch):
    """The last two blocks compute one and three pixels, the four before all five."""
    called, taps = [], cpu_taps.taps
    monkeypatch.setattr(cpu_taps, "taps", lambda *a: called.append(a) or taps(*a))
    w = np.random.default_rng(0).normal(size=(3, 1, 11)).astype(np.float32)

    def f(x):
        for _ in range(6):
            options = {"dimension_numbers": ("NWC", "WIO", "NWC"), "feature_group_count": 11}
            x = x + jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1,), "SAME", **options))
        return x

    x = np.random.default_rng(1).normal(size=(2, 5, 11)).astype(np.float32)
    found = ej.empirical(f, x).map
    assert len(called) == 3 * 2  # of the input and of the kernel
    gradients = jax.vmap(jax.grad(lambda one: f(one[None])[0, 2].sum()))(x)
    np.testing.assert_allclose(found, (gradients**2).sum(-1).mean(0), rtol=1e-5)


def test_what_equal_blocks_compute_is_looked_at_once(monkeypatch):
    """The nonlinearity of every block is one function; others that differ in a number or in order are not taken for it."""
    found = []
    monkeypatch.setattr(chains, "_FOUND", {})
    monkeypatch.setattr(chains, "two_slopes", lambda phi: found.append(two_slopes(phi)) or found[-1])

    def lines(act):
        return chains.shifts(chain_of(act))

    acts = (jax.nn.relu, lambda x: jax.nn.leaky_relu(x, 0.1), lambda x: jax.nn.leaky_relu(x, 0.2), jax.nn.relu6)
    acts = (*acts, lambda x: jnp.where(x > 0, x, 3 * x), lambda x: jnp.where(x > 0, 3 * x, x))
    known = [[lines(act) is None for act in acts] for _ in range(2)]
    assert known[0] == known[1] == [False, False, False, True, False, False]
    assert [tuple(np.round(f, 3) + 0) if f else f for f in found] == [
        (0, 1), (0.1, 1), (0.2, 1), None, (3, 1), (1, 3),
    ]  # fmt: skip
