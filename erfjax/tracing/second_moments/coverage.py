"""What the theory covers: a survey of a cone that says why its moments pass is exact, or where it is not.

The pass composes squared Jacobians: (J₂∘J₂)(J₁∘J₁) in place of (J₂J₁)∘(J₂J₁). Both agree where no two paths from one entry to
another lie on the same weights. Independent zero-mean weights keep paths apart: what a random contraction merges, it merges
with different weights. Between two such contractions lies a *segment* of fixed operations; in it the survey follows, for every
array, along which axes one entry of the segment's root is *spread*. If a fixed operation sums along an axis of the spread, or a
sum joins two paths from one root, they interfere. A random contraction begins a new segment, but paths that are spread along an
axis of positions meet the same kernel there, and may still interfere behind it: a blur, a convolution and a blur are two blurs.

The theory takes gates as independent of the weights. Turn the signs of all weights of a channel: a (leaky) ReLU's two slopes
change places, so on average over signs they tell nothing about products of weights. A slope that depends on the size of the sum,
a shift before it, or the choice of an extremum does, by about 1 / fan-in: at width 8 a SiLU network is predicted 8 % too low,
with max-pooling 4 %. That is noted; it is the theory's own assumption, and no reason to call its result an approximation.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from erfjax.tracing import registry
from erfjax.tracing.positions.access import Along, View
from erfjax.tracing.program.equations import Atom, Equation, Known, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.chains import affine, outermost, shifts
from erfjax.tracing.second_moments.downstream import nonlinear_downstream
from erfjax.tracing.second_moments.kinds import PRODUCTS, Choice, Kind
from erfjax.tracing.second_moments.random_weights import (
    Operand,
    Uses,
    centred,
    channel_axes,
    independence,
    listed,
    unlikely,
)
from erfjax.tracing.second_moments.spread import Spread, passage, shared, union
from erfjax.tracing.second_moments.steps import dependent, elementwise, kind_of
from erfjax.tracing.windows.cone import Cone, Step

INTERFERENCE = "fixed operations interfere: paths from one entry, or over the same kernel at two positions, are summed"
JOIN = "paths from one entry are summed without weights of their own between them"
PRODUCT = (
    "a product of two terms that depend on the input (attention, gating, normalisation by the data's own statistics)"
)
SHARED = "the same weights are used more than once"
CHANNELS = "the unit's channels share paths to the input that no weights part"
GATES = "gates that one fixed window averages are taken as independent, though neighbours share their weights"
NORMAL = "mean field: normal pre-activations, as in the limit of width, for inputs of this second moment"
WIDE = (
    "gates that know more of the weights before them than the sign of their sum (smooth or shifted nonlinearities, "
    "max-pooling, sums of activations) are taken as independent of these weights: exact in the limit of width"
)
NEEDS_DATA = (
    'channels are summed after a nonlinearity: the coherent part of their gradient needs data (gates="data"), or is left out on '
    'both sides by channels="random-signs"'
)
COHERENT = (
    "channels are summed after a nonlinearity: the coherent part of their gradient is included, by normal weights conditioned on "
    "the activations that they cause: exact in the limit of width"
)
ASSUMED = (WIDE, COHERENT)
"""What the theory itself assumes, independent gates: notes, not reasons to call its result an approximation."""
STEPS = 3  # of a scan that are surveyed
EVENLY = "every entry of a pooling window is taken to be the extremum equally often"


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        reasons: one line each, why the pass is an approximation; none at all if it is exact.
        notes: what else a reader should know: what finite widths add to the theory's assumptions, silent branches.
    """

    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def survey(
    cone: Cone,
    weights: frozenset[Operand],
    *,
    power: int,
    data: bool,
    summed: bool,
    channel: int | None,
) -> Survey:
    """Why the moments pass over a cone is exact, or is not.

    Args:
        cone: the cone with concrete weights.
        weights: which known operands are random draws (see `random_weights.weights`).
        power: first moments (1) never interfere.
        data: whether gates come from data.
        summed: whether the unit's channels are summed as they are, not with random signs.
        channel: the axis of the output's channels.
    """
    found = _Surveyor(cone, weights, power, data)
    for step in cone.steps:
        found.step(step)
    (output,) = cone.wanted
    spread = found.spread.get(output, {})
    if power == 2 and summed:
        if any(found.coherent()):
            found.add(COHERENT if data else NEEDS_DATA, "")
        elif not data and channel is not None and any(channel in axes for axes in spread.values()):
            found.add(CHANNELS, "")
    return found.survey(output)


