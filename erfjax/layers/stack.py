"""`Stack`: what every stack of layers can say and build, and its operators.

Here are the public methods and what each kind of stack must say about itself. The layers are in `kinds` and `blocks`,
products and sums
in `combinations`. A stack becomes a `plan`, of which `theoretical` and `analytic` read fields and `networks` make functions.
"""

import dataclasses
import numbers
from typing import Any, overload

from jaxtyping import Array

from erfjax.errors import StackError
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.layers import analytic, networks, theoretical
from erfjax.layers.analytic import Moments, Question
from erfjax.layers.plan import Plan, Scope, Settings
from erfjax.typing import ArrayLike, Channels, Extent, Given, Statistic, Unit


class Stack:
    """A stack of layers: what it sees, its closed-form map and moments, and the random networks that it describes.

    Settings: `analytic`, `gaussian`, `moments`, `variance` and `excess_kurtosis` speak of the random networks that
    `network`, `init` and `sampler` build, so all take the same keywords (see `Settings`): `width`, `in_channels`,
    `out_channels`, `activation`, `init`. The theoretical field needs none.

    Images: `image_shape` is the spatial shape of the input; None stands for the smallest image in which the centre
    unit sees its whole field. `unit` is a spatial index of the output; None is its centre n // 2; a list of units gives a tuple
    of fields.

    Channels: `channels` says which gradient of the unit is meant, as for `erfjax.empirical`. "sum" (the default): of the sum
    of its channels; "random-signs" or "frobenius": the channels' squared gradients are added; an integer: that channel's.

    Example:
        >>> from erfjax.layers import Conv, Identity
        >>> stack = (Identity() + Conv(3)) ** 20
        >>> stack.theoretical().size, [round(v, 3) for v in stack.variance()]
        ((41, 41), [6.667, 6.667])
    """

    __array_ufunc__ = None  # a NumPy number scales a stack; a NumPy array must not take it for an entry

    @overload
    def theoretical(self, image_shape: Any = None, *, unit: list[Unit]) -> tuple[TheoreticalField, ...]: ...
    @overload
    def theoretical(self, image_shape: Any = None, unit: Unit = None) -> TheoreticalField: ...
    def theoretical(
        self, image_shape: Any = None, unit: Given = None
    ) -> TheoreticalField | tuple[TheoreticalField, ...]:
        """Where one unit of the output can look: exact integers, without weights.

        Raises:
            StackError: the image does not fit the stack, or branches end with different shapes.
            UnitError: the unit is outside the output.

        Example:
            >>> from erfjax.layers import Conv
            >>> (Conv(7, stride=2) * Conv(3, dilation=2)).theoretical().size
            (15, 15)
        """
        return theoretical.theoretical(self._plan(self._resolved(Settings())), self.ndim, image_shape, unit)

    @overload
    def analytic(
        self,
        statistic: Statistic = "square",
        *,
        channels: Channels = "sum",
        image_shape: Any = None,
        unit: list[Unit],
        **settings: Any,
    ) -> tuple[EffectiveField, ...]: ...
    @overload
    def analytic(
        self,
        statistic: Statistic = "square",
        *,
        channels: Channels = "sum",
        image_shape: Any = None,
        unit: Unit = None,
        **settings: Any,
    ) -> EffectiveField: ...
    def analytic(
        self,
        statistic: Given = "square",
        *,
        channels: Given = "sum",
        image_shape: Any = None,
        unit: Given = None,
        **settings: Any,
    ) -> EffectiveField | tuple[EffectiveField, ...]:
        """How much each input pixel counts for one unit, in closed form, over all random draws of the network.

        The statistic is that of a measurement: taken of the gradient per input channel, then summed over input channels.
        "square" is E[g²]: variance profiles convolve, gates multiply by E[φ'²], independent branches add, and what is fixed
        (averages, given weights, identities) interferes before it is squared. "rms" is its root. "mean" is E[g] for mean weights:
        by default it reads weights as uniform, so a plain stack gives repeated convolution.

        If an asymmetric nonlinearity such as a ReLU follows the last convolution, the gradients of the unit's channels agree in
        part, since weights go with the activations that they cause. `channels="sum"` adds them coherently. That part
        depends on the data: it is computed for images of independent pixels of zero mean and equal variance, so the field is
        "approximate" and the notes name the layer. The other choices have no such part.

        `coverage` is "exact" if nothing was assumed about the data; otherwise "approximate" and the notes say what was.

        Args:
            statistic: "square", "rms" or "mean".
            channels, image_shape, unit, settings: see `Stack`.

        Returns:
            The field: a float64 map of the image's spatial shape, squared gradient (or gradient) per pixel.

        Raises:
            StackError: no such statistic, or nothing is left (E[g] of zero-mean weights is zero).
            UnitError: no such unit, or no such channel.

        Source: W. Luo et al. 2016, sections 2 and 3.

        Example:
            >>> from erfjax.layers import Conv
            >>> [round(float(v), 4) for v in (Conv((3,)) ** 2).analytic("mean").normalised()]
            [0.1111, 0.2222, 0.3333, 0.2222, 0.1111]
        """
        question = self._question(statistic, channels, settings)
        return analytic.analytic(question, image_shape, unit)

    def gaussian(
        self, statistic: Statistic = "square", *, channels: Channels = "sum", **settings: Any
    ) -> EffectiveField:
        """The Gaussian with the mean and the covariance of `analytic`: what the central limit theorem says.

        It is sampled at the pixels of the smallest image, and sums to the total of `analytic`; in directions without variance
        it is a single pixel.

        Example:
            >>> from erfjax.layers import Conv
            >>> field = (Conv(3) ** 30).gaussian()
            >>> field.coverage, round(field.sigma()[0], 3)
            ('approximate', 4.472)
        """
        return analytic.gaussian(self._question(statistic, channels, settings))

    def moments(self, statistic: Statistic = "square", *, channels: Channels = "sum", **settings: Any) -> Moments:
        """Total, mean, variance, skewness and excess kurtosis of `analytic` per axis, from cumulants: no map is formed.

        Cumulants of layers add; branches mix (a residual block is a binomial mixture). Positions are pixels relative to the
        first pixel of the theoretical field. "rms" has no such form.

        Example:
            >>> from erfjax.layers import Conv
            >>> round((Conv(3) ** 10).moments().excess_kurtosis[0], 6)
            -0.15
        """
        return analytic.moments(self._question(statistic, channels, settings))

    def variance(
        self, statistic: Statistic = "square", *, channels: Channels = "frobenius", **settings: Any
    ) -> tuple[float, ...]:
        """σ² of the map along each axis in squared pixels: Σ (j d)² Var X for a chain (j the stride so far, d the dilation).

        This is the textbook's number: output channels apart, unless `channels` says otherwise (see `analytic`).

        Example:
            >>> from erfjax.layers import Conv
            >>> [round(v, 3) for v in (Conv(3) ** 12 * Conv(3, dilation=2) * Conv(3, dilation=4)).variance()]
            [21.333, 21.333]
        """
        return self.moments(statistic, channels=channels, **settings).variance

    def excess_kurtosis(self, *, channels: Channels = "frobenius", **settings: Any) -> tuple[float, ...]:
        """κ₄/σ⁴ of the map along each axis: zero for a Gaussian, -1.5/n for n uniform kernels of width 3; as for `variance`.

        Example:
            >>> from erfjax.layers import Conv, Identity
            >>> round(((Identity() + Conv(5)) ** 10).excess_kurtosis()[0], 3)
            0.04
        """
        return self.moments(channels=channels, **settings).excess_kurtosis

    def network(self, key: Any, **settings: Any) -> networks.Network:
        """A network of this stack with weights drawn from `key`: f(x) maps (N, *space, C) to (N, *space, C').

        `f.params` holds the weights. Dropout acts when a key comes with x, `f(x, key=key)`.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from erfjax.layers import Activation, Conv
            >>> f = (Conv(3, stride=2) * Activation("relu")).network(jax.random.key(0), width=8, in_channels=1)
            >>> f(jnp.ones((2, 10, 7, 1))).shape
            (2, 5, 4, 8)
        """
        return networks.Network(self, self.init(key, **settings), self._resolved(Settings.of(settings)))

    def init(self, key: Any, **settings: Any) -> Any:
        """The weights of one random network: a pytree with one {"kernel": (*space, in, out)} per convolution."""
        chosen = self._resolved(Settings.of(settings))
        return networks.init(self._plan(chosen), key, chosen.dtype)

    def apply(self, params: Any, x: ArrayLike, *, key: Any = None, **settings: Any) -> Array:
        """The output of the network with weights `params` (of `init` with the same settings) on x (N, *space, C).

        Computed in the dtype of x, integers in the default precision. Without `key` dropout does nothing.

        Raises:
            LayoutError: x has not one batch, `ndim` spatial and one channel axis.
        """
        x = networks.checked(x, self.ndim)
        chosen = dataclasses.replace(Settings.of(settings), in_channels=int(x.shape[-1]))
        return networks.apply(self._plan(self._resolved(chosen)), params, x, key)

    def sampler(self, **settings: Any) -> networks.Sampler:
        """The random network as a function f(key, x): fresh weights, and fresh dropout, for every key.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from erfjax.layers import Conv
            >>> f = (Conv((3,)) ** 4).sampler(width=8, in_channels=2)
            >>> jax.vmap(f, in_axes=(0, None))(jax.random.split(jax.random.key(0), 5), jnp.ones((1, 12, 2))).shape
            (5, 1, 12, 8)
        """
        return networks.Sampler(self, Settings.of(settings))

    @property
    def ndim(self) -> int:
        """The number of spatial axes: as the kernels say, and 2 if all are given as one number."""
        return self._ndim or 2

    @property
    def effective_stride(self) -> tuple[Extent, ...]:
        """Input pixels from one unit to the next, per axis; below one where the stack enlarges its image."""
        return tuple(int(s) if s == int(s) else float(s) for s in self._stride(self.ndim))

    @property
    def depth(self) -> int:
        """How many convolutions lie on the longest path."""
        return self._depth

    def __mul__(self, other: Any) -> "Stack":
        return _combinations().compose(self, other)

    def __rmul__(self, other: Any) -> "Stack":
        return self * other if isinstance(other, numbers.Real) else NotImplemented

    def __add__(self, other: Any) -> "Stack":
        return _combinations().branch(self, other)

    def __radd__(self, other: Any) -> "Stack":
        return _combinations().branch(other, self) if isinstance(other, numbers.Real) else NotImplemented

    def __neg__(self) -> "Stack":
        return self * -1.0

    def __sub__(self, other: Any) -> "Stack":
        return self + (-1.0) * other if isinstance(other, Stack | numbers.Real) else NotImplemented

    def __pow__(self, n: Any) -> "Stack":
        return _combinations().repeat(self, n)

    # What each kind of stack says about itself.

    _ndim: int | None = None
    _depth: int = 0
    _weighted: bool = False  # whether it has a convolution that makes channels

    def _stride(self, ndim: int) -> tuple[Any, ...]:
        """Input pixels per unit: integers, and fractions where images grow."""
        return (1,) * ndim

    def _parts(self) -> tuple["Stack", ...]:
        """The stack as a flat sequence of layers and sums."""
        return (self,)

    def _gain(self, gain: float) -> float:
        """1/E[φ'²] of the first gate behind a convolution that stands before this part, `gain` being that of what follows it."""
        return 1.0 if self._weighted else gain

    def _build(self, scope: Scope, channels: int, out: int, gain: float) -> tuple[Plan, int]:
        """The plan for an input of `channels`, and how many channels leave it.

        `out` is what the last convolution makes; `gain` is 1/E[φ'²] of the gate that follows, which He's variance makes up for.
        """
        raise NotImplementedError

    def _plan(self, settings: Settings) -> Plan:
        out = settings.out_channels or settings.in_channels
        plan, made = self._build(Scope(self.ndim, settings), settings.in_channels, out, 1.0)
        if made != out:
            raise StackError(f"`out_channels` is {out}, but {self} has no convolution that makes them of {made}.")
        return plan

    def _resolved(self, settings: Settings) -> Settings:
        """The settings with the number of output channels filled in."""
        out = settings.out_channels or (settings.width if self._weighted else settings.in_channels)
        return dataclasses.replace(settings, out_channels=out)

    def _question(self, statistic: Statistic, channels: Any, settings: dict[str, Any]) -> Question:
        chosen = self._resolved(Settings.of({"init": "uniform"} | settings if statistic == "mean" else settings))
        return Question(self._plan(chosen), self.ndim, statistic, channels, chosen)


def _combinations() -> Any:
    """The module of products, powers and sums of stacks, which are stacks themselves: imported on use."""
    from erfjax.layers import combinations

    return combinations
