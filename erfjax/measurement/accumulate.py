"""Streaming mean, variance and batch means of sample maps, in float64 on the host.

Samples are added one at a time in their order, so the result does not depend on how they were batched on the device. An
accumulator never changes: adding gives a new one, so an interruption at any moment leaves a valid state behind.
Welford's recurrence keeps the variance from cancelling. Beside it stands what intervals and diagnostics need, in bounded memory:
*batch means*, the samples in consecutive groups of equal size (single samples while a budget of memory holds their maps; when it
is full, neighbours merge), and of every sample its total and its reference pixel (see `uncertainty.records`).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Float64

from erfjax.uncertainty.records import COLUMNS, ROWS, Record, Tails, summarise

GROUPS = 32  # at least, once there are enough samples: a standard error that is itself good to 1/sqrt(2 * 32) = 12 %
MOST_GROUPS = 2048  # more hardly help
BUDGET = 1 << 20  # pixels of batch means that are kept: 8 MiB


@dataclasses.dataclass(frozen=True)
class Groups:
    """Means of consecutive groups of equal size; neighbours merge when there are `limit` of them.

    Attributes:
        values: means of the complete groups.
        size: samples per group, as many as share a draw times a power of two.
        rest: the sum of the samples of the unfinished group.
        rest_count: their number.
        limit: an even number; there are fewer groups than that, and at least half as many once there are enough samples.
    """

    values: tuple[np.ndarray, ...]
    size: int
    rest: Float64[np.ndarray, "*shape"]
    rest_count: int
    limit: int

    @classmethod
    def empty(cls, shape: tuple[int, ...], limit: int, size: int = 1) -> "Groups":
        """Of no samples of this shape; groups begin with `size` samples."""
        return cls((), size, np.zeros(shape), 0, limit)

    def add(self, sample: Float64[np.ndarray, "*shape"]) -> "Groups":
        """With one more sample."""
        values, size, rest, rest_count = self.values, self.size, self.rest + sample, self.rest_count + 1
        if rest_count == size:
            values, rest, rest_count = (*values, rest / size), np.zeros_like(rest), 0
        if len(values) == self.limit:
            values, size = tuple((a + b) / 2 for a, b in zip(values[::2], values[1::2], strict=True)), 2 * size
        return dataclasses.replace(self, values=values, size=size, rest=rest, rest_count=rest_count)

    def stacked(self) -> Float64[np.ndarray, "groups *shape"]:
        """The means as one array."""
        return np.stack(self.values) if self.values else np.zeros((0, *self.rest.shape))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The state as arrays, for `from_arrays`."""
        numbers = np.array([self.size, self.rest_count, self.limit])
        return {name: self.stacked(), f"{name}_rest": self.rest, f"{name}_numbers": numbers}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], name: str) -> "Groups":
        """The state that `arrays` described."""
        size, rest_count, limit = map(int, arrays[f"{name}_numbers"])
        return cls(tuple(arrays[name]), size, arrays[f"{name}_rest"], rest_count, limit)


@dataclasses.dataclass(frozen=True)
class Accumulator:
    """The moments of the samples so far; the first axis of a sample runs over units.

    Attributes:
        count: number of samples.
        mean: their mean.
        squares: the sum of squared deviations from it.
        groups: their batch means.
        rows: the same of the rows that `summarise` gives.
        tails: their largest totals and reference pixels.
        references: the reference pixel of every unit, as an index into its flattened map.
        per_draw: how many consecutive samples share a draw of the weights; groups and rows hold whole draws.
    """

    count: int
    mean: Float64[np.ndarray, "units *shape"]
    squares: Float64[np.ndarray, "units *shape"]
    groups: Groups
    rows: Groups
    tails: Tails
    references: tuple[int, ...]
    per_draw: int = 1

    @classmethod
    def empty(
        cls, shape: tuple[int, ...], references: tuple[int, ...] | None = None, per_draw: int = 1
    ) -> "Accumulator":
        """The accumulator of no samples of this shape.

        Args:
            shape: (units, *space).
            references: see the attribute; by default the middle pixel n // 2 per axis of every map.
            per_draw: see the attribute.
        """
        units, space, zeros = shape[0], shape[1:], np.zeros(shape)
        if references is None:
            references = (int(np.ravel_multi_index([n // 2 for n in space], space)) if space else 0,) * units
        limit = min(MOST_GROUPS, max(2 * GROUPS, BUDGET // max(1, math.prod(shape)) // 2 * 2))
        rows = Groups.empty((units, len(COLUMNS)), ROWS, per_draw)
        groups = Groups.empty(shape, limit, per_draw)
        return cls(0, zeros, zeros, groups, rows, Tails.empty(units), references, per_draw)

    def add(self, sample: Float64[np.ndarray, "units *shape"]) -> "Accumulator":
        """The accumulator with one more sample."""
        count = self.count + 1
        deviation = sample - self.mean
        mean = self.mean + deviation / count
        row = summarise(sample, sample.reshape(len(sample), -1)[np.arange(len(sample)), self.references])
        return dataclasses.replace(
            self,
            count=count,
            mean=mean,
            squares=self.squares + deviation * (sample - mean),
            groups=self.groups.add(sample),
            rows=self.rows.add(row),
            tails=self.tails.add(row),
        )

    def stderr(self) -> Float64[np.ndarray, "units *shape"] | None:
        """The standard error of the mean, or None from fewer than two samples."""
        if self.per_draw > 1:
            draws = self.batches()
            return None if draws is None else draws.std(0, ddof=1) / math.sqrt(len(draws))
        if self.count < 2:
            return None
        return np.sqrt(self.squares / (self.count - 1) / self.count)

    def batches(self) -> Float[np.ndarray, "groups units *shape"] | None:
        """The batch means, or None if there are fewer than two."""
        return self.groups.stacked() if len(self.groups.values) > 1 else None

    def record(self, unit: int) -> Record:
        """What is known of one unit's samples one by one."""
        return Record(self.rows.stacked()[:, unit], self.tails.values[unit], self.count, self.per_draw)

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays, for `from_arrays`."""
        return {
            "count": np.array(self.count),
            "mean": self.mean,
            "squares": self.squares,
            "tails": self.tails.values,
            "references": np.array(self.references, np.int64),
            "per_draw": np.array(self.per_draw),
            **self.groups.arrays("groups"),
            **self.rows.arrays("rows"),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Accumulator":
        """The state that `arrays` described."""
        return cls(
            int(arrays["count"]),
            arrays["mean"],
            arrays["squares"],
            Groups.from_arrays(arrays, "groups"),
            Groups.from_arrays(arrays, "rows"),
            Tails(arrays["tails"]),
            tuple(arrays["references"].tolist()),
            int(arrays["per_draw"]),
        )
