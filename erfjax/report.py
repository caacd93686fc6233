"""A report on a function named on the command line: its theoretical receptive field, layer by layer, with advice.

A target is `package.module:function` or `file.py:function`. The page that `save` writes is one HTML file with its
figure inside.
"""

import base64
import dataclasses
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from erfjax import files, plot, summary
from erfjax.errors import FileFormatError
from erfjax.fields import Advice, TheoreticalField
from erfjax.readings.theoretical import theoretical


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What one unit of a function sees.

    Attributes:
        target: as the user wrote it.
        field: the theoretical receptive field of the unit.
        advice: what it means for an image size.
        image: the picture to draw it on, or None.
    """

    target: str
    field: TheoreticalField
    advice: Advice
    image: np.ndarray | None = None

    def __str__(self) -> str:
        return f"{self.target}\n\n{self.field}\n\n{self.advice}"

    def _repr_html_(self) -> str:
        return self.field._repr_html_() + self.advice._repr_html_()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The path of an HTML page with the figure and every table."""
        buffer = io.BytesIO()
        self.field.plot(self.image).savefig(buffer, format="png", dpi=120)
        picture = base64.b64encode(buffer.getvalue()).decode()
        body = f'<img alt="box and mask of the field" src="data:image/png;base64,{picture}">\n{self._repr_html_()}'
        return files.save_text(path, summary.page(self.target, body))


def load_target(target: str) -> Callable[..., Any]:
    """The function that `package.module:function` or `file.py:function` names.

    Raises:
        FileFormatError: the text is no such name, or there is no such module, file or function.

    Example:
        >>> from erfjax.report import load_target
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
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            raise  # the module is there, but lacks something itself
        raise FileFormatError(
            f"There is no module {name!r}: run the command where it can be imported, or name a file."
        ) from error


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
    spec.loader.exec_module(module)
    return module


def report(
    target: str,
    shape: Sequence[int],
    *,
    layout: str = "NHWC",
    out_layout: str | None = None,
    unit: Sequence[int] | None = None,
    unknown: Literal["refuse", "everything"] = "refuse",
    image_size: Sequence[int] | None = None,
    image: str | os.PathLike[str] | None = None,
) -> Report:
    """What one unit of the function called `target` sees, for float32 inputs of `shape`.

    Args:
        target: `package.module:function` or `file.py:function`.
        shape: of the input; only the shape is used, nothing is run.
        layout: the axes of the input.
        out_layout: the axes of the output, where they cannot be told from those of the input.
        unit: spatial index of the output; None is the centre.
        unknown: "refuse" a primitive without a rule, or let it see "everything".
        image_size: the image to give advice for; None is the input.
        image: a picture to draw the field on; resized to the input by nearest pixels.

    Raises:
        FileFormatError: no such target or picture.
        LayoutError, UnitError, UnsupportedPrimitiveError: as for `erfjax.theoretical`.

    Example:
        >>> from erfjax.report import report
        >>> report("jax.numpy:sin", (1, 8, 6, 3)).field.size
        (1, 1)
    """
    f = load_target(target)
    x = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    field = theoretical(
        f, x, unit=None if unit is None else tuple(unit), layout=layout, out_layout=out_layout, unknown=unknown
    )
    if not isinstance(field, TheoreticalField):
        raise FileFormatError(f"{target} should return one array, but returns {summary.cell(type(field).__name__)}.")
    picture = None if image is None else _fitted(plot.read_image(image), field.image_shape)
    size = None if image_size is None else tuple(image_size)
    return Report(target, field, field.advice(size), picture)


def _fitted(picture: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """The picture at the resolution of the input; None if the input is no plane."""
    if len(shape) != 2:
        return None
    rows, columns = (np.arange(n) * size // n for n, size in zip(shape, picture.shape[:2], strict=True))
    return picture[np.ix_(rows, columns)]
