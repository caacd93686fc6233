"""Inputs of the studies: crops of a photograph, and labelled images from files that the user has.

Photographs are float32 with channels last; `standardised` is what training pipelines do to them: mean 0 and variance 1, so that a
ReLU has something to cut. Labelled images stay uint8, as they lie on disk. Nothing is downloaded and nothing is unpickled: every
size is checked against what the format says.
"""

import dataclasses
import gzip
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy
from jaxtyping import Float, Integer, UInt8

from erfjax import plot
from erfjax.errors import FileFormatError, MissingDependencyError


def photograph(path: str | os.PathLike[str] | None = None) -> Float[np.ndarray, "height width 3"]:
    """A photograph in red, green and blue from 0 to 1; without a path, the one that matplotlib ships.

    Raises:
        FileFormatError: the file cannot be read as an image.

    Example:
        >>> from erfjax.studies import datasets
        >>> datasets.photograph().shape
        (600, 512, 3)
    """
    try:
        return plot.read_image(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise FileFormatError(
            f"{Path(os.fspath(path or '')).name!r} should be an image (PNG, JPEG ...), but reading it failed: {error}."
        ) from error


def standardised(image: Float[np.ndarray, "height width channels"]) -> Float[np.ndarray, "height width channels"]:
    """The image with mean 0 and variance 1 over all pixels and channels.

    Example:
        >>> import numpy as np
        >>> from erfjax.studies import datasets
        >>> image = datasets.standardised(datasets.photograph())
        >>> abs(float(image.mean())) < 1e-3, round(float(image.std()), 3)
        (True, 1.0)
    """
    deviation = image.std(dtype=np.float64) or 1.0
    return ((image - image.mean(dtype=np.float64)) / deviation).astype(np.float32)


def crops(image: Float[np.ndarray, "height width channels"], size: int) -> Callable[[Any], Any]:
    """A function key -> crop of shape (1, size, size, channels): a square at a uniformly random place, mirrored or not.

    Mirroring makes up for what is always on one side of a photograph.

    Raises:
        FileFormatError: the image is smaller than the crop.

    Example:
        >>> import jax
        >>> from erfjax.studies import datasets
        >>> draw = datasets.crops(datasets.photograph(), 31)
        >>> draw(jax.random.key(0)).shape
        (1, 31, 31, 3)
    """
    height, width, channels = image.shape
    if min(height, width) < size:
        raise FileFormatError(
            f"Crops of {size} x {size} pixels need an image at least that large, but this one has {height} x {width}: "
            "choose a larger image or smaller depths."
        )

    def draw(key: Any) -> Any:
        row, column, upside, aside = jax.random.split(key, 4)
        corner = (
            jax.random.randint(row, (), 0, height - size + 1),
            jax.random.randint(column, (), 0, width - size + 1),
            0,
        )
        crop = jax.lax.dynamic_slice(jax.numpy.asarray(image), corner, (size, size, channels))
        for flip, axis in ((upside, 0), (aside, 1)):
            crop = jax.numpy.where(jax.random.bernoulli(flip), jax.numpy.flip(crop, axis), crop)
        return crop[None]

    return draw


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Images with labels: one per image, or one per pixel.

    Attributes:
        images: uint8 (N, height, width, channels).
        labels: integers (N,) or (N, height, width).
    """

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Integer[np.ndarray, "n ..."]

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What a network is to learn.

    Attributes:
        name: of the data.
        train, test: the examples.
        classes: how many labels there are.
        ignored: a label that counts neither in the loss nor in the accuracy, or None.
        mirrored: whether a mirror image is as good as the image.
    """

    name: str
    train: Examples
    test: Examples
    classes: int
    ignored: int | None = None
    mirrored: bool = True

    @property
    def dense(self) -> bool:
        """Whether every pixel has a label."""
        return self.train.labels.ndim == 3


VOID = 11  # CamVid's label of pixels that belong to no class


def task(name: str, folder: str | os.PathLike[str] | None = None) -> Task:
    """The training and test examples called "digits" (nothing to download), "mnist", "cifar10" or "camvid" (in `folder`).

    Digits are enlarged twice; MNIST is read from the four idx files of its official names, compressed or not.

    Args:
        name: of the task.
        folder: where its files lie.

    Raises:
        FileNotFoundError, FileFormatError: the folder does not hold the data, or they are damaged.
        FileFormatError: there is no such task, or no folder was given.

    Example:
        >>> from erfjax.studies import datasets
        >>> found = datasets.task("digits")
        >>> found.train.images.shape, len(found.test), found.classes
        ((1300, 16, 16, 1), 497, 10)
    """
    if name == "digits":
        all_, order = digits(), np.random.default_rng(0).permutation(1797)
        large = np.clip(np.rint(scipy.ndimage.zoom(all_.images.astype(float), (1, 2, 2, 1), order=1)), 0, 255).astype(
            np.uint8
        )
        train, test = (Examples(large[part], all_.labels[part]) for part in (order[:1300], order[1300:]))
        return Task(name, train, test, classes=10, mirrored=False)
    if name not in ("mnist", "cifar10", "camvid"):
        raise FileFormatError(f'There is no task {name!r}: choose "digits", "mnist", "cifar10" or "camvid".')
    if folder is None:
        raise FileFormatError(f"The files of {name} are not part of erfjax: say in which folder they lie.")
    if name == "cifar10":
        return Task(name, *cifar10(folder), classes=10)
    if name == "mnist":
        return Task(name, _mnist(Path(folder), "train"), _mnist(Path(folder), "t10k"), classes=10, mirrored=False)
    return Task(name, segmentation(folder), segmentation(folder, "test"), classes=VOID, ignored=VOID)


def _mnist(folder: Path, part: str) -> Examples:
    """One part of MNIST, or of a data set that comes in files of the same names."""
    found = []
    for content in ("images-idx3", "labels-idx1"):
        paths = sorted(folder.glob(f"{part}-{content}-ubyte*"))
        if not paths:
            raise FileNotFoundError(f"{os.fspath(folder)!r} holds no {part}-{content}-ubyte or .gz of it.")
        found.append(idx(paths[0]))
    images, labels = found
    if images.ndim != 3 or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise FileFormatError(
            f"{part}: expected N images of bytes and N labels, got {images.dtype}{list(images.shape)} and {list(labels.shape)}."
        )
    return Examples(images[..., None], labels.astype(np.int64))


CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then red, green and blue planes


def cifar10(folder: str | os.PathLike[str]) -> tuple[Examples, Examples]:
    """Training and test examples from the official binary files data_batch_*.bin and test_batch.bin, however long each is.

    Args:
        folder: that holds these files.

    Raises:
        FileNotFoundError: one of them is missing.
        FileFormatError: a file is not a whole number of records of 3073 bytes, or a label is above 9.
    """
    training = sorted(Path(folder).glob("data_batch_*.bin"))
    if not training:
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} holds no data_batch_*.bin: give the folder of the binary version of CIFAR-10."
        )
    parts = [_cifar_file(path) for path in training]
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return Examples(images, labels), _cifar_file(Path(folder) / "test_batch.bin")


