"""The loop of a measurement: read, compute, add, until there are enough samples.

While the device computes one batch the next is read. Whatever ends the loop (the last sample, the target, Ctrl-C), the
state that it returns is valid.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from erfjax.errors import SampleError, UnitError
from erfjax.measurement import reduction
from erfjax.measurement.accumulate import Accumulator
from erfjax.measurement.checkpoint import State
from erfjax.measurement.engine import Engine, out_of_memory
from erfjax.measurement.inputs import Rows, Source
from erfjax.measurement.jacobian import LOST_FAULT, OUTPUT_FAULT
from erfjax.measurement.waiting import told
from erfjax.uncertainty import regression
from erfjax.uncertainty.records import COLUMNS

SAVE_EVERY = 5.0  # seconds between two checkpoints at least
SAVE_SHARE = 0.05  # of the time at most goes into checkpoints


def is_checked(count: int) -> bool:
    """Whether the target is looked at after so many samples: every 32nd at first, every eighth part of them later.

    It depends on nothing but the count, so that where a run stops does not depend on its batches.
    """
    return count % max(32, 1 << max(0, count.bit_length() - 4)) == 0


def so_far(accumulator: Accumulator, controls: int = 0) -> str:
    """The relative standard error of the maps' total, in words for a progress bar; nothing from fewer than two groups of samples.

    Args:
        accumulator: of the maps, and of so many controls behind as many of them.
        controls: see there.

    Example:
        >>> import numpy as np
        >>> from erfjax.measurement.accumulate import Accumulator
        >>> from erfjax.measurement.run import so_far
        >>> so_far(Accumulator.empty((1, 2)).add(np.array([[1.0, 2.0]])).add(np.array([[2.0, 2.0]])))
        'total ± 14.3%'
    """
    found = accumulator.rows.stacked()[:, :, COLUMNS.index("total")]
    if controls and len(found):
        pairs = [(found[:, i], found[:, controls + i]) for i in range(controls)]
        found = np.stack([regression.rest(y, d, regression.fit(y, d).slopes[:-1]) for y, d in pairs], 1)
    totals = found.mean(1)
    if len(totals) < 2 or not totals.mean():
        return ""
    return f"total ± {totals.std(ddof=1) / len(totals) ** 0.5 / abs(totals.mean()):.1%}"


@dataclasses.dataclass(frozen=True)
class Batch:
    """Consecutive samples: index of the first, rows, the source's digest behind them, what the device promised."""

    first: int
    rows: Rows
    digest: int
    results: Any


