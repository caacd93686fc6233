"""Exact sets of positions, against sets of Python integers."""

import functools
import math
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from erfjax.tracing.positions import index_sets
from erfjax.tracing.positions.access import Along, IrregularError, Lookup, Prefix, Then, View
from erfjax.tracing.positions.index_sets import EMPTY, EVERYWHERE, Points, clip, full, join, mask, shadow
from erfjax.tracing.positions.interval_rows import IntervalRows

fast = functools.partial(hypothesis.settings, deadline=None, derandomize=True, database=None, max_examples=150)
sets = st.sets(st.integers(-9, 15), max_size=9)


def of(members):
    return Points.among(sorted(members))


def members(points):
    return set(points.positions.tolist()) if points else set()


@fast()
@hypothesis.given(sets, sets, st.integers(-9, 9), st.integers(-9, 15))
def test_set_algebra(a, b, by, edge):
    assert members(of(a)) == a
    assert members(of(a).union(of(b))) == a | b
    assert members(of(a).shift(by)) == {i + by for i in a}
    assert members(of(a).clip(by, edge)) == {i for i in a if by <= i < edge}
    assert of(a).contains(of(b)) == (b <= a)
    assert set().union(*(members(part) for part in of(a).without(of(b)))) == a - b if b else True
    assert (of(a) == of(b)) == (a == b)
    assert bool(of(a)) == bool(a)


@fast()
@hypothesis.given(
    sets, *(st.integers(1, 5) for _ in range(2)), st.integers(-4, 4), st.integers(-5, 5), st.integers(1, 4)
)
def test_windows(a, size, dilation, stride, offset, base):
    """i·base = o·stride + t·dilation + offset."""
    hypothesis.assume(stride)
    reached = {o * stride + t * dilation + offset for o in a for t in range(size)}
    expected = {i // base for i in reached if i % base == 0}
    assert members(of(a).window(size, stride, dilation, offset, base)) == expected


boxes = st.lists(st.tuples(sets, sets), max_size=5)


@fast()
@hypothesis.given(boxes)
def test_regions(parts):
    """A region is the union of its boxes, however they were joined, and holds no empty one."""
    region = ()
    for box in parts:
        region = join(region, [tuple(map(of, box))])
    assert all(all(box) for box in region)
    expected = {(i, j) for a, b in parts for i in a for j in b}
    assert {(i, j) for a, b in region for i in members(a) for j in members(b)} == expected
    held = mask(region, (10, 12))
    assert {(int(i), int(j)) for i, j in np.argwhere(held)} == {
        (i, j) for i, j in expected if 0 <= i < 10 and 0 <= j < 12
    }
    inside = clip(region, (10, 12))
    if inside:
        rows, columns = shadow(inside)
        assert (members(rows), members(columns)) == tuple(
            {p[k] for p in expected if 0 <= p[0] < 10 and 0 <= p[1] < 12} for k in (0, 1)
        )


def test_infinite_sets():
    past, future = Points(-math.inf, 3), Points(3, math.inf)
    assert past.union(future) == EVERYWHERE
    assert past.clip(0, 9) == Points(0, 3)
    assert not past.finite
    assert EVERYWHERE.contains(of({1, 5}))
    assert not of({1, 5}).contains(EVERYWHERE)
    assert EVERYWHERE.window(3, 2, 1, -1, 1) == EVERYWHERE
    assert past.window(3, 2, 1, -1, 1) == Points(-math.inf, 6)
    assert EMPTY.window(3, 1, 1, 0, 1) == EMPTY
    assert [members(p) if p.finite else p for p in EVERYWHERE.without(of({2, 4}))] == [
        Points(-math.inf, 2),
        {3},
        Points(5, math.inf),
    ]


def test_regions_that_fall_apart_become_a_bound(monkeypatch):
    """Beyond so many boxes, the product of the shadows: too large, never too small."""
    monkeypatch.setattr(index_sets, "MAX_BOXES", 30)
    diagonal = [(Points(2 * i, 2 * i + 1), Points(2 * i, 2 * i + 1)) for i in range(39)]
    region = join((), diagonal)
    assert len(region) == 1
    assert members(region[0][0]) == {2 * i for i in range(39)}
    assert len(join((), diagonal[:30])) == 30


def table(pattern, **options):
    return Lookup(0, IntervalRows.of(pattern), **options)


def test_tables():
    """Rows that a border has cut follow the law of the others; rows of a table of indices are what they are."""
    triangle = np.abs(np.subtract.outer(2 * np.arange(6), np.arange(12))) < 3  # [2o - 2, 2o + 3) inside 12 positions
    assert members(table(triangle).pull((of({0}),))) == {-2, -1, 0, 1, 2}
    assert members(table(triangle).pull((of({-1, 6}),))) == {-4, -3, -2, -1, 0, 10, 11, 12, 13, 14}
    other = triangle.copy()
    other[0, 7] = True  # now the first row is none that a border has cut
    assert members(table(other).pull((of({0}),))) == {0, 1, 2, 7}
    assert members(table(other).pull((of({-1, 9}),))) == set()
    tiled = table(np.tile(np.eye(4, dtype=bool), (3, 1)), cut=False)
    assert tiled.shift((Fraction(1),), []) == 0
    assert members(tiled.pull((of({3, 4, -1}),))) == {0, 3}
    assert members(tiled.pull((EVERYWHERE,))) == {0, 1, 2, 3}
    backwards = table(np.kron(np.eye(5, dtype=bool)[::-1], np.ones((2, 1), bool)), cut=False)
    assert backwards.pull((Points(2, math.inf),)) == Points(-math.inf, 4)
    with pytest.raises(IrregularError):
        table(np.eye(7, dtype=bool)[[0, 2, 3, 6]], cut=False).shift((Fraction(1),), [])
    gaps = table(np.diag([True, False, True, False, True, False]), cut=False)
    assert members(gaps.pull((of({2, 3}),))) == {2}
    assert not gaps.pull((of({3}),))


def test_views():
    assert full((2, 3)) == (Points(0, 2), Points(0, 3))
    pattern = np.kron(np.eye(6, dtype=bool), np.ones((2, 1), bool))  # every pixel twice
    lookup = table(pattern)
    assert members(lookup.pull((of({3, 4}),))) == {1, 2}
    assert members(lookup.pull((of({-3, 40}),))) == {-2, 20}  # the law reaches beyond the table
    assert lookup.pull((Points(-math.inf, 5),)) == Points(-math.inf, 3)
    assert lookup.pull((EVERYWHERE,)) == EVERYWHERE
    whole = []
    assert lookup.shift((Fraction(1),), whole) == Fraction(1, 2)
    assert whole == [Fraction(1, 2)]
    with pytest.raises(IrregularError):
        table(np.eye(8, dtype=bool)[[0, 3, 4, 7, 5, 2, 6, 1]]).shift((Fraction(1),), [])
    both = Then(View((Along(0, stride=2),)), View((Along(0, size=3, offset=-1),)))
    assert [members(p) for (p,) in both.pull((of({4}),))] == [{7, 8, 9}]
    assert both.shift((Fraction(1),), []) == (2,)
    assert Prefix(0, False).pull((of({4}),)) == Points(-math.inf, 5)
