"""The plan of a stack: what is left when composing, branching and repeating are unrolled and every channel count is known.

`Stack._build` writes plans; `networks` draws and runs them; `theoretical` and `analytic` read fields off them. All see the same
handful of operations: a sliding window with weights, with a fixed kernel or with a maximum; a gate; dropout; a factor; what
`operations` adds; parts in series or in parallel.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from erfjax import initializers
from erfjax.errors import StackError
from erfjax.geometry import Window, resolve_padding

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a stack leaves open about the network it describes.

    Attributes:
        width: channels that every convolution makes but the last.
        in_channels: channels of the input.
        out_channels: channels that the last convolution makes; None: `width`.
        activation: a nonlinearity after every convolution, the last included, besides the `Activation` layers of the stack; a
            name of `ACTIVATIONS` or any elementwise function.
        init: "he" (normal with variance 1/(fan_in E[φ'²]) for the gate φ that follows the convolution: 2/fan_in before a
            ReLU, 1/fan_in before none), "lecun", "glorot", "uniform" (every weight the same: each convolution is a mean), or any
            callable with the signature of `jax.nn.initializers`, for kernels (*space, in, out).
        dtype: of the weights; None: JAX's default floating type.
    """

    width: int = 32
    in_channels: int = 3
    out_channels: int | None = None
    activation: Any = "linear"
    init: Any = "he"
    dtype: Any = None

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Settings":
        """The settings that keywords give.

        Raises:
            StackError: there is no such setting, or channels are not positive.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(given) - set(names)):
            raise StackError(f"There is no setting {unknown[0]!r}: a stack takes {', '.join(names)}.")
        chosen = dict(given)
        for name in {"width", "in_channels", "out_channels"} & set(given):
            if given[name] is None and name == "out_channels":
                continue
            try:
                chosen[name] = operator.index(given[name])
            except TypeError:
                chosen[name] = 0
            if chosen[name] < 1:
                raise StackError(f"`{name}` must be a positive integer, but got {given[name]!r}.")
        return cls(**chosen)


class Scope(NamedTuple):
    """What every layer needs to know to become an operation: the number of spatial axes and the user's settings."""

    ndim: int
    settings: Settings


