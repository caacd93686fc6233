"""Mean field of two positions: how the units of a random network go together when nobody has shown it data.

Every array at a cut of the partition carries, over its paired positions, the mean of its channels and their covariance C(p, p'),
pushed forwards from an input of independent pixels of zero mean:

* random contraction: C ← Σ_t n v(t) (C + m mᵀ)(i_t, i_t'), n channels in; the result is normal with zero mean in wide layers;
* fixed linear segment M: C ← M C Mᵀ, and m ← M m; like the first, the transpose of what the covariance of gradients does;
* elementwise function φ of a normal array: with d_k(p) = E φ'(z_p) h_k, h_k the normalised Hermite polynomials of the
  standardised z_p, and ρ the correlation of two positions,

      E φ'(z_p) φ'(z_p') = Σ_k d_k(p) d_k(p') ρ^k,     Cov(φ(z_p), φ(z_p')) = Σ_k σ_p σ_p' d_k(p) d_k(p') ρ^(k+1) / (k + 1).

  What the first terms miss of the exact value at ρ = 1 is spread as the tail of a function with a jump.

The gates E φ' φ' are what the walk of `two_points` takes in place of data.

Formula: two straight lines give the arc-cosine kernels, Y. Cho, L. Saul, "Kernel Methods for Deep Learning", NeurIPS 2009; the
expansion is Mehler's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.closed_form import gaussian_integrals
from erfjax.errors import DataDependentError
from erfjax.tracing.program.equations import Atom, Equation, Known, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments import chains
from erfjax.tracing.second_moments.activity import Weigh
from erfjax.tracing.second_moments.chains import Chain
from erfjax.tracing.second_moments.covariances import Layout
from erfjax.tracing.second_moments.coverage import Survey, place
from erfjax.tracing.second_moments.draws import through_draw
from erfjax.tracing.second_moments.kinds import PRODUCTS, TOTALS, Kind
from erfjax.tracing.second_moments.lag_plan import Plan, states
from erfjax.tracing.second_moments.pairs import placed, through_segment
from erfjax.tracing.second_moments.passages import Frame, frame, passage
from erfjax.tracing.second_moments.pullbacks import run
from erfjax.tracing.second_moments.random_weights import listed
from erfjax.tracing.second_moments.scaled import Scaled, unsearched
from erfjax.tracing.second_moments.segments import Draw, Partition, Segment
from erfjax.tracing.second_moments.steps import dependent, kind_of, precision
from erfjax.tracing.windows.cone import Cone, Step, cut

TERMS = 32  # of the Hermite expansion
INPUT = "mean field: gates of two positions go together as for an input of independent pixels of zero mean."
MIXED = "what a nonlinearity acts on is taken as normal, though it is no sum of random terms alone"
LINEAR = {Kind.LINEAR, Kind.SELECTION, *TOTALS}


@dataclasses.dataclass(frozen=True)
class State:
    """The mean over channels at every position (None: zero by construction), and the mean covariance of two, as it is held."""

    mean: Any | None
    covariance: Any

    layout: Layout

    @property
    def centre(self) -> Any:
        return jnp.zeros(self.layout.positions, self.covariance.dtype) if self.mean is None else self.mean

    @property
    def second(self) -> Any:
        """E z_p z_p'."""
        return self.covariance if self.mean is None else self.covariance + self.layout.outer(self.mean)


def bends(cone: Cone) -> dict[Atom, Chain]:
    """The nonlinear elementwise functions of one array, by their results."""
    found = chains.outermost(cone)
    return {
        atom: chain
        for atom, chain in found.items()
        if chain is not None and jnp.issubdtype(atom.dtype, jnp.inexact) and not chains.affine(chain)
    }


def cuts(cone: Cone) -> list[Atom]:
    """Where a cone has to be cut for this: before and behind every nonlinearity."""
    return [atom for result, chain in bends(cone).items() for atom in (result, chain.base)]


