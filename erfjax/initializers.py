"""Random initialisers that shape the effective receptive field, with the signature of `jax.nn.initializers`.

At initialisation the map of E[g²] is the product of the layers' *variance profiles* (W. Luo et al. 2016, section 4):
where a kernel has its variance is where a unit looks. Every initialiser here draws independent zero-mean normal weights,

    Var w(m) = scale · p(m) / C,     Σ_m p(m) = 1,     C = input channels (fan_in), output channels (fan_out) or their mean,

so that only the profile p over the taps m differs from He's flat one and the total, hence the variance of the signal, is kept:
scale = 2 for a layer before a ReLU, 1 for a linear one. They are called as `init(key, shape, dtype)`, with the kernel's axes in
any order (`in_axis`, `out_axis`; what is left is space), so Flax takes them as they are (HWIO, the default), Equinox with
`in_axis=1, out_axis=0` (OIHW), Haiku as `lambda shape, dtype: init(hk.next_rng_key(), shape, dtype)`.
Weights that keep a single pixel are JAX's own `jax.nn.initializers.delta_orthogonal`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from erfjax.errors import KernelError

Mode = Literal["fan_in", "fan_out", "fan_avg"]
DRAWS = 64  # of an initialiser whose variance is not known in closed form


class Initializer(Protocol):
    """Whatever `jax.nn.initializers` makes."""

    def __call__(self, key: Any, shape: Any, dtype: Any = ..., /) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Shaped:
    """An initialiser: independent normal weights whose variance follows a profile over the taps of the kernel.

    Attributes:
        taps: gives the non-negative profile for a spatial kernel shape; it is normalised to sum to one.
        scale: the variance of a kernel's response to input of unit second moment (2: before a ReLU, 1: linear).
        mode: what the variance is divided by: input channels, output channels, or their mean.
        in_axis, out_axis: the axes of the input and output channels; all others are space.

    Example:
        >>> import erfjax as ej, jax
        >>> init = ej.initializers.corner_weighted(softness=0.0)
        >>> init(jax.random.key(0), (3, 3, 16, 32)).shape
        (3, 3, 16, 32)
        >>> (init.variance((3, 16, 32)) * 16).tolist()
        [1.0, 0.0, 1.0]
    """

    taps: Callable[[tuple[int, ...]], np.ndarray]
    scale: float = 2.0
    mode: Mode = "fan_in"
    in_axis: int = -2
    out_axis: int = -1

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = None) -> Array:
        """A kernel of `shape` drawn with `key`."""
        return self.shaped(jax.random.normal(key, tuple(shape), dtype or jnp.zeros(()).dtype))

    def shaped(self, normal: Array) -> Array:
        """Standard normal numbers, an array of the kernel's shape, scaled to the profile."""
        channels = _channel_axes(normal.shape, self.in_axis, self.out_axis)
        deviation = np.expand_dims(np.sqrt(self.variance(normal.shape)), channels)
        return normal * jnp.broadcast_to(jnp.asarray(deviation, normal.dtype), normal.shape)

    def variance(self, shape: Sequence[int]) -> Float[np.ndarray, "*space"]:
        """The exact variance of a weight at every tap of a kernel of `shape`."""
        axes = _channel_axes(shape, self.in_axis, self.out_axis)
        space = tuple(int(n) for axis, n in enumerate(shape) if axis not in axes)
        profile = np.asarray(self.taps(space), np.float64)
        if profile.shape != space or not (profile >= 0).all() or not 0 < profile.sum() < math.inf:
            raise KernelError(
                f"A variance profile for a kernel of spatial shape {space} must be non-negative, of that shape and not all "
                f"zero, but got shape {profile.shape} with sum {profile.sum()}."
            )
        inputs, outputs = (int(shape[axis]) for axis in axes)
        fans = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}
        if self.mode not in fans or not 0 < self.scale < math.inf:
            raise KernelError(
                f"`mode` must be one of {', '.join(fans)} and `scale` positive, but got {self.mode!r} and {self.scale}."
            )
        return np.asarray(profile * (self.scale / ((fans[self.mode] or 1) * profile.sum())))


@dataclasses.dataclass(frozen=True)
class Constant:
    """The initialiser of the uniform weights of W. Luo et al. 2016: every weight is one over the number that are summed.

    Not random: each output is the mean of what its kernel covers, over taps and input channels, so values cannot explode.

    Example:
        >>> import erfjax as ej, jax
        >>> float(ej.initializers.Constant()(jax.random.key(0), (2, 2, 4, 8)).sum())
        8.0
    """

    in_axis: int = -2
    out_axis: int = -1

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = None) -> Array:
        """A kernel of `shape`; the key is not used."""
        outputs = int(shape[_channel_axes(shape, self.in_axis, self.out_axis)[1]])
        return jnp.full(tuple(shape), outputs / math.prod(shape), dtype or jnp.zeros(()).dtype)


