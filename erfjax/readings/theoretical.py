"""`theoretical`: where a unit of any JAX function can look, exactly, from one trace and the hull walk."""

from typing import Any, Literal

import jax

from erfjax.layouts import parse_input, parse_output, resolve_units
from erfjax.readings.reader import Reader
from erfjax.tracing.positions.hull import everything, refuse, remembered
from erfjax.tracing.program.flatten import trace
from erfjax.typing import Function, Shaped


def theoretical(
    f: Function,
    x: Shaped,
    *,
    unit: Any = None,
    layout: str = "NHWC",
    out_layout: str | None = None,
    unknown: Literal["refuse", "everything"] = "refuse",
) -> Any:
    """The theoretical receptive field of a unit of `f`: where it can look, in exact integers.

    The function is traced once and never run. Of what it knows beforehand only what moves positions is looked at: indices,
    the index of a branch, and the zeros (but for rounding) of a fixed matrix in a contraction, as in resizing, which goes on
    beyond the border as it is inside. Any other weight or mask counts, zero or not, and of
    what the data decide (an extremum, an order, an index, a branch) all outcomes count. So the mask holds the support of the
    Jacobian, and is it for weights in general position; only a set that falls apart into more than 512 boxes (pixels in random
    order) is replaced by a larger one.

    Args:
        f: maps an array to an array, or to a tree of arrays: then the result is the same tree of fields.
        x: an array or a `jax.ShapeDtypeStruct`; only shape and dtype are used.
        unit: spatial index of the output, one integer per spatial axis; None is the centre n // 2; a list of units gives a list.
        layout: the axes of `x`, such as "NHWC", "NCHW", "CHW", "NWC", "NDHWC".
        out_layout: the axes of the output; by default those of the input where the output has as many.
        unknown: "refuse" a primitive without a rule, or let it see "everything" (the notes count them).

    Returns:
        A `TheoreticalField`; positions in pixels of the input.

    Raises:
        UnsupportedPrimitiveError: a primitive without a rule.
        DataDependentError: a loop whose length depends on the input.
        LayoutError, UnitError: the layout or the unit does not fit.

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
    source = parse_input(layout, x.shape)
    program = trace(f, x)
    views = remembered({"refuse": refuse, "everything": everything}[unknown])
    reader = Reader(program, source, views)
    leaves, tree = jax.tree.flatten(program.tree)
    fields = []
    for atom, leaf in zip(program.outputs, leaves, strict=True):
        target = parse_output(out_layout, leaf.shape, layout)
        units, several = resolve_units(unit, target.space(leaf.shape))
        found = [reader.field(atom, target, u) for u in units]
        fields.append(found if several else found[0])
    return jax.tree.unflatten(tree, fields)