def check(parts: Partition) -> None:
    """Refuses a network that holds more than random contractions, fixed linear maps and elementwise functions of one array.

    Raises:
        DataDependentError: it does.
    """
    bent = bends(parts.cone)
    made = {step.output: step.equation for step in parts.cone.steps}
    for atom, segment in parts.segments.items():
        if atom in bent:
            ways = [passage(parts, segment, start) for start in segment.links]
            if not all(way.local and way.separate for way in ways):
                raise _refused(made[atom])
            continue
        for step in segment.steps:
            if not _linear(step, {*segment.links, *(s.output for s in segment.steps)}):
                raise _refused(step.equation)
    lost = parts.parted()
    if lost is not None:
        raise _refused(made[lost])


def closes(parts: Partition) -> bool:
    """Whether it is such a network."""
    try:
        check(parts)
    except DataDependentError:
        return False
    return True


def _refused(equation: Equation) -> DataDependentError:
    return DataDependentError(
        f'Mean field has no rule for pairs of positions at {equation}: use gates="data", or positions="apart".'
    )


def _linear(step: Step, live: set[Var]) -> bool:
    """Whether a step is linear in the arrays of its segment, and reads nothing else that varies."""
    kind, moving = kind_of(step.equation), dependent(step)
    if not all(step.equation.inputs[i] in live for i in moving):
        return False
    if kind is Kind.EXCLUSIVE:
        return isinstance(step.equation.inputs[0], Known)
    if kind is Kind.BILINEAR or kind in PRODUCTS:
        return len(moving) == 1 and (kind is not Kind.QUOTIENT or moving == [0])
    return kind in LINEAR


def survey(parts: Partition, found: Survey) -> Survey:
    """What mean field adds to a survey: what it assumes of the input, and nonlinearities of arrays that are not normal.

    An array is normal in the limit of width where it is a fixed linear map of random sums.
    """
    bent = bends(parts.cone)
    made: dict[Atom, Equation] = {step.output: step.equation for step in parts.cone.steps}
    source = parts.cone.block.inputs[0]

    def mixed(atom: Atom) -> bool:
        segment = parts.segments.get(atom)  # type: ignore[arg-type]
        return atom is source or atom in bent or (segment is not None and any(map(mixed, segment.links)))

    places = [place(made[end]) for end, chain in bent.items() if end in parts.segments and mixed(chain.base)]
    reasons = (f"{MIXED}{listed(list(dict.fromkeys(places)))}.",) if places else ()
    return Survey((*found.reasons, *reasons), (*found.notes, INPUT))


def gates(parts: Partition, plan: Plan, square: Any, weigh: Weigh) -> dict[Var, Any]:
    """E φ'(z_p) φ'(z_p') at the result of every nonlinearity, held as covariances there, for an input of this mean square."""
    cone, bent, dtype = parts.cone, bends(parts.cone), precision(parts.cone)
    nothing, held = still(cone), states(parts, plan, _ends(parts))
    passed: dict[Var, State] = {}
    found: dict[Var, Any] = {}
    for atom in reversed(parts.order):
        if atom not in held.layouts:
            continue
        at, here = frame(parts, atom), held.layouts[atom]
        if atom is cone.block.inputs[0]:
            whole = jnp.broadcast_to(jnp.asarray(square, dtype), at.shape)
            passed[atom] = State(None, here.spread(at.split(whole).mean(1)), here)
        elif atom in parts.draws:
            draw = parts.draws[atom]
            passed[atom] = State(None, _drawn(parts, draw, passed[draw.source].second, held, weigh), here)
        elif atom in bent:
            (start,) = parts.segments[atom].links
            passed[atom], gate = _bent(parts, parts.segments[atom], bent[atom], passed[start], here)
            found[atom] = here.seen(gate, plan.layouts[atom])
        elif atom in parts.segments:
            passed[atom] = _passed(parts, parts.segments[atom], passed, held, nothing)
    return found


def entries(parts: Partition, plan: Plan) -> float:
    """How many entries the largest of the covariances of activations holds, and what it is computed from."""
    layouts = states(parts, plan, _ends(parts)).layouts
    return 2.0 * max((math.prod(layout.shape) for layout in layouts.values()), default=0)


def _ends(parts: Partition) -> list[Var]:
    """The ends of segments that are nonlinear functions."""
    bent = bends(parts.cone)
    return [atom for atom in parts.order if atom in bent]


