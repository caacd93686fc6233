"""A field that is perfectly flat and grows as O(n): "always Gaussian, always √n" holds for non-negative weights only.

The three-tap kernels 1 - 2 cos(iφ) z + z² with φ = 2π/(2n + 1), i = 1 ... n, multiply to 1 + z + ... + z^{2n}: each is a pair of
zeros on the unit circle, and together they are all roots of unity but 1. So n layers with these fixed, signed weights see every
one of their 2n + 1 pixels equally. Random weights cannot: the square of a weight has no sign.

Signs cancel, so rounding counts. With the zeros in their natural order the partial products grow exponentially: float32 is off
by 0.5 % at n = 12 and by a quarter at n = 16, float64 by 2 % at n = 32. The map is the same for any order of the layers, its
rounding is not: if every next pair of zeros lies as far as possible from all before it (F. Leja's order), partial products
stay below 3, and float32 keeps a line flat for hundreds of layers (a plane, whose kernels have nine taps, to 0.5 % at n = 40).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np

from erfjax import summary
from erfjax.closed_form import cascade, laws
from erfjax.errors import SampleError, StackError
from erfjax.fields import EffectiveField
from erfjax.layers import Conv, Identity, Stack
from erfjax.plot.canvas import DASHES, INK, MARKERS, draw_map, draw_section, figure, legend_below, log_log
from erfjax.plot.profiles import GREY, limits, markers, profile
from erfjax.progress import bar
from erfjax.readings.empirical import empirical
from erfjax.studies._support.pairs import Claim, Pair, Result, pair_arrays
from erfjax.typing import Progress

ORDERS = ("natural", "Leja")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FlatResult(Result):
    """What `flat` found.

    Attributes:
        pairs: two-dimensional fields of flat stacks by depth, in closed form and measured in float32, layers in Leja's order.
        depths: numbers of layers of the rounding test.
        deviation: max |map / mean - 1| of one-dimensional flat stacks at these depths, by (precision, order); infinite where
            the map overflows. "closed form" is `closed_form.cascade` in float64.
    """

    name = "flat"

    pairs: tuple[Pair, ...]
    depths: tuple[int, ...]
    deviation: dict[tuple[str, str], tuple[float, ...]]

    def tables(self) -> tuple[summary.Table, ...]:
        """Growth against uniform kernels by depth; then the deviation from a flat field by depth, precision and order."""
        rows = []
        for one in self.pairs:
            n, sigma = (one.trf - 1) // 2, one.ratio("sigma")
            uniform = laws.sigma([3] * n)[0]
            rows.append((n, one.trf, sigma.a, sigma.b, one.measured.size(), uniform, laws.luo_size(3, n)))
        columns = ("layers", "TRF", "σ closed form", "measured", "Luo size", "σ of uniform kernels", "their Luo size")
        growth = summary.Table(
            "flat fields, 3 x 3 kernels", columns, tuple(rows), ("measured in float32, Leja's order",)
        )
        kinds = tuple(self.deviation)
        lost = tuple((n, *(self.deviation[kind][i] for kind in kinds)) for i, n in enumerate(self.depths))
        notes = ("max |map / mean - 1| over the 2n + 1 pixels: 0 is flat, 1 is lost",)
        kind_names = ("layers", *(", ".join(kind) for kind in kinds))
        return growth, summary.Table("deviation from a flat field, three taps", kind_names, lost, notes)

    def claims(self) -> tuple[Claim, ...]:
        """Whether a field must be Gaussian and grow as √n."""
        largest = max(np.abs(one.measured.map / one.measured.map.mean() - 1).max() for one in self.pairs)
        sizes = ", ".join(f"{one.measured.size():.4g} at n = {(one.trf - 1) // 2}" for one in self.pairs)
        return (
            Claim("shape for any weights", "Gaussian", f"signed weights: flat, measured to {largest:.0e} of the mean"),
            Claim("growth with depth", "√n", f"2n + 1, all of the TRF: Luo sizes {sizes}"),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Both maps by depth, and the deviations."""
        deviations = {", ".join(kind): np.array(values) for kind, values in self.deviation.items()}
        return {"depths": np.array(self.depths), **deviations, **pair_arrays(self.pairs)}

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def leja(depth: int) -> tuple[int, ...]:
    """The order in which `laws.flat_kernels(depth)` multiply without cancellation: indices, the first to be multiplied first.

    Each next pair of zeros exp(±iθ) is the one with the largest product of distances |2 cos θ - 2 cos θ'| to those before.

    Source: L. Reichel 1990, on Leja's ordering of interpolation points.

    Example:
        >>> from erfjax.studies._flat import leja
        >>> leja(5)
        (4, 0, 2, 1, 3)
    """
    zeros = 2 * np.cos(2 * math.pi * np.arange(1, depth + 1) / (2 * depth + 1))
    order, distance = [int(np.abs(zeros).argmax())], np.zeros(depth)
    while len(order) < depth:
        with np.errstate(divide="ignore"):
            distance += np.log(np.abs(zeros - zeros[order[-1]]))
        order.append(int(distance.argmax()))
    return tuple(order)


