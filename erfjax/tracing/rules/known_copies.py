"""Arrays that are the same number without being known: differences of them are zero, quotients one.

A softmax over one visible key takes the key's score from itself and divides its exponential by itself: its weight is 1 whatever
the score is, so neither query nor key is seen. An online softmax spreads the same steps over a loop. An array is followed
backwards through what only moves or keeps its numbers (broadcasts, conversions, a maximum beside -inf, a sum with zeros, the
maximum or the sum of a row in which one entry is held), and two arrays that arrive at one entry of one array are equal there.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.known_values import CONTRACTIONS, Constant, Fact, Facts, gathered, relate
from erfjax.tracing.positions.pattern import EVERYTHING, NOTHING, Pattern, slab
from erfjax.tracing.program.equations import Atom, Equation, Known, Var

EXP, LOG, SUB, ABS = (jx.lax_primitive(f"{name}_p") for name in ("exp", "log", "sub", "abs"))
BOUNDED = set(jx.named("logistic tanh erf sin cos"))
CAST, DIV = (jx.lax_primitive(f"{name}_p") for name in ("convert_element_type", "div"))
TAME = set(
    jx.named(
        "dot_general conv_general_dilated add add_any sub mul neg max min abs select_n reduce_sum reduce_max reduce_min "
        "cumsum copy broadcast_in_dim reshape squeeze expand_dims transpose slice dynamic_slice gather concatenate pad rev "
        "split stop_gradient"
    )
)
"""What makes finite numbers of finite numbers; not so what overflows or has poles, against which people guard."""
MOST = 12  # arrays that one is compared with, the nearest first

Names = dict[int, int]
"""Which axis of a copy each axis of its source is; axes of one position have no name. A negative name is that of an axis along
which one position alone is taken, as a reduction does where one entry is held."""


@dataclasses.dataclass(frozen=True)
class Copy:
    """An array equals its source, rounded, at the positions `where`, over axes of the array and negative names.

    Attributes:
        source, names, where: see above.
        rounded: the conversions on the way that lose digits of the source, the last first: copies that are rounded alike are
            equal.
    """

    source: Atom
    names: Names
    where: Pattern
    rounded: tuple[Any, ...] = ()

    def of(self, step: "Copy", fresh: Iterator[int]) -> "Copy | None":
        """The copy of what the source is a copy of; None where it is nowhere one."""
        inner = self.names | {p: next(fresh) for p in step.names.values() if p < 0}
        if not set(step.where.axes) <= set(inner):
            return None
        where = self.where.meet(step.where.renamed(inner))
        names = {r: inner[a] for r, a in step.names.items()}
        rounded = self.rounded + step.rounded
        while rounded and _holds(rounded[-1], step.source.dtype):
            rounded = rounded[:-1]
        return Copy(step.source, names, where, rounded) if where else None


def _holds(conversion: Any, dtype: Any) -> bool:
    """Whether a conversion keeps every number of a floating type: to the same or a wider floating type."""
    floating = isinstance(conversion, np.dtype) and jnp.issubdtype(dtype, jnp.floating)
    return floating and jnp.issubdtype(conversion, jnp.floating) and np.can_cast(dtype, conversion)


def _wide(atom: Atom) -> Names:
    return {a: a for a, n in enumerate(atom.shape) if n != 1}


def copies(atom: Atom, facts: Facts) -> list[Copy]:
    """What an array equals somewhere, the nearest first; the array itself is the first."""
    found, fresh = [Copy(atom, _wide(atom), EVERYTHING)], itertools.count(-1, -1)
    for copy in found:
        made = facts.maker(copy.source)
        step = None if made is None else _STEPS.get(made[0].primitive)
        if made is None or step is None:
            continue
        for more in step(made[0], facts):
            new = copy.of(more, fresh)
            if new is not None and len(found) < MOST:
                found.append(new)
    return found


def equal(a: Atom, b: Atom, facts: Facts) -> Pattern:
    """Where two arrays of one shape are the same number."""
    return _same(copies(a, facts), copies(b, facts))


def _same(some: Sequence[Copy], others: Sequence[Copy]) -> Pattern:
    """Where two arrays, each given by what it equals, are the same number."""
    where = NOTHING
    for one, other in itertools.product(some, others):
        if one.source is other.source and one.rounded == other.rounded and isinstance(one.source, Var):
            where = where.join(_together(one, other))
    return where


def _behind(copy: Copy, steps: Sequence[Copy]) -> list[Copy]:
    """The copies of an array of the same axes as the source of a copy, as they are seen through it."""
    found = (copy.of(step, itertools.count(min(copy.names.values(), default=0) - 1, -1)) for step in steps)
    return [one for one in found if one is not None]


def _together(a: Copy, b: Copy) -> Pattern:
    """Where two copies of one source are copies of one entry."""
    mine, other, names = a.where, b.where, {}
    for axis, p in a.names.items():
        q = b.names[axis]
        if p < 0 <= q and q not in mine.axes:
            mine = mine.renamed({n: q if n == p else n for n in mine.axes})
        elif (p < 0 and q < 0) or (q < 0 <= p and p not in other.axes):
            names[q] = p
        elif p != q:
            return NOTHING
    where = mine.meet(other.renamed({n: names.get(n, n) for n in other.axes}))
    return where.without([n for n in where.axes if n < 0], every=False)


Step = Callable[[Equation, Facts], Iterator[Copy]]
_STEPS: dict[Any, Step] = {}


def _steps(names: str) -> Callable[[Step], Step]:
    def register(step: Step) -> Step:
        _STEPS.update(dict.fromkeys(jx.named(names), step))
        return step

    return register


@_steps("copy")
def _kept(equation: Equation, facts: Facts) -> Iterator[Copy]:
    yield Copy(equation.inputs[0], _wide(equation.inputs[0]), EVERYTHING)


@_steps("convert_element_type")
def _converted(equation: Equation, facts: Facts) -> Iterator[Copy]:
    yield Copy(equation.inputs[0], _wide(equation.inputs[0]), EVERYTHING, (np.dtype(equation.outputs[0].dtype),))


@_steps("reduce_precision")
def _rounded(equation: Equation, facts: Facts) -> Iterator[Copy]:
    how = tuple(sorted(equation.params.items()))
    yield Copy(equation.inputs[0], _wide(equation.inputs[0]), EVERYTHING, (how,))


@_steps("broadcast_in_dim")
def _repeated(equation: Equation, facts: Facts) -> Iterator[Copy]:
    operand = equation.inputs[0]
    axes = enumerate(equation.params["broadcast_dimensions"])
    yield Copy(operand, {a: b for a, b in axes if operand.shape[a] != 1}, EVERYTHING)


@_steps("reshape squeeze expand_dims")
def _with_ones(equation: Equation, facts: Facts) -> Iterator[Copy]:
    """A reshape that inserts or drops axes of one position."""
    operand, result = equation.inputs[0], equation.outputs[0]
    own, new = _wide(operand), _wide(result)
    if [operand.shape[a] for a in own] == [result.shape[a] for a in new]:
        yield Copy(operand, dict(zip(own, new, strict=True)), EVERYTHING)


@_steps("transpose")
def _turned(equation: Equation, facts: Facts) -> Iterator[Copy]:
    operand, order = equation.inputs[0], equation.params["permutation"]
    yield Copy(operand, {a: order.index(a) for a in _wide(operand)}, EVERYTHING)


@_steps("slice")
def _one_position(equation: Equation, facts: Facts) -> Iterator[Copy]:
    """A slice that takes one position along some axes and all along the others."""
    operand, names, where = equation.inputs[0], _wide(equation.inputs[0]), EVERYTHING
    for a, (n, m) in enumerate(zip(operand.shape, equation.outputs[0].shape, strict=True)):
        if m == 1 < n:
            start = equation.params["start_indices"][a]
            names[a], where = -1 - a, where.meet(slab(-1 - a, start, start + 1, n))
        elif m < n:
            return
    yield Copy(operand, names, where)


@_steps("select_n")
def _case(equation: Equation, facts: Facts) -> Iterator[Copy]:
    which, *cases = equation.inputs
    if which.shape == equation.outputs[0].shape:
        for k, case in enumerate(cases):
            if isinstance(case, Var):
                yield Copy(case, _wide(case), facts.of(which).at(k))


@_steps("max")
def _greater(equation: Equation, facts: Facts) -> Iterator[Copy]:
    for atom, beside in (equation.inputs, equation.inputs[::-1]):
        if isinstance(atom, Var) and atom.shape == equation.outputs[0].shape:
            other = facts.of(beside)
            yield Copy(atom, _wide(atom), other.low.minus(facts.of(atom).low).join(other.at(-np.inf)))


def _beside(neutral: Constant, places: tuple[int, ...]) -> Step:
    """An operand is the result where the other one changes nothing."""

    def step(equation: Equation, facts: Facts) -> Iterator[Copy]:
        for k in places:
            atom = equation.inputs[k]
            if isinstance(atom, Var) and atom.shape == equation.outputs[0].shape:
                yield Copy(atom, _wide(atom), facts.of(equation.inputs[1 - k]).at(neutral))

    return step


@_steps("add add_any")
def _sum(equation: Equation, facts: Facts) -> Iterator[Copy]:
    """A term beside zero; and what has been taken away and is added again behind a logarithm of exponentials (logsumexp)."""
    yield from _beside(0, (0, 1))(equation, facts)
    for atom, back in (equation.inputs, equation.inputs[::-1]):
        made = facts.maker(atom)
        if made is None or made[0].primitive is not LOG or back.shape != atom.shape:
            continue
        for copy in copies(atom, facts):
            made = facts.maker(copy.source)
            if made is not None and made[0].primitive is SUB and not copy.rounded:
                term, taken = made[0].inputs
                where = _same(_behind(copy, copies(taken, facts)), copies(back, facts))
                yield Copy(term, copy.names, copy.where.meet(where))


_STEPS.update(dict.fromkeys(jx.named("sub"), _beside(0, (0,))))
_STEPS.update(dict.fromkeys(jx.named("mul"), _beside(1, (0, 1))))
_STEPS.update(dict.fromkeys(jx.named("div"), _beside(1, (0,))))


def _alone(held: Callable[[Fact], Pattern]) -> Step:
    """A reduction of rows in which one entry is held is that entry."""

    def step(equation: Equation, facts: Facts) -> Iterator[Copy]:
        operand, over = equation.inputs[0], equation.params["axes"]
        kept = [a for a in range(len(operand.shape)) if a not in over]
        names = {a: kept.index(a) for a in _wide(operand) if a in kept}
        wide = [a for a in _wide(operand) if a in over]
        if not wide:
            yield Copy(operand, names, EVERYTHING)
        elif len(wide) == 1:
            names[wide[0]] = -1
            yield Copy(operand, names, _single(held(facts.of(operand)), wide[0], names))

    return step


_STEPS.update(dict.fromkeys(jx.named("reduce_max"), _alone(lambda fact: fact.low.complement)))
_STEPS.update(dict.fromkeys(jx.named("reduce_sum"), _alone(lambda fact: fact.mask.complement)))


def _single(held: Pattern, axis: int, names: Names) -> Pattern:
    """The positions that are the only ones held along an axis, renamed."""
    if axis not in held.axes:
        return NOTHING
    last = max(held.axes) + 1
    moved = held.renamed({a: last if a == axis else a for a in held.axes})
    rows = np.where(moved.held.lengths() == 1, np.arange(moved.held.count), -1)
    alone = Pattern(moved.axes, moved.sizes, moved.held.take(rows))
    return alone.renamed({a: names[axis if a == last else a] for a in alone.axes}) if alone else NOTHING


def _exponentials(atom: Atom, facts: Facts) -> Iterator[tuple[Copy, Atom]]:
    """The exponentials that an array equals somewhere, and of what they are."""
    for copy in copies(atom, facts):
        made = facts.maker(copy.source)
        if made is not None and made[0].primitive is EXP:
            yield copy, made[0].inputs[0]


@_steps("abs")
def _positive(equation: Equation, facts: Facts) -> Iterator[Copy]:
    yield from (copy for copy, _ in _exponentials(equation.inputs[0], facts))


@_steps("log")
def _logarithm(equation: Equation, facts: Facts) -> Iterator[Copy]:
    for copy, exponent in _exponentials(equation.inputs[0], facts):
        if not copy.rounded:
            yield dataclasses.replace(copy, source=exponent)


def _where_equal(value: float) -> Callable[[Equation, Facts], Fact | None]:
    def relation(equation: Equation, facts: Facts) -> Fact | None:
        a, b = equation.inputs
        if isinstance(a, Known) or isinstance(b, Known):
            return None
        where = equal(a, b, facts)
        return gathered([(value, where)]) if where else None

    return relation


def _finite(atom: Atom, facts: Facts) -> bool:
    """Whether an array is made of the input by sums and products, with no infinity on the way."""
    waiting, met = [atom], set[Atom]()
    while waiting:
        last = waiting.pop()
        if last in met or not jnp.issubdtype(last.dtype, jnp.floating):
            continue
        met.add(last)
        fact, made = facts.of(last), facts.maker(last)
        if fact.at(-np.inf) or fact.at(np.inf):
            return False
        if isinstance(last, Known) or last in facts.given or (made is not None and made[0].primitive in BOUNDED):
            continue
        if made is None or not _tame(made[0], facts):
            return False
        waiting += [a for a in made[0].inputs if isinstance(a, Var) or made[0].primitive not in CONTRACTIONS]
    return True


def _tame(equation: Equation, facts: Facts) -> bool:
    """Whether finite operands give a finite result."""
    if equation.primitive is CAST:
        return _holds(np.dtype(equation.outputs[0].dtype), equation.inputs[0].dtype)
    if equation.primitive is DIV:
        below = equation.inputs[1]
        return isinstance(below, Known) and isinstance(facts.of(below).value, np.ndarray) and not facts.of(below).at(0)
    return equation.primitive in TAME


def _compared(value: bool, infinities: Sequence[float]) -> Callable[[Equation, Facts], Fact | None]:
    """What a comparison with infinity gives where a number is a copy of a finite one: the guards of a running maximum."""

    def relation(equation: Equation, facts: Facts) -> Fact | None:
        number, *others = equation.inputs
        made = facts.maker(number)
        if made is not None and made[0].primitive is ABS:
            number, *_ = made[0].inputs
        if isinstance(number, Known) or not all(any(facts.of(b).at(i).is_full for i in infinities) for b in others):
            return None
        where = NOTHING
        for copy in copies(number, facts):
            if copy.where and not copy.rounded and isinstance(copy.source, Var) and _finite(copy.source, facts):
                where = where.join(copy.where.without([n for n in copy.where.axes if n < 0], every=False))
        return gathered([(value, where)]) if where else None

    return relation


relate("sub", _where_equal(0.0))
relate("div", _where_equal(1.0))
relate("is_finite", _compared(True, (-np.inf, np.inf)))
relate("eq", _compared(False, (-np.inf, np.inf)))
relate("ne", _compared(True, (-np.inf, np.inf)))
relate("gt", _compared(True, (-np.inf,)))
