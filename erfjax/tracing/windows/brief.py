"""Programs that run a few times only: written and compiled so that the first answer comes soon, not so that the last bit is fast.

Measured on ResNet-50, eight images, in seconds of one core: a closed form takes 7 to compile and 1.8 to run in the form that is
quickest to run, and 3.5 and 2.1 in this one. But dot products with batch axes (attention), which XLA on a CPU writes itself,
are an eighth as fast without LLVM's passes: a ViT-Ti takes 8 to compile and 13 to run so, and 4.5 and 1.9 with them.
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
MOST_BATCHED = 1e7  # multiplications of a sample, forwards: a tenth of a second without LLVM's passes


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


def compiler_options(batched: float = 0.0) -> dict[str, int | bool]:
    """Options for `jax.jit` under which a program compiles soon: those of them that this JAX knows.

    Args:
        batched: how many multiplications it spends on dot products with batch axes; for many, there are no such options.
    """
    return {} if batched > MOST_BATCHED else _options()


@functools.cache
def _options() -> dict[str, int | bool]:
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in CPU_OPTIONS.items() if _is_known(name, value)}


def _is_known(name: str, value: int | bool) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(1.0).compile()
    except Exception:  # JAX raises its run-time error, whose class has moved between releases
        return False
    return True
