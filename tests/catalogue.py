"""Things to parametrise over: networks as plain data, and the JAX functions they describe.

A network is a list of nodes in topological order. `build` makes it a JAX function with channels last, on any number of
spatial axes; the oracles read the same data, so a function and its field are never derived from each other.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DATA = pathlib.Path(__file__).parent / "data"
LAYOUTS = {1: "NWC", 2: "NHWC", 3: "NDHWC"}
KERNELS = {1: "WIO", 2: "HWIO", 3: "DHWIO"}


def published(name: str) -> dict[str, Any]:
    """A file of published numbers; its field "source" says whose."""
    return json.loads((DATA / f"{name}.json").read_text())


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation: what it is, what it reads ("input" or names of nodes before it), and its numbers per axis.

    conv, pool: kernel, stride, dilation, base (holes put into the operand: transposed convolution), padding (low, high).
    pad: padding, base = interior + 1. slice: padding = (start, stop), stride. resize: kernel = new size, method.
    concat: method = "channels" (which are then mixed) or the number of a spatial axis; it and add crop their operands to
    a common shape first.
    reverse: method = the axis.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: str | tuple[tuple[int, int], ...] = "VALID"
    dilation: tuple[int, ...] = ()
    base: tuple[int, ...] = ()
    method: Any = None


Nodes = Sequence[Node]


def node(name: str, op: str, inputs: Sequence[str], kernel: Any = 1, stride: Any = 1, padding: Any = "VALID") -> Node:
    """A node of a 2-D network, as the files of published networks write it: one number stands for both axes."""

    def pair(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else tuple(value)

    if isinstance(padding, int):
        padding = ((padding, padding),) * 2
    elif not isinstance(padding, str):
        padding = tuple(tuple(sides) for sides in padding)
    return Node(name, op, tuple(inputs), pair(kernel), pair(stride), padding, (1, 1), (1, 1), method="channels")


def nodes_of(rows: Sequence[Sequence[Any]]) -> list[Node]:
    """The nodes of a published network."""
    return [node(*row) for row in rows]


def build(
    nodes: Nodes,
    ends: Sequence[str] | None = None,
    *,
    channels: int = 1,
    pool: str = "max",
    seed: int | None = None,
) -> Callable[[jax.Array], Any]:
    """The network as a JAX function of an array (N, *space, C), each node under a named scope.

    Args:
        nodes: the network.
        ends: the names of the nodes to return, as a dict; None returns the last node alone.
        channels: how many each convolution makes.
        pool: "max", or "avg": the same geometry, but linear.
        seed: makes random normal kernels; without one all are ones.
    """

    def f(x: jax.Array) -> Any:
        env = {"input": x}
        for i, n in enumerate(nodes):
            with jax.named_scope(n.name):
                env[n.name] = _apply(n, [env[name] for name in n.inputs], channels, pool, i, seed)
        return env[nodes[-1].name] if ends is None else {end: env[end] for end in ends}

    return f


def _apply(n: Node, inputs: list[jax.Array], channels: int, pool: str, index: int, seed: int | None) -> jax.Array:
    x, rank = inputs[0], inputs[0].ndim - 2
    padding = n.padding if isinstance(n.padding, str) else list(n.padding)
    outer = padding if isinstance(padding, str) else [(0, 0), *padding, (0, 0)]
    if n.op in ("conv", "dwconv"):
        shape = (*n.kernel, x.shape[-1], channels)
        w = jnp.ones(shape, x.dtype) if seed is None else _normal(seed, index, shape, x.dtype)
        dims = (LAYOUTS[rank], KERNELS[rank], LAYOUTS[rank])
        return lax.conv_general_dilated(x, w, n.stride, padding, n.base, n.dilation, dimension_numbers=dims)
    if n.op == "pool":
        window = ((1, *n.kernel, 1), (1, *n.stride, 1), outer, (1, *n.base, 1), (1, *n.dilation, 1))
        if pool == "max":
            return lax.reduce_window(x, -jnp.inf, lax.max, *window)
        return lax.reduce_window(x, 0.0, lax.add, *window)
    if n.op == "pad":
        config = [(low, high, b - 1) for (low, high), b in zip(n.padding, n.base, strict=True)]
        return lax.pad(x, jnp.array(0, x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    if n.op == "slice":
        index_ = tuple(slice(a, b, s) for (a, b), s in zip(n.padding, n.stride, strict=True))
        return x[:, *index_, :]
    if n.op == "resize":
        return jax.image.resize(x, (x.shape[0], *n.kernel, x.shape[-1]), n.method, antialias=False)
    if n.op == "reverse":
        return lax.rev(x, (n.method + 1,))
    free = n.method + 1 if n.op == "concat" and n.method != "channels" else None
    common = [slice(None) if a == free else slice(min(y.shape[a] for y in inputs)) for a in range(1, rank + 1)]
    cut = [y[:, *common, :] for y in inputs]
    if n.op == "concat" and free is None:
        x = jnp.concatenate(cut, -1)
        shape = (x.shape[-1], channels)
        return x @ (jnp.ones(shape, x.dtype) if seed is None else _normal(seed, index, shape, x.dtype))
    if n.op == "concat":
        return jnp.concatenate(cut, free)
    return sum(cut[1:], cut[0])


def _normal(seed: int, index: int, shape: Sequence[int], dtype: Any) -> jax.Array:
    return jnp.asarray(np.random.default_rng([seed, index]).standard_normal(shape), dtype)


def chain(*layers: tuple[str, int, int, Any]) -> list[Node]:
    """A plain 2-D network from (op, kernel, stride, padding) tuples, its nodes named op and number."""
    names = ["input", *(f"{op}{i}" for i, (op, *_) in enumerate(layers, 1))]
    return [node(names[i + 1], op, [names[i]], *numbers) for i, (op, *numbers) in enumerate(layers)]


def vgg(blocks: Sequence[int]) -> list[Node]:
    """The convolutional part of VGG: blocks of conv3, each closed by a pooling of 2."""
    conv, pool = ("conv", 3, 1, 1), ("pool", 2, 2, "VALID")
    return chain(*(layer for n in blocks for layer in [*[conv] * n, pool]))


VGG = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2,) * 5, "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def resnet(blocks: Sequence[int], bottleneck: bool) -> list[Node]:
    """The trunk of torchvision's ResNets: the stride sits in the first unit of a layer, in its first 3x3."""
    nodes = chain(("conv", 7, 2, 3), ("pool", 3, 2, 1))
    last = nodes[-1].name
    for stage, units in enumerate(blocks, 1):
        for unit in range(units):
            at, stride = f"layer{stage}.{unit}", 2 if stage > 1 and unit == 0 else 1
            inner = [(1, 1, 0), (3, stride, 1), (1, 1, 0)] if bottleneck else [(3, stride, 1), (3, 1, 1)]
            shortcut = last
            if unit == 0 and (stage > 1 or bottleneck):
                nodes.append(node(shortcut := f"{at}.downsample", "conv", [last], 1, stride, 0))
            for i, (kernel, s, p) in enumerate(inner, 1):
                nodes.append(node(f"{at}.conv{i}", "conv", [last], kernel, s, p))
                last = nodes[-1].name
            nodes.append(node(at, "add", [last, shortcut]))
            last = at
    return nodes


