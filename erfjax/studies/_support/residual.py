"""Residual networks in Flax nnx for the training study: without subsampling for labels of images, with it for labels of pixels.

A block is convolution, normalisation, ReLU, convolution, normalisation, added to its input, ReLU (K. He et al. 2015). The last
feature map is what the study probes; a readout makes scores of its units, and labels of the scores: their mean over the image,
those of the centre unit alone, or one for every pixel by bilinear interpolation.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Normalisation = Literal["batch", "batch, silent branches", "none"]
Readout = Literal["mean", "centre", "pixels"]
HE = nnx.initializers.he_normal()


class Nothing(nnx.Module):
    """The normalisation of a network without any."""

    def __call__(self, x: Any, use_running_average: bool = True) -> Any:
        return x


def norm(width: int, kind: Normalisation, rngs: nnx.Rngs, last: bool = False) -> nnx.Module:
    """A normalisation of `width` channels; `last` is the one that ends a branch."""
    if kind == "none":
        return Nothing()
    silent = last and kind == "batch, silent branches"
    scale = nnx.initializers.zeros_init() if silent else nnx.initializers.ones_init()
    return nnx.BatchNorm(width, scale_init=scale, rngs=rngs)


def conv(before: int, after: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution without bias, He's initialisation."""
    shape = (size, size)
    return nnx.Conv(before, after, shape, strides=stride, use_bias=False, kernel_init=HE, rngs=rngs)


class Block(nnx.Module):
    """relu(shortcut(x) + branch(x)); without normalisation the branch is scaled by `gain`."""

    def __init__(self, before: int, after: int, stride: int, kind: Normalisation, gain: float, rngs: nnx.Rngs):
        self.conv1, self.norm1 = conv(before, after, 3, stride, rngs), norm(after, kind, rngs)
        self.conv2, self.norm2 = conv(after, after, 3, 1, rngs), norm(after, kind, rngs, last=True)
        self.projection = conv(before, after, 1, stride, rngs) if stride > 1 or before != after else None
        self.stride = stride
        self.gain = gain if kind == "none" else 1.0

    def __call__(self, x: Any, train: bool) -> Any:
        y = nnx.relu(self.norm1(self.conv1(x), use_running_average=not train))
        y = self.norm2(self.conv2(y), use_running_average=not train)
        return nnx.relu(
            (x if self.projection is None else self.projection(x)) + (y if self.gain == 1 else y * self.gain)
        )


class ResidualNetwork(nnx.Module):
    """A stem, `blocks` residual blocks and a readout.

    Attributes:
        readout: how units become labels.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        blocks: int,
        width: int,
        subsamplings: int,
        normalisation: Normalisation,
        readout: Readout,
        seed: int,
    ):
        rngs = nnx.Rngs(seed)
        self.stride = 2 if subsamplings else 1
        self.stem = conv(channels, width, 3, self.stride, rngs)
        self.norm = norm(width, normalisation, rngs)
        starts = {i * blocks // subsamplings for i in range(1, subsamplings)}
        self.blocks: Any = nnx.List([])
        for i in range(blocks):
            before = width
            width, stride = (2 * width, 2) if i in starts else (width, 1)
            self.blocks.append(Block(before, width, stride, normalisation, blocks**-0.5, rngs))
        self.head = nnx.Linear(width, classes, rngs=rngs)
        self.readout = readout

    def features(self, x: Any, train: bool = False) -> Any:
        """The last feature map (N, H, W, C)."""
        x = nnx.relu(self.norm(self.stem(x), use_running_average=not train))
        for block in self.blocks:
            x = block(x, train)
        return x

    def scores(self, x: Any) -> Any:
        """The scores that the readout gives every unit, (N, H, W, classes)."""
        return self.head(self.features(x))

    def __call__(self, x: Any, train: bool = False) -> Any:
        """Logits: (N, classes), or (N, height, width, classes) for pixels."""
        features = self.features(x, train)
        if self.readout == "mean":
            return self.head(features.mean((1, 2)))
        if self.readout == "centre":
            return self.head(features[:, features.shape[1] // 2, features.shape[2] // 2])
        scores = self.head(features)
        return jax.image.resize(scores, (*x.shape[:3], scores.shape[-1]), "bilinear")


def calibrate(network: ResidualNetwork, images: Any) -> ResidualNetwork:
    """The network whose batch normalisations use the exact statistics of these images, not a moving average.

    Before the first step the moving averages say nothing; a field measured with them is that of another network.
    """
    copy = nnx.clone(network)
    norms = [module for _, module in nnx.iter_modules(copy) if isinstance(module, nnx.BatchNorm)]
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.momentum = 0.0
    copy(images, train=True)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    return copy


def kernel_variance(network: ResidualNetwork) -> float:
    """Var X of the energy profiles Σ w² of the 3 x 3 kernels on the main path, as a share of that of flat ones.

    The mean over both axes and over layers, each weighing as its stride squared does in σ² = Σ (j d)² Var X (so 1 at
    initialisation, less where the energy has moved to the centre, up to 1.5 in the corners).
    """
    total = weight = 0.0
    jump, layers = network.stride, [(network.stem, 1)]
    for block in network.blocks:
        layers += [(block.conv1, jump), (block.conv2, jump * block.stride)]
        jump *= block.stride
    for layer, reach in layers:
        profile = np.square(np.asarray(layer.kernel[...], np.float64)).sum((2, 3))
        profile /= profile.sum()
        at = np.arange(3) - 1.0
        spread = [line @ at**2 - (line @ at) ** 2 for line in (profile.sum(0), profile.sum(1))]
        total += reach**2 * float(np.mean(spread)) / (2 / 3)
        weight += reach**2
    return total / weight


def winner(network: ResidualNetwork, x: Any) -> Any:
    """The greatest score of every unit, (N, H, W, 1)."""
    return network.scores(x).max(-1, keepdims=True)


def features(network: ResidualNetwork, x: Any) -> Any:
    """The last feature map."""
    return network.features(x)


def decision(network: ResidualNetwork, x: Any) -> Any:
    """The greatest logit of the image, (N, 1)."""
    return jnp.max(network(x), -1, keepdims=True)
