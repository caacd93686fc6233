"""What a report measures with: arrays of the user, crops of photographs, or Gaussian noise; and in words, which."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax import plot
from erfjax.errors import FunctionError, SampleError
from erfjax.readings.question import one_sample

ZOOM = 0.75  # the side of a random crop, in parts of the largest crop of the input's proportions


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of a report.

    Attributes:
        spec: shape and dtype of one sample.
        letters: its layout.
        rows: the samples, along N or a leading axis.
        count: how many.
        words: what they are.
        picture: the first one as (height, width, 3) from 0 to 1, or None.
        own: whether the user gave them.
    """

    spec: jax.ShapeDtypeStruct
    letters: str
    rows: np.ndarray
    count: int
    words: str
    picture: np.ndarray | None
    own: bool = False


def inputs_of(x: Any, layout: str | None, images: Sequence[Any], samples: int, seed: int) -> Inputs:
    """The inputs of a report on a function of `x`.

    Args:
        x: an array of samples, or a `jax.ShapeDtypeStruct`.
        layout: of the input; None infers it.
        images: paths or arrays of photographs; used where `x` is only a shape.
        samples: how many to make where `x` is only a shape.
        seed: of crops and noise.

    Raises:
        FunctionError: the function takes several arrays.
        SampleError: fewer than one sample.
        LayoutError: the layout does not fit.
    """
    if samples < 1:
        raise SampleError(f"`samples` must be a positive number of inputs, but got {samples}.")
    spec, found = one_sample(x, layout)
    if not isinstance(spec, jax.ShapeDtypeStruct) or len(found.letters) != 1:
        raise FunctionError(
            "A report is about a function of one array: fix the other arguments with functools.partial, or ask "
            "ej.theoretical and ej.empirical, which take several."
        )
    letters = found.letters[0] or ""
    photographs = [plot.read_image(image) if isinstance(image, str | os.PathLike) else _rgb(image) for image in images]
    draw = np.random.default_rng(seed)
    if not isinstance(x, jax.ShapeDtypeStruct):
        rows, count = _as_rows(np.asarray(x), letters)
        rows = rows.astype(spec.dtype)
        said = f"{count} input{'s' * (count > 1)} that the user gave"
        first = _crop(photographs[0], _plane(spec, letters), None) if photographs and _plane(spec, letters) else None
        return Inputs(spec, letters, rows, count, said, first if photographs else _seen(rows, letters), own=True)
    plane = _plane(spec, letters)
    if not jnp.issubdtype(spec.dtype, jnp.floating):
        rows = np.zeros(_shape(spec, letters, 1), spec.dtype)
        return Inputs(spec, letters, rows, 1, f"none: {spec.dtype} has no gradient", None)
    picture = _crop(photographs[0], plane, None) if photographs and plane else None
    if picture is not None and plane is not None and _channels(spec, letters) in (1, 3):
        crops = [
            _crop(photographs[i % len(photographs)], plane, draw if i >= len(photographs) else None)
            for i in range(samples)
        ]
        rows = np.stack([_to_layout(crop, spec, letters) for crop in crops]).astype(spec.dtype)
        rows = np.moveaxis(rows, 0, letters.index("N")) if "N" in letters else rows
        many = f"{len(photographs)} photograph{'s' * (len(photographs) > 1)}"
        said = (
            f"{samples} crops of {many}, values from 0 to 1 (put a normalisation that the model expects into the function). "
            f"Error bars are about other crops of the same {'picture' if len(photographs) == 1 else 'pictures'}, not about other "
            "pictures"
        )
        return Inputs(spec, letters, rows, samples, said, picture)
    rows = draw.standard_normal(_shape(spec, letters, samples)).astype(spec.dtype)
    said = f"{samples} inputs of Gaussian noise (mean 0, variance 1)"
    if picture is not None:
        said += "; the photograph is drawn, but not measured with: the input has neither one nor three channels"
    return Inputs(spec, letters, rows, samples, said, picture)


def _shape(spec: jax.ShapeDtypeStruct, letters: str, count: int) -> tuple[int, ...]:
    """The shape of so many samples."""
    if "N" not in letters:
        return (count, *spec.shape)
    return tuple(count if letter == "N" else n for letter, n in zip(letters, spec.shape, strict=True))


def _as_rows(x: np.ndarray, letters: str) -> tuple[np.ndarray, int]:
    """The array with an axis of samples, and how many there are."""
    if "N" in letters:
        rows = x if x.ndim == len(letters) else np.expand_dims(x, letters.index("N"))
        return rows, rows.shape[letters.index("N")]
    rows = x if x.ndim > len(letters) else x[None]
    return rows, len(rows)


def _channels(spec: jax.ShapeDtypeStruct, letters: str) -> int:
    return spec.shape[letters.index("C")] if "C" in letters else 1


def _plane(spec: jax.ShapeDtypeStruct, letters: str) -> tuple[int, int] | None:
    """Height and width of the input; None if it is no plane."""
    if {"H", "W"} - set(letters) or "D" in letters:
        return None
    return spec.shape[letters.index("H")], spec.shape[letters.index("W")]


def _rgb(image: Any) -> np.ndarray:
    """An array as red, green and blue from 0 to 1."""
    pixels = np.asarray(image)
    scaled = pixels / np.float32(255) if pixels.dtype.kind == "u" else pixels
    values = scaled.astype(np.float32)
    values = values[..., None] if values.ndim == 2 else values
    return np.repeat(values[..., :1], 3, axis=2) if values.shape[2] < 3 else values[..., :3]


def _crop(photograph: np.ndarray, plane: Any, draw: np.random.Generator | None) -> np.ndarray:
    """The largest crop of the input's proportions from the middle, or a smaller one at random, at the input's size."""
    height, width = plane
    scale = min(photograph.shape[0] / height, photograph.shape[1] / width) * (1.0 if draw is None else ZOOM)
    size = tuple(max(int(scale * n), 1) for n in plane)
    free = [n - m for n, m in zip(photograph.shape[:2], size, strict=True)]
    top, left = (n // 2 if draw is None else int(draw.integers(n + 1)) for n in free)
    part = photograph[top : top + size[0], left : left + size[1]]
    small = np.asarray(jax.image.resize(jnp.asarray(part), (height, width, 3), "linear"))
    return np.clip(small, 0, 1)


def _to_layout(crop: np.ndarray, spec: jax.ShapeDtypeStruct, letters: str) -> np.ndarray:
    """A crop (height, width, 3) as one sample without its batch axis."""
    own = letters.replace("N", "")
    if "C" not in letters:
        return crop.mean(-1) if own == "HW" else crop.mean(-1).T
    values = crop if _channels(spec, letters) == 3 else crop.mean(-1, keepdims=True)
    return np.transpose(values, ["HWC".index(letter) for letter in own])


def _seen(rows: np.ndarray, letters: str) -> np.ndarray | None:
    """The first of the user's inputs as a picture, where it is one."""
    own = letters.replace("N", "")
    if set(own) not in ({"H", "W"}, {"H", "W", "C"}) or rows.dtype.kind not in "uif":
        return None
    first = rows.take(0, axis=letters.index("N") if "N" in letters else 0)
    if "C" not in own:
        return _rgb(first if own == "HW" else first.T)
    plane = np.transpose(first, [own.index(letter) for letter in "HWC"])
    return _rgb(plane.astype(np.float32)) if plane.shape[2] in (1, 3) else None
