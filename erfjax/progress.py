"""How far a long call has come: a bar on a terminal, or lines for a log."""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from tqdm import tqdm

from erfjax.typing import Progress

EVERY = 10.0  # seconds between two lines


def bar(
    jobs: Iterable[Any] | None = None, progress: Progress = None, *, unit: str = "net", total: int | None = None
) -> Any:
    """The jobs, each counted when it is done, with `set_postfix_str` and `update` as tqdm has them.

    Args:
        jobs: what is gone through; None where `update` counts.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.
        unit: what a job is called.
        total: how many there are; None for the length of `jobs`.

    Returns:
        A tqdm bar, or `Lines`.

    Example:
        >>> from erfjax.progress import bar
        >>> for job in bar(["a", "b"], print):
        ...     pass
        1 of 2 nets
        2 of 2 nets
    """
    if not callable(progress):
        return tqdm(jobs, total=total, unit=unit, disable=None if progress is None else not progress)
    total = len(jobs) if total is None and isinstance(jobs, Sized) else total
    return Lines(() if jobs is None else jobs, progress, unit, total)


class Lines:
    """Says in lines how far a call has come: at the start, at the end, and every ten seconds or so between them."""

    def __init__(self, jobs: Iterable[Any], say: Callable[[str], None], unit: str, total: int | None) -> None:
        self.jobs, self.say, self.unit, self.total = jobs, say, unit, total
        self.done, self.what, self.told = 0, "", -EVERY
        self.start = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        for job in self.jobs:
            yield job
            self.update()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def set_postfix_str(self, text: str) -> None:
        """What is being done."""
        self.what = text
        self._tell()

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        if self.done == self.total:
            self.what, self.told = "", -EVERY
        self._tell()

    def _tell(self) -> None:
        elapsed = time.monotonic() - self.start
        if elapsed - self.told >= EVERY:
            self.told = elapsed
            of = "" if self.total is None else f" of {self.total}"
            self.say(": ".join(filter(None, (f"{self.done}{of} {self.unit}s", self.what))))
