"""Windowed reductions and cumulative operations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.tracing.positions.access import SCALAR, Along, Prefix, Seen, Then, View
from erfjax.tracing.positions.index_sets import Box, Points
from erfjax.tracing.program.equations import Equation
from erfjax.tracing.registry import Rule, WindowRule, bind, lengths, row
from erfjax.tracing.rules.convolution import local_padding
from erfjax.tracing.second_moments.kinds import Choice, Kind
from erfjax.tracing.windows.cone import Step
from erfjax.tracing.windows.cpu_taps import greater, lesser, pooled, pools_taps


def along_axes(equation: Equation) -> tuple[Along, ...]:
    """Per axis i·base = o·stride + t·dilation - padding."""
    params = equation.params
    ones = (1,) * len(params["window_dimensions"])
    return tuple(
        Along(axis, size, stride, dilation, -low, base)
        for axis, (size, stride, (low, _), dilation, base) in enumerate(
            zip(
                params["window_dimensions"],
                params["window_strides"],
                params["padding"],
                params.get("window_dilation", ones),
                params.get("base_dilation", ones),
                strict=True,
            )
        )
    )


def reduce_window(equation: Equation, result: int) -> Sequence[Seen | None]:
    """All operands (and, in the general form, the scalars they start from) lie under the same window."""
    seen = View(along_axes(equation))
    rank = len(equation.outputs[0].shape)
    return [seen if len(atom.shape) == rank else SCALAR for atom in equation.inputs]


def select_and_scatter_add(equation: Equation, result: int) -> Sequence[Seen | None]:
    """The derivative of a pooling by extrema: position i takes from the windows above it, which compare what lies under them."""
    under = along_axes(equation)
    above = View(tuple(Along(w.out, w.size, 1, 1, -w.offset - w.size + 1, w.stride) for w in under))
    return [above, Then(above, View(under))]


def cumulative(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Result o needs all positions up to o, or from o on."""
    along, reverse = equation.params["axis"], equation.params["reverse"]
    shape = equation.inputs[0].shape
    return [View(tuple(Prefix(a, reverse) if a == along else Along(a) for a in range(len(shape))))]


def padding_on_window(equation: Equation, held: Box, box: Box) -> tuple[tuple[int, int], ...]:
    """What is left of the padding between a window of the operand and a window of the result."""
    return tuple(
        local_padding(box[axis.out], held[axis.out], axis.size, axis.stride, axis.dilation, -axis.offset, axis.base)
        for axis in along_axes(equation)
    )


def pool_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    """The same pooling with the padding that is left of it at the window."""
    padding = padding_on_window(equation, boxes[0], box)
    return bind(equation, result, operands, boxes, box, padding=padding)


def by_lines(join: Callable[[Any, Any], Any], start: float) -> WindowRule:
    """A pooling that may be computed one axis after the other, where that is quicker."""

    def evaluate(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
        if not pools_taps(equation):
            return pool_on_window(equation, result, operands, boxes, box)
        return pooled(equation, operands[0], padding_on_window(equation, boxes[0], box), lengths(box), join, start)

    return WindowRule(evaluate)


def to_the_end(equation: Equation, box: Box) -> Box:
    """A cumulative result is computed from its first position on."""
    axis, reverse = equation.params["axis"], equation.params["reverse"]
    n = equation.inputs[0].shape[axis]
    line = Points(box[axis].start, n) if reverse else Points(0, box[axis].stop)
    return (*box[:axis], line, *box[axis + 1 :])


def mean_of_window(step: Step, array: Any) -> tuple[Any, Any]:
    """The mean over the entries of each window that are not padding, and how many these are."""
    params = step.equation.params
    padding = padding_on_window(step.equation, step.operands[0] or (), step.box)
    window = (params["window_dimensions"], params["window_strides"], padding)
    dilations = (params["base_dilation"], params["window_dilation"])
    total = lax.reduce_window(array, np.zeros((), array.dtype), lax.add, *window, *dilations)
    count = np.ones((1,) * array.ndim)  # not by the same sum over ones, which the compiler would fold
    for axis, (length, n) in enumerate(zip(array.shape, total.shape, strict=True)):
        size, stride, base, dilation = (part[axis] for part in (*window[:2], *dilations))
        at = stride * np.arange(n)[:, None] + dilation * np.arange(size) - padding[axis][0]
        inside = (at >= 0) & (at < (length - 1) * base + 1) & (at % base == 0)
        count = count * inside.sum(axis=1).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    count = np.maximum(count, 1)
    return total / jnp.broadcast_to(jnp.asarray(count, array.dtype), total.shape), count


row(
    "reduce_window_sum", Rule(hull=reduce_window, restrict=by_lines(lax.add, 0.0), moment=Kind.WINDOW_TOTAL, layer=True)
)
for name, sign, join in (("reduce_window_max", 1, greater), ("reduce_window_min", -1, lesser)):
    choice = Choice(mean_of_window, sign)
    row(name, Rule(hull=reduce_window, restrict=by_lines(join, -sign * np.inf), moment=choice, layer=True))
row("select_and_gather_add", Rule(hull=reduce_window, restrict=WindowRule(pool_on_window), moment=Choice(), layer=True))
row("select_and_scatter_add", Rule(hull=select_and_scatter_add))
row("reduce_window", Rule(hull=reduce_window, layer=True))
UP_TO = WindowRule(bind, to_the_end)
row("cumsum", Rule(hull=cumulative, restrict=UP_TO, moment=Kind.TOTAL, layer=True))
row("cummax cummin", Rule(hull=cumulative, restrict=UP_TO, moment=Choice(), layer=True))
row("cumprod cumlogsumexp", Rule(hull=cumulative, restrict=UP_TO, layer=True))
