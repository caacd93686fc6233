"""What a measurement costs against depth, width, side of the image, samples and units: log-log slopes beside what theory says.

Numbers are CPU seconds of one warm call. "Theory" is the slope of the multiplications that the cone takes, forward and backward:
3 in depth until the cone meets the border, 2 in width, 0 in the side of the image, 1 in samples, and in units less than 1, since
neighbours share a cone. Last come the time to a map of 5 % error and the memory of ResNet-50 at 2,048 pixels.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import erfjax as ej
from benchmarks import harness, models
from benchmarks.measured import Case, flops
from erfjax.plot import figure, save

DEPTH, WIDTH, SIDE, SAMPLES = 8, 64, 48, 8
GRID: Mapping[str, tuple[int, ...]] = {
    "depth": (4, 8, 16),
    "width": (32, 64, 128),
    "side": (24, 48, 96),
    "samples": (8, 32, 128),
    "units": (1, 4, 16),
}
PRECISE = 0.05  # relative standard error of the total
LARGE = 2048  # pixels
REPEATS = 3


def rows() -> Iterator[harness.Row]:
    """One row per quantity, then ResNet-50 on a large image; the figure goes to `results/scale.png`."""
    found = {}
    for name, values in GRID.items():
        found[name] = row(name, values)
        yield found[name]
    draw(found, Path("results/scale.png"))
    yield large()


def row(name: str, values: tuple[int, ...]) -> harness.Row:
    """The cost at each value of one quantity, the others as they are by default."""
    timings, work = {}, []
    for value in values:
        call, arithmetic = measured(**{name: value})
        timings[f"{name} {value}"] = cost(call)
        work.append(arithmetic)
    seconds = [timing.median for timing in timings.values()]
    facts: dict[str, Any] = {"slope": slope(values, seconds), "theory": slope(values, work)}
    if name == "samples":
        field = measured(samples=values[-1])[0]()
        facts["s to 5 % error"] = seconds[-1] * (relative_error(field) / PRECISE) ** 2
    return harness.Row(name, "plain 3x3", timings, f"{name} {values[0]}", facts)


def measured(
    depth: int = DEPTH, width: int = WIDTH, side: int = SIDE, samples: int = SAMPLES, units: int = 1
) -> tuple[Callable[[], Any], float]:
    """A call, and the multiplications that it takes: those of the centre's cone forwards, and backwards for each unit."""
    case = Case(models.plain(depth, width), side, samples)
    middle = side // 2
    reach = int(units**0.5) // 2
    chosen = [(middle + i, middle + j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)][:units]
    asked = [case.unit] if units == 1 else chosen
    forward = sum(map(flops, case.cone_steps())) / 2
    model, images = case.model, case.images
    return lambda: ej.empirical(model, images, unit=asked, progress=False)[0], samples * forward * (1 + len(asked))


def cost(call: Callable[[], Any]) -> harness.Timing:
    """CPU seconds of the first call, and of later ones."""
    spent = []
    for _ in range(1 + REPEATS):
        begin = time.process_time()
        jax.block_until_ready(call().map)
        spent.append(time.process_time() - begin)
    return harness.Timing(spent[0], float(np.median(spent[1:])), min(spent[1:]), max(spent[1:]))


def slope(values: Any, cost: Any) -> float:
    """The least-squares slope of log cost against log value.

    Example:
        >>> from benchmarks.scale import slope
        >>> round(slope((1, 2, 4), (3, 12, 48)), 9)
        2.0
    """
    return float(np.polyfit(np.log(values), np.log(cost), 1)[0])


def relative_error(field: Any) -> float:
    """The standard error of a field's total over the total."""
    totals = field.batches.reshape(len(field.batches), -1).sum(1)
    return float(totals.std(ddof=1) / len(totals) ** 0.5 / totals.mean())


def large(size: int = LARGE) -> harness.Row:
    """ResNet-50 on one large image: time, and by how much a warm call raises the memory of the process."""
    case = Case(models.resnet50, size, 1)
    unit = (size // 64, size // 64)
    model, images = case.model, case.images

    def call() -> Any:
        return ej.empirical(model, images, unit=unit, progress=False)

    timing = cost(call)
    memory = harness.peak_memory(lambda: call().map)
    facts = {} if memory is None else {"peak MB": memory / 1e6}
    return harness.Row("ResNet-50, last map", f"{size} px, 1 image", {"erfjax": timing}, "erfjax", facts)


def draw(found: Mapping[str, harness.Row], path: Path) -> Path:
    """A figure of all costs, log-log, with the slopes of theory dashed."""
    with figure(2.3 * len(found), 2.6) as drawing:
        for axes, (name, row) in zip(np.ravel(drawing.subplots(1, len(found))), found.items(), strict=True):
            values = np.array(GRID[name], float)
            seconds = np.array([timing.median for timing in row.timings.values()])
            axes.loglog(values, seconds, "o-", color="#111111", markersize=3, linewidth=1.2)
            axes.loglog(values, seconds[0] * (values / values[0]) ** row.facts["theory"], "--", color="#1f5fa8")
            axes.set_xlabel(name)
            axes.set_title(f"slope {row.facts['slope']:.2f}, theory {row.facts['theory']:.2f}", fontsize="small")
        drawing.axes[0].set_ylabel("CPU s of a warm call")
    return save(drawing, path)
