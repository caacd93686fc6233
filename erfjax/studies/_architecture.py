"""What widens the field: strides, dilation, pooling; what narrows it: skip connections; what leaves it alone: dropout.

Fifteen convolutions 3 x 3 with random weights, each variant read in closed form and measured. For a chain the variance of the
map is a sum over layers, σ² = Σ (j d)² (k² - 1)/12 with the stride j so far and the dilation d, so a stride counts for every
layer after it, while a dilation counts for its own layer alone. A sum of the identity and a branch takes the branch with
probability 1/2: σ falls by √2, and the map is more peaked than a Gaussian.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from erfjax import summary
from erfjax.errors import StackError
from erfjax.layers import Activation, AvgPool, Conv, Dropout, Identity, MaxPool, Stack, gates
from erfjax.plot.canvas import INK, draw_map, figure, legend_below, middle
from erfjax.plot.profiles import GREY, limits, markers, theory
from erfjax.progress import bar
from erfjax.studies._support.pairs import Claim, Pair, Result, pair, pair_arrays
from erfjax.typing import Progress


def architectures(activation: str = "relu") -> dict[str, Stack]:
    """The variants of a stack of fifteen convolutions 3 x 3, by name, each convolution followed by `activation`.

    Only on branches beside a skip connection it stands before the convolution (K. He et al. 2016): behind it, outputs would all
    be positive and add up coherently, which no second moment sees.

    Example:
        >>> from erfjax.studies._architecture import architectures
        >>> {name: stack.theoretical().size[0] for name, stack in architectures().items()}["dilated 2, 4, 8"]
        53
    """

    def conv(**options: Any) -> Stack:
        return Conv(3, **options) if activation == "linear" else Conv(3, **options) * Activation(activation)

    plain, down = conv(), conv(stride=2)
    he = math.sqrt(gates.gain(gates.resolve(activation)))  # keeps the variance of a branch: √2 for a ReLU
    branch = plain if activation == "linear" else he * Activation(activation) * Conv(3)
    return {
        "dense": plain**15,
        "strided at 5, 10, 15": (plain**4 * down) ** 3,
        "strided at 4, 8, 12": (plain**3 * down) ** 3 * plain**3,
        "dilated 2, 4, 8": plain**12 * conv(dilation=2) * conv(dilation=4) * conv(dilation=8),
        "average pool after 5, 10": (plain**5 * AvgPool(2)) ** 2 * plain**5,
        "max pool after 5, 10": (plain**5 * MaxPool(2)) ** 2 * plain**5,
        "dropout 0.5": (plain * Dropout(0.5)) ** 15,
        "skip connections": Conv(3) * (Identity() + branch) ** 14,
    }


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ArchitectureResult(Result):
    """What `architecture` found.

    Attributes:
        pairs: the field of each architecture, in closed form and measured.
    """

    name = "architecture"

    pairs: tuple[Pair, ...]

    def tables(self) -> tuple[summary.Table, ...]:
        """One row per architecture: TRF, σ in closed form and measured, Luo sizes, distance of the maps."""
        rows = []
        for one in self.pairs:
            sigma, luo, found = one.ratio("sigma"), one.ratio("luo"), one.comparison
            widths = (sigma.a, sigma.b, sigma.b_stderr, sigma.value, luo.a, luo.b, luo.b_stderr)
            rows.append((one.name, one.trf, *widths, found.total_variation, found.noise_floor))
        names = "15 layers, TRF, σ closed form, measured, ± se, ratio, Luo closed form, measured, ± se, TV, noise"
        s = self.settings
        notes = (
            f"E[g²] of {s['samples']} random networks of width {s['width']} with {s['activation']}, on Gaussian noise; pixels",
            "TV: total variation between the two maps; noise: what sampling alone makes of it",
            "max pool in closed form: every pixel of a window is the maximum equally often",
        )
        return (summary.Table("ERF by architecture", tuple(names.split(", ")), tuple(rows), notes),)

    def claims(self) -> tuple[Claim, ...]:
        """What each variant makes of the σ of the first one."""
        first, *others = self.pairs
        if first.name != "dense":
            return ()
        words = {"strided": "wider", "dilated": "wider, nearly a rectangle", "dropout": "no change", "skip": "narrower"}
        return tuple(
            Claim(
                f"{one.name} against dense",
                words[one.name.split()[0]],
                f"σ × {one.ratio().a / first.ratio().a:.3f} in closed form, {one.ratio().b / first.ratio().b:.3f} measured",
            )
            for one in others
            if one.name.split()[0] in words
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Both maps of every architecture."""
        return pair_arrays(self.pairs)

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def architecture(
    stacks: Mapping[str, Stack] | None = None,
    *,
    activation: str = "relu",
    width: int = 32,
    samples: int = 128,
    seed: int = 0,
    progress: Progress = None,
) -> ArchitectureResult:
    """The ERF of fifteen layers: dense, strided, dilated, pooled, with dropout, with skip connections.

    Args:
        stacks: other architectures, by name; None are those of `architectures`.
        activation: after every convolution, "linear" for none.
        width: channels of the networks.
        samples: pairs of fresh weights and inputs.
        seed: of every random number.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Raises:
        StackError: no stacks.

    Source: W. Luo et al. 2016, figure 3 and appendix; σ² of a chain: erfjax.

    Example:
        >>> import erfjax as ej
        >>> L = ej.layers
        >>> result = ej.studies.architecture({"plain": L.Conv((3,)) ** 3}, activation="linear", width=4, samples=4)
        >>> round(result.pairs[0].closed.sigma()[0] ** 2, 6)
        2.0
    """
    stacks = architectures(activation) if stacks is None else dict(stacks)
    if not stacks:
        raise StackError("`stacks` must name at least one architecture, but is empty.")
    pairs = []
    for i, (name, stack) in enumerate(jobs := bar(list(stacks.items()), progress)):
        jobs.set_postfix_str(name)
        key = jax.random.fold_in(jax.random.key(seed), i)
        pairs.append(pair(name, stack, key=key, samples=samples, width=width))
    settings = {"activation": activation, "width": width, "samples": samples, "seed": seed}
    return ArchitectureResult(settings, tuple(pairs))


