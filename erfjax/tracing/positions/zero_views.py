"""Views that leave out what a known zero hides: through, or onto, the positions of a pattern."""

import dataclasses
from collections.abc import Iterable, Sequence
from fractions import Fraction

from erfjax.tracing.positions.access import IrregularError, Seen, Shift, View
from erfjax.tracing.positions.index_sets import Box, Loose
from erfjax.tracing.positions.pattern import FEW, Pattern, rest


@dataclasses.dataclass(frozen=True)
class _Cut:
    """A view of which a pattern leaves a part."""

    view: Seen
    seen: Pattern
    most: int = FEW

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        return self.view.shift(shifts, whole)


@dataclasses.dataclass(frozen=True)
class Where(_Cut):
    """A view through those positions of the result only that are in a pattern."""

    def pull(self, box: Box) -> Iterable[Box]:
        for part in rest(self.seen, box, self.most):
            found = self.view.pull(part)
            yield from map(Loose, found) if isinstance(part, Loose) else found


@dataclasses.dataclass(frozen=True)
class Onto(_Cut):
    """A view of those positions of the operand only that are in a pattern."""

    def pull(self, box: Box) -> Iterable[Box]:
        for part in self.view.pull(box):
            yield from rest(self.seen, part, self.most)


@dataclasses.dataclass(frozen=True)
class Through:
    """A view of what some of the asked results need: axes -n to -1 of `held` are the axes `outs` of the result."""

    view: View
    held: Pattern
    outs: tuple[int, ...]
    most: int = FEW

    @property
    def pattern(self) -> Pattern:
        """What all results together need of the operand."""
        return self.held.without(range(-len(self.outs), 0), every=False)

    def pull(self, box: Box) -> Iterable[Box]:
        held = self.held
        for name, out in zip(range(-len(self.outs), 0), self.outs, strict=True):
            size = held.sizes[held.axes.index(name)]
            held = held.chosen(name, box[out].clip(0, size).positions)
        held = held.without(range(-len(self.outs), 0), every=False)
        for part in self.view.pull(box):
            yield from held.within(part, self.most)

    def shift(self, shifts: Sequence[Shift], whole: list[Fraction]) -> tuple[Shift, ...]:
        if any(shifts[out] for out in self.outs):
            raise IrregularError
        return self.view.shift(shifts, whole)
