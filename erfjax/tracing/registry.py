"""One `Rule` per primitive object: what the three walks need to know about it.

A rule has up to three columns, and a walk that misses its column refuses with an error that names the primitive, the line and
the remedy. Primitives are keys as *objects*: a user's function called `relu` is not JAX's.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from erfjax.errors import InternalError, UnsupportedPrimitiveError
from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.access import Seen
from erfjax.tracing.positions.index_sets import Box
from erfjax.tracing.program.equations import Block, Equation
from erfjax.tracing.second_moments.kinds import Moment

Hull = Callable[[Equation, int], Sequence[Seen | None]]


@dataclasses.dataclass(frozen=True)
class WindowRule:
    """How to evaluate an equation on windows of its operands. All boxes are intervals inside their arrays.

    Attributes:
        evaluate: (equation, result, operands, their boxes, result box) -> the result on its box.
        enlarge: (equation, box) -> the smallest box around it that can be computed at once; by default the box itself.
        narrow: (equation, boxes of the operands) -> the same boxes made to fit each other (contractions).
        outside: what to do with an operand that lies outside the window altogether: compute all of it ("whole"), let one
            position "stand in" (it is padded away), or "leave out" the operand (None is passed).
        relative: (equation, operand, its value, boxes of the operands, result box) -> the value with positions counted from
            where the windows begin, if the operand holds positions (indices).
    """

    evaluate: Callable[[Equation, int, Sequence[Any], Sequence[Box], Box], Any]
    enlarge: Callable[[Equation, Box], Box] | None = None
    narrow: Callable[[Equation, Sequence[Box]], Sequence[Box]] | None = None
    outside: Literal["whole", "stand in", "leave out"] = "whole"
    relative: Callable[[Equation, int, Any, Sequence[Box], Box], Any] | None = None


def bind(
    equation: Equation, result: int, operands: Sequence[Any], boxes: Sequence[Box], box: Box, **changed: Any
) -> Any:
    """The primitive on the operands as they are, with some parameters changed: how most window rules evaluate.

    Args:
        equation: whose primitive is meant.
        result: which of its results.
        operands: the values on their windows.
        boxes, box: the windows of the operands and of the result; not needed here.
        changed: parameters of the primitive in place of the equation's own.

    Example:
        >>> from erfjax.tracing import WindowRule, bind
        >>> WindowRule(bind).outside
        'whole'
    """
    results = jx.bind(equation, operands, **changed)
    return results[result] if equation.primitive.multiple_results else results


SAME = WindowRule(bind)
"""The primitive itself serves on any window."""


def lengths(box: Box) -> tuple[int, ...]:
    """The shape of a window."""
    return tuple(int(points.stop - points.start) for points in box)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What the walks know about a primitive.

    Attributes:
        hull: (equation, index of the result) -> how each operand is seen; None where that result does not need the operand.
        restrict: how to evaluate the equation on windows of its operands; None: on whole arrays only.
        moment: what is known of its squared Jacobian, a `Kind` or a `Choice`; None: the analytic reading refuses it.
        pointwise: True if result position o depends on operand position o alone.
        layer: True if people would call an equation of this primitive a layer (convolution, pooling, contraction).
    """

    hull: Hull
    restrict: WindowRule | None = None
    moment: Moment | None = None
    pointwise: bool = False
    layer: bool = False


_RULES: dict[Any, Rule] = {}


def register(primitive: Any, rule: Rule) -> None:
    """Teaches the walks a primitive, or replaces what they knew of it.

    Args:
        primitive: the primitive object itself, such as `jax.lax.sin_p` or one of your own.
        rule: its row.

    Example:
        >>> from erfjax.tracing.jaxpr import Primitive
        >>> from erfjax.tracing import IDENTITY, Rule, register
        >>> register(Primitive("mine"), Rule(hull=lambda equation, result: [IDENTITY]))
    """
    _RULES[primitive] = rule


