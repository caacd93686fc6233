"""Programs that run a few times only: written so that the first answer comes soon, not so that the last bit is fast.

A measurement knows beforehand how many samples it takes, so what takes long to compile is written only where that is won back.
How a program is compiled, once it is written, is in `compiler.py`.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.typing import Number

T = TypeVar("T")
_RUNS: contextvars.ContextVar[Number] = contextvars.ContextVar("runs", default=math.inf)


def runs() -> Number:
    """For how many samples what is traced now will run, about: infinity where nobody knows."""
    return _RUNS.get()


def brief(runs: Number = 0) -> contextlib.AbstractContextManager[None]:
    """What is traced inside is written for a short compilation, unless it pays over that many samples to write it otherwise.

    Example:
        >>> from erfjax.tracing.windows.brief import brief, runs
        >>> with brief(64):
        ...     runs()
        64
    """
    return set_to(_RUNS, runs)


@contextlib.contextmanager
def set_to(variable: contextvars.ContextVar[T], value: T) -> Iterator[None]:
    """The variable has this value inside."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def once(array: Any) -> Any:
    """The same array, that no kernel computes anew: what reads it reads it from memory.

    XLA's fusion on a CPU repeats in every kernel what it does not take for expensive, also behind an optimization barrier, which
    is gone by then: so the kernels of a residual network grow with its depth. It never repeats a division. The divisor is one
    wherever the array is a number, which the compiler cannot know. x / 1 is x to the last bit, but for subnormal numbers: those
    XLA flushes to zero wherever it computes.

    Example:
        >>> import jax.numpy as jnp
        >>> from erfjax.tracing.windows.brief import once
        >>> bool(once(jnp.float32(0.1)) == jnp.float32(0.1))
        True
    """
    if jax.default_backend() != "cpu" or not jnp.issubdtype(array.dtype, jnp.floating):
        return lax.optimization_barrier(array)
    return array / jnp.where(array == array, 1, jnp.nan).astype(array.dtype)


def rounded(runs: Number) -> Number:
    """A number of samples, up to the next power of 8, infinity from 4096 on: so that more samples seldom compile anew.

    Example:
        >>> from erfjax.tracing.windows.brief import rounded
        >>> [rounded(n) for n in (1, 2, 64, 65, 5000)]
        [1, 8, 64, 512, inf]
    """
    return next((n for n in (1, 8, 64, 512, 4096) if runs <= n), math.inf)
