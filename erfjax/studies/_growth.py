"""The growth laws: the ERF of n convolutions grows as √n, its share of the theoretical field shrinks as 1/√n.

For every depth the same map is found twice. In closed form it is the n-th convolution power v^{*n} of the kernel's profile v;
measured, it is the average of Jacobians of random networks on random crops of a photograph. A network is a stack of n
unpadded convolutions and its crop is exactly as large as its theoretical field, so nothing outside the cone is computed.

* weights "random": independent zero-mean He weights, fresh for every sample. E[g²] is v^{*n} for the uniform profile v,
  whatever the width; E|g| and the like are √(v^{*n}) for wide networks.
* weights "uniform": every weight is 1 / fan-in, so all channels are copies of one and one is enough. The gradient itself is
  v^{*n}; there is nothing random to square, so the statistic is the signed gradient. With ReLU, the picture alone decides
  which paths are open.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from erfjax import layers, summary
from erfjax.agreement import ScalingLaw, scaling_law
from erfjax.errors import SampleError, StackError
from erfjax.fields import EffectiveField
from erfjax.readings.empirical import empirical
from erfjax.studies import datasets
from erfjax.studies._slopes import REPORTED
from erfjax.studies._support.pairs import CLOSED, Claim, Result, bar
from erfjax.typing import Statistic

Nonlinearity = Literal["linear", "relu"]
Weights = Literal["uniform", "random"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """One kind of network at every depth: closed form and measurement.

    Attributes:
        weights, activation, statistic: what kind, and which statistic of its gradient.
        depths: the number of layers.
        closed, measured: the fields, one per depth.
    """

    weights: str
    activation: str
    statistic: str
    depths: tuple[int, ...]
    closed: tuple[EffectiveField, ...]
    measured: tuple[EffectiveField, ...]

    def __repr__(self) -> str:
        return f"Curve({self.name}, {self.statistic}, depths {self.depths})"

    @property
    def name(self) -> str:
        """The kind in two words."""
        return f"{self.weights}, {self.activation}"

    @property
    def trf(self) -> tuple[int, ...]:
        """Sizes of the theoretical fields along one axis, in pixels: the measured maps are exactly that large."""
        return tuple(field.map.shape[0] for field in self.measured)

    @property
    def closed_sizes(self) -> tuple[float, ...]:
        """Luo sizes of the closed forms, in pixels."""
        return tuple(field.size() for field in self.closed)

    @property
    def sizes(self) -> tuple[float, ...]:
        """Luo sizes of the measured maps, in pixels."""
        return tuple(field.size() for field in self.measured)

    @property
    def stderrs(self) -> tuple[float, ...]:
        """Their standard errors; 0 where there was but one sample."""
        return tuple(field.size_stderr() or 0.0 for field in self.measured)

    def slopes(self, share: bool = False) -> tuple[ScalingLaw, ScalingLaw]:
        """The log-log slopes of closed form and measurement: of the size, or of its share of the theoretical field.

        Ordinary least squares with an interval from the scatter about the line, the same for both, so that they compare.
        """
        by = np.array(self.trf if share else [1] * len(self.trf), dtype=np.float64)
        n = np.array(self.depths, dtype=np.float64)
        return scaling_law(n, self.closed_sizes / by), scaling_law(n, self.sizes / by)

    @property
    def slope_stderr(self) -> float:
        """What the standard errors of the measured sizes alone make of the slope."""
        x = np.log(np.array(self.depths, dtype=np.float64))
        lever = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        return float(np.sqrt(((lever * np.array(self.stderrs) / np.array(self.sizes)) ** 2).sum()))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GrowthResult(Result):
    """What `growth` found: a curve per kind of network.

    Attributes:
        curves: one per kind.
    """

    name = "growth"

    curves: tuple[Curve, ...]

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of layers of each network."""
        return self.curves[0].depths

    def table(self) -> summary.Table:
        """One row per network and depth: TRF, size in closed form, size measured with its standard error, their ratio."""
        rows = tuple(
            (curve.weights, curve.activation, n, trf, closed, size, stderr, size / closed, field.samples)
            for curve in self.curves
            for n, trf, closed, size, stderr, field in zip(
                curve.depths, curve.trf, curve.closed_sizes, curve.sizes, curve.stderrs, curve.measured, strict=True
            )
        )
        s = self.settings
        notes = (
            f"random weights: {self.curves[-1].statistic} statistic, width {s['width']}; "
            "uniform weights: the gradient itself",
            f"Luo size in pixels: √(pixels above 4.55 % of the centre); inputs: crops of {s['image']}",
        )
        columns = ("weights", "activation", "n", "TRF", "closed form", "measured", "± se", "ratio", "samples")
        return summary.Table(f"ERF of n convolutions {s['kernel']} x {s['kernel']}", columns, rows, notes)

    def slopes(self) -> summary.Table:
        """One row per network: log-log slopes with 95 % confidence intervals, of the size and of its share of the TRF."""
        rows = []
        for curve in self.curves:
            size, share = curve.slopes(), curve.slopes(share=True)
            rows.append(
                (
                    curve.weights,
                    curve.activation,
                    *map(_with_interval, size),
                    curve.slope_stderr,
                    *map(_with_interval, share),
                )
            )
        columns = (
            "weights",
            "activation",
            "size: closed form",
            "size: measured",
            "± sampling",
            "share of TRF: closed form",
            "share of TRF: measured",
        )
        notes = ("intervals: 95 %, from the scatter about the line; a finite range of n bends it: √n is the limit",)
        return summary.Table("log-log slopes", columns, tuple(rows), notes)

    def tables(self) -> tuple[summary.Table, ...]:
        """Sizes and slopes."""
        return self.table(), self.slopes()

    def claims(self) -> tuple[Claim, ...]:
        """The reported slopes beside those of the last curve."""
        found, curve = [], self.curves[-1]
        for what, share, reported in (("size", False, REPORTED.size), ("share of the TRF", True, REPORTED.ratio)):
            closed, measured = curve.slopes(share)
            here = f"{closed.slope:.3f} in closed form, {measured.slope:.3f} measured ({curve.name}, {curve.statistic})"
            found.append(Claim(f"log-log slope of the {what}", str(reported), here))
        return tuple(found)

    def arrays(self) -> dict[str, np.ndarray]:
        """Both maps of every curve and depth, and standard errors."""
        arrays: dict[str, np.ndarray] = {"depths": np.array(self.depths)}
        for curve in self.curves:
            for n, closed, measured in zip(curve.depths, curve.closed, curve.measured, strict=True):
                name = f"{curve.weights}_{curve.activation}_{n}"
                arrays[f"{name}_closed"], arrays[f"{name}_measured"] = closed.map, measured.map
                if measured.stderr is not None:
                    arrays[f"{name}_stderr"] = measured.stderr
        return arrays


