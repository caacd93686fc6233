"""Families of networks, each a few lines of plain JAX: `network(w, x)` asks `w` for its random weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

relu, gelu, silu, sigmoid, softmax = jax.nn.relu, jax.nn.gelu, jax.nn.silu, jax.nn.sigmoid, jax.nn.softmax


class Weights:
    """Random weights of variance gain / fan-in: drawn with a key, or as they were drawn before."""

    def __init__(self, key=None, values=None):
        self.key, self.values, self.at = key, [] if values is None else values, 0

    def draw(self, shape, fan_in, gain=1.0):
        if self.key is not None:
            key = jax.random.fold_in(self.key, len(self.values))
            self.values.append(jax.random.normal(key, shape) * math.sqrt(gain / fan_in))
        self.at += 1
        return self.values[self.at - 1]

    def dense(self, a, n, gain=1.0):
        return a @ self.draw((a.shape[-1], n), a.shape[-1], gain)

    def conv(self, a, n, size=3, gain=1.0, stride=1, dilation=1, groups=1, padding="SAME", kernel=None):
        dims, c = a.ndim - 2, a.shape[-1] // groups
        if kernel is None:
            kernel = self.draw((*[size] * dims, c, n), size**dims * c, gain)
        numbers = ("NHWC", "HWIO", "NHWC") if dims == 2 else ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(
            a, kernel, (stride,) * dims, padding, None, (dilation,) * dims, numbers, feature_group_count=groups
        )


def layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def rms_norm(x):
    return x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def mlp(w, h, gate=gelu):
    return w.dense(gate(w.dense(h, 2 * h.shape[-1])), h.shape[-1])


def split(a, heads):
    return a.reshape(*a.shape[:-1], heads, a.shape[-1] // heads)


def attend(w, asking, answering, heads=4, bias=0.0):
    d = asking.shape[-1]
    q = split(w.dense(asking, d), heads)
    k, v = (split(w.dense(answering, d), heads) for _ in range(2))
    scores = jnp.einsum("bihe,bjhe->bhij", q, k) / math.sqrt(d // heads) + bias
    return w.dense(jnp.einsum("bhij,bjhe->bihe", softmax(scores), v).reshape(asking.shape), d)


def causal(length, otherwise=0.0):
    i = np.arange(length)
    return jnp.asarray(np.where(i[:, None] >= i, otherwise, -1e9), jnp.float32)


def mean_pool(x, size):
    b, h, w, c = x.shape
    return x.reshape(b, h // size, size, w // size, size, c).mean((2, 4))


def gated_recurrence(w, x):
    """QRNN: gates and inputs by convolutions, a recurrence without weights."""
    d, back = x.shape[-1], ((1, 0),)
    z, a = sigmoid(w.conv(x, d, 2, padding=back)), jnp.tanh(w.conv(x, d, 2, padding=back))
    states = [jnp.zeros_like(a[:, 0])]
    for t in range(x.shape[1]):
        states.append(z[:, t] * states[-1] + (1 - z[:, t]) * a[:, t])
    return w.dense(jnp.stack(states[1:], 1), d)


def gru(w, x):
    d, h = x.shape[-1], jnp.zeros_like(x[:, 0])
    u = [w.draw((d, d), d) for _ in range(6)]
    for t in range(x.shape[1]):
        a = x[:, t]
        z, r = sigmoid(a @ u[0] + h @ u[1]), sigmoid(a @ u[2] + h @ u[3])
        h = (1 - z) * h + z * jnp.tanh(a @ u[4] + (r * h) @ u[5])
    return h[:, None]


def pooled_shortcuts(w, x):
    d = x.shape[-1]
    h = w.conv(x, d)
    for _ in range(2):
        branch = w.conv(relu(w.conv(relu(h), d, gain=2.0, stride=2)), d)
        h = w.dense(mean_pool(h, 2), d) + branch
    return w.conv(h, d)


def unet(w, x):
    d = x.shape[-1]
    fine = relu(w.conv(x, d, gain=2.0))
    coarse = relu(w.conv(mean_pool(fine, 2), d, gain=2.0))
    up = jax.image.resize(coarse, fine.shape, "bilinear")
    return w.conv(relu(w.conv(jnp.concatenate([fine, up], -1), d, gain=2.0)), d)


def blur_pool(w, x):
    d, tap = x.shape[-1], np.outer([1, 2, 1], [1, 2, 1]) / 16
    blur = jnp.asarray(np.tile(tap[:, :, None, None], (1, 1, 1, d)), jnp.float32)
    for stride in (1, 2):
        x = w.conv(relu(w.conv(x, d, gain=2.0)), d, stride=stride, groups=d, kernel=blur)
    return w.conv(x, d)


def pyramid(w, x):
    d = x.shape[-1]
    levels = [relu(w.conv(x, d, gain=2.0))]
    for _ in range(2):
        levels.append(relu(w.conv(levels[-1], d, gain=2.0, stride=2)))
    top = w.dense(levels.pop(), d)
    while levels:
        top = w.dense(levels.pop(), d) + jnp.repeat(jnp.repeat(top, 2, 1), 2, 2)
    return w.conv(top, d)


def pixel_shuffle(w, x):
    d = x.shape[-1]
    h = w.conv(relu(w.conv(x, d, gain=2.0, stride=2)), 4 * d)
    b, m, n, _ = h.shape
    h = h.reshape(b, m, n, 2, 2, d).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * m, 2 * n, d)
    return w.conv(relu(h), d, gain=2.0)


def aspp(w, x):
    d = x.shape[-1]
    h = relu(w.conv(x, d, gain=2.0))
    branches = [relu(w.conv(h, d // 2, gain=2.0, dilation=k)) for k in (1, 2, 3)]
    image = relu(w.dense(h.mean((1, 2), keepdims=True), d // 2, 2.0))
    return w.dense(jnp.concatenate([*branches, jnp.broadcast_to(image, branches[0].shape)], -1), d)


def coord_conv(w, x):
    d = x.shape[-1]
    rows, columns = (jnp.linspace(-1, 1, n) for n in x.shape[1:3])
    place = jnp.broadcast_to(jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), -1), (*x.shape[:3], 2))
    h = relu(w.conv(jnp.concatenate([x, place], -1), d, gain=2.0))
    return w.conv(jnp.concatenate([h, place], -1), d)


def rotated(a):
    half = a.shape[-1] // 2
    angle = np.arange(a.shape[1])[:, None, None] * 100.0 ** (-np.arange(half) / half)
    cos, sin = jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)
    u, v = a[..., :half], a[..., half:]
    return jnp.concatenate([u * cos - v * sin, u * sin + v * cos], -1)


def llama(w, x):
    n, d = x.shape[1:]
    h = w.dense(x, d)
    for _ in range(2):
        y = rms_norm(h)
        q, k, v = (split(w.dense(y, m), m // (d // 4)) for m in (d, d // 2, d // 2))
        k, v = (jnp.repeat(a, 2, 2) for a in (rotated(k), v))
        scores = jnp.einsum("bihe,bjhe->bhij", rotated(q), k) / math.sqrt(d // 4) + causal(n)
        h = h + w.dense(jnp.einsum("bhij,bjhe->bihe", softmax(scores), v).reshape(y.shape), d)
        y = rms_norm(h)
        h = h + w.dense(silu(w.dense(y, 2 * d)) * w.dense(y, 2 * d), d)
    return w.dense(rms_norm(h), d)


def alibi(w, x):
    n, d = x.shape[1:]
    distance = np.maximum(np.subtract.outer(np.arange(n), np.arange(n)), 0)
    bias = causal(n, -(2.0 ** -np.arange(1, 5))[:, None, None] * distance)
    h = w.dense(x, d)
    for _ in range(2):
        y = layer_norm(h)
        h = h + attend(w, y, y, bias=bias)
    return w.dense(h, d)


def graph(w, x):
    n, d = x.shape[1:]
    edges = (np.random.default_rng(1).random((n, n)) < 0.25) | np.eye(n, dtype=bool)
    adjacency = jnp.asarray(edges / edges.sum(1, keepdims=True), jnp.float32)
    for _ in range(2):
        x = relu(w.dense(adjacency @ x, d, 2.0))
    return w.dense(x, d)


def group_norm(w, x):
    d = x.shape[-1]
    for _ in range(2):
        x = w.conv(x, d)
        h = split(x, 4)
        h = h - h.mean((1, 2, 4), keepdims=True)
        x = relu((h * lax.rsqrt((h**2).mean((1, 2, 4), keepdims=True) + 1e-5)).reshape(x.shape))
    return w.conv(x, d)


def inception(w, x):
    d = x.shape[-1]
    for _ in range(2):
        largest = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        narrow = relu(w.dense(x, d // 2, 2.0))
        branches = w.dense(x, d // 4, 2.0), w.conv(narrow, d // 2, gain=2.0), w.dense(largest, d // 4, 2.0)
        x = relu(jnp.concatenate(branches, -1))
    return w.conv(x, d)


def dense_net(w, x):
    d = x.shape[-1]
    h = w.conv(x, d)
    for _ in range(2):
        h = jnp.concatenate([h, w.conv(relu(h), d // 2, gain=2.0)], -1)
    return w.conv(relu(mean_pool(w.dense(relu(h), d, 2.0), 2)), d)


def convnext(w, x):
    d = x.shape[-1]
    h = w.conv(x, d)
    for _ in range(2):
        h = h + mlp(w, layer_norm(w.conv(h, d, groups=d)))
    return w.dense(h, d)


def squeezed(w, y):
    d = y.shape[-1]
    return sigmoid(w.dense(relu(w.dense(y.mean((1, 2), keepdims=True), d // 2, 2.0)), d))


def mbconv(w, x):
    d = x.shape[-1]
    h = w.conv(x, d)
    for _ in range(2):
        y = silu(w.conv(silu(w.dense(h, 2 * d)), 2 * d, groups=2 * d))
        h = h + w.dense(y * squeezed(w, y), d)
    return w.dense(h, d)


def squeeze_excite(w, x):
    d = x.shape[-1]
    h = w.conv(x, d)
    y = w.conv(relu(w.conv(h, d)), d, gain=2.0)
    return w.dense(h + y * squeezed(w, y), d)


def windows(a, size, shape=None):
    """Windows of an image as tokens, or an image of this shape from them."""
    b, h, w, c = a.shape if shape is None else shape
    if shape is None:
        return a.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, size**2, c)
    return a.reshape(b, h // size, w // size, size, size, c).transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def grid(a, size, shape=None):
    """The same for every n-th pixel."""
    b, h, w, c = a.shape if shape is None else shape
    if shape is None:
        return a.reshape(b, size, h // size, size, w // size, c).transpose(0, 2, 4, 1, 3, 5).reshape(-1, size**2, c)
    return a.reshape(b, h // size, w // size, size, size, c).transpose(0, 3, 1, 4, 2, 5).reshape(shape)


def swin(w, x):
    h = w.dense(x, x.shape[-1])
    for shift in (0, 1):
        y = jnp.roll(layer_norm(h), (-shift, -shift), (1, 2))
        y = windows(attend(w, windows(y, 2), windows(y, 2)), 2, h.shape)
        h = h + jnp.roll(y, (shift, shift), (1, 2))
        h = h + mlp(w, layer_norm(h))
    return w.dense(h, x.shape[-1])


def maxvit(w, x):
    h = w.conv(x, x.shape[-1])
    for cut in (windows, grid):
        y = layer_norm(h)
        h = h + cut(attend(w, cut(y, 2), cut(y, 2)), 2, h.shape)
        h = h + mlp(w, layer_norm(h))
    return w.dense(h, x.shape[-1])


def mixer(w, x):
    h = w.dense(x, x.shape[-1])
    for _ in range(2):
        h = h + jnp.swapaxes(mlp(w, jnp.swapaxes(layer_norm(h), 1, 2)), 1, 2)
        h = h + mlp(w, layer_norm(h))
    return w.dense(h, x.shape[-1])


def tied(w, x):
    d = x.shape[-1]
    kernel = w.draw((3, d, d), 3 * d, 2.0)
    h = relu(w.conv(x, d, gain=2.0))
    for _ in range(2):
        h = relu(w.conv(h, d, kernel=kernel))
    return w.dense(h, d)


def gated_product(w, x):
    d = x.shape[-1]
    h = relu(w.conv(x, d, gain=2.0))
    return w.conv(h * sigmoid(w.dense(h, d)) * w.dense(h, d), d)


def fourier(w, x):
    """FNet: the real part of a Fourier transform over tokens."""
    n, d = x.shape[1:]
    cos = jnp.asarray(np.cos(2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / math.sqrt(n), jnp.float32)
    h = w.dense(x, d)
    for _ in range(2):
        h = layer_norm(h + jnp.einsum("st,btc->bsc", cos, h))
        h = layer_norm(h + mlp(w, h))
    return w.dense(h, d)


def attention_pool(w, x):
    d = x.shape[-1]
    h = relu(w.conv(relu(w.dense(x, d, 2.0)), d, gain=2.0))
    share = softmax(w.dense(jnp.tanh(w.dense(h, d)), 1), axis=1)
    return w.dense((share * h).sum(1, keepdims=True), d)


def post_norm(w, x):
    h = w.dense(x, x.shape[-1])
    for _ in range(2):
        h = layer_norm(h + attend(w, h, h))
        h = layer_norm(h + mlp(w, h, relu))
    return w.dense(h, x.shape[-1])


def cross(w, x):
    """The first third of the tokens asks, the others answer."""
    d, n = x.shape[-1], x.shape[1] // 3
    asking, answering = w.dense(x[:, :n], d), w.dense(x[:, n:], d)
    for _ in range(2):
        asking = asking + attend(w, layer_norm(asking), layer_norm(answering))
        asking = asking + mlp(w, layer_norm(asking), relu)
    return w.dense(asking, d)


def retention(w, x):
    n, d = x.shape[1:]
    i, h = np.arange(n), w.dense(x, d)
    rate = (1 - 2.0 ** (-2 - np.arange(4)))[:, None, None]
    decay = jnp.asarray(np.tril(rate ** np.maximum(i[:, None] - i, 0)), jnp.float32)
    for _ in range(2):
        y = layer_norm(h)
        q, k, v = (split(w.dense(y, d), 4) for _ in range(3))
        scores = jnp.einsum("bihe,bjhe->bhij", q, k) / math.sqrt(d // 4) * decay
        read = layer_norm(jnp.einsum("bhij,bjhe->bihe", scores, v)).reshape(y.shape)
        h = h + w.dense(silu(w.dense(y, d)) * read, d)
    return w.dense(h, d)
