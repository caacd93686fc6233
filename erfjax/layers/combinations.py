"""Products, powers, sums and multiples of stacks.

`a * b` is a, then b; `a + b` is two branches summed; `a ** n` repeats; a number scales. Stacks form a ring because generating
functions of kernels do: composing multiplies them, branching adds them, `Identity()` is one. So `(1 + 0.5 * Conv(3)) ** n`
reads as the polynomial (1 + V/2)^n that it stands for. Stacks are immutable values: equal if they are the same layers in the
same order, however grouped; hashable, and printed as Python that gives them back.
"""

import dataclasses
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

from erfjax.errors import StackError
from erfjax.layers.plan import Gain, Parallel, Plan, Scope, Series, projection
from erfjax.layers.stack import Stack


@dataclasses.dataclass(frozen=True, repr=False)
class Scale(Stack):
    """Multiplication by a number; by one it is the identity."""

    factor: float

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        return Series(()) if self.factor == 1.0 else Gain(repr(self), self.factor), channels

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


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Combination(Stack):
    """Several stacks, in a row or side by side."""

    members: tuple[Stack, ...]

    @property
    def _ndim(self) -> int | None:  # type: ignore[override]
        return _common_ndim(self.members)

    @property
    def _weighted(self) -> bool:  # type: ignore[override]
        return any(member._weighted for member in self.members)


class Chain(Combination):
    """Layers one after the other, input to output: equal however they are grouped."""

    def __eq__(self, other: object) -> bool:
        return self._parts() == other._parts() if isinstance(other, Stack) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._parts())

    @property
    def _depth(self) -> int:  # type: ignore[override]
        return sum(member._depth for member in self.members)

    def _stride(self, ndim: int) -> tuple[Any, ...]:
        each = [member._stride(ndim) for member in self.members]
        return tuple(math.prod(axis) for axis in zip(*each, strict=True))

    def _parts(self) -> tuple[Stack, ...]:
        return tuple(part for member in self.members for part in member._parts())

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        parts = self._parts()
        last = max((i for i, part in enumerate(parts) if part._weighted), default=-1)
        gains = []
        for part in reversed(parts):  # a gate, and what only passes it on, is looked through to the convolution before
            gains.append(gain)
            gain = part._gain(gain)
        plans = []
        for i, (part, gain) in enumerate(zip(parts, reversed(gains), strict=True)):
            plan, channels = part._build(scope, channels, out if i == last else scope.settings.width, gain)
            plans.append(plan)
        return Series(tuple(plans)), channels

    def __repr__(self) -> str:
        if len(self.members) == 2 and isinstance(self.members[1], Scale):
            return f"{self.members[1].factor!r} * {_wrapped(self.members[0], Sum)}"
        return " * ".join(
            (repr(m.factor) if isinstance(m, Scale) and i else _wrapped(m, Sum)) for i, m in enumerate(self.members)
        )


class Power(Chain):
    """One stack, repeated: a chain that remembers it."""

    def __repr__(self) -> str:
        base = self.members[0]
        return f"{f'({base!r})' if isinstance(base, Combination | Scale) else repr(base)} ** {len(self.members)}"


@dataclasses.dataclass(frozen=True, repr=False)
class Sum(Combination):
    """Branches side by side, summed. Where channels differ, branches without a convolution get a 1x1 projection."""

    @property
    def _depth(self) -> int:  # type: ignore[override]
        return max(member._depth for member in self.members)

    def _stride(self, ndim: int) -> tuple[Any, ...]:
        return self.members[0]._stride(ndim)

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        out = out if self._weighted else channels
        plans = []
        for member in self.members:
            plan, made = member._build(scope, channels, out, 1.0)
            plans.append(plan if made == out else Series((plan, projection(scope, made, out))))
        return Parallel(tuple(plans)), out

    def __repr__(self) -> str:
        return " + ".join(repr(member) for member in self.members)


def compose(first: Stack, second: Any) -> Stack:
    """First, then second, a stack or a number. Numbers are gathered, ones disappear."""
    if (stacks := _stacks(first, second)) is None:
        return NotImplemented
    members = [m for stack in stacks for m in (stack.members if type(stack) is Chain else (stack,))]
    _common_ndim(members)
    kept: list[Stack] = []
    for member in members:
        if kept and isinstance(member, Scale) and isinstance(kept[-1], Scale):
            member = Scale(kept.pop().factor * member.factor)  # type: ignore[attr-defined]
        if member != Scale(1.0):
            kept.append(member)
    return Chain(tuple(kept)) if len(kept) > 1 else kept[0] if kept else Scale(1.0)


def branch(first: Any, second: Any) -> Stack:
    """First and second, stacks or numbers, side by side and summed; zero is none, so `sum` works too.

    Raises:
        StackError: their strides or numbers of axes differ.
    """
    if (stacks := _stacks(first, second)) is None:
        return NotImplemented
    if Scale(0.0) in stacks:
        return stacks[1] if stacks[0] == Scale(0.0) else stacks[0]
    members = tuple(m for stack in stacks for m in (stack.members if isinstance(stack, Sum) else (stack,)))
    ndim = _common_ndim(members) or 2
    strides = [stack._stride(ndim) for stack in stacks]
    if strides[0] != strides[1]:
        raise StackError(
            f"Branches of a sum must have the same stride, but {stacks[0]} has {_words(strides[0])} and {stacks[1]} has "
            f"{_words(strides[1])}: "
            "give the other branch the same stride, for example with AvgPool, Conv(1, stride=...) or Upsample."
        )
    return Sum(members)


def repeat(stack: Stack, n: Any) -> Stack:
    """The stack, n times in a row.

    Raises:
        StackError: n is no integer, or negative.
    """
    try:
        count = operator.index(n)
    except TypeError as error:
        raise StackError(f"A stack is repeated a whole number of times, but ** got {n!r}.") from error
    if count < 0:
        raise StackError(f"A stack cannot be repeated {count} times: convolution has no inverse here.")
    if isinstance(stack, Scale):
        return Scale(stack.factor**count)
    return Scale(1.0) if count == 0 else stack if count == 1 else Power((stack,) * count)


def _stacks(*operands: Any) -> list[Stack] | None:
    """Both operands as stacks; None if one is neither a stack nor a number."""
    if not all(isinstance(operand, Stack | numbers.Real) for operand in operands):
        return None
    return [operand if isinstance(operand, Stack) else _scalar(operand) for operand in operands]


def _common_ndim(members: Sequence[Stack]) -> int | None:
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


def _words(stride: Sequence[Any]) -> str:
    return f"({', '.join(map(str, stride))})"
