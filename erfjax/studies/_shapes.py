"""The shape of the field: Gaussian whatever the weights and the nonlinearity, and the more so the deeper.

First by depth: n convolutions with uniform weights, with random weights, and with random weights and ReLU. Then by
nonlinearity: a fixed depth with ReLU, tanh and sigmoid. Every map is measured on networks with fresh weights on fresh noise and
stands beside its closed form, the n-th convolution power of the kernel's profile; both are compared with the Gaussian that fits
them best.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from erfjax import summary
from erfjax.errors import StackError
from erfjax.layers import Conv
from erfjax.plot.canvas import draw_map, figure, legend_below
from erfjax.plot.profiles import sections
from erfjax.progress import bar
from erfjax.studies._support.pairs import Claim, Pair, Result, pair, pair_arrays
from erfjax.typing import Progress, Statistic

KINDS = {
    "uniform": {"width": 1, "init": "uniform"},
    "random": {},
    "random, ReLU": {"activation": "relu"},
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ShapesResult(Result):
    """What `shapes` found.

    Attributes:
        by_depth: for each kind of network its fields, one per depth.
        by_activation: the fields of random networks of one depth, one per nonlinearity.
    """

    name = "shapes"

    by_depth: dict[str, tuple[Pair, ...]]
    by_activation: tuple[Pair, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every panel."""
        return (*(one for row in self.by_depth.values() for one in row), *self.by_activation)

    def tables(self) -> tuple[summary.Table, ...]:
        """One row per panel: σ and Luo size in closed form and measured, distance of the maps, R² of the best Gaussian."""
        rows = []
        for one in self.pairs:
            sigma, found = one.ratio("sigma"), one.comparison
            widths = (sigma.a, sigma.b, sigma.b_stderr)
            rows.append((one.name, one.trf, *widths, found.total_variation, found.noise_floor, *one.gaussianity))
        names = "network, TRF, σ closed form, measured, ± se, TV, noise, R² closed form, R² measured"
        s = self.settings
        notes = (
            f"random weights: {s['statistic']} statistic of {s['samples']} networks of width {s['width']} on Gaussian noise",
            "TV: total variation between the two maps; noise: what sampling alone makes of it",
            "R²: share of the map's variance over pixels that the least-squares Gaussian explains",
        )
        return (summary.Table("shapes of the ERF, 3 x 3 kernels", tuple(names.split(", ")), tuple(rows), notes),)

    def claims(self) -> tuple[Claim, ...]:
        """How Gaussian the fields are, by kind and by nonlinearity."""
        linear = {"uniform": "perfectly Gaussian", "random": "perfectly Gaussian"}
        found = [
            Claim(f"shape, {kind}", linear.get(kind, "nearly Gaussian"), _gaussian(row))
            for kind, row in self.by_depth.items()
        ]
        names = ", ".join(one.name for one in self.by_activation)
        alike = [Claim(f"shape: {names}", "nearly Gaussian, all of them", _gaussian(self.by_activation))]
        return (*found, *(alike if names else []))

    def arrays(self) -> dict[str, np.ndarray]:
        """Both maps of every panel."""
        return pair_arrays(self.pairs)

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def _gaussian(pairs: Sequence[Pair]) -> str:
    """R² of the best Gaussians and the widths, in words."""
    closed, measured = (min(values) for values in zip(*(one.gaussianity for one in pairs), strict=True))
    off = max(abs(one.ratio().value - 1) for one in pairs)
    return f"R² of a Gaussian >= {closed:.3f} in closed form, {measured:.3f} measured; σ within {off:.1%} of the closed form"


