"""How benchmarks are timed: warm, synchronised, compile time apart, medians, ratios to a baseline in the same process.

A candidate is a function without arguments. Its first call is timed apart ("first": tracing and compiling included), then all
candidates of a row are called in turn, so that a slow moment of the machine hits them all alike.
"""

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

import jax

from erfjax.summary import Table

REPEATS = 5
LONG = 20.0  # seconds: a candidate whose first call takes longer is not called again


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of the first call, and the median, least and greatest of the later ones."""

    first: float
    median: float
    least: float
    greatest: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: what was computed.
        sizes: its sizes, in words.
        timings: per candidate.
        baseline: the candidate that ratios refer to.
        facts: anything else that was measured (an error, a count), by column name.
    """

    what: str
    sizes: str
    timings: Mapping[str, Timing]
    baseline: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def ratio(self, candidate: str) -> float:
        """How many times faster than the baseline a candidate is."""
        return self.timings[self.baseline].median / self.timings[candidate].median


def seconds(candidate: Callable[[], Any]) -> float:
    """The time of one call, until its result is there."""
    begin = time.perf_counter()
    jax.block_until_ready(candidate())
    return time.perf_counter() - begin


def peak_memory(candidate: Callable[[], Any]) -> int | None:
    """The bytes by which one warm call raises the resident memory of this process at most; None where Linux does not say."""
    jax.block_until_ready(candidate())
    try:
        with open("/proc/self/clear_refs", "w") as mark:
            mark.write("5")  # the peak is what is resident now
        before = _resident("VmHWM")
        jax.block_until_ready(candidate())
        return _resident("VmHWM") - before
    except OSError:
        return None


def _resident(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name))


def compare(
    what: str,
    sizes: str,
    candidates: Mapping[str, Callable[[], Any]],
    baseline: str,
    facts: Mapping[str, Any] | None = None,
    repeats: int = REPEATS,
) -> Row:
    """A row: every candidate timed in this process, one after the other, `repeats` times."""
    first = {name: seconds(candidate) for name, candidate in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, candidate in candidates.items():
            if first[name] <= LONG:
                times[name].append(seconds(candidate))
    timings = {}
    for name in candidates:
        later = times[name] or [first[name]]
        timings[name] = Timing(first[name], statistics.median(later), min(later), max(later))
    return Row(what, sizes, timings, baseline, facts or {})


def table(title: str, rows: Iterable[Row]) -> Table:
    """One line per row and candidate: first call, median, how many times faster than the baseline, facts."""
    rows = tuple(rows)
    facts = tuple(dict.fromkeys(name for row in rows for name in row.facts))
    lines = []
    for row in rows:
        for i, (name, timing) in enumerate(row.timings.items()):
            ratio = "baseline" if name == row.baseline else f"{row.ratio(name):.3g}x"
            head = (row.what, row.sizes) if i == 0 else ("", "")
            extra = tuple(_fact(row.facts.get(fact), name, i) for fact in facts)
            lines.append((*head, name, duration(timing.first), duration(timing.median), ratio, *extra))
    columns = ("what", "sizes", "by", "first call", "median", "faster", *facts)
    return Table(title, columns, tuple(lines), (machine(),))


def _fact(value: Any, candidate: str, line: int) -> str:
    """A fact of one candidate (a mapping by candidate), or of the row as a whole, which stands in its first line."""
    if isinstance(value, Mapping):
        value = value.get(candidate)
    elif line:
        value = None
    return "" if value is None else value if isinstance(value, str) else f"{value:.3g}"


def duration(value: float) -> str:
    """A time in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale or unit == "µs":
            return f"{value / scale:.3g} {unit}"
    raise AssertionError


def machine() -> str:
    """The machine and the versions, in words."""
    import os

    device = jax.devices()[0]
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = f"{count}-core {platform.machine()} CPU" if device.platform == "cpu" else device.device_kind
    return f"{kind}, Python {platform.python_version()}, JAX {version('jax')}, NumPy {version('numpy')}"
