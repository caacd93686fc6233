"""Programs that run a few times only: written and compiled so that the first answer comes soon, not so that the last bit is fast.

A measurement knows beforehand how many samples it takes, so what takes long to compile is written only where that is won back.

Measured on ResNet-50, eight images, in seconds of one core: a closed form takes 7 to compile and 1.8 to run in the form that is
quickest to run, and 3.5 and 2.1 in this one. But dot products with batch axes (attention), which XLA on a CPU writes itself,
are an eighth as fast without LLVM's passes: a ViT-Ti takes 8 to compile and 13 to run so, and 4.5 and 1.9 with them.

A program that runs many times, of dense convolutions and piecewise linear operations alone, is compiled without fusion emitters:
on ResNet-50, four images, a first measurement then takes 5.5 in place of 6.8, and the next ones 0.52 as before. Attention takes
seven times as long so, GELU up to four times.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.typing import Number

T = TypeVar("T")
_RUNS: contextvars.ContextVar[Number] = contextvars.ContextVar("runs", default=math.inf)
PASSES = "xla_backend_optimization_level"  # those of LLVM; those of XLA stay, so does what is computed
EMITTERS = "xla_cpu_use_fusion_emitters"  # set up a compiler of their own for every kernel; gone since JAX 0.11
EXPENSIVE = "xla_llvm_disable_expensive_passes"  # a sixth of compiling ResNet-50's closed form, nothing to run
BRIEF_OPTIONS: Mapping[str, int | bool] = MappingProxyType({PASSES: 1, EMITTERS: False, EXPENSIVE: True})
LASTING_OPTIONS: Mapping[str, int | bool] = MappingProxyType({PASSES: 2, EMITTERS: False})
MOST_BATCHED = 1e7  # multiplications of a sample, forwards: a tenth of a second without LLVM's passes


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


def compiler_options(batched: float = 0.0) -> dict[str, int | bool]:
    """Options for `jax.jit` under which a program that runs a few times compiles soon: those of them that this JAX knows.

    Args:
        batched: how many multiplications it spends on dot products with batch axes; for many, there are no such options.
    """
    return {} if batched > MOST_BATCHED else _known(BRIEF_OPTIONS)


def lasting_options() -> dict[str, int | bool]:
    """Options for `jax.jit` under which a piecewise linear program compiles sooner and runs as fast: those known here."""
    return _known(LASTING_OPTIONS)


def _known(options: Mapping[str, int | bool]) -> dict[str, int | bool]:
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in options.items() if name in _names()}


@functools.cache
def _names() -> tuple[str, ...]:
    """The options that this JAX knows, found by one small compilation if it knows all."""
    options = {**BRIEF_OPTIONS, **LASTING_OPTIONS}
    if _are_known(options):
        return tuple(options)
    return tuple(name for name, value in options.items() if _are_known({name: value}))


def _are_known(options: Mapping[str, int | bool]) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options=dict(options)).lower(1.0).compile()
    except Exception:  # JAX raises its run-time error, whose class has moved between releases
        return False
    return True
