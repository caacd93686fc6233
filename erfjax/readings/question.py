"""What the three verbs ask alike: a unit of a function of an input, in layouts, for some channels.

A `Question` owns all of it: the function traced once (kept as long as the function lives), the layouts, the units, the check of
the channels, and the key under which answers are cached. A function of several arrays, or with several outputs, makes several
questions; `Questions.answer` puts their answers into the same trees.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax import layouts
from erfjax.calling import explained
from erfjax.errors import DataDependentError, ErfjaxError, FunctionError, SampleError
from erfjax.layouts import Layout, Layouts
from erfjax.measurement.model import Model, cached, require_function, take_apart, zeros
from erfjax.tracing.program.equations import Atom, Known, Program, Var
from erfjax.tracing.program.flatten import ALL, Trace, Unrolled, only, record
from erfjax.typing import Given

CAST = "convert them first, x.astype(jnp.float32) (and scale an image of bytes as the model expects)."
TOKENS = (
    "tokens have no gradient. Ask about the model behind its embedding: with e = embed(tokens), call it on "
    "lambda e: rest_of_model(e) and e (ej.theoretical takes the tokens themselves)."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """A unit, or several, of one output of a traced function, as a function of one of its inputs.

    Attributes:
        trace: the function, traced for one sample.
        weights: the arrays that it holds as a pytree.
        sample: shapes and dtypes of the leaves of one sample, with a batch of one.
        main: which leaf is asked about.
        output: which output.
        source: the roles of the input's axes.
        target: the roles of the output's axes.
        units: spatial indices into the output.
        several: whether a list of units was asked for.
        key: the random key that the function takes first, or None.
        notes: what was inferred.
    """

    trace: Trace
    weights: tuple[Any, ...]
    sample: tuple[jax.ShapeDtypeStruct, ...]
    main: int
    output: int
    source: Layout
    target: Layout
    units: tuple[tuple[int, ...], ...]
    several: bool
    key: Any
    notes: tuple[str, ...]

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the input asked about."""
        return self.sample[self.main]

    @property
    def result(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the output asked about."""
        return jax.tree.leaves(self.trace.tree)[self.output]

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial shape of the input."""
        return self.source.space(self.spec.shape)

    @property
    def channels(self) -> int:
        """How many channels the output has."""
        return 1 if self.target.channel is None else self.result.shape[self.target.channel]

    @property
    def consts(self) -> tuple[Any, ...]:
        """The arrays that the function closed over, then those that it holds as a pytree."""
        return (*self.trace.consts, *self.weights)

    @property
    def footprint(self) -> int:
        """The bytes of all intermediate results."""
        return self.trace.footprint

    @property
    def loops(self) -> bool:
        """Whether the function has loops, which a flat program unrolls."""
        return self.trace.loops

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes two questions about one function the same."""
        layout = (self.source.letters, self.target.letters)
        return (settings(self.sample, self.key), self.main, self.output, layout, self.units, self.several, self._zeros)

    @functools.cached_property
    def _zeros(self) -> Hashable:
        return zeros(self.weights)

    def program(self, consts: Sequence[Any] | None = None, key: Any = None, unrolled: Unrolled = ALL) -> Program:
        """The flat program of the output asked about; see `whole`."""
        return only(self.whole(consts, key, unrolled), self.output)

    def whole(self, consts: Sequence[Any] | None = None, key: Any = None, unrolled: Unrolled = ALL) -> Program:
        """The flat program of all outputs, its first input the one asked about.

        Args:
            consts: arrays in place of `consts`, traced ones too.
            key: a key in place of `key`.
            unrolled: which scans are unrolled.
        """
        own = len(self.trace.consts)
        values = self.consts if consts is None else tuple(consts)
        weights = [_known(value, captured=True) for value in values[own:]]
        keys = [] if self.key is None else [_known(self.key if key is None else key)]
        inputs: list[Atom] = [Var(spec.shape, spec.dtype) for spec in self.sample]
        program = self.trace.program([*weights, *keys, *inputs], values[:own], unrolled)
        first = program.inputs[self.main]
        return dataclasses.replace(program, inputs=(first, *(var for var in program.inputs if var is not first)))

    def evaluate(self, consts: Sequence[Any], key: Any, leaves: Sequence[Any]) -> Any:
        """The output asked about, for these closed-over arrays, key and leaves of a sample."""
        own = len(self.trace.consts)
        keys = [] if self.key is None else [key]
        return self.trace.evaluate([*consts[own:], *keys, *leaves], consts[:own])[self.output]

    def check_channels(self, channels: Any, statistic: str) -> None:
        """Refuses a choice of output channels that the output does not have.

        Raises:
            UnitError: no such channel, or no such choice.
        """
        layouts.check_channels(channels, self.channels, statistic)

    def check_differentiable(self) -> None:
        """Refuses inputs and outputs that have no gradient.

        Raises:
            SampleError: one is not floating point.
            LayoutError: the output has several rows.
        """
        layouts.require_batch_of_one(self.source, self.spec.shape)
        layouts.require_batch_of_one(self.target, self.result.shape)
        if not jnp.issubdtype(self.result.dtype, jnp.floating):
            raise SampleError(
                f"Expected a floating-point output, but f returns {self.result.dtype}: it has no gradient. Ask about what it "
                "is computed from (the scores before an argmax), or about the modulus or a part of complex numbers, jnp.abs."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """The questions about all outputs and inputs of one function.

    Attributes:
        each: the questions, output by output and, within these, input by input.
        inputs: the layouts of the inputs.
        outputs: the tree of the outputs.
    """

    each: tuple[Question, ...]
    inputs: Layouts
    outputs: Any

    def only(self, verb: str) -> Question:
        """The one question that there is.

        Raises:
            FunctionError: there are several inputs or outputs.
        """
        if len(self.each) > 1:
            inputs = sum(letters is not None for letters in self.inputs.letters)
            paths = jax.tree_util.tree_flatten_with_path(
                jax.tree.unflatten(self.outputs, range(self.outputs.num_leaves))
            )[0]
            raise FunctionError(
                f"`{verb}` is about one input and one output, but there are {inputs} and {len(paths)}: fix the others, and pick "
                f"an output, as in lambda x: f(x){jax.tree_util.keystr(paths[0][0])}."
            )
        return self.each[0]

    def answer(self, answers: Callable[[Question], Sequence[Any]]) -> Any:
        """The answers in the tree of the outputs, each in the tree of the inputs (None for an input without a field).

        Args:
            answers: one answer for every unit of a question.
        """
        asked = [i for i, letters in enumerate(self.inputs.letters) if letters]
        found = [tuple(answers(question)) for question in self.each]
        plain = [one if question.several else one[0] for one, question in zip(found, self.each, strict=True)]
        outputs = []
        for first in range(0, len(plain), len(asked)):
            here = dict(zip(asked, plain[first : first + len(asked)], strict=True))
            outputs.append(self.inputs.tree([here.get(i) for i in range(len(self.inputs.letters))]))
        return jax.tree.unflatten(self.outputs, outputs)


def ask(
    f: Given,
    x: Any,
    inputs: Layouts,
    *,
    key: Any = None,
    unit: Any = None,
    out_layout: str | None = None,
) -> Questions:
    """The questions about a function.

    Args:
        f: the function; of (key, x) if there is a key.
        x: one sample: an array, a `jax.ShapeDtypeStruct` or a tree of these, with a batch of one where the layout has N.
        inputs: the layouts of its leaves.
        key: a random key, or None.
        unit, out_layout: as in the verbs.

    Raises:
        FunctionError: f cannot be traced.
        LayoutError, UnitError: input, output and unit do not fit together.
    """
    require_function(f, ("x",) if key is None else ("key", "x"))
    leaves = inputs.leaves(x)
    sample = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    sources = [None if letters is None else layouts.parse_input(letters, leaf.shape)
               for letters, leaf in zip(inputs.letters, sample, strict=True)]  # fmt: skip
    model = take_apart(f)
    trace: Trace = cached(f, ("trace", settings(sample, key)), lambda: _recorded(model, inputs, sample, key))
    results, tree = jax.tree.flatten(trace.tree)
    if not results:
        raise FunctionError(f"f must return an array, or a tree of arrays, but returned {trace.tree!r}.")
    each = []
    for output, result in enumerate(results):
        for main, source in enumerate(sources):
            if source is None:
                continue
            target = layouts.parse_output(out_layout, result.shape, source.letters, sample[main].shape)
            units, several = layouts.resolve_units(unit, target.space(result.shape))
            each.append(
                Question(trace, model.weights, sample, main, output, source, target, units, several, key, inputs.notes)
            )
    return Questions(tuple(each), inputs, tree)


def one_sample(x: Any, layout: Any, *, whole: bool = False) -> tuple[Any, Layouts]:
    """Shapes and dtypes of one sample of an input, in its tree, and the layouts of its leaves.

    Args:
        x: an array, a `jax.ShapeDtypeStruct`, nested lists of numbers, or a tuple or dict of arrays.
        layout: as in the verbs; an array may have one leading axis more than a layout without N, or lack its batch axis.
        whole: keep all rows of the batch.

    Raises:
        LayoutError: the layout does not fit.
    """
    x = layouts.shaped(x) if isinstance(x, list) else x
    found = layouts.of_tree(x, layout)
    leaves = [leaf if hasattr(leaf, "shape") else np.asarray(leaf) for leaf in found.leaves(x)]
    specs = [_sample(leaf, letters, whole) for leaf, letters in zip(leaves, found.letters, strict=True)]
    return found.tree(specs), found


def _sample(leaf: Any, letters: str | None, whole: bool) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one sample of a leaf."""
    shape, dtype = list(leaf.shape), jax.dtypes.canonicalize_dtype(leaf.dtype)
    if letters is None:
        return jax.ShapeDtypeStruct((1, *shape[1:]) if shape and not whole else shape, dtype)
    batched = "N" in letters
    if batched and len(shape) == len(letters) - 1:
        shape.insert(letters.index("N"), 1)
    elif not batched and len(shape) == len(letters) + 1 and not whole:
        del shape[0]
    axis = layouts.parse_input(letters, shape).batch
    if axis is not None and not whole:
        shape[axis] = 1
    return jax.ShapeDtypeStruct(shape, dtype)


def of_image(answer: Callable[[Any], Any], x: Any, layout: Any) -> Any:
    """The answer for a layout; where none was given and f refuses three axes as NWC, for one image without its batch axis.

    Args:
        answer: a function of the layout.
        x: the input.
        layout: as given.
    """
    try:
        return answer(layout)
    except (TypeError, ValueError) as error:
        if (
            layout is not None
            or len(getattr(x, "shape", ())) != 3
            or (isinstance(error, ErfjaxError) and not error.__cause__)
        ):
            raise
        try:
            return answer("NHWC")
        except Exception:
            raise error from error.__cause__


def require_floating(x: Any, inputs: Layouts) -> None:
    """Refuses inputs that have no gradient.

    Raises:
        SampleError: no input is floating point.
    """
    for leaf, letters in zip(inputs.leaves(x), inputs.letters, strict=True):
        if letters and not jnp.issubdtype(leaf.dtype, jnp.floating):
            numbers = jnp.issubdtype(leaf.dtype, jnp.complexfloating) or leaf.dtype in (np.uint8, np.bool_)
            raise SampleError(f"Expected floating-point inputs, but got {leaf.dtype}: {CAST if numbers else TOKENS}")


def settings(sample: Sequence[jax.ShapeDtypeStruct], key: Any) -> tuple[Any, ...]:
    """What a trace depends on besides the function: shapes, dtypes, the kind of key, JAX's precision settings."""
    shapes = tuple((spec.shape, str(spec.dtype)) for spec in sample)
    kind = None if key is None else (key.shape, str(key.dtype))
    precision = (getattr(jax.config, "jax_default_matmul_precision", None), str(jax.dtypes.canonicalize_dtype(float)))
    return shapes, kind, precision


def _recorded(model: Model, inputs: Layouts, sample: Sequence[jax.ShapeDtypeStruct], key: Any) -> Trace:
    """The trace of a model: operands are its weights, the key and the leaves of a sample."""
    keys = () if key is None else (jax.eval_shape(lambda: key),)

    def call(weights: Any, *rest: Any) -> Any:
        *keys, leaves = rest
        return model.rebuild(weights)(*keys, inputs.tree(leaves))

    one = ", a batch of one" if any("N" in letters for letters in inputs.letters if letters) else ""
    how = f" (layout {', '.join(map(str, inputs.letters))}{one})"
    with explained("The function", sample, "; ".join([how, *inputs.notes])):
        return record(call, model.weights, *keys, list(sample))


@contextlib.contextmanager
def reversible() -> Iterator[None]:
    """Says what to do about a loop that JAX cannot differentiate backwards; as a decorator too.

    Raises:
        DataDependentError: the data choose how many steps a loop takes.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Reverse-mode differentiation does not work"):
            raise
        raise DataDependentError(
            "The input decides how many steps a while loop takes, so JAX has no reverse derivative of it. Give the loop a static "
            "number of steps (lax.scan, lax.fori_loop; jnp.where keeps what is finished), or a derivative of its own "
            "(jax.custom_vjp, jax.lax.custom_root)."
        ) from error


def _known(value: Any, captured: bool = False) -> Known:
    value = value if hasattr(value, "shape") else jnp.asarray(value)
    return Known(value.shape, value.dtype, functools.partial(lambda held: held, value), captured)
