"""What is known of an array before any input is: constants, position by position, run forwards through the trace.

A `Fact` says where an array is one known constant (0, -inf, True ...) and where it is *low*: not constant, but so negative that
the exponential of it underflows beside any ordinary score, as where a mask adds -1e9. Everywhere else it is taken to be finite
and not zero. `Facts` finds the fact of any array on demand, from the equation that makes it; arrays that are known as a whole
are computed on the axes along which they vary only, so that a mask of n x n is never written out.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.interval_rows import LARGEST, IntervalRows
from erfjax.tracing.positions.pattern import NOTHING, Pattern, TooLargeError
from erfjax.tracing.program.equations import Atom, Equation, Known, Var
from erfjax.tracing.program.origins import drawn

SMALL = 1 << 18  # entries of a known array that is kept as it is
UNDERFLOW = math.log(
    np.finfo(np.float32).tiny
)  # -87.3: the exponential of less is zero beside that of an ordinary score
CERTAIN = -1e30  # no score reaches that far down: nothing is assumed there
MOST_CONSTANTS = 8  # of an array of integers


@dataclasses.dataclass(frozen=True)
class Low:
    """Not a constant, but below every ordinary score: `value` has been added to it, or a score taken away from `value`."""

    value: float


Constant = bool | int | float | Low


@dataclasses.dataclass(frozen=True)
class Diagonal:
    """An array of j - i alone, i along axis `axes[0]` and j along the later `axes[1]`: entry j - i + sizes[0] - 1 of `line`."""

    axes: tuple[int, int]
    sizes: tuple[int, int]
    line: np.ndarray

    def where(self, held: np.ndarray) -> Pattern:
        """The positions at which an entry of the line is held."""
        runs = IntervalRows.of(held[None])
        n, m = self.sizes
        rows = np.repeat(np.arange(n), runs.starts.size)
        starts, stops = (np.tile(ends, n) + rows - (n - 1) for ends in (runs.starts, runs.stops))
        return Pattern(self.axes, self.sizes, IntervalRows.among(n, m, rows, starts, stops))


@dataclasses.dataclass(frozen=True, eq=False)
class Fact:
    """What is known of an array: its `value` (with one position on the axes that do not matter), or `parts` of it.

    `sliced`: the array is part of one that is zero in some places and not in others, so that its zeros are a mask.
    """

    value: np.ndarray | Diagonal | None = None
    parts: dict[Constant, Pattern] = dataclasses.field(default_factory=dict)
    sliced: bool = False

    @property
    def mask(self) -> Pattern:
        """Where the array is zero; nowhere if it was made of zeros only (a silent branch is no mask)."""
        where = self.at(0)
        return NOTHING if where.is_full and not self.sliced else where

    @functools.cached_property
    def pieces(self) -> dict[Constant, Pattern]:
        """Where the array is which constant; constants that hardly matter may be missing."""
        if self.value is None:
            return self.parts
        if isinstance(self.value, Diagonal):
            line: Any = self.value.line
            where: Callable[[np.ndarray], Pattern] = self.value.where
        else:
            line, where = self.value, Pattern.of
        found = {c: where(np.asarray(line == c)) for c in _constants(line)}
        return {c: held for c, held in found.items() if held}

    def at(self, constant: Constant) -> Pattern:
        return self.pieces.get(constant, NOTHING)

    @functools.cached_property
    def constant(self) -> Pattern:
        """Where the array is any constant."""
        return functools.reduce(Pattern.join, (p for c, p in self.pieces.items() if not isinstance(c, Low)), NOTHING)

    @functools.cached_property
    def low(self) -> Pattern:
        """Where the array is -inf, low, or a constant as negative as that."""
        return functools.reduce(Pattern.join, (p for c, p in self.pieces.items() if lowness(c) is not None), NOTHING)

    @property
    def lowest(self) -> float:
        """The least negative number that makes the array low."""
        return max((v for c in self.pieces if (v := lowness(c)) is not None), default=-math.inf)


UNKNOWN = Fact()


def lowness(constant: Constant) -> float | None:
    """The number that makes a constant low, None if it is not."""
    value = constant.value if isinstance(constant, Low) else constant
    return float(value) if not isinstance(value, bool) and value < UNDERFLOW else None


def gathered(parts: Sequence[tuple[Constant, Pattern]]) -> Fact:
    """The fact that an array is these constants at these positions; of what is not a number nothing is known."""
    found: dict[Constant, Pattern] = {}
    for constant, where in parts:
        if where and constant == constant:
            found[constant] = found[constant].join(where) if constant in found else where
    return Fact(parts=found) if found else UNKNOWN


def _constants(line: np.ndarray) -> list[Constant]:
    """The constants worth telling apart in a known array."""
    if not line.size:
        return []
    if line.dtype == bool:
        return [False, True]
    low, high = line.min(), line.max()
    if line.dtype.kind in "iu":
        some = range(int(low), int(high) + 1) if high - low < MOST_CONSTANTS else (0, int(low), int(high))
        return list(dict.fromkeys(some))
    if np.isnan(low):
        return [0.0]
    found = [0.0] if low <= 0 <= high else []
    if low == high:
        return [*found, float(low)]
    for far in (line[line < UNDERFLOW], line[line > -UNDERFLOW]):
        ends = {float(far.min()), float(far.max())} if far.size else set()
        infinite = ends & {-math.inf, math.inf}
        finite = far[np.isfinite(far)] if infinite else far
        alike = finite.size and (finite == finite[0]).all()  # numbers that vary are a bias, not a mask
        found += [*infinite, *([float(finite[0])] if alike else [])]
    return list(dict.fromkeys(found))


Fold = Callable[[Equation, int, Sequence[Fact]], Fact]
_FOLDS: dict[Any, Fold | None] = {}
_RUN: set[Any] = set()


def folds(names: str, fold: Fold | None, run: bool = False) -> None:
    """Teaches the facts some primitives: (equation, result, facts of the operands) -> the fact of the result.

    None: the equation is run where no operand depends on the input, and tells nothing elsewhere. `run`: so is one with a fold.
    """
    for primitive in jx.named(names):
        _FOLDS[primitive] = fold
        if run or fold is None:
            _RUN.add(primitive)


Relate = Callable[[Equation, "Facts"], Fact | None]
_RELATED: dict[Any, Relate] = {}


def relate(name: str, relation: Relate) -> None:
    """Teaches the facts what follows from how the operands of a primitive are made, beside what they are."""
    _RELATED[jx.lax_primitive(f"{name}_p")] = relation


class Facts:
    """The facts of the arrays of one program, each found once, when it is asked for.

    `assumed` collects, by equation, the finite numbers that were taken for minus infinity; `given` are the inputs.
    """

    def __init__(self, program: Any) -> None:
        self.given: Sequence[Atom] = program.inputs
        self._found: dict[Atom, Fact] = {}
        self._made: dict[Atom, tuple[Equation, int]] = {}
        self.assumed: dict[Equation, float] = {}
        self.enter(program.equations)

    def enter(self, equations: Sequence[Equation]) -> None:
        """Learns which equation makes which array."""
        self._made.update({v: (e, i) for e in equations for i, v in enumerate(e.outputs)})

    @property
    def assumptions(self) -> tuple[str, ...]:
        """One sentence for each finite number that was taken for minus infinity."""
        notes = []
        for value in sorted(set(self.assumed.values())):
            (first, *others) = [e for e, v in self.assumed.items() if v == value]
            more = f" and {len(others)} more" if others else ""
            notes.append(
                f"Assumed: where a mask holds {value:g}, the exponential is zero, because the scores beside it are far greater "
                f"(in {first}{more}). Mask with -inf to make this exact."
            )
        return tuple(notes)

    def of(self, atom: Atom) -> Fact:
        waiting = [atom]
        while waiting:
            last = waiting[-1]
            if last in self._found:
                waiting.pop()
                continue
            missing = [a for a in self._asked(last) if a not in self._found]
            waiting += missing
            if not missing:
                try:
                    found = self._fold(last)
                except TooLargeError:
                    found = UNKNOWN
                told = found.value is not None or found.parts or isinstance(last, Var)
                self._found[last] = found if told else _computed(last)
        return self._found[atom]

    def maker(self, atom: Atom) -> tuple[Equation, int] | None:
        """The equation that makes an array, and which of its results that is."""
        return atom.origin if isinstance(atom, Known) else self._made.get(atom)

    def _asked(self, atom: Atom) -> Sequence[Atom]:
        """The operands on which the fact of an array rests."""
        maker = self.maker(atom)
        if maker is None:
            return ()
        equation, _ = maker
        if len(equation.blocks) == 1:
            self.enter(equation.blocks[0].equations)
            return equation.operands_of_blocks
        if _FOLDS.get(equation.primitive) is None:
            return ()
        return [a for a in equation.inputs if isinstance(a, Var) or not _large(a, equation)]

    def _fold(self, atom: Atom) -> Fact:
        maker = self.maker(atom)
        if maker is None:
            return leaf(atom) if isinstance(atom, Known) else UNKNOWN
        equation, result = maker
        if len(equation.blocks) == 1:
            (block,) = equation.blocks
            for inner, outer in zip(block.inputs, equation.operands_of_blocks, strict=True):
                self._found[inner] = self._found[outer]
            return self.of(block.outputs[result])
        fold = _FOLDS.get(equation.primitive)
        if isinstance(atom, Known) and equation.primitive in _RUN and math.prod(atom.shape) <= SMALL:
            return leaf(atom)
        if fold is None:
            return UNKNOWN
        facts = [self._found.get(a, UNKNOWN) for a in equation.inputs]
        if equation.primitive in EXPONENTIALS and facts[0].lowest > CERTAIN:
            self.assumed[equation] = facts[0].lowest
        found = fold(equation, result, facts)
        relation = _RELATED.get(equation.primitive)
        more = None if relation is None else relation(equation, self)
        if more is not None:
            found = gathered([*found.pieces.items(), *more.pieces.items()])
        zero = facts[0].at(0) if equation.primitive in SLICES else NOTHING
        sliced = any(f.sliced for f in facts) or (bool(zero) and not zero.is_full)
        return dataclasses.replace(found, sliced=True) if sliced else found


CONTRACTIONS = {jx.lax_primitive(name) for name in ("dot_general_p", "conv_general_dilated_p")}
SLICES = {jx.lax_primitive(f"{name}_p") for name in ("slice", "dynamic_slice", "split", "unstack")}
EXPONENTIALS = {jx.lax_primitive(name) for name in ("exp_p", "exp2_p", "logistic_p")}


def _computed(atom: Atom) -> Fact:
    """The fact of a known mask, or of positions, of which no fold can tell, such as a product of known arrays.

    What is drawn at random (dropout) hides nothing: other draws show it.
    """
    most = LARGEST >> 2 if atom.dtype == bool else SMALL if jnp.issubdtype(atom.dtype, jnp.signedinteger) else 0
    if not isinstance(atom, Known) or math.prod(atom.shape) > most or drawn(atom):
        return UNKNOWN
    return leaf(atom)


def _large(atom: Known, equation: Equation) -> bool:
    """Whether an operand is weights of a contraction, whose zeros are not asked for facts: only a kernel may be masked."""
    kernel = equation.primitive is jx.lax_primitive("conv_general_dilated_p")
    return equation.primitive in CONTRACTIONS and not (kernel and (atom.origin is not None or holes(atom)))


def holes(atom: Known) -> bool:
    """Whether some entries of an array that is there are zero and others are not."""
    value = atom.concrete if math.prod(atom.shape) <= LARGEST else None
    return value is not None and np.count_nonzero(value) not in (0, value.size)


def leaf(atom: Known) -> Fact:
    """The fact of an array that is there."""
    if math.prod(atom.shape) > LARGEST or not (jnp.issubdtype(atom.dtype, jnp.number) or atom.dtype == bool):
        return UNKNOWN
    value = atom.concrete
    if value is None or value.dtype.kind == "c":
        return UNKNOWN
    if value.dtype.kind not in "biuf":  # bfloat16 and its like
        value = value.astype(np.float32)
    if value.size <= SMALL:
        return Fact(compact(value))
    return gathered([(c, Pattern.of(np.asarray(value == c))) for c in _constants(value)])


def zeros(atom: Atom, facts: Facts) -> Pattern:
    """Where an array is zero; nowhere if that is everywhere (a silent branch is no mask)."""
    known = isinstance(atom, Known) and atom.origin is None and math.prod(atom.shape) <= LARGEST
    return held_zeros(atom) if known and isinstance(atom, Known) else facts.of(atom).mask


def held_zeros(atom: Known) -> Pattern:
    """Where an array that is there is zero; nowhere if that is everywhere."""
    value = atom.concrete if holes(atom) else None
    return NOTHING if value is None else Pattern.of(compact(np.asarray(value == 0)))


def compact(value: np.ndarray) -> np.ndarray:
    """The array with one position on every axis along which it does not vary."""
    for axis, n in enumerate(value.shape):
        if n > 1:
            first = value.take([0], axis)
            value = first if (value == first).all() else value
    return value
