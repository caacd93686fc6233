"""Whether a function computes on a window of an array what it computes there on the whole.

Both programs are cut down to the cone of the same units. If the two cones read the same positions, hold the same known values
there, and are the same program on these, then the values agree: no input has to be tried. If not, the equation nearest to
the output at which they part is named.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.errors import LayoutError
from erfjax.layouts import Layout, parse_input, parse_output
from erfjax.readings.reader import Reader
from erfjax.tracing import jaxpr as jx
from erfjax.tracing import registry
from erfjax.tracing.positions.access import IrregularError
from erfjax.tracing.positions.hull import refuse, remembered, walk
from erfjax.tracing.positions.index_sets import Box, Points, full
from erfjax.tracing.program.equations import Atom, Known, Program, Var
from erfjax.tracing.program.flatten import trace
from erfjax.tracing.registry import lengths
from erfjax.tracing.windows.cone import Cone, Step, cut, restrict
from erfjax.typing import Function

ADDRESS = re.compile(r"0x[0-9a-f]+")
ROUNDING = 8  # units in the last place by which weights that a function computes from positions may differ
TOLERANCE = 2e-5  # of the largest value: the rounding of single precision through a deep network


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """A function at one shape: its program, read with layouts.

    Attributes:
        reader: asks the hull walk.
        output: the one array that it returns.
        target: the layout of the output.
    """

    reader: Reader
    output: Var
    target: Layout

    @property
    def program(self) -> Program:
        return self.reader.program

    @property
    def source(self) -> Layout:
        return self.reader.source

    def units(self, axis: int, start: int, count: int) -> Box:
        """The box of the output that is whole but for one axis."""
        box = list(full(self.output.shape))
        box[axis] = Points(start, start + count)
        return tuple(box)

    def mixing(self, box: Box, axis: int) -> str | None:
        """The equation nearest to the output that looks at an axis of the input everywhere, though not asked everywhere."""
        regions = walk(self.program, {self.output: (box,)}, clipped=False, views=self.reader.views)
        roles = self.reader.roles

        def everywhere(atom: Atom, boxes: Sequence[Box]) -> bool:
            along = [a for a, role in enumerate(roles.get(atom, ())) if role is not None and role.axis == axis]
            return any(not box[a].finite for box in boxes for a in along)

        for equation in reversed(self.program.equations):
            for result, output in enumerate(equation.outputs):
                region = regions.get(output)
                if not region or equation.blocks or everywhere(output, region):
                    continue
                for atom, view in zip(equation.inputs, self.reader.views(equation, result), strict=True):
                    if isinstance(atom, Var) and view is not None:
                        pulled = [found for box in region for found in view.pull(box)]
                        if everywhere(atom, pulled):
                            return str(equation)
        return None

    def turning(self, axis: int) -> str | None:
        """The first equation that turns an axis of the input around."""
        roles = self.reader.roles
        for equation in self.program.equations:
            found = [role for role in roles.get(equation.outputs[0], ()) if role is not None and role.axis == axis]
            if any(role.stride is not None and role.stride < 0 for role in found):
                return str(equation)
        return None

    def disordered(self, axis: int) -> str | None:
        """The equation nearest to the output that looks up positions along an axis of the input in no order that repeats."""
        for equation in reversed(self.program.equations):
            local = registry.lookup(equation).restrict if registry.known(equation.primitive) else None
            if local is None or local.relative is None:
                continue
            view, roles = self.reader.views(equation, 0)[0], self.reader.roles.get(equation.outputs[0], ())
            for a, role in enumerate(roles):
                if view is not None and role is not None and role.axis == axis:
                    try:
                        view.shift([Fraction(int(a == b)) for b in range(len(roles))], [])
                    except IrregularError:
                        return str(equation)
        return None


def traced(f: Function, shape: Sequence[int], dtype: Any, layout: str, out_layout: str | None) -> Traced:
    """A function of one array that returns one array, at one shape.

    Raises:
        LayoutError: it returns several arrays, or none that depends on the input.
    """
    program = trace(f, jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(dtype)))
    if len(program.outputs) != 1:
        raise LayoutError(
            f"Expected a function that returns one array, but it returns {len(program.outputs)}: select one, "
            "for example with lambda x: f(x)[0]."
        )
    (output,) = program.outputs
    if isinstance(output, Known):
        raise LayoutError("The output does not depend on the input: nothing is seen.")
    reader = Reader(program, parse_input(layout, shape), remembered(refuse))
    return Traced(reader, output, parse_output(out_layout, output.shape, layout))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a window gives what the whole gives.

    Attributes:
        why: if not, the operation at which they part; None if it does.
        tried: True if that was not proved but tried on random numbers, because operations come in another order or with other
            numbers.
    """

    why: str | None = None
    tried: bool = False


