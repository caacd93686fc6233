"""Known values through elementwise primitives: constants are computed, and some constants win whatever stands beside them.

Zero times anything is zero, -inf plus anything is -inf, False and anything is False; the exponential of -inf is zero, and that
of what is low (see `known_values`) is taken for it. An array that is zero as a whole is a silent branch, no mask: a weight that
was initialised with zeros hides nothing.
"""

import functools
import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.interval_rows import LARGEST, compared
from erfjax.tracing.positions.known_values import (
    SMALL,
    UNKNOWN,
    Constant,
    Diagonal,
    Fact,
    Low,
    folds,
    gathered,
    lowness,
)
from erfjax.tracing.positions.pattern import NOTHING, Pattern
from erfjax.tracing.program.equations import Equation
from erfjax.tracing.registry import host_function

Evaluate = Callable[..., Any]

NO_BIAS = -1e6  # an array of one number is a bias unless it lies below this


def _divided(a: Any, b: Any) -> Any:
    if np.result_type(a, b).kind == "f":
        return np.divide(a, b)
    b = np.where(b == 0, 1, b)
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


def _sigmoid(a: Any) -> Any:
    return np.exp(-np.logaddexp(0.0, -np.asarray(a, float)))


ROUNDED: dict[str, Evaluate] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "square": np.square,
    "rsqrt": lambda a: 1 / np.sqrt(a), "cbrt": np.cbrt, "pow": np.power, "logistic": _sigmoid, "round": np.round,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "tanh": np.tanh, "sinh": np.sinh, "asin": np.arcsin, "atan": np.arctan,
    "asinh": np.arcsinh, "atanh": np.arctanh, "erf": np.vectorize(math.erf, [float]), "real": np.real,
    "erfc": np.vectorize(math.erfc, [float]),
}  # fmt: skip
"""Functions that NumPy and XLA may round differently: the zeros and infinities of both are the same."""
UNCHANGED = {
    "convert_element_type",
    "reduce_precision",
    "copy",
    "copy_p",
    "stop_gradient",
    "name",
    "sharding_constraint",
    "device_put",
}
_NEARLY = {primitive: function for name, function in ROUNDED.items() for primitive in jx.named(name)}
EXACT = """
    add add_any sub mul div rem max min neg abs sign floor ceil sqrt is_finite eq ne lt le gt ge and or xor not clamp select_n
    integer_pow
"""
COMPARISONS = {
    "lt": (True, False, False), "le": (True, True, False), "eq": (False, True, False), "ne": (True, False, True),
    "ge": (False, True, True), "gt": (False, False, True),
}  # fmt: skip


def elementwise(name: str) -> Callable[[Equation, int, Sequence[Fact]], Fact]:
    """The fold of one elementwise primitive."""

    def fold(equation: Equation, result: int, facts: Sequence[Fact]) -> Fact:
        output = equation.outputs[result]
        evaluate = _evaluation(name, equation)
        if not (jnp.issubdtype(output.dtype, np.number) or output.dtype == bool) or jnp.issubdtype(
            output.dtype, np.complexfloating
        ):
            return UNKNOWN
        if all(fact.value is not None for fact in facts):
            whole = _whole(name, evaluate, facts, output.dtype, len(output.shape))
            if whole is not None:
                return whole
        parts = []
        if all(fact.pieces for fact in facts):
            for some in product(*(fact.pieces.items() for fact in facts)):
                where = some[0][1]
                for _, other in some[1:]:
                    where = where.meet(other)
                if where:
                    constant = _folded(name, evaluate, [c for c, _ in some], output.dtype)
                    parts += [] if constant is None else [(constant, where)]
        wins = WINNERS.get(name)
        if wins is None:
            return gathered(parts)
        found = gathered(parts)
        for constant, where in wins(facts):
            left = where.minus(found.constant)
            found = gathered([*found.pieces.items(), (constant, left)]) if left else found
        return found

    return fold