@dataclasses.dataclass
class Run:
    """One measurement: where it computes, what it reads, when it ends.

    Attributes:
        engine: computes batches.
        source: gives rows.
        key: the random key of the run.
        degree: of the statistic, see `reduction.order`.
        samples: how many are wanted, or None.
        reached: says whether the samples so far are enough.
        skip: whether a sample that is not finite is left out; otherwise it ends the run with an error.
        save: keeps a state for later, or None.
        progress: whether to show a bar; None shows one on a terminal.
        state: how far the run has come; valid at any moment.
        precision: what the bar says of the samples so far.
    """

    engine: Engine
    source: Source
    key: Any
    degree: int
    samples: int | None
    reached: Callable[[Accumulator], bool]
    skip: bool
    save: Callable[[State], None] | None
    progress: bool | None
    state: State
    precision: Callable[[Accumulator], str] = so_far

    def finish(self) -> State:
        """The state at the end of the run, or where Ctrl-C ended it, if anything was measured by then."""
        kept, saved, cost = self.state, time.monotonic(), 0.0  # `kept` stands between two batches, as checkpoints must
        hidden = None if self.progress is None else not self.progress
        words = {"desc": "compiling", "unit": "sample"}
        with tqdm(total=self.samples, initial=kept.position, disable=hidden, delay=1.0, **words) as bar:
            try:
                for batch in self._batches():
                    self._add(batch)
                    kept = self.state
                    if not bar.disable:
                        bar.set_description("measuring", refresh=False)
                        bar.set_postfix_str(self.precision(kept.accumulator), refresh=False)
                    bar.update(kept.position - bar.n)
                    if kept.done:
                        break
                    if self.save and time.monotonic() - saved > max(SAVE_EVERY, cost / SAVE_SHARE):
                        begin = time.monotonic()
                        self.save(kept)
                        saved = time.monotonic()
                        cost = saved - begin
            except BaseException as error:
                if self.save and kept.position:
                    self.save(kept)
                if not isinstance(error, KeyboardInterrupt) or not self.state.accumulator.count:
                    raise
                wanted = "" if self.samples is None else f" of {self.samples}"
                self._change(notes=(*self.state.notes, f"interrupted after {self.state.position}{wanted} samples"))
                return self.state
        ended: tuple[str, ...] = ()
        if self.samples is not None and not self.state.done and self.state.position < self.samples:
            ended = (f"the inputs ended after {self.state.position} of {self.samples} samples",)
        self._change(done=True, notes=(*self.state.notes, *ended))
        if self.save:
            self.save(self.state)
        return self.state

    def _batches(self) -> Iterator[Batch]:
        """Batches in order; each is handed out once the next is under way."""
        position, pending = self.state.position, None
        while True:
            size = self.state.batch_size
            rows = self.source.read(size if self.samples is None else min(size, self.samples - position))
            batch = (
                None if rows is None else Batch(position, rows, self.source.digest, self._submit(position, rows, size))
            )
            if pending is not None:
                yield pending
            if batch is None:
                return
            position, pending = position + len(batch.rows), batch

    def _submit(self, first: int, rows: Rows, size: int) -> Any:
        """The promise of the batch's results, or None if there is no memory for it now."""
        try:
            with told("the measurement", self.progress):
                return self.engine.submit(self.key, first, rows, size)
        except (RuntimeError, MemoryError) as error:
            if not self._can_halve(error):
                raise
            return None

    def _add(self, batch: Batch) -> None:
        """Adds a batch to the state, sample by sample, until the target is reached."""
        for index, maps, exponents, fault in self._samples(batch):
            if fault and not self.skip:
                if fault == LOST_FAULT:
                    raise UnitError(
                        "The gradient of some units reaches beyond what they see along each axis by itself: what they see along "
                        "one axis depends on their place along another. Give `empirical` a list of units."
                    )
                what = "output of f" if fault == OUTPUT_FAULT else "gradient"
                raise SampleError(
                    f"Sample {index}: the {what} is not finite. Look at that input and the weights, or leave such "
                    'samples out with nonfinite="skip".'
                )
            if fault:
                self._change(position=index + 1, skipped=(*self.state.skipped, index))
                continue
            accumulator = self.state.accumulator.add(reduction.restore(maps, exponents, self.degree))
            self._change(position=index + 1, accumulator=accumulator)
            if is_checked(accumulator.count) and self.reached(accumulator):
                self._change(done=True)
                return
        self._change(digest=batch.digest)

    def _samples(self, batch: Batch) -> Iterator[tuple[int, np.ndarray, np.ndarray, int]]:
        """Index, maps, exponents and fault of each sample; a batch that memory does not hold is computed in halves."""
        size = self.state.batch_size
        if batch.results is None and len(batch.rows) > size:
            for start in range(0, len(batch.rows), size):
                rows = batch.rows[start : start + size]
                yield from self._samples(Batch(batch.first + start, rows, batch.digest, None))
            return
        try:
            promised = batch.results or self.engine.submit(self.key, batch.first, batch.rows, size)
            maps, exponents, faults = (np.asarray(result) for result in promised)
        except (RuntimeError, MemoryError) as error:
            if not self._can_halve(error) or size <= self.engine.devices:
                raise
            maps = None
        if maps is None:
            size = -(-size // 2 // self.engine.devices) * self.engine.devices
            self._change(batch_size=size, notes=(*self.state.notes, f"out of memory: continued with batches of {size}"))
            yield from self._samples(dataclasses.replace(batch, results=None))
            return
        for row in range(len(batch.rows)):
            yield batch.first + row, maps[row], exponents[row], int(faults[row])

    def _can_halve(self, error: Exception) -> bool:
        """Whether a smaller batch may help; of several processes one must not go its own way."""
        return out_of_memory(error) and jax.process_count() == 1

    def _change(self, **changes: Any) -> None:
        self.state = dataclasses.replace(self.state, **changes)