def still(cone: Cone) -> dict[Atom, Any]:
    """Zeros in place of every variable: all that fixed linear segments and random contractions have to know."""
    atoms = {*cone.block.inputs, *(step.output for step in cone.steps)}
    return {atom: jnp.zeros(lengths(cone.boxes[atom]), atom.dtype) for atom in atoms if atom in cone.boxes}


def _turned(walk: Callable[[Any], Any], end: Layout, start: Layout, covariance: Any) -> Any:
    """What a walk of covariances from an end to a start, turned round, makes of one at the start.

    Lags that stand for their opposites too count twice in sums over all pairs.
    """
    with unsearched():
        (found,) = jax.vjp(walk, jnp.zeros(end.shape, covariance.dtype))[1](
            covariance * jnp.asarray(start.counts, covariance.dtype)
        )
    return found / jnp.asarray(end.counts, covariance.dtype)


def _drawn(parts: Partition, draw: Draw, second: Any, plan: Plan, weigh: Weigh) -> Any:
    """The covariance behind a random contraction: as gradients there, but summed over the channels in front of it."""
    at = frame(parts, draw.step.output)
    channels = math.prod(frame(parts, draw.source).shape[a] for a in draw.contracted)

    def back(covariance: Any) -> Any:
        return through_draw(parts, draw, Scaled(covariance), plan.layouts, weigh, {}).restored()

    layouts = plan.layouts
    return _turned(back, layouts[draw.step.output], layouts[draw.source], second) * (channels / at.channels)


def _passed(
    parts: Partition,
    segment: Segment,
    states: Mapping[Var, State],
    plan: Plan,
    nothing: Mapping[Atom, Any],
) -> State:
    """The state behind a fixed linear segment."""
    end, starts, here = frame(parts, segment.end), list(segment.links), plan.layouts[segment.end]
    held = [states[start] for start in starts]
    covariance = jnp.zeros(here.shape, held[0].covariance.dtype)
    for start, state in zip(starts, held, strict=True):
        at = frame(parts, start)

        def back(whole: Any, start: Var = start) -> Any:
            return through_segment(parts, segment, [start], whole, plan, nothing)[start]

        covariance = covariance + _turned(back, here, plan.layouts[start], state.covariance) * (
            at.channels / end.channels
        )
    if all(state.mean is None for state in held) and not _adds(segment):
        return State(None, covariance, here)
    frames = [frame(parts, start) for start in starts]
    means = [
        at.join(jnp.broadcast_to(state.centre[:, None], (at.positions, at.channels))).astype(start.dtype)
        for start, at, state in zip(starts, frames, held, strict=True)
    ]
    each = end.split(run(parts, segment, starts, means, nothing)).astype(covariance.dtype)
    return _spread(each, covariance, here)


def _spread(means: Any, covariance: Any, layout: Layout) -> State:
    """The state of channels of different means (positions, channels) that have this covariance about them, on average."""
    mean = means.mean(1)
    return State(mean, covariance + layout.inner(means) / means.shape[1] - layout.outer(mean), layout)


def _adds(segment: Segment) -> bool:
    """Whether a linear segment adds known numbers that are not zero."""
    known = [
        atom.concrete
        for step in segment.steps
        for atom in step.equation.inputs
        if isinstance(atom, Known) and kind_of(step.equation) in (Kind.LINEAR, Kind.SELECTION, Kind.EXCLUSIVE)
        if jnp.issubdtype(atom.dtype, jnp.inexact)
    ]
    return any(value is None or value.any() for value in known)


