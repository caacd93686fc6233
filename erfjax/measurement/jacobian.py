"""The Jacobian of one sample at the probed units, reduced to maps.

A *cotangent* says which combination of output channels is differentiated. Reverse mode costs one pullback per
cotangent, forward mode one push per input entry: the cheaper is taken, which is reverse unless the window is tiny.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.measurement import reduction
from erfjax.measurement.probe import Piece, Probe
from erfjax.tracing.windows.cpu_taps import on_cpu
from erfjax.typing import Channels, Statistic

CHUNK = 16  # cotangents pulled back at once, in a loop over chunks
MOST = 64  # at once on a CPU, where XLA's convolutions are 10 times slower inside a loop than outside ...
UNROLLED = 8  # ... in as many chunks one after the other; more are a loop: compiling has a cost too
BUDGET = 1 << 29  # bytes of intermediate gradients of one sample
LARGEST = 8  # the largest array of a network is about this part of all that it computes

OUTPUT_FAULT, GRADIENT_FAULT, LOST_FAULT = 1, 2, 3


def sample_maps(probe: Probe, statistic: Statistic, channels: Channels) -> Callable[..., Any]:
    """The function (consts, key, window, others) -> (maps, exponents, fault) of one sample.

    It gives one scaled map of the probe's window per unit (see `reduction`), and fault 0, or 1 if the output, 2 if a gradient
    is not finite.
    """

    def piece_maps(piece: Piece, function: Callable[[Any], Any], key: Any, window: Any) -> Any:
        count, limit = probes(probe, piece, channels), at_once(probe.cost)
        output, jacobian = differentiate(function, probe.piece_of(window, piece), count, limit)
        rows = cotangents(channels, probe.channels, output.dtype, key) * np.asarray(2.0**probe.shift, output.dtype)

        def unit_map(unit: Any) -> Any:
            maps, exponent, finite = reduction.reduce(jacobian(unit, rows), statistic, probe.layout)
            return maps, exponent - probe.shift, finite

        several = limit if limit == CHUNK else max(1, limit // len(rows))
        maps, exponents, finite = for_each(unit_map, jnp.arange(len(piece.units)), several)
        fault = jnp.where(finite.all(), 0, GRADIENT_FAULT)
        fault = jnp.where(jnp.isfinite(output).all(), fault, OUTPUT_FAULT)
        return jnp.pad(maps, [(0, 0), *probe.sides(piece)]), exponents, fault

    order = np.argsort([unit for piece in probe.pieces for unit in piece.units])

    def sample(consts: Any, key: Any, window: Any, others: Any = ()) -> Any:
        functions = probe.functions(consts, key, others)
        found = [piece_maps(*pair, key, window) for pair in zip(probe.pieces, functions, strict=True)]
        if len(found) == 1:
            return found[0]
        maps, exponents, faults = zip(*found, strict=True)
        worst = jnp.stack(faults)
        fault = jnp.where((worst == OUTPUT_FAULT).any(), OUTPUT_FAULT, worst.max())
        return jnp.concatenate(maps)[order], jnp.concatenate(exponents)[order], fault

    return sample


SIGNS = 0x51675  # folded into a sample's key, away from the small numbers that a model may fold in itself


def probes(probe: Probe, piece: Piece, channels: Channels) -> int:
    """How many cotangents all units of a piece take together."""
    return len(piece.units) * (probe.channels if channels == "frobenius" else 1)


def at_once(cost: int) -> int:
    """How many cotangents are pulled back at once through a network of which one sample takes `cost` bytes."""
    return max(CHUNK, min(MOST, BUDGET * LARGEST // max(1, cost))) if on_cpu() else CHUNK


def most_at_once(probe: Probe, channels: Channels) -> int:
    """How many cotangents of one sample are pulled back at once, at most."""
    return min(max(probes(probe, piece, channels) for piece in probe.pieces), at_once(probe.cost))


def gradient_bytes(probe: Probe, channels: Channels) -> int:
    """The bytes of the gradients of one sample that are held at once, those of intermediate results included."""
    limit = max(at_once(probe.cost), probe.channels)
    counts = [min(probes(probe, piece, channels), limit) for piece in probe.pieces]
    pixels = sum(count * math.prod(piece.window) for count, piece in zip(counts, probe.pieces, strict=True))
    between = most_at_once(probe, channels) - 1
    return 2 * pixels * probe.pixel_bytes + between * probe.cost // LARGEST


def cotangents(channels: Channels, count: int, dtype: Any, key: Any) -> Any:
    """The combinations of `count` output channels to differentiate: one row each."""
    if channels == "sum":
        return jnp.ones((1, count), dtype)
    if channels == "random-signs":
        return jax.random.rademacher(jax.random.fold_in(key, SIGNS), (1, count), dtype)
    basis = jnp.eye(count, dtype=dtype)
    return basis if channels == "frobenius" else basis[int(channels)][None]


def differentiate(
    h: Callable[[Any], Any], window: Any, count: int, limit: int = CHUNK
) -> tuple[Any, Callable[[Any, Any], Any]]:
    """The value of h, and a function (unit, rows) -> gradients of the combinations `rows` of that unit's channels.

    `count` rows of all units are to be expected, `limit` of them at once.
    """
    if count > window.size and has_forward_mode(h, window):
        jacobian = jax.jacfwd(h)(window)
        return h(window), lambda unit, rows: jnp.tensordot(rows, jacobian[unit], 1)
    output, pullback = jax.vjp(h, window)

    def pull(unit: Any, row: Any) -> Any:
        return pullback(jnp.zeros_like(output).at[unit].set(row))[0]

    return output, lambda unit, rows: for_each(lambda row: pull(unit, row), rows, limit)


def has_forward_mode(h: Callable[[Any], Any], window: Any) -> bool:
    """Whether h can be differentiated forwards: a function with a custom reverse rule cannot."""
    try:
        jax.eval_shape(jax.jacfwd(h), window)
    except TypeError:
        return False
    return True


def for_each(fn: Callable[[Any], Any], rows: Any, limit: int = CHUNK) -> Any:
    """fn of every row, stacked: at once if there are no more than `limit`, in chunks of so many otherwise."""
    count = len(rows)
    if count == 1:
        return jax.tree.map(lambda leaf: leaf[None], fn(rows[0]))
    if count <= limit:
        return jax.vmap(fn)(rows)
    if not on_cpu() or count > UNROLLED * limit:
        return jax.lax.map(fn, rows, batch_size=limit)
    chunks = [for_each(fn, rows[first : first + limit], limit) for first in range(0, count, limit)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *chunks)
