"""Loaders read what the formats say, and refuse everything else by name."""

import gzip
import struct

import numpy as np
import pytest
from matplotlib import image as images

from erfjax.errors import FileFormatError
from erfjax.studies import datasets

RNG = np.random.default_rng(0)


def records(count, label=None):
    pixels = RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = RNG.integers(0, 10, count) if label is None else np.full(count, label)
    planes = pixels.transpose(0, 3, 1, 2).reshape(count, -1)
    return pixels, labels, np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1).tobytes()


def test_cifar_files_of_any_length(tmp_path):
    parts = [records(count) for count in (3, 2, 4)]
    for name, part in zip(("data_batch_1", "data_batch_2", "test_batch"), parts, strict=True):
        (tmp_path / f"{name}.bin").write_bytes(part[2])
    training, test = datasets.cifar10(tmp_path)
    np.testing.assert_array_equal(training.images, np.concatenate([parts[0][0], parts[1][0]]))
    np.testing.assert_array_equal(training.labels, np.concatenate([parts[0][1], parts[1][1]]))
    np.testing.assert_array_equal(test.images, parts[2][0])
    assert len(test) == 4


@pytest.mark.parametrize("content", [b"", records(2)[2][:-1], records(1, label=10)[2]])
def test_damaged_cifar_files(tmp_path, content):
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(FileFormatError, match="data_batch_1"):
        datasets.cifar10(tmp_path)
    with pytest.raises(FileNotFoundError, match="data_batch"):
        datasets.cifar10(tmp_path / "elsewhere")


def idx_bytes(array, code):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(("kind", "code"), [(">u1", 0x08), (">i4", 0x0C), (">f8", 0x0E)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx(tmp_path, kind, code, pack):
    array = RNG.integers(0, 100, (3, 4, 5)).astype(kind)
    (tmp_path / "a").write_bytes(pack(idx_bytes(array, code)))
    found = datasets.idx(tmp_path / "a")
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative


GOOD = idx_bytes(RNG.integers(0, 100, (3, 4)).astype(">i4"), 0x0C)


DAMAGED = {
    "empty": b"",
    "cut short": GOOD[:-1],
    "too long": GOOD + b"0",
    "foreign": b"\1" + GOOD[1:],
    "header only": GOOD[:6],
    "cut archive": gzip.compress(GOOD)[:-9],
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_idx(tmp_path, content):
    (tmp_path / "labels.idx").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"labels\.idx"):
        datasets.idx(tmp_path / "labels.idx")


@pytest.fixture
def camvid(tmp_path):
    from PIL import Image

    pictures, masks = RNG.integers(0, 256, (2, 6, 9, 3), dtype=np.uint8), RNG.integers(0, 12, (2, 6, 9), dtype=np.uint8)
    for folder, arrays in (("train", pictures), ("trainannot", masks)):
        (tmp_path / folder).mkdir()
        for name, array in zip("ab", arrays, strict=True):
            Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
    return tmp_path, pictures, masks


def test_segmentation(camvid):
    folder, pictures, masks = camvid
    found = datasets.segmentation(folder)
    np.testing.assert_array_equal(found.images, pictures)
    np.testing.assert_array_equal(found.labels, masks)


def test_segmentation_that_does_not_fit(camvid):
    folder, _, _ = camvid
    with pytest.raises(FileNotFoundError, match="no PNGs"):
        datasets.segmentation(folder, "test")
    images.imsave(folder / "trainannot" / "b.png", RNG.uniform(size=(6, 9, 3)))
    with pytest.raises(FileFormatError, match=r"b\.png"):
        datasets.segmentation(folder)
    (folder / "trainannot" / "b.png").unlink()
    with pytest.raises(FileNotFoundError):
        datasets.segmentation(folder)


def test_digits_use_the_whole_range():
    found = datasets.digits()
    assert (found.images.min(), found.images.max(), set(found.labels)) == (0, 255, set(range(10)))


def test_tasks(tmp_path, camvid):
    for part, count in (("train", 3), ("t10k", 2)):
        pixels, labels = RNG.integers(0, 256, (count, 5, 4), dtype=np.uint8), np.arange(count, dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(pixels, 0x08))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels, 0x08)))
    found = datasets.task("mnist", tmp_path)
    assert (found.train.images.shape, found.test.labels.tolist(), found.dense) == ((3, 5, 4, 1), [0, 1], False)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.arange(3, dtype=np.uint8), 0x08))
    with pytest.raises(FileFormatError, match="t10k"):
        datasets.task("mnist", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels"):
        datasets.task("mnist", tmp_path)
    for name, says in (("imagenet", "no task"), ("cifar10", "which folder")):
        with pytest.raises(FileFormatError, match=says):
            datasets.task(name)
    folder, pictures, _ = camvid
    for kind in ("", "annot"):
        (folder / f"train{kind}").rename(folder / f"test{kind}")
        (folder / f"train{kind}").symlink_to(folder / f"test{kind}")
    dense = datasets.task("camvid", folder)
    assert (dense.dense, dense.ignored, dense.test.images.shape) == (True, 11, pictures.shape)
