"""A function made ready for the moments pass: traced, its weights told from its filters, cut down to the cone of its units."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.errors import SampleError
from erfjax.measurement.model import take_apart
from erfjax.measurement.probe import Probe, build, check_channels
from erfjax.readings.cone import unit_box
from erfjax.tracing.positions.index_sets import full
from erfjax.tracing.program.equations import Equation, Known
from erfjax.tracing.program.flatten import trace
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments import mean_field, random_weights, summed_channels
from erfjax.tracing.second_moments.push import Weigh, observed, transposed
from erfjax.tracing.second_moments.random_weights import Operand
from erfjax.tracing.windows.cone import Cone, around, restrict

POWERS = {"square": 2, "rms": 2, "mean": 1}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is asked for; see `analytic`."""

    statistic: str = "square"
    gates: str = "data"
    weights: str = "given"
    channels: Any = "sum"
    restrict: bool = True

    @property
    def power(self) -> int:
        """Which moment the pass pushes."""
        return POWERS[self.statistic]

    @property
    def coherent(self) -> bool:
        """Whether the gradients of the unit's channels are added before they are squared."""
        return self.channels not in ("frobenius", "random-signs")

    def check(self) -> None:
        """Refuses an option that does not exist.

        Raises:
            SampleError: there is none of that name.
        """
        choices = {
            "statistic": tuple(POWERS),
            "gates": ("data", "mean-field"),
            "weights": ("given", "exchangeable"),
            "channels": (
                "sum",
                "frobenius",
                "random-signs",
                *([] if isinstance(self.channels, str) else [self.channels]),
            ),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SampleError(
                    f"`{name}` must be one of {', '.join(map(repr, allowed))}, but got {getattr(self, name)!r}"
                    + (
                        ": other statistics have no closed form, measure them with ej.empirical."
                        if name == "statistic"
                        else "."
                    )
                )


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A function ready for the moments pass.

    Attributes:
        probe: the function, its weights as arguments, its layouts and units.
        reading: what is asked for.
        hoisted: which of the probe's constants are arguments of the compiled pass; the others are part of the program.
        drawn: known operands (equation, operand) that are weights rather than filters.
    """

    probe: Probe
    reading: Reading
    spec: jax.ShapeDtypeStruct
    hoisted: tuple[int, ...]
    drawn: frozenset[Operand] = frozenset()

    @property
    def weights(self) -> tuple[Any, ...]:
        return tuple(self.probe.consts[i] for i in self.hoisted)

    def cone(self, weights: Sequence[Any]) -> Cone | None:
        """The cone of the units, the input's channels and batch whole; None where the input does not matter."""
        consts = list(self.probe.consts)
        for i, weight in zip(self.hoisted, weights, strict=True):
            consts[i] = weight
        program = trace(lambda x: self.probe.call(tuple(consts), None, x), self.spec)
        output, source = program.output, self.probe.layout
        if isinstance(output, Known):
            return None
        boxes = [unit_box(output.shape, self.probe.target, unit) for unit in self.probe.units]
        wanted = functools.reduce(around, boxes) if self.reading.restrict else full(output.shape)
        cone = restrict(program, {output: wanted})
        whole = full(self.spec.shape)
        (window,) = cone.windows
        kept = tuple(
            p if a in source.spatial and self.reading.restrict else w
            for a, (p, w) in enumerate(zip(window, whole, strict=True))
        )
        return dataclasses.replace(cone, boxes={**cone.boxes, program.input: kept})

    def moments(self, weights: Sequence[Any], x: Any) -> Any:
        """The expected power of the gradient for one input (or one second moment of inputs), by unit: (units, *window)."""
        cone, power = self.cone(weights), self.reading.power
        if cone is None:
            return jnp.zeros((len(self.probe.units), *self.spec.shape), self.spec.dtype)
        weigh, index = self.weigh(cone), random_weights.indices(cone)

        def drawn(equation: Equation, operand: int) -> bool:
            return power == 2 and (index[id(equation)], operand) in self.drawn

        (window,) = cone.windows
        if self.reading.gates == "data":
            x = lax.slice(x, [int(p.start) for p in window], [int(p.stop) for p in window])
            activities = observed(cone, x)
            activity = activities(power)
        else:
            activity = mean_field.expected(cone, x, power, drawn, weigh)
        (box,) = cone.wanted.values()
        (output,) = cone.wanted

        def one(at: Any) -> Any:
            cotangent = self.cotangent(lengths(box), output.dtype, at)
            if power == 2 and self.reading.gates == "data" and self.reading.coherent:
                return summed_channels.transposed(cone, activities, weigh, drawn, [cotangent])
            return transposed(cone, activity, power, weigh, [cotangent])

        places = np.zeros((len(self.probe.units), len(box)), np.int32)
        for row, unit in zip(places, self.probe.units, strict=True):
            for axis, u in zip(self.probe.target.spatial, unit, strict=True):
                row[axis] = u - int(box[axis].start)
        return one(places[0])[None] if len(places) == 1 else lax.map(one, jnp.asarray(places))

    def cotangent(self, shape: tuple[int, ...], dtype: Any, at: Any) -> Any:
        """One at the channels that are probed of the unit at a place of the output's box."""
        target, one = self.probe.target, self.reading.channels
        size = [1 if a in target.spatial else n for a, n in enumerate(shape)]
        if not isinstance(one, str) and target.channel is not None:
            size[target.channel], at = 1, jnp.asarray(at).at[target.channel].set(one)
        return lax.dynamic_update_slice(jnp.zeros(shape, dtype), jnp.ones(size, dtype), list(at))

    def weigh(self, cone: Cone) -> Weigh:
        """How known weights are read."""
        power, index = self.reading.power, random_weights.indices(cone)

        def weigh(equation: Equation, operand: int, weight: Any) -> Any:
            if self.reading.weights == "exchangeable" and (index[id(equation)], operand) in self.drawn:
                axes = random_weights.channel_axes(equation, operand)
                whole = equation.inputs[operand].value ** power  # type: ignore[union-attr]
                return jnp.broadcast_to(jnp.mean(whole, axes, keepdims=True), weight.shape)
            return weight**power

        return weigh

    def with_weights(self) -> "Prepared":
        """The same, knowing which known operands are weights."""
        found: set[Operand] = set()

        def look(weights: Any) -> int:
            cone = self.cone(weights)
            found.update(() if cone is None else random_weights.captured(cone))
            return 0

        jax.eval_shape(look, self.weights)
        cone = self.cone(self.weights)
        return self if cone is None else dataclasses.replace(self, drawn=random_weights.weights(cone, frozenset(found)))


def prepare(
    f: Callable[..., Any], spec: Any, unit: Any, layout: str, out_layout: str | None, reading: Reading
) -> Prepared:
    """Traces f, and finds out which of the arrays it knows are weights."""
    probe = build(f, spec, None, layout, out_layout, unit)
    check_channels(reading.channels, probe.channels, "square")
    own = len(probe.consts) - len(take_apart(f).weights)  # from there on: what may be another time
    hoisted = tuple(
        i for i, c in enumerate(probe.consts) if i >= own or (c.size > 1 and jnp.issubdtype(c.dtype, jnp.floating))
    )
    return Prepared(probe, reading, spec, hoisted).with_weights()
