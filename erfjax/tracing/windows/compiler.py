"""How XLA compiles a program on a CPU: how much work it does, which libraries compute, where intermediate results lie.

Work. A program that runs a few times is compiled so that the first answer comes soon. Measured on ResNet-50, eight images, in
seconds of one core: a closed form takes 7 to compile and 1.8 to run in the form that is quickest to run, and 3.5 and 2.1 in this
one. But dot products with batch axes (attention), which XLA on a CPU writes itself, are an eighth as fast without LLVM's passes:
a ViT-Ti takes 8 to compile and 13 to run so, and 4.5 and 1.9 with them. And they compile longer without fusion emitters (with 16
tokens 10 seconds in place of 3.4), where most else compiles sooner. A program that runs many times, of dense convolutions and
piecewise linear operations alone, is compiled without them too: attention takes seven times as long so, GELU up to four.

Libraries. Convolutions of YNNPACK, which XLA calls unless it is told otherwise, run on one thread at 64 channels, and at 0.8 of
the rate of Eigen's per core. Attention over 196 tokens is a tenth quicker by Eigen's products too. But small products with batch
axes XLA then writes itself, which takes three times as long to compile (16 tokens).

Buffers. XLA takes all intermediate results of a call from one allocation. Above 32 MB the C library gives that back to the
system after the call, and the next call pays for every page anew: a sixth of ResNet-50. Several smaller ones are kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.windows.cpu_taps import on_cpu

Options = Mapping[str, int | bool | str]

PASSES = "xla_backend_optimization_level"  # those of LLVM; those of XLA stay, so does what is computed
EMITTERS = "xla_cpu_use_fusion_emitters"  # set up a compiler of their own for every kernel; gone since JAX 0.11
EXPENSIVE = "xla_llvm_disable_expensive_passes"  # a sixth of compiling ResNet-50's closed form, nothing to run
LIBRARY = "xla_cpu_experimental_ynn_fusion_type"  # what YNNPACK computes; the empty text is nothing
HEAP = "xla_multiheap_size_constraint_per_heap"  # bytes of one allocation for intermediate results
BRIEF: Options = MappingProxyType({PASSES: 1, EMITTERS: False, EXPENSIVE: True})
LASTING: Options = MappingProxyType({PASSES: 2, EMITTERS: False})
PRODUCTS: Options = MappingProxyType({LIBRARY: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"})
NOTHING: Options = MappingProxyType({LIBRARY: ""})
LARGE = 2_000_000  # multiplications of a product, for one index of its batch axes: those of 196 tokens have 2.5 million
KEPT = 20 << 20  # bytes of a heap: far enough below 32 MB ...
ROOM = (
    18 << 20
)  # ... of which the largest array may take so many: XLA warns of every one that is larger than a heap, and it may pad
SMALLER: Options = MappingProxyType({HEAP: KEPT})
MOST_BATCHED = 1e7  # multiplications of a sample, forwards: a tenth of a second without LLVM's passes


def brief_options(batched: float = 0.0) -> Options:
    """Options under which a program that runs a few times compiles soon.

    Args:
        batched: how many multiplications it spends on dot products with batch axes. Where there are any, fusion emitters
            stay; for many, there are no such options.
    """
    if batched > MOST_BATCHED:
        return {}
    return {name: value for name, value in BRIEF.items() if name != EMITTERS} if batched else BRIEF


@dataclasses.dataclass(frozen=True, eq=False)
class Jitted:
    """A function compiled for the shapes of its arguments, with options of its own and those that suit its arrays.

    Attributes:
        function: what to compile.
        options: of the compiler; those that this JAX does not know are left out.
        sharding: that of the results, as `jax.jit` takes it.
        suited: what was compiled so far, by the shapes of the arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> from erfjax.tracing.windows.compiler import Jitted
        >>> float(Jitted(lambda x: x + 1)(jnp.float32(2)))
        3.0
    """

    function: Callable[..., Any]
    options: Options = dataclasses.field(default_factory=dict)
    sharding: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    suited: dict[Any, Callable[..., Any]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __call__(self, *arguments: Any) -> Any:
        return self._for(arguments)(*arguments)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """The program at the shapes of these arguments, not compiled yet."""
        return self._for(arguments).lower(*arguments)

    def _for(self, arguments: Sequence[Any]) -> Any:
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(arguments))
        if shapes not in self.suited:
            traced = jax.jit(self.function, **self.sharding).trace(*arguments)  # once: the program is not traced again
            options = known({**self.options, **suiting(jx.Body.of(traced.jaxpr))})
            self.suited[shapes] = jax.jit(self.function, compiler_options=options, **self.sharding)
        return self.suited[shapes]


def suiting(body: jx.Body) -> Options:
    """Options for a program with such products and arrays."""
    batched = jx.batched_products(body)
    library = NOTHING if batched and np.median(batched) >= LARGE else PRODUCTS
    return {**library, **(SMALLER if jx.largest(body) <= ROOM else {})}


def known(options: Options) -> dict[str, int | bool | str]:
    """Those of the options that this JAX knows, on a CPU."""
    return {name: value for name, value in options.items() if name in _names()} if on_cpu() else {}


@functools.cache
def _names() -> tuple[str, ...]:
    """The options that this JAX knows, found by one small compilation if it knows all."""
    options = {**BRIEF, **LASTING, **PRODUCTS, **SMALLER}
    if _are_known(options):
        return tuple(options)
    return tuple(name for name, value in options.items() if _are_known({name: value}))


def _are_known(options: Options) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options=dict(options)).lower(1.0).compile()
    except Exception:  # JAX raises its run-time error, whose class has moved between releases
        return False
    return True
