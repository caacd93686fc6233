"""The ring of stacks: `a * b` is a, then b; `a + b` is two branches summed; `a ** n` repeats; a number scales.

Stacks form a ring because generating functions of kernels do: composing multiplies them, branching adds them, `Identity()` is
one. So `(1 + 0.5 * Conv(3)) ** n` reads as the polynomial (1 + V/2)^n that it stands for. Stacks are immutable values: equal if
they are the same layers in the same order, however grouped; hashable, and printed as Python that gives them back.
"""

import dataclasses
import math
import numbers
import operator
from typing import Any

from erfjax.errors import StackError
from erfjax.layers.description import Description, Lowered, Lowering
from erfjax.layers.plan import Gain, Parallel, Series, projection


class Stack(Description):
    """A stack of layers: what it sees, its closed-form map and moments, and the random networks that it describes.

    Example:
        >>> from erfjax.layers import Conv, Identity
        >>> stack = (Identity() + Conv(3)) ** 20
        >>> stack.theoretical().size, [round(v, 3) for v in stack.variance()]
        ((41, 41), [6.667, 6.667])
    """

    __array_ufunc__ = None  # a NumPy number scales a stack; a NumPy array must not take it for an entry

    def __mul__(self, other: Any) -> "Stack":
        return self._with(other, compose)

    def __rmul__(self, other: Any) -> "Stack":
        return self * other if isinstance(other, numbers.Real) else NotImplemented

    def __add__(self, other: Any) -> "Stack":
        return self._with(other, branch)

    def __radd__(self, other: Any) -> "Stack":
        return branch(_scalar(other), self) if isinstance(other, numbers.Real) else NotImplemented

    def __neg__(self) -> "Stack":
        return self * -1.0

    def __sub__(self, other: Any) -> "Stack":
        return self + (-1.0) * other if isinstance(other, Stack | numbers.Real) else NotImplemented

    def __pow__(self, n: Any) -> "Stack":
        try:
            count = operator.index(n)
        except TypeError as error:
            raise StackError(f"A stack is repeated a whole number of times, but ** got {n!r}.") from error
        if count < 0:
            raise StackError(f"A stack cannot be repeated {count} times: convolution has no inverse here.")
        if count == 0:
            return Scale(1.0)
        if isinstance(self, Scale):
            return Scale(self.factor**count)
        return self if count == 1 else Power(self, count)

    def _with(self, other: Any, combine: Any) -> "Stack":
        if isinstance(other, numbers.Real):
            return combine(self, _scalar(other))
        return combine(self, other) if isinstance(other, Stack) else NotImplemented


@dataclasses.dataclass(frozen=True, repr=False)
class Scale(Stack):
    """Multiplication by a number; by one it is the identity."""

    factor: float

    def _lower(self, low: Lowering, channels: int, out: int, after: float) -> Lowered:
        return Lowered(Series(()) if self.factor == 1.0 else Gain(repr(self), self.factor), channels)

    def __repr__(self) -> str:
        return "Identity()" if self.factor == 1.0 else f"{self.factor!r} * Identity()"


def Identity() -> Stack:
    """The stack that passes its input on: the one of the ring.

    Example:
        >>> from erfjax.layers import Conv, Identity
        >>> Identity() * Conv(3) == Conv(3)
        True
    """
    return Scale(1.0)


class Product(Stack):
    """Layers in a row, as a chain or as a power: equal however they are grouped."""

    def __eq__(self, other: object) -> bool:
        return self._parts() == other._parts() if isinstance(other, Stack) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._parts())


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Chain(Product):
    """Layers one after the other, input to output."""

    members: tuple[Stack, ...]

    @property
    def _ndim(self) -> int | None:  # type: ignore[override]
        return _common_ndim(self.members)

    @property
    def _depth(self) -> int:  # type: ignore[override]
        return sum(member.depth for member in self.members)

    @property
    def _weighted(self) -> bool:  # type: ignore[override]
        return any(member._weighted for member in self.members)

    def _stride(self, ndim: int) -> tuple[int, ...]:
        each = [member._stride(ndim) for member in self.members]
        return tuple(math.prod(axis) for axis in zip(*each, strict=True))

    def _parts(self) -> tuple[Stack, ...]:
        return tuple(part for member in self.members for part in member._parts())

    def _lower(self, low: Lowering, channels: int, out: int, after: float) -> Lowered:
        parts = self._parts()
        last = max((i for i, part in enumerate(parts) if part._weighted), default=-1)
        gains, gain = [], after
        for part in reversed(parts):  # a gate, and what only passes it on, is looked through to the convolution before
            gains.append(gain)
            gain = part._gain(gain)
        plans = []
        for i, (part, gain) in enumerate(zip(parts, reversed(gains), strict=True)):
            plan, channels = part._lower(low, channels, out if i == last else low.settings.width, gain)
            plans.append(plan)
        return Lowered(Series(tuple(plans)), channels)

    def __repr__(self) -> str:
        if len(self.members) == 2 and isinstance(self.members[1], Scale):
            return f"{self.members[1].factor!r} * {_wrapped(self.members[0], Sum)}"
        return " * ".join(
            (repr(m.factor) if isinstance(m, Scale) and i else _wrapped(m, Sum)) for i, m in enumerate(self.members)
        )


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Power(Product):
    """One stack, repeated."""

    base: Stack
    count: int

    @property
    def _ndim(self) -> int | None:  # type: ignore[override]
        return self.base._ndim

    @property
    def _depth(self) -> int:  # type: ignore[override]
        return self.count * self.base.depth

    @property
    def _weighted(self) -> bool:  # type: ignore[override]
        return self.base._weighted

    def _stride(self, ndim: int) -> tuple[int, ...]:
        return tuple(stride**self.count for stride in self.base._stride(ndim))

    def _parts(self) -> tuple[Stack, ...]:
        return self.base._parts() * self.count

    def _lower(self, low: Lowering, channels: int, out: int, after: float) -> Lowered:
        return Chain((self.base,) * self.count)._lower(low, channels, out, after)

    def __repr__(self) -> str:
        return f"{_wrapped(self.base, Sum, Chain, Power, Scale)} ** {self.count}"


