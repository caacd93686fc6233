"""One question, one trace, one contract: the verbs trace once, take the same arguments and give answers in the same shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import erfjax as ej
from erfjax.errors import FunctionError, LayoutError, SampleError, UnitError
from erfjax.measurement import model

VERBS = (ej.theoretical, ej.analytic, ej.empirical)
RNG = np.random.default_rng(0)
KERNEL = jnp.asarray(RNG.normal(size=(3, 3, 2, 4)), jnp.float32)
SECOND = jnp.asarray(RNG.normal(size=(3, 3, 4, 4)), jnp.float32)
X = RNG.normal(size=(3, 9, 11, 2)).astype(np.float32)


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Counted:
    """A network that counts how often Python runs it."""

    def __init__(self, jitted=False):
        self.calls = 0
        self.inner = jax.jit(self.body) if jitted else self.body

    def body(self, x):
        self.calls += 1
        return conv(jax.nn.relu(conv(x, KERNEL)), SECOND)

    def __call__(self, x):
        return self.inner(x)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("jitted", [False, True])
def test_a_function_is_traced_once_and_then_never(verb, jitted):
    f = Counted(jitted)
    first = verb(f, X)
    assert f.calls <= 2
    seen = f.calls
    second = verb(f, X)
    verb(f, X[:1])
    assert f.calls == seen
    if verb is not ej.theoretical:
        np.testing.assert_array_equal(first.map, second.map)


def test_the_verbs_share_one_trace():
    f = Counted()
    ej.empirical(f, X)
    seen = f.calls
    where = ej.theoretical(f, X)
    ej.theoretical(f, jax.ShapeDtypeStruct((1, 9, 11, 2), np.float32), unit=(2, 3))
    ej.analytic(f, X)
    ej.empirical(f, X, channels="frobenius", unit=[(1, 1), (2, 2)])
    assert f.calls == seen <= 2
    assert where.size == (5, 5)


def test_a_bound_method_keeps_its_trace():
    f = Counted()
    ej.empirical(f.body, X)
    seen = f.calls
    ej.empirical(f.body, X)
    assert f.calls == seen


def test_weights_of_a_pytree_are_read_anew_without_a_trace():
    calls = []

    def net(w, x):
        calls.append(1)
        return conv(x, w)

    one = ej.analytic(Partial(net, KERNEL), X)
    seen = len(calls)
    two = ej.analytic(Partial(net, 2 * KERNEL), X)
    assert len(calls) == seen
    np.testing.assert_allclose(two.map, 4 * one.map, rtol=1e-6)


@pytest.mark.parametrize("verb", VERBS)
def test_a_list_of_units_gives_a_tuple(verb):
    fields = verb(Counted(), X, unit=[(1, 2), (4, 5)])
    assert isinstance(fields, tuple)
    assert [field.unit for field in fields] == [(1, 2), (4, 5)]


@pytest.mark.parametrize("verb", VERBS)
def test_a_tree_of_outputs_gives_the_tree_of_fields(verb):
    def f(x):
        y = conv(x, KERNEL)
        return {"near": y, "far": (conv(y, SECOND), y[:, ::2])}

    fields = verb(f, X)
    assert fields.keys() == {"near", "far"}
    sizes = [where(one).size for one in (fields["near"], *fields["far"])]
    assert sizes == [(3, 3), (5, 5), (3, 3)]
    alone = verb(lambda x: f(x)["far"][0], X)
    if verb is not ej.theoretical:
        np.testing.assert_allclose(fields["far"][0].map, alone.map, rtol=1e-6)


def where(field):
    return field if isinstance(field, ej.TheoreticalField) else field.theoretical


def two_inputs(x):
    return jnp.tanh(conv(x["image"], KERNEL)) * conv(x["other"], SECOND) + x["time"].reshape(-1, 1, 1, 1)


TWO = {
    "image": X,
    "other": RNG.normal(size=(3, 9, 11, 4)).astype(np.float32),
    "time": np.arange(3, dtype=np.float32),
}


def test_several_inputs_give_a_field_each():
    """Each field is the mean over samples of the squared Jacobian by that input, the others as they are in the sample."""
    fields = ej.empirical(two_inputs, TWO)
    assert fields["time"] is None
    for name in ("image", "other"):
        expected = 0
        for i in range(3):
            sample = {key: value[i : i + 1] for key, value in TWO.items()}
            g = jax.grad(lambda leaf, sample=sample, name=name: two_inputs({**sample, name: leaf})[0, 4, 5].sum())(
                sample[name]
            )
            expected = expected + np.square(g[0]).sum(-1) / 3
        np.testing.assert_allclose(fields[name].map, expected, rtol=2e-5, atol=1e-7)
        assert fields[name].theoretical.size == (3, 3)
    assert ej.theoretical(two_inputs, TWO)["other"].size == (3, 3)
    assert ej.theoretical(two_inputs, TWO)["time"] is None


def test_other_inputs_are_data_and_not_weights():
    """What another input multiplies counts with its square; it is neither exchanged nor taken for a random weight."""
    a, b = (RNG.normal(size=(2, 7, 1)).astype(np.float32) for _ in range(2))
    fields = ej.analytic(lambda x: x[0] * x[1], (a, b), layout="NWC", weights="exchangeable")
    np.testing.assert_allclose(fields[0].map[3], np.square(b[:, 3, 0]).mean(), rtol=1e-6)
    np.testing.assert_allclose(fields[1].map[3], np.square(a[:, 3, 0]).mean(), rtol=1e-6)
    assert fields[0].coverage == "exact"


def test_several_inputs_drawn_by_a_key():
    def draw(key):
        return {"image": jax.random.normal(key, (1, 9, 11, 2)), "other": jnp.ones((1, 9, 11, 4)), "time": jnp.zeros(1)}

    def f(key, x):
        return two_inputs(x)

    fields = ej.empirical(f, draw, key=jax.random.key(0), samples=3, batch_size=2)
    again = ej.empirical(f, draw, key=jax.random.key(0), samples=3, batch_size=3)
    np.testing.assert_allclose(fields["image"].map, again["image"].map, rtol=1e-6)
    assert fields["other"].map.sum() > 0


def test_an_iterator_serves_every_output():
    both = ej.empirical(lambda x: (x, 2 * x), iter(X))
    np.testing.assert_allclose(both[1].map, 4 * both[0].map)
    assert both[0].samples == both[1].samples == 3


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("shape", "letters"), [((2, 9, 3), "NWC"), ((2, 4, 5, 6, 3), "NDHWC")])
def test_a_layout_is_inferred_and_said(verb, shape, letters):
    x = np.ones(shape, np.float32)
    field = verb(lambda x: x[:, :-1] + x[:, 1:], x)
    assert any(letters in note for note in field.notes)
    named = verb(lambda x: x[:, :-1] + x[:, 1:], x, layout=letters)
    assert not any("inferred" in note for note in named.notes)
    assert where(field).size == where(named).size == (2, *(1,) * (len(shape) - 3))


@pytest.mark.parametrize("verb", VERBS)
def test_lists_and_leading_rows_are_taken_by_every_verb(verb):
    """Nested lists are arrays; where the layout has no N, rows stand along one further leading axis."""
    f = lambda x: x[:, 1:] * x[:, :-1]  # noqa: E731
    from_list = verb(f, np.ones((2, 5, 1)).tolist(), layout="NWC")
    rows = verb(lambda x: f(x[None])[0], X[..., 0], layout="HW")
    assert where(from_list).size == (2,)
    assert where(rows).size == (2, 1)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("unit", [1.5, (1.0, 2.0), "a"])
def test_a_unit_must_be_integers(verb, unit):
    with pytest.raises(UnitError, match="integer"):
        verb(Counted(), X, unit=unit)


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (ej.theoretical, {"unknown": "all"}),
        (ej.analytic, {"statistic": "squares"}),
        (ej.analytic, {"gates": "none"}),
        (ej.analytic, {"weights": "trained"}),
        (ej.empirical, {"statistic": "squares"}),
        (ej.empirical, {"statistic": "signed"}),
        (ej.empirical, {"nonfinite": "ignore"}),
    ],
)
def test_an_option_that_does_not_exist_is_named_with_those_that_do(verb, options):
    ((name, value),) = options.items()
    with pytest.raises(SampleError, match=f"`{name}`.*{value}|{value}.*mean"):
        verb(Counted(), X, **options)


@pytest.mark.parametrize("verb", VERBS)
def test_numpy_on_the_input_is_named_with_its_remedy(verb):
    with pytest.raises(FunctionError, match=r"use jax\.numpy"):
        verb(lambda x: jnp.asarray(np.tanh(np.asarray(x))), X)


@pytest.mark.parametrize("verb", VERBS)
def test_an_error_of_the_function_says_where_and_what_it_was_called_on(verb):
    def f(x):
        return conv(x, KERNEL)

    with pytest.raises(FunctionError, match=r"raised TypeError: .*\n  at .*test_question\.py:\d+, in ") as caught:
        verb(f, X[..., 0], layout="NHW")
    assert "erfjax called it on float32[1, 9, 11] (layout NHW, a batch of one)." in str(caught.value)
    assert type(caught.value.__cause__) is TypeError


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda x: x if x.sum() > 0 else -x, r"TracerBoolConversionError: .*\n.*\n.*\n  Python cannot branch"),
        (lambda x: x[:, : int(x.sum())], "Python cannot branch"),
        (lambda x: x[x > 0], "Python cannot branch"),
        (lambda x: x.permute(0, 3, 1, 2), r"has no attribute permute.*\n.*\n.*\n  .*torch2jax"),
        (lambda x: np.asarray(x), r"use jax\.numpy"),
        (lambda x: "words", "must return an array"),
    ],
)
def test_known_errors_of_functions_come_with_a_remedy(f, says):
    with pytest.raises(FunctionError, match=says):
        ej.theoretical(f, X)


@pytest.mark.parametrize("verb", [ej.analytic, ej.empirical])
def test_tokens_are_shown_where_to_cut(verb):
    table = jnp.asarray(RNG.normal(size=(7, 4)), jnp.float32)
    tokens = np.array([[1, 2, 3, 4, 5]])

    def rest(e):
        return e[:, 1:] + e[:, :-1]

    with pytest.raises(SampleError, match=r"rest_of_model\(e\)"):
        verb(lambda t: rest(table[t]), tokens, layout="NL", out_layout="NLC")
    field = verb(rest, table[tokens], layout="NLC")
    assert field.theoretical.size == (2,)
    assert ej.theoretical(lambda t: rest(table[t]), tokens, layout="NL", out_layout="NLC").size == (2,)


def test_trees_of_layouts():
    def f(x):
        return x["a"] + jnp.moveaxis(x["b"], 1, -1)

    x = {"a": X, "b": np.moveaxis(X, -1, 1).copy()}
    fields = ej.empirical(f, x, layout={"a": "NHWC", "b": "NCHW"}, out_layout="NHWC")
    np.testing.assert_array_equal(fields["a"].map, fields["b"].map)
    with pytest.raises(LayoutError, match="tree like the inputs"):
        ej.empirical(f, x, layout={"a": "NHWC"})
    with pytest.raises(LayoutError, match="No input has an axis of space"):
        ej.theoretical(f, {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)})


def test_what_the_fields_say_of_channels_and_averages():
    f = Counted()
    assert (ej.analytic(f, X).channels, ej.analytic(f, X).averages) == ("sum", "inputs and weights")
    assert ej.analytic(f, X[:1], channels=1).channels == 1
    assert ej.analytic(f, X[:1]).averages == "weights"
    assert ej.empirical(f, X, channels="frobenius").channels == "frobenius"
    assert ej.empirical(f, X).averages == "inputs"
    assert ej.empirical(f, X[:1]).averages is None
    drawn = ej.empirical(lambda key, x: f(x), X, key=jax.random.key(0), samples=2)
    assert drawn.averages == "inputs and weights"


def test_a_model_in_training_mode_is_told_to_evaluate():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.conv(x))

    net = Net(nnx.Rngs(0))
    with pytest.raises(FunctionError, match=r"model\.eval\(\)"):
        ej.empirical(lambda x: net(x), X)
    net.eval()
    assert ej.empirical(lambda x: net(x), X).theoretical.size == (3, 3)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_keras_in_either_data_format(layout):
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend here")
    formats = {"NHWC": "channels_last", "NCHW": "channels_first"}
    x = X if layout == "NHWC" else np.moveaxis(X, -1, 1).copy()
    model = keras.Sequential(
        [keras.layers.Conv2D(4, 3, padding="same", data_format=formats[layout]), keras.layers.ReLU()]
    )
    model.build(x.shape)
    weights, state = model.trainable_variables, model.non_trainable_variables
    values, held = [w.value for w in weights], [w.value for w in state]
    f = lambda x: model.stateless_call(values, held, x)[0]  # noqa: E731
    assert ej.theoretical(f, x, layout=layout).size == (3, 3)
    assert ej.empirical(f, x, layout=layout).map.shape == (9, 11)
    assert ej.analytic(f, x, layout=layout).map.shape == (9, 11)


@pytest.mark.parametrize(("steps", "unit", "cut"), [(5, 1, True), (60, 1, True), (60, 40, False)])
def test_a_long_loop_is_not_unrolled(steps, unit, cut):
    """The window of a unit is cut where that unrolls few steps; a long scan stays a scan, and gives the same field."""
    w = jnp.asarray(RNG.normal(size=(3, 3)) / 3, jnp.float32)

    def recurrent(x):
        def step(h, row):
            h = jnp.tanh(row + h @ w)
            return h, h

        return jnp.moveaxis(jax.lax.scan(step, jnp.zeros((x.shape[0], 3)), jnp.moveaxis(x, 1, 0))[1], 0, 1)

    x = RNG.normal(size=(2, steps, 3)).astype(np.float32)
    field = ej.empirical(recurrent, x, layout="NLC", unit=unit)
    (engine,) = (found.engine for found in model._kept[recurrent].values() if hasattr(found, "engine"))
    assert (engine.probe.window == (unit + 1,)) == cut
    g = jax.vmap(jax.grad(lambda x: recurrent(x[None])[0, unit].sum()))(x)
    np.testing.assert_allclose(field.map, np.square(g).sum(-1).mean(0), rtol=1e-5, atol=1e-9)
    assert field.theoretical.size == (unit + 1,)


@pytest.mark.parametrize("verb", VERBS)
def test_one_image_may_lack_its_batch_axis(verb):
    """Three axes are NWC where the function takes them, and one image where it takes a batch of images alone."""
    image = X[0]
    field = verb(lambda x: conv(x, KERNEL), image)
    assert where(field).image_shape == image.shape[:2]
    assert where(field).size == (3, 3)
    with pytest.raises(TypeError, match="lhs and rhs"):  # neither reading works: the first error stands
        verb(lambda x: conv(x, KERNEL[:, :, :1]), image)


@pytest.mark.parametrize("verb", VERBS)
def test_an_output_that_is_another_input_sees_nothing(verb):
    fields = verb(lambda t: t[0], (X, X + 1))
    if verb is ej.theoretical:
        assert (fields[0].size, fields[1].size) == ((1, 1), (0, 0))
    else:
        assert fields[0].map.sum() > 0
        assert not fields[1].map.any()


def test_inputs_without_values_or_of_other_kinds_are_told_apart():
    with pytest.raises(SampleError, match="values to be measured on"):
        ej.empirical(Counted(), jax.ShapeDtypeStruct((1, 9, 11, 2), np.float32))
    with pytest.raises(SampleError, match="astype"):
        ej.empirical(Counted(), X.astype(np.uint8))
    with pytest.raises(SampleError, match="`follow`"):
        ej.theoretical(Counted(), X, follow="grad")
