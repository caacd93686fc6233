"""Connections off the grid: k² taps drawn at random over a larger window keep the cost of a convolution and widen its field.

The variance of a layer is that of its taps' positions, so σ grows in proportion to the window: on average over draws

    Var X = (K² - 1)/12 · (1 - 1/c) / (1 - 1/K²)     for c taps of a K x K window.

A dilated convolution of the same window is wider still, but its fields are lattices: layers of one dilation never see what lies
between. Random taps fill the field after a few layers.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from erfjax import summary
from erfjax.errors import StackError
from erfjax.layers import Conv, SparseConv, Stack
from erfjax.plot.canvas import DASHES, INK, MARKERS, draw_map, draw_section, figure, legend_below
from erfjax.plot.profiles import GREY, centre, limits, markers, profile
from erfjax.progress import bar
from erfjax.studies._support.pairs import Claim, Pair, Result, pair, pair_arrays
from erfjax.typing import Progress

TAPS = 9  # those of the 3 x 3 convolution whose cost is kept


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SparseResult(Result):
    """What `sparse` found.

    Attributes:
        windows: sides K of the windows, in pixels.
        sparse, dilated: the fields of nine random taps, and of a dilated 3 x 3 kernel, for each window.
    """

    name = "sparse"

    windows: tuple[int, ...]
    sparse: tuple[Pair, ...]
    dilated: tuple[Pair, ...]

    @property
    def expected(self) -> tuple[float, ...]:
        """σ over all draws of the taps (root mean square), per window."""
        return tuple(math.sqrt(self.settings["depth"] * tap_variance(window)) for window in self.windows)

    def tables(self) -> tuple[summary.Table, ...]:
        """One row per window and kind of layer: TRF, σ in closed form and measured, share of the TRF that is seen."""
        rows: list[tuple[Any, ...]] = []
        for i, window in enumerate(self.windows):
            for kind, one in (("random taps", self.sparse[i]), ("dilated", self.dilated[i])):
                ratio, mean = one.ratio(), self.expected[i] if kind == "random taps" else None
                seen = float((one.closed.map > 0).sum() / one.trf**2)
                rows.append((window, kind, one.trf, mean, ratio.a, ratio.b, ratio.b_stderr, seen, one.gaussianity[0]))
        names = "window, layer, TRF, σ over draws, σ closed form, measured, ± se, share of TRF seen, R² of a Gaussian"
        s = self.settings
        notes = (
            f"{s['depth']} layers of {TAPS} taps each, so all cost the same; E[g²] of {s['samples']} random networks",
            "closed form: of the taps as drawn; σ over draws: root mean square over all draws",
        )
        return (summary.Table("nine taps off the grid", tuple(names.split(", ")), tuple(rows), notes),)

    def claims(self) -> tuple[Claim, ...]:
        """What connections off the grid bring at the same cost."""
        last, base = self.sparse[-1].ratio(), math.sqrt(self.settings["depth"] * tap_variance(3))
        here = f"nine taps of a window of {self.windows[-1]}: σ × {last.a / base:.2f} in closed form, "
        return (
            Claim("sparse connections", "proposed", here + f"{last.b / base:.2f} measured, against a 3 x 3 kernel"),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Both maps of every stack."""
        return pair_arrays((*self.sparse, *self.dilated))

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def tap_variance(window: int, count: int = TAPS) -> float:
    """The mean variance along an axis of `count` distinct positions drawn from a window x window square.

    Example:
        >>> from erfjax.studies._sparse import tap_variance
        >>> round(tap_variance(3), 4), round(tap_variance(9), 4)
        (0.6667, 6.0)
    """
    return (window**2 - 1) / 12 * (1 - 1 / count) / (1 - 1 / window**2)


