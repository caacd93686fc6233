"""Elementwise primitives: every operand is seen position by position, a scalar operand by all."""

from collections.abc import Sequence

from erfjax.tracing import jaxpr as jx
from erfjax.tracing.positions.access import IDENTITY, ONLY, SCALAR, Along, Seen, View
from erfjax.tracing.program.equations import Equation
from erfjax.tracing.registry import SAME, Rule, WindowRule, register, row
from erfjax.tracing.second_moments.kinds import Kind

NONLINEAR = """
    abs acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt cos cosh digamma erf erf_inv erfc exp exp2 expm1
    igamma igamma_grad_a igammac integer_pow lgamma log log1p log2 logistic one_minus_square polygamma polynomial pow
    regularized_incomplete_beta rsqrt sin sinh sqrt square tan tanh zeta max min clamp nextafter rem
"""
STEPS = """
    and ceil clz eq eq_to floor ge gt is_finite le le_to lt lt_to ne not or population_count round shift_left
    shift_right_arithmetic shift_right_logical sign stop_gradient xor mulhi
"""
LINEAR = "add add_jaxvals convert_element_type copy imag neg real reduce_precision sub complex conj"
SELECTION = "select_n"
BOOKKEEPING = "sharding_constraint device_put name bitcast_convert_type"


def pointwise(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Result position o needs operand position o; a scalar, or an axis of one position, is needed everywhere."""
    shape = equation.outputs[result].shape
    return [_pointwise(atom.shape, shape) for atom in equation.inputs]


def _pointwise(operand: tuple[int, ...], result: tuple[int, ...]) -> Seen:
    if operand == result:
        return IDENTITY
    if len(operand) != len(result):
        return SCALAR
    return View(tuple(ONLY if n == 1 != m else Along(a) for a, (n, m) in enumerate(zip(operand, result, strict=True))))


def parallel(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Result k is operand k."""
    return [IDENTITY if i == result else None for i in range(len(equation.inputs))]


row(NONLINEAR, Rule(hull=pointwise, restrict=SAME, moment=Kind.GATE, pointwise=True))
row(STEPS, Rule(hull=pointwise, restrict=SAME, moment=Kind.SILENT, pointwise=True))
row(LINEAR, Rule(hull=pointwise, restrict=SAME, moment=Kind.LINEAR, pointwise=True))
row("mul", Rule(hull=pointwise, restrict=SAME, moment=Kind.SCALED, pointwise=True))
row("div", Rule(hull=pointwise, restrict=SAME, moment=Kind.QUOTIENT, pointwise=True))
row(SELECTION, Rule(hull=pointwise, restrict=SAME, moment=Kind.EXCLUSIVE, pointwise=True))
row(BOOKKEEPING, Rule(hull=pointwise, restrict=SAME, moment=Kind.LINEAR, pointwise=True))
for primitive in (jx.CUSTOM_JVP, jx.CUSTOM_VJP):
    register(primitive, Rule(hull=pointwise, moment=Kind.GATE))
row(
    "optimization_barrier",
    Rule(
        hull=parallel,
        restrict=WindowRule(lambda equation, result, operands, boxes, box: operands[result]),
        moment=Kind.SELECTION,
    ),
)
