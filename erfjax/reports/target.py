"""A function by its name on the command line: `package.module:function` or `file.py:function`."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from erfjax.calling import explained
from erfjax.errors import FileFormatError, FunctionError


def load_target(target: str) -> Callable[..., Any]:
    """The function that `package.module:function` or `file.py:function` names.

    Raises:
        FileFormatError: the text is no such name, or there is no such module, file or function.
        FunctionError: the module raises an error when it is imported.

    Example:
        >>> from erfjax.reports import load_target
        >>> load_target("math:sqrt")(9.0)
        3.0
    """
    module, colon, name = target.rpartition(":")
    if not colon or not module or not name:
        raise FileFormatError(f"A target is package.module:function or file.py:function, but got {target!r}.")
    found: Any = _from_file(Path(module)) if module.endswith(".py") else _from_package(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise FileFormatError(f"{module} has no {part!r}: check the name behind the colon of {target!r}.")
        found = getattr(found, part)
    if not callable(found):
        raise FileFormatError(
            f"{target} should be a function from an array to an array, but is a {type(found).__name__}."
        )
    return found


def _from_package(name: str) -> Any:
    """The module of that name, looked for in the working directory as well."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        with explained(f"Importing {name}"):
            return importlib.import_module(name)
    except FunctionError as error:
        lacking = error.__cause__
        if not isinstance(lacking, ModuleNotFoundError) or (lacking.name and not name.startswith(lacking.name)):
            raise  # the module is there, but fails itself
        raise FileFormatError(
            f"There is no module {name!r}: run the command where it can be imported, or name a file."
        ) from lacking


def _from_file(path: Path) -> Any:
    """The module in a file, whose neighbours it may import."""
    if not path.is_file():
        raise FileFormatError(f"There is no file {os.fspath(path)!r}: check the path before the colon.")
    folder = os.fspath(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileFormatError(f"{os.fspath(path)!r} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    with explained(f"Importing {os.fspath(path)}"):
        spec.loader.exec_module(module)
    return module
