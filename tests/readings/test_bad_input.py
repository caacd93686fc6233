"""What cannot be asked is refused by every verb in the library's own words, with the remedy."""

from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import (
    DataDependentError,
    ErfjaxError,
    FunctionError,
    LayoutError,
    SampleError,
    StackError,
    UnitError,
)

x = np.ones((1, 16, 1), np.float32)
VERBS = {
    "theoretical": lambda f: ej.theoretical(f, x),
    "analytic": lambda f: ej.analytic(f, x),
    "empirical": lambda f: ej.empirical(f, x),
    "context": lambda f: ej.context(f, x, layout="NWC"),
    "tiling": lambda f: ej.tiling(f, x, tile=8, layout="NWC"),
}


def identity(x: Any) -> Any:
    return x


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("f", "words"),
    [(None, "must be a function"), (lambda a, b: a, r"is called as f\(x\), but takes \(a, b\)")],
    ids=["none", "two arguments"],
)
def test_what_is_no_function_of_an_array_is_refused(verb: str, f: Any, words: str) -> None:
    with pytest.raises(FunctionError, match=words):
        VERBS[verb](f)


def test_a_function_of_a_key_must_take_it() -> None:
    with pytest.raises(FunctionError, match=r"is called as f\(key, x\)"):
        ej.empirical(identity, x, key=jax.random.key(0), samples=2)


@pytest.mark.parametrize(
    ("output", "words"), [(None, "must return an array"), ("word", "must return an array, or a tree of arrays")]
)
def test_what_returns_no_array_is_refused(output: Any, words: str) -> None:
    with pytest.raises(FunctionError, match=words):
        ej.theoretical(lambda x: output, x)


class Picture:
    """What PIL's images have in common with arrays."""

    __array_interface__: ClassVar[dict[str, Any]] = {}


@pytest.mark.parametrize(
    ("nothing", "remedy"),
    [
        (None, "got None"),
        ("photo.png", r"ej\.plot\.read_image"),
        (Path("photo.png"), r"ej\.plot\.read_image"),
        ((1, 9, 3), r'jax\.ShapeDtypeStruct\(\(1, 9, 3\), "float32"\)'),
        (Picture(), r"np\.asarray"),
    ],
)
def test_what_is_no_array_is_refused(nothing: Any, remedy: str) -> None:
    for ask in (ej.theoretical, ej.analytic, ej.context):
        with pytest.raises(LayoutError, match=f"Expected an array.*{remedy}"):
            ask(identity, nothing)
    with pytest.raises(ErfjaxError, match=f"Expected an array.*{remedy}"):
        ej.empirical(identity, nothing)


@pytest.mark.parametrize(
    "options",
    [{"samples": 2.5}, {"mesh": 3}, {"target": "a"}, {"key": 3, "samples": 2}],
    ids=lambda options: "-".join(options),
)
def test_options_of_another_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SampleError, match=r"must be|is a relative"):
        ej.empirical(identity if "key" not in options else lambda key, x: x, x, **options)


def test_a_loop_without_a_derivative_is_refused_with_what_helps() -> None:
    def doubled(x: Any) -> Any:
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 100, lambda y: 2 * y, x)

    with pytest.raises(DataDependentError, match="no reverse derivative"):
        ej.empirical(doubled, x)

    @jax.custom_vjp
    def taught(x: Any) -> Any:
        return doubled(x)

    taught.defvjp(lambda x: (doubled(x), None), lambda _, g: (8 * g,))
    assert ej.empirical(taught, x).map.tolist() == [0.0] * 8 + [64.0] + [0.0] * 7


def test_nested_lists_of_numbers_are_arrays() -> None:
    rows = x.tolist()
    assert ej.context(identity, rows, layout="NWC").right == 0
    assert ej.tiling(identity, rows, tile=8, layout="NWC").halo == ((0, 0),)
    assert ej.redraw(identity)(jax.random.key(0), rows).shape == x.shape


