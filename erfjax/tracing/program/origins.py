"""Where known arrays come from: which of them are one array seen in several ways, and how each is made of it.

A known array that is a transpose, a slice, a cast or a reshaping of another holds the same numbers. Its *origin* is the array
behind all such moves; what is computed otherwise (a masked or a normalised weight) is an origin itself. Two origins are one if
they are the same constant, or made by the same operations of the same constants.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.program.equations import Known

NAMES = ("transpose", "reshape", "squeeze", "slice", "dynamic_slice", "rev", "copy", "split", "broadcast_in_dim")
MOVES = {jx.lax_primitive(f"{name}_p") for name in NAMES} - {None}
CAST = jx.lax_primitive("convert_element_type_p")
BITS = ("random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform", "random_gamma")


class Origins:
    """Numbers the origins of known arrays, in the order in which they are asked about."""

    def __init__(self) -> None:
        self.found: list[Known] = []
        self._numbers: dict[int, int] = {}
        self._marks: dict[Any, int] = {}
        self._seen: dict[int, tuple[Known, int]] = {}

    def number(self, known: Known) -> int:
        """The number of the array that holds the numbers of `known`.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from erfjax.tracing import trace
            >>> from erfjax.tracing.program.origins import Origins
            >>> w, v = jnp.eye(3), jnp.ones((3, 3))
            >>> program = trace(lambda x: x @ w @ w.T @ v, jax.ShapeDtypeStruct((3,), jnp.float32))
            >>> origins = Origins()
            >>> [origins.number(equation.inputs[1]) for equation in program.equations]
            [0, 0, 1]
        """
        *_, origin = moves(known)
        number = self._numbers.setdefault(self.mark(origin), len(self.found))
        if number == len(self.found):
            self.found.append(origin)
        return number

    def mark(self, known: Known) -> int:
        """Equal for arrays that are made alike."""
        if id(known) not in self._seen:
            if known.origin is None:
                content = known.value
                plain = known.shape == () and not isinstance(content, jax.Array)
                name: Any = ("number", str(known.dtype), np.asarray(content).tobytes()) if plain else id(content)
            else:
                equation, index = known.origin
                operands = tuple(self.mark(atom) for atom in equation.inputs if isinstance(atom, Known))
                name = (equation.primitive, repr(equation.params), operands, index)
            self._seen[id(known)] = known, self._marks.setdefault(name, len(self._marks))
        return self._seen[id(known)][1]


def moves(known: Known) -> Iterator[Known]:
    """The array itself, then what each one is a rearranged part of; the last is the origin."""
    yield known
    while known.origin is not None:
        equation, _ = known.origin
        source = equation.inputs[0]
        copies = equation.primitive in MOVES or (equation.primitive is CAST and _inexact(known) and _inexact(source))
        if not copies or not isinstance(source, Known) or math.prod(known.shape) > math.prod(source.shape):
            return
        known = source
        yield known


def moved(known: Known, numbers: Any) -> Any:
    """Numbers in the shape of the origin of `known`, arranged as those of the origin are in `known`; their dtype stays."""
    *path, _ = moves(known)
    for step in reversed(path):
        assert step.origin is not None  # it is a move of the next one
        equation, index = step.origin
        if equation.primitive is not CAST:
            others = [atom.value for atom in equation.inputs[1:] if isinstance(atom, Known)]
            numbers = jx.evaluate(equation.raw, [numbers, *others])[index]
    return numbers


def _inexact(atom: Any) -> bool:
    return bool(jnp.issubdtype(atom.dtype, jnp.inexact))


def drawn(known: Known) -> bool:
    """Whether the function drew random bits for an array that it computed by itself; the matrix of a resize needs none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from erfjax.tracing import trace
        >>> from erfjax.tracing.program.origins import drawn
        >>> noise = lambda x: x + jax.random.normal(jax.random.key(0), x.shape) + jnp.arange(3.0)
        >>> program = trace(noise, jax.ShapeDtypeStruct((3,), jnp.float32))
        >>> [drawn(equation.inputs[1]) for equation in program.equations]
        [True, False]
    """
    pending, seen = [known], set[int]()
    while pending:
        atom = pending.pop()
        if id(atom) in seen or atom.origin is None:
            continue
        seen.add(id(atom))
        equation, _ = atom.origin
        if equation.primitive.name in BITS:
            return True
        pending += [a for a in equation.inputs if isinstance(a, Known)]
    return False
