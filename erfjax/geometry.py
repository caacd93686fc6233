"""Exact integer arithmetic of windows along one axis: from kernel, stride, dilation and padding to the receptive field.

Notation (A. Araujo, W. Norris, J. Sim, Distill 2019). A layer with kernel k, stride s, dilation d and low padding p has
the dilated kernel d(k - 1) + 1. Through a chain of layers, unit u of the last one sees the half-open interval

    [u S - P, u S - P + r)

of the input, with size r, effective stride S and effective padding P; positions are zero-based and *unclipped*, so
padding counts. `Geometry` holds the three numbers; a layer behind it is `then`, branches that are summed `join`.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Literal

from erfjax.errors import GeometryError

Padding = Literal["SAME", "SAME_LOWER", "VALID"] | int | tuple[int, int]
"""How one axis is padded: by JAX's rules, by one number on both sides, or by (low, high); negative numbers crop."""


@dataclasses.dataclass(frozen=True)
class Window:
    """The sliding window of one layer along one axis: what unit u of its output reads is `interval(u, u + 1)`.

    Attributes:
        kernel, stride, dilation: positive integers; a dilation of d puts d - 1 holes between taps.
        padding_low, padding_high: pixels added before and after the axis; negative ones crop.

    Example:
        >>> from erfjax.geometry import Window
        >>> Window(3, stride=2, padding_low=1, padding_high=1).interval(5, 6)
        (9, 12)
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding_low: int = 0
    padding_high: int = 0

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            if getattr(self, name) < 1:
                raise GeometryError(f"`{name}` must be a positive integer, but got {getattr(self, name)}.")

    @property
    def extent(self) -> int:
        """The pixels from the first tap to the last: d(k - 1) + 1."""
        return self.dilation * (self.kernel - 1) + 1

    def output_size(self, n: int) -> int:
        """How many units n pixels give: ⌊(n + low + high - extent) / s⌋ + 1, and 0 where the window does not fit."""
        return max((n + self.padding_low + self.padding_high - self.extent) // self.stride + 1, 0)

    def interval(self, start: int, stop: int) -> tuple[int, int]:
        """The half-open input interval that the units [start, stop) of the output read; empty stays empty."""
        low = start * self.stride - self.padding_low
        return low, low + ((stop - start - 1) * self.stride + self.extent if stop > start else 0)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The theoretical receptive field along one axis: unit u sees the `size` pixels from u·stride - padding on.

    The default is that of no layer at all: unit u sees pixel u.

    Attributes:
        size: pixels of the input grid that one unit can see.
        stride: effective stride, input pixels from one unit to the next.
        padding: effective padding P.
    """

    size: int = 1
    stride: int = 1
    padding: int = 0

    @property
    def start(self) -> int:
        """The first pixel that unit 0 sees, -P."""
        return -self.padding

    def interval(self, unit: int) -> tuple[int, int]:
        """The half-open, unclipped interval of the input that `unit` sees."""
        start = unit * self.stride - self.padding
        return start, start + self.size

    def then(self, window: Window) -> "Geometry":
        """The field behind one more layer: r ← r + (k - 1) j, P ← P + p j, j ← j s; j is the stride so far.

        Source: Distill 2019, equations 2 and 5, one term at a time.

        Example:
            >>> from erfjax.geometry import Geometry, Window
            >>> Geometry().then(Window(7, 2, padding_low=3)).then(Window(3, 2, padding_low=1))
            Geometry(size=11, stride=4, padding=5)
        """
        return Geometry(
            self.size + (window.extent - 1) * self.stride,
            self.stride * window.stride,
            self.padding + window.padding_low * self.stride,
        )

    def join(self, *others: "Geometry") -> "Geometry":
        """The hull of this field and others: of branches that are summed.

        Raises:
            GeometryError: their strides differ, so no stride describes the sum.

        Example:
            >>> from erfjax.geometry import Geometry
            >>> Geometry(3, padding=1).join(Geometry(4, padding=0))
            Geometry(size=5, stride=1, padding=1)
        """
        every = (self, *others)
        if len(strides := sorted({g.stride for g in every})) > 1:
            raise GeometryError(
                f"Branches of a sum must have one effective stride, but have {strides}: pool them alike."
            )
        low, high = min(g.start for g in every), max(g.start + g.size for g in every)
        return Geometry(high - low, self.stride, -low)


def forward(windows: Iterable[Window]) -> Geometry:
    """The field of a chain of layers, listed in the order input -> output.

    Args:
        windows: the layers, each a `Window`.

    Example:
        >>> from erfjax.geometry import Window, forward
        >>> forward([Window(3, dilation=2), Window(3)]).size
        7
    """
    return functools.reduce(Geometry.then, windows, Geometry())


def resolve_padding(
    padding: Padding, n: int | None, kernel: int, stride: int = 1, dilation: int = 1
) -> tuple[int, int]:
    """The (low, high) pixels that a padding adds to an axis of n pixels.

    "SAME" makes ⌈n / s⌉ units and puts the odd pixel high ("SAME_LOWER": low), as JAX and TensorFlow do; "VALID" adds
    nothing; an integer pads both sides; a pair is (low, high) itself.

    Raises:
        GeometryError: "SAME" with a stride depends on n, so n must not be None there; kernel, stride, dilation below 1.

    Example:
        >>> from erfjax.geometry import resolve_padding
        >>> resolve_padding("SAME", 224, kernel=7, stride=2)
        (2, 3)
    """
    window = Window(kernel, stride, dilation)
    if isinstance(padding, tuple):
        return padding
    if isinstance(padding, int):
        return padding, padding
    if padding == "VALID":
        return 0, 0
    if n is None and stride > 1:
        raise GeometryError(
            f'"{padding}" padding with stride {stride} depends on the size of the axis, which is unknown here: '
            "give the size, or the padding as (low, high)."
        )
    total = window.extent - 1 if n is None else max((-(-n // stride) - 1) * stride + window.extent - n, 0)
    less, more = total // 2, total - total // 2
    return (less, more) if padding == "SAME" else (more, less)
