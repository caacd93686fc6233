"""The forward pass of a plan under mean field: second moments of its signals, and what its gates do to gradients."""

import dataclasses
import math
from typing import Any, NamedTuple

from erfjax.errors import StackError
from erfjax.layers import gates
from erfjax.layers.operations import Normalise
from erfjax.layers.plan import Drop, Fixed, Gain, Gate, Parallel, Plan, Series, Weighted, steps

NORMALISED = (
    "the standard deviation of every position is taken from mean field, for an input of independent pixels of unit second "
    "moment, and from normal features to first order in 1/channels"
)


class Signal(NamedTuple):
    """The second moment of a channel, its mean over channels, and whether a fixed kernel has mixed pixels so far."""

    second: float
    mean: float = 0.0
    mixed: bool = False


@dataclasses.dataclass
class Signals:
    """The statistics of a plan for a normal input of unit second moment, by the identity of its parts.

    Attributes:
        random: whether any weight is: if not, gates are constants.
        second: the second moment before and behind every part.
        slopes: E φ', E φ'² and E φ² of every gate.
        scales: what a normalisation multiplies gradients by.
        mixing: the gates with a fixed kernel of several taps between them and the input.
        approximate, notes: what had to be assumed, in the order in which it was.
    """

    random: bool
    second: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)
    slopes: dict[int, gates.Moments] = dataclasses.field(default_factory=dict)
    scales: dict[int, float] = dataclasses.field(default_factory=dict)
    mixing: set[int] = dataclasses.field(default_factory=set)
    approximate: dict[str, None] = dataclasses.field(default_factory=dict)
    notes: dict[str, None] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> "Signals":
        """The statistics of a whole plan."""
        signals = cls.unread(plan)
        signals._through(plan, Signal(1.0))
        return signals

    @classmethod
    def unread(cls, plan: Plan) -> "Signals":
        """Nothing but whether any weight is random."""
        return cls(any(isinstance(step, Weighted) and step.moments()[1].any() for step in steps(plan)))

    def assume(self, step: Any, what: str) -> None:
        """Makes the result approximate because of a step."""
        self.approximate[f"{step.label}: {what}"] = None

    def _through(self, plan: Plan, before: Signal) -> Signal:
        """The signal behind a part for that before it."""
        behind = self._step(plan, before)
        self.second[id(plan)] = before.second, behind.second
        return behind

    def _step(self, plan: Plan, x: Signal) -> Signal:
        match plan:
            case Series():
                for part in plan.parts:
                    x = self._through(part, x)
            case Parallel():
                each = [self._through(part, x) for part in plan.parts]
                return Signal(sum(b.second for b in each), sum(b.mean for b in each), any(b.mixed for b in each))
            case Weighted():
                mean, variance, exact = plan.moments()
                if not exact:
                    self.approximate["the variance profile of the initialiser was estimated from draws"] = None
                gain = float(mean.sum())
                return x._replace(second=x.second * (float(variance.sum()) + gain**2), mean=x.mean * gain)
            case Fixed():
                gain = float(plan.weights.sum())
                return Signal(x.second * gain**2, x.mean * gain, x.mixed or plan.weights.size > 1)
            case Drop():
                return x._replace(second=x.second / (1 - plan.rate))
            case Gain():
                return x._replace(second=x.second * plan.factor**2, mean=x.mean * plan.factor)
            case Normalise():
                return self._normalise(plan, x)
            case Gate():
                return self._gate(plan, x)
        return x

    def _normalise(self, norm: Normalise, x: Signal) -> Signal:
        self.assume(norm, NORMALISED)
        size = x.second - (x.mean**2 if norm.kind == "layer" else 0.0)
        if size <= 1e-12 * x.second:
            raise StackError(f"{norm.label} divides by zero: all channels in front of it are the same, or zero.")
        scale = self.scales[id(norm)] = 1 / math.sqrt(size)
        return x._replace(second=1.0, mean=0.0 if norm.kind == "layer" else x.mean * scale)

    def _gate(self, gate: Gate, x: Signal) -> Signal:
        found, slopes = gates.moments(gate.function, x.second), gates.slopes(gate.function)
        self.gate(gate)
        if not self.random:
            open_ = slopes.right if slopes is not None else found.mean
            found = found._replace(mean=open_, square=open_**2)
        self.slopes[id(gate)] = found
        self.mixing |= {id(gate)} if x.mixed else set()
        return x._replace(second=found.signal, mean=gates.mean(gate.function, x.second))

    def gate(self, gate: Gate) -> None:
        """Says what is assumed about a gate."""
        if gates.slopes(gate.function) is None:
            self.assume(gate, "mean field, in the limit of width, for an input of unit second moment")
        if self.random:
            self.notes[f"{gate.label}: gates are taken as independent of the weights: exact in the limit of width"] = (
                None
            )
        else:
            self.notes[f"{gate.label}: without random weights gates are constant, as for positive activations"] = None
