"""Who waits for a compiler is told so."""

import contextlib
import sys
import threading
from collections.abc import Iterator

from erfjax.typing import Number

PATIENCE = 3.0  # seconds without a word


@contextlib.contextmanager
def told(what: str, shown: bool | None = None, after: Number = PATIENCE) -> Iterator[None]:
    """Writes to standard error that something compiles, if it takes longer than so many seconds.

    Args:
        what: what compiles.
        shown: whether to write; None writes to a terminal or a notebook.
        after: seconds.

    Example:
        >>> from erfjax.measurement.waiting import told
        >>> with told("a sum"):
        ...     1 + 1
        2
    """
    if shown is None:
        shown = sys.stderr.isatty() or "ipykernel" in sys.modules
    line = f"erfjax: compiling {what} ... (once for each shape; with JAX_COMPILATION_CACHE_DIR set, once for all processes)"
    timer = threading.Timer(float(after), print, (line,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    if shown:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
