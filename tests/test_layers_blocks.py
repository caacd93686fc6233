"""Stacks of today's blocks: geometry against the trace, closed forms against polynomials, plain JAX and measurement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erfjax.errors import StackError
from erfjax.layers import (
    Activation,
    Attention,
    AvgPool,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Identity,
    MaxPool,
    Norm,
    Upsample,
)
from erfjax.layers import analytic as closed
from erfjax.layers.gates import pairs
from erfjax.readings.empirical import empirical
from erfjax.readings.theoretical import theoretical

C, LINE, RELU = Conv(3), Conv((3,)), Activation("relu")
STACKS = {
    "nearest": (C * Upsample((2, 3)) * Conv((3, 5)), (5, 7)),
    "bilinear": (C * Upsample((2, 3), "bilinear") * C, (8, 6)),
    "transposed": (LINE * ConvTranspose((3,), stride=2), (7,)),
    "transposed, valid": (C * ConvTranspose((2, 5), stride=(3, 2), padding="VALID") * C, (7, 9)),
    "transposed, cut": (C * ConvTranspose((4, 5), stride=(2, 3), padding=((1, 1), (0, 2))) * C, (7, 9)),
    "transposed, filter": (LINE * ConvTranspose(weights=[0.25, 0.75, 0.75, 0.25], padding=1), (6,)),
    "hourglass": (C * (1 + Conv(3, stride=2) * RELU * C * Upsample(2, "bilinear")) * C, (24, 30)),
    "encoder": (C * (1 + Norm("rms") * Attention(1)), (5, 6)),
    "decoder": (Conv((3,), stride=2) * (1 + Norm() * Attention(2, "causal")) * LINE, (13,)),
    "window": ((1 + Norm() * Attention(2, 3)) ** 2 * LINE, (13,)),
    "perceptron": (C * Norm() * Dense(expand=2) * RELU * Dense(), (6, 7)),
}
FACTS = ("unit", "output_shape", "start", "stop", "stride", "padding", "clipped", "shift_invariant")


def quick(name):
    """The name as a parameter; two kinds stand for all in the default run."""
    return name if name in ("transposed", "decoder") else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [quick(name) for name in STACKS])
def test_the_trace_of_a_network_sees_what_the_stack_says(name):
    stack, shape = STACKS[name]
    settings = {"width": 2, "in_channels": 2}
    shapes = jax.eval_shape(lambda key: stack.init(key, **settings), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    f = lambda x: stack.apply(params, x, **settings)  # noqa: E731
    x = jax.ShapeDtypeStruct((1, *shape, 2), jnp.float32)
    for unit in (None, (0,) * len(shape)):
        said = stack.theoretical(shape, unit)
        seen = theoretical(f, x, unit=unit, layout={1: "NWC", 2: "NHWC"}[len(shape)])
        assert [getattr(said, fact) for fact in FACTS] == [getattr(seen, fact) for fact in FACTS]
        assert np.array_equal(said.mask(), seen.mask())
        assert said.phases().rows == seen.phases().rows
    assert said.layers[-1].shape == said.output_shape


def test_the_smallest_image_holds_the_whole_field():
    for name in ("nearest", "transposed, cut", "hourglass", "window"):
        field = STACKS[name][0].theoretical()
        assert min(field.start) >= 0
        assert all(b <= n for b, n in zip(field.stop, field.image_shape, strict=True))


@pytest.mark.parametrize("name", ["nearest", "bilinear", "transposed, cut", "transposed, filter"])
def test_matrices_are_what_networks_compute(name):
    """The mean of the Jacobian of a fixed plan, against JAX; stacks without their random layers."""
    fixed = {
        "nearest": (Upsample((2, 3)), (3, 4)),
        "bilinear": (Upsample((2, 3), "bilinear"), (3, 4)),
        "transposed, cut": (ConvTranspose(weights=np.arange(1.0, 13).reshape(3, 4), stride=(2, 3), padding=1), (4, 3)),
        "transposed, filter": (ConvTranspose(weights=[0.25, 0.75, 0.75, 0.25], padding=1), (6,)),
    }
    stack, shape = fixed[name]
    settings = {"in_channels": 1}
    f = stack.network(jax.random.key(0), **settings)
    unit = tuple(n // 2 for n in stack.theoretical(shape).output_shape)
    gradient = jax.grad(lambda x: f(x)[(0, *unit, 0)])(jnp.ones((1, *shape, 1)))[0, ..., 0]
    np.testing.assert_allclose(
        stack.analytic("mean", image_shape=shape, unit=unit, **settings).map, gradient, atol=1e-6
    )
    np.testing.assert_allclose(stack.analytic(image_shape=shape, unit=unit, **settings).map, gradient**2, atol=1e-5)


ALIKE = {
    "coherent": ((1 + LINE * RELU * LINE) ** 2 * AvgPool((2,)), {}),
    "pooled": (Conv((3, 5)) * AvgPool(2, stride=1) * C * AvgPool((3, 2), stride=1), {}),
    "normalised": (LINE * RELU * Norm() * LINE * Activation("tanh") * Norm("rms") * LINE, {}),
    "dropout": (AvgPool(3, stride=1) * Dropout(0.3) * AvgPool((1, 3), stride=1) * C, {}),
    "maximum": (LINE * MaxPool((2,)) * LINE, {}),
    "uniform": (LINE * AvgPool((2,)) * LINE, {"init": "uniform"}),
}


@pytest.mark.parametrize("name", ALIKE)
def test_pairs_of_positions_agree_with_polynomials(name):
    """Where all units see alike the two closed forms are one; gates under a fixed kernel are independent in the polynomials."""
    stack, settings = ALIKE[name]
    field = stack.analytic(channels="random-signs", **settings)
    question = stack._question("square", "random-signs", settings)
    (other,) = closed._of_pairs(question, (field.theoretical,))
    np.testing.assert_allclose(other.map, field.map, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("function", [jax.nn.relu, lambda z: jax.nn.leaky_relu(z, 0.3), jnp.tanh])
def test_moments_of_pairs_of_gates(function):
    """Against plain averages over 400,000 draws, five standard errors."""
    second = np.array([[1.0, -0.9, 0.3], [-0.9, 2.0, 0.4], [0.3, 0.4, 0.5]])
    z = np.random.default_rng(0).multivariate_normal(np.zeros(3), second, 400_000)
    both = jax.jit(lambda z: jax.jvp(function, (z,), (jnp.ones_like(z),)))(jnp.asarray(z, jnp.float32))
    found = pairs(function, second)
    for values, one, two in zip(both, (found.value, found.slope), (found.values, found.slopes), strict=True):
        values = np.asarray(values, np.float64)
        np.testing.assert_array_less(np.abs(values.mean(0) - one), 5 * values.std(0) / 632 + 1e-6)
        products = np.einsum("ni,nj->nij", values, values)
        np.testing.assert_array_less(np.abs(products.mean(0) - two), 5 * products.std(0) / 632 + 1e-6)


def test_what_is_assumed_is_said():
    options = {"channels": "random-signs", "image_shape": 6}
    assert Attention(1, "causal", scale=0).analytic(**options).coverage == "exact"
    assert "small scores" in Attention(1, "causal").analytic(**options).notes[0]
    assert "mean field" in (LINE * Norm() * LINE).analytic(channels="random-signs").notes[0]
    assert (LINE * RELU * Upsample(2) * LINE).analytic(channels="random-signs").coverage == "exact"
    bent = (LINE * Upsample(2) * RELU * AvgPool((2,))).analytic(channels="random-signs")
    assert "gates of two positions" in bent.notes[0]
    assert "left out" in (LINE * Upsample(2) * RELU).analytic(image_shape=9).notes[0]
    assert (C * Upsample(2) * C).moments().variance == pytest.approx(
        np.square((C * Upsample(2) * C).analytic().sigma())
    )


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Norm("batch"), "layer"),
        (lambda: Dense(expand=0), "positive"),
        (lambda: Attention(4, "left"), "causal"),
        (lambda: Attention(0), "positive"),
        (lambda: Attention(1, scale=-1.0), "0 or more"),
        (lambda: Attention(1, "causal") * C * Conv((3, 3)), "same number of spatial axes"),
        (lambda: Attention(3).network(jax.random.key(0), in_channels=4), "do not divide"),
        (lambda: Attention(1, "causal").theoretical(), "give `image_shape`"),
        (lambda: Attention(1).analytic(image_shape=(60, 60)), "at most"),
        (lambda: Upsample(2, "cubic"), "bilinear"),
        (lambda: Upsample(1.5), "integer"),
        (lambda: ConvTranspose(3, padding="SAME_LOWER"), "transposed"),
        (lambda: C + Upsample(2), "same stride"),
        (lambda: (LINE * Norm()).analytic(), "random-signs"),
    ],
)
def test_bad_blocks_are_refused_with_a_lesson(build, says):
    with pytest.raises(StackError, match=says):
        build()


@pytest.mark.parametrize(
    "stack",
    [
        Dense() * (1 + Norm() * Attention(4, "causal", scale=0.1)) ** 12,
        (1 + Norm("rms") * Attention(2, 5)) * Upsample(2),
        C * ConvTranspose((3, 4), stride=(2, 1), padding="VALID") * Dense(expand=2),
    ],
)
def test_blocks_print_as_python_that_gives_them_back(stack):
    names = {kind.__name__: kind for kind in (Attention, Conv, ConvTranspose, Dense, Identity, Norm, Upsample)}
    assert eval(repr(stack), names) == stack


MEASURED = {
    "decoder": (Dense() * (1 + Norm() * Attention(4, "causal", scale=0.1)) ** 3, (12,), 11, 0.04),
    "perceptrons": (
        Dense() * ((1 + Norm() * Attention(4, 4, scale=0)) * (1 + Norm("rms") * Dense(4) * RELU * Dense())) ** 2,
        (12,),
        11,
        0.03,
    ),
    "hourglass": (C * RELU * (1 + Conv(3, stride=2) * RELU * C * Upsample(2, "bilinear")) * C, (12, 14), None, 0.02),
    "transposed": (LINE * RELU * ConvTranspose((3,)) * RELU * LINE * AvgPool((2,)), (13,), None, 0.02),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_fields_of_blocks_are_measured(name):
    """Total variation within its noise and what finite width leaves; the total within 8 %."""
    stack, shape, unit, bound = MEASURED[name]
    settings = {"width": 64, "in_channels": 64}
    options = {"channels": "random-signs", "unit": unit}
    field = stack.analytic(image_shape=shape, **options, **settings)
    inputs = lambda key: jax.random.normal(key, (1, *shape, 64))  # noqa: E731
    layout = {1: "NWC", 2: "NHWC"}[len(shape)]
    key = jax.random.key(3)
    measured = empirical(
        stack.sampler(**settings), inputs, key=key, samples=512, layout=layout, progress=False, **options
    )
    floor = 0.4 * measured.stderr.sum() / measured.map.sum()
    assert np.abs(field.normalised() - measured.normalised()).sum() / 2 < floor + bound
    assert field.map.sum() == pytest.approx(measured.map.sum(), rel=0.08)
