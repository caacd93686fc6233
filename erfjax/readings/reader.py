"""What the hull walk says about one program: fields of its outputs, their phases, and the rows of its layers."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from erfjax.fields import LayerRow, Phase, PhaseTable, TheoreticalField
from erfjax.layouts import Layout, paired_axes
from erfjax.measurement.cone import unit_box
from erfjax.readings import extents
from erfjax.readings.remarks import NOTHING, SWAPPED, loosened, transforms, unknown
from erfjax.tracing.positions.access import IrregularError, Shift
from erfjax.tracing.positions.axis_roles import Part, Roles, parts, roles
from erfjax.tracing.positions.hull import Views, period, remembered, walk
from erfjax.tracing.positions.index_sets import EMPTY, Box, Points, Region, clip, mask, shadow
from erfjax.tracing.positions.known_values import Facts
from erfjax.tracing.positions.through_zeros import Follow, gradients, past_zeros
from erfjax.tracing.program.equations import Atom, Equation, Known, Program, Var
from erfjax.tracing.program.layer_rows import Visit, named_visits
from erfjax.typing import Extent

MOST_PHASES = 256  # a field that repeats later than this, or never, is listed for this many units around the centre


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Asks the hull walk about one program: boxes of outputs in, intervals of pixels out.

    Attributes:
        program: the traced function.
        source: the layout of its input.
        plain: how its equations are seen if no value is known.
        inferred: what its fields should note about the question.
        follow: "values" or "gradients".
    """

    program: Program
    source: Layout
    plain: Views
    inferred: tuple[str, ...] = ()
    follow: Follow = "values"

    @functools.cached_property
    def facts(self) -> Facts:
        return Facts(self.program)

    @functools.cached_property
    def views(self) -> Views:
        """How its equations are seen past known zeros."""
        seen = past_zeros(self.plain, self.facts, self.program, self.source.spatial)
        return remembered(gradients(seen) if self.follow == "gradients" else seen)

    @functools.cached_property
    def roles(self) -> dict[Atom, Roles]:
        return roles(self.program, remembered(self.plain))

    @functools.cached_property
    def made(self) -> dict[Var, int]:
        """How many equations it takes to make each variable."""
        equations = enumerate(self.program.equations, 1)
        return {self.program.input: 0, **{v: i for i, e in equations for v in e.outputs}}

    @functools.cached_property
    def periods(self) -> dict[tuple[Var, int], tuple[int, tuple[Shift, ...]] | None]:
        return {}

    @functools.cached_property
    def motions(self) -> dict[tuple[Var, int, int], tuple[int | None, Fraction | None]]:
        return {}

    @functools.cached_property
    def sizes(self) -> dict[Var, tuple[Extent, ...]]:
        return {}

    def region(
        self, atom: Atom, box: Box, clipped: bool, until: int | None = None, loose: set[Equation] | None = None
    ) -> Region:
        """The region of the input that a box of a variable needs; `loose` collects equations at which it is an upper bound.

        What sees padding alone is known to be zero, so a later product would not look at it: unclipped, it keeps its place.
        """
        if isinstance(atom, Known):
            return ()

        def seen(views: Views, cut: bool) -> Region:
            found = walk(self.program, {atom: (box,)}, clipped=cut, views=views, until=until, loosened=loose)
            return found.get(self.program.input, ())

        region = seen(self.views, clipped)
        return region if region or clipped or seen(self.plain, True) else seen(self.plain, False)

    @functools.cached_property
    def looped(self) -> bool:
        """Whether a loop was unrolled."""
        return any(equation.loop for equation in self.program.equations)

    def hull(self, atom: Atom, box: Box, until: int | None = None) -> tuple[tuple[Extent, ...], tuple[Extent, ...]]:
        """Start and stop of what a box needs, padding included.

        What a loop carries (a buffer that it shifts) has no places beyond its ends: padding counts at the border alone.
        """
        start, stop = self.interval(self.region(atom, box, False, until))
        region = self.region(atom, box, True, until) if self.looped else ()
        if not region:
            return start, stop
        inner, end = self.interval(region)
        image = self.source.space(self.program.input.shape)
        return (
            tuple(a if b <= 0 else b for a, b in zip(start, inner, strict=True)),
            tuple(a if b >= n else b for a, b, n in zip(stop, end, image, strict=True)),
        )

    def interval(self, region: Region) -> tuple[tuple[Extent, ...], tuple[Extent, ...]]:
        """Start and stop of the hull along the spatial axes; (0, 0) if nothing is seen."""
        if not region:
            return (0,) * len(self.source.spatial), (0,) * len(self.source.spatial)
        box = shadow(region)
        return tuple(box[a].start for a in self.source.spatial), tuple(box[a].stop for a in self.source.spatial)

    def field(self, atom: Atom, target: Layout, unit: tuple[int, ...]) -> TheoreticalField:
        image = self.source.space(self.program.input.shape)
        box = unit_box(atom.shape, target, unit)
        start, stop = self.hull(atom, box)
        loose: set[Equation] = set()
        true = self.region(atom, box, clipped=True, loose=loose)
        blind = not true and isinstance(atom, Var)
        paired = paired_axes(self.source, target)
        motion = [self.motion(atom, target, out, i) for i, out in enumerate(paired)]
        played = {} if isinstance(atom, Known) else parts(self.roles.get(atom, (None,) * len(atom.shape)))
        along = [self.along(played, target, i, out) for i, out in enumerate(paired)]
        stride = tuple(
            0
            if out is None
            else extents.number(per_unit)
            if per_unit is not None and not (part and part.flattened and part.role.stride is not None)
            else self.step(atom, target, unit, out, i, start, stop, part)
            for i, (out, part, (_, per_unit)) in enumerate(zip(paired, along, motion, strict=True))
        )
        phases = functools.partial(self.phases, atom, target, unit, tuple(paired), tuple(motion))
        invariant = all(repeat == 1 for repeat, _ in motion) or (
            all(repeat is not None and repeat <= MOST_PHASES for repeat, _ in motion) and phases().steady(stride)
        )
        position = [
            0 if out is None else (part.position(unit[out]) or 0) if part is not None and part.flattened else unit[out]
            for out, part in zip(paired, along, strict=True)
        ]
        return TheoreticalField(
            unit=unit,
            output_shape=target.space(atom.shape),
            image_shape=image,
            start=start,
            stop=stop,
            stride=stride,
            padding=tuple(extents.number(u * s - b) for u, s, b in zip(position, stride, start, strict=True)),
            clipped=extents.integers(self.interval(true)),
            shift_invariant=invariant,
            channels=self.channels(true),
            notes=self.notes(atom)
            + loosened(loose)
            + self.misnamed(atom, target, unit, start, stop)
            + (NOTHING,) * blind,
            place=tuple(
                None if part is None or out is None else part.centre(unit[out])
                for out, part in zip(paired, along, strict=True)
            ),
            phases_=phases,
            mask_=lambda: self.mask(true),
            layers_=lambda: self.layers(atom, box),
        )

    def along(self, played: dict[int, Part], target: Layout, axis: int, out: int | None) -> Part | None:
        """How a spatial axis of the input runs along the axis of the output that goes with it; None if it does not."""
        part = played.get(self.source.spatial[axis])
        return part if part is not None and out is not None and part.along == target.spatial[out] else None

    def motion(self, atom: Atom, target: Layout, out: int | None, axis: int) -> tuple[int | None, Fraction | None]:
        """Period in units and pixels per unit of a spatial axis, as axis `out` of the output moves; None without a period."""
        if out is None or isinstance(atom, Known):
            return 1, Fraction(0)
        if (atom, out, axis) not in self.motions:
            self.motions[atom, out, axis] = self._motion(atom, target, out, axis)
        return self.motions[atom, out, axis]

    def _motion(self, atom: Var, target: Layout, out: int, axis: int) -> tuple[int | None, Fraction | None]:
        """The motion that the views promise, if the field of another unit keeps it; else what the outermost units show."""
        space = target.space(atom.shape)
        centre = tuple(n // 2 for n in space)

        def edges(u: int) -> tuple[Extent, Extent]:
            box = unit_box(atom.shape, target, (*centre[:out], u, *centre[out + 1 :]))
            start, stop = self.hull(atom, box)
            return start[axis], stop[axis]

        found = self.period(atom, target.spatial[out])
        here = edges(centre[out])
        if found is None:
            still = all(map(math.isinf, here)) and here == edges(0) == edges(space[out] - 1)
            return (1 if still else None), None
        repeat, moved = found[0], found[1][self.source.spatial[axis]]
        if moved is None:  # seen whole by all
            return 1, None
        by = next((by for by in (repeat, -repeat) if 0 <= centre[out] + by < space[out]), 0)
        there = tuple(edge + by * moved for edge in here)
        if by and there != edges(centre[out] + by):
            return None, None
        return (1 if all(map(math.isinf, here)) else repeat), moved

    def period(self, atom: Var, out: int) -> tuple[int, tuple[Shift, ...]] | None:
        """What the views say about moving along an axis of a variable; None if they say nothing."""
        if (atom, out) not in self.periods:
            try:
                self.periods[atom, out] = period(self.program, atom, self.program.input, out, self.views)
            except IrregularError:
                self.periods[atom, out] = None
        return self.periods[atom, out]

    def step(
        self,
        atom: Atom,
        target: Layout,
        unit: tuple[int, ...],
        out: int,
        axis: int,
        start: Sequence[Extent],
        stop: Sequence[Extent],
        part: Part | None,
    ) -> Extent:
        """Pixels per unit along an axis of fields without a period: what the shapes say, also of units that share a window.

        Else how far the field moves to the next unit (or from the one before, at the end of the axis): its start, or its stop
        where the start stays (a field that grows, as a causal one does); 0 where it is global, or the other one is.
        """
        stride = None if part is None else part.role.stride
        if stride is not None and part is not None and part.flattened:
            return extents.number(stride)
        by = 1 if unit[out] + 1 < target.space(atom.shape)[out] or unit[out] == 0 else -1
        moved = (*unit[:out], unit[out] + by, *unit[out + 1 :])
        there, end = self.hull(atom, unit_box(atom.shape, target, moved))
        same = (math.isinf(start[axis]), math.isinf(stop[axis])) == (math.isinf(there[axis]), math.isinf(end[axis]))
        if same and stride is not None:
            return extents.number(stride)
        return extents.moved(start[axis], there[axis], by) or extents.moved(stop[axis], end[axis], by)

    def phases(
        self,
        atom: Atom,
        target: Layout,
        unit: tuple[int, ...],
        paired: tuple[int | None, ...],
        motion: tuple[tuple[int | None, Fraction | None], ...],
    ) -> PhaseTable:
        rows: list[Phase] = []
        periods: list[int] = []
        space = target.space(atom.shape)
        for axis, (out, (repeat, _)) in enumerate(zip(paired, motion, strict=True)):
            n = 1 if out is None else space[out]
            listed = min(repeat or n, MOST_PHASES)
            periods.append(repeat or n)
            at = 0 if out is None else unit[out]
            first = max(min(at - at % listed if repeat else at - listed // 2, n - listed), 0)
            for u in range(first, first + listed):
                moved = unit if out is None else (*unit[:out], u, *unit[out + 1 :])
                start, stop = self.hull(atom, unit_box(atom.shape, target, moved))
                rows.append(Phase(axis, u % periods[-1], u, start[axis], stop[axis]))
        shift = tuple(0 if s is None else extents.number(s * p) for p, (_, s) in zip(periods, motion, strict=True))
        return PhaseTable(tuple(periods), shift, tuple(sorted(rows, key=lambda row: (row.axis, row.phase))))

    def mask(self, region: Region) -> np.ndarray:
        space = tuple(tuple(box[a] for a in self.source.spatial) for box in region)
        return mask(space, self.source.space(self.program.input.shape))

    def channels(self, region: Region) -> tuple[int, int] | None:
        if self.source.channel is None or not region:
            return None
        points = shadow(clip(region, self.program.input.shape))[self.source.channel]
        return int(points.start), int(points.stop)

    def notes(self, atom: Atom) -> tuple[str, ...]:
        if isinstance(atom, Known):
            return (*self.inferred, "The output does not depend on the input: nothing is seen.")
        return (*self.inferred, *unknown(self.program), *transforms(self.program, atom), *self.facts.assumptions)

    def misnamed(
        self, atom: Atom, target: Layout, unit: tuple[int, ...], start: Sequence[Extent], stop: Sequence[Extent]
    ) -> tuple[str, ...]:
        """A note where an axis of space is mixed as channels are, while the channels are seen through a window."""
        whole = [
            a
            for a, low, high in zip(self.source.spatial, start, stop, strict=True)
            if low == -math.inf < high == math.inf
        ]
        channel = self.source.channel
        if not whole or channel is None or target.channel is None or isinstance(atom, Known):
            return ()
        box = list(unit_box(atom.shape, target, unit))
        at = atom.shape[target.channel] // 2
        box[target.channel] = Points(at, at + 1)
        region = self.region(atom, tuple(box), clipped=False)
        points = shadow(region)[channel] if region else EMPTY
        if not points.finite or not 1 < points.stop - points.start < self.program.input.shape[channel]:
            return ()
        letters, shape = self.source.letters, self.program.input.shape
        named = ", ".join(f"{letters[a]} of {shape[a]}" for a in whole)
        space = "".join(letters[a] for a in self.source.spatial)
        first = f"{'N' if self.source.batch is not None else ''}C{space}"
        return (
            f"Every position along {named} is mixed, while C of {shape[channel]} is seen through a window of "
            f"{points.stop - points.start}, {SWAPPED}: is the layout {letters!r} "
            f'meant? If channels come first, say layout="{first}".',
        )

    def intervals(self, atom: Atom, target: Layout, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """What all units along an axis see, one after the other, the other axes of the output at their centres.

        Args:
            atom: the output.
            target: its layout.
            axis: which of its spatial axes.

        Returns:
            start and stop of the hulls inside the image, each (units along the axis, spatial axes of the input); both are 0
            where nothing is seen.
        """
        space = target.space(atom.shape)
        centre = [n // 2 for n in space]
        hulls = []
        for u in range(space[axis]):
            unit = (*centre[:axis], u, *centre[axis + 1 :])
            hulls.append(
                extents.integers(self.interval(self.region(atom, unit_box(atom.shape, target, unit), clipped=True)))
            )
        start, stop = zip(*hulls, strict=True)
        return np.array(start), np.array(stop)

    def layers(self, atom: Atom, box: Box) -> tuple[LayerRow, ...]:
        """One row per layer on the way to a box of a variable, each for the centre unit of the layer."""
        return tuple(self.layer(*visit) for visit in self.visits(atom, box))

    def visits(self, atom: Atom, box: Box) -> list[tuple[str, Visit]]:
        """The layers on the way to a box of a variable, by name."""
        regions = walk(self.program, {atom: (box,)}, clipped=True, views=self.views)
        return named_visits(self.program, {var for var, region in regions.items() if region})

    def layer(self, name: str, visit: Visit) -> LayerRow:
        var = next(v for v in self.program.equations[visit.last].outputs if v in self.roles)
        along = self.stacked(var) if visit.operation == "scan" else None
        start, stop, stride, units = self.centred(var) if along is None else self.of_step(var, along)
        padding = tuple(extents.number(u * s - b) for u, s, b in zip(units, stride, start, strict=True))
        size = self.sizes[var] = tuple(b - a for a, b in zip(start, stop, strict=True))
        given = tuple(map(max, zip(*(self.size(read) for read in visit.reads), strict=True)))
        return LayerRow(name, visit.operation, var.shape, size, tuple(stride), padding, start, stop, given or None)

    def stacked(self, var: Var) -> int | None:
        """The axis along which a scan over the only axis of space stacks its steps; None if there is no such axis."""
        axes = [a for a, n in enumerate(var.shape) if (n,) == self.source.space(self.program.input.shape) and n > 2]
        return axes[0] if len(axes) == 1 else None

    def of_step(self, var: Var, along: int) -> tuple[tuple[Extent, ...], tuple[Extent, ...], list[Extent], list[int]]:
        """Start, stop, stride and number of the centre step of a scan."""
        at = var.shape[along] // 2
        (start, stop), (there, end) = (self.hidden(var, {along: step}) for step in (at, at + 1))
        return start, stop, [extents.moved(start[0], there[0], 1) or extents.moved(stop[0], end[0], 1)], [at]

    def centred(self, var: Var) -> tuple[tuple[Extent, ...], tuple[Extent, ...], list[Extent], list[int]]:
        """Start, stop, stride and number of the centre unit of a variable, per spatial axis of the input."""
        playing, centre = self.centre(var)
        start, stop = self.hidden(var, centre)
        stride: list[Extent] = []
        for i, axis in enumerate(self.source.spatial):
            part = playing.get(axis)
            if part is None or part.role.stride is not None:
                stride.append(0 if part is None else extents.number(part.role.stride))
            else:  # paths disagree: one step, by looking
                at = centre[part.along]
                by = 1 if at + 1 < var.shape[part.along] else -1
                there, _ = self.hidden(var, centre | {part.along: at + by})
                stride.append(extents.moved(start[i], there[i], by))
        found = map(playing.get, self.source.spatial)
        return start, stop, stride, [0 if part is None else part.position(centre[part.along]) or 0 for part in found]

    def centre(self, var: Var) -> tuple[dict[int, Part], dict[int, int]]:
        """How a variable runs along each spatial axis of the input, and the centre along these axes."""
        playing = {axis: part for axis, part in parts(self.roles[var]).items() if axis in self.source.spatial}
        return playing, {part.along: var.shape[part.along] // 2 for part in playing.values()}

    def hidden(self, var: Var, unit: dict[int, int]) -> tuple[tuple[Extent, ...], tuple[Extent, ...]]:
        """What a unit of any variable sees; axes that `unit` does not name are taken whole."""
        box = tuple(Points(unit[a], unit[a] + 1) if a in unit else Points(0, n) for a, n in enumerate(var.shape))
        return self.hull(var, box, until=self.made[var])

    def size(self, var: Var) -> tuple[Extent, ...]:
        """The extent of the field of the centre unit of any variable."""
        if var not in self.sizes:
            start, stop = self.hidden(var, self.centre(var)[1])
            self.sizes[var] = tuple(b - a for a, b in zip(start, stop, strict=True))
        return self.sizes[var]
