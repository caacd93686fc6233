"""Calls of code that is not ours: what a user's function raises becomes one error with the user's own line and what to do."""

import contextlib
import functools
import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from erfjax.errors import ErfjaxError, FunctionError

MISSING = re.compile(r"missing \d+ required .*argument")
STATE = (
    "The model changes its own state while it is traced (batch statistics or dropout counts in training mode): call model.eval() "
    "first, or wrap it as a function that returns its output alone."
)
BRANCH = (
    "Python cannot branch on, or index by, values of the input, which are not known while JAX traces: use jnp.where, lax.cond "
    "or lax.dynamic_slice; what is no data (a flag, a number of steps) must be bound before, lambda x: f(x, train=False)."
)
REMEDIES = (  # by a name in the class of the error, or a pattern in its words; the first that fits
    ("TraceContextError", STATE),
    (
        "TracerArrayConversionError",
        "It hands its input to NumPy, which JAX can neither trace nor differentiate: use jax.numpy.",
    ),
    ("ConcretizationTypeError", BRANCH),
    ("NonConcreteBooleanIndexError", BRANCH),
    (
        "InvalidRngError",
        "Dropout and noise need random keys: call the model as in use (deterministic=True, train=False).",
    ),
    (re.compile("same dtypes"), "Convert the input to the dtype of the weights, x.astype(jnp.float32)."),
    (MISSING, "Bind the other arguments: lambda x: f(x, ...)."),
    (re.compile("is not a valid JAX type"), "It must return an array, or a tree of arrays: select one."),
    (
        re.compile("Unhandled function call|Unhandled method"),
        "torch2jax does not know this function of PyTorch: name one of JAX for it, torch2jax.auto_implements(torch.f, jax_f), or "
        "write the line with a function that it knows.",
    ),
    (
        re.compile("Tracer|ShapedArray"),
        "It was called on a JAX array: a model of another framework must become a JAX function first (PyTorch: by torch2jax).",
    ),
    ("NotImplementedError", "Write this line with functions that are implemented, in jax.numpy for example."),
)
OTHERWISE = "If it expects another input, give that shape, and the layout that says what its axes are."


@contextlib.contextmanager
def explained(what: str, on: Any = None, how: str = "") -> Iterator[None]:
    """Errors of a user's code as one `FunctionError`, with the error itself as its cause. What erfjax raises passes.

    Args:
        what: what was called, such as "The function".
        on: what it was called on: a tree of arrays, or of their shapes and dtypes.
        how: what else is to be known of the call.

    Raises:
        FunctionError: the code raised an error.

    Example:
        >>> import jax
        >>> from erfjax.calling import explained
        >>> with explained("The function", jax.ShapeDtypeStruct((1, 9), "float32")):
        ...     {}["depth"]
        Traceback (most recent call last):
        erfjax.errors.FunctionError: The function raised KeyError: 'depth'
          at <...>:2: {}["depth"]
          erfjax called it on float32[1, 9].
          If it expects another input, give that shape, and the layout that says what its axes are.
    """
    try:
        yield
    except ErfjaxError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(on) if hasattr(leaf, "shape"))
        called = f"erfjax called it on {shapes}{how}." if shapes else ""
        advice = remedy(error) or (OTHERWISE if shapes else "")
        said = [f"{what} raised {raised(error)}", place(error), called, advice]
        raise FunctionError("\n  ".join(filter(None, said))) from error


