"""The layers of a report: theoretical and effective sizes side by side, and how the effective size grows with depth."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from erfjax import jackknife, summary
from erfjax.errors import MapError
from erfjax.fields import EffectiveField, TheoreticalField

MOST = 32  # layers that are measured unless they are named: each costs a backward pass for every input
SAMPLES = 16  # inputs that layers are measured with at most
MEASURE = "luo"
LONG = 40  # rows of a table that still show at a glance
WIDE = 1.959964  # standard errors on each side of a 95 % interval


def to_measure(theory: TheoreticalField | None, layers: Any) -> Any:
    """The layers to measure: those that are named, else the widening ones, thinned evenly where there are too many."""
    if layers is not None or theory is None:
        return layers
    wide = [row.name for row, before in zip(theory.layers, (None, *theory.layers), strict=False)
            if before is None or row.size != before.size]  # fmt: skip
    if len(wide) <= MOST:
        return None
    kept = sorted({round(i) for i in np.linspace(0, len(wide) - 1, MOST)})
    return [wide[i] for i in kept]


def size(field: EffectiveField | None) -> tuple[float, float | None] | None:
    """The Luo size of a layer with its standard error; None where there is no field, or it has no size."""
    try:
        return None if field is None else (field.size(MEASURE), field.size_stderr(MEASURE))
    except MapError:
        return None


def table(theory: TheoreticalField, measured: Mapping[str, EffectiveField]) -> summary.Table:
    """One row per layer: theoretical size, effective size, their ratio, stride, padding, start."""
    rows = []
    for row in theory.layers:
        found = size(measured.get(row.name))
        said, share = None, None
        if found is not None:
            value, error = found
            said = f"{value:.4g}" + (f" ± {error:.2g}" if error else "")
            mean = math.prod(row.size) ** (1 / len(row.size))
            share = f"{value / mean:.0%}" if math.isfinite(mean) and mean > 0 else None
        rows.append((row.name, row.size, said, share, row.stride, row.padding, row.start, row.operation, row.shape))
    columns = ("layer", "theoretical size", "effective size", "effective / theoretical", "stride", "padding", "start")
    shown = summary.Table("layers", (*columns, "operation", "shape"), tuple(rows))
    if measured:
        return shown
    keep = [i for i, name in enumerate(shown.columns) if not name.startswith("effective")]
    return summary.Table(
        "layers", tuple(shown.columns[i] for i in keep), tuple(tuple(r[i] for i in keep) for r in rows)
    )


def glance(theory: TheoreticalField, measured: Mapping[str, EffectiveField]) -> summary.Table:
    """The table per layer; where it is long, the rows of the measured layers alone, and its title says so."""
    whole = table(theory, measured)
    rows = tuple(row for row in whole.rows if row[0] in measured)
    if len(whole.rows) <= LONG or not 0 < len(rows) < len(whole.rows):
        return whole
    return summary.Table(f"layers: the {len(rows)} measured ones of {len(whole.rows)}", whole.columns, rows)


def growth(measured: Mapping[str, EffectiveField]) -> tuple[float, float | None] | None:
    """The exponent p of size ~ n^p over the measured layers, n = 1, 2, 3 ..., with its standard error; None below three layers.

    The line is that of least squares through (log n, log size). All layers are measured with the same inputs, so the error is
    that of the whole line, by the jackknife over batches.
    """
    fields = [field for field in measured.values() if size(field) is not None]
    if len(fields) < 3:
        return None
    n = np.log(np.arange(1, len(fields) + 1))
    lever = (n - n.mean()) / ((n - n.mean()) ** 2).sum()
    value = float(lever @ np.log([field.size(MEASURE) for field in fields]))
    maps = [field.without_each_batch() for field in fields]
    if any(each is None for each in maps):
        return value, None
    read = [field.reader(MEASURE) for field in fields]
    try:
        lines = [[r(one) for one in each] for r, each in zip(read, maps, strict=True) if each is not None]
    except MapError:
        return value, None
    return value, float(jackknife.stderr(lever @ np.log(np.array(lines))))


def words(theory: TheoreticalField, measured: Mapping[str, EffectiveField]) -> tuple[str, ...]:
    """What the table says, in sentences."""
    if not measured:
        return ()
    one = next(iter(measured.values()))
    said = [
        f"Effective size: Luo size of {one.formula} of the centre unit of the layer, ± its standard error, from {one.samples} "
        f"input{'s' * (one.samples != 1)}; of hidden layers the sum of the channels is differentiated."
    ]
    missing = len({row.name for row in theory.layers} - set(measured))
    if missing:
        said.append(
            f"{missing} of {len(theory.layers)} layers were not measured; name them with --layers (all: every one)."
        )
    found = growth(measured)
    if found is not None:
        value, error = found
        between = "" if error is None else f" (95 %: {value - WIDE * error:.2f} to {value + WIDE * error:.2f})"
        strides = [row.stride for row in theory.layers]
        equal = all(s == strides[0] for s in strides)
        because = (
            "Equal layers of stride 1 tend to n^0.5, while the theoretical size grows with n^1."
            if equal
            else "Equal layers of stride 1 tend to n^0.5; a stride multiplies what later layers add, so this network may grow "
            "faster."
        )
        said.append(
            f"Over these {len(measured)} layers the effective size grows like n^{value:.2f}{between}. {because}"
        )
    return tuple(said)