@dataclasses.dataclass(frozen=True, repr=False)
class Sum(Stack):
    """Branches side by side, summed. Where channels differ, branches without a convolution get a 1x1 projection."""

    members: tuple[Stack, ...]

    @property
    def _ndim(self) -> int | None:  # type: ignore[override]
        return _common_ndim(self.members)

    @property
    def _depth(self) -> int:  # type: ignore[override]
        return max(member.depth for member in self.members)

    @property
    def _weighted(self) -> bool:  # type: ignore[override]
        return any(member._weighted for member in self.members)

    def _stride(self, ndim: int) -> tuple[int, ...]:
        return self.members[0]._stride(ndim)

    def _lower(self, low: Lowering, channels: int, out: int, after: float) -> Lowered:
        out = out if self._weighted else channels
        plans = []
        for member in self.members:
            plan, made = member._lower(low, channels, out, 1.0)
            plans.append(plan if made == out else Series((plan, projection(low.settings, low.ndim, made, out))))
        return Lowered(Parallel(tuple(plans)), out)

    def __repr__(self) -> str:
        return " + ".join(repr(member) for member in self.members)


def compose(first: Stack, second: Stack) -> Stack:
    """First, then second. Numbers are gathered, ones disappear."""
    members = [m for stack in (first, second) for m in (stack.members if isinstance(stack, Chain) else (stack,))]
    _common_ndim(members)
    kept: list[Stack] = []
    for member in members:
        if kept and isinstance(member, Scale) and isinstance(kept[-1], Scale):
            member = Scale(kept.pop().factor * member.factor)  # type: ignore[attr-defined]
        if member != Scale(1.0):
            kept.append(member)
    return Chain(tuple(kept)) if len(kept) > 1 else kept[0] if kept else Scale(1.0)


def branch(first: Stack, second: Stack) -> Stack:
    """First and second side by side, summed; zero is none, so `sum` works too.

    Raises:
        StackError: their strides or numbers of axes differ.
    """
    if Scale(0.0) in (first, second):
        return second if first == Scale(0.0) else first
    members = tuple(m for stack in (first, second) for m in (stack.members if isinstance(stack, Sum) else (stack,)))
    ndim = _common_ndim(members) or 2
    strides = [member._stride(ndim) for member in members]
    if len(set(strides)) > 1:
        raise StackError(
            f"Branches of a sum must have the same stride, but {first} has {first._stride(ndim)} and {second} has "
            f"{second._stride(ndim)}: give the other branch the same stride, for example with AvgPool or Conv(1, stride=...)."
        )
    return Sum(members)


def _common_ndim(members: Any) -> int | None:
    found = {member._ndim: member for member in members if member._ndim is not None}
    if len(found) > 1:
        (a, first), (b, second), *_ = found.items()
        raise StackError(
            f"All layers of a stack must have the same number of spatial axes, but {first} has {a} and {second} has {b}: "
            "give the kernel as a tuple with one entry per axis."
        )
    return next(iter(found), None)


def _scalar(value: Any) -> Scale:
    if not math.isfinite(value):
        raise StackError(f"A stack can only be scaled by a finite number, but got {value}.")
    return Scale(float(value))


def _wrapped(stack: Stack, *kinds: type[Stack]) -> str:
    return f"({stack!r})" if isinstance(stack, kinds) else repr(stack)