def _figure(result: ArchitectureResult) -> Any:
    """A measured map and a cross-section per architecture on one scale, and all σ."""
    pairs = result.pairs
    columns = min(4, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    reach = max(math.ceil(3.2 * one.closed.sigma()[-1]) for one in pairs)
    with figure(max(2.4 * columns, 7.0), 4.0 * rows + 0.35 * len(pairs) + 0.6) as drawing:
        drawing.suptitle(
            "architecture: measured fields on one scale (dashed: 4.55 % of the peak) and their closed forms"
        )
        upper, lower = drawing.subfigures(2, 1, height_ratios=(4.0 * rows, 0.35 * len(pairs) + 0.6))
        panels = upper.subplots(2 * rows, columns, squeeze=False, height_ratios=(1.2, 1) * rows)
        for axes in panels.ravel():
            axes.set_visible(False)
        for i, one in enumerate(pairs):
            row, column = divmod(i, columns)
            axes, below = panels[2 * row, column], panels[2 * row + 1, column]
            axes.set_visible(True)
            below.set_visible(True)
            draw_map(axes, _window(one.measured.map, reach))
            axes.set(title=one.name, xlabel=f"TRF {one.trf}, σ {one.ratio().b:.2f}")
            theory(below, one.closed)
            markers(below, one.measured, 0, "measured, ± 2 se", reach, max(1, reach // 14))
            limits(below, reach)
        panels[1, 0].set_ylabel("share per column")
        legend_below(upper, panels[1, 0])
        _widths(lower.subplots(), [one.name for one in pairs], [one.ratio() for one in pairs])
    return drawing


def _window(values: np.ndarray, reach: int) -> np.ndarray:
    """The pixels within `reach` of the middle, zeros where the map ends."""
    at = middle(values)
    padded = np.pad(values, reach)
    return padded[tuple(slice(m, m + 2 * reach + 1) for m in at)]


def _widths(axes: Any, names: Sequence[str], ratios: Sequence[Any]) -> None:
    """σ in closed form (bars) and measured (markers with ± 2 standard errors), one line each."""
    rows = np.arange(len(names))[::-1]
    axes.barh(
        rows, [r.a for r in ratios], height=0.62, color="#dddddd", edgecolor=GREY, linewidth=0.7, label="closed form"
    )
    look = {"color": INK[0], "markersize": 4, "markerfacecolor": "white", "linestyle": "none", "capsize": 2}
    errors = [2 * (r.b_stderr or 0) for r in ratios]
    axes.errorbar([r.b for r in ratios], rows, xerr=errors, marker="o", label="measured, ± 2 se", **look)
    axes.set_yticks(rows, labels=[f"{name}: {r.a:.3f}" for name, r in zip(names, ratios, strict=True)])
    axes.set(xlabel="σ of the ERF in pixels", xlim=(0, None))
    axes.legend(loc="lower right")
