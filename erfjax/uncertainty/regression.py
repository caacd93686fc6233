"""Control variates: means of samples less what a number of known mean explains of their scatter.

Beside every sample y (a map, a total) stands a control d whose mean is zero. The mean of y - β d is that of y for any β that does
not depend on the sample, and varies least for β = Cov(y, d)/Var(d). So every batch of samples takes the β of *all other*
batches: its estimate then depends on nothing that it multiplies, and the mean has no bias, however few the samples are and
whatever their law (A. Avramidis, J. Wilson 1993 split in this way). What is left of the batches is as good as independent, and
intervals, standard errors and diagnostics are made of it as of plain samples; its scatter contains that of β.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from erfjax.uncertainty.records import Record, samples_per_unit, summarise

FEWEST = 10  # batches; from fewer no β is estimated
LARGEST_GAIN = 100  # a larger one is not told from another: what is left of the scatter is small against its own error
EXACT = 1e8  # ratio of variances beyond which only float32's rounding is left


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """β of every batch, from all the others.

    Attributes:
        slopes: (batches + 1, *shape); the last one is from all batches, for samples that are in none.
        gain: how many times fewer samples the total needs for the same variance, as far as these samples say.
    """

    slopes: Float[np.ndarray, "batches_and_one *shape"]
    gain: float


def fit(values: Float[np.ndarray, "batches *shape"], controls: Float[np.ndarray, " batches"]) -> Fit:
    """The slopes of batch means over their controls, leaving out one batch at a time.

    They are shrunk by max(0, 1 - 1/F), F the ratio of explained to left variance of the total per degree of freedom (of the other
    batches): where the control explains nothing, nothing is taken away, rather than noise.

    Args:
        values: batch means of maps.
        controls: batch means of the control, whose expectation is zero.

    Example:
        >>> import numpy as np
        >>> from erfjax.uncertainty.regression import fit
        >>> d = np.array([-2.0, -1.5, -1, -0.5, -0.25, 0.25, 0.5, 1, 1.5, 2])
        >>> fit(3 * d[:, None] + 7, d).slopes.round(6)[0]
        array([3.])
    """
    count, flat = len(controls), values.reshape(len(values), -1)
    if count < FEWEST or not np.ptp(controls):
        return Fit(np.zeros((count + 1, *values.shape[1:])), 1.0)
    dy, dx, totals = flat - flat.mean(0), controls - controls.mean(), flat.sum(1)
    dt, share = totals - totals.mean(), count / (count - 1)
    without = np.r_[share * dx**2, 0.0]  # what leaving out a batch takes from the sums of squares and products
    xx = np.maximum(dx @ dx - without, 1e-12 * (dx @ dx))
    xt, tt = dx @ dt - np.r_[share * dx * dt, 0.0], dt @ dt - np.r_[share * dt**2, 0.0]
    explained = xt**2 / xx
    left = np.maximum(tt - explained, 0.0) / (np.r_[np.full(count, count - 3), count - 2])
    shrink = np.maximum(0.0, 1 - left / np.maximum(explained, np.finfo(np.float64).tiny))
    products = dx @ dy - np.concatenate([share * dx[:, None] * dy, np.zeros_like(dy[:1])])
    slopes = (shrink / xx)[:, None] * products
    rest = totals - slopes[:-1].sum(1) * controls
    gain = float(totals.var() / rest.var()) if rest.var() > 0 else np.inf
    return Fit(slopes.reshape(count + 1, *values.shape[1:]), gain)


def worth(gain: float) -> str:
    """What a control is worth for the total, in words.

    Example:
        >>> from erfjax.uncertainty.regression import worth
        >>> worth(2.31), worth(1e14)
        ('the control is worth 2.3 times as many samples for the total', 'the control explains all of the total but rounding')
    """
    if gain > EXACT:
        return "the control explains all of the total but rounding"
    times = f"{gain:.{1 if gain < 10 else 0}f}" if gain < LARGEST_GAIN else f"more than {LARGEST_GAIN}"
    return f"the control is worth {times} times as many samples for the total"


def rest(values: np.ndarray, controls: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """y - β d, batch by batch."""
    return values - slopes * controls.reshape(-1, *(1,) * (values.ndim - 1))


def controlled_record(
    record: Record, controls: Float[np.ndarray, " rows"], found: Fit, reference: int, batches: int
) -> Record:
    """The record of the samples less what the control explains.

    Args:
        record: of the samples as they are.
        controls: of its rows.
        found: the slopes of the batches of maps.
        reference: the reference pixel, as an index into the flattened map.
        batches: how many there are; a row lies in one of them, or behind the last.
    """
    rows, flat = record.rows.copy(), found.slopes.reshape(len(found.slopes), -1)
    per_batch = samples_per_unit(record.count, batches, record.per_draw)
    place = np.minimum(np.arange(len(rows)) * record.per_row // per_batch, batches)
    rows[:, 0] -= flat.sum(1)[place] * controls
    rows[:, 1] -= flat[:, reference][place] * controls
    if record.per_row > 1:  # logarithms and largest values of single samples stay as they were measured
        return Record(rows[:, :5], record.largest, record.count, record.per_draw)
    rows = summarise(rows[:, :1], rows[:, 1]) * (1, 1, 0, 1, 1, 1) + record.rows * (0, 0, 1, 0, 0, 0)
    kept = record.largest.shape[1]
    return Record(rows, -np.sort(-np.abs(rows[:, :2].T), axis=1)[:, :kept], record.count)
