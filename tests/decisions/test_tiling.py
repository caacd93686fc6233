"""Tiles are the whole: bit by bit in integers, at every border, for images of any size; and no halo is wider than it must be."""

import functools
import itertools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.decisions import lines
from erfjax.errors import ErfjaxError, GeometryError, LayoutError
from tests.catalogue import LAYOUTS
from tests.decisions import networks

CASES = [
    (networks.unet, (67,), 12),
    (networks.unet, (61, 50), (16, None)),
    (networks.valid, (41, 43), 16),
    (networks.strided, (77,), 8),
    (networks.strided, (27, 33, 18), (8, 12, None)),
    (networks.upsampled, (29, 31), 16),
    (networks.mirrored, (40, 33), 20),
    (networks.patches, (64, 48), 32),
]
LARGE = [
    (networks.unet, (101, 90), 16),
    (networks.unet, (66, 41, 70), (8, None, 8)),
    (networks.mirrored, (22, 23, 21), 8),
]


def integers(space, seed=0, dtype=np.int32):
    return np.random.default_rng(seed).integers(-9, 10, (1, *space, 1)).astype(dtype)


def layout(space):
    return LAYOUTS[len(space)]


@functools.cache
def planned(f, space, tile):
    return ej.tiling(f, jax.ShapeDtypeStruct((1, *space, 1), jnp.int32), tile=tile, layout=layout(space))


@functools.cache
def compiled(f):
    return jax.jit(f)


def name(value):
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(
    ("f", "space", "tile"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in LARGE)], ids=name
)
def test_tiles_are_the_whole(f, space, tile):
    image = integers(space)
    plan = planned(f, space, tile)
    assert plan.exact, plan.why
    assert plan.notes == ()
    tiles = list(plan.tiles())
    assert len(tiles) > 1
    assert len({tuple(s.stop - s.start for s in each.read) for each in tiles}) == 1  # one compiled function
    np.testing.assert_array_equal(plan(f, image), compiled(f)(image))


@pytest.mark.parametrize(
    ("f", "n", "tile"),
    [
        (networks.unet, 67, 12),
        (networks.valid, 41, 8),
        (networks.strided, 77, 8),
        (networks.upsampled, 29, 4),
        (networks.mirrored, 40, 10),
    ],
    ids=name,
)
def test_not_one_pixel_can_be_spared(f, n, tile):
    """The outermost pixel of the halo changes the tile; the next one does not."""
    plan = planned(f, (n,), tile)
    (before, after), corner = plan.halo[0], tile * 4
    n += -(-(corner + 2 * tile + after + 1 - n) // tile) * tile
    low, high = (int(edge / plan.stride[0]) for edge in (corner, corner + tile))
    image = integers((n,), 1, np.float32)
    here = np.asarray(compiled(f)(image))[:, low:high]

    def changed(pixel):
        """A large value of either sign: one of them passes an extremum."""
        for value in (999, -999):
            other = np.array(image)
            other[:, pixel] = value
            if (np.asarray(compiled(f)(other))[:, low:high] != here).any():
                return True
        return False

    assert changed(corner - before)
    assert not changed(corner - before - 1)
    assert changed(corner + tile + after - 1)
    assert not changed(corner + tile + after)


def test_bilinear_upsampling_within_rounding():
    image = integers((70,), dtype=np.float32)
    plan = ej.tiling(networks.bilinear, image, tile=16, layout="NWC")
    assert plan.exact, plan.why
    np.testing.assert_allclose(plan(networks.bilinear, image), compiled(networks.bilinear)(image), atol=1e-5)


def test_images_of_another_size():
    """One plan serves every size, odd ones as well; halos are those of the size it was made for."""
    plan = planned(networks.unet, (67,), 12)
    for n in (17, 61, 90):
        image = integers((n,), n)
        np.testing.assert_array_equal(plan(networks.unet, image), compiled(networks.unet)(image))


def test_larger_than_memory(tmp_path):
    """The plan of a huge image costs no more than that of a small one; arrays on disk are read and written tile by tile."""
    huge = jax.ShapeDtypeStruct((1, 200_000, 300_011, 1), jnp.int32)
    plan = ej.tiling(networks.unet, huge, tile=1024)
    some = list(itertools.islice(plan.tiles(), 300))
    assert some[0].write == (slice(0, 1), slice(0, 1024), slice(0, 1024), slice(0, 4))
    assert some[-1].read[1].start > 0
    image = np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.int32, (1, 130, 20, 1))
    image[:] = integers((130, 20))
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.int32, (1, 130, 20, 4))
    f, plan = networks.unet, planned(networks.unet, (130, 20), (32, None))
    for tile in plan.tiles():
        out[tile.write] = plan.compute(f, image[tile.read], tile)
    np.testing.assert_array_equal(out, compiled(f)(np.asarray(image)))
    again = np.zeros_like(out)
    assert plan(f, image, out=again, progress=False) is again
    np.testing.assert_array_equal(again, out)
    with pytest.raises(GeometryError, match="shape of the output"):
        plan(f, image, out=again[:, 1:])


def squeezed(x):
    y = networks.conv(x, 3)
    return y * jnp.mean(y, (1, 2), keepdims=True)


def coordinates(x):
    return networks.conv(x, 3) + jnp.linspace(0, 1, x.shape[1], dtype=x.dtype)[None, :, None, None]


