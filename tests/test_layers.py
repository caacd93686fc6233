"""The ring of stacks and their geometry, against published and derived numbers."""

import itertools
import math

import numpy as np
import pytest

from erfjax.errors import StackError, UnitError
from erfjax.geometry import Window, forward
from erfjax.layers import Activation, AvgPool, Conv, Dropout, Identity, MaxPool, SparseConv

C = Conv(3)
RELU = Activation("relu")
EVALUATE = {kind.__name__: kind for kind in (Activation, AvgPool, Conv, Dropout, Identity, MaxPool, SparseConv)}

EXPRESSIONS = [
    "Conv(3)",
    "Conv((3, 5), stride=(1, 2), dilation=2, padding='VALID')",
    "Conv((3,), weights=(0.25, 0.5, 0.25))",
    "Conv(3) ** 20",
    "(Conv(3) * Activation('relu')) ** 4",
    "(Identity() + Conv(3) * Activation('relu') * Conv(3)) ** 17",
    "Identity() + 0.5 * Conv(3)",
    "0.5 * Identity() + Conv(3) * 2.0 * Conv(5)",
    "(Conv(3) + 0.5 * (Identity() + Conv(5))) * AvgPool(2, stride=2) * Dropout(0.1)",
    "MaxPool(3, stride=2, padding=((0, 1), (1, 1))) * SparseConv(15, count=5, seed=3)",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_prints_as_python_that_gives_the_stack_back(expression):
    stack = eval(expression, EVALUATE)
    assert repr(stack) == expression
    assert eval(repr(stack), EVALUATE) == stack
    assert hash(stack) == hash(eval(expression, EVALUATE))


def test_ring_laws():
    a, b, one = C, Conv(5), Identity()
    assert a * one == one * a == a
    assert (a * b) * a == a * (b * a)
    assert (a + b) + a == a + (b + a)
    assert a**0 == one
    assert a**1 == a
    assert one**7 == one
    assert 1 + a == one + a
    assert 1.0 * a == a
    assert a - b == a + -1.0 * b
    assert sum([a, b], start=one) == one + a + b
    assert sum([a, b]) == a + b
    assert a * a == a**2
    assert a**2 * a**3 == a**5 == (a**2 * a) * a**2
    assert ((a * b) ** 2) ** 3 == (a * b) ** 6
    assert hash(a * b * a * b) == hash((a * b) ** 2)
    assert a * b != b * a
    assert (2.0 * one) ** 3 == 8.0 * one
    assert np.float64(2.0) * a == a * np.float64(2.0) == 2 * a
    assert ((a * b) ** 2).depth == 4
    assert (one + a * b + a).depth == 2


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: C + Conv(3, stride=2), "same stride"),
        (lambda: Conv((3,)) * Conv((3, 3)), "same number of spatial axes"),
        (lambda: Identity() + Conv((3,)) + AvgPool((2, 2), stride=1), "same number of spatial axes"),
        (lambda: C**-1, "no inverse"),
        (lambda: C**1.5, "whole number"),
        (lambda: C * math.inf, "finite"),
        (lambda: Conv(0), "positive"),
        (lambda: Conv(2.5), "integer"),
        (lambda: Conv(()), "positive"),
        (lambda: Conv((3, 3), stride=(1, 2, 1)), "2 and 3 axes"),
        (lambda: Conv(3, padding="same"), "SAME"),
        (lambda: Conv(3, padding=((1, 2, 3),)), "pair per axis"),
        (lambda: Conv((3, 2), weights=[1.0, 2.0, 1.0]), "shape of the kernel"),
        (lambda: Conv(weights=[1.0, math.nan]), "finite"),
        (lambda: Activation("rleu"), "rleu"),
        (lambda: Dropout(1.0), r"\[0, 1\)"),
        (lambda: SparseConv(3, count=0), "positive number of taps"),
        (lambda: SparseConv(2, count=9).theoretical(), "4 positions"),
        (lambda: SparseConv(3, offsets=[(0, 3)]), "inside the window"),
        (lambda: C.analytic("abs"), "statistic"),
        (lambda: C.analytic("mean", init="he"), "zero everywhere"),
        (lambda: C.analytic(depth=3), "no setting 'depth'"),
        (lambda: C.analytic(width=0), "positive integer"),
        (lambda: C.analytic(width=2.0), "positive integer"),
        (lambda: Conv(weights=[1.0, -3.0, 1.0]).gaussian("mean"), "positive variance"),
        (lambda: AvgPool(2).analytic(out_channels=7), "no convolution"),
        (lambda: C.moments("rms"), "root"),
        (lambda: Conv(weights=[1.0, -1.0]).moments("mean"), "sums to zero"),
        (lambda: C.theoretical(image_shape=(5,)), "2 positive integers"),
        (lambda: C.theoretical(image_shape=(5.5, 6)), "2 positive integers"),
        (lambda: (Identity() + Conv(3, padding="VALID")).theoretical((9, 8)), "same shape"),
        (lambda: (Identity() + Conv(3, padding="VALID")).theoretical(), "give `image_shape`.* same shape"),
        (lambda: Conv(5, padding="VALID").theoretical((9, 4)), "does not fit"),
    ],
)
def test_bad_stacks_are_refused_with_a_lesson(build, says):
    with pytest.raises(StackError, match=says):
        build()