class _Surveyor:
    """Walks the steps forwards, noting on the way."""

    def __init__(self, cone: Cone, weights: frozenset[Operand], power: int, data: bool):
        self.cone, self.weights, self.power, self.data = cone, weights, power, data
        source = cone.block.inputs[0]
        self.spread: dict[Atom, Spread] = {source: {source: frozenset()}}
        self.base: dict[Atom, Atom] = {}
        self.silenced: dict[Atom, str] = {}
        self.places: dict[str, list[str]] = {}
        self.silent: dict[str, None] = {}
        self.tests: list[tuple[str, str, float]] = []
        self.uses = Uses()
        self.nonlinear: set[Atom] = set()
        self.chains = {atom: chain for part in parts(cone) for atom, chain in outermost(part).items()}

    def add(self, reason: str, place: str) -> None:
        places = self.places.setdefault(reason, [])
        if place not in places:
            places.append(place)

    def step(self, step: Step) -> None:
        if step.inner is not None:
            self._scan(step, step.inner)
            return
        kind = kind_of(step.equation)
        operands = [i for i in dependent(step) if step.equation.inputs[i] in self.spread]
        if kind is Kind.SILENT or not operands or not jnp.issubdtype(step.output.dtype, jnp.inexact):
            return
        self._silence(step, operands, kind)
        if elementwise(step):
            self._elementwise(step, operands, kind)
        elif kind is Kind.BILINEAR and self._reset(step, operands):
            self.spread[step.output] = {step.output: self._displaced(step, operands)}
            return
        else:
            self._fixed(step, operands, sums=not isinstance(kind, Choice))
            if isinstance(kind, Choice) and not (self.data and self.power == 1):
                self.add(WIDE if self.data else EVENLY, place(step.equation))
        if (
            kind in (Kind.GATE, Kind.EXCLUSIVE)
            or isinstance(kind, Choice)
            or any(step.equation.inputs[i] in self.nonlinear for i in operands)
        ):
            self.nonlinear.add(step.output)

    def _scan(self, step: Step, inner: Cone) -> None:
        """A few steps of a scan, each after the other: what they find does not change any more.

        Roots that lie in the body stand for another array at every step: those of steps before get names of their own.
        """
        scan = step.equation.scan
        assert scan is not None
        n_consts, n_carry, outputs = len(scan.moving), scan.n_carry, scan.body.outputs
        states = scan.body.inputs[n_consts : n_consts + n_carry]
        for place, (i, source) in enumerate(zip(scan.places, scan.body.inputs, strict=True)):
            self._stands_for(source, step.equation.inputs[i], row=place >= n_consts + n_carry)
        around = set(self.spread) - set(scan.body.inputs)
        renamed: dict[Atom, Atom] = {}
        for k in range(min(scan.length, STEPS)):
            if k:
                held = [(atom, new, dict(self.spread.get(new, {}))) for atom, new in zip(states, outputs, strict=False)]
                for atom, new, spread in held:
                    self.spread.pop(atom, None)
                    if spread:
                        for root in spread.keys() - around - renamed.keys():
                            renamed[root] = Var(root.shape, root.dtype)
                        self.spread[atom] = {renamed.get(root, root): axes for root, axes in spread.items()}
                    self._alike(atom, new)
            for inside in inner.steps:
                self.step(inside)
        for new, output in zip(outputs, step.equation.outputs, strict=True):
            if new in self.spread and len(output.shape) == len(new.shape):
                self.spread[output] = self.spread[new]
            elif new in self.spread:
                self.spread[output] = self._stacked(self.spread[new], around, renamed)
            self._alike(output, new)

    def _stands_for(self, source: Atom, atom: Atom, row: bool) -> None:
        """An input of a body is an operand of the scan, or a row of it."""
        if atom in self.spread:
            self.spread[source] = {
                root: frozenset(a - row for a in axes if a >= row) for root, axes in self.spread[atom].items()
            }
            self._alike(source, atom)

    def _alike(self, atom: Atom, other: Atom) -> None:
        if other in self.nonlinear:
            self.nonlinear.add(atom)
        if other in self.silenced:
            self.silenced[atom] = self.silenced[other]

    def _stacked(self, spread: Spread, around: set[Atom], renamed: dict[Atom, Atom]) -> Spread:
        """The spread of a stacked array: along the steps too, for what other steps have seen."""
        before = {new: old for old, new in renamed.items()}
        found: Spread = {}
        for root, axes in spread.items():
            several = root in around or root in before or renamed.get(root) in spread
            name = before.get(root, root)
            found[name] = found.get(name, frozenset()) | {a + 1 for a in axes} | ({0} if several else frozenset())
        return found

    def _elementwise(self, step: Step, operands: list[int], kind: Any) -> None:
        """Operands of one chain add up before they are squared; others meet as strangers, or interfere."""
        if not (self.data and self.power == 1) and self._knows_sizes(step, kind):
            self.add(WIDE if self.data else NORMAL, place(step.equation))
        bases = self._by_base(step, operands)
        several = len(bases) > 1 and self._passing(step, operands) > 1
        if len(bases) == 1 and next(iter(bases)).shape == step.output.shape:
            (self.base[step.output],) = bases
        if several and kind in PRODUCTS:
            if self.power == 2 or not self.data:
                self.add(PRODUCT, place(step.equation))
        elif several and kind is not Kind.EXCLUSIVE and self.power == 2 and shared(bases.values()):
            self.add(JOIN, place(step.equation))
        self.spread[step.output] = union(bases.values())

    def _by_base(self, step: Step, operands: list[int]) -> dict[Atom, Spread]:
        """The spread of every base of the operands; an operand of fewer entries is spread along all axes that it is shared by."""
        found: dict[Atom, Spread] = {}
        for i in operands:
            atom = step.equation.inputs[i]
            if atom.shape == step.output.shape:
                found[self.base.get(atom, atom)] = self.spread[atom]
            else:
                axes = frozenset(a for a, n in enumerate(lengths(step.box)) if n > 1)
                found[atom] = {root: held | axes for root, held in self.spread[atom].items()}
        return found

    def _knows_sizes(self, step: Step, kind: Any) -> bool:
        """Whether the slopes of an elementwise operation know more than the sign of a sum of random terms."""
        if step.output not in self.chains:
            several = len({a for a in step.equation.inputs if isinstance(a, Var)}) > 1
            return several and (kind is Kind.GATE or (kind is Kind.EXCLUSIVE and not self.data))
        chain = self.chains[step.output]
        if chain is None or affine(chain):
            return False
        added = shifts(chain)
        return added is None or chain.base in self.nonlinear or not all(map(centred, added))

    def _passing(self, step: Step, operands: list[int]) -> int:
        """How many operands are not silent."""
        return sum(step.equation.inputs[i] not in self.silenced for i in operands)

    def _reset(self, step: Step, operands: list[int]) -> bool:
        """Whether a contraction is with random weights, so that a new segment begins."""
        equation = step.equation
        if len(operands) > 1:
            if self.power == 2 or not self.data:
                self.add(PRODUCT, place(equation))
            return True
        random = False
        for i, atom in enumerate(equation.inputs):
            if (equation.number, i) not in self.weights:
                continue
            random = True
            weight = np.asarray(atom.value)  # type: ignore[union-attr]
            self.tests += [(place(equation), name, p) for name, p in independence(weight, channel_axes(equation, i))]
            if self.uses.again(atom) and self.power == 2 and weight.any():  # type: ignore[arg-type]
                self.add(SHARED, place(equation))
        return random

    def _displaced(self, step: Step, operands: list[int]) -> frozenset[int]:
        """Along which axes paths stay apart that meet the same weights, because a kernel is the same at all positions."""
        if len(operands) > 1:
            return frozenset()
        (i,) = operands
        axes = frozenset().union(*self.spread[step.equation.inputs[i]].values())
        view, box = registry.lookup(step.equation).hull(step.equation, step.result)[i], lengths(step.box)
        if not isinstance(view, View):
            return frozenset(a for a, n in enumerate(box) if n > 1 and axes)
        along = {axis.out for a, axis in enumerate(view.axes) if a in axes and isinstance(axis, Along)}
        return frozenset(a for a in along if box[a] > 1)

    def _fixed(self, step: Step, operands: list[int], sums: bool) -> None:
        """A fixed operation: it spreads along some axes and sums along others."""
        views = registry.lookup(step.equation).hull(step.equation, step.result)
        after: list[Spread] = []
        guards: set[int] = set()
        for i in operands:
            view, before = views[i], self.spread[step.equation.inputs[i]]
            held, box = lengths(step.operands[i] or ()), lengths(step.box)
            guards |= {axis for axis, _, _ in view.guards} if isinstance(view, View) else set(range(len(box)))
            moved, summed = passage(view, held, box)
            if sums and self.power == 2 and any(axes & summed for axes in before.values()):
                self.add(INTERFERENCE, place(step.equation))
            elif sums and self.power == 2 and summed and step.equation.inputs[i] in self.nonlinear:
                self.add(GATES, place(step.equation))
            after.append({root: moved(axes) for root, axes in before.items()})
        merged = union(after)
        if len(operands) > 1:
            merged = {
                root: axes | (guards if sum(root in a for a in after) > 1 else set()) for root, axes in merged.items()
            }
        self.spread[step.output] = merged

    def _silence(self, step: Step, operands: list[int], kind: Any) -> None:
        """Notes where zeros end a branch, and where a silent branch is left out of a sum."""
        equation = step.equation
        quiet = [self.silenced.get(equation.inputs[i]) for i in operands]
        if kind in (Kind.BILINEAR, *PRODUCTS):
            for atom in equation.inputs:
                if (
                    isinstance(atom, Known)
                    and (atom.captured or not atom.shape)
                    and jnp.issubdtype(atom.dtype, jnp.inexact)
                    and _zero(atom)
                ):
                    self.silenced[step.output] = place(equation)
                    return
        if all(quiet):
            self.silenced[step.output] = quiet[0] or ""
        else:
            self.silent.update({q: None for q in quiet if q})

    def coherent(self) -> Iterable[bool]:
        """For every random contraction that the mean gradient reaches, whether it passes on."""

        def is_random(equation: Equation, operand: int) -> bool:
            return (equation.number, operand) in self.weights

        reached = nonlinear_downstream(self.cone, is_random).reached
        for step in self.cone.every:
            if step.output in reached and kind_of(step.equation) is Kind.BILINEAR:
                yield reached[step.output] and self._reset_by(step)

    def _reset_by(self, step: Step) -> bool:
        return any((step.equation.number, i) in self.weights for i in range(len(step.operands)))

    def survey(self, output: Atom) -> Survey:
        """Everything that was noted."""
        lines = {reason: f"{reason}{listed(places)}." for reason, places in self.places.items()}
        reasons = [line for reason, line in lines.items() if reason not in ASSUMED]
        if self.power == 2:
            reasons += unlikely(self.tests)
        notes = [line for reason, line in lines.items() if reason in ASSUMED]
        if output in self.silenced:
            notes.append(f"the unit is silent: a scale or weights are all zero{listed([self.silenced[output]])}.")
        if self.silent:
            count = "a silent branch" if len(self.silent) == 1 else f"{len(self.silent)} silent branches"
            notes.append(
                f"{count}, whose last scale or weights are all zero: the field is that of the identity path around"
                f"{listed(list(self.silent))}."
            )
        return Survey(tuple(reasons), tuple(notes))


def parts(cone: Cone) -> Iterable[Cone]:
    """A cone, and the bodies of its scans."""
    yield cone
    for step in cone.steps:
        if step.inner is not None:
            yield from parts(step.inner)


def _zero(atom: Known) -> bool:
    value = atom.concrete
    return value is not None and value.size > 0 and not np.any(value)


def place(equation: Equation) -> str:
    """Where an equation stands, in few words: its layer, or the user's line."""
    if equation.layer:
        return equation.layer
    line = equation.where.split(" ")[0].rsplit("/", 1)[-1]
    return f"`{equation.primitive}` at {line}" if line else f"`{equation.primitive}`"
