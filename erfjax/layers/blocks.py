"""The layers of today's blocks: `Norm`, `Dense`, `Attention`, `Upsample` and `ConvTranspose`.

decoder = Dense() * (1 + Norm() * Attention(4)) ** 12
block = 1 + Norm() * Dense(expand=4) * Activation("gelu") * Dense()
unet = 1 + Conv(3, stride=2) * Conv(3) * Upsample(2, "bilinear")
"""

import dataclasses
import math
import numbers
from fractions import Fraction
from typing import Any, get_args

import numpy as np

from erfjax.errors import StackError
from erfjax.layers.kinds import Conv, Layer, Windowed, activated, checked_size, per_axis, random_convolution
from erfjax.layers.operations import Attend, Insert, Method, Normalise, Norms, Resize
from erfjax.layers.plan import Fixed, Plan, Scope, Series, Sliding, convolution, one_tap
from erfjax.typing import Number


@dataclasses.dataclass(frozen=True, repr=False)
class Norm(Layer):
    """Normalisation over the channels of every position, without learned scales: "layer" (mean off first) or "rms".

    Its gradient is divided by the standard deviation of the position. Closed forms take that from mean field, for an input of
    independent pixels of unit second moment, and the 1/channels of normal features: (1 + 1/d) in E[g²] at one position.

    Raises:
        StackError: no such kind.

    Source: J. Ba, J. Kiros, G. Hinton, Layer Normalization, 2016; B. Zhang, R. Sennrich, Root Mean Square Layer
        Normalization, 2019.

    Example:
        >>> from erfjax.layers import Conv, Norm
        >>> field = (Conv((3,)) * Norm() * Conv((3,)) * Norm("rms")).analytic(channels="random-signs")
        >>> [round(float(share), 4) for share in field.normalised()]
        [0.1111, 0.2222, 0.3333, 0.2222, 0.1111]
    """

    kind: Any = "layer"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Norms):
            raise StackError(f'`kind` must be "layer" or "rms", but got {self.kind!r}.')

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        return Normalise(repr(self), self.kind, channels), channels


@dataclasses.dataclass(frozen=True, repr=False)
class Dense(Layer):
    """A random matrix over the channels, the same at every position: a convolution of one tap, whatever the number of axes.

    `expand` multiplies the channels that it makes, as in the middle of a perceptron.

    Raises:
        StackError: `expand` is no positive integer.

    Example:
        >>> from erfjax.layers import Activation, Dense
        >>> perceptron = Dense(expand=4) * Activation("gelu") * Dense()
        >>> perceptron.theoretical().size, perceptron.depth
        ((1, 1), 2)
    """

    expand: Any = 1

    _weighted = True
    _depth = 1

    def __post_init__(self) -> None:
        if not isinstance(checked_size("expand", self.expand), int):
            raise StackError(f"`expand` must be one positive integer, but got {self.expand!r}.")

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        window = one_tap(repr(self), scope.ndim)
        return random_convolution(scope, window, channels, out * self.expand, gain)


@dataclasses.dataclass(frozen=True, repr=False)
class Attention(Layer):
    """Multi-head softmax attention over all positions, with weights for queries, keys, values and outputs; it keeps the channels.

    Scores are `scale` · q·k / √(channels of a head). Of several axes positions are taken together, as the tokens of an image.

    Without a mask the number of axes is that of the rest of the stack: an encoder of a sequence begins with `Conv((1,))`, say.

    Closed forms take the attention weights as uniform over what the mask leaves. That is the limit of small scores: it is exact
    for `scale=0`, where no queries and keys are drawn, close for a scale of 0.1, and approximate otherwise.

    Args:
        heads: number of heads; it must divide the channels.
        mask: "full"; "causal": a position and all before it; a number W: the W latest positions. The last two are for one axis.
        scale: factor on the scores.

    Raises:
        StackError: no such mask, heads that are no positive integer, a negative scale.

    Source: A. Vaswani et al., Attention Is All You Need, 2017.

    Example:
        >>> from erfjax.layers import Attention, Dense
        >>> decoder = Dense() * Attention(4, "causal", scale=0)
        >>> field = decoder.analytic(image_shape=4, unit=2, channels="random-signs")
        >>> [round(float(share), 4) for share in field.normalised()], field.coverage
        ([0.3333, 0.3333, 0.3333, 0.0], 'exact')
    """

    heads: Any = 1
    mask: Any = "full"
    scale: Number = 1.0

    def __post_init__(self) -> None:
        if not isinstance(checked_size("heads", self.heads), int):
            raise StackError(f"`heads` must be one positive integer, but got {self.heads!r}.")
        if isinstance(self.mask, str) and self.mask not in ("full", "causal"):
            raise StackError(f'`mask` must be "full", "causal" or a number of positions, but got {self.mask!r}.')
        if not isinstance(self.mask, str) and not isinstance(checked_size("mask", self.mask), int):
            raise StackError(f"A sliding window is one number of positions, but `mask` is {self.mask!r}.")
        if not isinstance(self.scale, numbers.Real) or not 0 <= self.scale < math.inf:
            raise StackError(f"`scale` must be 0 or more, but got {self.scale!r}.")

    @property
    def _ndim(self) -> int | None:  # type: ignore[override]
        return None if self.mask == "full" else 1

    def _gain(self, gain: float) -> float:
        return 1.0

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        if scope.ndim != 1 and self.mask != "full":
            raise StackError(f'{self!r} is for one axis, but this stack has {scope.ndim}: give mask="full".')
        window = one_tap(repr(self), scope.ndim)
        inner = [convolution(scope.settings, window, channels, channels, 1.0) for _ in range(4 if self.scale else 2)]
        return Attend(repr(self), self.heads, self.mask, float(self.scale), tuple(inner)), channels