def flat(scale: float = 2.0, mode: Mode = "fan_in", in_axis: int = -2, out_axis: int = -1) -> Shaped:
    """The initialiser with the same variance at every tap: He's for scale 2, LeCun's for scale 1, Glorot's for `mode="fan_avg"`.

    Args:
        scale: the variance of a kernel's response to input of unit second moment (2: before a ReLU, 1: linear).
        mode: what the variance is divided by: "fan_in" channels, "fan_out" channels or "fan_avg", their mean.
        in_axis, out_axis: the axes of the input and output channels; all others are space.

    Source: K. He et al. 2015, equations 10 and 14.

    Example:
        >>> import erfjax as ej
        >>> float(ej.initializers.flat().variance((3, 3, 16, 32))[0, 0] * 9 * 16)
        2.0
    """
    return Shaped(np.ones, scale, mode, in_axis, out_axis)


def corner_weighted(
    softness: float = 0.0, scale: float = 2.0, mode: Mode = "fan_in", in_axis: int = -2, out_axis: int = -1
) -> Shaped:
    """The initialiser with the widest effective receptive field: the variance sits in the corners of the kernel.

    Along each axis p = (1 - softness)·(1/2, 0, ..., 0, 1/2) + softness·(1/k, ..., 1/k): 0 is all corners, 1 is flat. The
    variance of the tap is (1 - softness)(k - 1)²/4 + softness (k² - 1)/12, so corners gain √(3(k - 1)/(k + 1)) in σ.
    Without softness the map is a lattice of pitch k - 1. Source: W. Luo et al. 2016, section 4; gains: erfjax.

    Args:
        softness: from 0, all variance in the corners, to 1, flat.
        scale: the variance of a kernel's response to input of unit second moment (2: before a ReLU, 1: linear).
        mode: what the variance is divided by: "fan_in" channels, "fan_out" channels or "fan_avg", their mean.
        in_axis, out_axis: the axes of the input and output channels; all others are space.

    Raises:
        KernelError: softness is not between 0 and 1.

    Example:
        >>> import erfjax as ej
        >>> p = ej.initializers.corner_weighted(softness=0.3, scale=1.0).variance((3, 1, 1))
        >>> p.round(3).tolist()
        [0.45, 0.1, 0.45]
    """
    if not 0.0 <= softness <= 1.0:
        raise KernelError(f"`softness` must lie between 0 (all corners) and 1 (flat), but got {softness}.")
    return Shaped(_PerAxis(_corners, softness), scale, mode, in_axis, out_axis)


def gaussian(
    width: float = 1.0, scale: float = 2.0, mode: Mode = "fan_in", in_axis: int = -2, out_axis: int = -1
) -> Shaped:
    """The initialiser whose variance falls off from the centre of the kernel as a Gaussian of `width` taps: a narrow field.

    Args:
        width: σ of the Gaussian, in taps.
        scale: the variance of a kernel's response to input of unit second moment (2: before a ReLU, 1: linear).
        mode: what the variance is divided by: "fan_in" channels, "fan_out" channels or "fan_avg", their mean.
        in_axis, out_axis: the axes of the input and output channels; all others are space.

    Raises:
        KernelError: the width is not positive.

    Example:
        >>> import erfjax as ej
        >>> ej.initializers.gaussian(width=0.5, scale=1.0).variance((3, 1, 1)).round(3).tolist()
        [0.107, 0.787, 0.107]
    """
    if not width > 0.0:
        raise KernelError(f"`width` must be positive (in taps), but got {width}.")
    return Shaped(_PerAxis(_bell, width), scale, mode, in_axis, out_axis)


def profiled(profile: Any, scale: float = 2.0, mode: Mode = "fan_in", in_axis: int = -2, out_axis: int = -1) -> Shaped:
    """The initialiser with a variance profile given tap by tap (any non-negative array; it is normalised to sum to one).

    Args:
        profile: variances, an array of the kernel's spatial shape.
        scale: the variance of a kernel's response to input of unit second moment (2: before a ReLU, 1: linear).
        mode: what the variance is divided by: "fan_in" channels, "fan_out" channels or "fan_avg", their mean.
        in_axis, out_axis: the axes of the input and output channels; all others are space.

    Example:
        >>> import erfjax as ej
        >>> ej.initializers.profiled([1, 0, 3], scale=1.0).variance((3, 2, 2)).tolist()
        [0.125, 0.0, 0.375]
    """
    values = np.array(profile, np.float64)
    return Shaped(_Given(values.shape, tuple(values.ravel().tolist())), scale, mode, in_axis, out_axis)


