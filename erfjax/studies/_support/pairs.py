"""What studies share: one network read twice, in closed form and measured; and what every result can do.

A network is described by a stack. Its closed form is `stack.analytic`; its measurement averages Jacobians of networks that the
stack draws, on Gaussian noise of the smallest image that holds the whole field of the centre unit.
"""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import jax
import numpy as np

from erfjax import agreement, files, measures, plot, summary
from erfjax.fields import EffectiveField
from erfjax.readings.empirical import empirical
from erfjax.typing import Statistic

CLOSED: dict[str, Statistic] = {"square": "square", "rms": "rms", "abs": "rms", "relu": "rms", "mean": "mean"}
"""The closed form beside each measured statistic: E|g| of a Gaussian g has the shape of √E[g²]."""
CLAIM = ("what", "reported", "here")


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """One network read twice.

    Attributes:
        name: what the tables and figures call it.
        closed, measured: its fields, on the same pixels.
    """

    name: str
    closed: EffectiveField
    measured: EffectiveField

    @property
    def trf(self) -> int:
        """The size of the theoretical field along the first axis, in pixels."""
        assert self.closed.theoretical is not None
        return int(self.closed.theoretical.size[0])

    @functools.cached_property
    def comparison(self) -> agreement.Comparison:
        """How well the two agree; their shapes alone where the closed form is that of √E[g²] beside E|g|."""
        same = CLOSED[self.measured.statistic] == self.measured.statistic
        closed = dataclasses.replace(self.closed, statistic=self.measured.statistic)
        return agreement.compare(closed, self.measured, total=same)

    @functools.cached_property
    def gaussianity(self) -> tuple[float, float]:
        """R² of the Gaussians that fit the two maps best, by least squares over pixels."""
        closed, measured = (measures.gaussian_fit(np.abs(f.map)).r2 for f in (self.closed, self.measured))
        return float(closed), float(measured)

    def ratio(self, measure: str = "sigma") -> agreement.Ratio:
        """A size in closed form (`a`), measured (`b`) and their ratio, with standard errors."""
        return agreement.Ratio(
            measure,
            self.closed.size(measure),
            self.measured.size(measure),
            None,
            self.measured.size_stderr(measure),
        )


@functools.cache  # the same function again, so that nothing is compiled anew
def noise(shape: tuple[int, ...], channels: int = 3) -> Any:
    """A function key -> standard normal image (1, *shape, channels).

    Example:
        >>> import jax
        >>> from erfjax.studies._support.pairs import noise
        >>> noise((5, 7))(jax.random.key(0)).shape
        (1, 5, 7, 3)
    """
    return lambda key: jax.random.normal(key, (1, *shape, channels))


def pair(
    name: str, stack: Any, *, key: Any, samples: int, statistic: str = "square", inputs: Any = None, **net: Any
) -> Pair:
    """A stack read in closed form and measured on `samples` draws of weights and noise.

    Squares are those of every output channel by itself (a random sign each), as in theory: behind a ReLU the channels of a unit
    have gradients with something in common, which a plain sum adds up coherently.

    Args:
        name: what to call it.
        stack: of `erfjax.layers`.
        key: of every random number.
        samples: pairs of fresh weights and a fresh input.
        statistic: of the gradient.
        inputs: a function key -> image; None is Gaussian noise.
        net: settings of the stack's networks: width, activation, init ...

    Example:
        >>> import jax
        >>> from erfjax.layers import Conv
        >>> from erfjax.studies._support.pairs import pair
        >>> found = pair("uniform", Conv((3,)) ** 4, key=jax.random.key(0), samples=1, statistic="mean", init="uniform")
        >>> found.trf, round(found.ratio().value, 5)
        (9, 1.0)
    """
    channels: Any = "random-signs" if statistic in ("square", "rms") else "sum"
    closed = stack.analytic(CLOSED[statistic], channels=channels, **net)
    measured = empirical(
        stack.sampler(**net),
        noise(closed.map.shape, net.get("in_channels", 3)) if inputs is None else inputs,
        key=key,
        samples=samples,
        channels=channels,
        layout={1: "NWC", 2: "NHWC", 3: "NDHWC"}[closed.map.ndim],
        statistic=cast(Statistic, statistic),
        progress=False,
    )
    return Pair(name, closed, measured)


class Claim(NamedTuple):
    """One thing that the 2016 paper reports, beside what is found here."""

    subject: str
    reported: str
    here: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result(summary.Shown):
    """What a study found, as tables, as a figure and as files.

    A study adds its findings as fields, its tables, its claims, its arrays and its figure.

    Attributes:
        settings: the arguments of the study, as JSON holds them.
    """

    name: ClassVar[str]

    settings: dict[str, Any]

    def tables(self) -> tuple[summary.Table, ...]:
        """Every table of the study, the most important one first."""
        raise NotImplementedError

    def claims(self) -> tuple[Claim, ...]:
        """What the paper reports, beside what is found here; empty where the paper is silent."""
        return ()

    def arrays(self) -> dict[str, np.ndarray]:
        """Every map and curve by name."""
        raise NotImplementedError

    def table(self) -> summary.Table:
        """The table of the study."""
        return self.tables()[0]

    def _tables(self) -> tuple[summary.Table, ...]:
        """Every table, and the claims as one more."""
        claims = self.claims()
        return (*self.tables(), *([summary.Table("beside the paper", CLAIM, claims)] if claims else []))

    def _brief(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())

    def plot(self) -> Any:
        """A matplotlib figure of all findings."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The folder with the figure (.png), the tables (.txt, .json) and the maps (.npz), named after the study."""
        folder = Path(path)
        content: dict[str, Any] = {"settings": self.settings}
        content["tables"] = {table.title: table.to_dict() for table in self.tables()}
        content["claims"] = [claim._asdict() for claim in self.claims()]
        plot.save(self.plot(), folder / f"{self.name}.png")
        return files.save_folder(folder, self.name, type(self).__name__, self.arrays(), content, str(self))


def pair_arrays(pairs: Any) -> dict[str, np.ndarray]:
    """Both maps of every pair, and the standard errors of the measured one."""
    arrays: dict[str, np.ndarray] = {}
    for one in pairs:
        arrays[f"{one.name} closed"], arrays[f"{one.name} measured"] = one.closed.map, one.measured.map
        if one.measured.stderr is not None:
            arrays[f"{one.name} stderr"] = one.measured.stderr
    return arrays
