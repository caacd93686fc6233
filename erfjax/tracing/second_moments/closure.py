"""Whether the covariance of two positions closes: when it is needed, what it costs, and where it is not exact.

The recursion is exact in the limit of width if every random contraction has weights of its own, independent and of zero mean:
then the gradient at its result is independent of the weights that the gradient meets next. The same weights met twice on a path
break that, and so do weights in a role that `segments` does not know; both make the result an approximation, and are named.
"""

import math
from collections.abc import Container, Iterable, Sequence

import jax.numpy as jnp
import numpy as np

from erfjax.tracing import registry
from erfjax.tracing.positions.access import Along, View
from erfjax.tracing.program.equations import Atom, Known, Var
from erfjax.tracing.rules.contraction import channel_axes
from erfjax.tracing.second_moments import coherence, meetings, pullbacks
from erfjax.tracing.second_moments.coverage import NORMAL, SHARED, WIDE, Survey, place
from erfjax.tracing.second_moments.downstream import nonlinear_downstream
from erfjax.tracing.second_moments.kinds import Choice, Kind
from erfjax.tracing.second_moments.lag_plan import Plan
from erfjax.tracing.second_moments.meetings import meeting
from erfjax.tracing.second_moments.passages import passage
from erfjax.tracing.second_moments.random_weights import Uses, independence, listed, unlikely
from erfjax.tracing.second_moments.segments import Drawn, Partition, Segment
from erfjax.tracing.second_moments.steps import kind_of, multiplies
from erfjax.tracing.second_moments.windowed import crossing
from erfjax.tracing.windows.cone import Cone, Step

MOST_OPERATIONS = 5e12  # a minute or two on two cores
MOST_ENTRIES = 1 << 29  # of 4 bytes: 2 GiB
SOME = 0.02  # of the weights of a tap: more zeros are no accident
FEW = 25  # terms of a random sum, below which the limit of width is far
FAR = 0.15  # sum of 1 / terms over all random contractions, beyond which it is far too

WIDTH = (
    "exact in the limit of width, the input's included; finite layers add the order of 1 / (terms of a sum) each and of "
    "(positions that meet) / width"
)
NARROW = "random sums of few terms are taken as wide"
GROUPED = (
    "gradients are averaged over channels before kernels that keep few channels to themselves (depthwise, grouped)"
)
KNOWING = (
    "gates, choices and products that know more of the weights before them than a sign are taken as independent of these, "
    "though the weights sum few terms"
)
DEEP = (
    "the limit of width is far: 1 / terms adds up to {:.2g} over the random sums, and totals are off by a quarter to all of that "
    "where gates, choices and products know more of the weights before them than a sign; the narrowest"
)
MASKED = "random weights of which some are zero are taken to be as large as all others on average"
UNKNOWN = "random weights that are no ordinary contraction with one array are taken as fixed"
COHERENT = "the gradient of summed channels goes with what the weights before them have caused, which is left out"


def needed(cone: Cone, apart: Survey) -> bool:
    """Whether positions apart are not enough: the survey has reasons, or the data choose entries by size (a maximum, a sort)."""
    numbers = [step for step in cone.every if jnp.issubdtype(step.output.dtype, jnp.inexact)]
    reasons = [reason for reason in apart.reasons if not reason.startswith(NORMAL)]
    return bool(reasons) or any(isinstance(kind_of(step.equation), Choice) for step in numbers)


def price(parts: Partition, plan: Plan) -> tuple[float, float]:
    """About how many operations the walk takes for one unit and input, and how many entries it holds at once."""
    operations, entries = 0.0, 0.0
    for atom in parts.order:
        held = math.prod(plan.layouts[atom].shape)
        entries = max(entries, 2.0 * held)
        if atom in parts.draws:
            draw = parts.draws[atom]
            weights = draw.step.equation.inputs[1 - draw.operand]
            operations += held * math.prod(weights.shape[a] for a in draw.taps.values())
        elif atom in parts.segments:
            for start in parts.segments[atom].links:
                count, room = _passing(parts, parts.segments[atom], start, plan)
                operations, entries = operations + count, max(entries, room)
    return operations, entries


def _passing(parts: Partition, segment: Segment, start: Var, plan: Plan) -> tuple[float, float]:
    way, crossed = passage(parts, segment, start), crossing(parts, plan, segment, start)
    pullback = pullbacks.price(segment)
    q, p, c, probes = way.end.positions, way.start.positions, way.start.channels, len(way.probes)
    if way.local:
        return probes * (pullback + 2.0 * c * math.prod(plan.layouts[start].shape)), 1.0 * p * c
    if crossed is not None:
        return crossed.price
    met = meeting(parts, segment, start)
    if met is not None:
        return meetings.price(segment, way, met, pullback)
    room, squares = 1.0 * q * p * c + 1.0 * p * p, start is parts.cone.block.inputs[0]
    if way.separate and not squares:
        return (q + p) * pullback, room
    return probes * (q * pullback + 2.0 * q * q * p * c + (0 if squares else 2.0 * p * p * q * c)), 2 * room