def shapes(
    depths: Sequence[int] = (5, 10, 20, 40),
    *,
    activations: Sequence[str] = ("relu", "tanh", "sigmoid"),
    activation_depth: int = 20,
    width: int = 32,
    samples: int = 100,
    statistic: Statistic = "square",
    seed: int = 0,
    progress: Progress = None,
) -> ShapesResult:
    """The shape of the ERF by depth and kind of weights, and by nonlinearity, in closed form and measured.

    Args:
        depths: numbers of layers of the first part.
        activations, activation_depth: nonlinearities and number of layers of the second part.
        width: channels of the random networks; uniform ones have one, as all would be alike.
        samples: pairs of fresh weights and a fresh input.
        statistic: of the gradient of random networks: "square", "rms", "abs" or "relu".
        seed: of every random number.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Raises:
        StackError: a depth below 1, no depths, or a statistic without a closed form.

    Source: W. Luo et al. 2016, figure 1 and the comparison of nonlinearities after it (100 runs).

    Example:
        >>> import erfjax as ej
        >>> result = ej.studies.shapes((2,), activations=(), samples=2, width=2)
        >>> result.by_depth["uniform"][0].comparison.total_variation < 1e-6
        True
    """
    if not depths or min(depths) < 1 or activation_depth < 1:
        raise StackError(f"`depths` must be numbers of layers from 1, but got {tuple(depths)}, {activation_depth}.")
    if statistic not in ("square", "rms", "abs", "relu"):
        raise StackError(f'`statistic` must be "square", "rms", "abs" or "relu", but got {statistic!r}.')
    jobs = [(kind, n, net) for kind, net in KINDS.items() for n in depths]
    jobs += [(name, activation_depth, {"activation": name}) for name in activations]
    found: list[Pair] = []
    for i, (kind, n, net) in enumerate(shown := bar(jobs, progress)):
        shown.set_postfix_str(f"{kind}, {n} layers")
        settings: Any = {"width": width, "statistic": "mean" if kind == "uniform" else statistic} | net
        settings |= {"samples": 1 if kind == "uniform" else samples}
        key = jax.random.fold_in(jax.random.key(seed), i)
        found.append(pair(f"{kind}, {n} layers", Conv(3) ** n, key=key, **settings))
    count = len(depths)
    by_depth = {kind: tuple(found[i * count : (i + 1) * count]) for i, kind in enumerate(KINDS)}
    chosen = {
        "depths": list(depths),
        "activations": list(activations),
        "activation_depth": activation_depth,
        "width": width,
        "samples": samples,
        "statistic": statistic,
        "seed": seed,
    }
    return ShapesResult(chosen, by_depth, tuple(found[len(KINDS) * count :]))


def _figure(result: ShapesResult) -> Any:
    """Measured maps by kind and depth, cross-sections, and the nonlinearities below."""
    kinds, depths = list(result.by_depth), result.settings["depths"]
    below = result.by_activation
    columns = max(len(depths), len(below) + 1 if below else 0)
    with figure(max(2.2 * columns, 7.0), 2.15 * (len(kinds) + 1) + (2.8 if below else 0)) as drawing:
        drawing.suptitle("shapes: measured fields (black: the peak, dashed: 4.55 % of it) and their closed forms")
        parts = drawing.subfigures(2 if below else 1, 1, height_ratios=(len(kinds) + 1, 1.25) if below else (1,))
        upper = np.atleast_1d(parts)[0]
        panels = upper.subplots(len(kinds) + 1, len(depths), squeeze=False)
        for row, kind in enumerate(kinds):
            for column, one in enumerate(result.by_depth[kind]):
                draw_map(panels[row, column], one.measured.map)
                panels[row, column].set_xlabel(_quality(one))
            panels[row, 0].set_ylabel(kind)
        for column, n in enumerate(depths):
            panels[0, column].set_title(f"{n} layers, TRF {result.by_depth[kinds[0]][column].trf}")
            pairs = [result.by_depth[kind][column] for kind in kinds]
            sections(panels[-1, column], pairs[0].closed, [one.measured for one in pairs], kinds)
        panels[-1, 0].set_ylabel("share per column")
        legend_below(upper, panels[-1, 0])
        if below:
            _activations(parts[1], below, columns, result.settings["activation_depth"])
    return drawing


def _activations(part: Any, pairs: Sequence[Any], columns: int, depth: int) -> None:
    panels = part.subplots(1, columns, squeeze=False)[0]
    names = [one.name.split(",")[0] for one in pairs]
    for axes, one, name in zip(panels, pairs, names, strict=False):
        draw_map(axes, one.measured.map)
        axes.set(title=f"{name}, {depth} layers", xlabel=_quality(one))
    sections(panels[len(pairs)], pairs[0].closed, [one.measured for one in pairs], names)
    legend_below(part, panels[len(pairs)])
    for axes in panels[len(pairs) + 1 :]:
        axes.set_visible(False)


def _quality(one: Any) -> str:
    """How well a measured map agrees, in a line under it."""
    return f"R² {one.gaussianity[1]:.4f}, TV {one.comparison.total_variation:.3f}"
