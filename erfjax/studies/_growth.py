"""The growth laws: the ERF of n convolutions grows as √n, its share of the theoretical field shrinks as 1/√n.

For every depth the same map is found twice. In closed form it is the n-th convolution power v^{*n} of the kernel's profile v;
measured, it is the average of Jacobians of random networks on random crops of a photograph. A network is a stack of n
unpadded convolutions and its crop is exactly as large as its theoretical field, so nothing outside the cone is computed.

* weights "random": independent zero-mean He weights, fresh for every sample. E[g²] is v^{*n} for the uniform profile v,
  whatever the width; E|g| and the like are √(v^{*n}) for wide networks.
  Squares are read with a random sign per channel, on both sides: a plain sum would add what the channels of a rectified layer
  have in common.
* weights "uniform": every weight is 1 / fan-in, so all channels are copies of one and one is enough. The gradient itself is
  v^{*n}; there is nothing random to square, so the statistic is the signed gradient. With ReLU, the picture alone decides
  which paths are open.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from erfjax import growth_laws, layers, summary
from erfjax.errors import SampleError, StackError
from erfjax.growth_laws import figure
from erfjax.growth_laws.result import COLUMNS, SLOPES, Growth, slope_row
from erfjax.studies import datasets
from erfjax.studies._slopes import REPORTED
from erfjax.studies._support.pairs import Claim, Result
from erfjax.typing import Progress, Statistic

Nonlinearity = Literal["linear", "relu"]
Weights = Literal["uniform", "random"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GrowthResult(Result):
    """What `growth` found: growth laws of every kind of network.

    Attributes:
        curves: one per kind.
    """

    name = "growth"

    curves: tuple[Growth, ...]

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of layers of each network."""
        return self.curves[0].depths

    def table(self) -> summary.Table:
        """One row per network and depth: TRF, size in closed form, size measured with its 95 % interval, their ratio."""
        rows = tuple((curve.name, *row) for curve in self.curves for row in curve.rows())
        s, notes = self.settings, dict.fromkeys(said for curve in self.curves for said in self._notes(curve))
        title = f"ERF of n convolutions {s['kernel']} x {s['kernel']}, width {s['width']}, on crops of {s['image']}"
        return summary.Table(title, ("network", *COLUMNS), rows, tuple(notes))

    def _notes(self, curve: Growth) -> list[str]:
        """The notes of a curve, under the name of its kind of weights where all curves of that kind share them."""
        kind = curve.name.split(",")[0]
        alike = [set(other.notes()) for other in self.curves if other.name.split(",")[0] == kind]
        return [f"{kind if all(note in notes for notes in alike) else curve.name}: {note}" for note in curve.notes()]

    def slopes(self) -> summary.Table:
        """Two rows per network: log-log slopes of the size and of its share of the TRF, with 95 % intervals."""
        rows = tuple((curve.name, *slope_row(law)) for curve in self.curves for law in curve.laws())
        notes = ("intervals: 95 %, from those of the measured sizes; √n is the limit: few layers bend the line",)
        return summary.Table("log-log slopes", ("network", *SLOPES), rows, notes)

    def tables(self) -> tuple[summary.Table, ...]:
        """Sizes and slopes."""
        return self.table(), self.slopes()

    def claims(self) -> tuple[Claim, ...]:
        """The reported slopes beside those of the last curve."""
        curve = self.curves[-1]
        kind = f"({curve.name}, {curve.settings['statistic']})"
        return tuple(
            Claim(
                f"log-log slope of the {law.of}",
                str(reported),
                f"{law.closed:.3f} in closed form, {law.measured:.3f} ± {law.stderr:.3f} measured {kind}",
            )
            for law, reported in zip(curve.laws(), (REPORTED.size, REPORTED.ratio), strict=True)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Both maps of every curve and depth, and standard errors."""
        arrays: dict[str, np.ndarray] = {"depths": np.array(self.depths)}
        for curve in self.curves:
            arrays |= curve.arrays(curve.name.replace(", ", "_") + "_")
        return arrays

    def plot(self) -> Any:
        """The figure of all kinds of networks."""
        return figure.draw(self.curves)


def growth(
    depths: Sequence[int] = (5, 10, 20, 40),
    *,
    activations: Sequence[Nonlinearity] = ("linear", "relu"),
    weights: Sequence[Weights] = ("uniform", "random"),
    kernel: int = 3,
    width: int = 32,
    samples: int = 128,
    statistic: Statistic = "square",
    image: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> GrowthResult:
    """The growth of the ERF with depth, in closed form and measured side by side.

    Args:
        depths: numbers of layers, at least two.
        activations: "linear", "relu" or both.
        weights: "uniform", "random" or both.
        kernel: taps along each axis of the square kernel.
        width: channels of the random networks.
        samples: pairs of fresh weights and a fresh crop at the largest depth; smaller ones cost less and get more in
            proportion, samples * largest // n.
        statistic: of the gradient of random networks: "square" E[g²], "rms" its root, "abs" E|g|, "relu" E[max(g, 0)].
        image: an image file to crop inputs from; None is the portrait that matplotlib ships.
        seed: of every random number.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Returns:
        A `GrowthResult`; sizes in pixels of the input.

    Raises:
        StackError: fewer than two depths, or one below 1; a kind of network or a statistic without a closed form here.
        SampleError: no samples, or a unit that was dead in all of them (few and dark crops under a ReLU).
        FileFormatError: the image cannot be read, or is smaller than the largest field.

    Source: W. Luo et al. 2016, figure 2; sizes as in their section 3.

    Example:
        >>> import erfjax as ej
        >>> result = ej.studies.growth((2, 4), activations=["linear"], weights=["uniform"], samples=2)
        >>> [round(size, 2) for size in result.curves[0].sizes]
        [5.0, 7.0]
    """
    _chosen("statistic", (statistic,), ("square", "rms", "abs", "relu"))
    _chosen("activations", activations, get_args(Nonlinearity))
    _chosen("weights", weights, get_args(Weights))
    if samples < 1:
        raise SampleError(f"`samples` must be a positive integer, but got {samples}.")
    depths = tuple(sorted(set(map(int, depths))))
    picture = datasets.standardised(datasets.photograph(image))
    if not depths or depths[0] < 1:
        raise StackError(f"Growth needs at least two different depths of 1 or more, but got {depths}.")
    crops = {n: datasets.crops(picture, n * (kernel - 1) + 1) for n in depths}
    kinds = [(w, a) for w in weights for a in activations]
    curves = tuple(
        growth_laws.growth(
            lambda n: layers.Conv(kernel, padding="VALID") ** n,
            depths,
            crops,
            samples={n: samples * depths[-1] // n for n in depths},
            key=key,
            name=f"{kind}, {activation}",
            progress=progress,
            activation=activation,
            **_settings(kind, width, statistic),
        )
        for (kind, activation), key in zip(kinds, jax.random.split(jax.random.key(seed), len(kinds)), strict=True)
    )
    settings = {
        "depths": list(depths),
        "activations": list(activations),
        "weights": list(weights),
        "kernel": kernel,
        "width": width,
        "samples": samples,
        "statistic": statistic,
        "image": "the portrait of Grace Hopper" if image is None else Path(os.fspath(image)).name,
        "seed": seed,
    }
    return GrowthResult(settings, curves)


def _settings(kind: str, width: int, statistic: Statistic) -> dict[str, Any]:
    """How the networks of a kind are drawn and read: squares with a random sign per channel, which leaves no coherent part."""
    if kind == "uniform":
        return {"statistic": "mean", "channels": "sum", "width": 1, "init": "uniform"}
    channels = "random-signs" if statistic in ("square", "rms") else "sum"
    return {"statistic": statistic, "channels": channels, "width": width, "init": "he"}


def _chosen(name: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuses what is no choice."""
    if not values or not set(values) <= set(allowed):
        raise StackError(f"`{name}` must be of {', '.join(allowed)}, but got {', '.join(map(repr, values)) or 'none'}.")
