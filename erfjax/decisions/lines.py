"""How an array is cut into tiles and windows along its axes, and the search for the smallest windows that can be proved.

A shift by the *grid* moves every hidden array by whole positions, so corners of tiles and of windows are multiples of it. A
window is as long as the axis modulo the grid: then strides, and padding whose amount depends on the size, fall as they do on
the whole. All windows of an axis are of one length; those at its ends stop there, so that its own padding acts where it would.

What is proved is proved on an array that is cut like the one asked about (the same length modulo the tile, and no longer than it
takes for every way in which a tile can lie to the border), so the plan for an image larger than memory costs the same. On the
array itself a tile in the middle is proved, and those that are not like the ones proved before (`varying`).
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import jax

from erfjax.calling import explained
from erfjax.decisions.certificate import Traced, Verdict, traced, verdict
from erfjax.decisions.cuts import Cut, Line
from erfjax.decisions.varying import Kinds, Table, kinds_of, seen, tables, unproved
from erfjax.errors import ErfjaxError, GeometryError, LayoutError
from erfjax.layouts import Layout, parse_input
from erfjax.tracing.positions.index_sets import Points, full
from erfjax.typing import Extent, Function

SMALL = 512  # an axis that is not longer is looked at as it is; of a longer one, a piece that is cut like it
GRIDS = (1, 2, 4, 8, 16, 32, 64)  # tried in turn where the walk gives no period (paths that differ at the border alone)
# By how much an axis is lengthened to find its stride: the first for which the function runs.
LONGER = (64 * math.lcm(*range(1, 8)), math.lcm(*range(1, 9)), 64)
MOST_STEPS = 4  # grid steps by which a window may grow beyond the halo until it is proved
MOST_CORNERS = 9  # with more ways to lie to the borders of all axes together, each axis is proved by itself
MOST_MIXED = 128  # the same of tiles that differ otherwise, as a patch does where its rows and columns meet


class OtherSizeError(ErfjaxError):
    """The function itself fails on an array of another size than the one it was given for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """The function, the array and the layouts that a plan is asked for."""

    f: Function
    shape: tuple[int, ...]
    dtype: Any
    layout: str
    out_layout: str | None
    traces: dict[tuple[int, ...], Traced] = dataclasses.field(default_factory=dict)
    plans: dict[Any, "Plan"] = dataclasses.field(default_factory=dict)
    verdicts: dict[Any, Verdict] = dataclasses.field(default_factory=dict)
    unread: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def source(self) -> Layout:
        return parse_input(self.layout, self.shape)

    @property
    def space(self) -> tuple[int, ...]:
        return self.source.space(self.shape)

    @functools.cached_property
    def paired(self) -> tuple[int | None, ...]:
        """For each spatial axis of the input, the axis of the output of the same letter."""
        found = self.at(self.shape).target.letters
        letters = [self.layout[axis] for axis in self.source.spatial]
        return tuple(found.index(letter) if letter in found else None for letter in letters)

    @property
    def assumed(self) -> tuple[str, ...]:
        """What the walks have taken for zero, at any size."""
        return tuple(dict.fromkeys(note for at in self.traces.values() for note in at.reader.facts.assumptions))

    def at(self, shape: Sequence[int]) -> Traced:
        """The function at some shape."""
        key = tuple(shape)
        if key not in self.traces:
            self.traces[key] = traced(self._called(key), key, self.dtype, self.layout, self.out_layout)
        return self.traces[key]

    def _called(self, shape: Sequence[int]) -> Function:
        """The function, whose own errors on arrays of another size are told from those of a plan."""

        def f(x: Any) -> Any:
            try:
                return self.f(x)
            except ErfjaxError:
                raise
            except Exception as error:
                raise OtherSizeError(str(error)) from error

        return self.f if tuple(shape) == self.shape else f

    def with_space(self, space: Sequence[int]) -> tuple[int, ...]:
        """The shape of the array with another spatial shape."""
        shape = list(self.shape)
        for axis, n in zip(self.source.spatial, space, strict=True):
            shape[axis] = int(n)
        return tuple(shape)

    def whole_shape(self, image_shape: Sequence[int] | None) -> tuple[int, ...]:
        """The shape of an image of which all axes are given, or the spatial ones, or none."""
        given = self.shape if image_shape is None else tuple(map(int, image_shape))
        if len(given) == len(self.shape):
            return given
        if len(given) != len(self.space):
            raise LayoutError(
                f"`image_shape` must have {len(self.space)} spatial axes or all {len(self.shape)} axes of "
                f"{self.layout!r}, but got {given}."
            )
        return self.with_space(given)

    def out_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the output; nothing is computed for it."""
        if tuple(shape) in self.traces:
            return self.traces[tuple(shape)].output.shape
        spec = jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(self.dtype))
        with explained("The function", spec):
            return tuple(jax.eval_shape(self._called(shape), spec).shape)

    def name(self, axis: int) -> str:
        """The letter of a spatial axis."""
        return self.layout[self.source.spatial[axis]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How every axis is cut; `why` is None if it is proved (or `tried`), else the operation that is to blame."""

    cuts: tuple[Cut, ...]
    why: str | None = None
    tried: bool = False


