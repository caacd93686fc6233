"""The moments pass of a question: its options, which known arrays are weights, and the moments of one sample."""

import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.errors import MapError
from erfjax.measurement.cone import asked_first, cone_of, windows_of
from erfjax.readings.options import Options
from erfjax.readings.question import Question
from erfjax.readings.weighing import Raised, Weighing, raised, with_arguments
from erfjax.tracing.positions.index_sets import Box, full
from erfjax.tracing.program.equations import Equation, Var
from erfjax.tracing.program.flatten import ALL, Unrolled
from erfjax.tracing.registry import lengths
from erfjax.tracing.rules.contraction import batched
from erfjax.tracing.second_moments import (
    arrived,
    backward,
    chains,
    closure,
    coverage,
    given_weights,
    lag_plan,
    mean_field,
    paired_states,
    random_weights,
    two_points,
)
from erfjax.tracing.second_moments.activity import Weigh, entangled, fault, observed
from erfjax.tracing.second_moments.coverage import Survey
from erfjax.tracing.second_moments.kinds import Choice, Kind
from erfjax.tracing.second_moments.layerwise import contractions
from erfjax.tracing.second_moments.passages import frame
from erfjax.tracing.second_moments.random_weights import Operand
from erfjax.tracing.second_moments.scaled import SIZE_STEP, Scaled, in_double_precision, unscaled
from erfjax.tracing.second_moments.scans import length_of, with_weights
from erfjax.tracing.second_moments.segments import Partition, partition
from erfjax.tracing.second_moments.steps import kind_of, multiplies, passes, precision
from erfjax.tracing.windows.cone import Cone

GIVEN_GATES = (
    "gates are those that the given weights open for these inputs: over weights drawn anew they vary, and with them the total, "
    'unless the network is wide; gates="mean-field" averages over them, and so does the mean over several networks.'
)
INDEPENDENT_GATES = (
    "gates of different layers are taken as independent, those of one layer as they go together over the rows of x; what that "
    "leaves out says ej.account."
)
LONG = (
    "positions are taken apart, as their covariances would have to follow all {} steps of a scan one by one: "
    'positions="together" does it all the same.'
)


