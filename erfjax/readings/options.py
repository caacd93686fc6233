"""What is asked of a closed form, and which combinations exist."""

import dataclasses

from erfjax.errors import SampleError
from erfjax.tracing.program.flatten import Unrolled
from erfjax.typing import Given

FEW_STEPS = 3  # of a scan: unrolled, they compile as soon as its body once
SHORT = 12  # steps of a scan, unrolled where positions might be taken together
POWERS = {"square": 2, "rms": 2, "mean": 1}
CHOICES = {
    "statistic": tuple(POWERS),
    "gates": ("data", "mean-field"),
    "weights": ("given", "exchangeable"),
    "positions": ("auto", "apart", "together", "band", "matrix"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for; see `analytic`."""

    statistic: str = "square"
    gates: str = "data"
    weights: str = "given"
    channels: Given = "sum"
    positions: str = "apart"

    @property
    def power(self) -> int:
        """Which moment the pass pushes."""
        return POWERS[self.statistic]

    @property
    def coherent(self) -> bool:
        """Whether the gradients of the unit's channels are added before they are squared."""
        return self.channels not in ("frobenius", "random-signs")

    @property
    def signed(self) -> bool:
        """Whether every channel of the unit stands for itself."""
        return not self.coherent

    @property
    def layerwise(self) -> bool:
        """Whether the covariance runs over positions and channels, through the weights as they are."""
        return self.together and self.weights == "given"

    @property
    def together(self) -> bool:
        """Whether the covariance of two positions is carried."""
        return self.positions in ("together", "band", "matrix")

    @property
    def unrolled(self) -> Unrolled:
        """Which scans are unrolled."""
        if self.gates == "mean-field" or self.layerwise:
            return Unrolled()
        if self.together:
            return Unrolled(fixed=FEW_STEPS)
        steps = SHORT if self.pairable and self.positions == "auto" else FEW_STEPS
        return Unrolled(steps, steps)

    @property
    def pairable(self) -> bool:
        """Whether positions can be taken together."""
        return self.power == 2 and self.weights == "exchangeable"

    def check(self) -> None:
        """Refuses an option that does not exist.

        Raises:
            SampleError: there is none of that name.
        """
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                remedy = ": other statistics have no closed form, measure them with ej.empirical."
                raise SampleError(
                    f"`{name}` must be one of {', '.join(map(repr, allowed))}, but got {getattr(self, name)!r}"
                    + (remedy if name == "statistic" else ".")
                )
        if self.together and self.power != 2:
            raise SampleError(
                f'positions="{self.positions}" needs statistic="square" or "rms", but got {self.statistic!r}: '
                'use positions="apart".'
            )
        if self.layerwise and self.positions != "together":
            raise SampleError(
                f'positions="{self.positions}" says how the covariance of two positions is held where weights are draws, but got '
                'weights="given": use weights="exchangeable", or positions="together".'
            )
        if self.layerwise and self.gates == "mean-field":
            raise SampleError(
                'positions="together" by mean field takes weights as draws, but got weights="given": use weights="exchangeable".'
            )
