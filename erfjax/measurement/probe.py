"""What is measured: a function traced once, and the units of its output that are probed.

`Probe` is the seam between a model and the engine: `functions(consts, key)` are functions from a window of the input to the
channels of some units, and the arrays that the model closed over are arguments, not constants, so the compiler neither
copies nor folds them. Here there is one such piece, and its window is the whole input; whoever knows the cones of the units
may hand over smaller ones.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from erfjax import layouts
from erfjax.errors import LayoutError, SampleError, UnitError
from erfjax.layouts import Layout
from erfjax.measurement.model import take_apart

Channels = int | Literal["sum", "frobenius", "random-signs"]
"""Which output channels are probed: "sum" all with one cotangent of ones, an integer one of them, "frobenius" every one by
itself (their statistics are summed), "random-signs" all with a random sign each: for squares an unbiased and much
cheaper estimate of "frobenius"."""

INNER_BYTES = 1 << 20  # constants of that size inside calls are worth tracing without calls, where loops are unrolled


@dataclasses.dataclass(frozen=True)
class Piece:
    """Units that are computed together: their numbers in the probe, and where their window lies, per spatial axis."""

    units: tuple[int, ...]
    start: tuple[int, ...]
    window: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Probe:
    """Differentiable functions from windows of the input to the channels of some units.

    Attributes:
        functions: (consts, key) -> for every piece, a function window -> array of shape (units of the piece, channels).
        pieces: what these functions give; together every unit once.
        consts: what the model closed over, then the weights that it holds as a pytree.
        call: the whole model as it was traced: (consts, key, x) -> its output.
        layout: the roles of the input's axes, those of the window too.
        target: the roles of the output's axes.
        shape: the spatial shape of the input.
        units: spatial indices into the output.
        batched: whether a list of units was asked for.
        channels: how many channels the output has.
        pixel_bytes: bytes of the input per spatial position.
        cost: bytes that one evaluation may hold, as an upper estimate.
        loops: whether the model has loops, which a walk over its equations unrolls.
    """

    functions: Callable[[Any, Any], Sequence[Callable[[Any], Any]]]
    pieces: tuple[Piece, ...]
    consts: tuple[Any, ...]
    call: Callable[[Any, Any, Any], Any]
    layout: Layout
    target: Layout
    shape: tuple[int, ...]
    units: tuple[tuple[int, ...], ...]
    batched: bool
    channels: int
    pixel_bytes: int
    cost: int
    loops: bool

    @functools.cached_property
    def start(self) -> tuple[int, ...]:
        """Where the window begins that holds those of all pieces."""
        return tuple(map(min, zip(*(piece.start for piece in self.pieces), strict=True)))

    @functools.cached_property
    def window(self) -> tuple[int, ...]:
        """The shape of that window."""
        stops = zip(*(map(sum, zip(piece.start, piece.window, strict=True)) for piece in self.pieces), strict=True)
        return tuple(max(stop) - start for stop, start in zip(stops, self.start, strict=True))

    def crop(self, x: Any, axes: int = 0) -> Any:
        """The window of an input that has so many axes in front."""
        return self._cut(x, self.start, self.window, axes)

    def piece_of(self, window: Any, piece: Piece) -> Any:
        """The part of the window that a piece needs."""
        return self._cut(window, [a - b for a, b in zip(piece.start, self.start, strict=True)], piece.window)

    def _cut(self, x: Any, starts: Sequence[int], sizes: Sequence[int], axes: int = 0) -> Any:
        index = [slice(None)] * x.ndim
        for axis, start, size in zip(self.layout.spatial, starts, sizes, strict=True):
            index[axes + axis] = slice(start, start + size)
        return x[tuple(index)]

    def sides(self, piece: Piece) -> list[tuple[int, int]]:
        """How far the window reaches beyond that of a piece, per spatial axis."""
        low = [a - b for a, b in zip(piece.start, self.start, strict=True)]
        return [(a, n - a - m) for a, m, n in zip(low, piece.window, self.window, strict=True)]

    def embed(self, maps: np.ndarray) -> np.ndarray:
        """A map of the window, or a stack of them, as a map of the whole input: zero elsewhere."""
        lead = maps.ndim - len(self.shape)
        sides = [(a, n - a - m) for a, m, n in zip(self.start, self.window, self.shape, strict=True)]
        return np.pad(maps, [(0, 0)] * lead + sides)


def build(
    f: Callable[..., Any], x: jax.ShapeDtypeStruct, key: Any, layout: str, out_layout: str | None, unit: Any
) -> Probe:
    """Traces f and resolves the units.

    Args:
        f: a function of x, or of (key, x) if there is a key.
        x: shape and dtype of one sample, with a batch of one where the layout has N.
        key: a random key, or None.
        layout, out_layout, unit: as in `erfjax.empirical`.

    Raises:
        LayoutError, UnitError: input, output and unit do not fit together.
        SampleError: the input or the output is not floating point.
    """
    parsed = layouts.parse_input(layout, x.shape)
    layouts.require_batch_of_one(parsed, x.shape)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise SampleError(
            f"Expected floating-point inputs, but got {x.dtype}: there is no gradient; convert them first."
        )
    call, consts, y, cost, loops = hoist(f, (x,) if key is None else (jax.eval_shape(lambda: key), x))
    if not (hasattr(y, "shape") and hasattr(y, "dtype")):
        raise LayoutError(
            f"f must return one array, but returned {jax.tree.structure(y)}: pick one, lambda x: f(x)[0]."
        )
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise SampleError(f"Expected a floating-point output, but f returns {y.dtype}: it has no gradient.")
    out = layouts.parse_output(out_layout, y.shape, layout)
    layouts.require_batch_of_one(out, y.shape)
    units, batched = layouts.resolve_units(unit, out.space(y.shape))
    shape = parsed.space(x.shape)

    def whole(consts: Any, sample_key: Any, x: Any) -> Any:
        return call(consts, x) if key is None else call(consts, sample_key, x)

    def functions(consts: Any, sample_key: Any) -> list[Callable[[Any], Any]]:
        def apply(x: Any) -> Any:
            output = whole(consts, sample_key, x)
            return jnp.stack([out.unit_channels(output, unit) for unit in units])

        return [apply]

    channels = 1 if out.channel is None else y.shape[out.channel]
    return Probe(
        functions,
        (Piece(tuple(range(len(units))), (0,) * len(shape), shape),),
        consts,
        whole,
        parsed,
        out,
        shape,
        units,
        batched,
        channels,
        math.prod(x.shape) * x.dtype.itemsize // max(1, math.prod(shape)),
        cost,
        loops,
    )


def hoist(f: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...], Any, int, bool]:
    """Traces f once: `call(consts, *args)` equals `f(*args)`; its first argument are the arrays that f closed over, then the
    weights that it holds as a pytree.

    Returns:
        call, consts, the shapes that f returns, the bytes of everything that f computes on the way, and whether it loops.
    """
    if hasattr(f, "lower"):  # a jitted function would keep its constants inside
        f = getattr(f, "__wrapped__", f)
    model = take_apart(f)

    def apply(weights: Any, *args: Any) -> Any:
        return model.rebuild(weights)(*args)

    closed, shapes = jax.make_jaxpr(apply, return_shape=True)(model.weights, *args)
    if inner_bytes(getattr(closed, "jaxpr", closed)) > INNER_BYTES:
        with jax.disable_jit():
            closed, shapes = jax.make_jaxpr(apply, return_shape=True)(model.weights, *args)
    closed_over = tuple(jnp.asarray(c) for c in getattr(closed, "consts", ()))
    jaxpr: Any = getattr(closed, "jaxpr", closed)
    tree, count = jax.tree.structure(shapes), len(closed_over)

    def call(consts: Any, *args: Any) -> Any:
        return jax.tree.unflatten(
            tree, jax.core.eval_jaxpr(jaxpr, consts[:count], *consts[count:], *jax.tree.leaves(args))
        )

    return call, (*closed_over, *model.weights), shapes, footprint(jaxpr), has_loops(jaxpr)


def bodies_of(equation: Any) -> list[Any]:
    """The jaxprs inside an equation, with their constants where they have any."""
    inner = [v for p in equation.params.values() for v in (p if isinstance(p, tuple) else (p,))]
    return [v for v in inner if hasattr(getattr(v, "jaxpr", v), "eqns")]


def inner_bytes(jaxpr: Any) -> int:
    """The bytes of the constants inside the calls of a jaxpr: weights that a jitted function closed over."""
    bodies = [body for equation in jaxpr.eqns for body in bodies_of(equation)]
    own = sum(getattr(const, "nbytes", 0) for body in bodies for const in getattr(body, "consts", ()))
    return own + sum(inner_bytes(getattr(body, "jaxpr", body)) for body in bodies)


def footprint(jaxpr: Any) -> int:
    """The bytes of all intermediate results of a jaxpr: what reverse mode may have to keep."""
    total = 0
    for equation in jaxpr.eqns:
        bodies = [footprint(getattr(body, "jaxpr", body)) for body in bodies_of(equation)]
        own = sum(math.prod(v.aval.shape) * getattr(v.aval.dtype, "itemsize", 8) for v in equation.outvars)
        total += max(own, equation.params.get("length", 1) * max(bodies, default=0))
    return total


def has_loops(jaxpr: Any) -> bool:
    """Whether a scan or a while loop stands in a jaxpr, at any depth."""
    return any(
        equation.primitive in (jax.lax.scan_p, jax.lax.while_p)
        or any(has_loops(getattr(body, "jaxpr", body)) for body in bodies_of(equation))
        for equation in jaxpr.eqns
    )


def check_channels(channels: Any, count: int, statistic: str) -> None:
    """Refuses a choice of output channels that the output does not have.

    Raises:
        UnitError: no such channel, or no such choice.
    """
    if isinstance(channels, str):
        if channels not in ("sum", "frobenius", "random-signs"):
            raise UnitError(
                f'`channels` must be "sum", "frobenius", "random-signs" or an integer, but got {channels!r}.'
            )
        if channels == "random-signs" and statistic not in ("square", "rms"):
            raise UnitError(f'Random signs estimate squares only: statistic={statistic!r} needs channels="frobenius".')
    elif isinstance(channels, bool) or not hasattr(channels, "__index__") or not 0 <= channels < count:
        raise UnitError(
            f"`channels` must be one of the {count} output channels, but got {channels!r}: they count from zero."
        )