class Read(NamedTuple):
    """The positions i with i·base = o·stride + t·dilation + offset, 0 <= t < taps, that unit o reads along one axis."""

    taps: int = 1
    stride: int = 1
    dilation: int = 1
    offset: int = 0
    base: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One step of a plan: a pointwise one unless it says otherwise. `label` is how the user wrote it."""

    label: str

    varies: ClassVar[bool] = False  # whether units see differently, so that no polynomial says what all of them see

    @property
    def inner(self) -> tuple["Weighted", ...]:
        """The random matrices that an operation holds."""
        return ()

    def windows(self, shape: Shape) -> tuple[Window, ...]:
        """One window per axis of an image of `shape`."""
        return tuple(Window(1) for _ in shape)

    def seen(self, shape: Shape) -> tuple[Window, ...]:
        """The smallest windows that hold every tap."""
        return self.windows(shape)

    def output(self, shape: Shape) -> Shape:
        """The spatial shape behind it."""
        return tuple(window.output_size(n) for window, n in zip(self.windows(shape), shape, strict=True))

    def reads(self, shape: Shape) -> list[tuple[Read, ...]]:
        """What a unit reads, as a union of products over the axes."""
        windows, offsets = self.windows(shape), getattr(self, "offsets", None)
        taps = [[(0, w.kernel) for w in windows]]  # per axis: the first tap and how many follow it
        if offsets is not None:
            taps = [[(o, 1) for o in offset] for offset in offsets]
        return [
            tuple(
                Read(count, w.stride, w.dilation, first * w.dilation - w.padding_low)
                for w, (first, count) in zip(windows, along, strict=True)
            )
            for along in taps
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Sliding(Operation):
    """A step that reads windows; `padding` is one entry per axis, as in `geometry.resolve_padding`."""

    kernel: Shape
    stride: Shape
    dilation: Shape
    padding: tuple[Any, ...]

    def windows(self, shape: Shape) -> tuple[Window, ...]:
        return tuple(
            Window(k, s, d, *resolve_padding(p, n, k, s, d))
            for k, s, d, p, n in zip(self.kernel, self.stride, self.dilation, self.padding, shape, strict=True)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Weighted(Sliding):
    """A convolution from all input channels to all output channels, with weights of its own.

    `initializer` draws the kernel of `shape` (*space, in, out). With `offsets` (positions in the window, one per tap) the
    kernel has one spatial axis of that many taps. `moments` gives the mean and the variance of a weight, times the input
    channels, on the whole window, and whether they are exact.
    """

    shape: Shape
    initializer: Any
    offsets: tuple[Shape, ...] | None
    moments: Callable[[], tuple[np.ndarray, np.ndarray, bool]]

    def seen(self, shape: Shape) -> tuple[Window, ...]:
        windows = self.windows(shape)
        return windows if self.offsets is None else _around(windows, self.offsets)


def _around(windows: tuple[Window, ...], offsets: tuple[Shape, ...]) -> tuple[Window, ...]:
    """The windows cut down to the taps at these offsets."""
    ends = [(min(axis), max(axis)) for axis in zip(*offsets, strict=True)]
    return tuple(
        Window(
            b - a + 1,
            w.stride,
            w.dilation,
            w.padding_low - a * w.dilation,
            w.padding_high - (w.kernel - 1 - b) * w.dilation,
        )
        for (a, b), w in zip(ends, windows, strict=True)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed(Sliding):
    """The same fixed kernel on every channel: an average, or weights that the user gave; a tap of weight zero is a hole."""

    weights: np.ndarray

    @property
    def offsets(self) -> tuple[Shape, ...] | None:
        """The positions in the window of the taps that are not zero; None if all are not, or all are."""
        held = np.argwhere(self.weights)
        return tuple(map(tuple, held.tolist())) if 0 < len(held) < self.weights.size else None

    def seen(self, shape: Shape) -> tuple[Window, ...]:
        windows = self.windows(shape)
        return windows if self.offsets is None else _around(windows, self.offsets)


@dataclasses.dataclass(frozen=True, eq=False)
class Maximum(Sliding):
    """The maximum of each window, channel by channel."""


@dataclasses.dataclass(frozen=True, eq=False)
class Gate(Operation):
    """An elementwise nonlinearity."""

    function: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Drop(Operation):
    """Inverted dropout at a rate."""

    rate: float


@dataclasses.dataclass(frozen=True, eq=False)
class Gain(Operation):
    """A constant factor."""

    factor: float


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Parts one after the other, input to output; none at all is the identity."""

    parts: tuple["Plan", ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Parallel:
    """Parts side by side, summed."""

    parts: tuple["Plan", ...]


Plan = Operation | Series | Parallel


def steps(plan: Plan) -> Iterator[Operation]:
    """Every operation of a plan, in order."""
    if isinstance(plan, Series | Parallel):
        for part in plan.parts:
            yield from steps(part)
    else:
        yield plan
        yield from plan.inner


def output_shape(plan: Plan, shape: Shape) -> Shape:
    """The spatial shape that a plan makes of an image of `shape`.

    Raises:
        StackError: a window does not fit, or branches end with different shapes.
    """
    if isinstance(plan, Series):
        for part in plan.parts:
            shape = output_shape(part, shape)
        return shape
    if isinstance(plan, Parallel):
        shapes = {output_shape(part, shape) for part in plan.parts}
        if len(shapes) > 1:
            raise StackError(
                f"The branches of a sum must end with the same shape, but on an image of {shape} they end with "
                f'{" and ".join(map(str, sorted(shapes)))}: pad them alike, for example with padding="SAME".'
            )
        return shapes.pop()
    result = plan.output(shape)
    if math.prod(result) == 0:
        raise StackError(f"{plan.label} does not fit into an image of {shape}: use a larger image, or more padding.")
    return result


def backwards(plan: Series, shape: Shape) -> list[tuple[Plan, Shape]]:
    """Every part of a series with the spatial shape before it, last first."""
    result = []
    for part in plan.parts:
        result.append((part, shape))
        shape = output_shape(part, shape)
    return result[::-1]


def convolution(
    settings: Settings, window: Sliding, inputs: int, outputs: int, gain: float, offsets: Any = None
) -> Weighted:
    """The random convolution on a window, drawn as the settings say; `gain` is 1/E[φ'²] of the gate that follows."""
    space = window.kernel if offsets is None else (len(offsets),)
    shape = (*space, inputs, outputs)
    init = initializers.named(settings.init, gain) if isinstance(settings.init, str) else settings.init

    def moments() -> tuple[np.ndarray, np.ndarray, bool]:
        mean, variance, exact = initializers.profile(init, shape)
        mean, variance = inputs * mean, inputs * variance
        return (mean, variance, exact) if offsets is None else (_placed(mean), _placed(variance), exact)

    def _placed(taps: np.ndarray) -> np.ndarray:
        result = np.zeros(window.kernel)
        np.add.at(result, tuple(np.transpose(offsets)), taps)
        return result

    return Weighted(**vars(window), shape=shape, initializer=init, offsets=offsets, moments=moments)


def one_tap(label: str, ndim: int) -> Sliding:
    """The window of a single pixel."""
    ones = (1,) * ndim
    return Sliding(label, ones, ones, ones, ("VALID",) * ndim)


def projection(scope: Scope, inputs: int, outputs: int) -> Weighted:
    """The 1x1 convolution that gives a branch as many channels as the others have."""
    return convolution(scope.settings, one_tap("projection", scope.ndim), inputs, outputs, 1.0)