@dataclasses.dataclass(frozen=True, eq=False)
class MomentPass:
    """A question ready for the moments pass.

    Attributes:
        question: the function, its weights as arguments, its layouts and units.
        options: what is asked for.
        cone: the cone of the units with the weights as they are, the input's channels and batch whole; None where the input
            does not matter.
        random: known operands (equation, operand) that are random weights rather than filters.
        sizes: exponents of the known operands of contractions, where they can be known beforehand.
        notes: why positions are taken apart, where they had better be taken together.
        unrolled: which scans are unrolled.
    """

    question: Question
    options: Options
    cone: Cone | None
    random: frozenset[Operand]
    sizes: dict[Operand, int]
    notes: tuple[str, ...] = ()
    unrolled: Unrolled = ALL

    @classmethod
    def of(cls, question: Question, options: Options) -> "MomentPass":
        """The pass of a question, its weights told from its filters, positions together only where that is of use."""
        if options.positions != "auto":
            return cls._of(question, options, options.unrolled)
        apart = cls._of(question, dataclasses.replace(options, positions="apart"), options.unrolled)
        if apart.cone is None or not options.pairable or not closure.needed(apart.cone, apart.survey()):
            return apart
        if options.gates == "mean-field" and not paired_states.closes(apart.parts(apart.cone)):
            return apart
        options = dataclasses.replace(options, positions="together")
        together = dataclasses.replace(apart, options=options)
        if question.loops:
            unrolled = dataclasses.replace(options.unrolled, weighted=apart.unrolled.weighted)
            together = cls._of(question, options, unrolled)
        cone = together.cone
        assert cone is not None  # it is the same function
        longest = max((length_of(step) for step in cone.steps if with_weights(step)), default=0)
        parts = together.parts(cone)
        plan = lag_plan.plan(parts)
        states = paired_states.entries(parts, plan) if options.gates == "mean-field" else 0
        notes = LONG.format(longest) if longest else closure.costly(parts, plan, states)
        return dataclasses.replace(apart, notes=(notes,)) if notes else together

    @classmethod
    def _of(cls, question: Question, options: Options, unrolled: Unrolled) -> "MomentPass":
        """The pass with scans unrolled like that, or all of them where that is needed."""
        unrolled = unrolled if question.loops else ALL
        cone = _cone(question, question.consts, unrolled)
        if cone is not None and not options.together and any(entangled(step) for step in cone.steps):
            unrolled, cone = ALL, _cone(question, question.consts)
        random = frozenset() if cone is None else random_weights.weights(cone)
        sizes = {} if cone is None else random_weights.sizes(cone)
        if options.layerwise and cone is not None:
            given_weights.check(cone, contractions(cone))
        found = cls(question, options, cone, random, sizes, unrolled=unrolled)
        if options.together and options.gates == "mean-field" and cone is not None:
            paired_states.check(found.parts(cone))
        return found

    def serves_as(self, other: "MomentPass") -> bool:
        """Whether the pass of another model of the same structure computes this one.

        Its weights are about as large, and its fixed matrices leave out the same positions.
        """
        near = self.sizes.keys() == other.sizes.keys() and all(
            abs(self.sizes[at] - size) <= SIZE_STEP for at, size in other.sizes.items()
        )
        return near and self.random == other.random and self._extents == other._extents

    @property
    def _extents(self) -> Hashable:
        """What a compiled pass takes from the values of fixed matrices: its boxes, and how covariances are held."""
        if self.cone is None or not self.options.together or self.options.layerwise:
            return self.cone and self.cone.extents
        parts = self.parts(self.cone)
        return self.cone.extents, lag_plan.plan(parts, self.options.positions).identity(parts)

    @property
    def window(self) -> Box:
        """The window of the input."""
        return full(self.question.spec.shape) if self.cone is None else self.cone.windows[0]

    def survey(self) -> Survey:
        """What the theory covers."""
        options = self.options
        if self.cone is None:
            return Survey((), ("the output does not depend on the input",))
        if options.layerwise:
            free = [part.fixed for part in given_weights.parts(self.cone, contractions(self.cone))].count(False)
            return Survey((INDEPENDENT_GATES,) if free > 1 else (), ())
        found = coverage.survey(
            self.cone,
            self.random,
            power=options.power,
            data=options.gates == "data",
            summed=options.coherent,
            channel=self.question.target.channel,
        )
        if options.together:
            parts = self.parts(self.cone)
            bent = chains.chains(self.cone) if options.gates == "mean-field" else ()
            found = closure.survey(parts, self.is_random(self.cone), found, summed=options.coherent, integrated=bent)
            if options.gates == "mean-field":
                found = paired_states.survey(parts, found)
        else:
            found = dataclasses.replace(found, notes=(*found.notes, *self.notes))
        kinds = {kind_of(step.equation) for step in self.cone.every if passes(step)}
        gated = {Kind.GATE, Kind.EXCLUSIVE} & kinds or any(isinstance(kind, Choice) for kind in kinds)
        gated = gated or any(map(multiplies, self.cone.every))
        if options.pairable and options.gates == "data" and self.random and gated:
            return dataclasses.replace(found, notes=(*found.notes, GIVEN_GATES))
        return found

    def is_random(self, cone: Cone) -> Callable[[Equation, int], bool]:
        """Which known operands of a cone are random."""
        return lambda equation, operand: (equation.number, operand) in self.random

    def parts(self, cone: Cone) -> Partition:
        """The cone cut at its random contractions; the unit's channels are even where they have random signs."""
        source, target = self.question.source, self.question.target
        inputs = [a for a in range(len(self.question.spec.shape)) if a not in (*source.spatial, source.batch)]
        signed = [] if self.options.coherent or target.channel is None else [target.channel]
        bends = paired_states.cuts(cone) if self.options.gates == "mean-field" else ()
        return partition(cone, self.is_random(cone), inputs, signed, bends)

    @property
    def batched(self) -> float:
        """How many multiplications its dot products with batch axes take, for one row."""
        if self.cone is None:
            return 0.0
        plain = (batched(step.equation) for step in self.cone.steps)
        scans = ((length_of(step), step.inner) for step in self.cone.steps if step.inner is not None)
        inside = (steps * batched(step.equation) for steps, body in scans for step in body.steps)
        return float(sum(plain) + sum(inside))

    @property
    def coherently(self) -> bool:
        """Whether the walk carries the mean of the gradient beside its variance."""
        options = self.options
        return options.coherent and options.power == 2 and options.gates == "data" and not options.together

    @property
    def risky(self) -> bool:
        """Whether there is a quicker way than `careful`, that does not always go well: without searching for exponents."""
        if self.options.gates == "data":
            return not self.options.together
        return jax.default_backend() == "cpu"

    def quickly(self) -> contextlib.AbstractContextManager[None]:
        """How the quick way is traced and run: mean field, which has one sample, in double precision."""
        return in_double_precision() if self.options.gates == "mean-field" else contextlib.nullcontext()

    def went_well(self, found: Scaled) -> bool:
        """Whether the quick way has left the range of its precision nowhere."""
        digits = np.abs(np.asarray(found.digits))
        largest = digits.max(axis=tuple(range(2, digits.ndim)), initial=0)
        near = (largest > 2.0**-arrived.FAR) & (largest < 2.0**arrived.FAR)
        return bool(np.isfinite(digits).all() and (near if self.options.gates == "data" else largest > 0).all())

    def arguments(self) -> tuple[Any, ...]:
        """What is known before any input is, as arguments of `compiled_moments`."""
        if self.cone is None:
            return (), {}
        plain = self.options.power == 2 and self.options.weights == "given" and not self.options.layerwise
        powers = ((2, 4) if self.coherently else (2,)) if plain else ()
        return tuple(atom.value for atom in self.cone.known), raised(self.cone, self.sizes, powers)

    def compiled_moments(self, arguments: tuple[Any, ...], leaves: Sequence[Any], *, careful: bool) -> Scaled:
        """`moments` of the weights as they are.

        Without care it compiles sooner, and is not a number where activations are very large or small.
        """
        values, powers = arguments
        cone = None if self.cone is None else with_arguments(self.cone, values)
        return self._moments(cone, leaves, powers, careful)

    def moments(self, consts: Sequence[Any], leaves: Sequence[Any]) -> Scaled:
        """The expected power of the gradient for one sample (or its second moments), by unit: (units, *window)."""
        cone = _cone(self.question, consts, self.unrolled)
        return self._moments(None if cone is None else cone.settled(), leaves, {}, careful=True)

    def drawn(self, cone: Cone | None, leaves: Sequence[Any]) -> Scaled:
        """The same for a cone with other weights, drawn in the same trace."""
        return self._moments(cone, leaves, {}, careful=True)

    def _moments(self, cone: Cone | None, leaves: Sequence[Any], powers: Raised, careful: bool) -> Scaled:
        power = self.options.power
        if cone is None:
            zero = jnp.zeros((len(self.question.units), *self.question.spec.shape), self.question.spec.dtype)
            return jax.vmap(Scaled.of)(zero)
        exchanged = self.random if self.options.weights == "exchangeable" else frozenset()
        weighing = Weighing(self.sizes, exchanged, powers)
        weigh = weighing.to(power)
        if self.options.together:
            return self.together(cone, weigh, leaves)

        def is_random(equation: Equation, operand: int) -> bool:
            return power == 2 and (equation.number, operand) in self.random

        if self.options.gates == "data":
            activities = observed(cone, self.windows(cone, leaves), self.sizes, careful=careful)
            activity = activities(power)
        else:
            activity = mean_field.expected(cone, asked_first(self.question, leaves), power, is_random, weigh)
        (box,) = cone.wanted.values()
        (output,) = cone.wanted

        def one(at: Any) -> Scaled:
            cotangent = self.cotangent(lengths(box), output.dtype, at)
            if self.coherently:
                weighs = {1: dataclasses.replace(weighing, exchanged=frozenset()).to(1), 2: weigh, 4: weighing.to(4)}
                return backward.coherent_moments(cone, activities, weighs, is_random, [cotangent], careful=careful)
            return backward.moments(cone, activity, power, weigh, [cotangent], careful=careful)

        places = self.places(box)
        if len(places) == 1:
            return jax.tree.map(lambda a: a[None], one(places[0]))
        return lax.map(one, jnp.asarray(places))

    def together(self, cone: Cone, weigh: Weigh, leaves: Sequence[Any]) -> Scaled:
        """The same with the covariance of two positions."""
        (output,), (box,) = cone.wanted, cone.wanted.values()
        assert isinstance(output, Var)  # a cone is of something that depends on the input
        parts = self.parts(cone)
        at, gates = frame(parts, output), {}
        known = self.parts(self.cone or cone)  # with its fixed matrices as they are
        plan = lag_plan.plan(known, self.options.positions).onto(known, parts)
        if self.options.gates == "data":
            values = cone.values(*self.windows(cone, leaves))
        else:
            values = paired_states.still(cone)
            gates = paired_states.gates(parts, plan, asked_first(self.question, leaves)[0], weigh)

        def one(place: Any) -> Scaled:
            sent = at.split(self.cotangent(at.shape, precision(cone), place))
            unit = plan.layouts[output].inner(sent) / at.channels
            return two_points.squares(parts, plan, values, weigh, unit, gates)

        return lax.map(one, jnp.asarray(self.places(box)))

    def compiled_given(self, arguments: tuple[Any, ...], rows: Sequence[Any]) -> Scaled:
        """`given` with the weights as they are."""
        return self._given(None if self.cone is None else with_arguments(self.cone, arguments[0]), rows)

    def given(self, consts: Sequence[Any], rows: Sequence[Any]) -> Scaled:
        """The second moments by unit, (1, units, *window), of one network: one covariance for all rows."""
        cone = _cone(self.question, consts, self.unrolled)
        return self._given(None if cone is None else cone.settled(), rows)

    def _given(self, cone: Cone | None, rows: Sequence[Any]) -> Scaled:
        if cone is None or self.cone is None:
            zero = jnp.zeros((1, len(self.question.units), *self.question.spec.shape), self.question.spec.dtype)
            return jax.vmap(jax.vmap(Scaled.of))(zero)
        (box,) = cone.wanted.values()
        heads, dtype = contractions(self.cone), precision(cone)
        windows = jax.vmap(lambda row: self.windows(cone, row))(list(rows))
        found = []
        for place in self.places(box):
            sent = self.cotangent(lengths(box), dtype, place).ravel()
            whole = jnp.diag(sent) if self.options.signed else jnp.outer(sent, sent)
            found.append(given_weights.moments(cone, heads, windows, whole))
        return jax.tree.map(lambda *parts: jnp.stack(parts)[None], *found)

    def places(self, box: Box) -> np.ndarray:
        """Where the units lie in a box of the output: (units, axes)."""
        units, target = self.question.units, self.question.target
        places = np.zeros((len(units), len(box)), np.int32)
        for row, unit in zip(places, units, strict=True):
            for axis, u in zip(target.spatial, unit, strict=True):
                row[axis] = u - int(box[axis].start)
        return places

    def fault(self, leaves: Sequence[Any]) -> str:
        """Why the moments for a sample are not finite, and what helps."""
        if self.cone is None or self.options.gates != "data":
            return "a mean or variance is not finite: look at the weights, and at what divides or takes roots."
        cone = self.cone if self.unrolled == ALL else _cone(self.question, self.question.consts)
        assert cone is not None  # it is the same function
        return fault(cone, self.windows(cone, leaves))

    def windows(self, cone: Cone, leaves: Sequence[Any]) -> list[Any]:
        """The leaves of a sample on their windows, the input asked about first."""
        return windows_of(self.question, cone, leaves)

    def cotangent(self, shape: tuple[int, ...], dtype: Any, at: Any) -> Any:
        """One at the channels that are probed of the unit at a place of the output's box."""
        target, one = self.question.target, self.options.channels
        size = [1 if a in target.spatial else n for a, n in enumerate(shape)]
        if not isinstance(one, str) and target.channel is not None:
            size[target.channel], at = 1, jnp.asarray(at).at[target.channel].set(one)
        return lax.dynamic_update_slice(jnp.zeros(shape, dtype), jnp.ones(size, dtype), list(at))