@pytest.mark.parametrize(
    "ask",
    [
        lambda: ej.tiling(identity, x, tile="a", layout="NWC"),
        lambda: ej.tiling(identity, x, tile=7.5, layout="NWC"),
        lambda: ej.needed(objects="32"),
        lambda: ej.match([ej.analytic(identity, x)], [4]),
        lambda: ej.match({"a": ej.theoretical(identity, x)}, [4]),
        lambda: ej.growth(None, (1, 2), x),
        lambda: ej.growth(lambda n: identity, "ab", x),
        lambda: ej.redraw([1, 2]),
    ],
)
def test_decisions_and_growth_refuse_what_they_cannot_use(ask: Any) -> None:
    with pytest.raises(ErfjaxError, match="must be"):
        ask()


def test_growth_names_the_family() -> None:
    with pytest.raises(StackError, match="n -> network"):
        ej.growth(None, (1, 2), x)


def _convolution(x: Any) -> Any:
    return jax.lax.conv_general_dilated(
        x, jnp.ones((3, 3, 3, 2)), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_one_photograph_without_its_batch_axis_is_understood_or_named() -> None:
    photograph = np.random.default_rng(0).normal(size=(9, 12, 3)).astype(np.float32)
    assert ej.report(_convolution, photograph, progress=False).theoretical.size == (3, 3)
    with pytest.raises(LayoutError, match=r"add the batch axis, x\[None\]"):
        ej.tiling(_convolution, photograph, tile=4)


def test_every_reading_doubts_a_layout_with_channels_and_space_swapped() -> None:
    photographs = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype(np.float32)
    for verb in (ej.theoretical, ej.analytic, ej.empirical):
        assert any('say layout="NCHW"' in note for note in verb(_convolution, photographs, layout="NCHW").notes)
        assert not any("say layout" in note for note in verb(_convolution, photographs).notes)


def test_bytes_met_by_weights_are_told_to_be_converted() -> None:
    with pytest.raises(FunctionError, match=r"x\.astype\(jnp\.float32\)"):
        ej.theoretical(_convolution, np.zeros((1, 9, 12, 3), np.uint8))


def test_a_channel_in_the_unit_is_told_where_it_goes() -> None:
    with pytest.raises(UnitError, match=r"3 given. A channel is chosen by channels="):
        ej.theoretical(_convolution, np.zeros((1, 9, 12, 3), np.float32), unit=(4, 4, 1))


def test_redrawing_what_raises_says_where() -> None:
    with pytest.raises(FunctionError, match=r"use jax\.numpy"):
        ej.redraw(np.tanh)(jax.random.key(0), x)


def test_weights_given_as_inputs_are_told_to_be_bound() -> None:
    with pytest.raises(SampleError, match=r"bind them, lambda x: f\(params, x\)"):
        ej.analytic(lambda both: both[0].sum() * both[1], (jnp.ones((3, 3, 3, 8)), jnp.ones((1, 9, 12, 3))))


@pytest.mark.parametrize("verb", [ej.by_layer, ej.every_unit, ej.analytic_map])
def test_one_of_several_outputs_is_named(verb: Any) -> None:
    with pytest.raises(FunctionError, match=r"there are 1 and 2: .* lambda x: f\(x\)\['a'\]"):
        verb(lambda x: {"a": x, "b": 2 * x}, x)


def test_what_is_given_is_said_without_its_numbers() -> None:
    with pytest.raises(FunctionError, match=r"got float32\[1, 16, 1\]\.$"):
        ej.theoretical(x, x)
    with pytest.raises(LayoutError, match=r"got a tuple of float32\[1, 16, 1\], float32\[1, 16, 1\]\.$"):
        ej.tiling(identity, (x, x), tile=8)


def test_weights_that_are_not_finite_cannot_be_redrawn() -> None:
    with pytest.raises(SampleError, match="not finite"):
        ej.redraw(lambda x: x @ jnp.array([[1.0, jnp.nan]]))(jax.random.key(0), x)


def test_a_key_for_a_function_of_an_array_alone_is_told_what_it_is_for() -> None:
    with pytest.raises(FunctionError, match=r"leave the key out .* ej\.redraw\(f\)"):
        ej.empirical(identity, x, key=jax.random.key(0), samples=2)


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(AttributeError) as error:
        ej.theoritical  # noqa: B018
    assert (error.value.name, error.value.obj) == ("theoritical", ej)
