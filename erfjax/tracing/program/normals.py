"""Known arrays that hold standard normal numbers times constants: which numbers, and with which standard deviation.

`jax.random.normal` ends with √2 times the inverse error function of uniform numbers. An array that is a rearranged part of that
result, scaled by constants, holds independent normal numbers of zero mean: the deviations are what the same operations make of
ones. So the law of a weight is read off the program that draws it.
"""

import dataclasses
import math

import numpy as np
from jax import lax

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.program.equations import Known
from erfjax.tracing.program.origins import CAST, MOVES


@dataclasses.dataclass(frozen=True, eq=False)
class Normal:
    """An array of normal numbers.

    Attributes:
        root: the result of the inverse error function that it is made of.
        places: of every entry, the place of its number in the root, flat.
        deviation: of every entry.
    """

    root: Known
    places: np.ndarray
    deviation: np.ndarray


class Normals:
    """What is known of the arrays of one program, each looked at once."""

    def __init__(self) -> None:
        self._found: dict[int, Normal | None] = {}
        self._roots: dict[int, frozenset[Known]] = {}
        self._drawn: dict[int, bool] = {}
        self._held: list[Known] = []  # so that no id is given twice

    def of(self, known: Known) -> Normal | None:
        """The normal numbers in an array; None where it is made otherwise.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from erfjax.tracing.program.equations import Known, Var
            >>> from erfjax.tracing.program.flatten import record
            >>> from erfjax.tracing.program.normals import Normals
            >>> f = lambda key, x: x @ (3 * jax.random.normal(key, (2, 2))).T
            >>> trace = record(f, jax.random.key(0), jax.ShapeDtypeStruct((2,), jnp.float32))
            >>> key = Known((), jax.random.key(0).dtype, lambda: jax.random.key(0))
            >>> (product,) = trace.program([key, Var((2,), jnp.float32)]).equations
            >>> found = Normals().of(product.inputs[1])
            >>> found.places.tolist(), found.deviation.round(5).tolist()
            ([[0, 2], [1, 3]], [[3.0, 3.0], [3.0, 3.0]])
        """
        if id(known) not in self._found:
            self._held.append(known)
            self._found[id(known)] = self._made(known)
        return self._found[id(known)]

    def _made(self, known: Known) -> Normal | None:
        if known.origin is None:
            return None
        equation, index = known.origin
        first = equation.inputs[0] if equation.inputs else None
        if equation.primitive is lax.erf_inv_p:
            count = math.prod(known.shape)
            places = np.arange(count, dtype=np.int32).reshape(known.shape)
            return Normal(known, places, np.full(known.shape, math.sqrt(0.5)))
        if equation.primitive in MOVES and isinstance(first, Known):
            inner = self.of(first)
            if inner is None or math.prod(known.shape) > math.prod(first.shape):
                return None  # one number in several places
            others = [atom.value for atom in equation.inputs[1:] if isinstance(atom, Known)]
            places, deviation = (
                np.asarray(jx.evaluate(equation.raw, [part, *others])[index])
                for part in (inner.places, inner.deviation.astype(np.float32))
            )
            return Normal(inner.root, places, deviation.astype(np.float64))
        if equation.primitive is CAST or equation.primitive is lax.neg_p:
            return self.of(first) if isinstance(first, Known) else None
        if equation.primitive in (lax.mul_p, lax.div_p):
            return self._scaled(known)
        return None

    def _scaled(self, known: Known) -> Normal | None:
        """A product or a quotient by something that is the same in all draws."""
        assert known.origin is not None
        equation, _ = known.origin
        one, two = equation.inputs
        assert isinstance(one, Known)
        assert isinstance(two, Known)
        for normal, constant in ((one, two), (two, one)):
            inner = None if self.drawn(constant) else self.of(normal)
            if inner is not None and normal.shape == known.shape:
                factor = np.abs(np.asarray(constant.value, np.float64))
                if equation.primitive is lax.div_p:
                    if normal is two:
                        return None
                    factor = 1 / factor
                return dataclasses.replace(inner, deviation=np.asarray(inner.deviation * factor))
        return None

    def drawn(self, known: Known) -> bool:
        """Whether an array depends on a random key: on integers that nothing makes, which is what keys are."""
        if id(known) not in self._drawn:
            self._held.append(known)
            if known.origin is None:
                self._drawn[id(known)] = jx.is_extended(known.dtype) or known.dtype == np.uint32
            else:
                self._drawn[id(known)] = any(self.drawn(a) for a in known.origin[0].inputs if isinstance(a, Known))
        return self._drawn[id(known)]

    def roots(self, known: Known) -> frozenset[Known]:
        """The roots that an array depends on, however."""
        if id(known) not in self._roots:
            self._held.append(known)
            found: frozenset[Known] = frozenset()
            if known.origin is not None and known.origin[0].primitive is lax.erf_inv_p:
                found = frozenset([known])
            elif known.origin is not None:
                found = found.union(*(self.roots(a) for a in known.origin[0].inputs if isinstance(a, Known)))
            self._roots[id(known)] = found
        return self._roots[id(known)]
