"""What cannot be asked is refused by every verb in the library's own words, with the remedy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import DataDependentError, ErfjaxError, FunctionError, LayoutError, SampleError, StackError

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


@pytest.mark.parametrize("nothing", [None, "photo.png"])
def test_what_is_no_array_is_refused(nothing: Any) -> None:
    for ask in (ej.theoretical, ej.context):
        with pytest.raises(LayoutError, match="Expected an array"):
            ask(identity, nothing)


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
