"""Random bits: a key is seen whole. Nearly everywhere keys are known; these rows serve keys that are made from the input."""

from collections.abc import Sequence

from erfjax.tracing.positions.access import WHOLE, Along, Seen, View
from erfjax.tracing.program.equations import Equation
from erfjax.tracing.registry import SAME, Rule, row
from erfjax.tracing.rules.elementwise import pointwise
from erfjax.tracing.second_moments.kinds import Kind


def of_keys(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Leading axes that operand and result share are axes of keys; what follows (words of a key) is seen whole."""
    shape = equation.outputs[result].shape

    def view(operand: tuple[int, ...]) -> View:
        shared = next((a for a, (n, m) in enumerate(zip(operand, shape, strict=False)) if n != m), len(shape))
        return View(tuple(Along(a) if a < shared else WHOLE for a in range(len(operand))))

    return [view(atom.shape) for atom in equation.inputs]


row("random_seed random_fold_in", Rule(hull=pointwise, moment=Kind.SILENT))
row("random_bits random_split random_wrap random_unwrap", Rule(hull=of_keys, moment=Kind.SILENT))
row(
    "rng_bit_generator",
    Rule(hull=lambda e, result: [View((WHOLE,) * len(a.shape)) for a in e.inputs], moment=Kind.SILENT),
)
row("threefry2x32", Rule(hull=pointwise, restrict=SAME, moment=Kind.SILENT, pointwise=True))
row("random_gamma rng_uniform", Rule(hull=pointwise))
