"""How the axes of an array lie along those of another that it is computed from: which index of one needs which of the other.

It is read off the same views as the hull walk.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from erfjax.tracing import registry
from erfjax.tracing.positions import access
from erfjax.tracing.positions.access import Along, Identity, Lookup, Seen, View
from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.second_moments.steps import dependent, passes
from erfjax.tracing.windows.cone import Cone, Step


@dataclasses.dataclass(frozen=True)
class Link:
    """Which indices i of an axis of a segment's start one index o of an axis of its end needs, and no others.

    Attributes:
        axis: the axis of the start.
        part: "whole": i = o + shift; "quotient": i // block = o; "remainder": i % block = o; "block": i // block = o // block.
    """

    axis: int
    shift: int = 0
    block: int = 1
    part: str = "whole"


Links = tuple[Link | None, ...]
"""Per axis of an array; None where no few indices of one axis are all that is needed."""


def aligned(start: Var, end: Var, steps: Sequence[Step]) -> Links:
    """How the axes of an array lie along those of one that it is computed from by these steps."""
    held: dict[Atom, Links] = {start: tuple(Link(a) for a in range(len(start.shape)))}
    _walk(steps, held)
    return held.get(end, (None,) * len(end.shape))


def _walk(steps: Sequence[Step], held: dict[Atom, Links]) -> None:
    for step in steps:
        moving = {step.equation.inputs[i] for i in dependent(step)} if passes(step) else set()
        if moving.isdisjoint(held):
            continue
        if step.inner is not None:
            held.update(_scanned(step, step.inner, held))
            continue
        views = registry.lookup(step.equation).hull(step.equation, step.result)
        found = [
            _through(view, atom.shape, step.output.shape, held[atom])
            for atom, view in zip(step.equation.inputs, views, strict=True)
            if atom in moving and atom in held and view is not None
        ]
        if found:
            held[step.output] = _joined(found)


def _joined(found: Sequence[Links]) -> Links:
    """What several ways have in common."""
    return tuple(axes[0] if len(set(axes)) == 1 else None for axes in zip(*found, strict=True))


def _scanned(step: Step, inner: Cone, held: Mapping[Atom, Links]) -> dict[Atom, Links]:
    """The links of the results of a scan: those that hold in its body, whatever the step."""
    scan = step.equation.scan
    assert scan is not None
    first, last = len(scan.moving), len(scan.moving) + scan.n_carry
    operands = [(source, step.equation.inputs[i]) for i, source in zip(scan.places, scan.body.inputs, strict=True)]
    rows = {source: held[atom] for source, atom in operands[last:] if atom in held}
    carried = {source: held[atom] for source, atom in operands[:last] if atom in held}
    while True:
        inside = {**carried, **{source: links[1:] for source, links in rows.items()}}
        _walk(inner.steps, inside)
        after = dict(carried)
        for (state, _), new in zip(operands[first:last], scan.body.outputs, strict=False):
            if new in inside:
                after[state] = _joined([inside[new], carried.get(state, inside[new])])
        if after == carried:
            break
        carried = after
    remembered = dict(carried)  # what depends on other steps
    _walk(inner.steps, remembered)
    along = {links[0] for links in rows.values()}
    found: dict[Atom, Links] = {}
    for k, (new, output) in enumerate(zip(scan.body.outputs, step.equation.outputs, strict=True)):
        if new in inside and k < scan.n_carry:
            found[output] = inside[new]
        elif new in inside:
            alone = len(along) == 1 and new not in remembered
            found[output] = (next(iter(along)) if alone else None, *inside[new])
    return found


def _through(view: Seen, operand: Sequence[int], result: Sequence[int], held: Links) -> Links:
    """The links of a result with what one of its operands is linked with."""
    if isinstance(view, Identity):
        return held
    moved: list[Link | None] = [None] * len(result)
    if isinstance(view, View):
        for link, axis in zip(held, view.axes, strict=True):
            to = _moved(axis)
            if link is not None and to is not None and (link.part == "whole" or not to[1]):
                moved[to[0]] = dataclasses.replace(link, shift=link.shift + to[1])
    elif isinstance(view, access.Mapping) and view.groups:
        for ins, outs in view.groups:
            for o, link in zip(outs, _regrouped([held[a] for a in ins], [result[o] for o in outs]), strict=True):
                moved[o] = link
    return tuple(moved)


def _moved(axis: object) -> tuple[int, int] | None:
    """The axis of the result that an operand axis becomes, and by how much it is shifted."""
    if isinstance(axis, Along) and axis.size == axis.stride == axis.base == 1:
        return axis.out, axis.offset
    if isinstance(axis, Lookup) and axis.pattern.count == axis.pattern.width:
        own = (axis.pattern.starts == axis.pattern.rows) & (axis.pattern.stops == axis.pattern.rows + 1)
        return (axis.out, 0) if own.all() else None
    return None


def _regrouped(held: list[Link | None], sizes: list[int]) -> list[Link | None]:
    """The links of axes that one axis is split into, or that two are merged into."""
    if len(held) == len(sizes) == 1:
        return held
    if len(held) == 1 and len(sizes) == 2 and held[0] is not None and held[0] == Link(held[0].axis):
        return [Link(held[0].axis, 0, sizes[1], "quotient"), Link(held[0].axis, 0, sizes[1], "remainder")]
    if len(held) == 2 and len(sizes) == 1 and held[0] is not None and held[0].part == "quotient":
        quotient = held[0]
        whole = held[1] == dataclasses.replace(quotient, part="remainder")
        return [Link(quotient.axis) if whole else dataclasses.replace(quotient, part="block")]
    return [None] * len(sizes)