def costly(parts: Partition, plan: Plan, states: float = 0) -> str:
    """What the walk costs, if that is too much, beside the entries of covariances of activations; "" if it is not."""
    operations, entries = price(parts, plan)
    entries = max(entries, states)
    if operations <= MOST_OPERATIONS and entries <= MOST_ENTRIES:
        return ""
    return (
        f"positions are taken apart, as their covariances would cost about {operations:.0e} operations and "
        f'{4 * entries / 2**30:.1g} GiB for each unit and row: positions="together" does it all the same.'
    )


def survey(parts: Partition, drawn: Drawn, apart: Survey, *, summed: bool, integrated: Container[Atom] = ()) -> Survey:
    """Where the covariance of two positions is not exact in the limit of width.

    Args:
        parts: the cone, cut into segments.
        drawn: (equation, operand) -> whether a known operand is random.
        apart: what is said of positions apart; silent branches are silent here as well.
        summed: whether the unit's channels are summed as they are, not with random signs.
        integrated: results of elementwise functions over which theory integrates, not products that data tell.
    """
    reasons: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {WIDTH: []}
    tests: list[tuple[str, str, float]] = []
    used = Uses()
    sums: dict[str, float] = {}  # terms of the random sums
    depth = 0.0
    for step in parts.cone.steps:
        for i, known in _random(step, drawn):
            here, weight = place(step.equation), np.asarray(known.value, np.float64)
            if step.output not in parts.draws:
                reasons.setdefault(UNKNOWN, []).append(here)
            elif (parts.draws[step.output].group or FEW) < FEW:
                reasons.setdefault(GROUPED, []).append(here)
            tests += [(here, name, p) for name, p in independence(weight, channel_axes(step.equation, i))]
            if _masked(weight, channel_axes(step.equation, i)):
                reasons.setdefault(MASKED, []).append(here)
            if used.again(known) and weight.any():
                reasons.setdefault(SHARED, []).append(here)
            terms = weight.size / max(1, math.prod(_own(step, i)))
            sums[here] = min(terms, sums.get(here, terms))
            depth += 1 / max(1, terms)
            if terms < FEW:
                notes.setdefault(NARROW, []).append(here)
    for reason, where in coherence.coherent(parts):
        reasons.setdefault(reason, []).append(where)
    products = _products(parts, integrated)
    if products or any(note.startswith(WIDE) for note in apart.notes):
        if NARROW in notes:
            reasons[KNOWING] = [*notes.pop(NARROW), *products]
        elif depth > FAR:
            least = min(sums.values())
            notes[DEEP.format(depth)] = [here for here, terms in sums.items() if terms == least]
    if summed and any(
        bent for atom, bent in nonlinear_downstream(parts.cone, drawn).reached.items() if atom in parts.draws
    ):
        reasons[COHERENT] = []
    lines = tuple(f"{reason}{listed(list(dict.fromkeys(places)))}." for reason, places in reasons.items())
    said = tuple(f"{note}{listed(list(dict.fromkeys(places)))}." for note, places in notes.items())
    silent = (note for note in apart.notes if "silent" in note)
    return Survey((*lines, *unlikely(tests)), (*said, *silent))


def _random(step: Step, drawn: Drawn) -> Iterable[tuple[int, Known]]:
    if not jnp.issubdtype(step.output.dtype, jnp.inexact) or kind_of(step.equation) is not Kind.BILINEAR:
        return
    for i, atom in enumerate(step.equation.inputs):
        if not isinstance(atom, Var) and drawn(step.equation, i):
            yield i, atom


def _products(parts: Partition, integrated: Container[Atom]) -> list[str]:
    """Where arrays that random weights have made are multiplied with each other, or by themselves."""
    behind: set[Atom] = set()
    found = []
    for step in parts.cone.steps:
        made = [atom in behind for atom in step.equation.inputs if isinstance(atom, Var)]
        if any(made) or step.output in parts.draws:
            behind.update(step.outputs)
        body = () if step.inner is None or not any(made) else step.inner.steps
        products = [s for s in (step, *body) if multiplies(s) and s.output not in integrated]
        if all(made) or body:
            found += [place(product.equation) for product in products]
    return list(dict.fromkeys(found))


def _masked(weight: np.ndarray, channels: Sequence[int]) -> bool:
    """Whether some weights of a tap are exactly zero and others are not."""
    zeros = (weight == 0).mean(axis=tuple(channels))
    return bool(((zeros > SOME) & (zeros < 1)).any())


def _own(step: Step, operand: int) -> list[int]:
    """The sizes of the axes of weights that are axes of the result, whether other arrays have them too (heads) or not."""
    view = registry.lookup(step.equation).hull(step.equation, step.result)[operand]
    axes = view.axes if isinstance(view, View) else ()
    return [step.equation.inputs[operand].shape[a] for a, axis in enumerate(axes) if isinstance(axis, Along)]