def _evaluation(name: str, equation: Equation) -> Evaluate:
    if name in UNCHANGED:
        return lambda a: a
    if name in ROUNDED:
        return ROUNDED[name]
    function = host_function(equation.primitive)
    assert function is not None  # NumPy knows all that are EXACT
    return functools.partial(function, equation.params)


def by_numpy(primitive: Any) -> Evaluate | None:
    """How NumPy evaluates an elementwise primitive, to rounding: (parameters, *operands) -> the result; None where it cannot."""
    nearly = _NEARLY.get(primitive)
    return host_function(primitive) if nearly is None else lambda params, *operands: nearly(*operands)


def _whole(name: str, evaluate: Evaluate, facts: Sequence[Fact], dtype: Any, rank: int) -> Fact | None:
    """The value itself, where that is small, or depends on the distance of two positions only."""
    values = [fact.value for fact in facts]
    bands = [v for v in values if isinstance(v, Diagonal)]
    arrays = [v for v in values if isinstance(v, np.ndarray)]
    if bands:
        same = all((b.axes, b.sizes) == (bands[0].axes, bands[0].sizes) for b in bands)
        if not same or any(v.size != 1 for v in arrays):
            return None
        lines = [v.line if isinstance(v, Diagonal) else v.reshape(()) for v in values if v is not None]
        return Fact(Diagonal(bands[0].axes, bands[0].sizes, _run(evaluate, lines, dtype)))
    size = math.prod(np.broadcast_shapes(*(v.shape for v in arrays)))
    if size <= SMALL:
        value = _run(evaluate, arrays, dtype)
        return Fact(value.reshape((1,) * (rank - value.ndim) + value.shape))
    if len(arrays) == 2:
        return _outer(name, evaluate, arrays, dtype, size)
    return None


def _outer(name: str, evaluate: Evaluate, pair: Sequence[np.ndarray], dtype: Any, size: int) -> Fact | None:
    """A function of two long lines along different axes: a band if both go up in the same steps, intervals if compared."""
    a, b = ([i for i, n in enumerate(v.shape) if n != 1] for v in pair)
    if len(a) == len(b) == 1 and a != b:
        first, second = a[0], b[0]
        early, late = (pair[0], pair[1]) if first < second else (pair[1], pair[0])
        axes = (min(first, second), max(first, second))
        up, down = early.ravel(), late.ravel()
        if name in ("add", "sub") and up.dtype.kind in "iu" and down.dtype.kind in "iu":
            steps = {int(s) for line in (up, down if name == "sub" else -down) for s in np.unique(np.diff(line))}
            if len(steps) == 1:
                n, d = len(up), np.arange(len(up) + len(down) - 1)
                lines = [up[np.maximum(n - 1 - d, 0)], down[np.maximum(d - n + 1, 0)]]
                lines = lines if first < second else lines[::-1]
                return Fact(Diagonal(axes, (n, len(down)), _run(evaluate, lines, dtype)))
        if name in COMPARISONS:
            less, equal, more = COMPARISONS[name]
            how = (less, equal, more) if first < second else (more, equal, less)
            rows = compared(up, down, how)
            if rows is not None:
                held = Pattern(axes, (len(up), len(down)), rows)
                return gathered([(True, held), (False, held.complement)])
    if np.dtype(dtype) == bool and size <= LARGEST >> 2:
        held = Pattern.of(np.asarray(evaluate(*pair)))
        return gathered([(True, held), (False, held.complement)])
    return None


def _run(evaluate: Evaluate, operands: Sequence[Any], dtype: Any) -> np.ndarray:
    """The function in double precision, rounded to the type that JAX gives the result."""
    wide = [v.astype(np.float64) if v.dtype.kind == "f" else v for v in map(np.asarray, operands)]
    with np.errstate(all="ignore"):
        value = np.asarray(evaluate(*wide))
        kind = np.dtype(dtype)
        return value.astype(kind if kind.kind in "biuf" else np.float32)


