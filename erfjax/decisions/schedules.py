"""Which schedule of kernels, dilations and strides gives the widest field within a budget: solved exactly.

For a chain of random convolutions everything follows from the stride j so far, one layer after the other,

    12 σ² = Σ (j d)² (k² - 1),    TRF = 1 + Σ j d (k - 1),    cost = Σ k² / (j s)²,

multiply-adds per input pixel and pair of channels in two dimensions. All three are sums over layers, so the best schedule
follows by dynamic programming over (layers so far, stride, TRF), where of each state only the schedules survive that no other
beats in both cost and σ. TRFs only grow, so one pass in their order visits every state once; integers throughout, no rounding.

σ alone would put all the field into one layer of huge dilation, a lattice. Two rules keep the taps of a layer together:

* "no holes": they lie no further apart than the theoretical field below, j d <= TRF. Then 12 σ² + 1 <= TRF², by induction over
  layers, with equality for k-adic dilations such as 1, 3, 9, 27 alone: the widest field without holes is flat, and it is found
  with few layers.
* "smooth": they lie no further apart than two standard deviations of the effective field below, (j d)² <= 4 σ² unless d = 1.
  Closer bells melt into one; wider ones leave dips in the map even where the theoretical field has no hole.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from erfjax.closed_form import laws
from erfjax.errors import StackError
from erfjax.layers import Activation, Conv, Identity, Stack

Spacing = Literal["no holes", "smooth", "any"]


class Layer(NamedTuple):
    """One convolution: taps along each axis, dilation, stride."""

    kernel: int
    dilation: int = 1
    stride: int = 1

    def __str__(self) -> str:
        dilated = f"d{self.dilation}" if self.dilation > 1 else ""
        return f"{self.kernel}{dilated}{f's{self.stride}' if self.stride > 1 else ''}"


@dataclasses.dataclass(frozen=True)
class Design:
    """A schedule of convolutions, with what it costs and what it gives.

    Attributes:
        layers: input to output.

    Example:
        >>> from erfjax.decisions.schedules import Design, Layer
        >>> paper = Design((Layer(3),) * 12 + (Layer(3, 2), Layer(3, 4), Layer(3, 8)))
        >>> paper.trf, paper.sigma, paper.cost
        (53, 8.0, 135.0)
    """

    layers: tuple[Layer, ...]

    @functools.cached_property
    def _chain(self) -> tuple[list[int], list[int], list[int]]:
        return tuple(map(list, zip(*self.layers, strict=True)))  # type: ignore[return-value]

    @property
    def trf(self) -> int:
        """The size of the theoretical field along an axis, in pixels."""
        kernels, dilations, strides = self._chain
        return int(laws.theoretical_size(kernels, strides, dilations)[0])

    @property
    def sigma(self) -> float:
        """The standard deviation of the map of random weights along an axis, in pixels."""
        kernels, dilations, strides = self._chain
        return round(float(laws.sigma(kernels, strides, dilations)[0]), 12)

    @property
    def flatness(self) -> float:
        """σ in units of that of a flat field as large as the theoretical one."""
        return self.sigma / math.sqrt((self.trf**2 - 1) / 12)

    @property
    def stride(self) -> int:
        """The stride of the output."""
        return math.prod(layer.stride for layer in self.layers)

    @property
    def cost(self) -> float:
        """Multiply-adds per input pixel and pair of channels, in two dimensions."""
        reached = np.cumprod([layer.stride for layer in self.layers])
        return float(sum(layer.kernel**2 / int(j) ** 2 for layer, j in zip(self.layers, reached, strict=True)))

    def stack(self, activation: str = "linear") -> Stack:
        """The stack of `erfjax.layers`, `activation` after every convolution."""
        whole = Identity()
        for layer in self.layers:
            whole = whole * Conv(layer.kernel, stride=layer.stride, dilation=layer.dilation)
            whole = whole if activation == "linear" else whole * Activation(activation)
        return whole

    def __str__(self) -> str:
        runs = [(layer, len(list(same))) for layer, same in itertools.groupby(self.layers)]
        return " ".join(f"{layer}^{count}" if count > 1 else str(layer) for layer, count in runs)


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a design may use.

    Attributes:
        trf: the largest theoretical field, in pixels.
        cost: the most multiply-adds per input pixel and pair of channels.
        depth: the number of layers; None: any.
        stride: the largest stride of the output.
        spacing: how far apart the taps of a layer may lie: "no holes", "smooth" or "any".
    """

    trf: int
    cost: float | int
    depth: int | None = None
    stride: int = 1
    spacing: Spacing = "no holes"

    @classmethod
    def of(cls, design: Design) -> "Budget":
        """What a given design uses."""
        return cls(design.trf, design.cost, len(design.layers), design.stride)