class Profile(NamedTuple):
    """Mean and variance of an initialiser's weights, tap by tap; `exact` is False where they were estimated from draws."""

    mean: Float[np.ndarray, "*space"]
    variance: Float[np.ndarray, "*space"]
    exact: bool


def profile(initializer: Any, shape: Sequence[int], in_axis: int = -2, out_axis: int = -1) -> Profile:
    """The mean and the variance of every tap of the kernels of `shape` that an initialiser draws.

    Exact for the initialisers of this module. Any other callable with their signature is drawn 64 times with a fixed seed
    and averaged over channels; `exact` is then False.

    Args:
        initializer: a callable (key, shape, dtype) -> array.
        shape: of the kernel, its channels included.
        in_axis, out_axis: the axes of the input and output channels; all others are space.

    Example:
        >>> import erfjax as ej, jax
        >>> found = ej.initializers.profile(jax.nn.initializers.he_normal(), (3, 3, 32, 32))
        >>> found.exact, round(float(found.variance.sum() * 32), 1)
        (False, 2.0)
    """
    axes = _channel_axes(shape, in_axis, out_axis)
    space = tuple(int(n) for axis, n in enumerate(shape) if axis not in axes)
    if isinstance(initializer, Shaped):
        return Profile(np.zeros(space), initializer.variance(shape), True)
    if isinstance(initializer, Constant):
        return Profile(np.full(space, 1 / (math.prod(space) * int(shape[axes[0]]))), np.zeros(space), True)
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), DRAWS)
        draws = np.stack([np.asarray(initializer(key, tuple(shape), jnp.float32), np.float64) for key in keys])
    over = (0, *(axis + 1 for axis in axes))
    mean, error = draws.mean(over), draws.std(over) / math.sqrt(math.prod(draws.shape[axis] for axis in over))
    mean = np.where(np.abs(mean) > 5 * error, mean, 0.0)  # what five standard errors cannot tell from zero is zero
    return Profile(mean, (draws**2).mean(over) - mean**2, False)


def named(name: str, gain: float = 1.0) -> Shaped | Constant:
    """The initialiser that a name stands for: "he", "lecun", "glorot" or "uniform".

    "he" has scale `gain` (1/E[φ'²] of the activation that follows: 2 for a ReLU, 1 for none), "lecun" 1, "glorot" 1 over the mean
    of input and output channels; "uniform" is `Constant`.

    Raises:
        KernelError: there is none of that name.

    Example:
        >>> import erfjax as ej
        >>> ej.initializers.named("he", gain=2.0).scale
        2.0
    """
    table: dict[str, Callable[[], Shaped | Constant]] = {
        "he": lambda: flat(gain),
        "lecun": lambda: flat(1.0),
        "glorot": lambda: flat(1.0, "fan_avg"),
        "uniform": Constant,
    }
    if name not in table:
        raise KernelError(f"`init` must be a callable or one of {', '.join(map(repr, table))}, but got {name!r}.")
    return table[name]()


@dataclasses.dataclass(frozen=True)
class _PerAxis:
    """The outer product of one profile per axis."""

    rule: Callable[[int, float], np.ndarray]
    option: float

    def __call__(self, space: tuple[int, ...]) -> np.ndarray:
        result = np.ones(())
        for k in space:
            result = np.multiply.outer(result, self.rule(k, self.option))
        return result


@dataclasses.dataclass(frozen=True)
class _Given:
    shape: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, space: tuple[int, ...]) -> np.ndarray:
        return np.array(self.values).reshape(self.shape)


def _corners(k: int, softness: float) -> np.ndarray:
    result = np.full(k, softness / k)
    for end in (0, k - 1):
        result[end] += (1 - softness) / 2
    return result


def _bell(k: int, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((np.arange(k) - (k - 1) / 2) / width) ** 2)


def _channel_axes(shape: Sequence[int], in_axis: int, out_axis: int) -> tuple[int, int]:
    if len(shape) < 2:
        raise KernelError(
            f"A kernel has at least an input and an output channel axis, but its shape is {tuple(shape)}."
        )
    if not all(-len(shape) <= axis < len(shape) for axis in (in_axis, out_axis)):
        raise KernelError(
            f"`in_axis` and `out_axis` must be axes of the kernel, but got {in_axis} and {out_axis} for {tuple(shape)}."
        )
    inputs, outputs = in_axis % len(shape), out_axis % len(shape)
    if inputs == outputs:
        raise KernelError(
            f"`in_axis` and `out_axis` must differ, but {in_axis} and {out_axis} are one axis of {tuple(shape)}."
        )
    return inputs, outputs
