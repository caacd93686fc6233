"""Depthwise convolutions with large kernels by Fourier transforms, where a measurement runs on a CPU.

XLA computes them there at a hundredth of the machine's rate: 31 x 31 taps on 28 x 28 positions of 128 channels take seconds, and
by a transform milliseconds. The price is a rounding error of 1e-6 of the largest number of a channel, wherever it stands. A
gradient of one network bears it; squares of kernels in closed forms do not, since tails count there.
"""

import contextvars
import math
from collections.abc import Container, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax

from erfjax.tracing.program.equations import Equation, Known
from erfjax.tracing.windows.brief import set_to
from erfjax.tracing.windows.cpu_taps import DEPTHWISE_TAPS, Sides, on_cpu

DEARER = 0.2  # a step of a transform over a multiplication of XLA's convolution, and some room

_ALLOWED: contextvars.ContextVar[Container[int]] = contextvars.ContextVar("allowed", default=())


def transforms(numbers: Container[int]) -> AbstractContextManager[None]:
    """What is traced inside takes the equations of these numbers by transforms, where that is quicker.

    Example:
        >>> from erfjax.tracing.windows.fourier import transforms
        >>> with transforms({3, 5}):
        ...     pass  # `conv_on_window` looks them up
    """
    return set_to(_ALLOWED, numbers)


def is_large(equation: Equation) -> bool:
    """Whether an equation is a depthwise convolution with a large known kernel, in a form that transforms have."""
    if equation.primitive is not lax.conv_general_dilated_p or not on_cpu():
        return False
    params, (x, kernel) = equation.params, equation.inputs
    rhs = params["dimension_numbers"].rhs_spec
    if any(n > 1 for n in (*params["lhs_dilation"], *params["rhs_dilation"], params["batch_group_count"])):
        return False
    if x.dtype != kernel.dtype or params["preferred_element_type"] not in (None, x.dtype):
        return False
    if np.dtype(x.dtype) not in (np.float32, np.float64):
        return False
    if params["feature_group_count"] != kernel.shape[rhs[0]] or kernel.shape[rhs[1]] > 1:
        return False
    return isinstance(kernel, Known) and math.prod(kernel.shape[k] for k in rhs[2:]) > DEPTHWISE_TAPS


def has_zeros(equation: Equation) -> bool:
    """Whether the kernel holds zeros, or nobody knows: what they leave out must stay exactly zero."""
    kernel = equation.inputs[1]
    value = kernel.concrete if isinstance(kernel, Known) else None
    return value is None or not np.all(value)


def is_transformed(equation: Equation, counts: Sequence[int]) -> bool:
    """Whether a convolution with that many positions per axis of its result is taken by transforms."""
    if equation.number not in _ALLOWED.get():
        return False
    sizes = [equation.inputs[1].shape[k] for k in equation.params["dimension_numbers"].rhs_spec[2:]]
    strides = equation.params["window_strides"]
    held = math.prod((count - 1) * stride + size for count, stride, size in zip(counts, strides, sizes, strict=True))
    return math.prod(counts) == 1 or math.prod(counts) * math.prod(sizes) > DEARER * held * math.log2(held)


def transformed(equation: Equation, x: Any, kernel: Any, sides: Sides, counts: Sequence[int]) -> Any:
    """The convolution, where `sides` pad (or crop) the operand and `counts` are positions per axis of the result.

    On a circle as long as the padded operand, results from the last tap on do not go around.
    """
    params = equation.params
    lhs, rhs, out = params["dimension_numbers"]
    sizes = [kernel.shape[k] for k in rhs[2:]]
    config = [(0, 0, 0)] * x.ndim
    for axis, (low, high) in zip(lhs[2:], sides, strict=True):
        config[axis] = (low, high, 0)
    padded = lax.pad(x, np.zeros((), x.dtype), config)
    alike = (rhs[1], rhs[0], *rhs[2:])  # in the roles of batch, channel, space
    order = [alike[lhs.index(axis)] for axis in range(x.ndim)]
    outwards = [lhs[out.index(axis)] for axis in range(x.ndim)]
    if math.prod(counts) == 1:  # a scalar product
        return lax.transpose(jnp.sum(padded * lax.transpose(kernel, order), lhs[2:], keepdims=True), outwards)
    circle = [scipy.fft.next_fast_len(padded.shape[axis], real=True) for axis in lhs[2:]]
    flipped = lax.transpose(lax.rev(kernel, rhs[2:]), order)
    product = jnp.fft.rfftn(padded, circle, lhs[2:]) * jnp.fft.rfftn(flipped, circle, lhs[2:])
    found = jnp.fft.irfftn(product, circle, lhs[2:])
    for axis, size, count, stride in zip(lhs[2:], sizes, counts, params["window_strides"], strict=True):
        found = lax.slice_in_dim(found, size - 1, size - 1 + (count - 1) * stride + 1, stride, axis)
    return lax.transpose(found, outwards)
