"""Streaming mean, variance and batch means of sample maps, in float64 on the host.

Samples are added one at a time in their order, so the result does not depend on how they were batched on the device. An
accumulator never changes: adding gives a new one, so an interruption at any moment leaves a valid state behind.
Welford's recurrence keeps the variance from cancelling. Beside it stand *batch means*: the samples in consecutive
groups of equal size, at least `GROUPS` and fewer than twice as many of them once there are enough samples (when the
number is reached, neighbours merge). From them follows a jackknife standard error of any function of the map.
"""

import dataclasses

import numpy as np
from jaxtyping import Float64

GROUPS = 32  # enough for a standard error that is itself good to 1/sqrt(2 * 32) = 12 %


@dataclasses.dataclass(frozen=True)
class Accumulator:
    """The moments of the samples so far.

    Attributes:
        count: number of samples.
        mean: their mean.
        squares: the sum of squared deviations from it.
        groups: means of the complete groups.
        group_size: samples per group.
        rest: the sum of the samples of the unfinished group.
        rest_count: their number.
    """

    count: int
    mean: Float64[np.ndarray, "*shape"]
    squares: Float64[np.ndarray, "*shape"]
    groups: tuple[np.ndarray, ...]
    group_size: int
    rest: Float64[np.ndarray, "*shape"]
    rest_count: int

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "Accumulator":
        """The accumulator of no samples of this shape."""
        zeros = np.zeros(shape)
        return cls(0, zeros, zeros, (), 1, zeros, 0)

    def add(self, sample: Float64[np.ndarray, "*shape"]) -> "Accumulator":
        """The accumulator with one more sample."""
        count = self.count + 1
        deviation = sample - self.mean
        mean = self.mean + deviation / count
        squares = self.squares + deviation * (sample - mean)
        groups, size, rest, rest_count = self.groups, self.group_size, self.rest + sample, self.rest_count + 1
        if rest_count == size:
            groups, rest, rest_count = (*groups, rest / size), np.zeros_like(rest), 0
        if len(groups) == 2 * GROUPS:
            groups, size = tuple((a + b) / 2 for a, b in zip(groups[::2], groups[1::2], strict=True)), 2 * size
        return dataclasses.replace(
            self,
            count=count,
            mean=mean,
            squares=squares,
            groups=groups,
            group_size=size,
            rest=rest,
            rest_count=rest_count,
        )

    def stderr(self) -> Float64[np.ndarray, "*shape"] | None:
        """The standard error of the mean, or None from fewer than two samples."""
        if self.count < 2:
            return None
        return np.sqrt(self.squares / (self.count - 1) / self.count)

    def batches(self) -> Float64[np.ndarray, "groups *shape"] | None:
        """The batch means, or None if there are fewer than two."""
        return np.stack(self.groups) if len(self.groups) > 1 else None

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays, for `from_arrays`."""
        return {
            "count": np.array(self.count),
            "mean": self.mean,
            "squares": self.squares,
            "groups": np.stack(self.groups) if self.groups else np.zeros((0, *self.mean.shape)),
            "group_size": np.array(self.group_size),
            "rest": self.rest,
            "rest_count": np.array(self.rest_count),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Accumulator":
        """The state that `arrays` described."""
        return cls(
            int(arrays["count"]),
            arrays["mean"],
            arrays["squares"],
            tuple(arrays["groups"]),
            int(arrays["group_size"]),
            arrays["rest"],
            int(arrays["rest_count"]),
        )
