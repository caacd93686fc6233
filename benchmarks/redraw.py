"""The promise in one expression, for twelve kinds of networks: closed forms of exchangeable weights against weights drawn anew.

    ej.compare(ej.analytic(f, x, weights="exchangeable"), ej.empirical(ej.redraw(f), x, key=key, samples=...))

Measured over closed form: total and σ with standard errors; the total variation of the normalised maps beside the part that
sampling noise explains. "beyond chance" says which of them differ by more than five standard errors (of the map: by more than
twice its noise); a form that says "exact" must have none. Networks are small, their inputs noise.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import erfjax as ej
from benchmarks import harness, models
from erfjax.errors import ErfjaxError

SAMPLES = 200
ROWS = 16  # inputs
WIDTH = 16
SPACE = {1: "NWC", 2: "NHWC", 3: "NDHWC"}


class Layers(models.Jax):
    """The layers of `models.Jax` in any number of dimensions, and those of newer networks."""

    def kernel(self, name: str, *shape: int, gain: float = 2.0) -> Any:
        """A normal weight (..., in, out) of variance gain / fan-in."""
        scale = np.sqrt(gain / np.prod(shape[:-1]))
        return self._weight(name, shape, lambda random: scale * random.standard_normal(shape))

    def convolve(self, x: Any, name: str, features: int, size: int = 3, gain: float = 2.0, **options: Any) -> Any:
        """A convolution along all axes of space, or of every channel by itself if `groups` is their number."""
        groups, n = options.pop("groups", 1), x.ndim - 2
        w = self.kernel(name, *(size,) * n, x.shape[-1] // groups, features, gain=gain)
        dims = (SPACE[n], "DHW"[3 - n :] + "IO", SPACE[n])
        options = {"padding": "SAME", **options, "dimension_numbers": dims, "feature_group_count": groups}
        return lax.conv_general_dilated(x, w.astype(x.dtype), (1,) * n, **options)

    def dense(self, x: Any, name: str, features: int, gain: float = 1.0) -> Any:
        return x @ self.kernel(name, x.shape[-1], features, gain=gain)

    def layer_norm(self, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def resnet(ops: Layers, x: Any) -> Any:
    x = ops.conv(x, "stem", WIDTH)
    for i in range(3):
        y = ops.conv(ops.relu(ops.norm(x, f"{i}.a")), f"{i}.a", WIDTH)
        x = x + ops.conv(ops.relu(ops.norm(y, f"{i}.b")), f"{i}.b", WIDTH)
    return ops.conv(x, "head", 8, 1)


def convnext(ops: Layers, x: Any) -> Any:
    x = ops.convolve(x, "stem", WIDTH)
    for i in range(2):
        y = ops.layer_norm(ops.convolve(x, f"{i}.depthwise", WIDTH, 5, gain=1.0, groups=WIDTH))
        y = ops.dense(jax.nn.gelu(ops.dense(y, f"{i}.up", 4 * WIDTH)), f"{i}.down", WIDTH, 2.0)
        x = x + y
    return ops.dense(x, "head", 8)


def densenet(ops: Layers, x: Any) -> Any:
    x = ops.conv(x, "stem", WIDTH)
    for i in range(4):
        x = ops.concat(x, ops.conv(ops.relu(ops.norm(x, f"{i}")), f"{i}", 8))
    return ops.conv(x, "head", 8, 1)


def efficientnet(ops: Layers, x: Any) -> Any:
    x = ops.convolve(x, "stem", WIDTH)
    for i in range(2):
        y = jax.nn.silu(ops.convolve(x, f"{i}.expand", 2 * WIDTH, 1))
        y = jax.nn.silu(ops.convolve(y, f"{i}.depthwise", 2 * WIDTH, groups=2 * WIDTH))
        squeezed = jax.nn.silu(ops.dense(y.mean((1, 2), keepdims=True), f"{i}.squeeze", 8))
        y = y * jax.nn.sigmoid(ops.dense(squeezed, f"{i}.excite", 2 * WIDTH))
        x = x + ops.convolve(y, f"{i}.project", WIDTH, 1, gain=1.0)
    return ops.dense(x, "head", 8)


def vit(ops: Layers, x: Any) -> Any:
    (_, high, wide, _), size = x.shape, 2
    t = x.reshape(high // size, size, wide // size, size, -1).swapaxes(1, 2)
    t = ops.dense(t.reshape(high * wide // size**2, -1), "patches", WIDTH)
    for i in range(2):
        q, k, v = jnp.split(ops.dense(ops.layer_norm(t), f"{i}.qkv", 3 * WIDTH), 3, -1)
        t = t + ops.dense(jax.nn.softmax(q @ k.T / np.float32(np.sqrt(WIDTH)), -1) @ v, f"{i}.out", WIDTH)
        t = t + ops.dense(jax.nn.gelu(ops.dense(ops.layer_norm(t), f"{i}.up", 2 * WIDTH)), f"{i}.down", WIDTH)
    return t.reshape(1, high // size, wide // size, WIDTH)


def mixer(ops: Layers, x: Any) -> Any:
    t = ops.dense(x[0], "embed", WIDTH)
    for i in range(2):
        y = ops.dense(jax.nn.gelu(ops.dense(t.T, f"{i}.tokens.up", 32)), f"{i}.tokens.down", len(t), 2.0)
        t = t + y.T
        t = t + ops.dense(jax.nn.gelu(ops.dense(t, f"{i}.up", 32)), f"{i}.down", WIDTH, 2.0)
    return ops.dense(t, "head", 8)[None]


def tcn(ops: Layers, x: Any) -> Any:
    x = ops.convolve(x, "stem", WIDTH, 1, gain=1.0)
    for i in range(3):
        d = 2**i
        x = x + ops.convolve(jax.nn.relu(x), f"{i}", WIDTH, padding=[(2 * d, 0)], rhs_dilation=(d,))
    return ops.convolve(x, "head", 8, 1)


def gru(ops: Layers, x: Any) -> Any:
    of_input, of_state = (
        ops.kernel(f"of {what}", n, 3 * WIDTH, gain=1.0) for what, n in (("input", x.shape[-1]), ("state", WIDTH))
    )

    def step(h: Any, row: Any) -> Any:
        (r, z, a), (s, u, b) = jnp.split(row @ of_input, 3), jnp.split(h @ of_state, 3)
        gate, kept = jax.nn.sigmoid(r + s), jax.nn.sigmoid(z + u)
        h = kept * h + (1 - kept) * jnp.tanh(a + gate * b)
        return h, h

    return lax.scan(step, jnp.zeros(WIDTH), x[0])[1][None]


def gnn(ops: Layers, x: Any) -> Any:
    """Messages along the edges of a fixed random graph, summed at their ends."""
    random = np.random.default_rng(1)
    ends = random.integers(0, x.shape[1], (2, 3 * x.shape[1]))
    t = ops.dense(x[0], "embed", WIDTH)
    for i in range(3):
        sent = jnp.zeros_like(t).at[ends[1]].add(ops.dense(t, f"{i}.message", WIDTH)[ends[0]])
        t = jax.nn.relu(ops.dense(t, f"{i}.own", WIDTH) + sent)
    return ops.dense(t, "head", 8)[None]


def volume(ops: Layers, x: Any) -> Any:
    for i in range(3):
        x = jax.nn.relu(ops.convolve(x, f"{i}", WIDTH))
    return ops.convolve(x, "head", 8, 1)


def mixed(ops: Layers, x: Any) -> Any:
    """Layers in bfloat16 on a float32 image."""
    x = x.astype(jnp.bfloat16)
    for i in range(3):
        x = jax.nn.relu(ops.convolve(x, f"{i}", WIDTH))
    return ops.convolve(x, "head", 8, 1).astype(jnp.float32)


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "ResNet": (resnet, (1, 16, 18, 3)),
    "ConvNeXt-like": (convnext, (1, 14, 16, 3)),
    "U-Net": (models.unet(2, 8), (1, 16, 16, 3)),
    "DenseNet-like": (densenet, (1, 14, 16, 3)),
    "EfficientNet-like": (efficientnet, (1, 12, 14, 3)),
    "ViT": (vit, (1, 12, 16, 3)),
    "Mixer": (mixer, (1, 24, 3)),
    "TCN": (tcn, (1, 40, 3)),
    "GRU": (gru, (1, 16, 3)),
    "GNN": (gnn, (1, 24, 3)),
    "3-D": (volume, (1, 9, 10, 11, 2)),
    "mixed precision": (mixed, (1, 12, 14, 3)),
}


def rows() -> Iterator[harness.Row]:
    """One row per network."""
    for name, (network, shape) in NETWORKS.items():
        yield read(name, network, shape)


def read(name: str, network: Callable[[Any, Any], Any], shape: tuple[int, ...]) -> harness.Row:
    """Both readings of a network whose weights are drawn once, and how far they are apart."""
    ops = Layers({}, np.random.default_rng(0))
    jax.eval_shape(lambda x: network(ops, x), jax.ShapeDtypeStruct(shape, jnp.float32))
    weights = {key: jnp.asarray(value) for key, value in ops.weights.items()}
    layout = SPACE[len(shape) - 2]
    x = np.asarray(jax.random.normal(jax.random.key(5), (ROWS, *shape[1:])))

    def f(x: Any) -> Any:
        return network(Layers(weights), x)

    found: dict[str, Any] = {}

    def closed() -> None:
        try:
            found["closed form"] = ej.analytic(f, x, layout=layout, weights="exchangeable")
        except (ErfjaxError, TypeError) as error:
            found["refused"] = f"{type(error).__name__}: {error}".splitlines()[0]

    def measured() -> None:
        found["measured"] = ej.empirical(ej.redraw(f), x, key=jax.random.key(7), samples=SAMPLES, layout=layout)

    sizes = f"{' x '.join(map(str, shape[1:-1]))}, {SAMPLES} draws"
    row = harness.compare(name, sizes, {"closed form": closed, "measured": measured}, "measured", repeats=0)
    return dataclasses.replace(row, facts=facts(found))


def facts(found: dict[str, Any]) -> dict[str, Any]:
    """Total, σ and shape of the measured field beside the closed form; coverage, and why."""
    if "refused" in found:
        return {"coverage": "refused", "why": found["refused"]}
    closed = found["closed form"]
    result = ej.compare(closed, found["measured"])
    ratios = {"total": result.total, "σ": result.size("sigma")}
    apart = [name for name, r in ratios.items() if abs(r.value - 1) > 5 * r.stderr]
    apart += ["map"] if result.total_variation > 2 * result.noise_floor else []
    return {
        **{name: f"{r.value:.3f} ± {r.stderr:.3f}" for name, r in ratios.items()},
        "TV": f"{result.total_variation:.3f}",
        "noise": f"{result.noise_floor:.3f}",
        "beyond chance": ", ".join(apart) or "-",
        "coverage": closed.coverage,
        "why": " ".join(sorted({_short(note) for note in closed.notes})),
    }


def _short(note: str) -> str:
    """The first words of a note."""
    words = note.split(":")[0].split("(")[0].strip()
    return words if len(words) < 60 else f"{words[:57]}..."
