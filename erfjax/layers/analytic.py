"""Closed forms of stacks: the map of E[g²] or E[g], its moments, and its Gaussian.

Where all units see alike the map is a polynomial and its moments come from cumulants. Elsewhere the map comes from pairs of
positions on
the image, and moments are those of the map.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from erfjax.errors import StackError
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.layers.pairs import Pairs
from erfjax.layers.plan import Plan, Settings
from erfjax.layers.polynomials import Dense, Jet
from erfjax.layers.second_moments import Ring, Walk
from erfjax.layers.signals import Signals
from erfjax.layers.theoretical import compose, smallest_image, theoretical, varies
from erfjax.layouts import check_channels
from erfjax.typing import Channels, Coverage, Statistic


class Question(NamedTuple):
    """What is asked of a stack: its plan, which statistic of the gradient of which channels, and the settings of its networks."""

    plan: Plan
    ndim: int
    statistic: Statistic
    channels: Channels
    settings: Settings

    @property
    def outputs(self) -> int:
        """The channels of the unit."""
        assert self.settings.out_channels is not None  # the stack resolved it
        return self.settings.out_channels

    def check(self) -> None:
        """Refuses what has no answer.

        Raises:
            StackError: the statistic has no closed form.
            UnitError: the unit has no such channel.
        """
        if self.statistic not in ("square", "rms", "mean"):
            raise StackError(
                f'`statistic` must be "square", "rms" or "mean", but got {self.statistic!r}: others have no closed form.'
            )
        check_channels(self.channels, self.outputs, self.statistic)

    def walk(self) -> Walk:
        """The walk through the plan that answers it."""
        self.check()
        signals = Signals.of(self.plan)
        return Walk(signals, self.summed(signals))

    def summed(self, signals: Signals) -> bool:
        """Whether gradients of several channels are added that go with their activations."""
        return signals.random and self.channels == "sum" and self.outputs > 1

    def factor(self, random: bool) -> float:
        """From one output channel to those that are asked about, and to the sum over input channels."""
        channels = self.outputs if isinstance(self.channels, str) else 1
        if self.statistic == "mean" or random:
            return float(channels)
        together = channels if self.channels == "sum" else 1  # equal weights: all output channels add up coherently
        return channels * together / self.settings.in_channels


@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of a map in pixels, one entry (of the covariance: one row) per axis.

    `mean` counts from the first pixel of the theoretical field; `total` is the sum of the map.
    """

    total: float
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    variance: tuple[float, ...]
    skewness: tuple[float, ...]
    excess_kurtosis: tuple[float, ...]


def analytic(
    question: Question, image_shape: Any = None, unit: Any = None
) -> EffectiveField | tuple[EffectiveField, ...]:
    """The closed-form effective field of a stack; see `Stack.analytic`."""
    found = theoretical(question.plan, question.ndim, image_shape, unit)
    fields = found if isinstance(found, tuple) else (found,)
    shape = fields[0].image_shape
    if varies(question.plan):
        maps = _of_pairs(question, fields)
    else:
        walk = question.walk()
        polynomial = _polynomial(question, walk, Dense, shape).scaled(question.factor(walk.signals.random))
        maps = tuple(_on_image(question, walk, polynomial, field) for field in fields)
    return maps if isinstance(found, tuple) else maps[0]


def _of_pairs(question: Question, fields: tuple[TheoreticalField, ...]) -> tuple[EffectiveField, ...]:
    """The fields of a plan whose units see differently."""
    question.check()
    pairs = Pairs.of(question.plan, fields[0].image_shape)
    signals, result = pairs.signals, []
    for field in fields:
        mean = question.statistic == "mean"
        values = _held(question, pairs.mean(field.unit) if mean else pairs.square(field.unit, question.summed(signals)))
        values = values * question.factor(signals.random)
        reasons = tuple(signals.approximate)
        result.append(
            _field(question, values, field, "approximate" if reasons else "exact", (*reasons, *signals.notes))
        )
    return tuple(result)


def _on_image(question: Question, walk: Walk, polynomial: Dense, field: TheoreticalField) -> EffectiveField:
    at = [u * int(s) for u, s in zip(field.unit, field.stride, strict=True)]
    values, inside = polynomial.on_image(field.image_shape, at)
    border = "the field runs over the border: paths through the padding are counted, and then cropped"
    reasons = (*walk.signals.approximate, *(() if inside else (border,)))
    return _field(question, values, field, "approximate" if reasons else "exact", (*reasons, *walk.signals.notes))