def _cone(question: Question, consts: Sequence[Any], unrolled: Unrolled = ALL) -> Cone | None:
    return cone_of(question.program(consts, unrolled=unrolled), question.source, question.target, question.units)


def plain(found: Scaled, moment_pass: MomentPass, leaves: Sequence[np.ndarray]) -> np.ndarray:
    """The moments of samples in float64.

    Raises:
        MapError: some are not finite, or all of a unit beyond the range of double precision.
    """
    digits, exponents = np.asarray(found.digits), np.asarray(found.exponent)
    axes = tuple(range(exponents.ndim, digits.ndim))
    broken = ~np.isfinite(digits).all(axis=axes).all(axis=1)
    if broken.any():
        sample = [jnp.asarray(leaf[broken.argmax()]) for leaf in leaves]
        raise MapError(f"The closed form is not finite: {moment_pass.fault(sample)}")
    moments = unscaled(digits, exponents)
    lost = ~np.isfinite(moments).all(axis=axes) | (digits.any(axis=axes) & ~moments.any(axis=axes))
    if lost.any():
        raise MapError(
            f"The second moment is about 2**{exponents[lost][0]}, beyond the range of double precision: rescale the weights of "
            "some layers, which changes no size."
        )
    return moments


def finish(moments: Any, moment_pass: MomentPass, library: Any) -> Any:
    """One map per unit from the moments (units, *window): the root if one is asked for, then the sum over channels."""
    if moment_pass.options.statistic == "rms":
        positive = moments > 0
        moments = library.where(positive, library.sqrt(library.where(positive, moments, 1)), 0)  # a finite slope at 0
    return library.sum(moments, axis=tuple(a + 1 for a in moment_pass.question.source.summed()))


def sides(moment_pass: MomentPass) -> list[tuple[int, int]]:
    """How far the input reaches beyond the window, per spatial axis."""
    window = [moment_pass.window[a] for a in moment_pass.question.source.spatial]
    return [(int(p.start), n - int(p.stop)) for p, n in zip(window, moment_pass.question.shape, strict=True)]
