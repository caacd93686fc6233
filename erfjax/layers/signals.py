"""The forward pass of a plan under mean field: second moments of its signals, and what its gates do to gradients."""

import dataclasses
from typing import Any

from erfjax.layers import gates
from erfjax.layers.plan import Drop, Fixed, Gain, Gate, Parallel, Plan, Series, Weighted, steps


@dataclasses.dataclass
class Signals:
    """The statistics of a plan for a normal input of unit second moment, by the identity of its parts.

    Attributes:
        random: whether any weight is: if not, gates are constants.
        second: the second moment before and behind every part.
        slopes: E φ', E φ'² and E φ² of every gate.
        mixing: the gates with a fixed kernel of several taps between them and the input.
        approximate, notes: what had to be assumed, in the order in which it was.
    """

    random: bool
    second: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)
    slopes: dict[int, gates.Moments] = dataclasses.field(default_factory=dict)
    mixing: set[int] = dataclasses.field(default_factory=set)
    approximate: dict[str, None] = dataclasses.field(default_factory=dict)
    notes: dict[str, None] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> "Signals":
        """The statistics of a whole plan."""
        signals = cls(any(isinstance(step, Weighted) and step.moments()[1].any() for step in steps(plan)))
        signals._through(plan, 1.0, False)
        return signals

    def assume(self, step: Any, what: str) -> None:
        """Makes the result approximate because of a step."""
        self.approximate[f"{step.label}: {what}"] = None

    def _through(self, plan: Plan, q: float, mixed: bool) -> tuple[float, bool]:
        """The second moment behind a part for that before it, and whether a fixed kernel has mixed pixels so far."""
        before = q
        match plan:
            case Series():
                for part in plan.parts:
                    q, mixed = self._through(part, q, mixed)
            case Parallel():
                found = [self._through(part, q, mixed) for part in plan.parts]
                q, mixed = sum(each for each, _ in found), any(each for _, each in found)
            case Weighted():
                mean, variance, exact = plan.moments()
                if not exact:
                    self.approximate["the variance profile of the initialiser was estimated from draws"] = None
                q *= float(variance.sum()) + float(mean.sum()) ** 2
            case Fixed():
                q, mixed = q * float(plan.weights.sum()) ** 2, mixed or plan.weights.size > 1
            case Drop():
                q /= 1 - plan.rate
            case Gain():
                q *= plan.factor**2
            case Gate():
                q = self._gate(plan, q, mixed)
        self.second[id(plan)] = before, q
        return q, mixed

    def _gate(self, gate: Gate, q: float, mixed: bool) -> float:
        found, slopes = gates.moments(gate.function, q), gates.slopes(gate.function)
        if slopes is None:
            self.assume(gate, "mean field, for an input of unit second moment and infinite width")
        if self.random:
            self.notes[f"{gate.label}: gates are taken as independent of the weights, as at infinite width"] = None
        else:
            open_ = slopes.right if slopes is not None else found.mean
            found = found._replace(mean=open_, square=open_**2)
            self.notes[f"{gate.label}: without random weights gates are constant, as for positive activations"] = None
        self.slopes[id(gate)] = found
        self.mixing |= {id(gate)} if mixed else set()
        return found.signal
