"""`context`: whether a sequence model is causal, how far it looks back and ahead, what makes it look ahead, how it is streamed.

All units of the sequence axis are followed at once (`spans`), so the answer holds for every position and every input of that
length. Unit t of the output stands for the positions [t·s, (t + 1)·s) of the input, s being the stride: what it sees before
them is its look-back, what it sees after them its look-ahead.
"""

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from erfjax import summary
from erfjax.decisions.certificate import Traced, traced
from erfjax.decisions.leaks import Clock, Leak, find_leaks
from erfjax.decisions.spans import Span, Spans, all_held, through
from erfjax.decisions.tiles import Tiling, tiling
from erfjax.errors import ErfjaxError, GeometryError, LayoutError
from erfjax.fields import LayerRow
from erfjax.layouts import BATCH, CHANNEL, Layout, parse_input, shaped
from erfjax.measurement.model import require_function
from erfjax.plot import plans
from erfjax.readings.reader import Reader
from erfjax.readings.remarks import transforms
from erfjax.tracing.positions.index_sets import full
from erfjax.tracing.program.equations import Var
from erfjax.typing import Figure, Function, Given

NO_UNIT = "nothing: no unit sees the input, so that the output is the same whatever comes in"
MOST_ASKED = 64  # units that are asked for their exact set before an upper bound is reported


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Context(summary.Shown):
    """How far a sequence model looks, over all positions.

    Attributes:
        axis: the letter of the sequence axis.
        length: positions of the input along it.
        stride: positions per unit of the output.
        left, right: the largest look-back and look-ahead of any unit, in positions.
        grows: whether these are what the length allows (all that came before, all that follows) and grow with it.
        exact: whether some unit does look that far; else both are upper bounds (as behind Fourier transforms).
        blind: whether no unit sees any position: the output is the same for every input.
        leaks: the equations that look ahead, each with its layer and the user's line.
        rate: positions per second, or None.

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> def model(x):
        ...     past = jnp.pad(x, ((0, 0), (4, 0), (0, 0)))
        ...     return past[:, :-4] + past[:, 2:-2] + x
        >>> found = ej.context(model, jax.ShapeDtypeStruct((1, 100, 8), jnp.float32), rate=50)
        >>> found.causal, found.left, found.right, found.left_seconds
        (True, 4, 0, 0.08)
    """

    axis: str
    length: int
    stride: Fraction
    left: int
    right: int
    grows: tuple[bool, bool]
    exact: bool
    blind: bool
    leaks: tuple[Leak, ...]
    rate: float | None
    notes: tuple[str, ...]
    asked: "_Asked | None" = dataclasses.field(repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """The answer and its layers. The function is left out, so that any can be asked about; `plan` needs it."""
        return {**vars(self), "layers": self.layers, "_at": self._at, "asked": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def _held(self) -> "_Asked":
        if self.asked is None:
            raise ErfjaxError(
                "This context was pickled, and pickles leave out the function: expected a context that `erfjax.context` has "
                "just returned. Call it again where a plan is wanted."
            )
        return self.asked

    @functools.cached_property
    def _at(self) -> int:
        """The place of the sequence axis among the spatial axes."""
        source = self._held().reader.source
        return [source.letters[a] for a in source.spatial].index(self.axis)

    @property
    def causal(self) -> bool:
        """Whether no unit looks ahead; also where no unit looks at all (`blind`)."""
        return self.right == 0

    @property
    def left_seconds(self) -> float | None:
        """The look-back in seconds; None without a rate."""
        return None if self.rate is None else self.left / self.rate

    @property
    def right_seconds(self) -> float | None:
        """The look-ahead in seconds; None without a rate."""
        return None if self.rate is None else self.right / self.rate

    @functools.cached_property
    def layers(self) -> tuple[LayerRow, ...]:
        """The receptive field of the centre unit of every layer."""
        asked = self._held()
        return asked.reader.layers(asked.output, full(asked.output.shape))

    def plan(self, chunk: int) -> Tiling:
        """How the model is streamed in chunks: what each chunk reads, so that the chunks together are the whole.

        Args:
            chunk: positions of the input per chunk, a multiple of the plan's grid.

        Returns:
            A `Tiling` along the sequence axis alone: `halo` holds (left context, look-ahead), `plan(f, x)` runs it, and no chunk
            reads further than the look-ahead (rounded up to the grid). A model that looks back without end has no such plan:
            `exact` is False and `why` names the operation.

        Raises:
            GeometryError: no positive multiple of the grid.
            ErfjaxError: the context comes from a pickle, which leaves out the function.

        Example:
            >>> import erfjax as ej, jax, jax.numpy as jnp, numpy as np
            >>> model = lambda x: x + jnp.pad(x, ((0, 0), (3, 0), (0, 0)))[:, :-3]
            >>> x = np.arange(20, dtype=np.float32).reshape(1, 20, 1)
            >>> plan = ej.context(model, x).plan(4)
            >>> plan.halo, [tile.read[1] for tile in plan.tiles()][:2]
            (((3, 0),), [slice(0, 4, None), slice(1, 8, None)])
            >>> bool((plan(model, x) == model(x)).all())
            True
        """
        asked = self._held()
        source = asked.reader.source
        tile = tuple(chunk if source.letters[axis] == self.axis else None for axis in source.spatial)
        x = jax.ShapeDtypeStruct(asked.reader.program.input.shape, asked.reader.program.input.dtype)
        return tiling(asked.f, x, tile=tile, layout=source.letters, out_layout=asked.target.letters, streamed=True)

    def facts(self) -> summary.Table:
        """The answer, one fact a row."""

        def reach(positions: int, grows: bool, every: str) -> str:
            time = "" if self.rate is None else f" = {1000 * positions / self.rate:.4g} ms"
            return f"{'' if self.exact else 'at most '}{positions}{time}{f', {every}: grows with the sequence' * grows}"

        pairs = (
            ({"sees": NO_UNIT} if self.blind else {"causal": self.causal})
            | {
                "look-back": reach(self.left, self.grows[0], "all that came before"),
                "look-ahead": reach(self.right, self.grows[1], "all that follows"),
                "positions": f"{self.length} along {self.axis}",
            }
            | ({"stride": str(self.stride)} if self.stride != 1 else {})
        )
        return summary.facts("context", pairs, self.notes)

    def leak_table(self) -> summary.Table:
        """One row per equation that looks ahead."""
        rows = tuple((k.operation, k.layer or None, k.where or None, k.ahead, k.count) for k in self.leaks)
        columns = ("operation", "layer", "where", "positions ahead", "equations")
        return summary.Table("what looks ahead", columns, rows)

    def table(self) -> summary.Table:
        """One row per layer: the field of its centre unit along the axis, and how far it looks back and ahead."""
        at = self._at
        rows = []
        for row in self.layers:
            after = row.size[at] - row.padding[at] - row.stride[at]
            seen = (row.size[at], row.stride[at], max(row.padding[at], 0), max(after, 0))
            rows.append((row.name, row.operation, row.shape, *seen))
        columns = ("layer", "operation", "shape", "size", "stride", "back", "ahead")
        return summary.Table("layers", columns, tuple(rows))

    def _tables(self) -> tuple[summary.Table, ...]:
        return (self.facts(), *((self.leak_table(),) if self.leaks else ()), self.table())

    def _brief(self) -> str:
        return "no unit sees the input" if self.blind else f"causal {self.causal}, back {self.left}, ahead {self.right}"

    def plot(self) -> Figure:
        """A matplotlib figure: how far the centre unit of every layer looks back and ahead, and all units of the output below."""
        at = self.table().columns.index("back")
        rows = self.table().rows
        left, right = (
            math.inf if all_of_it else n for n, all_of_it in zip((self.left, self.right), self.grows, strict=True)
        )
        names = [*(str(row[0]) for row in rows), "all units"]
        return plans.reach(
            names, [*(row[at] for row in rows), left], [*(row[at + 1] for row in rows), right], self.axis
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    f: Function
    reader: Reader
    output: Var
    target: Layout


def context(
    f: Given,
    x: Given,
    *,
    layout: str = "NLC",
    out_layout: str | None = None,
    axis: str | None = None,
    rate: Given = None,
) -> Context:
    """How far a sequence model looks back and ahead, over all positions: for every input, from the structure of the program.

    Args:
        f: maps an array to one array.
        x: an array or a `jax.ShapeDtypeStruct`; only shape and dtype are used. Use a sequence longer than the field.
        layout: the axes of `x`, such as "NLC", "NWC", "NL" (tokens), "NDHWC" (video).
        out_layout: the axes of the output; by default those of the input where the output has as many.
        axis: the letter of the sequence axis; None is the only spatial axis, or L.
        rate: positions per second, to have times in milliseconds.

    Returns:
        A `Context`.

    Raises:
        LayoutError: the layout has no such axis, or it is not a sequence (batch, channels), or the output lacks it.
        GeometryError: a rate that is not positive.
        UnsupportedPrimitiveError, DataDependentError: as for `erfjax.theoretical`.

    Source:
        A. van den Oord et al., WaveNet, 2016 (causal convolutions); S. Bai, J. Z. Kolter, V. Koltun, An Empirical Evaluation
        of Generic Convolutional and Recurrent Networks for Sequence Modeling, 2018.

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> def normalised(x):
        ...     return x - jnp.mean(x, axis=1, keepdims=True)
        >>> found = ej.context(normalised, jax.ShapeDtypeStruct((1, 100, 8), jnp.float32))
        >>> found.causal, found.right, found.leaks[0].operation
        (False, 99, 'reduce_sum')
    """
    if rate is not None and not (isinstance(rate, float | int | np.number) and 0 < rate < math.inf):
        raise GeometryError(f"`rate` must be a positive number of positions per second, but got {rate!r}.")
    require_function(f)
    x = shaped(x)
    source = parse_input(layout, x.shape)
    letter = _sequence(source, axis)
    here = traced(f, x.shape, x.dtype, layout, out_layout)
    output, target = here.output, here.target
    if letter not in target.letters:
        raise LayoutError(
            f"The output {output.shape} has the axes {target.letters!r}, so no axis {letter} along which its units are "
            "ordered; if one of its axes is the sequence, name it with out_layout."
        )
    return _measured(_Asked(f, here.reader, output, target), letter, None if rate is None else float(rate))


def _sequence(source: Layout, axis: str | None) -> str:
    """The letter of the sequence axis.

    Raises:
        LayoutError: there is none, several, or not that one.
    """
    letters = [source.letters[a] for a in source.spatial]
    if axis is None:
        if len(letters) > 1 and "L" not in letters:
            raise LayoutError(
                f"The layout {source.letters!r} has several axes that could be the sequence: name one with axis, "
                f"one of {', '.join(letters)}."
            )
        return "L" if "L" in letters else letters[0]
    if axis in letters:
        return axis
    kind = {BATCH: "the batch", CHANNEL: "the channels"}.get(axis) if axis in source.letters else None
    found = f"{axis!r} is {kind} in {source.letters!r}, not a sequence" if kind else f"there is no axis {axis!r}"
    raise LayoutError(f"`axis` must be one of {', '.join(letters)} of the layout {source.letters!r}, but {found}.")


def _measured(asked: _Asked, letter: str, rate: float | None) -> Context:
    reader, output, program = asked.reader, asked.output, asked.reader.program
    axis, time = reader.source.letters.index(letter), asked.target.letters.index(letter)
    n, units = program.input.shape[axis], output.shape[time]
    role = reader.roles[output][time]
    stride = role.stride if role is not None and role.axis == axis else None
    stride = abs(stride) if stride else Fraction(n, units)
    first = np.array([math.floor(t * stride) for t in range(units)], float)
    last = np.array([max(math.ceil((t + 1) * stride) - 1, math.floor(t * stride)) for t in range(units)], float)
    clock = Clock(Traced(reader, output, asked.target), axis, last)
    wanted: Spans = tuple(Span.of(p.start, p.stop) for p in full(output.shape))
    wanted = (*wanted[:time], Span(np.arange(units, dtype=float), np.arange(1.0, units + 1)), *wanted[time + 1 :])

    seen = [through(program, {output: wanted}, reader.views, clipped=cut).get(program.input) for cut in (False, True)]
    (start, stop, held), inside = (_edges(found, axis, units) for found in seen)
    start, stop = _reached(start, stop, *inside[:2], n)
    infinite = bool(np.isinf(start[held]).any()), bool(np.isinf(stop[held]).any())
    back = np.where(held, first - np.where(np.isinf(start), 0, start), -np.inf)
    ahead = np.where(held, np.where(np.isinf(stop), n, stop) - 1 - last, -np.inf)
    both = [_largest(asked, time, side, axis, first, last, values) for side, values in enumerate((back, ahead))]
    (left, left_exact), (right, right_exact) = both
    grows = (infinite[0] or _growing(back[::-1])), (infinite[1] or _growing(ahead))
    blamed, complete = find_leaks(clock, wanted, time, clipped=True) if right else ([], True)
    if right and not blamed:
        blamed, complete = find_leaks(clock, wanted, time, clipped=infinite[1])
    if not inside[2].any():
        left = right = 0
    left, right = (min(reach, n - 1) if all_ else reach for reach, all_ in zip((left, right), grows, strict=True))
    notes = list(reader.notes(output))
    if not complete:
        notes.append("More than what is listed looks ahead.")
    if right and complete:
        notes.append("With what is listed looking no further than it may, nothing looks ahead.")
    grown = grows[0] and left > 0, grows[1] and right > 0
    exact, blind = left_exact and right_exact and not transforms(program, output), not inside[2].any()
    return Context(letter, n, stride, left, right, grown, exact, blind, tuple(blamed), rate, tuple(notes), asked)


def _edges(found: Spans | None, axis: int, units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where what every unit sees along an axis starts and stops, and which units see anything."""
    if found is None:
        return np.zeros(units), np.zeros(units), np.zeros(units, bool)
    start, stop, held = (np.broadcast_to(a, units) for a in (found[axis].start, found[axis].stop, all_held(found)))
    return start, stop, held


def _reached(start: Any, stop: Any, inner: Any, end: Any, n: int) -> tuple[Any, Any]:
    """The ends of fields, padding included, but only where they touch the ends of the input: inside there is no padding.

    A sum over a buffer that a loop shifts, say, has padding that is no position of the sequence.
    """
    touching = np.asarray(end) <= np.asarray(inner)
    return np.where(touching | (inner <= 0), start, inner), np.where(touching | (end >= n), stop, end)


def _growing(values: np.ndarray) -> bool:
    """Whether the units nearest to the end (listed first) look further than those before them."""
    some = len(values) // 4
    return bool(some) and bool(values[:some].max() > values[some : 2 * some].max())


def _largest(
    asked: _Asked, time: int, side: int, axis: int, first: np.ndarray, last: np.ndarray, bounds: np.ndarray
) -> tuple[int, bool]:
    """The largest reach of any unit, and whether it is exact: the largest upper bounds are compared with exact sets."""
    reader, n = asked.reader, asked.reader.program.input.shape[axis]
    best = 0
    for count, unit in enumerate(np.argsort(-bounds, kind="stable")):
        if bounds[unit] <= best:
            return int(best), True
        if count == MOST_ASKED:
            return int(bounds[unit]), False
        box = Traced(reader, asked.output, asked.target).units(time, int(unit), 1)
        region, inside = (reader.region(asked.output, box, clipped=cut) for cut in (False, True))
        if region:
            (start, stop), (inner, end) = (
                (min((b[axis].start for b in r), default=0), max((b[axis].stop for b in r), default=0))
                for r in (region, inside)
            )
            start, stop = map(float, _reached(start, stop, inner, end, n))
            start, stop = (0 if math.isinf(start) else start), (n if math.isinf(stop) else stop)
            reach: Any = first[unit] - start if side == 0 else stop - 1 - last[unit]
            best = max(best, int(reach))
    return int(best), True
