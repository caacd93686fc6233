"""Layouts and units: what is deduced, and what is refused with which words."""

import numpy as np
import pytest

from erfjax.errors import LayoutError, UnitError
from erfjax.layouts import (
    default_out_layout,
    parse,
    parse_input,
    parse_output,
    require_batch_of_one,
    resolve_unit,
    resolve_units,
)


def test_axes_and_space():
    layout = parse("CNWDH", 5)
    assert (layout.channel, layout.batch, layout.spatial) == (0, 1, (2, 3, 4))
    assert layout.space((3, 1, 5, 6, 7)) == (5, 6, 7)
    assert layout.summed() == (1, 0)


@pytest.mark.parametrize(
    ("layout", "unit"), [("NHWC", (1, 2)), ("CHW", (1, 2)), ("HW", (1, 2)), ("NLC", (3,)), ("NC", ())]
)
def test_the_channels_of_a_unit(layout, unit):
    sizes = {"N": 1, "C": 3, "H": 4, "W": 5, "L": 6}
    output = np.random.default_rng(0).normal(size=[sizes[c] for c in layout])
    index = tuple(0 if c == "N" else slice(None) if c == "C" else unit["HWL".index(c) % 2] for c in layout)
    channels = parse(layout, output.ndim).unit_channels(output, unit)
    np.testing.assert_array_equal(channels, np.atleast_1d(output[index]))


@pytest.mark.parametrize(
    ("layout", "ndim", "expected"),
    [
        ("NHWC", 4, "NHWC"),
        ("NHWC", 2, "NC"),
        ("NHWC", 1, "N"),
        ("NHWC", 0, ""),
        ("CHW", 1, "C"),
        ("CHW", 0, ""),
        ("NWC", 2, "NC"),
    ],
)
def test_output_layouts_that_can_be_told(layout, ndim, expected):
    assert default_out_layout(layout, len(layout), ndim) == expected
    assert parse_output(None, (1,) * ndim, layout).letters == expected


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: parse("NHXC", 4), "unknown letter 'X'"),
        (lambda: parse("NHHC", 4), "twice"),
        (lambda: parse("NHWC", 3), "names 4 axes, but the array has 3"),
        (lambda: parse_input("NC", (1, 3)), "no spatial axis"),
        (lambda: parse_input("NHWC", (1, 0, 3, 3)), "is empty"),
        (lambda: default_out_layout("NHWC", 4, 3), "out_layout"),
        (lambda: require_batch_of_one(parse("NHWC", 4), (2, 3, 3, 3)), "batch of one"),
    ],
)
def test_layout_errors(call, says):
    with pytest.raises(LayoutError, match=says):
        call()


@pytest.mark.parametrize(
    ("unit", "shape", "expected"),
    [
        (None, (7, 10), (3, 5)),
        ([6, 9], (7, 10), (6, 9)),
        (np.int64(2), (3,), (2,)),
        (np.array([1, 0]), (2, 2), (1, 0)),
        ((), (), ()),
    ],
)
def test_units(unit, shape, expected):
    assert resolve_unit(unit, shape) == expected


@pytest.mark.parametrize(
    ("unit", "shape", "says"),
    [
        ((7, 3), (7, 7), r"`unit` must lie inside the output \(7, 7\), but got \(7, 3\): indices are zero-based"),
        ((-1, 3), (7, 7), "inside the output"),
        ((1, 2, 3), (7, 7), "2 expected, 3 given"),
        (3, (7, 7), "2 expected, 1 given"),
        ((1.5, 2), (7, 7), "one integer"),
        ("centre", (7, 7), "one integer"),
        (None, (7, 0), "no unit"),
    ],
)
def test_unit_errors(unit, shape, says):
    with pytest.raises(UnitError, match=says):
        resolve_unit(unit, shape)


def test_batches_of_units():
    assert resolve_units([(0, 0), None], (7, 10)) == (((0, 0), (3, 5)), True)
    assert resolve_units([2, 3], (7, 10)) == (((2, 3),), False)
    assert resolve_units([2, 3], (7,)) == (((2,), (3,)), True)
    with pytest.raises(UnitError, match="empty list"):
        resolve_units([], (7, 10))