def no_array(x: Any, several: bool = True) -> str:
    """What was expected where `x` came, and what makes an array of a file, a shape or a picture.

    Args:
        x: what came.
        several: whether a tree of arrays would have done.

    Example:
        >>> from erfjax.calling import no_array
        >>> print(no_array((64, 64), several=False))
        Expected an array or a jax.ShapeDtypeStruct, but got (64, 64): a shape alone serves `theoretical`, as
        jax.ShapeDtypeStruct((64, 64), "float32").
    """
    remedy = "."
    if isinstance(x, str | os.PathLike):
        remedy = ": read an image file with ej.plot.read_image(path)."
    elif isinstance(x, tuple | list) and x and all(isinstance(n, int) for n in x):
        remedy = f': a shape alone serves `theoretical`, as jax.ShapeDtypeStruct({tuple(x)}, "float32").'
    elif hasattr(x, "__array_interface__") or hasattr(x, "__array__"):
        remedy = ": np.asarray(x, np.float32) makes an array of it."
    expected = (
        "an array, a jax.ShapeDtypeStruct, or a tuple or dict of arrays"
        if several
        else "an array or a jax.ShapeDtypeStruct"
    )
    return f"Expected {expected}, but got {briefly(x)}{remedy}"


def briefly(x: Any) -> str:
    """What was given, in a few words: arrays by dtype and shape, without their numbers.

    Example:
        >>> import numpy as np
        >>> from erfjax.calling import briefly
        >>> briefly({"w": np.ones((3, 2))}), briefly("photo.png")
        ('a dict of float64[3, 2]', "'photo.png'")
    """
    leaves = [
        f"{leaf.dtype}{list(leaf.shape)}"
        for leaf in jax.tree.leaves(x)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    ]
    if not leaves:
        return f"{x!r:.80}"
    return leaves[0] if hasattr(x, "shape") else f"a {type(x).__name__} of {', '.join(leaves):.80}"


def raised(error: BaseException) -> str:
    """The class of an error and its message, without what JAX adds for a reader of its own documentation."""
    first, *rest = [part for part in str(error).strip().split("\n\n") if part.strip()] or [""]
    lines = [line.strip() for line in first.splitlines()]
    if isinstance(error, jax.errors.JAXTypeError):
        lines = lines[:1]
    if first.rstrip().endswith(":") and rest:
        lines += [line.strip() for line in rest[0].splitlines()]
    return f"{type(error).__name__}: {' '.join(lines)}".removesuffix(": ")


def place(error: BaseException) -> str:
    """`at file:line, in function: the line`, the innermost line of the user's own code; "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"at {_short(error.filename)}:{error.lineno}: {(error.text or '').strip()}"
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [frame for frame in frames if not frame.filename.startswith(_machinery())]
    foreign = [frame for frame in foreign if linecache.getline(frame.filename, frame.lineno or 0)]
    own = [frame for frame in foreign if not frame.filename.startswith(_installed())]
    if not foreign:
        return ""
    frame = (own or foreign)[-1]
    where = "" if frame.name == "<module>" else f", in {frame.name}"
    return f"at {_short(frame.filename)}:{frame.lineno}{where}: {frame.line}"


def remedy(error: BaseException) -> str:
    """What to do about it, where that is known; else ""."""
    names = {kind.__name__ for kind in type(error).__mro__}
    for sign, said in REMEDIES:
        if sign in names if isinstance(sign, str) else sign.search(str(error)):
            return said
    return ""


def _short(filename: str) -> str:
    """The path as seen from the working directory, if it is below it."""
    inside = os.path.relpath(filename) if Path(filename).is_absolute() else filename
    return filename if inside.startswith("..") else inside


@functools.cache
def _machinery() -> tuple[str, ...]:
    """Folders of what stands between the user and the error: erfjax, JAX, the standard library."""
    standard = sysconfig.get_paths()["stdlib"]
    packages = (str(Path(__file__).parent), str(Path(jax.__file__).parent))
    own = [os.path.join(folder, "") for folder in packages]
    parts = [os.path.join(standard, name) for name in ("contextlib.py", "functools.py", "importlib", "runpy.py")]
    return (*own, *parts, "<frozen")


@functools.cache
def _installed() -> tuple[str, ...]:
    """Folders of what is installed, which is not the user's own."""
    paths = sysconfig.get_paths()
    return tuple(os.path.join(paths[name], "") for name in ("stdlib", "purelib", "platlib"))