def moments(question: Question) -> Moments:
    """The moments of the map of a stack, without the map; see `Stack.moments`."""
    if question.statistic == "rms":
        raise StackError('A root has no closed moments: ask for "square", or measure `analytic("rms").map`.')
    shape = smallest_image(question.plan, question.ndim)
    if varies(question.plan):
        field = analytic(question, shape)
        assert isinstance(field, EffectiveField)  # of the one centre unit
        jet = Jet.of(Dense(field.map, (0,) * question.ndim))
        first = [int(g) for g in field.theoretical.start]  # type: ignore[union-attr]
    else:
        walk = question.walk()
        jet = _polynomial(question, walk, Jet, shape).scaled(question.factor(walk.signals.random)).recentred()
        first = [g.start for g in compose(question.plan, shape)[0]]
    total = float(jet.axial[0, 0])
    if not jet.axial[0].all():
        raise StackError("The map of this stack sums to zero (its kernels cancel), so it has no mean and no variance.")
    _, _, variance, third, fourth = jet.axial / jet.axial[0]
    return Moments(
        total,
        _floats(jet.centre - np.array(first)),
        tuple(map(_floats, jet.joint / total)),
        _floats(variance),
        tuple(t / v**1.5 if v > 0 else math.nan for t, v in zip(_floats(third), _floats(variance), strict=True)),
        tuple(f / v**2 - 3 if v > 0 else math.nan for f, v in zip(_floats(fourth), _floats(variance), strict=True)),
    )


def gaussian(question: Question) -> EffectiveField:
    """The Gaussian with the moments of the map; see `Stack.gaussian`."""
    square = question.statistic == "rms"
    found = moments(question._replace(statistic="square") if square else question)
    field = theoretical(question.plan, question.ndim)
    assert isinstance(field, TheoreticalField)  # of the one centre unit
    covariance = np.array(found.covariance)
    if np.linalg.eigvalsh(covariance)[0] < -1e-9 * np.abs(covariance).max():
        raise StackError(f"A Gaussian needs a positive variance, but this signed map has {covariance.tolist()}.")
    away = np.indices(field.image_shape).reshape(question.ndim, -1).T - np.add(field.start, found.mean)
    scaled = away @ np.linalg.pinv(covariance, hermitian=True)
    off = ((away - scaled @ covariance) ** 2).sum(axis=1)  # squared distance from where the map has any variance
    exponent = np.where(off <= off.min() + 1e-6, -0.5 * (away * scaled).sum(axis=1), -np.inf)
    density = np.exp(exponent - exponent.max())
    values = (found.total / density.sum() * density).reshape(field.image_shape)
    return _field(question, values, field, "approximate", ("the Gaussian of the central limit theorem",))


def _field(
    question: Question, values: np.ndarray, field: TheoreticalField, coverage: Coverage, notes: tuple[str, ...]
) -> EffectiveField:
    settings = question.settings
    if question.statistic == "rms":
        values = np.sqrt(settings.in_channels * values)
    metadata = {k: v if isinstance(v, str | int | None) else repr(v) for k, v in vars(settings).items()}
    return EffectiveField(
        map=values,
        stderr=None,
        statistic=question.statistic,
        samples=0,
        unit=field.unit,
        theoretical=field,
        coverage=coverage,
        notes=notes,
        metadata=metadata,
        channels=question.channels if isinstance(question.channels, str) else int(question.channels),
        averages="weights",
    )


def _polynomial(question: Question, walk: Walk, ring: Ring, shape: tuple[int, ...]) -> Any:
    if question.statistic == "mean":
        return _held(question, walk.mean(question.plan, ring.one(len(shape)), shape))
    return _held(question, walk.square(question.plan, ring, shape))


def _held(question: Question, result: Any) -> Any:
    """A result that is not zero everywhere."""
    if result is None or (isinstance(result, np.ndarray) and not result.any()):
        raise StackError(
            f'The statistic "{question.statistic}" of this stack is zero everywhere. For the mean of random weights ask for '
            '"square", or pass init="uniform"; the channels behind a layer normalisation sum to zero, so ask for '
            'channels="random-signs" there.'
        )
    return result


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
