"""Networks of small integers, on any number of axes: their sums are exact, so tiles can be compared bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.catalogue import KERNELS, LAYOUTS


def conv(x, kernel, out=2, *, stride=1, padding="SAME", dilation=1, base=1, seed=0):
    """A convolution with weights of 1 and 2: no tap is silent, and no two paths cancel."""
    rank = x.ndim - 2
    w = np.random.default_rng(seed).choice([1, 2], (*(kernel,) * rank, x.shape[-1], out))
    dims = (LAYOUTS[rank], KERNELS[rank], LAYOUTS[rank])
    padding = [padding] * rank if isinstance(padding, tuple) else padding
    return lax.conv_general_dilated(
        x,
        jnp.asarray(w, x.dtype),
        (stride,) * rank,
        padding,
        (base,) * rank,
        (dilation,) * rank,
        dimension_numbers=dims,
    )


def pool(x, size=2, stride=2, padding="VALID"):
    rank = x.ndim - 2
    lowest = np.iinfo(x.dtype).min if jnp.issubdtype(x.dtype, jnp.integer) else -np.inf
    window = ((1, *(size,) * rank, 1), (1, *(stride,) * rank, 1))
    return lax.reduce_window(x, np.array(lowest, x.dtype), lax.max, *window, padding)


def fitted(x, like):
    """Padded with zeros at the end, or cut, to the size of a skip connection."""
    for axis in range(1, x.ndim - 1):
        missing = like.shape[axis] - x.shape[axis]
        if missing > 0:
            x = jnp.pad(x, [(0, missing if a == axis else 0) for a in range(x.ndim)])
        x = lax.slice_in_dim(x, 0, like.shape[axis], axis=axis)
    return x


def doubled(x, by=2):
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, by, axis)
    return x


def unet(x):
    """Two levels: pooling, dilation, a strided pooling with SAME padding, a transposed convolution, nearest upsampling, skips."""
    a = conv(x, 3, seed=1)
    b = conv(pool(a), 3, dilation=2, seed=2)
    c = conv(pool(b, 3, 2, "SAME"), 3, seed=3)
    up = conv(c, 2, padding=(1, 1), base=2, seed=4)
    b = conv(fitted(up, b) + b, 3, seed=5)
    return jnp.concatenate([fitted(doubled(b), a), a], -1)


def valid(x):
    """Without padding: the output is smaller than the image."""
    return conv(pool(conv(x, 5, padding="VALID", seed=1)), 3, padding="VALID", seed=2)


def strided(x):
    return conv(conv(x, 3, stride=2, seed=1), 5, stride=2, seed=2)


def upsampled(x):
    return conv(doubled(conv(x, 3, seed=1), 3), 5, seed=2)


def mirrored(x):
    """Padded by reflection."""
    return conv(jnp.pad(x, [(0, 0), *[(2, 2)] * (x.ndim - 2), (0, 0)], mode="reflect"), 5, padding="VALID", seed=2)


def wrapped(x):
    """Padded periodically: the two ends of an axis see each other."""
    return conv(jnp.pad(x, [(0, 0), *[(1, 1)] * (x.ndim - 2), (0, 0)], mode="wrap"), 3, padding="VALID", seed=2)


def patches(x):
    n, h, w, c = x.shape
    x = x.reshape(n, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 4, w // 4, 16 * c)
    return conv(x, 1, 3)


def bilinear(x):
    """Stride 2, then twice the size again, as a decoder does."""
    y = conv(x, 3, stride=2, seed=1)
    y = jax.image.resize(y, (1, *(2 * n for n in y.shape[1:-1]), y.shape[-1]), "bilinear")
    return fitted(y, x) + x


def causal(x, kernel, *, dilation=1, stride=1, seed=0, out=None):
    """A convolution that is padded before the sequence only."""
    x = jnp.pad(x, ((0, 0), ((kernel - 1) * dilation, 0), (0, 0)))
    out = out or x.shape[-1]
    return conv(x, kernel, out, stride=stride, padding="VALID", dilation=dilation, seed=seed)


def tcn(x, depth=5):
    """Residual causal convolutions of dilation 1, 2, 4 ..."""
    for i in range(depth):
        with jax.named_scope(f"layer{i}"):
            x = x + causal(x, 3, dilation=2**i, seed=i)
    return x
