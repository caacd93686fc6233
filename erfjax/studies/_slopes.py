"""Why the growth of the field was reported as n^0.56 and its share of the theoretical field as n^-0.43, and not n^±1/2.

The same study of random linear networks is done at several widths and with several statistics of the gradient, each time as it
was done in 2016: few runs per depth, a straight line through log(size) against log(n). Three things bend the slope.

* The range of depths: at n = 5 neither law is straight yet. Exactly, slope(share) = slope(size) - slope(log(2n + 1)), so the
  two slopes are one measurement.
* The statistic: √E[g²] and E|g| are √2 wider than E[g²], so they reach their limit later and from above.
* The width: in a network of few channels the gradient is far from Gaussian; the mean of few runs is rugged, its centre pixel is
  noisy, and the size refers to that pixel.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Float

from erfjax import measures, summary
from erfjax.closed_form import laws
from erfjax.errors import SampleError, StackError
from erfjax.fields import EffectiveField
from erfjax.layers import Conv
from erfjax.plot.canvas import DASHES, INK, MARKERS, draw_map, figure
from erfjax.plot.profiles import GREY
from erfjax.progress import bar
from erfjax.readings.empirical import empirical
from erfjax.studies._support.pairs import Claim, Result, noise
from erfjax.typing import Progress

REPORTED = laws.Slopes(size=0.56, ratio=-0.43)  # W. Luo et al. 2016, figure 2
STATISTICS = {
    "E g²": "square",
    "√E g²": "rms",
    "E |g|, runs to sum 1": "rms",
}  # and their closed forms in the limit of width
MOST_RUNS = 63  # so that every batch of a measured field is one run


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SlopesResult(Result):
    """What `slopes` found.

    Attributes:
        depths, widths: of the networks.
        sizes: Luo sizes in pixels, by width, statistic (in the order of `STATISTICS`), depth and repetition.
        maps: the map of E|g| of one repetition, by width, at the middle depth.
    """

    name = "slopes"

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    sizes: Float[np.ndarray, "widths statistics depths repeats"]
    maps: tuple[np.ndarray, ...]

    @property
    def offset(self) -> float:
        """The slope of log(2n + 1): what slope(size) and -slope(share) add up to."""
        return trf_slope(self.depths)

    @property
    def far_offset(self) -> float:
        """The same over n = 10 ... 100."""
        return trf_slope(range(10, 101))

    @property
    def reported(self) -> laws.Slopes:
        """The published pair."""
        return REPORTED

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names of the statistics, in order."""
        return tuple(STATISTICS)

    @property
    def slopes(self) -> Float[np.ndarray, "widths statistics repeats"]:
        """The log-log slope of the size in every repetition."""
        x = np.log(np.array(self.depths, dtype=np.float64))
        lever = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        return np.einsum("wsdr,d->wsr", np.log(self.sizes), lever)

    @property
    def mean(self) -> Float[np.ndarray, "widths statistics"]:
        """The mean slope over repetitions."""
        return self.slopes.mean(-1)

    @property
    def stderr(self) -> Float[np.ndarray, "widths statistics"]:
        """Its standard error."""
        return self.slopes.std(-1, ddof=1) / np.sqrt(self.sizes.shape[-1])

    @property
    def closed(self) -> tuple[float, ...]:
        """The slopes of the closed forms in the limit of width, one per statistic."""
        return tuple(laws.slope(self.depths, 3, order).size for order in STATISTICS.values())  # type: ignore[arg-type]

    def tables(self) -> tuple[summary.Table, ...]:
        """One row per statistic and width: the two slopes with standard errors, and how far single studies scatter."""
        rows: list[tuple[Any, ...]] = [("reported", "–", REPORTED.size, None, REPORTED.ratio, None, 20)]
        for j, statistic in enumerate(STATISTICS):
            for i, width in enumerate(self.widths):
                slope, error = float(self.mean[i, j]), float(self.stderr[i, j])
                spread = float(self.slopes[i, j].std(ddof=1))
                rows.append((statistic, str(width), slope, error, slope - self.offset, spread, self.settings["runs"]))
            closed = self.closed[j]
            rows.append((statistic, "∞, closed form", closed, None, closed - self.offset, None, None))
        columns = ("statistic", "width", "slope of size", "± se", "slope of share", "scatter of one study", "runs")
        notes = (
            f"depths {', '.join(map(str, self.depths))}; mean of {self.sizes.shape[-1]} studies each",
            f"slope(share) = slope(size) - slope(log(2n + 1)) = slope(size) - {self.offset:.3f}, exactly",
            f"over n = 10 ... 100 that offset is {self.far_offset:.3f}; the reported pair adds up to "
            f"{REPORTED.size - REPORTED.ratio:.2f}",
        )
        return (summary.Table("log-log slopes of random linear networks", columns, tuple(rows), notes),)

    def claims(self) -> tuple[Claim, ...]:
        """The reported pair, and which widths and statistics come nearest to it."""
        distance = np.abs(self.mean - REPORTED.size)
        i, j = np.unravel_index(int(distance.argmin()), distance.shape)
        near = f"width {self.widths[i]}, {self.statistics[j]}: "
        limit = f"; in the limit of width {min(self.closed):.3f} to {max(self.closed):.3f}"
        size, error = float(self.mean[i, j]), float(self.stderr[i, j])
        shares = [closed - self.offset for closed in (min(self.closed), max(self.closed))]
        share = (
            f"{near}{size - self.offset:.3f} ± {error:.3f}; in the limit of width {shares[0]:.3f} to {shares[1]:.3f}"
        )
        return (
            Claim("slope of the size", f"{REPORTED.size}", f"{near}{size:.3f} ± {error:.3f}{limit}"),
            Claim("slope of the share of the TRF", f"{REPORTED.ratio}", share),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Sizes and maps."""
        maps = {f"map width {width}": values for width, values in zip(self.widths, self.maps, strict=True)}
        return {"depths": np.array(self.depths), "widths": np.array(self.widths), "sizes": self.sizes, **maps}

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def trf_slope(depths: Sequence[int]) -> float:
    """The log-log slope of 2n + 1, the theoretical field of n kernels 3 x 3, over a range of depths.

    Example:
        >>> from erfjax.studies._slopes import trf_slope
        >>> round(trf_slope([5, 10, 20, 40]), 3)
        0.961
    """
    n = np.array(depths, dtype=np.float64)
    return float(np.polyfit(np.log(n), np.log(2 * n + 1), 1)[0])


def slopes(
    widths: Sequence[int] = (1, 4, 16, 64),
    *,
    depths: Sequence[int] = (5, 10, 20, 40),
    runs: int = 20,
    repeats: int = 6,
    seed: int = 0,
    progress: Progress = None,
) -> SlopesResult:
    """The growth exponents of random linear 3 x 3 networks by width and statistic, beside the reported pair.

    Args:
        widths: channels of the networks.
        depths: numbers of layers, at least two.
        runs: random networks per depth in one study, at most 63.
        repeats: independent studies, at least two; their mean and scatter are shown.
        seed: of every random number.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Raises:
        StackError: fewer than two depths, or one below 1; no widths.
        SampleError: numbers of runs or repeats that do not work.

    Source: W. Luo et al. 2016, figure 2 (reported slopes); what finite depths make of them: erfjax.

    Example:
        >>> import erfjax as ej
        >>> result = ej.studies.slopes((2,), depths=(2, 4), runs=2, repeats=2)
        >>> result.sizes.shape
        (1, 3, 2, 2)
    """
    depths, widths = tuple(sorted(set(depths))), tuple(widths)
    if len(depths) < 2 or depths[0] < 1:
        raise StackError(f"A slope needs at least two different depths of 1 or more, but got {depths}.")
    if not widths:
        raise StackError("`widths` must hold at least one number of channels, but is empty.")
    if not 2 <= runs <= MOST_RUNS or repeats < 2:
        raise SampleError(f"`runs` must be from 2 to {MOST_RUNS} and `repeats` at least 2, but got {runs}, {repeats}.")
    sizes = np.zeros((len(widths), len(STATISTICS), len(depths), repeats))
    maps = []
    jobs = [(i, j) for i in range(len(widths)) for j in range(len(depths))]
    for i, j in (shown := bar(jobs, progress)):
        shown.set_postfix_str(f"width {widths[i]}, {depths[j]} layers")
        n, key = depths[j], jax.random.fold_in(jax.random.key(seed), i * len(depths) + j)
        f = (Conv(3) ** n).sampler(width=widths[i], in_channels=1)
        for repeat in range(repeats):
            g = _gradients(f, 2 * n + 1, jax.random.fold_in(key, repeat), runs)
            reduced = _statistics(g)
            sizes[i, :, j, repeat] = [measures.luo_size(values) for values in reduced]
            if repeat == 0 and j == len(depths) // 2:
                maps.append(reduced[-1])
    settings = {"widths": list(widths), "depths": list(depths), "runs": runs, "repeats": repeats, "seed": seed}
    return SlopesResult(settings, depths, widths, sizes, tuple(maps))


def _gradients(f: Any, side: int, key: Any, runs: int) -> Float[np.ndarray, "runs height width"]:
    """The gradient of the centre unit in every run: the batches of a signed measurement are single runs."""
    options: Any = {"statistic": "mean", "progress": False}
    field = cast(EffectiveField, empirical(f, noise((side, side), 1), key=key, samples=runs, **options))
    assert field.batches is not None
    return field.batches


def _statistics(g: Float[np.ndarray, "runs height width"]) -> tuple[np.ndarray, ...]:
    """The maps of every statistic, in the order of `STATISTICS`."""
    square = (g**2).mean(0)
    share = np.abs(g) / np.abs(g).sum((1, 2), keepdims=True)
    return square, np.sqrt(square), share.mean(0)


def _figure(result: SlopesResult) -> Any:
    """Slope by width and statistic, the plane of both slopes, and maps by width."""
    reported, names, repeats = result.reported, result.statistics, result.settings["repeats"]
    with figure(9.4, 6.6) as drawing:
        drawing.suptitle("slopes: why 0.56 and -0.43 were reported; random linear 3 × 3 networks")
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.5, 1))
        by_width, plane_ = upper.subplots(1, 2)
        widths = np.array(result.widths, dtype=float)
        for style, name in enumerate(names):
            look = {"color": INK[style], "linewidth": 1.0}
            points = {"fmt": MARKERS[style], "markersize": 4.5, "markerfacecolor": "white", "capsize": 2}
            beside = widths * 1.05 ** (style - 1)
            by_width.errorbar(beside, result.mean[:, style], 2 * result.stderr[:, style], label=name, **points, **look)
            plane_.plot(
                result.mean[:, style],
                result.mean[:, style] - result.offset,
                linestyle="none",
                marker=MARKERS[style],
                markersize=4.5,
                markerfacecolor="white",
                color=INK[style],
                label=name,
            )
        for law, style in (("square", 0), ("rms", 1)):
            closed = result.closed[style]
            by_width.axhline(closed, color=INK[style], linestyle=DASHES[style], linewidth=0.9, zorder=0)
            text = f"∞, {'E g²' if law == 'square' else '√E g²'}: {closed:.3f}"
            _beside(by_width, closed, text)
        by_width.axhline(reported.size, color=GREY, linestyle=":", linewidth=1.4, zorder=0)
        _beside(by_width, reported.size, f"reported: {reported.size}")
        by_width.set_xscale("log", base=2)
        by_width.set_xticks(widths, labels=[str(w) for w in result.widths])
        by_width.set(
            xlabel="width (channels)",
            ylabel=f"log-log slope of the size, mean of {repeats} studies ± 2 se",
            title="by width and statistic; lines: closed form",
        )
        by_width.legend(loc="lower right")
        low, high = min(0.46, result.mean.min() - 0.01), max(0.6, result.mean.max() + 0.01)
        ends = np.array([low, high])
        shown = f"n = {', '.join(map(str, result.depths))}"
        plane_.plot(
            ends,
            ends - result.offset,
            color=INK[0],
            linewidth=0.9,
            zorder=0,
            label=f"slope of log(2n + 1) apart: {shown}",
        )
        plane_.plot(
            ends,
            ends - result.far_offset,
            color=GREY,
            linestyle="--",
            linewidth=0.9,
            zorder=0,
            label="the same for n = 10 ... 100",
        )
        plane_.plot(*reported, marker="*", markersize=11, color=INK[0], linestyle="none", label="reported 0.56, -0.43")
        plane_.set(
            xlabel="slope of the size", ylabel="slope of its share of the TRF", title="the two slopes are one number"
        )
        plane_.legend(loc="upper left", fontsize=7)
        depth = result.depths[len(result.depths) // 2]
        panels = lower.subplots(1, len(result.widths), squeeze=False)[0]
        for axes, width, values in zip(panels, result.widths, result.maps, strict=True):
            draw_map(axes, values)
            axes.set_title(f"width {width}, {depth} layers")
        panels[0].set_ylabel(f"E |g|, {result.settings['runs']} runs")
    return drawing


def _beside(axes: Any, level: float, text: str) -> None:
    """A word on a horizontal line, right of the leftmost markers."""
    where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 7}
    axes.annotate(text, (0.09, level), (0, 2), **where)
