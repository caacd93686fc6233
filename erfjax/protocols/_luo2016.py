"""The growth of the field in narrow random nets, as reported in 2016: one channel, few runs, absolute gradients."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from erfjax import jackknife, measures, summary
from erfjax.errors import MapError
from erfjax.layers import Activation, Conv
from erfjax.plot import published
from erfjax.protocols._single import measured
from erfjax.typing import ArrayLike, Figure, Function


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LuoGrowth(summary.Shown):
    """Sizes against depth, and the slopes of both on logarithmic axes, with jackknife errors over the runs.

    Attributes:
        depths: n, the number of convolutions.
        theoretical: n(k - 1) + 1, in pixels.
        sizes, sizes_stderr: Luo sizes, in pixels.
        slope, slope_stderr: d log(size) / d log(n); reported 0.56.
        ratio_slope, ratio_slope_stderr: d log(size / theoretical) / d log(n); reported -0.43.
        maps: the averaged map of each depth, summing to one.
        runs: the number of random nets at each depth.
    """

    depths: tuple[int, ...]
    theoretical: tuple[int, ...]
    sizes: tuple[float, ...]
    sizes_stderr: tuple[float, ...]
    slope: float
    slope_stderr: float
    ratio_slope: float
    ratio_slope_stderr: float
    maps: tuple[np.ndarray, ...]
    runs: int

    def table(self) -> summary.Table:
        """One row per depth."""
        rows = tuple(
            (n, trf, f"{size:.2f} ± {error:.2f}", size / trf)
            for n, trf, size, error in zip(self.depths, self.theoretical, self.sizes, self.sizes_stderr, strict=True)
        )
        notes = (
            f"slope of the size {self.slope:.3f} ± {self.slope_stderr:.3f}, reported 0.56",
            f"slope of the ratio {self.ratio_slope:.3f} ± {self.ratio_slope_stderr:.3f}, reported -0.43",
        )
        title = f"one channel, {self.runs} runs, mean of |g|"
        return summary.Table(title, ("depth", "theoretical", "Luo size", "ratio"), rows, notes)

    def plot(self) -> Figure:
        """A matplotlib figure: sizes and their share of the theoretical field by depth, the fitted and the reported slopes."""
        slopes = {
            "size": (self.slope, self.slope_stderr, 0.56),
            "share": (self.ratio_slope, self.ratio_slope_stderr, -0.43),
        }
        return published.growth(self.depths, self.sizes, self.sizes_stderr, self.theoretical, slopes)


def luo_map(gradients: ArrayLike) -> Float[np.ndarray, "*space"]:
    """The mean over runs (the first axis) of |g|, each run divided by its sum.

    Args:
        gradients: one map of gradients for each run.

    Raises:
        MapError: a run is all zero or not finite.

    Example:
        >>> import numpy as np
        >>> from erfjax.protocols import luo_map
        >>> luo_map(np.array([[1.0, -3.0], [20.0, 20.0]]))
        array([0.375, 0.625])
    """
    return _shares(gradients).mean(axis=0)


def _shares(gradients: ArrayLike) -> np.ndarray:
    g = np.abs(np.asarray(gradients, dtype=np.float64))
    totals = g.reshape(len(g), -1).sum(axis=1)
    if not len(g) or not np.isfinite(totals).all() or not totals.all():
        raise MapError(f"Each run is divided by the sum of |g|, but the sums are {totals}: a net is dead or diverges.")
    return g / totals.reshape(-1, *(1,) * (g.ndim - 1))


def luo2016(
    depths: Sequence[int] = (5, 10, 20, 40),
    *,
    runs: int = 20,
    kernel_size: int = 3,
    activation: str = "linear",
    threshold: float = measures.LUO_THRESHOLD,
    key: Any = None,
    **options: Any,
) -> LuoGrowth:
    """The growth of the field with depth in random nets of one channel, with the slopes of the 2016 figure.

    Nets of n convolutions, one channel wide, zero-mean normal weights, stride 1; the gradient of the centre unit on an image
    as large as its theoretical field; |g| of each run divided by its sum and averaged over the runs; Luo size relative to the
    centre pixel; straight lines through (log n, log size) and (log n, log ratio).

    Kept as published: the slopes come out near 0.57 and -0.39 (reported 0.56 and -0.43) where theory has 1/2 and -1/2 in the
    limit. E|g| of one channel is wider than √E[g²] of many, the centre pixel of few runs is noisy, and log(2n + 1) is not yet
    straight at n = 5, so slope(ratio) = slope(size) - slope(log(2n + 1)) adds no second measurement.

    Args:
        depths: two or more different numbers of convolutions.
        runs: random nets at each depth.
        kernel_size: of every convolution, along both axes.
        activation: after each convolution but the last; "linear" for none. The input is uniform noise.
        threshold: of the Luo size.
        key: of weights and inputs; None is `jax.random.key(0)`.
        options: of `ej.empirical`.

    Raises:
        MapError: fewer than two depths or runs, or a dead net.

    Source: W. Luo et al., NeurIPS 2016, section 3.1 and figure 2; its settings as reported, the rest as in the docstring.

    Example:
        >>> import erfjax as ej
        >>> ej.protocols.luo2016(depths=(2, 4), runs=3).theoretical
        (5, 9)
    """
    depths = tuple(depths)
    if len(set(depths)) < 2 or min(depths) < 1 or runs < 2:
        raise MapError(f"A slope needs two depths from 1 and two runs, but got depths {depths} and {runs} runs.")
    key = jax.random.key(0) if key is None else key
    theoretical = tuple(n * (kernel_size - 1) + 1 for n in depths)
    shares = [
        _shares(_gradients(n, side, runs, kernel_size, activation, jax.random.fold_in(key, n), options))
        for n, side in zip(depths, theoretical, strict=True)
    ]

    def statistics(left_out: int | None) -> np.ndarray:
        """Sizes and the two slopes, without one run."""
        kept = [share if left_out is None else np.delete(share, left_out, axis=0) for share in shares]
        sizes = np.array([measures.luo_size(share.mean(axis=0), threshold) for share in kept])
        lines = [np.polyfit(np.log(depths), np.log(values), 1)[0] for values in (sizes, sizes / np.array(theoretical))]
        return np.concatenate([sizes, lines])

    found = [float(value) for value in statistics(None)]
    errors = [float(value) for value in jackknife.stderr(np.stack([statistics(run) for run in range(runs)]))]
    return LuoGrowth(
        depths=depths,
        theoretical=theoretical,
        sizes=tuple(found[:-2]),
        sizes_stderr=tuple(errors[:-2]),
        slope=found[-2],
        slope_stderr=errors[-2],
        ratio_slope=found[-1],
        ratio_slope_stderr=errors[-1],
        maps=tuple(share.mean(axis=0) for share in shares),
        runs=runs,
    )


def _gradients(
    depth: int, side: int, runs: int, kernel_size: int, activation: str, key: Any, options: dict[str, Any]
) -> np.ndarray:
    """|g| of the centre unit for each of `runs` random nets: (runs, side, side)."""
    f, draw = _net(depth, side, kernel_size, activation)
    settings = {"statistic": "abs", "samples": 1, "batch_size": 1, "progress": False, **options}
    return np.stack([measured(f, draw, key=jax.random.fold_in(key, run), **settings).map for run in range(runs)])


@functools.lru_cache(maxsize=16)  # the same objects again, so that nothing is compiled anew
def _net(depth: int, side: int, kernel_size: int, activation: str) -> tuple[Function, Function]:
    """The random net f(key, x) and its random image draw(key)."""
    layer = Conv(kernel_size) if activation == "linear" else Conv(kernel_size) * Activation(activation)
    f = (layer ** (depth - 1) * Conv(kernel_size)).sampler(width=1, in_channels=1)

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (1, side, side, 1), minval=-1.0)

    return f, draw