def verdict(whole: Traced, wanted: Box, part: Traced, wanted_of_part: Box, offset: Sequence[int]) -> Verdict:
    """Whether a window computes a box of the output as the whole does.

    Args:
        whole, part: the function at the shape of the array, and at that of the window.
        wanted, wanted_of_part: the same units, as each of them counts.
        offset: where the window begins, for every axis of the input.
    """
    cones = (
        restrict(whole.program, {whole.output: wanted}, whole.reader.facts),
        restrict(part.program, {part.output: wanted_of_part}, part.reader.facts),
    )
    reason, known = _compared(*cones)
    (window,), (window_of_part,) = cones[0].windows, cones[1].windows
    moved = tuple(points.shift(-by) for points, by in zip(window, offset, strict=True))
    if reason is None and moved == window_of_part and _text(cones[0], known[0]) == _text(cones[1], known[1]):
        return Verdict()
    reason = reason or "the function is another one where the array has another size"
    counts = [collections.Counter(step.equation.primitive for step in cone.steps) for cone in cones]
    alike = moved == window_of_part and counts[0] == counts[1] and _agree(*cones)
    return Verdict(tried=True) if alike else Verdict(reason)


def _compared(ours: Cone, theirs: Cone) -> tuple[str | None, tuple[list[Any], list[Any]]]:
    """The step nearest to the output at which two cones part, and what each knows on its boxes, from the output backwards."""
    known: tuple[list[Any], list[Any]] = [], []
    for mine, other in zip(reversed(ours.steps), reversed(theirs.steps), strict=False):
        reason = _parted(mine, other)
        if reason is not None:
            return reason, known
        for i, box in enumerate(mine.operands):
            atom, twin, held = mine.equation.inputs[i], other.equation.inputs[i], other.operands[i]
            if not isinstance(atom, Known) or not isinstance(twin, Known) or box is None or held is None:
                continue
            here, there = atom.value, twin.value
            if here is not there or box != held or mine.local.relative is not None:
                here, there = mine.own(i, _part(atom, box)), other.own(i, _part(twin, held))
                if not _same(here, there):
                    return (
                        f"{mine.equation} uses numbers that depend on the position or on the size of the array",
                        known,
                    )
            known[0].append(here)
            known[1].append(there)
    if len(ours.steps) != len(theirs.steps):
        return "the function takes more steps where the array has another size", known
    return None, known


def _parted(mine: Step, other: Step) -> str | None:
    """Why two steps are not the same."""
    if mine.equation.primitive is not other.equation.primitive or mine.result != other.result:
        return f"{mine.equation} is {other.equation} where the array has another size"
    if len(mine.operands) != len(other.operands):
        return f"{mine.equation} has another number of operands where the array has another size"
    for box, held in zip((mine.box, *mine.operands), (other.box, *other.operands), strict=True):
        if (None if box is None else lengths(box)) != (None if held is None else lengths(held)):
            shapes = " and ".join("nothing" if b is None else "×".join(map(str, lengths(b))) for b in (box, held))
            return f"{mine.equation} does not move with the tile: on the whole and in a window it looks at {shapes}"
    return None


def _part(atom: Known, box: Box) -> Any:
    """A known array on a box; sliced by NumPy, which compiles nothing."""
    if jax.dtypes.issubdtype(atom.dtype, jax.dtypes.prng_key):
        return cut(atom.value, full(atom.shape), box)
    return np.asarray(atom.value)[tuple(slice(int(points.start), int(points.stop)) for points in box)]


def _same(a: Any, b: Any) -> bool:
    """Whether two known arrays are equal but for the rounding with which weights are computed from positions."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    if not jax.dtypes.issubdtype(a.dtype, np.inexact):
        return bool(np.array_equal(a, b))
    finite = np.isfinite(a)
    size = np.abs(a[finite].astype(np.complex128)).max(initial=0)
    near = np.abs(a[finite].astype(np.complex128) - b[finite]) <= ROUNDING * float(jnp.finfo(a.dtype).eps) * size
    return bool(near.all() and np.array_equal(a[~finite], b[~finite], equal_nan=True))


def _agree(ours: Cone, theirs: Cone) -> bool:
    """Whether two cones give the same on random numbers, within rounding."""
    (window,), source = ours.windows, ours.block.inputs[0]
    rng = np.random.default_rng(0)
    for _ in range(2):
        x = jnp.asarray(rng.normal(0, 3, lengths(window)).astype(source.dtype))
        (a,), (b,) = ours(x), theirs(x)
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=TOLERANCE * np.abs(a).max(initial=0)):
            return False
    return True


def _text(cone: Cone, known: Sequence[Any]) -> str:
    """The program of a cone as text, a function of its window and of what it knows (listed from the output backwards)."""

    def run(window: Any, known: Sequence[Any]) -> list[Any]:
        rest = list(known)
        held: dict[Any, Any] = {cone.block.inputs[0]: window}
        for step in cone.steps:
            places = [
                i
                for i, (atom, box) in enumerate(zip(step.equation.inputs, step.operands, strict=True))
                if isinstance(atom, Known) and box is not None
            ]
            given = dict(zip(places, rest[len(rest) - len(places) :], strict=True))
            del rest[len(rest) - len(places) :]
            operands = [
                given[i] if i in given else None if box is None else step.own(i, cone.read(held, atom, box))
                for i, (atom, box) in enumerate(zip(step.equation.inputs, step.operands, strict=True))
            ]
            held[step.output] = step.apply(operands)
        return [cone.read(held, atom, box) for atom, box in cone.wanted.items()]

    (window,) = cone.windows
    source = cone.block.inputs[0]
    shapes = [jax.ShapeDtypeStruct(np.shape(value), value.dtype) for value in known]
    body, _ = jx.make(run, jax.ShapeDtypeStruct(lengths(window), source.dtype), shapes)
    return ADDRESS.sub("", str(body.jaxpr))
