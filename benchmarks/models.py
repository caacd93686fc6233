"""Networks of the benchmarks, each written once and run by JAX or by torch with the same weights.

A network is a function (ops, x) -> y: `ops` has the layers, `Jax` on NHWC and `Torch` on NCHW. Weights are drawn by
He's rule when a layer is first met and are NumPy arrays under the layer's name.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DIMS = ("NHWC", "HWIO", "NHWC")
EPSILON = 1e-5

Network = Callable[[Any, Any], Any]
Weights = dict[str, Any]


class Jax:
    """The layers in JAX; a weight that `weights` lacks is drawn."""

    def __init__(self, weights: Weights, random: np.random.Generator | None = None):
        self.weights, self.random = weights, random

    def _weight(self, name: str, shape: tuple[int, ...], draw: Callable[[np.random.Generator], np.ndarray]) -> Any:
        if name not in self.weights and self.random is not None:
            self.weights[name] = draw(self.random).reshape(shape).astype(np.float32)
        return self.weights[name]

    def conv(self, x: Any, name: str, features: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> Any:
        shape = (kernel, kernel, x.shape[-1], features)
        deviation = math.sqrt(2 / (kernel**2 * x.shape[-1]))
        w = self._weight(name, shape, lambda random: deviation * random.standard_normal(shape))
        side = kernel // 2
        y = lax.conv_general_dilated(x, w, (stride, stride), [(side, side)] * 2, dimension_numbers=DIMS)
        return y + self._weight(f"{name}.bias", (1, 1, 1, features), lambda r: np.zeros(features)) if bias else y

    def up(self, x: Any, name: str, features: int) -> Any:
        shape = (2, 2, x.shape[-1], features)
        w = self._weight(name, shape, lambda random: math.sqrt(2 / x.shape[-1]) * random.standard_normal(shape))
        return lax.conv_transpose(x, w, (2, 2), "VALID", dimension_numbers=DIMS)

    def norm(self, x: Any, name: str) -> Any:
        """A batch norm at inference, as libraries write it."""
        n = x.shape[-1]
        mean = self._weight(f"{name}.mean", (n,), lambda random: 0.1 * random.standard_normal(n))
        var = self._weight(f"{name}.var", (n,), lambda random: random.uniform(0.5, 1.5, n))
        scale = self._weight(f"{name}.scale", (n,), lambda random: random.uniform(0.4, 0.8, n))
        shift = self._weight(f"{name}.shift", (n,), lambda random: 0.1 * random.standard_normal(n))
        mean, var, scale, shift = (jnp.reshape(a, (1,) * (x.ndim - 1) + (n,)) for a in (mean, var, scale, shift))
        return (x - mean) * (lax.rsqrt(var + EPSILON) * scale) + shift

    def relu(self, x: Any) -> Any:
        return jax.nn.relu(x)

    def pool(self, x: Any, size: int, stride: int, padding: int = 0) -> Any:
        sides = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), sides)

    def concat(self, a: Any, b: Any) -> Any:
        return jnp.concatenate([a, b], -1)

    def depthwise(self, x: Any, name: str, kernel: int, stride: int = 1) -> Any:
        shape, n = (kernel, kernel, 1, x.shape[-1]), x.shape[-1]
        w = self._weight(name, shape, lambda random: random.standard_normal(shape) / kernel)
        sides = [(kernel // 2, kernel // 2)] * 2
        return lax.conv_general_dilated(x, w, (stride, stride), sides, dimension_numbers=DIMS, feature_group_count=n)

    def layer_norm(self, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)

    def gelu(self, x: Any) -> Any:
        return jax.nn.gelu(x, approximate=False)

    def silu(self, x: Any) -> Any:
        return jax.nn.silu(x)

    def sigmoid(self, x: Any) -> Any:
        return jax.nn.sigmoid(x)

    def mean(self, x: Any) -> Any:
        """Over all positions."""
        return x.mean((1, 2), keepdims=True)

    def attend(self, qkv: Any, heads: int) -> Any:
        """Attention among all positions, from queries, keys and values behind each other."""
        n, height, width, channels = qkv.shape
        q, k, v = jnp.moveaxis(qkv.reshape(n, height * width, 3, heads, -1), 2, 0)
        scores = jnp.einsum("nqhc,nkhc->nhqk", q, k) / math.sqrt(channels // 3 // heads)
        return jnp.einsum("nhqk,nkhc->nqhc", jax.nn.softmax(scores), v).reshape(n, height, width, -1)


class Torch:
    """The layers in torch, on the weights that JAX drew."""

    def __init__(self, weights: Weights, channels_last: bool):
        import torch

        self.torch, self.functional = torch, torch.nn.functional
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.weights = {}
        for name, array in weights.items():
            if array.ndim == 4 and not name.endswith(".bias"):
                tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1)))
                self.weights[name] = tensor.contiguous(memory_format=layout)
            else:
                self.weights[name] = torch.from_numpy(np.ascontiguousarray(array.reshape(-1)))

    def conv(self, x: Any, name: str, features: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> Any:
        shift = self.weights[f"{name}.bias"] if bias else None
        return self.functional.conv2d(x, self.weights[name], shift, stride, kernel // 2)

    def up(self, x: Any, name: str, features: int) -> Any:
        flipped = self.weights[name].flip(2, 3).transpose(0, 1)  # torch's kernel is that of the transpose
        return self.functional.conv_transpose2d(x, flipped, stride=2)

    def norm(self, x: Any, name: str) -> Any:
        mean, var, scale, shift = (self.weights[f"{name}.{part}"] for part in ("mean", "var", "scale", "shift"))
        return self.functional.batch_norm(x, mean, var, scale, shift, eps=EPSILON)

    def relu(self, x: Any) -> Any:
        return self.functional.relu(x)

    def pool(self, x: Any, size: int, stride: int, padding: int = 0) -> Any:
        return self.functional.max_pool2d(x, size, stride, padding)

    def concat(self, a: Any, b: Any) -> Any:
        return self.torch.cat([a, b], 1)

    def depthwise(self, x: Any, name: str, kernel: int, stride: int = 1) -> Any:
        return self.functional.conv2d(x, self.weights[name], None, stride, kernel // 2, groups=x.shape[1])

    def layer_norm(self, x: Any) -> Any:
        return self.functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=EPSILON).permute(0, 3, 1, 2)

    def gelu(self, x: Any) -> Any:
        return self.functional.gelu(x)

    def silu(self, x: Any) -> Any:
        return self.functional.silu(x)

    def sigmoid(self, x: Any) -> Any:
        return self.torch.sigmoid(x)

    def mean(self, x: Any) -> Any:
        return x.mean((2, 3), keepdim=True)

    def attend(self, qkv: Any, heads: int) -> Any:
        n, channels, height, width = qkv.shape
        q, k, v = qkv.reshape(n, 3, heads, channels // 3 // heads, height * width).transpose(-1, -2).unbind(1)
        out = self.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(-1, -2).reshape(n, channels // 3, height, width)


def draw(network: Network, shape: tuple[int, ...], seed: int = 0) -> Weights:
    """The weights of a network, drawn for an input of this shape."""
    ops = Jax({}, np.random.default_rng(seed))
    jax.eval_shape(functools.partial(network, ops), jax.ShapeDtypeStruct(shape, jnp.float32))
    return ops.weights


def plain(depth: int, features: int) -> Network:
    """3x3 convolutions with ReLU."""

    def network(ops: Any, x: Any) -> Any:
        for i in range(depth):
            x = ops.relu(ops.conv(x, f"conv{i}", features, bias=False))
        return x

    return network


def vgg16(blocks: int) -> Network:
    """VGG16 up to the last convolution of a block, before its pooling."""

    def network(ops: Any, x: Any) -> Any:
        layout = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))[:blocks]
        for block, (features, convs) in enumerate(layout, 1):
            x = ops.pool(x, 2, 2) if block > 1 else x
            for i in range(convs):
                x = ops.relu(ops.conv(x, f"conv{block}_{i + 1}", features))
        return x

    return network


def resnet50(ops: Any, x: Any) -> Any:
    """ResNet-50 without its head: strides in the 3x3 convolutions, batch norms at inference."""
    x = ops.relu(ops.norm(ops.conv(x, "stem", 64, 7, 2, bias=False), "stem"))
    x = ops.pool(x, 3, 2, 1)
    for stage, (features, units) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for unit in range(units):
            name, stride, shortcut = f"{stage}.{unit}", 2 if stage and not unit else 1, x
            if not unit:
                shortcut = ops.norm(ops.conv(x, f"{name}.short", 4 * features, 1, stride, bias=False), f"{name}.short")
            y = ops.relu(ops.norm(ops.conv(x, f"{name}.a", features, 1, bias=False), f"{name}.a"))
            y = ops.relu(ops.norm(ops.conv(y, f"{name}.b", features, 3, stride, bias=False), f"{name}.b"))
            y = ops.norm(ops.conv(y, f"{name}.c", 4 * features, 1, bias=False), f"{name}.c")
            x = ops.relu(y + shortcut)
    return x


def unet(depth: int, features: int) -> Network:
    """A U-Net: two 3x3 convolutions per level, max pooling down, 2x2 transposed convolutions up."""

    def network(ops: Any, x: Any) -> Any:
        def block(x: Any, name: str, width: int) -> Any:
            for i in range(2):
                x = ops.relu(ops.conv(x, f"{name}.{i}", width))
            return x

        skips = []
        for level in range(depth):
            x = block(x, f"down{level}", features << level)
            skips.append(x)
            x = ops.pool(x, 2, 2)
        x = block(x, "bottom", features << depth)
        for level in reversed(range(depth)):
            x = ops.concat(skips[level], ops.up(x, f"up{level}", features << level))
            x = block(x, f"out{level}", features << level)
        return ops.conv(x, "classes", 2, 1)

    return network