def flat_stack(depth: int, ndim: int = 1, order: str = "Leja") -> Stack:
    """The stack of `depth` fixed three-tap convolutions with a flat field, the product of one profile per axis.

    A gradient is multiplied from the output to the input, so Leja's order begins with the last layer.

    Example:
        >>> from erfjax.studies._flat import flat_stack
        >>> flat_stack(2).analytic("mean", in_channels=1).map.round(6)
        array([1., 1., 1., 1., 1.])
    """
    kernels = laws.flat_kernels(depth)
    chosen = range(depth) if order == "natural" else reversed(leja(depth))
    stack = Identity()
    for i in chosen:
        taps = kernels[i]
        for _ in range(ndim - 1):
            taps = np.multiply.outer(taps, kernels[i])
        stack = stack * Conv(weights=taps)
    return stack


def flat(
    depths: Sequence[int] = (5, 10, 20, 40),
    *,
    rounding_depths: Sequence[int] = (4, 8, 12, 16, 24, 32, 48, 96),
    progress: Progress = None,
) -> FlatResult:
    """Flat fields of size O(n) from signed weights: closed form, measurement, and what rounding leaves of them.

    Args:
        depths: numbers of layers of the fields shown.
        rounding_depths: numbers of layers at which the deviation from a flat field is measured.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Raises:
        StackError: a depth below 1, or none.

    Example:
        >>> import erfjax as ej
        >>> result = ej.studies.flat((3,), rounding_depths=(3,))
        >>> result.pairs[0].trf, round(result.pairs[0].measured.sigma()[0], 3)  # √((7² - 1)/12)
        (7, 2.0)
    """
    depths, rounding_depths = tuple(depths), tuple(rounding_depths)
    if min((*depths, *rounding_depths), default=0) < 1 or not depths:
        raise StackError(f"Flat fields need depths of 1 or more, but got {depths} and {rounding_depths}.")
    kinds = [(precision, order) for precision in ("float32", "float64") for order in ORDERS]
    jobs = bar([*depths, *((n, kind) for kind in kinds for n in rounding_depths)], progress)
    pairs, deviation = [], {kind: [] for kind in kinds}  # type: ignore[var-annotated]
    for job in jobs:
        if isinstance(job, int):
            stack = flat_stack(job, 2)
            pairs.append(Pair(f"{job} layers", stack.analytic("mean", in_channels=1), _measured(stack, job, 2)))
        else:
            n, (precision, order) = job
            deviation[job[1]].append(_rounding(n, precision, order))
    exact = tuple(_deviation(cascade(laws.flat_kernels(n))) for n in rounding_depths)
    found = {kind: tuple(values) for kind, values in deviation.items()} | {("closed form", "any order"): exact}
    settings = {"depths": list(depths), "rounding_depths": list(rounding_depths)}
    return FlatResult(settings, tuple(pairs), rounding_depths, found)


def _measured(stack: Stack, depth: int, ndim: int, precision: str = "float32") -> EffectiveField:
    """The gradient of the centre unit; there is nothing random in it, so one sample is all."""
    network: Any = stack.network(jax.random.key(0), in_channels=1)
    image = np.zeros((1, *(2 * depth + 1,) * ndim, 1), precision)
    options: Any = {"statistic": "mean", "progress": False, "nonfinite": "raise"}
    return cast(EffectiveField, empirical(network, image, layout=("NWC", "NHWC")[ndim - 1], **options))


