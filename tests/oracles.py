"""Slow, independent answers: supports of dense Jacobians, fields by following every single position, textbook recurrences."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.geometry import Geometry, Window, resolve_padding
from tests.catalogue import Node, Nodes

Position = tuple[int, ...]


QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiled once, run once


def jacobian(f: Callable, x: jax.Array) -> np.ndarray:
    """∂f/∂x at x, of shape f(x).shape + x.shape."""
    return np.asarray(jax.jit(jax.jacrev(f), compiler_options=QUICK)(x))


def support(f: Callable, x: jax.Array, noise: float = 1e-13) -> np.ndarray:
    """Where the Jacobian at x is not zero but for rounding. Meant for float64 and weights in general position."""
    found = np.abs(jacobian(f, x))
    return found > noise * found.max(initial=0)


def influence(f: Callable, x: jax.Array) -> np.ndarray:
    """Which outputs change when one input is moved by one: needs no derivative."""
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    moved = jax.jit(jax.vmap(lambda step: f(x + step), out_axes=-1))(basis)
    return np.asarray(moved != jax.jit(f)(x)[..., None]).reshape(*moved.shape[:-1], *x.shape)


def shapes(nodes: Nodes, space: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The spatial shape of every node."""
    found = {"input": tuple(space)}
    for n in nodes:
        found[n.name] = _shape(n, [found[name] for name in n.inputs])
    return found


def _shape(n: Node, inputs: list[tuple[int, ...]]) -> tuple[int, ...]:
    x, axes = inputs[0], range(len(inputs[0]))
    if n.op in ("conv", "dwconv", "pool"):
        windows = [_window(n, axis, x[axis]) for axis in axes]
        return tuple(
            ((m - 1) * b + 1 + low + high - ((k - 1) * d + 1)) // s + 1
            for m, (k, s, d, b, low, high) in zip(x, windows, strict=True)
        )
    if n.op == "pad":
        return tuple((m - 1) * b + 1 + low + high for m, b, (low, high) in zip(x, n.base, n.padding, strict=True))
    if n.op == "slice":
        return tuple(-(-(b - a) // s) for (a, b), s in zip(n.padding, n.stride, strict=True))
    if n.op == "resize":
        return n.kernel
    least = tuple(min(shape[axis] for shape in inputs) for axis in axes)
    if n.op == "concat" and n.method != "channels":
        return tuple(sum(s[a] for s in inputs) if a == n.method else m for a, m in enumerate(least))
    return least


def _window(n: Node, axis: int, size: int) -> tuple[int, ...]:
    """kernel, stride, dilation, base, low, high of a convolution or pooling."""
    k, s, d, b = n.kernel[axis], n.stride[axis], n.dilation[axis], n.base[axis]
    sides = resolve_padding(n.padding, size, k, s, d) if isinstance(n.padding, str) else n.padding[axis]
    return k, s, d, b, *sides


def field(nodes: Nodes, space: Sequence[int], unit: Position, clipped: bool, weights: dict[str, list]) -> set[Position]:
    """All input positions that a unit of the last node reads, one by one; unclipped ones may lie outside the image.

    Args:
        weights: for every resize, per axis where its matrix (inputs, outputs) is not zero, and the input and the output
            at which this matrix begins: it reaches beyond the border, as positions do.
    """
    sizes = shapes(nodes, space)
    wanted: dict[str, set[Position]] = {n.name: set() for n in nodes} | {"input": set()}
    wanted[nodes[-1].name] = {tuple(unit)}
    for n in reversed(nodes):
        held = wanted[n.name]
        if clipped:
            held = {o for o in held if _inside(o, sizes[n.name])}
        inputs = [sizes[name] for name in n.inputs]
        for k, name in enumerate(n.inputs):
            axes = range(len(sizes[n.name]))
            lists = [{o: _reads(n, a, o, k, inputs, weights) for o in {p[a] for p in held}} for a in axes]
            for o in held:
                wanted[name].update(itertools.product(*(lists[a][o[a]] for a in axes)))
    found = wanted["input"]
    return {p for p in found if _inside(p, space)} if clipped else found


def _inside(position: Position, shape: Sequence[int]) -> bool:
    return all(0 <= p < m for p, m in zip(position, shape, strict=True))


def _reads(n: Node, axis: int, o: int, k: int, inputs: list[tuple[int, ...]], weights: dict) -> list[int]:
    """The positions of operand k along one axis that result position o reads."""
    size = inputs[k][axis]
    if n.op in ("conv", "dwconv", "pool"):
        kernel, s, d, b, low, _ = _window(n, axis, size)
        return [(o * s + t * d - low) // b for t in range(kernel) if (o * s + t * d - low) % b == 0]
    if n.op == "pad":
        (low, _), b = n.padding[axis], n.base[axis]
        return [(o - low) // b] if (o - low) % b == 0 else []
    if n.op == "slice":
        return [n.padding[axis][0] + o * n.stride[axis]]
    if n.op == "resize":
        held, first_in, first_out = weights[n.name][axis]
        return (np.flatnonzero(held[:, o - first_out]) + first_in).tolist()
    if n.op == "reverse":
        return [size - 1 - o] if axis == n.method else [o]
    if n.op == "concat" and axis == n.method:
        starts = [0, *itertools.accumulate(shape[axis] for shape in inputs)]
        first = o >= starts[k] or k == 0
        last = o < starts[k + 1] or k == len(inputs) - 1
        return [o - starts[k]] if first and last else []
    return [o]


def recurrence(nodes: Nodes, space: Sequence[int]) -> dict[str, list[tuple[int, int, int]]]:
    """Distill's recurrence, forwards, over a graph without misaligned paths: per node and axis (stride, start, stop) of unit 0.

    Positions are unclipped; of several paths the hull is taken, and their strides must agree.
    """
    sizes = shapes(nodes, space)
    found = {"input": [(1, 0, 1)] * len(space)}
    for n in nodes:
        found[n.name] = []
        for axis in range(len(space)):
            paths = [found[name][axis] for name in n.inputs]
            (jump,) = {path[0] for path in paths}
            start, stop = min(path[1] for path in paths), max(path[2] for path in paths)
            if n.op in ("conv", "dwconv", "pool"):
                kernel, stride, dilation, _, low, _ = _window(n, axis, sizes[n.inputs[0]][axis])
                start, stop = start - low * jump, stop + ((kernel - 1) * dilation - low) * jump
                jump *= stride
            elif n.op == "pad":
                low = n.padding[axis][0]
                start, stop = start - low * jump, stop - low * jump
            found[n.name].append((jump, start, stop))
    return found


def backward(windows: Sequence[Window]) -> Geometry:
    """The field by walking from the output to the input: r ← s r + k - s, S ← s S, P ← s P + p (Distill 2019, 1 to 4)."""
    size, stride, padding = 1, 1, 0
    for window in reversed(windows):
        size = window.stride * size + window.extent - window.stride
        stride *= window.stride
        padding = window.stride * padding + window.padding_low
    return Geometry(size, stride, padding)


def closed(windows: Sequence[Window]) -> Geometry:
    """The field in closed form: r = 1 + Σ (k_l - 1) j_l, P = Σ p_l j_l, j_l = Π_{i<l} s_i (Distill 2019, 2 and 5)."""
    *jumps, stride = itertools.accumulate((window.stride for window in windows), int.__mul__, initial=1)
    size = 1 + sum((window.extent - 1) * jump for window, jump in zip(windows, jumps, strict=True))
    return Geometry(size, stride, sum(window.padding_low * jump for window, jump in zip(windows, jumps, strict=True)))
