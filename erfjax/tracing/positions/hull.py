"""The hull walk: backwards from a box of an output to the region of every variable that the box needs.

Two readings of the same walk. *Unclipped*: positions beyond an array are kept, as published tables do (padding is a place).
*Clipped*: a position beyond a hidden array is padding and leads nowhere; what remains is the support of the Jacobian.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

from erfjax.tracing import registry
from erfjax.tracing.positions.access import WHOLE, IrregularError, Seen, Shift, View
from erfjax.tracing.positions.index_sets import Loose, Region, clip, join
from erfjax.tracing.program.equations import Atom, Block, Equation, Var

Views = Callable[[Equation, int], Sequence[Seen | None]]


def refuse(equation: Equation, result: int) -> Sequence[Seen | None]:
    """How operands are seen; an unknown primitive is refused."""
    return registry.lookup(equation).hull(equation, result)


def everything(equation: Equation, result: int) -> Sequence[Seen | None]:
    """Like `refuse`, but an unknown primitive sees its operands whole."""
    if registry.known(equation.primitive):
        return refuse(equation, result)
    return [View((WHOLE,) * len(atom.shape)) for atom in equation.inputs]


def remembered(views: Views) -> Views:
    """The same, asked once per equation: views do not depend on the box."""
    seen: dict[tuple[Equation, int], Sequence[Seen | None]] = {}

    def view(equation: Equation, result: int) -> Sequence[Seen | None]:
        key = (equation, result)
        if key not in seen:
            seen[key] = views(equation, result)
        return seen[key]

    return view


def walk(
    block: Block,
    wanted: Mapping[Atom, Region],
    *,
    clipped: bool,
    views: Views = refuse,
    until: int | None = None,
    loosened: set[Equation] | None = None,
) -> dict[Atom, Region]:
    """The region of every variable that the wanted regions need.

    Args:
        block: the program.
        wanted: where to start: regions of one or several variables.
        clipped: cut every region to its array.
        views: how equations are seen, `refuse` or `everything`.
        until: look at the equations before this index only.
        loosened: where to put the equations at which a region fell apart into more boxes than are kept.
    """
    loosened = set() if loosened is None else loosened
    regions: dict[Atom, Region] = dict(wanted)
    for equation in reversed(block.equations[:until]):
        for result, output in enumerate(equation.outputs):
            region = regions.get(output)
            if not region:
                continue
            if clipped:
                region = regions[output] = clip(region, output.shape)
            if registry.bodies(equation):
                for atom, needed in _into_blocks(equation, result, region, clipped, views, loosened):
                    regions[atom] = join(regions.get(atom, ()), needed)
                continue
            for atom, view in zip(equation.inputs, views(equation, result), strict=True):
                if isinstance(atom, Var) and view is not None:
                    before = regions.get(atom, ())
                    for box in region:
                        before = join(before, view.pull(box))
                    regions[atom] = before
                    if any(isinstance(box, Loose) for box in before):
                        loosened.add(equation)
    if clipped:
        regions.update({atom: clip(regions[atom], atom.shape) for atom in block.inputs if atom in regions})
    return regions


def _into_blocks(
    equation: Equation, result: int, region: Region, clipped: bool, views: Views, loosened: set[Equation]
) -> Iterable[tuple[Atom, Region]]:
    """What each operand must give when a body is walked: the union over the branches follows by joining."""
    for index in equation.operands_before_blocks:
        yield index, ((),)
    for block in registry.bodies(equation):
        regions = walk(block, {block.outputs[result]: region}, clipped=clipped, views=views, loosened=loosened)
        for atom, inner in zip(equation.operands_of_blocks, block.inputs, strict=True):
            yield atom, regions.get(inner, ())


def period(block: Block, output: Var, source: Var, axis: int, views: Views = refuse) -> tuple[int, tuple[Shift, ...]]:
    """After how many units along an output axis the field repeats, and how far the input then has moved *per unit*.

    A shift by one unit moves every hidden array by an exact fraction of a position; the period is the least common multiple of
    their denominators.

    Raises:
        IrregularError: paths disagree about the stride, or a known table has no period.
    """
    whole: list[Fraction] = []
    start: dict[Atom, tuple[Shift, ...]] = {output: tuple(Fraction(int(i == axis)) for i in range(len(output.shape)))}
    found = _shifts(block, start, whole, views)
    return math.lcm(*(fraction.denominator for fraction in whole)), found.get(source, (None,) * len(source.shape))


def _shifts(
    block: Block, start: dict[Atom, tuple[Shift, ...]], whole: list[Fraction], views: Views
) -> dict[Atom, tuple[Shift, ...]]:
    moved = dict(start)

    def move(atom: Atom, shift: tuple[Shift, ...] | None) -> None:
        if isinstance(atom, Var) and shift is not None:
            whole.extend(by for by in shift if by is not None)
            moved[atom] = _agree(moved.get(atom, shift), shift)

    for equation in reversed(block.equations):
        for result, output in enumerate(equation.outputs):
            shifts = moved.get(output)
            if shifts is None:
                continue
            bodies = registry.bodies(equation)
            for index in equation.operands_before_blocks if bodies else ():
                move(index, ())
            for body in bodies:
                inner = _shifts(body, {body.outputs[result]: shifts}, whole, views)
                for atom, var in zip(equation.operands_of_blocks, body.inputs, strict=True):
                    move(atom, inner.get(var))
            if not bodies:
                for atom, view in zip(equation.inputs, views(equation, result), strict=True):
                    if isinstance(atom, Var) and view is not None:
                        move(atom, view.shift(shifts, whole))
    return moved


def _agree(a: tuple[Shift, ...], b: tuple[Shift, ...]) -> tuple[Shift, ...]:
    """The shift that two paths share; an axis seen whole (None) agrees with everything."""
    if any(p is not None and q is not None and p != q for p, q in zip(a, b, strict=True)):
        raise IrregularError
    return tuple(q if p is None else p for p, q in zip(a, b, strict=True))
