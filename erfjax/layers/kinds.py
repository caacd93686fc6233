"""The layers: `Conv`, `SparseConv`, `AvgPool`, `MaxPool`, `Activation` and `Dropout`.

Sizes are one number for all axes or a tuple with one entry per axis; a tuple also fixes the number of axes (`Conv((3,))` is
1-D, `Conv((3, 3, 3))` 3-D), and numbers follow what the rest of the stack says, 2-D if nothing does. Padding is "SAME", "VALID"
or "SAME_LOWER" as in JAX, a number for both sides of every axis, or one number or (low, high) pair per axis.
"""

import dataclasses
import operator
from typing import Any

import numpy as np

from erfjax.closed_form.kernels import host
from erfjax.errors import KernelError, StackError
from erfjax.layers import gates
from erfjax.layers.plan import Drop, Fixed, Gate, Maximum, Operation, Plan, Scope, Series, Shape, Sliding, convolution
from erfjax.layers.stack import Stack
from erfjax.typing import Number


class Layer(Stack):
    """A stack of a single layer; prints as its constructor with what differs from the defaults."""

    def __repr__(self) -> str:
        shown = []
        for i, field in enumerate(dataclasses.fields(self)):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if i == 0 or value != field.default:
                shown.append(repr(value) if i == 0 else f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Windowed(Layer):
    """A layer that slides a window: the sizes are checked here, and spread over the axes."""

    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any = 1

    def _check(self) -> None:
        for name in ("kernel_size", "stride", "dilation"):
            if name in vars(self):
                object.__setattr__(self, name, checked_size(name, getattr(self, name)))
        object.__setattr__(self, "padding", checked_padding(self.padding))
        lengths = {len(size) for size in self._sizes() if isinstance(size, tuple)}
        if len(lengths) > 1:
            raise StackError(
                f"{self!r} speaks of {' and '.join(map(str, sorted(lengths)))} axes at once: give one entry per axis."
            )

    def _sizes(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.dilation, self.padding

    @property
    def _ndim(self) -> int | None:  # type: ignore[override]
        return next((len(size) for size in self._sizes() if isinstance(size, tuple)), None)

    def _stride(self, ndim: int) -> Shape:
        return per_axis(self.stride, ndim)

    def _window(self, ndim: int) -> Sliding:
        return Sliding(repr(self), *(per_axis(size, ndim) for size in self._sizes()))


@dataclasses.dataclass(frozen=True, repr=False)
class Conv(Windowed):
    """A convolution. Without `weights` it is full (every input to every output channel) and random, drawn as `init` says.

    With `weights` it is a fixed filter, the same on every channel alone (so channels do not mix and do not change): an array of
    the kernel's shape, which `kernel_size` may then leave out. A kernel of weights w sends the gradient of a unit to its
    input pixels as w: `Conv(weights=w).analytic("mean").map` is w itself.

    Raises:
        StackError: sizes that are not positive integers, unknown padding, weights of another shape.

    Example:
        >>> from erfjax.layers import Conv
        >>> Conv((3, 5), stride=2) * Conv(weights=[[0.25, 0.5, 0.25]])
        Conv((3, 5), stride=2) * Conv((1, 3), weights=((0.25, 0.5, 0.25),))
    """

    kernel_size: Any = None
    stride: Any = 1
    dilation: Any = 1
    padding: Any = "SAME"
    weights: Any = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            try:
                kernel = host(self.weights)
            except KernelError as error:
                raise StackError(f"`weights` must be an array of finite numbers: {error}") from error
            given = kernel.shape if self.kernel_size is None else checked_size("kernel_size", self.kernel_size)
            if kernel.shape != per_axis(given, kernel.ndim):
                raise StackError(f"`weights` must have the shape of the kernel, {given}, but have {kernel.shape}.")
            object.__setattr__(self, "kernel_size", kernel.shape)
            object.__setattr__(self, "weights", nested(kernel.tolist()))
        self._check()

    @property
    def _weighted(self) -> bool:  # type: ignore[override]
        return self.weights is None

    @property
    def _depth(self) -> int:  # type: ignore[override]
        return 1

    def _gain(self, gain: float) -> float:
        return 1.0

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        window = self._window(scope.ndim)
        if self.weights is not None:
            fixed = Fixed(**vars(window), weights=np.array(self.weights))
            return activated(scope, fixed), channels
        return random_convolution(scope, window, channels, out, gain)


@dataclasses.dataclass(frozen=True, repr=False)
class SparseConv(Windowed):
    """A convolution with few taps, drawn at random over a large window: a k-tap cost with a wide field.

    `count` distinct positions of the window are drawn once with `seed`, uniformly; weights are random as for `Conv`. Its
    variance profile is 1/count at those positions, with the variance of the window rather than of a small kernel (sparse
    connections beyond the grid: W. Luo et al. 2016, section 4). `offsets` gives the positions instead.

    Raises:
        StackError: more taps than the window has positions, or offsets outside it.

    Example:
        >>> from erfjax.layers import Conv, SparseConv
        >>> wide, dense = SparseConv(15, count=9, seed=1) ** 5, Conv(3) ** 5
        >>> min(wide.variance()) > 10 * max(dense.variance())
        True
    """

    kernel_size: Any
    count: int = 9
    seed: int = 0
    stride: Any = 1
    padding: Any = "SAME"
    offsets: Any = None

    def __post_init__(self) -> None:
        self._check()
        if self.offsets is not None:
            offsets = tuple(tuple(int(i) for i in np.atleast_1d(offset)) for offset in self.offsets)
            object.__setattr__(self, "offsets", offsets)
            object.__setattr__(self, "count", len(offsets))
            window = per_axis(self.kernel_size, len(offsets[0])) if offsets else ()
            inside = all(
                len(o) == len(window) and all(0 <= i < k for i, k in zip(o, window, strict=True)) for o in offsets
            )
            if not offsets or not inside or len(set(offsets)) < len(offsets):
                raise StackError(
                    f"`offsets` must be distinct positions inside the window {self.kernel_size}, but got {offsets}."
                )
        elif not isinstance(self.count, int) or self.count < 1:
            raise StackError(f"`count` must be a positive number of taps, but got {self.count!r}.")

    @property
    def _ndim(self) -> int | None:  # type: ignore[override]
        return len(self.offsets[0]) if self.offsets is not None else super()._ndim

    _weighted = True
    _depth = 1

    def positions(self, ndim: int | None = None) -> tuple[Shape, ...]:
        """The positions of the taps in the window, in row-major order.

        Raises:
            StackError: the window has fewer positions than there are taps.
        """
        if self.offsets is not None:
            return tuple(sorted(self.offsets))
        window = per_axis(self.kernel_size, ndim or self.ndim)
        total = int(np.prod(window))
        if self.count > total:
            raise StackError(f"A window of {window} has {total} positions, but {self.count} taps are asked for.")
        chosen = np.sort(np.random.default_rng(self.seed).permutation(total)[: self.count])
        return tuple(zip(*(axis.tolist() for axis in np.unravel_index(chosen, window)), strict=True))

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        return random_convolution(scope, self._window(scope.ndim), channels, out, gain, self.positions(scope.ndim))


@dataclasses.dataclass(frozen=True, repr=False)
class Pool(Windowed):
    """A layer that makes one value of each window, channel by channel; the stride is the window unless given."""

    kernel_size: Any
    stride: Any = None
    padding: Any = "SAME"

    def __post_init__(self) -> None:
        if self.stride is None:
            object.__setattr__(self, "stride", self.kernel_size)
        self._check()


class AvgPool(Pool):
    """The average of each window; the stride is the window unless given. Padding counts as zeros, so the kernel is uniform.

    Example:
        >>> from erfjax.layers import AvgPool, Conv
        >>> (Conv(3) * AvgPool(2)).theoretical().size
        (4, 4)
    """

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        window = self._window(scope.ndim)
        return Fixed(**vars(window), weights=np.full(window.kernel, 1 / np.prod(window.kernel))), channels


class MaxPool(Pool):
    """The maximum of each window; the stride is the window unless given.

    Closed forms take every pixel of a window to be the maximum equally often, and so are approximate.

    Example:
        >>> from erfjax.layers import MaxPool
        >>> MaxPool(3, stride=2).effective_stride
        (2, 2)
    """

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        return Maximum(**vars(self._window(scope.ndim))), channels


@dataclasses.dataclass(frozen=True, repr=False)
class Activation(Layer):
    """An elementwise nonlinearity: a name of `jax.nn` ("relu", "tanh", "gelu" ...) or any elementwise JAX function.

    Raises:
        StackError: there is none of that name.

    Example:
        >>> from erfjax.layers import Activation, Conv
        >>> (Conv(3) * Activation("tanh")) ** 2
        (Conv(3) * Activation('tanh')) ** 2
    """

    function: Any

    def __post_init__(self) -> None:
        gates.resolve(self.function)

    def _gain(self, gain: float) -> float:
        function = gates.resolve(self.function)
        return gain if function is None else gates.gain(function)

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        return _gate(self.function), channels


@dataclasses.dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """Inverted dropout: each activation is zero with probability `rate`, else divided by 1 - rate, as in Flax and PyTorch.

    E[g²] grows by 1/(1 - rate); the shape of the map stays.

    Raises:
        StackError: the rate is not in [0, 1).

    Example:
        >>> from erfjax.layers import Conv, Dropout
        >>> float((Conv(3) * Dropout(0.2)).analytic(out_channels=4).map.sum().round(6))
        5.0
    """

    rate: Number

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise StackError(f"`rate` is the probability of a zero and lies in [0, 1), but got {self.rate}.")

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        return Drop(repr(self), float(self.rate)), channels


def random_convolution(
    scope: Scope, window: Sliding, channels: int, out: int, gain: float, offsets: Any = None
) -> tuple[Plan, int]:
    function = gates.resolve(scope.settings.activation)
    if function is not None:
        gain = gates.gain(function)
    return activated(scope, convolution(scope.settings, window, channels, out, gain, offsets)), out


def activated(scope: Scope, operation: Operation) -> Plan:
    gate = _gate(scope.settings.activation)
    return Series((operation, gate)) if isinstance(gate, Gate) else operation


def _gate(activation: Any) -> Plan:
    function = gates.resolve(activation)
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", repr(activation))
    return Series(()) if function is None else Gate(name, function)


def checked_size(name: str, value: Any) -> Any:
    """A positive integer, or a tuple of them."""
    try:
        result = tuple(map(operator.index, value)) if np.iterable(value) else operator.index(value)
    except TypeError as error:
        raise StackError(f"`{name}` must be an integer or one integer per axis, but got {value!r}.") from error
    if min(np.atleast_1d(result), default=0) < 1:
        raise StackError(f"`{name}` must be positive, but got {value!r}.")
    return result


def checked_padding(value: Any) -> Any:
    """A name, a number, or a tuple with one number or (low, high) pair per axis."""
    if isinstance(value, str):
        if value not in ("SAME", "SAME_LOWER", "VALID"):
            raise StackError(f'`padding` must be "SAME", "SAME_LOWER", "VALID" or numbers, but got {value!r}.')
        return value
    try:
        if not np.iterable(value):
            return operator.index(value)
        entries = tuple(tuple(map(operator.index, v)) if np.iterable(v) else (operator.index(v),) * 2 for v in value)
    except TypeError as error:
        raise StackError(
            f"`padding` must be a number or one number or (low, high) per axis, but got {value!r}."
        ) from error
    if not entries or any(len(entry) != 2 for entry in entries):
        raise StackError(f"`padding` must have one number or (low, high) pair per axis, but got {value!r}.")
    return entries


def per_axis(value: Any, ndim: int) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,) * ndim


def nested(values: Any) -> Any:
    return tuple(map(nested, values)) if isinstance(values, list) else values
