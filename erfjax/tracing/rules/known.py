"""Equations on known arrays, evaluated by NumPy: index arithmetic and the matrices of a resize need no compiler.

Only operations whose result NumPy and XLA agree on to the last digit are listed (sums of floating-point numbers to rounding);
every other known equation is evaluated by JAX.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from erfjax.tracing.registry import on_host

Params = dict[str, Any]


def elementwise(names: str, function: Callable[..., Any]) -> None:
    """Registers a function of the operands alone."""
    on_host(names, lambda params, *operands: function(*operands))


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b; towards zero for integers, as lax has it."""
    if not np.issubdtype(a.dtype, np.integer):
        return np.asarray(np.divide(a, b))
    safe = np.where(b == 0, 1, b)
    return np.asarray(np.sign(a) * np.sign(safe) * (abs(a) // abs(safe)))


def power(params: Params, a: np.ndarray) -> Any:
    """a ** y for an integer y >= 0, by multiplications."""
    result: Any = np.ones_like(a)
    for _ in range(abs(params["y"])):
        result = result * a
    return result if params["y"] >= 0 else np.divide(np.ones_like(a), result)


def iota(params: Params) -> np.ndarray:
    """0, 1, 2 ... along one axis."""
    shape = params["shape"]
    line = np.arange(shape[params["dimension"]], dtype=params["dtype"])
    return np.broadcast_to(line.reshape([-1 if a == params["dimension"] else 1 for a in range(len(shape))]), shape)


def broadcast_in_dim(params: Params, a: np.ndarray) -> np.ndarray:
    """The operand's axes put where they belong, and repeated along the others."""
    shape = [1] * len(params["shape"])
    for own, axis in enumerate(params["broadcast_dimensions"]):
        shape[axis] = a.shape[own]
    return np.broadcast_to(a.reshape(shape), params["shape"])


def select(params: Params, which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    """The case that `which` names, entry by entry."""
    result = cases[0]
    for i, case in enumerate(cases[1:], 1):
        result = np.where(which == i, case, result)
    return result


def strided(params: Params, a: np.ndarray) -> np.ndarray:
    """A slice."""
    steps = params["strides"] or (1,) * a.ndim
    return a[tuple(map(slice, params["start_indices"], params["limit_indices"], steps))]


def reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction over axes, in the dtype of its operand."""
    return lambda params, a: function(a, axis=tuple(params["axes"]))


elementwise("add add_any", np.add)
elementwise("sub", np.subtract)
elementwise("mul", np.multiply)
elementwise("div", quotient)
elementwise("rem", np.fmod)
elementwise("max", np.maximum)
elementwise("min", np.minimum)
elementwise("neg", np.negative)
elementwise("abs", np.abs)
elementwise("sign", np.sign)
elementwise("floor", np.floor)
elementwise("ceil", np.ceil)
elementwise("sqrt", np.sqrt)
elementwise("is_finite", np.isfinite)
elementwise("eq", np.equal)
elementwise("ne", np.not_equal)
elementwise("lt", np.less)
elementwise("le", np.less_equal)
elementwise("gt", np.greater)
elementwise("ge", np.greater_equal)
elementwise("and", np.bitwise_and)
elementwise("or", np.bitwise_or)
elementwise("xor", np.bitwise_xor)
elementwise("not", np.invert)
elementwise("clamp", lambda low, a, high: np.minimum(np.maximum(a, low), high))
elementwise("copy copy_p stop_gradient optimization_barrier", lambda a: a)
on_host("integer_pow", power)
on_host("iota", iota)
on_host("broadcast_in_dim", broadcast_in_dim)
on_host("reshape", lambda params, a: a.reshape(params["new_sizes"]))
on_host("squeeze", lambda params, a: np.squeeze(a, tuple(params["dimensions"])))
on_host("transpose", lambda params, a: np.transpose(a, params["permutation"]))
on_host("convert_element_type", lambda params, a: a.astype(params["new_dtype"]))
on_host("select_n", select)
on_host("slice", strided)
on_host("concatenate", lambda params, *arrays: np.concatenate(arrays, params["dimension"]))
on_host("reduce_sum", reduction(lambda a, axis: np.sum(a, axis, a.dtype)))
on_host("reduce_max", reduction(np.max))
on_host("reduce_min", reduction(np.min))
on_host("reduce_and", reduction(np.all))
on_host("reduce_or", reduction(np.any))