def sparse(
    windows: Sequence[int] = (3, 5, 7, 9, 11),
    *,
    depth: int = 6,
    activation: str = "linear",
    width: int = 16,
    samples: int = 100,
    seed: int = 0,
    progress: Progress = None,
) -> SparseResult:
    """The ERF of random connections off the grid against dilated ones of equal cost, in closed form and measured.

    Args:
        windows: odd sides of the windows in which nine taps lie.
        depth: number of layers; each draws its own taps.
        activation: after every layer.
        width: channels of the networks.
        samples: pairs of fresh weights and inputs; the taps stay.
        seed: of every random number, the taps included.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Raises:
        StackError: windows that are not odd or smaller than 3, or no layers.

    Source: W. Luo et al. 2016, section 4.2, propose such connections.

    Example:
        >>> import erfjax as ej
        >>> result = ej.studies.sparse((3,), depth=2, width=2, samples=2)
        >>> round(result.sparse[0].closed.sigma()[0], 4)  # nine taps fill a 3 x 3 window
        1.1547
    """
    windows = tuple(windows)
    if not windows or any(window < 3 or window % 2 == 0 for window in windows):
        raise StackError(f"`windows` must be odd and 3 or more, but got {windows}.")
    if depth < 1:
        raise StackError(f"`depth` must be a number of layers from 1, but got {depth}.")
    found: dict[str, list[Pair]] = {"random taps": [], "dilated": []}
    jobs = [(kind, window) for window in windows for kind in found]
    for i, (kind, window) in enumerate(shown := bar(jobs, progress)):
        name = f"{kind}, window {window}"
        shown.set_postfix_str(name)
        stack = sparse_stack(window, depth, seed) if kind == "random taps" else dilated_stack(window, depth)
        key = jax.random.fold_in(jax.random.key(seed), i)
        found[kind].append(pair(name, stack, key=key, samples=samples, width=width, activation=activation))
    settings = {"windows": list(windows), "depth": depth, "activation": activation, "width": width}
    settings |= {"samples": samples, "seed": seed}
    return SparseResult(settings, windows, tuple(found["random taps"]), tuple(found["dilated"]))


def sparse_stack(window: int, depth: int, seed: int = 0) -> Stack:
    """The stack of `depth` layers of nine random taps in a window, other taps in each layer."""
    stack: Stack = SparseConv(window, count=TAPS, seed=seed)
    for layer in range(1, depth):
        stack = stack * SparseConv(window, count=TAPS, seed=seed + layer)
    return stack


def dilated_stack(window: int, depth: int) -> Stack:
    """The stack of `depth` dilated 3 x 3 convolutions whose taps span the window."""
    return Conv(3, dilation=(window - 1) // 2) ** depth


def _figure(result: SparseResult) -> Any:
    """Maps and profiles by window, and σ against the window."""
    count = len(result.windows)
    reach = max(one.trf for one in result.sparse) // 2 + 1
    with figure(max(2.1 * count, 7.0), 9.0) as drawing:
        drawing.suptitle("sparse: nine taps drawn in a window, and a dilated kernel of the same cost (black: the peak)")
        upper, lower = drawing.subfigures(2, 1, height_ratios=(2.2, 1))
        panels = upper.subplots(3, count, squeeze=False, height_ratios=(1.2, 1.2, 1))
        for column, window in enumerate(result.windows):
            for row, one in enumerate((result.sparse[column], result.dilated[column])):
                padded = np.pad(one.measured.map, reach)
                at = centre(one.closed) + reach
                around = slice(at - reach, at + reach + 1)
                draw_map(panels[row, column], padded[around, around], contour=None)
                panels[row, column].set_xlabel(f"σ {one.ratio().b:.2f}")
            panels[0, column].set_title(f"window {window}")
            below, one = panels[2, column], result.sparse[column]
            line = profile(one.closed)[0]
            draw_section(below, line, linewidth=1.0, through=(centre(one.closed),), label="random taps: closed form")
            markers(below, one.measured, 0, "random taps: measured, ± 2 se", reach, max(1, reach // 12))
            limits(below, reach)
        for row, name in enumerate(("random taps", "dilated", "share per column")):
            panels[row, 0].set_ylabel(name)
        legend_below(upper, panels[2, 0])
        _by_window(lower.subplots(), result)
    return drawing


def _by_window(axes: Any, result: Any) -> None:
    """σ against the window, for random and for dilated taps."""
    k = np.array(result.windows, dtype=float)
    axes.plot(k, result.expected, color=GREY, linewidth=4, alpha=0.4, label="random taps: mean over all draws")
    for style, (name, pairs) in enumerate((("random taps", result.sparse), ("dilated", result.dilated))):
        ratios = [one.ratio() for one in pairs]
        look = {"color": INK[style], "linewidth": 1.0}
        axes.plot(k, [r.a for r in ratios], linestyle=DASHES[style], label=f"{name}: closed form", **look)
        points = {"fmt": MARKERS[style], "markersize": 4.5, "markerfacecolor": "white", "capsize": 2}
        errors = [2 * (r.b_stderr or 0) for r in ratios]
        axes.errorbar(k, [r.b for r in ratios], errors, label=f"{name}: measured, ± 2 se", **points, **look)
    depth = result.settings["depth"]
    axes.set(
        xlabel="window in pixels", ylabel="σ in pixels", title=f"{depth} layers of nine taps: same cost, wider field"
    )
    axes.set_xticks(k)
    axes.legend(loc="upper left")
