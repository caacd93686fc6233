"""Theoretical fields: how long the trace takes, how long the walk, and what they hold in memory, whatever the size of the image.

asdex, which finds the sparsity of whole Jacobians, needs 12.6 s and 645 MB for the toy of the last row (as measured for its
version of November 2026); a field asks for one unit, so that row also has the gradient of one unit.
"""

import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import erfjax as ej
from benchmarks import harness
from erfjax.layouts import parse
from erfjax.measurement.cone import unit_box
from erfjax.tracing import trace
from erfjax.tracing.positions.hull import walk

DIMS = ("NHWC", "HWIO", "NHWC")


def rows() -> Iterator[harness.Row]:
    """ResNet-152 at two sizes, a U-Net with its phases, and asdex's toy."""
    for pixels in (224, 4096):
        yield _row("ResNet-152, centre unit", resnet152, (1, pixels, pixels, 3), _parts)
    yield _row("U-Net of depth 4, centre unit", unet, (1, 576, 576, 3), _parts)
    yield _row("three 8-channel 3x3 convolutions", toy, (1, 64, 64, 8), _against_gradient)


def conv(x: Any, features: int, kernel: int, stride: int = 1, base: int = 1) -> Any:
    """A convolution whose kernel is never computed: a field asks for no weights."""
    w = jnp.ones((kernel, kernel, x.shape[-1], features), x.dtype)
    low = kernel // 2
    return lax.conv_general_dilated(x, w, (stride,) * 2, [(low, low)] * 2, (base,) * 2, dimension_numbers=DIMS)


def norm(x: Any) -> Any:
    """Batch normalisation at inference."""
    mean, scale = (jnp.full((1, 1, 1, x.shape[-1]), value, x.dtype) for value in (0.1, 1.1))
    return (x - mean) * scale


def resnet152(x: Any) -> Any:
    """The trunk of torchvision's ResNet-152, normalisation and activations included."""
    x = jax.nn.relu(norm(conv(x, 64, 7, 2)))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)])
    for stage, units in enumerate((3, 8, 36, 3)):
        for unit in range(units):
            with jax.named_scope(f"layer{stage + 1}.{unit}"):
                stride, width = 2 if stage and not unit else 1, 64 << stage
                y = jax.nn.relu(norm(conv(x, width, 1)))
                y = jax.nn.relu(norm(conv(y, width, 3, stride)))
                y = norm(conv(y, 4 * width, 1))
                x = jax.nn.relu(y + (x if unit else norm(conv(x, 4 * width, 1, stride))))
    return x


def unet(x: Any) -> Any:
    """Four levels of two convolutions each way; the field depends on the unit's phase."""
    skips = []
    for level in range(5):
        for _ in range(2):
            x = jax.nn.relu(conv(x, 8 << level, 3))
        if level < 4:
            skips.append(x)
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    for skip in reversed(skips):
        up = lax.conv_transpose(
            x, jnp.ones((2, 2, x.shape[-1], skip.shape[-1])), (2, 2), "VALID", dimension_numbers=DIMS
        )
        x = jnp.concatenate([skip, up], -1)
        for _ in range(2):
            x = jax.nn.relu(conv(x, skip.shape[-1], 3))
    return x


def toy(x: Any) -> Any:
    for _ in range(3):
        x = conv(x, 8, 3)
    return x


def _row(what: str, f: Callable[[Any], Any], shape: tuple[int, ...], candidates: Callable) -> harness.Row:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    field = ej.theoretical(f, x)
    facts = {
        "field": " × ".join(map(str, field.size)),
        "peak memory, MB": {"walk": _peak(_walk(f, x)), "erfjax.theoretical": _peak(lambda: ej.theoretical(f, x))},
    }
    baseline, functions = candidates(f, x)
    return harness.compare(what, f"{shape[1]} px", functions, baseline, facts)


def _walk(f: Callable[[Any], Any], x: jax.ShapeDtypeStruct) -> Callable[[], Any]:
    """The two walks that every field takes: unclipped and clipped."""
    program = trace(f, x)
    output = program.output
    unit = tuple(n // 2 for n in output.shape[1:3])
    wanted = {output: (unit_box(output.shape, parse("NHWC", 4), unit),)}
    return lambda: [walk(program, wanted, clipped=clipped) for clipped in (False, True)] and None


def _parts(f: Callable[[Any], Any], x: jax.ShapeDtypeStruct) -> tuple[str, Mapping[str, Callable[[], Any]]]:
    field = ej.theoretical(f, x)
    return "trace", {
        "trace": lambda: trace(f, x) and None,
        "walk": _walk(f, x),
        "erfjax.theoretical": lambda: ej.theoretical(f, x) and None,
        "all phases": lambda: field.phases_() and None,
        "rows of all layers": lambda: field.layers_() and None,
    }


def _against_gradient(f: Callable[[Any], Any], x: jax.ShapeDtypeStruct) -> tuple[str, Mapping[str, Callable[[], Any]]]:
    gradient = jax.jit(jax.grad(lambda x: f(x)[0, 32, 32].sum()))
    ones = jnp.ones(x.shape)
    return "gradient of one unit, compiled", {
        "gradient of one unit, compiled": lambda: gradient(ones),
        "walk": _walk(f, x),
        "erfjax.theoretical": lambda: ej.theoretical(f, x).mask(),
    }


def _peak(f: Callable[[], Any]) -> float:
    tracemalloc.start()
    f()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6
