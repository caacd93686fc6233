"""Random networks from plans: drawing their weights, and running them with `jax.lax` convolutions and windows.

Channels come last and a batch first: (N, *space, C). Everything is computed in the dtype of the input.
"""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from erfjax.errors import LayoutError, StackError
from erfjax.initializers import Shaped
from erfjax.layers.operations import Attend, Insert, Normalise, Resize
from erfjax.layers.plan import (
    Drop,
    Fixed,
    Gain,
    Gate,
    Maximum,
    Parallel,
    Plan,
    Series,
    Settings,
    Sliding,
    Weighted,
    steps,
)
from erfjax.typing import ArrayLike

EPSILON = 1e-6  # what a normalisation adds to the mean square


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A function f(x) on arrays (N, *space, C): the network of a stack with the weights `params`."""

    stack: Any
    params: Any
    settings: Settings

    def __call__(self, x: ArrayLike, *, key: Any = None) -> Array:
        """The output; with a key dropout acts."""
        return self.stack.apply(self.params, x, key=key, **vars(self.settings))


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A function f(key, x): the network of a stack with fresh weights and fresh dropout for every key."""

    stack: Any
    settings: Settings

    def __call__(self, key: Any, x: ArrayLike) -> Array:
        """The output of the network that `key` draws."""
        x = checked(x, self.stack.ndim)
        settings = vars(self.settings) | {"in_channels": int(x.shape[-1]), "dtype": x.dtype}
        weights, dropout = jax.random.split(key)
        return self.stack.apply(self.stack.init(weights, **settings), x, key=dropout, **settings)


def checked(x: Any, ndim: int) -> Array:
    """The input as a floating JAX array (integers in the default precision); its axes must be (N, *space, C)."""
    x = jnp.asarray(x)
    if x.ndim != ndim + 2:
        letters = {1: "NWC", 2: "NHWC", 3: "NDHWC"}.get(ndim, f"N, {ndim} spatial axes, C")
        raise LayoutError(
            f"Expected an input with axes {letters}, but got shape {tuple(x.shape)}: add the missing axes."
        )
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.zeros(()).dtype)


def init(plan: Plan, key: Any, dtype: Any = None) -> Any:
    """The weights of a plan: a tuple per series or sum, {"kernel": array} per convolution, () for the rest.

    All normal weights come from one draw: XLA compiles a random generator for seconds, so once is enough.

    Raises:
        StackError: the heads of an attention do not divide its channels.
    """
    dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    for step in steps(plan):
        if isinstance(step, Attend) and step.channels % step.heads:
            raise StackError(f"{step.label}: {step.heads} heads do not divide its {step.channels} channels.")
    drawn = [step for step in steps(plan) if isinstance(step, Weighted)]
    once, others = jax.random.split(key)
    sizes = [math.prod(step.shape) if isinstance(step.initializer, Shaped) else 0 for step in drawn]
    normal = jax.random.normal(once, (sum(sizes),), dtype)
    kernels = {}
    for i, (step, stop) in enumerate(zip(drawn, itertools.accumulate(sizes), strict=True)):
        if sizes[i]:
            kernels[id(step)] = step.initializer.shaped(normal[stop - sizes[i] : stop].reshape(step.shape))
        else:
            kernels[id(step)] = step.initializer(jax.random.fold_in(others, i), step.shape, dtype)
    return _arranged(plan, kernels)


def _arranged(plan: Plan, kernels: dict[int, Array]) -> Any:
    if isinstance(plan, Series | Parallel):
        return tuple(_arranged(part, kernels) for part in plan.parts)
    if plan.inner:
        return tuple(_arranged(part, kernels) for part in plan.inner)
    return {"kernel": kernels[id(plan)]} if isinstance(plan, Weighted) else ()


def apply(plan: Plan, params: Any, x: Array, key: Any = None) -> Array:
    """The output of a plan with weights `params` on x."""
    if isinstance(plan, Series | Parallel):
        if not isinstance(params, tuple) or len(params) != len(plan.parts):
            raise StackError("`params` are not of this stack: draw them with its `init` and the same settings.")
        keys = [None] * len(plan.parts) if key is None else [*jax.random.split(key, max(len(plan.parts), 1))]
        if isinstance(plan, Series):
            for part, weights, k in zip(plan.parts, params, keys, strict=False):
                x = apply(part, weights, x, k)
            return x
        branches = [apply(part, weights, x, k) for part, weights, k in zip(plan.parts, params, keys, strict=True)]
        if len({branch.shape for branch in branches}) > 1:
            raise StackError(
                f"The branches of a sum must end with the same shape, but end with {[b.shape for b in branches]}: "
                'pad them alike, for example with padding="SAME".'
            )
        return sum(branches[1:], start=branches[0])
    return _step(plan, params, x, key)


