"""Window arithmetic: three recurrences that agree, and agree with sets of positions; padding as JAX pads."""

import itertools
import math

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erfjax.errors import GeometryError
from erfjax.geometry import Geometry, Window, forward, resolve_padding
from tests.oracles import backward, closed

windows = st.builds(
    Window,
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    padding_low=st.integers(-3, 6),
    padding_high=st.integers(-3, 6),
)


def hull_by_sets(chain, unit):
    """What a unit sees, one position at a time, from the output to the input."""
    seen = {unit}
    for w in reversed(chain):
        seen = {p * w.stride - w.padding_low + w.dilation * tap for p in seen for tap in range(w.kernel)}
    return min(seen), max(seen) + 1


@settings(deadline=None)
@given(st.lists(windows, max_size=6), st.integers(-2, 9))
def test_the_three_forms_agree_with_each_other_and_with_sets(chain, unit):
    field = forward(chain)
    assert field == backward(chain) == closed(chain)
    assert field.interval(unit) == hull_by_sets(chain, unit)
    assert field.start == field.interval(0)[0]


@settings(deadline=None)
@given(
    st.lists(st.lists(windows, max_size=4), min_size=1, max_size=3), st.lists(windows, max_size=3), st.integers(-2, 9)
)
def test_branches_that_are_summed_see_the_hull_of_all(branches, above, unit):
    """Of branches brought to one stride, then more layers: the joined field is that of the paths together."""
    most = math.lcm(*(forward(branch).stride for branch in branches))
    alike = [[*branch, Window(1, most // forward(branch).stride)] for branch in branches]
    fields = [forward(branch) for branch in alike]
    joined = fields[0].join(*fields[1:])
    for window in above:
        joined = joined.then(window)
    ends = [hull_by_sets([*branch, *above], unit) for branch in alike]
    assert joined.interval(unit) == (min(low for low, _ in ends), max(high for _, high in ends))


def test_branches_of_different_strides_have_no_field_together():
    with pytest.raises(GeometryError, match=r"one effective stride, but have \[1, 2\]"):
        Geometry().join(Geometry(stride=2))


@given(st.lists(windows, min_size=1, max_size=6), st.integers(0, 9))
def test_walking_the_windows_gives_the_hull(chain, unit):
    interval = (unit, unit + 1)
    for window in reversed(chain):
        interval = window.interval(*interval)
    assert interval == forward(chain).interval(unit)


def test_an_empty_chain_is_the_identity():
    assert backward([]) == forward([]) == closed([]) == Geometry(size=1, stride=1, padding=0)


VGG16 = [
    w
    for repeats in (2, 2, 3, 3, 3)
    for w in [Window(3, padding_low=1, padding_high=1)] * repeats + [Window(2, stride=2)]
]
RESNET50 = [Window(7, 2, 1, 3, 3), Window(3, 2, 1, 1, 1)] + [
    Window(3, 2 if stage and not block else 1, 1, 1, 1) for stage, n in enumerate((3, 4, 6, 3)) for block in range(n)
]


@pytest.mark.parametrize(
    ("chain", "size", "stride", "padding"),
    [(VGG16, 212, 32, 90), (RESNET50, 427, 32, 213), ([Window(3)] * 20, 41, 1, 0)],
    ids=["vgg16 (rfa-toolbox)", "resnet50 (torchvision)", "twenty 3 x 3"],
)
def test_published_fields(chain, size, stride, padding):
    assert forward(chain) == Geometry(size, stride, padding)


def test_sizes_along_vgg16_as_rfa_toolbox_lists_them():
    sizes = [forward(VGG16[:n]).size for n in range(len(VGG16) + 1)]
    assert sizes == [1, 3, 5, 6, 10, 14, 16, 24, 32, 40, 44, 60, 76, 92, 100, 132, 164, 196, 212]


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID"])
def test_padding_is_that_of_jax(padding):
    for n, k, s, d in itertools.product((1, 2, 7, 8), (1, 2, 3, 4), (1, 2, 5), (1, 3)):
        extent = d * (k - 1) + 1
        assert [resolve_padding(padding, n, k, s, d)] == list(jax.lax.padtype_to_pads((n,), (extent,), (s,), padding))


def test_padding_by_number_and_pair():
    assert resolve_padding(2, None, 3, 2) == (2, 2)
    assert resolve_padding((1, -4), 7, 3) == (1, -4)
    assert resolve_padding("SAME", None, 4, dilation=2) == (3, 3)


def test_same_padding_with_a_stride_needs_the_size():
    with pytest.raises(GeometryError, match="depends on the size of the axis"):
        resolve_padding("SAME", None, 3, stride=2)


@pytest.mark.parametrize("name", ["kernel", "stride", "dilation"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_window_needs_positive_numbers(name, value):
    with pytest.raises(GeometryError, match=f"`{name}` must be a positive integer, but got {value}"):
        Window(**{"kernel": 3, name: value})


@given(windows, st.integers(0, 12))
def test_output_size_counts_the_positions_that_fit(window, n):
    fits = [u for u in range(40) if window.interval(u, u + 1)[1] <= n + window.padding_high]
    assert window.output_size(n) == len(fits)


def test_empty_intervals_stay_empty():
    low, high = Window(3, 2).interval(4, 4)
    assert low == high


def test_sizes_are_integers_at_any_depth():
    assert forward([Window(3, 2)] * 200) == Geometry(1 + 2 * (2**200 - 1), 2**200, 0)
