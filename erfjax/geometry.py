"""Exact integer arithmetic of windows along one axis: from kernel, stride, dilation and padding to the receptive field.

Notation (A. Araujo, W. Norris, J. Sim, Distill 2019). A layer with kernel k, stride s, dilation d and low padding p has
the dilated kernel d(k - 1) + 1. Through a chain of layers, unit u of the last one sees the half-open interval

    [u S - P, u S - P + r)

of the input, with size r, effective stride S and effective padding P; positions are zero-based and *unclipped*, so
padding counts. `backward`, `forward` and `closed` are the three textbook ways to r, S and P, and agree on every chain.
Windows are listed in the order input -> output.
"""

import dataclasses
import itertools
from collections.abc import Sequence
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
    """The theoretical receptive field of a chain along one axis: unit u sees `size` pixels from u·stride + start on.

    Attributes:
        size: pixels of the input grid that one unit can see.
        stride: effective stride, input pixels from one unit to the next.
        padding: effective padding P.
        start: first pixel of unit 0, always -P.
    """

    size: int
    stride: int
    padding: int
    start: int

    def interval(self, unit: int) -> tuple[int, int]:
        """The half-open, unclipped interval of the input that `unit` sees."""
        start = unit * self.stride + self.start
        return start, start + self.size

    def centre(self, unit: int) -> float:
        """The centre of what `unit` sees, in pixels: -P + u S + (r - 1)/2."""
        return self.start + unit * self.stride + (self.size - 1) / 2


def backward(windows: Sequence[Window]) -> Geometry:
    """The field by walking from the output to the input: r ← s r + k - s, S ← s S, P ← s P + p.

    Source: Distill 2019, equations 1 to 4.

    Example:
        >>> from erfjax.geometry import Window, backward
        >>> backward([Window(7, 2, padding_low=3), Window(3, 2, padding_low=1)])
        Geometry(size=11, stride=4, padding=5, start=-5)
    """
    size, stride, padding = 1, 1, 0
    for window in reversed(windows):
        size = window.stride * size + window.extent - window.stride
        stride *= window.stride
        padding = window.stride * padding + window.padding_low
    return Geometry(size, stride, padding, -padding)


def forward(windows: Sequence[Window]) -> Geometry:
    """The field by walking from the input to the output: r ← r + (k - 1) j, c ← c + ((k - 1)/2 - p) j, j ← j s.

    j is the jump (the stride so far) and c the centre of unit 0, carried doubled so that every step is an integer.
    Source: V. Dumoulin, F. Visin 2016, as used by Distill 2019.

    Example:
        >>> from erfjax.geometry import Window, forward
        >>> forward([Window(3, dilation=2), Window(3)]).size
        7
    """
    size, jump, twice_centre = 1, 1, 0
    for window in windows:
        size += (window.extent - 1) * jump
        twice_centre += (window.extent - 1 - 2 * window.padding_low) * jump
        jump *= window.stride
    start = (twice_centre - (size - 1)) // 2
    return Geometry(size, jump, -start, start)


def closed(windows: Sequence[Window]) -> Geometry:
    """The field in closed form: r = 1 + Σ_l (k_l - 1) j_l, P = Σ_l p_l j_l with j_l = Π_{i<l} s_i, S = Π_l s_l.

    Source: Distill 2019, equations 2 and 5.

    Example:
        >>> from erfjax.geometry import Window, closed
        >>> closed([Window(3)] * 20).size
        41
    """
    *jumps, stride = itertools.accumulate((window.stride for window in windows), int.__mul__, initial=1)
    size = 1 + sum((window.extent - 1) * jump for window, jump in zip(windows, jumps, strict=True))
    padding = sum(window.padding_low * jump for window, jump in zip(windows, jumps, strict=True))
    return Geometry(size, stride, padding, -padding)


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
