"""The inverse search against brute force; levels for objects; boxes of units and units of pixels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.decisions.schedules import Design, Layer, allowed
from erfjax.errors import GeometryError, MapError, StackError, UnitError
from tests.decisions import networks


def brute(size, stride, objects, kernels, dilations, depth):
    """The lowest cost of all schedules up to a depth."""
    best = np.inf
    moves = [Layer(k, d, s) for k in kernels for d in dilations for s in (1, 2)]
    for n in range(1, depth + 1):
        for layers in itertools.product(moves, repeat=n):
            trf, j, fine = 1, 1, True
            for k, d, s in layers:
                fine = fine and allowed("no holes", j, d, trf, 0)
                trf, j = trf + j * d * (k - 1), j * s
            found = Design(layers)
            if fine and j == stride and trf >= size and 4 * found.sigma >= objects:
                best = min(best, found.cost)
    return best


@pytest.mark.parametrize(("size", "stride", "objects"), [(11, 1, 0), (20, 2, 12), (1, 4, 9.5)])
def test_needed_is_the_cheapest(size, stride, objects):
    kernels, dilations = (3, 5), (1, 2)
    found = ej.needed(size=size, stride=stride, objects=objects, kernels=kernels, dilations=dilations)
    assert found.trf >= size
    assert found.stride == stride
    assert 4 * found.sigma >= objects
    assert found.cost == pytest.approx(brute(size, stride, objects, kernels, dilations, 4))


def test_the_schedule_is_a_network_of_that_field():
    found = ej.needed(size=250, stride=8, objects=[32, 100])
    field = found.stack().theoretical((512, 512))
    assert field.size == (found.trf, found.trf)
    assert field.stride == (8, 8)
    assert found.trf >= 250


def test_needed_refuses_what_makes_no_sense():
    for wrong in ({"size": 0}, {"stride": 3}, {"objects": -1}, {"kernels": ()}):
        with pytest.raises(StackError):
            ej.needed(**{"size": 9, **wrong})


def test_levels_for_objects():
    """A level whose field is too small is not taken while another sees the whole object; shares are those of the map."""
    levels = {str(n): (ej.layers.Conv(3) ** n).analytic(image_shape=(121, 131)) for n in (3, 12, 48)}
    found = ej.match(levels, [6, (20, 24), 90, 500])
    assert found.best == ("3", "12", "48", "48")
    field = levels["12"]
    (h, w) = field.unit
    box = field.map[h - 5 : h + 6, w - 7 : w + 8].sum() / field.map.sum()
    assert ej.match(levels, [(11, 15)]).inside[1, 0] == pytest.approx(box)
    assert found.covered[0, 0] == pytest.approx(7 / 6)
    assert "fits" in str(found)
    with pytest.raises(GeometryError, match="positive sizes"):
        ej.match(levels, [0])
    with pytest.raises(GeometryError, match="At least one"):
        ej.match({}, [3])
    with pytest.raises(MapError, match="no mass"):
        ej.match({"a": ej.analytic(jnp.zeros_like, jnp.ones((1, 8, 9, 1)))}, [3])


@pytest.mark.parametrize("f", [networks.strided, networks.unet, networks.valid], ids=lambda f: f.__name__)
def test_boxes_of_units_and_units_of_pixels(f):
    """Against the field of every single unit."""
    x = jax.ShapeDtypeStruct((1, 44, 1), jnp.float32)
    field = ej.theoretical(f, x, layout="NWC")
    (n,) = field.output_shape
    fields = ej.theoretical(f, x, layout="NWC", unit=list(range(n)))
    boxes = field.locate(np.arange(n))
    assert len(boxes) == n
    assert boxes.start[:, 0].tolist() == [one.start[0] for one in fields]
    assert boxes.stop[:, 0].tolist() == [one.stop[0] for one in fields]
    assert boxes.centre[:, 0].tolist() == [one.centre[0] for one in fields]
    seen = field.units_of(np.arange(44)[:, None])
    for pixel in range(44):
        units = [u for u, one in enumerate(fields) if one.start[0] <= pixel < one.stop[0]]
        assert (seen.start[pixel, 0], seen.stop[pixel, 0]) == ((units[0], units[-1] + 1) if units else (0, 0))


def test_global_axes_and_errors():
    field = ej.theoretical(lambda x: x - x.mean(1, keepdims=True), jax.ShapeDtypeStruct((1, 8, 9, 1), jnp.float32))
    boxes = field.locate([(0, 3)])
    assert boxes.start.tolist() == [[-np.inf, 3]]
    assert np.isnan(boxes.centre[0, 0])
    assert field.units_of([(2, 4)]).stop.tolist() == [[8, 5]]
    with pytest.raises(UnitError, match="inside the output"):
        field.locate([(8, 0)])
    with pytest.raises(UnitError, match="2 integers"):
        field.locate([1, 2, 3])
    with pytest.raises(UnitError, match="another number of spatial axes"):
        ej.theoretical(lambda x: x.mean((1, 2)), jax.ShapeDtypeStruct((1, 8, 9, 1), jnp.float32)).units_of([(0, 0)])
