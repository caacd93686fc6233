"""Whether rows and columns of a mask may be told apart: whether it does to know which rows it holds, and which columns.

A mask of attention holds pairs of a query and a key. Their score is made of two operands, one of which runs along the queries and
the other along the keys: what matters is which queries and which keys are held, not which pairs. Then a few boxes serve in place
of thousands, and nothing is lost. Where one operand runs along both (an image, a matrix read off distances), pairs do matter. So
the axes of a mask are followed backwards through the program, until no array runs along its last axis and another one.
"""

from collections.abc import Iterable, Sequence

from erfjax.tracing import registry
from erfjax.tracing.positions.access import IDENTITY, Along, Fixed, Identity, Mapping, Seen, Then, View
from erfjax.tracing.positions.hull import Views
from erfjax.tracing.positions.pattern import Pattern
from erfjax.tracing.positions.zero_views import Onto, Where
from erfjax.tracing.program.equations import Atom, Equation, Known, Program, Var

Labels = tuple[int | None, ...]
"""For each axis of an array, the axis of the mask that decides there."""

State = tuple[Atom, Labels, bool]
"""An array, its labels, and whether positions along these axes are those of the mask."""


class Separate:
    """Asks of patterns over the arrays of one program; what was found harmless is remembered.

    Args:
        program: the program.
        views: how its equations are seen past known zeros.
        spatial: the axes of its input that a field is about.
    """

    def __init__(self, program: Program, views: Views, spatial: Sequence[int]) -> None:
        self._source, self._views, self._spatial = program.input, views, spatial
        self._made: dict[Atom, tuple[Equation, int]] = {}
        self._outer: dict[Atom, list[Atom]] = {}
        self._harmless: set[tuple[Atom, Labels, bool, Pattern]] = set()
        self._enter(program.equations)

    def _enter(self, equations: Sequence[Equation]) -> None:
        for equation in equations:
            self._made.update({var: (equation, i) for i, var in enumerate(equation.outputs)})
            for block in equation.blocks:
                for inner, operand in zip(block.inputs, equation.operands_of_blocks, strict=True):
                    self._outer.setdefault(inner, []).append(operand)
                self._enter(block.equations)

    def __call__(self, atom: Atom, seen: Pattern, view: Seen = IDENTITY, operand: Atom | None = None) -> bool:
        """Whether rows and columns of a pattern over an array, looked at through a view, lead to the same pixels as the pairs.

        Args:
            atom: the array.
            seen: the pattern over it.
            view: how the operand is seen from there.
            operand: the operand; None is the array itself.
        """
        operand = atom if operand is None else operand
        if len(seen.axes) < 2 or isinstance(operand, Known):
            return True
        passed = _through(view, tuple(a if a in seen.axes else None for a in range(len(atom.shape))), True, seen)
        if passed is None:
            return False
        waiting: list[State] = []
        met: set[State] = set()

        def meet(state: State) -> None:
            if _mixed(state[1], seen) and state not in met and (*state, seen) not in self._harmless:
                met.add(state)
                waiting.append(state)

        meet((operand, *passed))
        while waiting:
            further = self._further(*waiting.pop(), seen)
            if further is None:
                return False
            for state in further:
                meet(state)
        self._harmless.update((*state, seen) for state in met)
        return True

    def _further(self, atom: Atom, labels: Labels, still: bool, seen: Pattern) -> list[State] | None:
        """Where an array that runs along several axes of the mask comes from; None where that cannot be taken apart."""
        if atom is self._source:
            return None if _mixed([labels[a] for a in self._spatial], seen) else []
        if atom not in self._made:
            return [(operand, labels, still) for operand in self._outer[atom]] if atom in self._outer else None
        equation, result = self._made[atom]
        bodies = registry.bodies(equation)
        if bodies:
            return [(body.outputs[result], labels, still) for body in bodies if isinstance(body.outputs[result], Var)]
        found: list[State] = []
        for operand, view in zip(equation.inputs, self._views(equation, result), strict=True):
            if isinstance(operand, Var) and view is not None:
                passed = _through(view, labels, still, seen)
                if passed is None:
                    return None
                found.append((operand, *passed))
        return found


def _through(view: Seen, labels: Labels, still: bool, seen: Pattern) -> tuple[Labels, bool] | None:
    """The labels of an operand; None where a view does not treat the axes of the mask one by one."""
    if isinstance(view, Identity):
        return labels, still
    if isinstance(view, Where):
        return _through(view.view, labels, still, seen) if _holds(view.seen, labels, still, seen) else None
    if isinstance(view, Onto):
        passed = _through(view.view, labels, still, seen)
        return passed if passed is not None and _holds(view.seen, *passed, seen) else None
    if isinstance(view, Then):
        between = _through(view.first, labels, still, seen)
        return None if between is None else _through(view.second, *between, seen)
    if isinstance(view, Mapping) and view.groups:
        found: list[int | None] = []
        for ins, outs in view.groups:
            here = {labels[o] for o in outs}
            if _mixed(here, seen):
                return None
            found += [max((label for label in here if label is not None), default=None)] * len(ins)
            still = still and (len(ins) == len(outs) == 1 or not here - {None})
        return tuple(found), still
    if not isinstance(view, View):
        return None
    found = [None if isinstance(axis, Fixed) else labels[axis.out] for axis in view.axes]
    guarded = {labels[a] for a, _, _ in view.guards} - {None}
    if guarded and _mixed(guarded.union(found), seen):
        return None  # one of several operands is seen at some rows only: the columns of these are not those of all
    plain = all(
        label is None or (isinstance(axis, Along) and axis == Along(axis.out))
        for label, axis in zip(found, view.axes, strict=True)
    )
    return tuple(found), still and plain and not guarded


def _mixed(labels: Iterable[int | None], seen: Pattern) -> bool:
    """Whether both the columns of a mask and its rows are among the labels."""
    held = set(labels) - {None}
    return seen.axes[-1] in held and len(held) > 1


def _holds(other: Pattern, labels: Labels, still: bool, seen: Pattern) -> bool:
    """Whether another mask on the way cuts nothing off from this one."""
    if not any(labels[a] is not None for a in other.axes):
        return True
    names = {label: a for a, label in enumerate(labels) if label is not None}
    if not still or set(names) != set(seen.axes) or len(names) < len(labels) - labels.count(None):
        return False
    return not seen.renamed(names).minus(other)