def _rounding(depth: int, precision: str, order: str) -> float:
    """The deviation of a one-dimensional flat field from a flat one, measured in one precision; infinite if it overflows."""
    with jax.enable_x64(precision == "float64"):
        try:
            return _deviation(_measured(flat_stack(depth, 1, order), depth, 1, precision).map)
        except SampleError:  # the gradient is not finite
            return math.inf


def _deviation(values: np.ndarray) -> float:
    """max |map / mean - 1|; infinite for a map that is not finite or sums to nothing."""
    mean = values.mean()
    return float(np.abs(values / mean - 1).max()) if np.isfinite(mean) and mean != 0 else math.inf


def _figure(result: FlatResult) -> Any:
    """Measured maps, profiles on the closed form, growth, and what rounding leaves."""
    pairs = result.pairs
    with figure(max(2.3 * len(pairs), 7.0), 7.4) as drawing:
        drawing.suptitle(
            "flat: signed three-tap kernels see every pixel of the TRF equally (dashed: 4.55 % of the peak)"
        )
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.25, 1))
        panels = upper.subplots(2, len(pairs), squeeze=False, height_ratios=(1.3, 1))
        for column, one in enumerate(pairs):
            n, reach = (one.trf - 1) // 2, one.trf // 2 + 2
            draw_map(panels[0, column], np.pad(one.measured.map, 2))
            panels[0, column].set_title(f"{n} layers, TRF {one.trf}")
            below = panels[1, column]
            draw_section(below, np.pad(profile(one.closed)[0], 2), linewidth=1.0, through=(n + 2,), label="closed form")
            markers(below, one.measured, 0, "measured", reach, max(1, reach // 10))
            bell = _bell(np.sqrt(n * 2 / 3), reach)
            draw_section(below, bell, style=1, color=GREY, through=(reach,), label="n uniform kernels: Gaussian")
            limits(below, reach)
        panels[1, 0].set_ylabel("share per column")
        legend_below(upper, panels[1, 0])
        growing, losing = lower.subplots(1, 2, width_ratios=(1, 1.15))
        _flat_growth(growing, result)
        for style, (kind, values) in enumerate(result.deviation.items()):
            shown = np.maximum(np.nan_to_num(values, posinf=np.inf), 1e-17)
            look = {"color": INK[style % 5], "linestyle": DASHES[style % 5], "marker": MARKERS[style % 5]}
            losing.plot(
                result.depths, shown, markersize=4, markerfacecolor="white", linewidth=1, label=", ".join(kind), **look
            )
        losing.axhline(1.0, color=GREY, linewidth=0.8)
        losing.set(
            yscale="log",
            xlabel="layers n",
            ylabel="max |map / mean - 1|",
            ylim=(1e-17, 1e9),
            title="deviation by precision and order (1: lost)",
        )
        losing.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawing


def _flat_growth(axes: Any, result: Any) -> None:
    """σ of flat and of uniform stacks against depth: closed forms as lines, measurements as markers."""
    n = np.array([(one.trf - 1) // 2 for one in result.pairs], dtype=float)
    at = np.geomspace(n.min(), n.max(), 50)
    axes.plot(at, np.sqrt(((2 * at + 1) ** 2 - 1) / 12), color=INK[0], linewidth=1, label="flat: σ = √(n(n + 1)/3)")
    measured = [one.ratio().b for one in result.pairs]
    axes.plot(n, measured, "o", color=INK[0], markerfacecolor="white", label="measured, float32, Leja's order")
    axes.plot(at, np.sqrt(at * 2 / 3), color=GREY, linestyle="--", linewidth=1, label="uniform: σ = √(2n/3)")
    axes.set(xlabel="layers n", ylabel="σ in pixels", title="the field grows as n, not √n")
    log_log(axes, n)
    axes.legend(loc="upper left", fontsize=7)


def _bell(sigma: float, reach: int) -> np.ndarray:
    t = np.arange(-reach, reach + 1)
    return np.exp(-0.5 * (t / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
