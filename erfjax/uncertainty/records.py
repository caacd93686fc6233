"""What is kept of every sample beside its map: its total and its reference pixel, in order, in bounded memory.

A `Record` is what a finished measurement knows of one unit's samples; `Tails` gathers it as samples stream by, for all units at
once. Up to `ROWS` samples every one has its row; from there on neighbours merge, and the largest values are kept beside.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

ROWS = 4096  # rows at most; half as many at least once there are enough samples
LARGEST = 512  # largest values kept one by one: the tail of 29,000 samples, and enough of a longer one's
COLUMNS = ("total", "reference", "dead", "log", "square of log", "square")
"""The sum over pixels, the reference pixel, whether the total is zero, log |total| (0 where it is) and its square, total²."""


def samples_per_unit(samples: int, units: int, draw: int = 1) -> int:
    """How many consecutive samples each of so many units holds, if neighbours have been merged in pairs, from `draw` samples on.

    Example:
        >>> from erfjax.uncertainty.records import samples_per_unit
        >>> samples_per_unit(100, 50), samples_per_unit(103, 51), samples_per_unit(7, 7)
        (2, 2, 1)
    """
    return draw << max(0, (samples // draw // max(1, units)).bit_length() - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """The samples of one unit.

    Attributes:
        rows: one row per `per_row` samples in their order, each the mean of `COLUMNS`.
        largest: the largest |total|s, and the largest |reference pixel|s, in no order.
        count: how many samples there are.
        per_draw: how many consecutive samples share a draw of the weights; rows hold whole draws.
    """

    rows: Float[np.ndarray, "rows columns"]
    largest: Float[np.ndarray, "2 largest"]
    count: int
    per_draw: int = 1

    @property
    def per_row(self) -> int:
        """Samples per row; the last ones of an unfinished row are left out."""
        return samples_per_unit(self.count, len(self.rows), self.per_draw)

    @property
    def split(self) -> tuple[float, float] | None:
        """The variances of a sample's total that the draw of the weights and the input make; None where samples share no draws.

        Formula: with m inputs per draw, Var T = σ_w² + σ_x², and the mean of a draw has the variance σ_w² + σ_x²/m (analysis of
        variance with one random effect). Either may come out negative by chance and is zero then.
        """
        m, rows = self.per_draw, self.column("total")
        if m == 1 or len(rows) < 2 or self.rows.shape[1] < len(COLUMNS):
            return None
        of_draws = float(rows.var(ddof=1)) * self.per_row / m
        within = float(self.column("square").mean() - (rows**2).mean())  # of samples in a row around its mean
        draws = self.per_row // m
        inputs = (within - of_draws * (draws - 1) / draws) * m / (m - 1)
        return max(of_draws - inputs / m, 0.0), max(inputs, 0.0)

    def column(self, name: str) -> Float[np.ndarray, " rows"]:
        """One column of the rows."""
        return self.rows[:, COLUMNS.index(name)]

    @property
    def log_moments(self) -> tuple[float, float]:
        """Mean and variance of log |total| over the samples whose total is not zero; (0, 0) without any."""
        alive = 1 - self.column("dead").mean()
        if alive <= 0:
            return 0.0, 0.0
        mean, square = self.column("log").mean() / alive, self.column("square of log").mean() / alive
        living = alive * len(self.rows) * self.per_row
        return float(mean), float(max(square - mean**2, 0.0) * living / max(living - 1, 1))

    def arrays(self) -> dict[str, np.ndarray]:
        """The record as named arrays, for `from_arrays`."""
        return {
            "record_rows": self.rows,
            "record_largest": self.largest,
            "record_count": np.array((self.count, self.per_draw)),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Record | None":
        """The record among named arrays, or None if there is none."""
        if "record_rows" not in arrays:
            return None
        count, *per_draw = np.atleast_1d(arrays["record_count"]).tolist()  # older files do not have the latter
        return cls(arrays["record_rows"], arrays["record_largest"], count, *per_draw)


@dataclasses.dataclass(frozen=True)
class Tails:
    """The largest values of every unit so far; adding a sample gives a new one."""

    values: Float[np.ndarray, "units 2 largest"]

    @classmethod
    def empty(cls, units: int) -> "Tails":
        """Of no samples."""
        return cls(np.zeros((units, 2, 0)))

    def add(self, row: Float[np.ndarray, "units columns"]) -> "Tails":
        """With one more sample, of which `summarise` gave the row."""
        new = np.abs(row[:, :2])
        if self.values.shape[2] < LARGEST:
            return Tails(np.concatenate([self.values, new[:, :, None]], 2))
        least = self.values.argmin(2)[:, :, None]
        old = np.take_along_axis(self.values, least, 2)
        if not (new[:, :, None] > old).any():
            return self
        values = self.values.copy()
        np.put_along_axis(values, least, np.maximum(old, new[:, :, None]), 2)
        return Tails(values)


def summarise(
    sample: Float[np.ndarray, "units *space"], reference: Float[np.ndarray, " units"]
) -> Float[np.ndarray, "units columns"]:
    """The row of one sample, for every unit: see `COLUMNS`.

    Args:
        sample: its maps.
        reference: its values at the reference pixels.

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.records import summarise
        >>> summarise(np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]]), np.array([2.0, 0.0])).round(3).tolist()
        [[4.0, 2.0, 0.0, 1.386, 1.922, 16.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    """
    totals = sample.reshape(len(sample), -1).sum(1)
    dead = totals == 0
    logs = np.log(np.abs(np.where(dead, 1.0, totals)))
    with np.errstate(over="ignore"):
        return np.stack([totals, reference, dead, logs, logs * logs, totals * totals], 1)
