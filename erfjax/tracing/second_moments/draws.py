"""How the covariance of two positions passes a random contraction z = W a.

One weight meets both positions only if it is the same entry of W, so K is summed over the taps that both have in common and the
lag is kept: K_a(i, i') = Σ_t v(t) K_z(o_t(i), o_t(i')), v the variance of a weight at tap t times the number of weights there
that lead to one channel of a. Positions with weights of their own have no covariance.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.tracing import registry
from erfjax.tracing.positions.access import Along, View
from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.second_moments.activity import Weigh
from erfjax.tracing.second_moments.covariances import Band, Lags, Layout, Matrix
from erfjax.tracing.second_moments.passages import Frame, frame
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.second_moments.segments import Draw, Partition


def through_draw(
    parts: Partition,
    draw: Draw,
    covariance: Scaled,
    layouts: Mapping[Var, Layout],
    weigh: Weigh,
    values: Mapping[Atom, Any],
) -> Scaled:
    """The covariance at the operand of a random contraction from that at its result, both held as `layouts` says."""
    weights = 1 - draw.operand
    atom, box = draw.step.equation.inputs[weights], draw.step.operands[weights] or ()
    squares = weigh(draw.step.equation, weights, parts.cone.read(values, atom, box))
    (at, variances), shared = _taps(parts, draw, squares.digits)
    there, here = layouts[draw.step.output], layouts[draw.source]
    digits, found = covariance.digits, here
    if isinstance(here, Matrix) and isinstance(there, Matrix):
        digits = _untraced(frame(parts, draw.step.output), draw.traced, digits)
    else:
        found = here if isinstance(here, Band) else Band(here.sizes, lags_before(parts, draw, there.lags))
        digits = _rows(parts, draw, digits, there, found)
    padded = jnp.pad(digits, [(0, int(isinstance(found, Matrix))), (0, 1)])

    def add(total: Any, tap: Any) -> tuple[Any, None]:
        at, variance = tap
        if isinstance(found, Matrix):
            return total + padded[at[:, None], at[None, :]] * variance[:, None], None
        return total + padded[:, at] * variance[None, :], None

    total, _ = lax.scan(add, jnp.zeros(found.shape, digits.dtype), (at, variances.astype(digits.dtype)))
    if isinstance(found, Band):
        total = found.within(total)
        total = total if found is here else found.whole(total)
    elif len(shared):
        total = jnp.where((shared[:, :, None] == shared[:, None, :]).all(0), total, 0)
    return Scaled.of(total, covariance.exponent + squares.exponent)


def _along(draw: Draw) -> tuple[dict[int, tuple[int, Along]], dict[int, int]]:
    """Axis of the result -> the axis of the operand that runs along it, and how; -> the axis of the weights that does so too."""
    equation = draw.step.equation
    mine, theirs = (
        registry.lookup(equation).hull(equation, draw.step.result)[i] for i in (draw.operand, 1 - draw.operand)
    )
    assert isinstance(mine, View)
    assert isinstance(theirs, View)
    along = {axis.out: (a, axis) for a, axis in enumerate(mine.axes) if isinstance(axis, Along)}
    alone = {axis.out: a for a, axis in enumerate(theirs.axes) if isinstance(axis, Along) and axis.out in along}
    return along, alone


def _sliding(parts: Partition, draw: Draw) -> list[tuple[int, int, Along]]:
    """The axes along which two positions may lie apart and meet one weight: their places among the paired axes of the result and
    of the operand, and how one runs along the other."""
    along, alone = _along(draw)
    before, after = frame(parts, draw.source).paired, frame(parts, draw.step.output).paired
    kept = [o for o in after if o in along and o not in alone and o not in draw.traced and along[o][0] in before]
    return [(after.index(o), before.index(along[o][0]), along[o][1]) for o in kept]


def lags_before(parts: Partition, draw: Draw, lags: Lags) -> Lags:
    """The lags at the operand of a contraction that those at its result become."""
    sizes = frame(parts, draw.source).sizes
    found: list[tuple[int, ...]] = [(0,)] * len(sizes)
    for there, here, axis in _sliding(parts, draw):
        moved = [lag * axis.stride for lag in lags[there] if lag * axis.stride % axis.base == 0]
        found[here] = tuple(lag // axis.base for lag in moved if lag // axis.base < sizes[here])
    return tuple(found)


def lags_after(parts: Partition, draw: Draw, lags: Lags) -> Lags:
    """The lags at the result of a contraction that become those at its operand."""
    sizes = frame(parts, draw.step.output).sizes
    found: list[tuple[int, ...]] = [(0,)] * len(sizes)
    for there, here, axis in _sliding(parts, draw):
        moved = [lag * axis.base for lag in lags[here] if lag * axis.base % axis.stride == 0]
        found[there] = tuple(lag // axis.stride for lag in moved if lag // axis.stride < sizes[there])
    return tuple(found)


def _rows(parts: Partition, draw: Draw, covariance: Any, there: Layout, here: Band) -> Any:
    """The covariance at the result, at the lags that become those at the operand: (lags there, positions)."""
    before, after, sliding = frame(parts, draw.source), frame(parts, draw.step.output), _sliding(parts, draw)
    lags, lost = np.zeros((len(here.rows), len(after.paired)), np.int64), np.zeros(len(here.rows), bool)
    for k, b, axis in sliding:
        moved = here.rows[:, b] * axis.base
        lost |= moved % axis.stride != 0
        lags[:, k] = moved // axis.stride
    still = [b for b in range(len(before.paired)) if b not in {b for _, b, _ in sliding}]
    lost |= here.rows[:, still].any(1)
    found = jnp.where(lost[:, None], 0, there.read(covariance, lags))
    extra = [1 + k for k, o in enumerate(after.paired) if o in draw.traced]
    return jnp.mean(found.reshape(len(lags), *after.sizes), axis=extra).reshape(len(lags), -1)


def _untraced(after: Frame, traced: frozenset[int], covariance: Any) -> Any:
    """The mean of the diagonal over axes that only the weights have, where they are paired."""
    extra, count = [k for k, a in enumerate(after.paired) if a in traced], len(after.paired)
    whole = covariance.reshape(after.sizes * 2)
    for k in reversed(extra):
        whole, count = jnp.mean(jnp.diagonal(whole, axis1=k, axis2=count + k), axis=-1), count - 1
    return whole.reshape((math.prod(n for k, n in enumerate(after.sizes) if k not in extra),) * 2)


def _taps(parts: Partition, draw: Draw, squares: Any) -> tuple[tuple[Any, Any], np.ndarray]:
    """Per tap, for every position of the operand: which position of the result it meets there (one beyond the last: none), and
    the variance of the weights times their number.

    Beside it, for every position, the indices that two positions must share to have weights in common.
    """
    (along, alone), weights = _along(draw), 1 - draw.operand
    before, after = frame(parts, draw.source), frame(parts, draw.step.output)
    box = draw.step.operands[weights] or ()
    kept = [*draw.taps.values(), *alone.values()]
    squares = jnp.moveaxis(squares, kept, range(len(kept)))
    squares = jnp.sum(squares, range(len(kept), squares.ndim)) / math.prod(before.shape[a] for a in draw.contracted)

    kept_there = [o for o in after.paired if o not in draw.traced]
    grid = np.indices(before.sizes).reshape(len(before.paired), before.positions)
    index = {a: grid[k] + before.first[a] for k, a in enumerate(before.paired)}
    shared = [index[along[o][0]] for o in alone] + [index[a] for a in before.paired if a in draw.contracted]
    meets, variances = [], []
    for tap in np.ndindex(squares.shape[: len(draw.taps)]):
        at, held = np.zeros(before.positions, np.int64), np.ones(before.positions, bool)
        slid = dict(zip(draw.taps, tap, strict=True))
        for o in kept_there:
            a, axis = along[o]
            reached = index[a] * axis.base - slid.get(a, 0) * axis.dilation - axis.offset
            place = reached // axis.stride - after.first[o]
            held &= (reached % axis.stride == 0) & (place >= 0) & (place < after.shape[o])
            at = at * after.shape[o] + place
        entry = [*tap, *(np.clip(index[along[o][0]] - int(box[a].start), 0, None) for o, a in alone.items())]
        meets.append(np.where(held, at, math.prod(after.shape[o] for o in kept_there)))
        variances.append(jnp.broadcast_to(squares[tuple(entry)], at.shape))
    rows = np.stack(shared) if shared else np.zeros((0, before.positions), np.int64)
    return (jnp.asarray(np.stack(meets), np.int32), jnp.stack(variances)), rows