def _folded(name: str, evaluate: Evaluate, constants: Sequence[Constant], dtype: Any) -> Constant | None:
    """The function of some constants; None where something low stays unknown."""
    if not any(isinstance(c, Low) for c in constants):
        return _run(evaluate, [np.asarray(c) for c in constants], dtype).item()
    values = [c.value if isinstance(c, Low) else float(c) for c in constants]
    if name in UNCHANGED:
        return constants[0]
    if name in ("exp", "exp2", "logistic"):
        return 0.0
    if name == "is_finite":
        return True
    if name in ("mul", "div"):
        scale = values[1] if isinstance(constants[0], Low) else values[0]
        product_ = values[0] * values[1] if name == "mul" else values[0] / (values[1] or math.nan)
        plain = not all(isinstance(c, Low) for c in constants) and 0 < scale < math.inf
        return Low(product_) if plain and (name == "mul" or isinstance(constants[0], Low)) else None
    if name in ("add", "max", "min"):
        joins: dict[str, Callable[..., Any]] = {"add": sum, "max": max, "min": min}
        total = joins[name](values)
        return Low(total) if lowness(total) is not None else None
    if name == "sub" and isinstance(constants[0], Low) and not isinstance(constants[1], Low):
        return Low(values[0] - values[1]) if lowness(values[0] - values[1]) is not None else None
    return None


Wins = Callable[[Sequence[Fact]], Sequence[tuple[Constant, Pattern]]]


def _zero_wins(facts: Sequence[Fact]) -> Sequence[tuple[Constant, Pattern]]:
    return [(0, fact.mask) for fact in facts]


def _sums(signs: Sequence[int]) -> Wins:
    """-inf wins; a constant that is low, or is taken away and high, makes low what is added to it."""

    def wins(facts: Sequence[Fact]) -> Sequence[tuple[Constant, Pattern]]:
        found: list[tuple[Constant, Pattern]] = []
        for fact, sign in zip(facts, signs, strict=True):
            found += [(-math.inf, fact.at(sign * -math.inf))] if sign > 0 else []
        for k, (fact, sign) in enumerate(zip(facts, signs, strict=True)):
            for constant, where in fact.pieces.items():
                value = constant.value if isinstance(constant, Low) else constant
                masks = (  # part of a mask, or a block of it, or what a running maximum starts from
                    isinstance(constant, Low) or not where.is_full or fact.sliced or sign * value < NO_BIAS
                )
                if isinstance(value, bool) or not masks or not math.isfinite(value) or lowness(sign * value) is None:
                    continue
                if sign > 0 or not isinstance(constant, Low):
                    beside = facts[1 - k].low if signs[1 - k] < 0 else NOTHING
                    found.append((Low(float(sign * value)), where.minus(beside)))
        return found

    return wins


def _numerator_wins(facts: Sequence[Fact]) -> Sequence[tuple[Constant, Pattern]]:
    return [(0, facts[0].mask.minus(facts[1].at(0)))]


def _selected(facts: Sequence[Fact]) -> Sequence[tuple[Constant, Pattern]]:
    """What a case is where it is known to be taken, and what all cases are."""
    which, *cases = facts
    found = [
        (c, held.meet(which.at(k))) for k, case in enumerate(cases) for c, held in case.pieces.items() if which.at(k)
    ]
    for constant, held in cases[0].pieces.items():
        for other in cases[1:]:
            held = held.meet(other.at(constant))
        found.append((constant, held))
    return found


WINNERS: dict[str, Wins] = {
    "mul": _zero_wins,
    "div": _numerator_wins,
    "add": _sums((1, 1)),
    "sub": _sums((1, -1)),
    "and": lambda facts: [(False, fact.at(False)) for fact in facts],
    "or": lambda facts: [(True, fact.at(True)) for fact in facts if all(isinstance(c, bool) for c in fact.pieces)],
    "min": lambda facts: [(-math.inf, fact.at(-math.inf)) for fact in facts],
    "select_n": _selected,
}

for name in (*EXACT.split(), *ROUNDED, *UNCHANGED):
    folds(name, elementwise(name))
