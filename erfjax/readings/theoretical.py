"""`theoretical`: where a unit of any JAX function can look, exactly, from one trace and the hull walk."""

from typing import Any, Literal, cast, overload

from erfjax.errors import LayoutError, SampleError, UnitError
from erfjax.fields import TheoreticalField
from erfjax.measurement.model import cached
from erfjax.readings.question import Question, Questions, ask, of_image, one_sample
from erfjax.readings.reader import Reader
from erfjax.tracing.positions.hull import Views, everything, refuse
from erfjax.tracing.positions.through_zeros import Follow
from erfjax.typing import Function, Given, Shaped, Tree, Unit

FOLLOW = ("values", "gradients")
UNKNOWN: dict[str, Views] = {"refuse": refuse, "everything": everything}


@overload
def theoretical(
    f: Function,
    x: Shaped,
    *,
    unit: list[Unit],
    layout: str | None = None,
    out_layout: str | None = None,
    unknown: Literal["refuse", "everything"] = "refuse",
    follow: Follow = "values",
) -> tuple[TheoreticalField, ...]: ...
@overload
def theoretical(
    f: Function,
    x: Shaped,
    *,
    unit: Unit = None,
    layout: str | None = None,
    out_layout: str | None = None,
    unknown: Literal["refuse", "everything"] = "refuse",
    follow: Follow = "values",
) -> TheoreticalField: ...
@overload
def theoretical(
    f: Function,
    x: Tree,
    *,
    unit: Unit | list[Unit] = None,
    layout: Tree = None,
    out_layout: str | None = None,
    unknown: Literal["refuse", "everything"] = "refuse",
    follow: Follow = "values",
) -> Tree: ...
def theoretical(
    f: Given,
    x: Given,
    *,
    unit: Given = None,
    layout: Given = None,
    out_layout: str | None = None,
    unknown: str = "refuse",
    follow: str = "values",
) -> TheoreticalField | tuple[TheoreticalField, ...] | Tree:
    """The theoretical receptive field of a unit of `f`: where it can look, in exact integers.

    The function is traced once, for one sample, and never run; asked again, it is not even traced. Only constants that determine
    positions are read: index arrays, branch indices, and known zeros and minus infinities, as masks hold them (a weight of zeros
    only is a silent branch, no mask). All other constants count as non-zero, and where data decide (an extremum, an order, an
    index, a branch) every outcome is included. The mask therefore contains the support of the Jacobian, with equality for generic
    weights; only a set that falls apart into more than 512 boxes (pixels in random order) is replaced by a larger one. Where a
    mask is a finite number such as -1e9, the exponential of it is taken for zero, and a note says so.

    Args:
        f: maps an array to an array. It may take several, as one tuple or dict, and return any tree of arrays.
        x: an array or a `jax.ShapeDtypeStruct`, of which only shape and dtype are used; a tuple or dict of them where f takes
            several.
        unit: spatial index of the output, one integer per spatial axis; None is the centre n // 2; a list of units gives a tuple.
        layout: the axes of `x`, such as "NHWC", "NCHW", "CHW", "NWC", "NDHWC"; for several inputs a tree of these. None infers
            NWC, NHWC or NDHWC from the number of axes, and says so in a note where it is not NHWC.
        out_layout: the axes of the output; by default those of the input where the output has as many.
        unknown: "refuse" a primitive without a rule, or let it see "everything" (the notes count them).
        follow: "values": what the value of the unit depends on; "gradients": what a gradient reaches, which stops at
            `stop_gradient` and at steps (rounding, comparisons).

    Returns:
        A `TheoreticalField`, positions in pixels of the input; a tuple of fields if `unit` is a list. For a tree of outputs the
        same tree of fields; for several inputs, in its place, the tree of the inputs with a field for each floating-point array
        that has space, and None for the others.

    Raises:
        UnsupportedPrimitiveError: a primitive without a rule.
        DataDependentError: a loop whose length depends on the input.
        FunctionError: f cannot be traced.
        LayoutError, UnitError: the layout or the unit does not fit.
        SampleError: there is no option of that name.

    Source:
        A. Araujo, W. Norris, J. Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019; exact sets of
        positions in place of its recurrence, so that branches, holes and phases are right.

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> kernel = jnp.ones((3, 3, 1, 1))
        >>> dims = ("NHWC", "HWIO", "NHWC")
        >>> f = lambda x: jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=dims)
        >>> field = ej.theoretical(f, jax.ShapeDtypeStruct((1, 9, 11, 1), jnp.float32))
        >>> field.size, field.stride, field.start
        ((3, 3), (2, 2), (4, 4))
    """
    if unknown not in UNKNOWN:
        raise SampleError(f"`unknown` must be one of {', '.join(map(repr, UNKNOWN))}, but got {unknown!r}.")
    if follow not in FOLLOW:
        raise SampleError(f"`follow` must be one of {', '.join(map(repr, FOLLOW))}, but got {follow!r}.")

    def answer(layout: Any) -> Any:
        asked = _asked(f, x, unit, layout, out_layout)
        return asked.answer(lambda question: fields_of(question, f, unknown, cast(Follow, follow)))

    return of_image(answer, x, layout)


def fields_of(
    question: Question, f: Function, unknown: str = "refuse", follow: Follow = "values"
) -> tuple[TheoreticalField, ...]:
    """The theoretical field of every unit of a question."""
    reader = reader_of(question, f, unknown, follow)
    atom = reader.program.outputs[question.output]
    return tuple(reader.field(atom, question.target, unit) for unit in question.units)


def reader_of(question: Question, f: Function, unknown: str = "refuse", follow: Follow = "values") -> Reader:
    """The reader of all outputs of the function that a question is about."""

    def make() -> Reader:
        return Reader(question.whole(), question.source, UNKNOWN[unknown], question.notes, follow)

    # the positions of a model that holds its weights as a pytree may depend on these (zeros, indices): read anew each time
    identity = ("reader", *question.identity[:2], question.source.letters, unknown, follow)  # one for all outputs
    fresh = question.weights or question.key is not None
    return make() if fresh else cast(Reader, cached(f, identity, make))


def _asked(f: Given, x: Any, unit: Any, layout: Any, out_layout: str | None) -> Questions:
    """The questions about one sample; about the whole batch where f takes no other number of rows."""
    spec, inputs = one_sample(x, layout)
    try:
        return ask(f, spec, inputs, unit=unit, out_layout=out_layout)
    except (LayoutError, UnitError):
        raise
    except Exception as error:
        whole, _ = one_sample(x, layout, whole=True)
        if whole == spec:
            raise
        try:
            return ask(f, whole, inputs, unit=unit, out_layout=out_layout)
        except Exception:
            raise error from error.__cause__
