"""How a result leaves the library: as a file whose suffix says what is in it, or as an xarray dataset.

`.npz` holds all of a result and is what `load` reads; `.json` and `.csv` are for other programs; `.png`, `.pdf` and `.svg` are
its figure.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erfjax import files, summary
from erfjax.errors import LayoutError, MissingDependencyError
from erfjax.typing import JSON, Figure, Number

FIGURES = (".png", ".pdf", ".svg")


def save(
    path: str | os.PathLike[str],
    kind: str,
    *,
    whole: Callable[[], tuple[dict[str, np.ndarray], JSON]],
    content: Callable[[], JSON],
    rows: Callable[[], summary.Table],
    figure: Callable[[], Figure],
) -> Path:
    """The path of the file written: only what its suffix asks for is evaluated.

    Args:
        path: ends in .npz, .json, .csv, .png, .pdf or .svg.
        kind: the name of the class, which `load` checks.
        whole: the arrays and metadata of `.npz`.
        content: what `.json` holds.
        rows: what `.csv` holds.
        figure: what is drawn.

    Raises:
        FileFormatError: another suffix, or none.
    """

    def draw(to: Path) -> Path:
        from erfjax import plot

        return plot.save(figure(), to)

    return files.by_suffix(
        path,
        {
            ".npz": lambda to: files.save(to, kind, *whole()),
            ".json": lambda to: files.save_json(to, {"kind": kind, **content()}),
            ".csv": lambda to: files.save_text(to, rows().to_csv()),
            **dict.fromkeys(FIGURES, draw),
        },
    )


def pixels(values: dict[str, np.ndarray]) -> summary.Table:
    """One row per pixel: its indices along each axis, and every array there."""
    first = next(iter(values.values()))
    indices = np.indices(first.shape).reshape(first.ndim, -1)
    columns = [*indices.tolist(), *(array.ravel().tolist() for array in values.values())]
    return summary.Table("", (*summary.axis_names(first.ndim), *values), tuple(zip(*columns, strict=True)))


def dataset(
    variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
    shape: Sequence[int],
    attributes: JSON,
    spacing: Number | Sequence[Number],
    units: str,
) -> Any:
    """An `xarray.Dataset` with one coordinate per spatial axis: index times `spacing`, in `units`.

    Args:
        variables: by name the dimensions that come before space, and values; without space where these are all dimensions.
        shape: of space.
        attributes: what is said about the whole; None is left out, what netCDF cannot hold becomes text.
        spacing: one number, or one per spatial axis.
        units: of the coordinates.

    Raises:
        MissingDependencyError: xarray is not installed.
        LayoutError: not one spacing per axis, or one that is not positive.
    """
    xarray = xarray_or_why()
    steps = (spacing,) * len(shape) if isinstance(spacing, int | float | np.number) else tuple(spacing)
    if len(steps) != len(shape) or not all(step > 0 for step in steps):
        raise LayoutError(
            f"`spacing` must be a positive distance between pixels, or one per spatial axis ({len(shape)}), "
            f"but got {spacing!r}."
        )
    names = summary.axis_names(len(shape))
    coordinates = {
        name: (name, np.arange(n) * step, {"units": units}) for name, n, step in zip(names, shape, steps, strict=True)
    }
    data = {
        name: (lead if values.ndim == len(lead) else (*lead, *names), values)
        for name, (lead, values) in variables.items()
    }
    return xarray.Dataset(data, coordinates, {k: _attribute(v) for k, v in attributes.items() if v is not None})


def xarray_or_why() -> Any:
    """The package xarray, imported on use.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise MissingDependencyError(
            "`to_xarray` needs the package xarray, which is not installed: pip install 'erfjax[xarray]'."
        ) from error
    return xarray


def _attribute(value: Any) -> Any:
    """An attribute that netCDF can hold."""
    if isinstance(value, list | tuple) and value and all(isinstance(v, int | float) for v in value):
        return list(value)
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else str(value)