def _bent(parts: Partition, segment: Segment, chain: Chain, base: State, here: Layout) -> tuple[State, Any]:
    """The state behind a nonlinearity, and its gate."""
    (start,) = segment.links
    end, way = frame(parts, segment.end), passage(parts, segment, start)
    covariance = _turned(lambda whole: placed(way, whole, here, base.layout), here, base.layout, base.covariance)
    root = jnp.sqrt(jnp.maximum(here.diagonal(covariance), 0))
    both = here.outer(root)
    rho = jnp.clip(covariance / jnp.where(both > 0, both, 1), -1, 1)
    rho = jnp.where(here.spread(jnp.ones(here.positions, bool)), 1, rho)
    lines = chains.two_lines(chain)
    if lines is not None and base.mean is None:
        mean, second, gate = gaussian_integrals.straight_pairs(lines, root, rho, both)
        return State(mean, second - here.outer(mean), here), gate
    value, square, squared_slope, slopes = _expanded(parts.cone, chain, frame(parts, start), end, base)

    def summed(terms: Any, exact: Any, shift: int) -> Any:
        """Σ_k terms_k(p) terms_k(p') ρ^(k + shift), the mean over channels, and what is missing at ρ = 1."""

        def add(sums: tuple[Any, Any], one: Any) -> tuple[tuple[Any, Any], None]:
            total, power = sums
            return (total + power * here.inner(one) / end.channels, power * rho), None

        (total, _), _ = lax.scan(add, (jnp.zeros_like(rho), rho**shift), terms)
        missing = jnp.sqrt(jnp.maximum(exact - jnp.sum(terms**2, (0, 2)) / end.channels, 0))
        return total + here.outer(missing) * _tail(rho)

    weights = 1 / jnp.sqrt(1 + jnp.arange(TERMS, dtype=slopes.dtype))
    terms = slopes * weights[:, None, None] * root[None, :, None]
    spread = summed(terms, jnp.mean(square - value**2, 1), 1)
    return _spread(value, spread, here), summed(slopes, squared_slope.mean(1), 0)


def _expanded(cone: Cone, chain: Chain, at: Frame, end: Frame, base: State) -> tuple[Any, Any, Any, Any]:
    """E φ, E φ², E φ'² (positions, channels) and the Hermite coefficients of φ' (terms, positions, channels)."""
    narrowest = jnp.finfo(base.covariance.dtype).tiny  # the variance of what is constant
    root = jnp.sqrt(jnp.maximum(base.layout.diagonal(base.covariance), narrowest))
    centre, sigma = (
        at.join(jnp.broadcast_to(part[:, None], (at.positions, at.channels))) for part in (base.centre, root)
    )
    held, box = cone.boxes[chain.base], chain.steps[-1].box

    def terms(z: Any, weight: Any) -> list[Any]:
        t, weight = cut((z - centre) / sigma, held, box), cut(weight, held, box)
        value, slope = chains.value_and_slope(cone, chain, z)

        def following(two: tuple[Any, Any], k: Any) -> tuple[tuple[Any, Any], Any]:
            before, here = two
            return (here, (t * here - jnp.sqrt(k) * before) / jnp.sqrt(k + 1)), here

        order = jnp.arange(TERMS, dtype=t.dtype)
        _, polynomials = lax.scan(following, (jnp.zeros_like(t), jnp.ones_like(t)), order)
        return [weight * value, weight * value**2, weight * slope**2, (weight * slope)[None] * polynomials]

    zero = jnp.zeros(lengths(box), root.dtype)
    each = jnp.zeros((TERMS, *zero.shape), zero.dtype)
    integrals = gaussian_integrals.integrals(terms, [zero] * 3 + [each], chains.panel_ends(chain), centre, sigma)
    *three, slopes = integrals
    value, square, slope = map(end.split, three)
    return value, square, slope, jax.vmap(end.split)(slopes)


@functools.cache
def _tails() -> tuple[np.ndarray, np.ndarray]:
    """ρ, and Σ_(k > TERMS) k^(-3/2) ρ^k as a share of itself at 1: what jumps of φ' leave to the later terms."""
    rho = 1 - np.linspace(1.0, 0.0, 400) ** 3
    k = np.arange(TERMS, 200_000.0)
    weights = k**-1.5
    rest = 2 * k[-1] ** -0.5
    sums = np.array([np.sum(weights * r**k) for r in rho[:-1]] + [weights.sum() + rest])
    return rho, sums / sums[-1]


def _tail(rho: Any) -> Any:
    points, shares = _tails()
    return jnp.interp(rho, jnp.asarray(points, rho.dtype), jnp.asarray(shares, rho.dtype))