def _with_interval(law: ScalingLaw) -> str:
    low, high = law.interval
    return f"{law.slope:+.3f} [{low:+.3f}, {high:+.3f}]" if np.isfinite(low) else f"{law.slope:+.3f}"


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
    progress: bool | None = None,
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
        progress: whether to show a bar; None shows it on a terminal.

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
    depths = _depths(depths)
    _chosen("statistic", (statistic,), ("square", "rms", "abs", "relu"))
    _chosen("activations", activations, get_args(Nonlinearity))
    _chosen("weights", weights, get_args(Weights))
    if samples < 1:
        raise SampleError(f"`samples` must be a positive integer, but got {samples}.")
    picture = datasets.standardised(datasets.photograph(image))
    draws = {n: datasets.crops(picture, n * (kernel - 1) + 1) for n in depths}
    kinds = [(w, a) for w in weights for a in activations]
    jobs = bar([(kind, n) for kind in kinds for n in depths], progress)
    closed: dict[Any, list[EffectiveField]] = {kind: [] for kind in kinds}
    measured: dict[Any, list[EffectiveField]] = {kind: [] for kind in kinds}
    keys = iter(jax.random.split(jax.random.key(seed), len(kinds) * len(depths)))
    for kind, n in jobs:
        jobs.set_postfix_str(f"{kind[0]} {kind[1]}, {n} layers")
        stack = layers.Conv(kernel, padding="VALID") ** n
        uniform = kind[0] == "uniform"
        net: Any = {"in_channels": 3, "activation": kind[1]}
        net |= {"width": 1, "init": "uniform"} if uniform else {"width": width, "init": "he"}
        closed[kind].append(stack.analytic("mean" if uniform else CLOSED[statistic], **net))
        field = empirical(
            stack.sampler(**net),
            draws[n],
            key=next(keys),
            samples=samples * depths[-1] // n,
            statistic="mean" if uniform else statistic,
            progress=False,
        )
        measured[kind].append(_alive(field, kind, n))
    curves = tuple(
        Curve(*kind, "mean" if kind[0] == "uniform" else statistic, depths, tuple(closed[kind]), tuple(measured[kind]))
        for kind in kinds
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


def _chosen(name: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuses what is no choice."""
    if not values or not set(values) <= set(allowed):
        raise StackError(f"`{name}` must be of {', '.join(allowed)}, but got {', '.join(map(repr, values)) or 'none'}.")


def _alive(field: EffectiveField, kind: tuple[str, str], n: int) -> EffectiveField:
    """The field, if its unit was not dead in every sample."""
    if not field.map.any():
        raise SampleError(
            f"The unit of the network of {n} layers ({kind[0]}, {kind[1]}) was dead in all {field.samples} samples, so it has "
            "no size: take more samples, or an image with bright and dark parts."
        )
    return field


def _depths(depths: Iterable[int]) -> tuple[int, ...]:
    result = tuple(sorted({int(n) for n in depths}))
    if len(result) < 2 or result[0] < 1:
        raise StackError(f"Growth needs at least two different depths of 1 or more, but got {result}.")
    return result
