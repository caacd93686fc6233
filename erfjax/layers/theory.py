"""Closed forms of plans: the map of E[g²] or E[g], its moments from cumulants, and its Gaussian."""

import dataclasses
import math
from typing import Any

import numpy as np

from erfjax.closed_form.convolution import power
from erfjax.errors import StackError
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.layers.energy import Ring, Walk, energy
from erfjax.layers.fields import compose, smallest_image, theoretical
from erfjax.layers.plan import Drop, Gain, Gate, Parallel, Plan, Settings, Weighted, steps
from erfjax.layers.polynomials import Dense, Jet
from erfjax.typing import Coverage, Statistic

__all__ = ["Moments", "analytic", "gaussian", "moments", "theoretical"]


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
    plan: Plan, ndim: int, statistic: Statistic, settings: Settings, image_shape: Any = None, unit: Any = None
) -> EffectiveField:
    """The closed-form effective field of a plan; see `Stack.analytic`."""
    field = theoretical(plan, ndim, image_shape, unit)
    walk = Walk.of(plan)
    polynomial = _plain(plan, walk, statistic, field.image_shape)
    if polynomial is None:
        polynomial = _polynomial(plan, walk, statistic, Dense, field.image_shape)
    at = [u * int(s) for u, s in zip(field.unit, field.stride, strict=True)]
    values, inside = polynomial.scaled(_factor(walk, statistic, settings)).on_image(field.image_shape, at)
    if not inside:
        walk.approximate["the field runs over the border: paths through the padding are counted, and then cropped"] = (
            None
        )
    coverage: Coverage = "approximate" if walk.approximate else "exact"
    return _field(values, statistic, settings, field, coverage, (*walk.approximate, *walk.notes))


def moments(plan: Plan, ndim: int, statistic: Statistic, settings: Settings) -> Moments:
    """The moments of the map of a plan, without the map; see `Stack.moments`."""
    if statistic == "rms":
        raise StackError('A root has no closed moments: ask for "square", or measure `analytic("rms").map`.')
    shape = smallest_image(plan, ndim)
    walk = Walk.of(plan)
    jet = _polynomial(plan, walk, statistic, Jet, shape).scaled(_factor(walk, statistic, settings)).recentred()
    total = float(jet.axial[0, 0])
    if not jet.axial[0].all():
        raise StackError("The map of this stack sums to zero (its kernels cancel), so it has no mean and no variance.")
    _, _, variance, third, fourth = jet.axial / jet.axial[0]
    start = np.array([g.start for g in compose(plan, shape)[0]])
    return Moments(
        total,
        _floats(jet.centre - start),
        tuple(map(_floats, jet.joint / total)),
        _floats(variance),
        tuple(t / v**1.5 if v > 0 else math.nan for t, v in zip(_floats(third), _floats(variance), strict=True)),
        tuple(f / v**2 - 3 if v > 0 else math.nan for f, v in zip(_floats(fourth), _floats(variance), strict=True)),
    )


def gaussian(
    plan: Plan, ndim: int, statistic: Statistic, settings: Settings, image_shape: Any = None, unit: Any = None
) -> EffectiveField:
    """The Gaussian with the moments of the map; see `Stack.gaussian`."""
    found = moments(plan, ndim, "square" if statistic == "rms" else statistic, settings)
    field = theoretical(plan, ndim, image_shape, unit)
    covariance = np.array(found.covariance)
    if np.linalg.eigvalsh(covariance)[0] < -1e-9 * np.abs(covariance).max():
        raise StackError(f"A Gaussian needs a positive variance, but this signed map has {covariance.tolist()}.")
    away = np.indices(field.image_shape).reshape(ndim, -1).T - np.add(field.start, found.mean)
    scaled = away @ np.linalg.pinv(covariance, hermitian=True)
    off = ((away - scaled @ covariance) ** 2).sum(axis=1)  # squared distance from where the map has any variance
    exponent = np.where(off <= off.min() + 1e-6, -0.5 * (away * scaled).sum(axis=1), -np.inf)
    density = np.exp(exponent - exponent.max())
    values = (found.total / density.sum() * density).reshape(field.image_shape)
    note = "the Gaussian of the central limit theorem"
    return _field(values, statistic, settings, field, "approximate", (note,))