def plan(asked: Asked, tiles: tuple[int | None, ...], space: tuple[int, ...], streamed: bool = False) -> Plan:
    """The plan for an array of some spatial shape."""
    key = (tiles, space, streamed)
    if key not in asked.plans:
        try:
            asked.plans[key] = _plan(asked, tiles, space, streamed)
        except OtherSizeError as error:
            asked.plans[key] = Plan(
                tuple(map(Cut, tiles)), f"the function does not take an array of another size ({error})."
            )
    return asked.plans[key]


def _alike(n: int, tile: int, least: int) -> int:
    """The length that is cut like n, the same modulo the tile, and no longer than it needs to be."""
    return n if n < least + tile else n - (n - least) // tile * tile


def _plan(asked: Asked, tiles: tuple[int | None, ...], whole: tuple[int, ...], streamed: bool) -> Plan:
    space = tuple(n if t is None else _alike(n, t, SMALL) for n, t in zip(whole, tiles, strict=True))
    here = asked.at(asked.with_space(space))
    cuts = [Cut(tile) for tile in tiles]
    unknown = []
    for a, tile in enumerate(tiles):
        if tile is None:
            continue
        out = asked.paired[a]
        if out is None:
            mixing = here.mixing(full(here.output.shape), asked.source.spatial[a])
            named = f": {mixing} looks at all of it" if mixing else ""
            cuts[a] = Cut(tile, halo=(math.inf, math.inf))
            return Plan(tuple(cuts), f"the output has no axis {asked.name(a)}{named}.")
        stride = _stride(asked, space, a, out)
        reach = _reach(here, asked, a, out, stride)
        cuts[a] = Cut(tile, stride=stride, halo=reach, streamed=streamed)
        if any(map(math.isinf, reach)):
            culprit = here.mixing(here.units(out, here.output.shape[out] // 2, 1), asked.source.spatial[a])
            return Plan(tuple(cuts), f"{culprit or 'an operation'} looks at all of axis {asked.name(a)}.")
        found = here.reader.period(here.output, out)
        moved = None if found is None else found[1][asked.source.spatial[a]]
        if moved is not None and moved < 0:
            turned = here.turning(asked.source.spatial[a])
            return Plan(tuple(cuts), f"{turned or 'an operation'} turns axis {asked.name(a)} around.")
        if found is None or moved != stride:
            unknown.append(a)
        else:
            cuts[a] = dataclasses.replace(cuts[a], grid=_on_grid(asked, a, tile, int(found[0] * stride)))
    refused = None
    for guess in GRIDS if unknown else (1,):
        if all((tiles[a] or 0) % guess == 0 and Fraction(guess) % cuts[a].stride == 0 for a in unknown):
            guessed = [dataclasses.replace(c, grid=guess) if a in unknown else c for a, c in enumerate(cuts)]
            tried = _proved(asked, guessed, whole, guess == GRIDS[0])
            for a in unknown if tried.why is None else ():
                looked_up = here.disordered(asked.source.spatial[a])
                if looked_up and tried.cuts[a].window(whole[a]) == whole[a]:
                    return Plan(
                        tried.cuts, f"{looked_up} takes positions along axis {asked.name(a)} in no order that repeats."
                    )
            if tried.why is None:
                return tried
            refused = refused or tried
    return refused or Plan(tuple(cuts), "no grid fits the tiles.")


def _on_grid(asked: Asked, axis: int, tile: int, grid: int) -> int:
    if tile % grid:
        low = tile // grid * grid
        raise GeometryError(
            f"Corners of tiles must be multiples of {grid} along axis {asked.name(axis)} (the grid), but `tile` is {tile}: "
            f"use {f'{low} or ' if low else ''}{low + grid}."
        )
    return grid


def _stride(asked: Asked, space: tuple[int, ...], a: int, out: int) -> Fraction:
    """Positions per unit: how much longer the output is where the input is longer."""
    here = asked.out_shape(asked.with_space(space))[out]
    for longer in LONGER:
        try:
            there = asked.out_shape(asked.with_space([n + longer * (i == a) for i, n in enumerate(space)]))[out]
            if there == here:
                raise OtherSizeError(f"the output has {here} units along {asked.name(a)} at any size")
            break
        except OtherSizeError:  # a table of positions ends before
            if longer == LONGER[-1]:
                raise
    return Fraction(longer, there - here)


def _reach(here: Traced, asked: Asked, a: int, out: int, stride: Fraction) -> tuple[Extent, Extent]:
    """Upper bounds of the halo: how far the middle third of the units looks to either side; infinite if everywhere."""
    axis, n = asked.source.spatial[a], here.output.shape[out]
    start, count = n // 3, n - 2 * (n // 3)
    region = here.reader.region(here.output, here.units(out, start, count), clipped=False)
    if not region:
        return 0, 0
    low, high = min(box[axis].start for box in region), max(box[axis].stop for box in region)
    before = low if math.isinf(low) else math.ceil(start * stride - low)
    after = high if math.isinf(high) else math.ceil(high - (start + count) * stride)
    return max(0, abs(before) if math.isinf(before) else before), max(0, after)


def _proved(asked: Asked, cuts: Sequence[Cut], space: tuple[int, ...], may_be_whole: bool) -> Plan:
    """The plan with the smallest halo, its windows grown until they are proved on an array that is cut like the whole.

    Growing ends where a window is the whole, which proves nothing but itself.
    """
    long = [_long(cut, n) for cut, n in zip(cuts, space, strict=True)]
    cuts = [
        cut if cut.tile is None else dataclasses.replace(cut, halo=_halo(asked, cuts, long, a))
        for a, cut in enumerate(cuts)
    ]
    piece, first = tuple(map(min, space, long)), None
    for step in range(MOST_STEPS + 1):
        grown = tuple(dataclasses.replace(cut, spare=step * cut.grid) for cut in cuts)
        known = [cut.window(n) == n and may_be_whole for cut, n in zip(cuts, piece, strict=True)]
        if any(
            cut.tile and cut.window(n) == n and not before for cut, n, before in zip(grown, piece, known, strict=True)
        ):
            break
        found = _judged(asked, grown, piece)
        if found.why is None and piece != space:
            beyond = _judged(asked, grown, tuple(space), piece)
            found = Verdict(beyond.why, found.tried or beyond.tried)
        if found.why is None:
            return Plan(grown, tried=found.tried)
        first = first or found.why
    return Plan(tuple(cuts), first or "no window smaller than the array is proved.")


def _long(cut: Cut, n: int) -> int:
    """A length cut like n at which tiles lie in every way to the ends of the axis."""
    if cut.tile is None:
        return n
    least = 4 * cut.tile + 2 * sum(map(int, cut.halo)) + (2 * MOST_STEPS + 4) * cut.grid
    return least + (n - least) % cut.tile


def _halo(asked: Asked, cuts: Sequence[Cut], long: Sequence[int], a: int) -> tuple[int, int]:
    """What a tile in the middle needs on either side."""
    here, cut, out = asked.at(asked.with_space(long)), cuts[a], asked.paired[a]
    assert cut.tile is not None
    assert out is not None
    corner = long[a] // 2 // cut.tile * cut.tile
    box = here.units(out, int(corner / cut.stride), int(cut.tile / cut.stride))
    region = here.reader.region(here.output, box, clipped=True)
    points = [box[asked.source.spatial[a]] for box in region]
    if not points:
        return 0, 0
    low, high = min(int(p.start) for p in points), max(int(p.stop) for p in points)
    return max(0, corner - low), max(0, high - corner - cut.tile)


def _judged(
    asked: Asked, cuts: tuple[Cut, ...], space: tuple[int, ...], proved: tuple[int, ...] | None = None
) -> Verdict:
    """Whether every tile of an array of some spatial shape is computed from its window as on the whole.

    Args:
        proved: the spatial shape of a piece of it of which that is known.
    """
    if (cuts, space) not in asked.verdicts:
        found = list(_verdicts(asked, cuts, space, proved))
        wrong = next((one for one in found if one.why is not None), None)
        asked.verdicts[cuts, space] = wrong or Verdict(tried=any(one.tried for one in found))
    return asked.verdicts[cuts, space]


def _kinds(asked: Asked, cuts: Sequence[Cut], space: tuple[int, ...]) -> tuple[list[Line], list[Kinds]]:
    """The tiles of an array of some spatial shape, axis by axis, and the kinds of them."""
    whole = asked.at(asked.with_space(space))
    outs = [1 if out is None else whole.output.shape[out] for out in asked.paired]
    lines = [cut.line(n, out) for cut, n, out in zip(cuts, space, outs, strict=True)]
    found = []
    window = [cut.window(n) for cut, n in zip(cuts, space, strict=True)]
    for a, (line, n, m, out) in enumerate(zip(lines, space, window, asked.paired, strict=True)):
        known: list[Table] = []
        looks: Sequence[Hashable] = [b""] * len(line.writes)
        if n != m and out is not None:
            shorter = asked.at(asked.with_space([*space[:a], m, *space[a + 1 :]]))
            known, looks = tables(whole, shorter, asked.source.spatial[a], asked.unread), seen(whole, out, line.writes)
        found.append(kinds_of(line.lies, line.reads, looks, known))
    return lines, found


def _verdicts(
    asked: Asked, cuts: tuple[Cut, ...], space: tuple[int, ...], proved: tuple[int, ...] | None
) -> Iterator[Verdict]:
    """The verdict on each kind of tile, up to the first that is refused."""
    whole = asked.at(asked.with_space(space))
    lines, kinds = _kinds(asked, cuts, space)
    before = [{}] * len(kinds) if proved is None else _kinds(asked, cuts, proved)[1]
    new = [unproved(some, old) for some, old in zip(kinds, before, strict=True)]
    todo = _places(kinds, new) if any(lies or others for lies, others in new) or not asked.unread else []
    for places in todo:
        window = [line.reads[place][1] - line.reads[place][0] for line, place in zip(lines, places, strict=True)]
        part = asked.at(asked.with_space(window))
        if part is whole:
            continue
        boxes = [list(full(whole.output.shape)), list(full(part.output.shape))]
        offset = [0] * len(asked.shape)
        for axis, out, line, place in zip(asked.source.spatial, asked.paired, lines, places, strict=True):
            offset[axis] = line.reads[place][0]
            if out is not None:
                low, high = line.writes[place]
                at = line.inside[place]
                if not 0 <= at <= at + high - low <= part.output.shape[out]:
                    yield Verdict("a window gives fewer units than a tile has.")
                    return
                more = min(max(b - a for a, b in line.writes) - (high - low), at)  # as large as any
                boxes[0][out], boxes[1][out] = Points(low - more, high), Points(at - more, at + high - low)
        found = verdict(whole, tuple(boxes[0]), part, tuple(boxes[1]), offset)
        yield found
        if found.why is not None:
            return


def _middle(kinds: Kinds) -> int:
    return list(kinds.values())[len(kinds) // 2]


def _places(kinds: Sequence[Kinds], new: Sequence[tuple[list[int], list[int]]]) -> list[tuple[int, ...]]:
    """The tiles to prove: every way to lie along all axes, and with every other, what differs otherwise.

    Of too many, those of each axis in the middle of the others.
    """
    middle, found = tuple(map(_middle, kinds)), dict[tuple[int, ...], None]()
    lies = [some for some, _ in new]
    mixed = [list(dict.fromkeys((place, *others))) for place, (_, others) in zip(middle, new, strict=True)]
    for places, most in ((lies, MOST_CORNERS), (mixed, MOST_MIXED)):
        if math.prod(map(len, places)) <= most:
            found |= dict.fromkeys(itertools.product(*places))
            continue
        found |= dict.fromkeys((tuple(some[0] for some in places), tuple(some[-1] for some in places)))
        found |= {(*middle[:a], place, *middle[a + 1 :]): None for a, some in enumerate(places) for place in some}
    return list(found)