def extend(primitive: Any, **columns: Any) -> None:
    """Gives the rule of a primitive new columns, and leaves the others as they are.

    Args:
        primitive: the primitive object itself.
        columns: attributes of `Rule`.

    Raises:
        UnsupportedPrimitiveError: there is no rule yet.

    Example:
        >>> from erfjax.tracing import IDENTITY, Kind, Rule, extend, register
        >>> from erfjax.tracing.jaxpr import Primitive
        >>> cube = Primitive("cube")
        >>> register(cube, Rule(hull=lambda equation, result: [IDENTITY], pointwise=True))
        >>> extend(cube, moment=Kind.GATE)
    """
    if primitive not in _RULES:
        raise UnsupportedPrimitiveError(
            f"`{primitive}` has no rule to extend: teach it first with erfjax.tracing.register(primitive, Rule(hull=...))."
        )
    register(primitive, dataclasses.replace(_RULES[primitive], **columns))


def row(names: str, rule: Rule) -> None:
    """Registers the same rule for several primitives of `jax.lax`; names that this JAX does not have are passed over."""
    for primitive in jx.named(names):
        register(primitive, rule)


_ON_HOST: dict[Any, Callable[..., Any]] = {}


def on_host(names: str, function: Callable[..., Any]) -> None:
    """Says how NumPy evaluates primitives of `jax.lax` on known operands: (parameters, *operands) -> the result."""
    for primitive in jx.named(names):
        _ON_HOST[primitive] = function


def host_function(primitive: Any) -> Callable[..., Any] | None:
    """How NumPy evaluates a primitive: (parameters, *operands) -> the result; None where only JAX can."""
    return _ON_HOST.get(primitive)


def evaluate(equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """The results of an equation, as JAX wrote it, on known operands: by NumPy where it can, else by JAX."""
    function = _ON_HOST.get(equation.primitive)
    avals = [var.aval for var in equation.outvars]
    if function is None or any(map(jx.is_traced, operands)) or any(jx.is_extended(a.dtype) for a in avals):
        return jx.evaluate(equation, operands)
    with np.errstate(all="ignore"):
        result = np.asarray(jx.call_on_host(function, equation, operands))
    (aval,) = avals
    if result.shape != aval.shape:
        raise InternalError(f"{equation.primitive} gave shape {result.shape} in place of {aval.shape}")
    return [result.astype(aval.dtype, copy=False)]


def known(primitive: Any) -> bool:
    return primitive in _RULES


def moment(primitive: Any) -> Moment | None:
    """The moment column of a primitive; None where it has none."""
    return _RULES[primitive].moment if primitive in _RULES else None


def pointwise(block: Block) -> bool:
    """Whether a body acts position by position, so that it may be evaluated on any window."""
    return all(known(e.primitive) and _RULES[e.primitive].pointwise for e in block.equations)


def bodies(equation: Equation) -> tuple[Block, ...]:
    """The bodies that a walk must enter: none where the equation as a whole is elementwise."""
    whole = known(equation.primitive) and all(pointwise(block) for block in equation.blocks)
    return () if whole else equation.blocks


def is_layer(equation: Equation) -> bool:
    return known(equation.primitive) and _RULES[equation.primitive].layer


def lookup(equation: Equation, column: str = "hull") -> Rule:
    """The rule of an equation's primitive.

    Raises:
        UnsupportedPrimitiveError: there is none, or it lacks the column.
    """
    rule = _RULES.get(equation.primitive)
    if rule is None:
        raise UnsupportedPrimitiveError(
            f"no rule for the primitive {equation}. Two ways out: measure with ej.empirical, which works for every "
            "differentiable function, or teach it with erfjax.tracing.register(primitive, Rule(hull=..., moment=...)), as "
            'CONTRIBUTING.md shows. For the theoretical field alone, unknown="everything" lets it see its whole operands.'
        )
    if getattr(rule, column) is None:
        raise UnsupportedPrimitiveError(
            f"the rule for the primitive {equation} has no `{column}` column. Two ways out: measure with ej.empirical, which "
            f"works for every differentiable function, or add the column and keep the others with "
            f"erfjax.tracing.extend(primitive, {column}=...), as CONTRIBUTING.md shows."
        )
    return rule