def _field(
    values: np.ndarray,
    statistic: Statistic,
    settings: Settings,
    field: TheoreticalField,
    coverage: Coverage,
    notes: tuple[str, ...],
) -> EffectiveField:
    if statistic == "rms":
        values = np.sqrt(settings.in_channels * values)
    metadata = {k: v if isinstance(v, str | int | None) else repr(v) for k, v in vars(settings).items()}
    return EffectiveField(values, None, statistic, 0, field.unit, field, coverage, notes, None, metadata)


def _polynomial(plan: Plan, walk: Walk, statistic: Statistic, ring: Ring, shape: tuple[int, ...]) -> Any:
    if statistic == "mean":
        result = walk.mean(plan, ring.one(len(shape)), shape)
    elif statistic in ("square", "rms"):
        result = energy(plan, walk, ring, shape)
    else:
        raise StackError(
            f'`statistic` must be "square", "rms" or "mean", but got {statistic!r}: others have no closed form.'
        )
    if result is None:
        raise StackError(
            f'The statistic "{statistic}" of this stack is zero everywhere. For the mean of random weights ask for "square", or '
            'pass init="uniform".'
        )
    return result


def _plain(plan: Plan, walk: Walk, statistic: Statistic, shape: tuple[int, ...]) -> Dense | None:
    """The map if the plan is one convolution repeated at stride one, gates and factors between: `closed_form.power`."""
    every = list(steps(plan))
    layers = [step for step in every if isinstance(step, Weighted)]
    between = [step for step in every if not isinstance(step, Weighted)]
    if _has_branches(plan) or len(layers) < 2 or not all(isinstance(step, Gate | Drop | Gain) for step in between):
        return None
    order = 1 if statistic == "mean" or not walk.random else 2
    taps = [mean if order == 1 else variance for mean, variance, _ in (step.moments() for step in layers)]
    sums = [float(t.sum()) for t in taps]
    same = {(step.kernel, step.dilation, step.windows(shape)) for step in layers}
    if len(same) > 1 or max(layers[0].stride) > 1 or not all(sums):
        return None
    profile = taps[0] / sums[0]
    if not all(np.allclose(t / s, profile, rtol=1e-14, atol=0) for t, s in zip(taps, sums, strict=True)):
        return None
    factor = math.prod(sums) * math.prod(_pointwise(step, walk, order) for step in between)
    values = np.asarray(power(profile, len(layers)), np.float64) * factor
    offset = tuple(-window.padding_low * len(layers) for window in layers[0].windows(shape))
    result = Dense(Dense(values, (0,) * len(shape)).spread(layers[0].dilation).values, offset)
    return result.squared() if statistic != "mean" and order == 1 else result


def _pointwise(step: Any, walk: Walk, order: int) -> float:
    """The mean (order 1) or second moment (order 2) of what a pointwise step multiplies gradients by."""
    if isinstance(step, Gate):
        return walk.gates[id(step)][order - 1]
    return step.factor**order if isinstance(step, Gain) else (1 - step.rate) ** (1 - order)


def _has_branches(plan: Plan) -> bool:
    return isinstance(plan, Parallel) or any(_has_branches(part) for part in getattr(plan, "parts", ()))


def _factor(walk: Walk, statistic: Statistic, settings: Settings) -> float:
    """From one output channel to the sum over the unit's, and to the sum over input channels."""
    out = settings.out_channels
    assert out is not None  # the stack resolved it
    if statistic == "mean" or walk.random:
        return float(out)
    return out**2 / settings.in_channels  # equal weights: all output channels add up coherently


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
