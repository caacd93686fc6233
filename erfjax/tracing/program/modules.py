"""Layers of Flax nnx and Equinox by their paths, `blocks/0/conv`: inside `named` each call of a module opens such a scope.

Linen and Haiku open such scopes themselves; nnx opens none, and Equinox names its own classes alone. The name of a module is its
path in the module that calls it. Classes are given back as they were.
"""

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

FRAMEWORKS = ("flax.nnx", "equinox")  # where a class `Module` is the base of modules
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Names what modules compute while a function is traced; frameworks that are not imported are left alone.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from erfjax.tracing.program.flatten import record
        >>> from erfjax.tracing.program.equations import Var
        >>> net = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
        >>> program = record(net, jnp.ones(2)).program([Var((2,), jnp.float32)])  # `record` is inside it
        >>> program.equations[0].layer
        'layers/0'
    """
    found = [getattr(sys.modules.get(name), "Module", None) for name in FRAMEWORKS]
    bases: tuple[type, ...] = tuple(base for base in found if base is not None)
    with _one_at_a_time, contextlib.ExitStack() as restored:
        calls = _Calls(bases)
        for kind in set(itertools.chain.from_iterable(map(_callable, bases))):
            call = vars(kind)["__call__"]
            type.__setattr__(kind, "__call__", calls.inside(kind, call))
            restored.callback(type.__setattr__, kind, "__call__", call)
        yield


def _callable(base: type) -> Iterator[type]:
    """The classes under a base that define a call of their own."""
    kinds: list[type] = base.__subclasses__()
    for kind in kinds:
        if hasattr(vars(kind).get("__call__"), "__get__"):
            yield kind
        yield from _callable(kind)


class _Calls:
    """The modules that are being called, the outermost first, and the paths of the modules inside each."""

    def __init__(self, bases: tuple[type, ...]) -> None:
        self.bases = bases
        self.open: list[Any] = []
        self.paths: dict[int, dict[int, str]] = {}

    def inside(self, kind: type, call: Any) -> Callable[..., Any]:
        """The call of a class, inside a scope."""

        def scoped(module: Any, *args: Any, **kwargs: Any) -> Any:
            name = self.name(module)
            self.open.append(module)
            try:
                with jax.named_scope(name) if name else contextlib.nullcontext():
                    return call.__get__(module, kind)(*args, **kwargs)
            finally:
                self.open.pop()

        return scoped

    def name(self, module: Any) -> str:
        """The path of a module in the one that calls it; "" where it is none of its parts."""
        if not self.open:
            return ""
        caller = self.open[-1]
        if id(caller) not in self.paths:
            self.paths[id(caller)] = {}
            self.find(caller, "", self.paths[id(caller)])
        return self.paths[id(caller)].get(id(module), "")

    def find(self, holder: Any, path: str, found: dict[int, str]) -> None:
        """Enters the paths of all modules inside a module, a list or a dict, those of the first place of each."""
        if isinstance(holder, list | tuple):
            parts = list(enumerate(holder))
        else:
            parts = list(holder.items() if isinstance(holder, dict) else vars(holder).items())
        for key, part in parts:
            if id(part) not in found and isinstance(part, (*self.bases, dict, list, tuple)):
                found[id(part)] = f"{path}{key}"
                self.find(part, f"{path}{key}/", found)
