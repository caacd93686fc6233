"""Networks like those that people use, from the layers of `models`: smaller in depth, true to the blocks."""

from typing import Any

from benchmarks.models import Network


def convnext(depths: tuple[int, ...] = (3, 3, 9, 3), width: int = 96, kernel: int = 7) -> Network:
    """Depthwise kernels, a layer norm, a perceptron over channels with GELU; ConvNeXt-T. With kernel 31 like RepLKNet."""

    def network(ops: Any, x: Any) -> Any:
        x = ops.conv(x, "stem", width, 4, 4)
        for stage, depth in enumerate(depths):
            n = width << stage
            x = ops.conv(ops.layer_norm(x), f"{stage}.down", n, 2, 2) if stage else x
            for block in range(depth):
                name = f"{stage}.{block}"
                y = ops.layer_norm(ops.depthwise(x, f"{name}.spread", kernel))
                y = ops.conv(ops.gelu(ops.conv(y, f"{name}.up", 4 * n, 1)), f"{name}.back", n, 1)
                x = x + y
        return x

    return network


def densenet(blocks: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32) -> Network:
    """Every layer reads all before it; DenseNet-121."""

    def network(ops: Any, x: Any) -> Any:
        x = ops.relu(ops.norm(ops.conv(x, "stem", 2 * growth, 7, 2, bias=False), "stem"))
        x, n = ops.pool(x, 3, 2, 1), 2 * growth
        for b, layers in enumerate(blocks):
            if b:
                n //= 2
                x = ops.pool(ops.conv(ops.relu(ops.norm(x, f"{b}.join")), f"{b}.join", n, 1, bias=False), 2, 2)
            for layer in range(layers):
                name = f"{b}.{layer}"
                y = ops.conv(ops.relu(ops.norm(x, f"{name}.a")), f"{name}.a", 4 * growth, 1, bias=False)
                y = ops.conv(ops.relu(ops.norm(y, f"{name}.b")), f"{name}.b", growth, bias=False)
                x, n = ops.concat(x, y), n + growth
        return x

    return network


STAGES = ((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2))
"""Expansion, features, blocks, kernel, stride of EfficientNet-B0, without its last stage."""


def efficientnet(ops: Any, x: Any) -> Any:
    """Inverted bottlenecks with SiLU; channels are gated by their means over the image."""
    x, n = ops.silu(ops.norm(ops.conv(x, "stem", 32, 3, 2, bias=False), "stem")), 32
    for stage, (expansion, features, blocks, kernel, step) in enumerate(STAGES):
        for block in range(blocks):
            name, stride, y = f"{stage}.{block}", 1 if block else step, x
            if expansion > 1:
                y = ops.silu(ops.norm(ops.conv(y, f"{name}.up", expansion * n, 1, bias=False), f"{name}.up"))
            y = ops.silu(ops.norm(ops.depthwise(y, f"{name}.deep", kernel, stride), f"{name}.deep"))
            gate = ops.silu(ops.conv(ops.mean(y), f"{name}.in", max(1, n // 4), 1))
            y = y * ops.sigmoid(ops.conv(gate, f"{name}.out", expansion * n, 1))
            y = ops.norm(ops.conv(y, f"{name}.down", features, 1, bias=False), f"{name}.down")
            x, n = (x + y if stride == 1 and n == features else y), features
    return x


def vit(depth: int = 12, width: int = 192, heads: int = 3, patch: int = 16) -> Network:
    """Patches, attention among all, a perceptron with GELU, normalised before; ViT-Ti."""

    def network(ops: Any, x: Any) -> Any:
        x = ops.conv(x, "patches", width, patch, patch)
        for block in range(depth):
            qkv = ops.conv(ops.layer_norm(x), f"{block}.qkv", 3 * width, 1)
            x = x + ops.conv(ops.attend(qkv, heads), f"{block}.out", width, 1)
            y = ops.gelu(ops.conv(ops.layer_norm(x), f"{block}.up", 4 * width, 1))
            x = x + ops.conv(y, f"{block}.down", width, 1)
        return x

    return network