def _step(step: Any, params: Any, x: Array, key: Any) -> Array:
    match step:
        case Weighted():
            return _convolve(step, params["kernel"].astype(x.dtype), x)
        case Fixed():
            channels = x.shape[-1]
            kernel = np.repeat(step.weights[..., None, None], channels, axis=-1)
            return _convolve(step, jnp.asarray(kernel, x.dtype), x, channels)
        case Maximum():
            return _maximum(step, x)
        case Gate():
            return step.function(x)
        case Drop():
            if key is None or step.rate == 0:
                return x
            kept = jax.random.bernoulli(key, 1 - step.rate, x.shape)
            return jnp.where(kept, x / (1 - step.rate), jnp.zeros((), x.dtype))
        case Gain():
            return x * step.factor
        case Insert():
            return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((0, 0, f - 1) for f in step.factor), (0, 0, 0)])
        case Resize():
            return _resize(step, x)
        case Normalise():
            centred = x - x.mean(-1, keepdims=True) if step.kind == "layer" else x
            return centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + np.array(EPSILON, x.dtype))
        case Attend():
            return _attend(step, params, x)
    raise StackError(f"{step.label} has no network.")


def _resize(step: Resize, x: Array) -> Array:
    if step.method == "bilinear":
        return jax.image.resize(x, (x.shape[0], *step.output(_space(x)), x.shape[-1]), "bilinear")
    for axis, factor in enumerate(step.factor, 1):
        x = jnp.repeat(x, factor, axis)
    return x


def _attend(step: Attend, params: Any, x: Array) -> Array:
    """Σ_j A(i, j) v(j) of each head, side by side, times the weights of the output."""
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    kernels = [part["kernel"].astype(x.dtype).reshape(x.shape[-1], x.shape[-1]) for part in params]
    allowed = step.allowed(_space(x))
    if step.scale:
        queries, keys, values = (_heads(tokens @ kernels[i], step.heads) for i in (2, 3, 0))
        scores = jnp.einsum("nihc,njhc->nhij", queries * step.scale / math.sqrt(queries.shape[-1]), keys)
        if not allowed.all():
            scores = jnp.where(allowed, scores, np.array(-math.inf, x.dtype))
        mixed = jnp.einsum("nhij,njhc->nihc", jax.nn.softmax(scores), values)
    else:
        mixed = jnp.einsum("ij,njc->nic", jnp.asarray(step.matrix(_space(x)), x.dtype), tokens @ kernels[0])
    return (mixed.reshape(tokens.shape) @ kernels[1]).reshape(x.shape)


def _heads(tokens: Array, heads: int) -> Array:
    return tokens.reshape(*tokens.shape[:2], heads, -1)


def _space(x: Array) -> tuple[int, ...]:
    return tuple(int(n) for n in x.shape[1:-1])


def _pads(step: Sliding, x: Array) -> list[tuple[int, int]]:
    return [(window.padding_low, window.padding_high) for window in step.windows(_space(x))]


def _convolve(step: Sliding, kernel: Array, x: Array, groups: int = 1) -> Array:
    """The correlation of x with the kernel: y(u) = Σ_m w(m) x(s u + d m - p)."""
    if isinstance(step, Weighted) and step.offsets is not None:
        return _gather(step, kernel, x)
    if kernel.shape[-2] * groups != x.shape[-1]:
        raise LayoutError(f"{step.label} has weights for {kernel.shape[-2]} channels, but its input has {x.shape[-1]}.")
    letters = "".join("DHW"[-len(step.kernel) :]) if len(step.kernel) <= 3 else "ABDEFGHJ"[: len(step.kernel)]
    return lax.conv_general_dilated(
        x,
        kernel,
        step.stride,
        _pads(step, x),
        rhs_dilation=step.dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
    )


def _gather(step: Weighted, kernel: Array, x: Array) -> Array:
    """The same with few taps: one strided slice per tap, then one contraction over taps and channels."""
    windows = step.windows(_space(x))
    padded = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((w.padding_low, w.padding_high, 0) for w in windows), (0, 0, 0)]
    )
    sizes = [window.output_size(n) for window, n in zip(windows, _space(x), strict=True)]
    taps = []
    for offset in step.offsets or ():
        index = [slice(o, o + (n - 1) * w.stride + 1, w.stride) for o, n, w in zip(offset, sizes, windows, strict=True)]
        taps.append(padded[(slice(None), *index)])
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _maximum(step: Sliding, x: Array) -> Array:
    pads = [(0, 0), *_pads(step, x), (0, 0)]
    window, stride = (1, *step.kernel, 1), (1, *step.stride, 1)
    return lax.reduce_window(x, np.array(-math.inf, x.dtype), lax.max, window, stride, pads)