def _cifar_file(path: Path) -> Examples:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if not content.size or content.size % CIFAR_RECORD:
        raise FileFormatError(
            f"{path.name} should be records of {CIFAR_RECORD} bytes, but has {content.size}: it is cut off or no CIFAR-10 file."
        )
    records = content.reshape(-1, CIFAR_RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise FileFormatError(
            f"{path.name} should have labels 0 to 9, but has {labels.max()}: CIFAR-100 has another format."
        )
    return Examples(np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels)


IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an idx file, as MNIST and its relatives come, compressed with gzip or not.

    Args:
        path: of the file.

    Raises:
        FileFormatError: the header is none, or the content is longer or shorter than it says.
    """
    name, content = Path(path).name, Path(path).read_bytes()
    try:
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError) as error:
        raise FileFormatError(f"{name} is a damaged gzip file: {error}.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES or len(content) < 4 + 4 * content[3]:
        raise FileFormatError(
            f"{name} should begin as idx files do (two zeros, a type, the number of axes), but begins {content[:4].hex(' ')}."
        )
    kind, axes = np.dtype(IDX_TYPES[content[2]]), content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", axes, 4))
    start = 4 + 4 * axes
    if len(content) - start != math.prod(shape) * kind.itemsize:
        raise FileFormatError(
            f"{name} should hold {shape} values of {kind.itemsize} bytes, but has {len(content) - start} bytes: it is cut off."
        )
    return np.frombuffer(content, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))


def segmentation(folder: str | os.PathLike[str], part: str = "train") -> Examples:
    """Images with a label per pixel, from folders as SegNet lays out CamVid: `part` and `part`annot hold PNGs of equal names.

    Labels are the grey values of the masks, as they lie on disk.

    Args:
        folder: that holds the folders.
        part: "train", or the name of another.

    Raises:
        FileNotFoundError: there is no image, or a mask is missing.
        FileFormatError: images and masks differ in size, or a mask is not grey.
    """
    paths = sorted((Path(folder) / part).glob("*.png"))
    if not paths:
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} has no PNGs in {part!r}: give the folder that holds {part} and {part}annot."
        )
    images = [_bytes(photograph(path)) for path in paths]
    masks = [_bytes(plot.read_pixels(Path(folder) / f"{part}annot" / path.name)) for path in paths]
    for path, image, mask in zip(paths, images, masks, strict=True):
        if mask.shape != images[0].shape[:2] or image.shape != images[0].shape:
            raise FileFormatError(
                f"{part}/{path.name} is {image.shape} and its mask {mask.shape}, but the first image is {images[0].shape}: all "
                "images and masks must have one size, and masks one channel."
            )
    return Examples(np.stack(images), np.stack(masks).astype(np.int64))


def _bytes(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels * 255).astype(np.uint8)


def digits() -> Examples:
    """The 1797 handwritten digits, 8 x 8 pixels, that come with scikit-learn: nothing to download.

    Raises:
        MissingDependencyError: scikit-learn is not installed.

    Example:
        >>> from erfjax.studies import datasets
        >>> datasets.digits().images.shape
        (1797, 8, 8, 1)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("The digits come with scikit-learn: pip install 'erfjax[training]'.") from error
    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return Examples(images[..., None], found.target.astype(np.int64))
