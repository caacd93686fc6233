"""What has arrived at each variable on the backward walk, with exponents that are searched as seldom as possible."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from erfjax.tracing.positions.index_sets import Box, full
from erfjax.tracing.program.equations import Atom
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.activity import Activity
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.second_moments.scaled import EMPTY, Scaled, widened
from erfjax.tracing.second_moments.scans import Moments, Run, through_scan
from erfjax.tracing.second_moments.steps import dependent, kind_of, passes
from erfjax.tracing.windows.brief import once
from erfjax.tracing.windows.cone import Cone, Step

FEWEST, MOST = 4, 8  # contractions between two searches for the largest digit
FAR = 72  # exponents by which digits may have moved between two searches, if slopes were not searched


class Arrived:
    """What has arrived at each variable, on its box, from the steps that read it: by power, the mean (1) and the square (2).

    Weights and gates of known size change a moment of digits near one by 2**8 at most for each contraction. So digits are
    brought back near one every few contractions only: where everything that is under way has met in one array, so that all
    of it shares one exponent, and wherever too many contractions have gone by.
    """

    def __init__(self, cone: Cone, dtype: Any, careful: bool):
        self.careful = careful
        self.cone, self.held, self.dtype = cone, dict[Atom, Moments](), dtype
        self.ages: dict[Atom, int] = {}
        self.age = 0  # contractions since the last search, behind the step that was taken last
        self.doubled: list[tuple[Any, Any]] = []  # the bases of means, and of their squares

    def start(self, power: int, cotangents: Sequence[Any]) -> None:
        """Begins with a cotangent for each wanted array."""
        for (atom, box), cotangent in zip(self.cone.wanted.items(), cotangents, strict=False):
            self.add(power, atom, box, Scaled(widened(cotangent)).power(power))

    def scan(self, step: Step, activity: Activity, power: int, runs: Sequence[Run]) -> None:
        """Takes what has arrived at the results of a scan and passes it back to the operands.

        Args:
            step: the scan.
            activity: what the units do.
            power: the moment that is carried at least; behind a mean its square comes to be carried too.
            runs: how the steps are walked.
        """
        found: dict[Atom, Moments] = {a: moments for a in step.outputs if (moments := self.held.pop(a, None))}
        if not found:
            return
        self.age = 0
        powers = sorted({power, *(p for moments in found.values() for p in moments)})
        for atom, moments in through_scan(step, activity, found, runs, powers, self.dtype):
            for power, moment in moments.items():
                self.add(power, atom, full(atom.shape), moment)

    def inside(self, step: Step, sent: Iterable[tuple[Atom, Moments]], walk: Callable[["Arrived"], None]) -> Any:
        """Walks the body of a scan: what arrives at its inputs."""
        assert step.inner is not None
        inner = Arrived(step.inner, self.dtype, careful=True)
        for atom, moments in sent:
            for power, moment in moments.items():
                inner.add(power, atom, full(atom.shape), moment)
        walk(inner)
        return lambda atom: inner.held.get(atom, {})

    def add(self, power: int, atom: Atom, box: Box, moment: Scaled) -> None:
        """Adds to what has arrived, zero outside the box."""
        whole = self.cone.boxes[atom]
        sides = [(int(p.start - w.start), int(w.stop - p.stop), 0) for p, w in zip(box, whole, strict=True)]
        placed = moment.astype(self.dtype)
        if any(map(any, sides)):
            placed = placed.linear(lambda a: lax.pad(a, jnp.zeros((), a.dtype), sides))
        held = self.held.setdefault(atom, {})
        held[power] = held[power] + placed if power in held else placed
        self.ages[atom] = max(self.ages.get(atom, 0), self.age)

    def add_all(self, power: int, parts: Iterator[tuple[Atom, Box, Scaled]]) -> None:
        for atom, box, moment in parts:
            self.add(power, atom, box, moment)

    def take(self, step: Step) -> dict[int, Scaled]:
        """What has arrived at the result of a step; computed once where the step passes it to several variables."""
        self.age = self.ages.get(step.output, 0)
        found = self.held.pop(step.output, {})
        if found and len(dependent(step)) > 1:
            return {power: moment.linear(once) for power, moment in found.items()}
        return found

    def due(self, step: Step) -> bool:
        """Whether to search for the largest digit before a step."""
        if not passes(step):
            return False
        self.age += kind_of(step.equation) is Kind.BILINEAR
        due = self.age >= (MOST if self.held else FEWEST)
        self.age = 0 if due else self.age
        return due

    def near_one(self, moment: Scaled) -> Scaled:
        """The same with digits near one; not a number if they were far from it, without care."""
        found = moment.searched()
        if self.careful:
            return found
        moved = found.exponent - moment.exponent
        return found.linear(lambda digits: jnp.where(jnp.abs(moved) <= FAR, digits, jnp.nan))

    def squared(self, mean: Scaled) -> Scaled:
        """The square of a mean, of the base that squares have which were searched together with it."""
        square = mean.power(2)
        base = next((two for one, two in self.doubled if one is mean.base), square.base)
        self.doubled.append((mean.base, base))
        return Scaled(square.digits, base, square.offset)

    def searched(self, mean: Scaled | None, square: Scaled | None) -> tuple[Scaled | None, Scaled | None]:
        """The same with digits near one, both of one exponent."""
        if mean is None or square is None:
            return mean and self.near_one(mean), square and self.near_one(square)
        found = self.near_one(square)
        exponent = (found.exponent + 1) // 2  # |mean| <= √square
        self.doubled.append((exponent, 2 * exponent))
        double = self.doubled[-1][1]
        return Scaled(mean.at(exponent), exponent), Scaled(found.at(double), double)

    def at_input(self, power: int) -> Scaled:
        source, window = self.cone.block.inputs[0], self.cone.windows[0]
        found = self.held.get(source, {}).get(power, Scaled(jnp.zeros(lengths(window), self.dtype), EMPTY))
        return Scaled(found.digits, jnp.asarray(found.exponent, jnp.int32))
