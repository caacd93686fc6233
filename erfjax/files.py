"""How results lie on disk: `.npz` without pickles plus JSON metadata, written to a temporary name and renamed.

A file holds named arrays and one string, "metadata", a JSON object with the kind of the result and the format's number.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from erfjax.errors import FileFormatError
from erfjax.typing import JSON

FORMAT = 1  # raised when the meaning of a saved file changes


def _plain(value: Any) -> Any:
    """What JSON can hold of a NumPy number, an array or anything else: its value, its list, its text."""
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


@contextlib.contextmanager
def damaged(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever goes wrong while a file is read into a `FileFormatError`; a missing file stays missing."""
    try:
        yield
    except (FileNotFoundError, FileFormatError):
        raise
    except Exception as error:  # a damaged zip or JSON raises almost anything
        raise FileFormatError(
            f"{os.fspath(path)!r} should be a file that erfjax saved (.npz with metadata), but reading it failed with "
            f"{type(error).__name__}: {error}. It is damaged or something else: save it again."
        ) from error


def save(path: str | os.PathLike[str], kind: str, arrays: dict[str, np.ndarray], metadata: JSON) -> Path:
    """The path of a file that holds `arrays` and `metadata`; what stood there is replaced in one step or not at all."""
    text = json.dumps({"kind": kind, "format": FORMAT, **metadata}, default=_plain)
    contents: dict[str, Any] = {"metadata": np.array(text), **arrays}
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **contents)
        file.flush()
        os.fsync(file.fileno())
    return Path(path)


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` in one step, or vanishes after an error.

    Folders on the way that are missing are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def by_suffix(path: str | os.PathLike[str], writers: Mapping[str, Callable[[Path], Path]]) -> Path:
    """The path that the writer for its suffix wrote.

    Raises:
        FileFormatError: there is no writer for that suffix.

    Example:
        >>> from erfjax.files import by_suffix
        >>> by_suffix("a.txt", {".npz": lambda path: path, ".csv": lambda path: path})
        Traceback (most recent call last):
        erfjax.errors.FileFormatError: A path to save to must end in .npz, .csv, but got 'a.txt': the suffix says ...
    """
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise FileFormatError(
            f"A path to save to must end in {', '.join(writers)}, but got {os.fspath(path)!r}: the suffix says what is written."
        )
    return writers[suffix](Path(path))


def save_text(path: str | os.PathLike[str], text: str) -> Path:
    """The path of a text file; whatever stood there is replaced in one step or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def save_json(path: str | os.PathLike[str], content: JSON) -> Path:
    """The path of a JSON file that every reader takes: NumPy's numbers and arrays become JSON's, "inf" and "nan" are texts."""
    return save_text(path, json.dumps(_strict(content), indent=1, allow_nan=False) + "\n")


def save_folder(
    folder: str | os.PathLike[str], name: str, kind: str, arrays: dict[str, np.ndarray], content: JSON, text: str
) -> Path:
    """The folder that holds a result under a name: arrays and content (.npz), content (.json), what it prints (.txt)."""
    place = Path(folder)
    save(place / f"{name}.npz", kind, arrays, content)
    save_text(place / f"{name}.txt", f"{text}\n")
    save_json(place / f"{name}.json", content)
    return place


class Begun:
    """Which parts of a long run are done, kept in a file while it runs, so that an interrupted run goes on.

    Args:
        path: of the file; None keeps nothing. What it says is of use to the same version of erfjax alone.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.done = path, list[str]()
        if path is not None and path.exists():
            with damaged(path):
                kept = json.loads(path.read_text())
                self.done = [str(name) for name in kept["done"]] if kept["version"] == _version() else []

    def add(self, name: str) -> None:
        """Notes that one more part is done."""
        self.done.append(name)
        if self.path is not None:
            save_json(self.path, {"version": _version(), "done": self.done})

    def finish(self) -> None:
        """Removes the file: the run has come to its end."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _version() -> str:
    from erfjax import __version__  # known once all of the package is imported

    return __version__


def _strict(value: Any) -> Any:
    """The same in JSON's own types, numbers that are none as text."""
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return value if value is None or isinstance(value, str | int | float) else _strict(_plain(value))


def load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], JSON]:
    """The arrays and the metadata of a file that `save` wrote.

    Raises:
        FileFormatError: not such a file, damaged, of another kind, or of a newer format.
    """
    with damaged(path), open(path, "rb") as opened:
        with np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        metadata = json.loads(str(arrays.pop("metadata")))
        found = metadata.pop("kind"), metadata.pop("format")
        if found[0] != kind:
            raise FileFormatError(
                f"{os.fspath(path)!r} should hold a {kind}, but holds a {found[0]}: load it with {found[0]}.load."
            )
        if found[1] > FORMAT:
            raise FileFormatError(
                f"{os.fspath(path)!r} has format {found[1]}, but this erfjax reads up to {FORMAT}: install a newer erfjax."
            )
    return arrays, metadata
