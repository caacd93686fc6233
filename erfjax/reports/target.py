"""A function by its name on the command line: `package.module:function` or `file.py:function`."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from erfjax.calling import explained
from erfjax.errors import FileFormatError, FunctionError


def load_target(target: str) -> Callable[..., Any]:
    """The function that `package.module:function` or `file.py:function` names; `file.py:make()` is what `make` returns.

    Raises:
        FileFormatError: the text is no such name, or there is no such module, file or function.
        FunctionError: the module raises an error when it is imported, or `make` when it is called.

    Example:
        >>> from erfjax.reports import load_target
        >>> load_target("math:sqrt")(9.0)
        3.0
    """
    module, colon, name = target.rpartition(":")
    if not colon or not module or not name:
        raise FileFormatError(f"A target is package.module:function or file.py:function, but got {target!r}.")
    found: Any = _from_file(Path(module)) if module.endswith(".py") else _from_package(module)
    for part in name.removesuffix("()").split("."):
        if not hasattr(found, part):
            raise FileFormatError(f"{module} has no {part!r}: check the name behind the colon of {target!r}.")
        found = getattr(found, part)
    if name.endswith("()"):
        with explained(f"Calling {name}"):
            found = found()
    if not callable(found):
        raise FileFormatError(
            f"{target} should be a function from an array to an array, but is a {type(found).__name__}."
        )
    return found


def output_of(f: Callable[..., Any], path: str) -> Callable[..., Any]:
    """The function to one of its outputs: keys, numbers or attributes on the way there, such as `hidden_states/2`.

    Raises:
        FunctionError: when it is called, and has no such output.

    Example:
        >>> from erfjax.reports.target import output_of
        >>> output_of(lambda x: {"logits": 3 * x, "hidden": (x, 2 * x)}, "hidden/1")(5.0)
        10.0
    """

    def one(x: Any) -> Any:
        found = f(x)
        for part in path.split("/"):
            found = _part(found, part)
        return found

    return one


def _part(outputs: Any, name: str) -> Any:
    """An entry of a dict, a row of a sequence, or an attribute."""
    if isinstance(outputs, Mapping):
        names = {str(key): value for key, value in outputs.items()}
    elif isinstance(outputs, list | tuple) and not hasattr(outputs, "_fields"):
        names = {str(i): value for i, value in enumerate(outputs)}
    elif not hasattr(outputs, "shape") and hasattr(outputs, name):
        names = {name: getattr(outputs, name)}
    else:
        names = {}
    if name not in names:
        has = (
            f"there are {', '.join(names)}"
            if names
            else f"a {type(outputs).__name__} is no dict, list or tuple of outputs"
        )
        raise FunctionError(f"The function has no output {name!r}: {has}.")
    return names[name]


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
