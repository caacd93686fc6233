"""Pullbacks of a fixed segment, from positions and channels of its end to those of its starts."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.second_moments.passages import frame
from erfjax.tracing.second_moments.segments import Partition, Segment
from erfjax.tracing.second_moments.steps import kind_of
from erfjax.tracing.windows.cone import Step

Sent = Callable[[Any], list[Any]]
AT_ONCE = 1 << 22  # entries that the pullbacks of one batch hold


def summed(add: Callable[[Any, Any], tuple[Any, None]], zeros: Any, each: Any) -> Any:
    """The sum over rows, one after the other; a single row needs no loop, which would be compiled."""
    if len(each) == 1:
        return add(zeros, each[0])[0]
    return lax.scan(add, zeros, each)[0]


def at_once(segment: Segment, count: int) -> int:
    """How many pullbacks share a batch."""
    entries = sum(step.entries for step in segment.steps)
    return max(1, min(count, AT_ONCE // max(1, entries)))


def sender(parts: Partition, segment: Segment, starts: Iterable[Var], values: Mapping[Atom, Any]) -> Sent:
    """What arrives at starts, (positions, channels) each, of what the end sends: (positions, channels), or broadcast to that."""
    starts = list(starts)
    end, frames = frame(parts, segment.end), [frame(parts, start) for start in starts]
    value, pull = jax.vjp(
        lambda arrays: run(parts, segment, starts, arrays, values), [values[start] for start in starts]
    )

    def sent(matrix: Any) -> list[Any]:
        whole = jnp.broadcast_to(matrix, (end.positions, end.channels)).astype(value.dtype)
        (arrived,) = pull(end.join(whole))
        return [into.split(array).astype(matrix.dtype) for into, array in zip(frames, arrived, strict=True)]

    return sent


def run(
    parts: Partition, segment: Segment, starts: Iterable[Var], arrays: Iterable[Any], values: Mapping[Atom, Any]
) -> Any:
    """The end of a segment for these arrays at starts, everything else as it is."""
    held: dict[Atom, Any] = {**values}
    held.update(zip(starts, arrays, strict=True))
    return parts.cone.run(segment.steps, held)[segment.end]


def price(segment: Segment) -> float:
    """About how many operations a pullback takes."""
    return 4.0 * sum(map(work, segment.steps))


def work(step: Step) -> float:
    """About how many operations a step takes."""
    if step.inner is not None:
        assert step.equation.scan is not None
        return step.equation.scan.length * float(sum(map(work, step.inner.steps)))
    sizes = [math.prod(lengths(box)) for box in (*(b for b in step.operands if b is not None), step.box)]
    contracts = jnp.issubdtype(step.output.dtype, jnp.inexact) and kind_of(step.equation) is Kind.BILINEAR
    return math.sqrt(math.prod(map(float, sizes))) if contracts and len(sizes) == 3 else float(sum(sizes))