def test_a_stack_does_not_multiply_strings_and_arrays():
    for other in ("relu", np.ones(3)):
        with pytest.raises(TypeError):
            C * other
        with pytest.raises(TypeError):
            other * C
    for unit in ((0, 4), (-1, 0), (1.5, 0), [(0, 0), (1, 4)], 3):
        with pytest.raises(UnitError, match="`unit` must"):
            C.theoretical((5, 4), unit=unit)
    assert C.analytic(width=np.int64(5)).map.sum() == pytest.approx(5)


# Geometry

DILATED = C**4 * Conv(3, dilation=2) * C**3 * Conv(3, dilation=4) * C**3 * Conv(3, dilation=8) * C**2
STRIDED_LATE = (C**4 * Conv(3, stride=2)) ** 3
STRIDED_EARLY = (C**3 * Conv(3, stride=2)) ** 3 * C**3


@pytest.mark.parametrize(
    ("stack", "size", "sigma"),
    [(C**15, 31, 3.162), (DILATED, 53, 8.0), (STRIDED_LATE, 71, 8.37), (STRIDED_EARLY, 105, 13.56)],
)
def test_fifteen_layers(stack, size, sigma):
    """W. Luo et al. 2016, appendix; the numbers are derived: σ² = Σ (j d)² (k² - 1)/12."""
    field = stack.analytic()
    assert stack.depth == 15
    assert stack.theoretical().size == (size, size)
    assert field.coverage == "exact"
    np.testing.assert_allclose(np.sqrt(stack.variance()), sigma, rtol=5e-4)
    np.testing.assert_allclose(field.sigma(), np.sqrt(stack.variance()), rtol=1e-12)


def test_theoretical_field_is_the_chain_of_windows():
    stack = Conv((7, 5), stride=(2, 3), padding=((3, 2), (0, 1))) * MaxPool(3, stride=2) * Conv(3, dilation=(1, 2))
    image = (41, 67)
    field = stack.theoretical(image, unit=(4, 3))
    for axis, windows in enumerate(
        (
            [Window(7, 2, 1, 3, 2), Window(3, 2, 1, 0, 1), Window(3, 1, 1, 1, 1)],
            [Window(5, 3, 1, 0, 1), Window(3, 2, 1, 0, 1), Window(3, 1, 2, 2, 2)],
        )
    ):
        expected = forward(windows)
        start, stop = expected.interval(field.unit[axis])
        assert (field.size[axis], field.stride[axis]) == (expected.size, expected.stride)
        assert (field.start[axis], field.stop[axis], field.padding[axis]) == (start, stop, expected.padding)
    assert [row.operation for row in field.layers][1:] == ["MaxPool(3, stride=2)", "Conv(3, dilation=(1, 2))"]
    assert field.layers[-1].size == field.size
    assert field.shift_invariant
    assert field.phases().maximum == field.size
    assert "MaxPool" in str(field)


