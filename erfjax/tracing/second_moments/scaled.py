"""Arrays with a binary exponent beside them, so that no product over many layers under- or overflows.

A second moment is a product of squared weights over all layers: twenty layers of weights 0.05 already leave single precision.
So every array of the walks is digits · 2^exponent, the largest digit in [1/2, 1), with one integer exponent. Scaling by a
power of two is exact, so nothing else changes. Only what is smaller than the largest entry of the *same* array by more than
the range of its precision is lost.

To search for the largest digit costs a compiler as much as a layer does. So the exponent has two parts: a *base*, found by
searching, and an *offset* that is known beforehand. Arrays of one base are added without any search.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

EMPTY = -(2**24)
"""The exponent of zero: below everything, so that adding zero moves no point."""


_SEARCHES = contextvars.ContextVar("searches", default=True)


def searches() -> bool:
    """Whether the largest digit is searched at all."""
    return _SEARCHES.get()


@contextlib.contextmanager
def unsearched() -> Iterator[None]:
    """Traces walks in which nothing is searched: a search depends on the numbers, so a walk with one is not linear."""
    token = _SEARCHES.set(False)
    try:
        yield
    finally:
        _SEARCHES.reset(token)


@contextlib.contextmanager
def in_double_precision() -> Iterator[None]:
    """Traces and runs walks in double precision, where nothing is searched: the exponents of its numbers reach far."""
    with unsearched(), jax.enable_x64(True):
        yield


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scaled:
    """digits · 2**exponent, exponent = base + offset.

    Attributes:
        digits: a floating-point array.
        base: one int32 for the whole array, or a Python integer.
        offset: what is known beforehand.

    Example:
        >>> import jax.numpy as jnp
        >>> from erfjax.tracing.second_moments.scaled import Scaled
        >>> tiny = Scaled.of(jnp.array([3e-30, 1e-30]))
        >>> square = tiny.power(2)
        >>> float((square * Scaled.of(jnp.array(1e30)).power(2)).restored()[0].round(3))
        9.0
    """

    digits: Any
    base: Any = 0
    offset: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def exponent(self) -> Any:
        """One int32 for the whole array."""
        return self.base + self.offset if self.offset else self.base

    @classmethod
    def of(cls, array: Any, exponent: Any = 0) -> "Scaled":
        """array · 2**exponent, with the largest digit in [1/2, 1)."""
        array = widened(array)
        if not searches():
            return cls(array, 0, exponent) if isinstance(exponent, int) else cls(array, exponent)
        largest = jnp.max(jnp.abs(lax.stop_gradient(array)), initial=0.0)
        own = jnp.where(jnp.isfinite(largest) & (largest > 0), _exponent(largest), 0)
        own = lax.optimization_barrier(
            own
        )  # the compiler multiplies constant factors with each other, beyond their range
        return cls(array * power_of_two(-own, array.dtype), jnp.where(largest == 0, EMPTY, exponent + own))

    @classmethod
    def sized(cls, array: Any, exponent: int | None) -> "Scaled":
        """The same where the exponent of the largest digit is known beforehand, nearly: nothing is searched.

        None searches. Known exponents come in steps of `SIZE_STEP`, so that most arrays stay as they are.
        """
        if exponent is None:
            return cls.of(array)
        array = widened(array)
        return cls(_moved(array, -exponent), 0, exponent)

    def searched(self) -> "Scaled":
        """The same number with the largest digit in [1/2, 1)."""
        return Scaled.of(self.digits, self.exponent)

    def times(self, other: "Scaled") -> "Scaled":
        """The product of two arrays whose digits are near one: nothing is searched. Zero stays zero, even times infinity."""
        product = self.digits * other.digits
        if searches():
            product = jnp.where((self.digits == 0) | (other.digits == 0), 0, product)
        return self.product(other, product)

    def product(self, other: "Scaled", digits: Any) -> "Scaled":
        """Any product of two arrays, by its digits."""
        return Scaled(digits, _sum(self.base, other.base), self.offset + other.offset)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.digits.shape)

    def __mul__(self, other: "Scaled") -> "Scaled":
        """The product; what is exactly zero stays zero, even times infinity: a closed gate lets nothing through."""
        return self.times(other).searched()

    def __truediv__(self, other: "Scaled") -> "Scaled":
        """The quotient, zero where the divisor is."""
        known = other.digits != 0
        quotient = jnp.where(known, self.digits / jnp.where(known, other.digits, 1), 0)
        return Scaled.of(quotient, self.exponent - other.exponent)

    def __add__(self, other: "Scaled") -> "Scaled":
        one, two = level([self, other])
        return Scaled(one.digits + two.digits, one.base, one.offset)

    def __sub__(self, other: "Scaled") -> "Scaled":
        one, two = level([self, other])
        return Scaled(one.digits - two.digits, one.base, one.offset)

    def astype(self, dtype: Any) -> "Scaled":
        return self.linear(lambda digits: jnp.asarray(digits, dtype))

    def power(self, power: int) -> "Scaled":
        return self if power == 1 else Scaled(self.digits**power, self.base * power, self.offset * power)

    def halved(self) -> "Scaled":
        """The same digits with half the exponent, which is even."""
        return Scaled(self.digits, self.base // 2, self.offset // 2)

    def root(self) -> "Scaled":
        """The square root of what is not negative, with a finite slope at zero."""
        odd = self.exponent % 2
        digits = jnp.maximum(self.digits, 0) * (
            power_of_two(odd, self.digits.dtype) if not isinstance(odd, int) else 1 + odd
        )
        positive = digits > 0
        return Scaled.of(jnp.where(positive, jnp.sqrt(jnp.where(positive, digits, 1)), 0), (self.exponent - odd) // 2)

    def linear(self, function: Callable[[Any], Any]) -> "Scaled":
        """A linear function of the digits."""
        return Scaled(function(self.digits), self.base, self.offset)

    def at(self, exponent: Any) -> Any:
        """The digits for another exponent that is no smaller."""
        if _fixed(self.base) and isinstance(exponent, int):
            return _moved(self.digits, self.exponent - exponent)
        limit, by = jnp.finfo(self.digits.dtype).maxexp - 2, self.exponent - exponent
        factor = power_of_two(jnp.maximum(by, -limit), self.digits.dtype)
        return self.digits * jnp.where(by < -limit, 0, factor)

    def restored(self) -> Any:
        """The plain array, as far as its precision can hold it."""
        if _fixed(self.base):
            return _moved(self.digits, self.exponent)
        half, dtype = self.exponent // 2, self.digits.dtype
        return self.digits * power_of_two(half, dtype) * power_of_two(self.exponent - half, dtype)


SIZE_STEP = 4  # exponents that are known beforehand are multiples of this


def size_of(size: float) -> int:
    """The exponent of a number, to the nearest multiple of `SIZE_STEP`; 0 where it has none."""
    if not np.isfinite(size) or size == 0:
        return 0
    return SIZE_STEP * round(float(np.frexp(size)[1]) / SIZE_STEP)


def level(parts: Sequence[Scaled]) -> list[Scaled]:
    """Several arrays for one exponent, the largest; where it is known beforehand which that is, nothing is compared."""
    first = parts[0].base
    if all(_fixed(part.base) for part in parts):
        fixed = max(part.exponent for part in parts)
        return [Scaled(_moved(part.digits, part.exponent - fixed), 0, fixed) for part in parts]
    if all(part.base is first for part in parts):
        offset = max(part.offset for part in parts)
        return [Scaled(_moved(part.digits, part.offset - offset), first, offset) for part in parts]
    exponent = functools.reduce(jnp.maximum, (part.exponent for part in parts))
    return [Scaled(part.at(exponent), exponent) for part in parts]


def aligned(parts: Sequence[Scaled]) -> tuple[list[Any], Any]:
    """The digits of several arrays for one exponent, and that exponent."""
    moved = level(parts)
    return [part.digits for part in moved], moved[0].exponent


def _fixed(base: Any) -> bool:
    """Whether a base is no array but a number that is known beforehand."""
    return isinstance(base, int)


def _sum(one: Any, two: Any) -> Any:
    """The sum of two bases; the very same array where the other is 0."""
    return two if _fixed(one) and one == 0 else one if _fixed(two) and two == 0 else one + two


def _moved(digits: Any, by: int) -> Any:
    """digits · 2**by, exactly; what leaves the precision downwards becomes zero."""
    if by == 0:
        return digits
    info = jnp.finfo(digits.dtype)
    if by < info.minexp:
        return jnp.zeros_like(digits)
    return digits * np.asarray(2.0 ** min(by, info.maxexp - 1), digits.dtype)


def total(parts: Sequence[Scaled]) -> Scaled:
    """The sum of one or more arrays."""
    return functools.reduce(Scaled.__add__, parts)


def widened(array: Any, dtype: Any = jnp.float32) -> Any:
    """A floating-point array in a precision at least, single by default; anything else as it is."""
    if array is None or not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return jnp.asarray(array, wider(array.dtype, dtype))


def wider(one: Any, two: Any) -> Any:
    """The precision of more bits, whatever JAX is set to promote."""
    return max(jnp.dtype(one), jnp.dtype(two), key=lambda dtype: dtype.itemsize)


def unscaled(digits: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """The float64 arrays of digits with one exponent for each leading index."""
    powers = np.asarray(exponents, np.int64).reshape(exponents.shape + (1,) * (digits.ndim - exponents.ndim))
    return np.ldexp(np.asarray(digits, np.float64), powers)


def power_of_two(exponent: Any, dtype: Any) -> Any:
    """2**exponent, exactly, by its bits; clipped to the normal numbers of the precision."""
    info = jnp.finfo(dtype)
    integer = jnp.int64 if info.bits == 64 else jnp.int32
    held = jnp.clip(jnp.asarray(exponent), info.minexp, info.maxexp - 1).astype(integer)
    return lax.bitcast_convert_type((held + (info.maxexp - 1)) << info.nmant, jnp.dtype(dtype))


def _exponent(number: Any) -> Any:
    """e with 2**(e - 1) <= number < 2**e, for a number that is normal; int32."""
    info = jnp.finfo(number.dtype)
    bits = lax.bitcast_convert_type(number, jnp.int64 if info.bits == 64 else jnp.int32)
    field = (bits >> info.nmant) & (2 * info.maxexp - 1)
    return (field - (info.maxexp - 2)).astype(jnp.int32)