def embedded(x):
    return x + jnp.ones((1, 64, 64, 1), x.dtype)


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (squeezed, r"`reduce_sum` at .*squeezed\) looks at all of axis H"),
        (coordinates, r"`add` at .*coordinates\) uses numbers that depend on the position"),
        (networks.wrapped, r"`concatenate` at .*wrapped\) does not move with the tile"),
        (lambda x: jnp.cumsum(x, 2), "`cumsum` at .* looks at all of axis W"),
        (lambda x: networks.conv(x, 3)[:, ::-1], r"`rev` at .* turns axis H around"),
        (embedded, "does not take an array of another size"),
        (lambda x: jnp.mean(x, 1), "output has no axis H: `reduce_sum`"),
    ],
    ids=["squeeze", "coordinates", "periodic", "cumulative", "reversed", "embedding", "mean"],
)
def test_what_is_not_the_same_everywhere_is_refused_by_name(f, why):
    x = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    out_layout = "NWC" if jax.eval_shape(f, x).ndim == 3 else None
    plan = ej.tiling(f, x, tile=16, out_layout=out_layout)
    assert not plan.exact
    assert plan.halo is None
    assert re.search(why, str(plan))
    with pytest.raises(ErfjaxError, match=why):
        plan(f, np.zeros((1, 64, 64, 1), np.float32))
    with pytest.raises(ErfjaxError, match=why):
        next(plan.tiles())


def test_errors_of_the_function_are_told_from_those_of_the_plan(monkeypatch):
    """Whatever the function raises at another size refuses the plan; what the planner raises is not caught."""
    x = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)

    def picky(x):
        if x.shape != (1, 64, 64, 1):
            raise KeyError("64 only")
        return x

    assert "does not take an array of another size ('64 only')" in ej.tiling(picky, x, tile=16).why

    def broken(*_):
        raise TypeError("a bug")

    monkeypatch.setattr(lines, "_reach", broken)
    with pytest.raises(TypeError, match="a bug"):
        ej.tiling(lambda x: x, x, tile=16)


def test_errors_teach():
    x = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    with pytest.raises(GeometryError, match=r"multiples of 4 .* use 8 or 12"):
        ej.tiling(networks.unet, x, tile=10)
    with pytest.raises(GeometryError, match="positive number"):
        ej.tiling(networks.unet, x, tile=0)
    with pytest.raises(GeometryError, match="2 spatial axes"):
        ej.tiling(networks.unet, x, tile=(8, 8, 8))
    with pytest.raises(ErfjaxError, match="returns 2"):
        ej.tiling(lambda x: (x, x), x, tile=8)
    with pytest.raises(LayoutError, match="spatial axes"):
        next(ej.tiling(networks.unet, x, tile=8).tiles((64,)))


def test_each_size_is_proved_by_itself():
    """A function that is another one on long images: the plan of a short one serves short ones alone."""
    f = lambda x: networks.conv(x if x.shape[1] < 600 else -x, 3)  # noqa: E731
    plan, image = ej.tiling(f, jax.ShapeDtypeStruct((1, 50, 1), jnp.int32), tile=10, layout="NWC"), integers((580,))
    np.testing.assert_array_equal(plan(f, image), f(jnp.asarray(image)))
    with pytest.raises(ErfjaxError, match=r"An image of shape \(1, 640, 1\) cannot be computed tile by tile"):
        next(plan.tiles((640,)))


def test_a_window_as_large_as_the_image_is_one_tile():
    image = integers((20,))
    plan = ej.tiling(lambda x: networks.conv(x, 13), image, tile=8, layout="NWC")
    assert [(tile.read, tile.write) for tile in plan.tiles()] == [
        ((slice(0, 1), slice(0, 20), slice(0, 1)), (slice(0, 1), slice(0, 20), slice(0, 2)))
    ]
    assert "it is read whole" in str(plan)
    assert "it is read whole" not in str(planned(networks.unet, (67,), 12))


def test_a_plan_prints():
    text = str(planned(networks.unet, (61, 50), (16, None)))
    assert "tile                    16 × whole" in text
    assert "grid                    4 × 1" in text


CORNERS = [
    (networks.unet, (75, 70), 12),
    (networks.strided, (39, 42), 8),
    (networks.mirrored, (40, 33), 10),
    pytest.param(networks.mirrored, (22, 23, 21), 8, marks=pytest.mark.slow),
    pytest.param(networks.strided, (27, 33, 18), 8, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("f", "space", "tile"), CORNERS, ids=name)
def test_corners_have_the_padding_of_the_image(f, space, tile):
    """Each tile that lies at an edge along every axis, alone: bit by bit what the whole has there."""
    image, plan = integers(space, 3), planned(f, space, tile)
    whole, corners = np.asarray(compiled(f)(image)), 0
    for t in plan.tiles():
        ends = [(read.start == 0, read.stop == n) for read, n in zip(t.read[1:-1], space, strict=True)]
        if all(low or high for low, high in ends):
            corners += 1
            np.testing.assert_array_equal(plan.compute(f, image[t.read], t), whole[t.write])
    assert corners >= 2 ** len(space)


def test_a_plan_pickles_without_its_function():
    """The loaded plan runs on images of its own size; other sizes are proved from the function, which pickles leave out."""
    f = lambda x: networks.strided(x)  # noqa: E731
    image = integers((77,))
    plan = ej.tiling(f, image, tile=8, layout="NWC")
    loaded = pickle.loads(pickle.dumps(plan))
    assert (str(loaded), list(loaded.tiles())) == (str(plan), list(plan.tiles()))
    np.testing.assert_array_equal(loaded(f, image), jax.jit(f)(image))
    assert list(pickle.loads(pickle.dumps(loaded)).tiles((77,))) == list(plan.tiles())
    with pytest.raises(ErfjaxError, match=r"serves images of shape \(1, 77, 1\)"):
        next(loaded.tiles((85,)))
    refused = pickle.loads(pickle.dumps(ej.tiling(lambda x: x[:, ::-1], image, tile=8, layout="NWC")))
    with pytest.raises(ErfjaxError, match="turns axis W around"):
        next(refused.tiles())
