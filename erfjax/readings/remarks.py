"""What a theoretical field remarks about itself: where it is an upper bound, and where nothing is seen."""

from collections.abc import Iterator, Sequence

from jax import lax

from erfjax.tracing import registry
from erfjax.tracing.positions.pattern import MANY
from erfjax.tracing.program.equations import Atom, Block, Equation, Program
from erfjax.tracing.rules.reduction import inverts

SWAPPED = "as channels and space usually are the other way round"
NOTHING = "Nothing of the image is seen: this unit sees padding, or what masks hide, alone."


def swapped(notes: Sequence[str]) -> tuple[str, ...]:
    """Those notes of a theoretical field that doubt the layout: every reading of the unit says so."""
    return tuple(note for note in notes if SWAPPED in note)


def loosened(equations: set[Equation]) -> tuple[str, ...]:
    """A note where regions fell apart into more boxes than are kept."""
    if not equations:
        return ()
    (first, *others) = sorted(map(str, equations))
    return (
        f"Approximate: what {first}{f' and {len(others)} more' if others else ''} sees falls apart into more than {MANY} boxes, "
        "so holes of the mask may be filled.",
    )


def transforms(program: Program, atom: Atom) -> tuple[str, ...]:
    """A note where a transform is inverted on the way to an array: what the pair sees depends on the numbers in between."""
    needed, behind = {atom}, set[Atom]()
    for equation in reversed(program.equations):
        if not needed.isdisjoint(equation.outputs):
            needed.update(equation.inputs)
    found = []
    for equation in program.equations:
        depends = not behind.isdisjoint(equation.inputs)
        if equation.primitive is lax.fft_p or depends:
            behind.update(equation.outputs)
        if depends and inverts(equation) and not needed.isdisjoint(equation.outputs):
            found.append(str(equation))
    if not found:
        return ()
    (first, *others) = dict.fromkeys(found)
    return (
        f"Upper bound: {first}{f' and {len(others)} more' if others else ''} inverts a Fourier transform. Both count as seen "
        "whole, but a product of spectra is a convolution, which may see less: ej.empirical shows what it sees.",
    )


def unknown(block: Block) -> tuple[str, ...]:
    """A note where primitives have no rule."""
    found = [e for e in _all(block) if not e.blocks and not registry.known(e.primitive)]
    named = ", ".join(map(str, found))
    return (f"{len(found)} equation(s) without a rule, seen whole: {named}.",) if found else ()


def _all(block: Block) -> Iterator[Equation]:
    """The equations of a block and of the bodies inside."""
    for equation in block.equations:
        yield equation
        for body in equation.blocks:
            yield from _all(body)
