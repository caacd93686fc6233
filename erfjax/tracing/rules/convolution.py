"""Convolution in every layout: strides, both dilations, groups, batch groups, asymmetric and negative padding."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from erfjax.tracing.positions.access import WHOLE, Along, AxisView, IrregularError, Lookup, Mapping, Seen, Shift, View
from erfjax.tracing.positions.index_sets import EMPTY, Box, Points, full, runs
from erfjax.tracing.positions.interval_rows import IntervalRows
from erfjax.tracing.positions.known_values import Facts, zeros
from erfjax.tracing.positions.pattern import MANY
from erfjax.tracing.positions.through_zeros import sharpens
from erfjax.tracing.program.equations import Equation
from erfjax.tracing.registry import Rule, WindowRule, bind, lengths, row
from erfjax.tracing.rules.contraction import accumulated
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.windows.cpu_taps import convolved, sums_taps
from erfjax.tracing.windows.fourier import is_transformed, transformed


def grouped(out: int, n_out: int, n_in: int, groups: int) -> AxisView:
    """The input channels of a group: result channel o belongs to group o // (n_out / groups)."""
    if groups == 1:
        return WHOLE
    group_out = np.arange(n_out) // (n_out // groups)
    group_in = np.arange(n_in) // (n_in // groups)
    return Lookup(out, IntervalRows.of(group_out[:, None] == group_in), cut=False)


def conv_general_dilated(equation: Equation, result: int) -> Sequence[Seen | None]:
    """i·lhs_dilation = o·stride + t·rhs_dilation - padding: strided, dilated and transposed convolutions are one equation."""
    params = equation.params
    lhs, rhs, out = params["dimension_numbers"]
    x, kernel = (atom.shape for atom in equation.inputs)
    y = equation.outputs[0].shape
    axes: list[AxisView] = [WHOLE] * len(x)
    axes[lhs[0]] = Along(out[0])
    axes[lhs[1]] = grouped(out[1], y[out[1]], x[lhs[1]], params["feature_group_count"])
    for i, (stride, dilation, base, (low, _)) in enumerate(
        zip(params["window_strides"], params["rhs_dilation"], params["lhs_dilation"], params["padding"], strict=True)
    ):
        size = kernel[rhs[2 + i]]
        axes[lhs[2 + i]] = Along(out[2 + i], size, stride, dilation, -low, base)
    taps: list[AxisView] = [WHOLE] * len(kernel)
    taps[rhs[0]] = Along(out[1])
    seen: Seen = View(tuple(axes))
    if params["batch_group_count"] > 1:
        seen = _batch_grouped(axes, lhs[0], out, x[lhs[0]], y[out[1]], params["batch_group_count"])
    return [seen, View(tuple(taps))]


def past_holes(equation: Equation, result: int, seen: Sequence[Seen | None], facts: Facts) -> Sequence[Seen | None]:
    """Taps that are zero for all channels, while others are not, are holes in the kernel (masked convolutions)."""
    view, kernel = seen[0], equation.inputs[1]
    if not isinstance(view, View):
        return seen
    lhs, rhs, _ = equation.params["dimension_numbers"]
    held = zeros(kernel, facts).complement.without(rhs[:2], every=False)
    if not held or held.is_full:
        return seen
    taps = (type(box)(box[a] for a in rhs[2:]) for box in held.within(full(kernel.shape), MANY))
    return [Masked(view, lhs[2:], tuple(taps)), *seen[1:]]


@dataclasses.dataclass(frozen=True)
class Masked:
    """A window of which some taps only are seen: boxes of taps along the axes `along`."""

    view: View
    along: Sequence[int]
    taps: tuple[Box, ...]

    def pull(self, box: Box) -> Iterable[Box]:
        for taps in self.taps:
            axes = [axis.pull(box) for axis in self.view.axes]
            for a, held in zip(self.along, taps, strict=True):
                axes[a] = _under(self.view.axes[a], held, box)
            yield type(taps)(axes)

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        return self.view.shift(shifts, whole)


def _under(window: AxisView, taps: Points, box: Box) -> Points:
    """What some taps of a window see along an axis."""
    assert isinstance(window, Along)
    found = EMPTY
    for start, stop in runs(taps):
        moved = window.offset + start * window.dilation
        found = found.union(dataclasses.replace(window, size=stop - start, offset=moved).pull(box))
    return found


sharpens("conv_general_dilated", past_holes)


def _batch_grouped(axes: list[AxisView], batch: int, out: Sequence[int], n: int, features: int, groups: int) -> Seen:
    """Result feature o reads the batch rows of its own group only: row (o's group)·(n / groups) + result row."""

    def pull(box: Box) -> Iterable[Box]:
        for group in np.unique(box[out[1]].clip(0, features).positions // (features // groups)):
            pulled = [axis.pull(box) for axis in axes]
            pulled[batch] = box[out[0]].shift(int(group) * (n // groups))
            yield tuple(pulled)

    def shift(shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        if shifts[out[0]] or shifts[out[1]]:
            raise IrregularError
        return tuple(Fraction(0) if a == batch else axis.shift(shifts, whole) for a, axis in enumerate(axes))

    return Mapping(pull, shift)


def local_padding(
    out: Points, held: Points, size: int, stride: int, dilation: int, low: int, base: int
) -> tuple[int, int]:
    """The padding with which a window of the operand gives a window of the result; negative where it must be cropped."""
    start, stop = out.start * stride - low, (out.stop - 1) * stride - low + (size - 1) * dilation + 1
    return int(held.start * base - start), int(stop - ((held.stop - 1) * base + 1))


def conv_on_window(equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box) -> Any:
    """The same convolution with the padding that is left of it at the window; on a CPU in the form that XLA is quick at."""
    params = equation.params
    lhs, rhs, out = params["dimension_numbers"]
    window = zip(
        params["window_strides"], params["rhs_dilation"], params["lhs_dilation"], params["padding"], strict=True
    )
    padding = tuple(
        local_padding(box[o], boxes[0][i], equation.inputs[1].shape[k], stride, dilation, low, base)
        for o, i, k, (stride, dilation, base, (low, _)) in zip(out[2:], lhs[2:], rhs[2:], window, strict=True)
    )
    counts = [lengths(box)[o] for o in out[2:]]
    element = accumulated(equation, operands)
    if sums_taps(equation, math.prod(counts)):
        return convolved(equation, operands[0], operands[1], padding, counts, element)
    if is_transformed(equation, counts):
        return transformed(equation, operands[0], operands[1], padding, counts)
    return bind(equation, result, operands, boxes, box, padding=padding, preferred_element_type=element)


def all_features(equation: Equation, box: Box) -> Box:
    """Features (and, with batch groups, batches) are computed together."""
    _, _, out = equation.params["dimension_numbers"]
    whole = out[:2] if equation.params["batch_group_count"] > 1 else out[1:2]
    return tuple(
        Points(0, n) if a in whole else p for a, (p, n) in enumerate(zip(box, equation.outputs[0].shape, strict=True))
    )


row(
    "conv_general_dilated",
    Rule(
        hull=conv_general_dilated,
        restrict=WindowRule(conv_on_window, all_features, outside="stand in"),
        moment=Kind.BILINEAR,
        layer=True,
    ),
)