KERNELS = (3, 5, 7)
DILATIONS = tuple(range(1, 17))


def search(
    budget: Budget, *, kernels: Sequence[int] = KERNELS, dilations: Sequence[int] = DILATIONS
) -> tuple[Design, ...]:
    """The designs of largest σ within a budget, for every cost at which a larger σ becomes possible; the last is the widest.

    Args:
        budget: what a design may use.
        kernels, dilations: what a layer may have; strides are 1 or 2.

    Raises:
        StackError: no design fits, or a budget, kernels or dilations that are not positive.

    Example:
        >>> from erfjax.decisions.schedules import Budget, search
        >>> best = search(Budget(trf=27, cost=27))[-1]
        >>> str(best), best.trf  # three-adic dilations: a perfectly flat field
        ('3 3d3 3d9', 27)
    """
    if not kernels or not dilations or min(kernels) < 2 or min(dilations) < 1:
        raise StackError(
            f"Kernels of 2 taps or more and positive dilations are needed, but got {tuple(kernels)}, {tuple(dilations)}."
        )
    whole = (budget.trf, budget.stride, 1 if budget.depth is None else budget.depth)
    if not all(isinstance(n, int | np.integer) and n > 0 for n in whole) or not 0 < budget.cost < math.inf:
        raise StackError(
            f"TRF, stride and depth must be positive integers and the cost positive and finite, but got {budget}."
        )
    top = 2 ** int(math.log2(budget.stride))
    limit = math.floor(budget.cost * top**2 + 1e-9)  # costs in units of 1 / top²
    states: dict[int, dict[tuple[int, int], dict[int, Any]]] = {1: {(0, 1): {0: (0, None)}}}
    ends: dict[int, Any] = {}
    moves = [(k, d, s) for k in kernels for d in dilations for s in (1, 2)]
    for trf in range(1, budget.trf + 1):
        for (depth, j), found in states.pop(trf, {}).items():
            for cost, (value, path) in _undominated(found):
                if depth == budget.depth or (budget.depth is None and path):
                    _keep(ends, cost, value, path)
                if depth == budget.depth:
                    continue
                for k, d, s in moves:
                    after, spent = (
                        trf + j * d * (k - 1),
                        cost + (k * top // (j * s)) ** 2 if j * s <= top else limit + 1,
                    )
                    if spent > limit or after > budget.trf or not allowed(budget.spacing, j, d, trf, value):
                        continue
                    state = (depth + 1 if budget.depth else 0, j * s)
                    kept = states.setdefault(after, {}).setdefault(state, {})
                    _keep(kept, spent, value + (j * d) ** 2 * (k * k - 1), (Layer(k, d, s), path))
    if not ends:
        raise StackError(f"No design fits {budget}: allow a larger TRF, a larger cost or fewer layers.")
    return tuple(Design(unrolled(path)) for _, (_, path) in _undominated(ends))


def allowed(spacing: Spacing, j: int, d: int, trf: int, value: int) -> bool:
    """Whether taps j d apart are close enough for what lies below: a field of `trf` pixels with 12 σ² = `value`."""
    if spacing == "smooth":
        return j * d <= trf and (d == 1 or 3 * (j * d) ** 2 <= value)
    return spacing == "any" or j * d <= trf


def _keep(found: dict[int, Any], cost: int, value: int, path: Any) -> None:
    if cost not in found or found[cost][0] < value:
        found[cost] = (value, path)


def _undominated(found: dict[int, Any]) -> Iterable[tuple[int, Any]]:
    """By rising cost, what beats all that is cheaper."""
    best = -1
    for cost in sorted(found):
        if found[cost][0] > best:
            best = found[cost][0]
            yield cost, found[cost]


def unrolled(path: Any) -> tuple[Layer, ...]:
    """The layers of a path of nested pairs (layer, path below), input to output."""
    layers: list[Layer] = []
    while path is not None:
        layer, path = path
        layers.append(layer)
    return tuple(reversed(layers))