def test_a_list_of_units_gives_a_tuple_of_fields():
    stack, image = C * RELU * Conv(3, stride=(1, 2)), (9, 12)
    units = [(0, 5), None, (8, 0)]
    for ask in (stack.theoretical, stack.analytic):
        fields = ask(image_shape=image, unit=units)
        assert isinstance(fields, tuple)
        assert [field.unit for field in fields] == [(0, 5), (4, 3), (8, 0)]
        for field, unit in zip(fields, units, strict=True):
            alone = ask(image_shape=image, unit=unit)
            assert (field.map == alone.map).all() if ask == stack.analytic else field.clipped == alone.clipped
    assert len(stack.analytic(unit=[None])) == 1
    assert [field.coverage for field in stack.analytic(image_shape=image, unit=units)] == [
        "approximate",
        "exact",
        "approximate",
    ]


def test_smallest_image_holds_the_whole_field_and_no_smaller_one_does():
    for stack in (C**3, Conv(4) * Conv(3, stride=2), STRIDED_LATE):
        field = stack.theoretical()
        assert min(field.start) >= 0
        assert all(b <= n for b, n in zip(field.stop, field.image_shape, strict=True))
        smaller = stack.theoretical(tuple(n - 1 for n in field.image_shape))
        assert min(smaller.start) < 0 or max(smaller.stop) > smaller.image_shape[0]
    assert (Conv((5, 4), stride=3, padding="VALID") ** 2).theoretical().image_shape == (17, 13)


def test_branches_join_to_the_hull_and_the_mask_has_holes():
    stack = Identity() + Conv((3, 3), dilation=(3, 2))
    field = stack.theoretical((9, 8), unit=(4, 5))
    assert field.size == (7, 5)
    assert field.start == (1, 3)
    rows, columns = np.nonzero(field.mask())
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == set(itertools.product((1, 4, 7), (3, 5, 7)))


def test_clipping_cuts_padding_at_every_layer():
    field = (C**4).theoretical((5, 20), unit=(0, 19))
    assert field.start == (-4, 15)
    assert field.stop == (5, 24)
    assert field.clipped == ((0, 15), (5, 20))
    assert field.mask().sum() == 5 * 5


def test_clipping_knows_the_holes_of_strides_and_dilations():
    """The last tap of a dilated kernel falls beyond the border; those before it, and the strides below, leave holes."""
    stack = Conv((2, 1)) * Conv(1, stride=(2, 3)) * Conv((4, 2), dilation=2)
    field = stack.theoretical((16, 16), unit=(7, 2))
    rows, columns = np.nonzero(field.mask())
    assert field.clipped == ((rows.min(), columns.min()), (rows.max() + 1, columns.max() + 1)) == ((8, 3), (14, 10))
    wide = SparseConv((9, 7), count=5, seed=2, stride=(2, 1)) * SparseConv(11, count=7, seed=3) * SparseConv(9, count=6)
    seen = {(10, 20)}
    for layer, shape in zip(wide.members[::-1], ((21, 40), (21, 40), (41, 40)), strict=True):
        windows = layer._window(2).windows(shape)
        pulled = (
            tuple(p * w.stride - w.padding_low + o for p, w, o in zip(at, windows, offset, strict=True))
            for at in seen
            for offset in layer.positions(2)
        )
        seen = {at for at in pulled if all(0 <= p < n for p, n in zip(at, shape, strict=True))}
    mask = wide.theoretical((41, 40), unit=(10, 20)).mask()
    assert set(map(tuple, np.argwhere(mask).tolist())) == seen
    assert len(seen) > 80
    nothing = (C * AvgPool(2, padding=2)).theoretical((6, 8), unit=(0, 2))
    assert nothing.clipped == ((0, 0), (0, 0))
    assert not nothing.mask().any()