@dataclasses.dataclass(frozen=True, repr=False)
class Upsample(Layer):
    """The image enlarged by a whole factor: "nearest" repeats pixels, "bilinear" interpolates between their centres.

    Raises:
        StackError: a factor that is no positive integer, no such method.

    Example:
        >>> from erfjax.layers import Conv, Upsample
        >>> (Conv(3) * Upsample(2) * Conv(3)).theoretical((9, 12)).stride
        (0.5, 0.5)
    """

    factor: Any = 2
    method: Any = "nearest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", checked_size("factor", self.factor))
        if self.method not in get_args(Method):
            raise StackError(f'`method` must be "nearest" or "bilinear", but got {self.method!r}.')

    @property
    def _ndim(self) -> int | None:  # type: ignore[override]
        return len(self.factor) if isinstance(self.factor, tuple) else None

    def _stride(self, ndim: int) -> tuple[Any, ...]:
        return tuple(Fraction(1, f) for f in per_axis(self.factor, ndim))

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        return Resize(repr(self), per_axis(self.factor, scope.ndim), self.method), channels


@dataclasses.dataclass(frozen=True, repr=False)
class ConvTranspose(Windowed):
    """A transposed convolution: `stride` - 1 zeros between pixels, then a convolution of stride 1.

    Without `weights` it is full and random, with them a fixed filter on every channel alone, as for `Conv`: the tap m of the
    kernel
    is what unit o takes from place o + m of the image with zeros. "SAME" gives n·stride units, "VALID" n·stride + max(k -
    stride, 0),
    as `jax.lax.conv_transpose`; numbers cut that many units from the largest output of (n - 1)·stride + k, as in PyTorch.

    Raises:
        StackError: as `Conv`.

    Example:
        >>> from erfjax.layers import ConvTranspose
        >>> up = ConvTranspose(4, stride=2, padding=1)
        >>> up.theoretical((5, 8)).output_shape
        (10, 16)
    """

    kernel_size: Any = None
    stride: Any = 2
    padding: Any = "SAME"
    weights: Any = None

    def __post_init__(self) -> None:
        if self.padding == "SAME_LOWER":
            raise StackError('`padding` of a transposed convolution must be "SAME", "VALID" or numbers.')
        if self.weights is not None:
            filter_ = Conv(self.kernel_size, weights=self.weights)
            object.__setattr__(self, "kernel_size", filter_.kernel_size)
            object.__setattr__(self, "weights", filter_.weights)
        self._check()

    def _sizes(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding

    @property
    def _weighted(self) -> bool:  # type: ignore[override]
        return self.weights is None

    @property
    def _depth(self) -> int:  # type: ignore[override]
        return 1

    def _gain(self, gain: float) -> float:
        return 1.0

    def _stride(self, ndim: int) -> tuple[Any, ...]:
        return tuple(Fraction(1, f) for f in per_axis(self.stride, ndim))

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        sizes = [per_axis(size, scope.ndim) for size in self._sizes()]
        ones = (1,) * scope.ndim
        window = Sliding(repr(self), sizes[0], ones, ones, tuple(map(_outer, *sizes)))
        insert = Insert(f"{self!r}: zeros", sizes[1])
        if self.weights is not None:
            return Series((insert, activated(scope, Fixed(**vars(window), weights=np.array(self.weights))))), channels
        plan, made = random_convolution(scope, window, channels, out, gain)
        return Series((insert, plan)), made


def _outer(k: int, s: int, padding: Any) -> tuple[int, int]:
    """What a convolution of stride 1 adds to an axis on which `s` - 1 zeros stand between pixels."""
    if isinstance(padding, str):
        total = k + s - 2 + (max(k - s, 0) if padding == "VALID" else 0)
        low = k - 1 if padding == "VALID" or s > k - 1 else -(-total // 2)
        return low, total - low
    low, high = padding if isinstance(padding, tuple) else (padding, padding)
    return k - 1 - low, k - 1 - high