RESNETS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


def replknet(kernels: Sequence[int], blocks: Sequence[int]) -> list[Node]:
    """RepLKNet: a stem of four convolutions, then per stage blocks of a large depthwise kernel and feed-forward 1x1s."""
    layers = [("conv", 3, 2, 1), ("dwconv", 3, 1, 1), ("conv", 1, 1, 0), ("dwconv", 3, 2, 1)]
    for stage, (kernel, n) in enumerate(zip(kernels, blocks, strict=True)):
        layers += [("conv", 1, 1, 0), ("dwconv", kernel, 1, kernel // 2), ("conv", 1, 1, 0)] * n
        if stage < len(blocks) - 1:
            layers += [("conv", 1, 1, 0), ("dwconv", 3, 2, 1)]
    return chain(*layers)


ALEXNET = chain(
    ("conv", 11, 4, 2), ("pool", 3, 2, "VALID"), ("conv", 5, 1, 2), ("pool", 3, 2, "VALID"),
    ("conv", 3, 1, 1), ("conv", 3, 1, 1), ("conv", 3, 1, 1), ("pool", 3, 2, "VALID"),
)  # fmt: skip


def unet(depth: int, kernel: int) -> list[Node]:
    """A U-Net: two convolutions and a pooling per level down, a transposed convolution and two convolutions per level up."""
    rows: list[Node] = []
    last, skips = "input", []

    def add(op: str, inputs: Sequence[str], *numbers: Any) -> str:
        rows.append(node(f"{op}{len(rows)}", op, inputs, *numbers))
        return rows[-1].name

    for level in range(depth + 1):
        for _ in range(2):
            last = add("conv", [last], kernel, 1, "SAME")
        if level < depth:
            skips.append(last)
            last = add("pool", [last], 2, 2)
    for skip in reversed(skips):
        up = node(f"up{len(rows)}", "conv", [last], 2, 1, 1)
        rows.append(dataclasses.replace(up, base=(2, 2)))
        last = add("concat", [up.name, skip])
        for _ in range(2):
            last = add("conv", [last], kernel, 1, "SAME")
    add("conv", [last], 1)
    return rows
