"""Windows computed tap by tap: as sums or extrema of a few shifted slices, where XLA's CPU back end is slower at the whole.

Measured on one core, forwards and backwards together: a convolution that touches one pixel is a matrix product (1.2 times
quicker); on windows of up to `SMALL` positions a sum of matrix products spares the backward pass its border of zeros (up to 2
times, and as much again where every sample has weights of its own); a depthwise convolution is 36 times quicker as a sum of
products, a max-pooling 15 times, since XLA scatters its derivative. Values and derivatives are the same, ties included.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.program.equations import Equation
from erfjax.tracing.windows.brief import runs

SMALL = 169  # positions of a result on which a sum over the taps of a dense kernel is quicker ...
WIDE = 64 * 64  # ... if a tap has this many weights, and ...
WORTH = 1e10  # ... multiplications of all samples together: below, compiling (half a second) takes longer than is won
DENSE_TAPS, DEPTHWISE_TAPS, LINE_TAPS = 9, 64, 16  # beyond, the program gets long: of a kernel, per axis of a pooling
PIECEWISE_LINEAR = frozenset(
    jx.named(
        "conv_general_dilated add sub mul neg max min select_n gt ge lt le reduce_window_max reduce_window_sum "
        "broadcast_in_dim reshape transpose squeeze pad slice concatenate"
    )
)

Sides = Sequence[tuple[int, int]]


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def piecewise_linear(equation: Equation) -> bool:
    """Whether an equation is a dense convolution or a piecewise linear operation, or has a body of nothing else."""
    if equation.scan is not None:
        return False
    if equation.blocks:
        return all(piecewise_linear(inner) for block in equation.blocks for inner in block.equations)
    return equation.primitive in PIECEWISE_LINEAR and equation.params.get("feature_group_count", 1) == 1


def taps(operand: Any, axis: int, size: int, count: int, stride: int, dilation: int) -> Iterator[Any]:
    """What each of the `size` taps of a window sees along an axis from its `count` places."""
    for tap in range(size):
        first = tap * dilation
        yield lax.slice_in_dim(operand, first, first + (count - 1) * stride + 1, stride, axis)


def is_depthwise(equation: Equation) -> bool:
    """Whether an equation is a convolution of every channel by itself, with no more taps than a sum over them takes."""
    if equation.primitive is not lax.conv_general_dilated_p or equation.params["feature_group_count"] == 1:
        return False
    kernel, rhs = equation.inputs[1], equation.params["dimension_numbers"].rhs_spec
    few = math.prod(kernel.shape[axis] for axis in rhs[2:]) <= DEPTHWISE_TAPS
    return equation.params["feature_group_count"] == kernel.shape[rhs[0]] and kernel.shape[rhs[1]] == 1 and few


def sums_taps(equation: Equation, positions: int) -> bool:
    """Whether a convolution with that many positions of its result is quicker as a sum over taps."""
    params = equation.params
    rhs = params["dimension_numbers"].rhs_spec
    x, kernel = equation.inputs
    count, groups = math.prod(kernel.shape[axis] for axis in rhs[2:]), params["feature_group_count"]
    if not on_cpu() or params["batch_group_count"] > 1 or any(base > 1 for base in params["lhs_dilation"]):
        return False
    if x.dtype != kernel.dtype or params["preferred_element_type"] not in (None, x.dtype):
        return False
    if np.dtype(x.dtype).itemsize < 4 and count > 1:  # a convolution adds up in higher precision
        return False
    if groups > 1:
        return is_depthwise(equation)
    weights = x.shape[params["dimension_numbers"].lhs_spec[1]] * kernel.shape[rhs[0]]
    pays = weights >= WIDE and runs() * positions * count * weights >= WORTH
    return count == 1 or (pays and count <= DENSE_TAPS and positions <= SMALL)


def convolved(equation: Equation, x: Any, kernel: Any, sides: Sides, counts: Sequence[int], element: Any) -> Any:
    """Σ over taps t of (x moved by t) · w[t], on so many positions per axis of the kernel; `sides` pads or crops x.

    `element` is the precision in which it adds up.
    """
    params = equation.params
    return _convolved(
        x,
        kernel,
        dimensions=params["dimension_numbers"],
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        dense=params["feature_group_count"] == 1,
        sides=tuple(sides),
        counts=tuple(counts),
        precision=params["precision"],
        element=element,
    )


@functools.partial(
    jax.jit,  # one trace, and one of its derivative, for all convolutions of these shapes: those of equal blocks
    static_argnames=("dimensions", "strides", "dilations", "dense", "sides", "counts", "precision", "element"),
)
def _convolved(
    x: Any,
    kernel: Any,
    *,
    dimensions: Any,
    strides: Sequence[int],
    dilations: Sequence[int],
    dense: bool,
    sides: Sides,
    counts: Sequence[int],
    precision: Any,
    element: Any,
) -> Any:
    lhs, rhs, out = dimensions
    config = [(0, 0, 0)] * x.ndim
    for axis, (low, high) in zip(lhs[2:], sides, strict=True):
        config[axis] = (low, high, 0)
    moved = [lax.pad(x, np.zeros((), x.dtype), config)]
    weights = [kernel]
    for i, k, count, stride, dilation in zip(lhs[2:], rhs[2:], counts, strides, dilations, strict=True):
        size = kernel.shape[k]
        moved = [tap for array in moved for tap in taps(array, i, size, count, stride, dilation)]
        weights = [tap for array in weights for tap in taps(array, k, size, 1, 1, 1)]

    def product(moved: Any, weights: Any) -> Any:
        if not dense:
            return moved * lax.broadcast_in_dim(lax.squeeze(weights, rhs[1:]), moved.shape, (lhs[1],))
        matrix = lax.squeeze(weights, rhs[2:])
        contracted = (((lhs[1],), (int(rhs[1] > rhs[0]),)), ((), ()))
        return lax.dot_general(moved, matrix, contracted, precision, element)

    total = functools.reduce(lax.add, map(product, moved, weights))
    order = [*(a for a in range(x.ndim) if a != lhs[1]), lhs[1]] if dense else range(x.ndim)
    roles = [lhs.index(axis) for axis in order]
    return lax.transpose(total, [roles.index(out.index(axis)) for axis in range(x.ndim)])


def greater(a: Any, b: Any) -> Any:
    """The greater one, the first of equals; what is not a number wins, as in `lax.max`."""
    return lax.select((b > a) | (b != b), b, a)


def lesser(a: Any, b: Any) -> Any:
    """The lesser one, the first of equals; what is not a number wins, as in `lax.min`."""
    return lax.select((b < a) | (b != b), b, a)


def pools_taps(equation: Equation) -> bool:
    """Whether a pooling is quicker tap by tap."""
    params = equation.params
    few = max(params["window_dimensions"]) <= LINE_TAPS and set(params["base_dilation"]) == {1}
    return on_cpu() and few and jax.dtypes.issubdtype(equation.outputs[0].dtype, np.floating)


def pooled(
    equation: Equation, x: Any, sides: Sides, counts: Sequence[int], join: Callable[[Any, Any], Any], start: float
) -> Any:
    """A separable pooling, the last axis first: so the first of equal extrema in reading order is the one that counts."""
    params = equation.params
    windows = zip(params["window_dimensions"], params["window_strides"], params["window_dilation"], strict=True)
    x = lax.pad(x, np.array(start, x.dtype), [(low, high, 0) for low, high in sides])
    for axis, (size, stride, dilation) in reversed(tuple(enumerate(windows))):
        x = functools.reduce(join, taps(x, axis, size, counts[axis], stride, dilation))
    return x
