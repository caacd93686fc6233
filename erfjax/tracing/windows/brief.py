"""Programs that run a few times only: written and compiled so that the first answer comes soon, not so that the last bit is fast.

Measured on ResNet-50, eight images, in seconds of one core: a closed form takes 7 to compile and 1.8 to run in the form that is
quickest to run, and 3.5 and 2.1 in this one.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import jax

_BRIEF = contextvars.ContextVar("brief", default=False)
CPU_OPTIONS: Mapping[str, int | bool] = MappingProxyType(
    {
        "xla_backend_optimization_level": 1,  # LLVM's passes; those of XLA stay, so does what is computed
        "xla_cpu_use_fusion_emitters": False,  # sets up a compiler of its own for every kernel; gone since JAX 0.11
    }
)


def is_brief() -> bool:
    """Whether what is traced now runs a few times only."""
    return _BRIEF.get()


@contextlib.contextmanager
def brief() -> Iterator[None]:
    """What is traced inside is written for a short compilation.

    Example:
        >>> from erfjax.tracing.windows.brief import brief, is_brief
        >>> with brief():
        ...     is_brief()
        True
    """
    token = _BRIEF.set(True)
    try:
        yield
    finally:
        _BRIEF.reset(token)


@functools.cache
def compiler_options() -> dict[str, int | bool]:
    """Options for `jax.jit` under which a program compiles soon: those of them that this JAX knows."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in CPU_OPTIONS.items() if _is_known(name, value)}


def _is_known(name: str, value: int | bool) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(1.0).compile()
    except Exception:  # JAX raises its run-time error, whose class has moved between releases
        return False
    return True
