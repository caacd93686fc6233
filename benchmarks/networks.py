"""Random networks to measure and predict: f(key, x, width) on images (1, height, width, channels), ending with a linear layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DIMS = ("NHWC", "HWIO", "NHWC")
Network = Callable[[Any, Any, int], Any]


def conv(key: Any, x: Any, width: int, size: int = 3, gain: float = 1.0, stride: int = 1, dilation: int = 1) -> Any:
    """A convolution with normal weights of variance gain / fan-in."""
    fan_in = size * size * x.shape[-1]
    w = jax.random.normal(key, (size, size, x.shape[-1], width), x.dtype) * np.sqrt(gain / fan_in).astype(x.dtype)
    return lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", rhs_dilation=(dilation,) * 2, dimension_numbers=DIMS
    )


def depthwise(key: Any, x: Any) -> Any:
    w = jax.random.normal(key, (3, 3, 1, x.shape[-1]), x.dtype) / 3
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=DIMS, feature_group_count=x.shape[-1])


def pool(x: Any, kind: str) -> Any:
    window = ((1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    if kind == "max":
        return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, *window)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, *window) / 4


def norm(key: Any, x: Any) -> Any:
    """Batch normalisation at inference, with statistics and scales as after some training."""
    a, b, c = jax.random.split(key, 3)
    scale = jax.random.uniform(a, x.shape[-1:], x.dtype, 0.5, 1.5)
    shift, mean = (0.2 * jax.random.normal(k, x.shape[-1:], x.dtype) for k in (b, c))
    return (x - mean[None, None, None]) * scale[None, None, None] + shift[None, None, None]


def chain(act: Callable[[Any], Any], gain: float, **layer: int) -> Network:
    """Five convolutions with a nonlinearity each, then a linear one."""

    def net(key: Any, x: Any, width: int) -> Any:
        keys = jax.random.split(key, 6)
        for i in range(5):
            x = act(conv(keys[i], x, width, gain=gain if i else 1.0, **(layer if i in (1, 3) else {})))
        return conv(keys[5], x, width, 1)

    return net


def residual(key: Any, x: Any, width: int) -> Any:
    keys = jax.random.split(key, 10)
    x = conv(keys[0], x, width)
    for i in range(4):
        x = x + conv(keys[2 * i + 2], jax.nn.relu(conv(keys[2 * i + 1], x, width)), width, gain=2.0)
    return conv(keys[9], x, width, 1)


def pooled(kind: str) -> Network:
    """Four convolutions with ReLUs, a pooling after every second, then a linear convolution."""

    def net(key: Any, x: Any, width: int) -> Any:
        keys = jax.random.split(key, 5)
        for i in range(4):
            x = jax.nn.relu(conv(keys[i], x, width, gain=2.0 if i else 1.0))
            x = pool(x, kind) if i in (1, 3) else x
        return conv(keys[4], x, width)

    return net


def separable(key: Any, x: Any, width: int) -> Any:
    keys = jax.random.split(key, 10)
    x = conv(keys[0], x, width)
    for i in range(4):
        x = jax.nn.relu(conv(keys[2 * i + 2], depthwise(keys[2 * i + 1], x), width, 1, gain=1.0 if i == 0 else 2.0))
    return conv(keys[9], x, width, 1)


def normalised(key: Any, x: Any, width: int) -> Any:
    keys = jax.random.split(key, 11)
    for i in range(5):
        x = jax.nn.relu(norm(keys[2 * i + 1], conv(keys[2 * i], x, width, gain=2.0 if i else 1.0)))
    return conv(keys[10], x, width, 1)


def unet(key: Any, x: Any, width: int) -> Any:
    keys = jax.random.split(key, 5)
    high = jax.nn.relu(conv(keys[0], x, width))
    low = jax.nn.relu(conv(keys[1], pool(high, "max"), width, gain=2.0))
    low = jax.nn.relu(conv(keys[2], low, width, gain=2.0))
    up = jnp.repeat(jnp.repeat(low, 2, axis=1), 2, axis=2)[:, : high.shape[1], : high.shape[2]]
    both = jax.nn.relu(conv(keys[3], jnp.concatenate([high, up], axis=-1), width, gain=2.0))
    return conv(keys[4], both, width, 1)


NETWORKS: dict[str, Network] = {
    "plain ReLU": chain(jax.nn.relu, 2.0),
    "tanh": chain(jnp.tanh, 1.5),
    "gelu": chain(jax.nn.gelu, 2.0),
    "residual": residual,
    "max-pool": pooled("max"),
    "avg-pool": pooled("average"),
    "strided": chain(jax.nn.relu, 2.0, stride=2),
    "dilated": chain(jax.nn.relu, 2.0, dilation=2),
    "depthwise separable": separable,
    "batch norm": normalised,
    "U-Net": unet,
}
