"""Masks as intervals: every operation on rows and patterns is that of the Boolean array."""

import numpy as np
import pytest

from erfjax.tracing.positions.index_sets import Points
from erfjax.tracing.positions.interval_rows import IntervalRows, compared
from erfjax.tracing.positions.pattern import Pattern, rest

SEEDS = range(60)


@pytest.mark.parametrize("block", range(4))
def test_rows(block):
    for seed in SEEDS:
        rng = np.random.default_rng((block, seed))
        n, m = rng.integers(1, 7, 2)
        a, b = rng.random((n, m)) < rng.random(), rng.random((n, m)) < 0.5
        rows, other = IntervalRows.of(a), IntervalRows.of(b)
        np.testing.assert_array_equal(rows.dense(), a)
        assert (rows == other) == np.array_equal(a, b)
        assert rows.complement == IntervalRows.of(~a)
        assert rows.transposed() == IntervalRows.of(a.T)
        assert rows.combine(other, False) == IntervalRows.of(a | b)
        assert rows.combine(other, True) == IntervalRows.of(a & b)
        index = rng.integers(-1, n, 5)
        assert rows.take(index) == IntervalRows.of(np.where(index[:, None] < 0, False, a[index]))
        offset, stride, width = (
            int(rng.integers(-3, m + 3)),
            int(rng.choice([-3, -2, -1, 1, 2, 3])),
            int(rng.integers(1, 7)),
        )
        at = offset + stride * np.arange(width)
        moved = np.where((at >= 0) & (at < m), a[:, np.clip(at, 0, m - 1)], False)
        assert rows.affine(offset, stride, width) == IntervalRows.of(moved)
        for cut in (c for c in range(1, n * m + 1) if n * m % c == 0):
            assert rows.recut(cut) == IntervalRows.of(a.reshape(-1, cut))
        some = rng.choice(n, rng.integers(1, n + 1), replace=False)
        assert set(rows.union_of(some).positions if a[some].any() else ()) == set(np.flatnonzero(a[some].any(0)))


def test_comparisons():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        left, right = rng.integers(0, 4, 5), np.sort(rng.integers(0, 4, 6))[:: rng.choice([-1, 1])]
        how = tuple(bool(b) for b in rng.random(3) < 0.5)
        sign = np.sign(right[None] - left[:, None])
        expected = ((sign > 0) & how[0]) | ((sign == 0) & how[1]) | ((sign < 0) & how[2])
        assert compared(left, right, how) == IntervalRows.of(expected)
    assert compared(np.arange(3), np.array([0, 2, 1]), (True, False, False)) is None


def written_out(pattern, shape):
    held = pattern.held.dense().reshape(pattern.sizes) if pattern.axes else np.asarray(bool(pattern))
    return np.broadcast_to(held.reshape([n if a in pattern.axes else 1 for a, n in enumerate(shape)]), shape)


@pytest.mark.parametrize("block", range(4))
def test_patterns(block):
    for seed in SEEDS:
        rng = np.random.default_rng((block, seed))
        shape = tuple(rng.integers(1, 5, 4).tolist())
        a, b = (rng.random([n if rng.random() < 0.6 else 1 for n in shape]) < 0.5 for _ in range(2))
        p, q, full = Pattern.of(a), Pattern.of(b), np.broadcast_to(a, shape)
        np.testing.assert_array_equal(written_out(p, shape), full)
        np.testing.assert_array_equal(written_out(p.join(q), shape), full | b)
        np.testing.assert_array_equal(written_out(p.meet(q), shape), full & b)
        np.testing.assert_array_equal(written_out(p.minus(q), shape), full & ~b)
        order = rng.permutation(4).tolist()
        turned = p.renamed({axis: order.index(axis) for axis in p.axes})
        np.testing.assert_array_equal(written_out(turned, [shape[o] for o in order]), full.transpose(order))
        some = [axis for axis in range(4) if rng.random() < 0.4]
        for every, reduce in ((True, np.all), (False, np.any)):
            expected = np.broadcast_to(reduce(full, tuple(some), keepdims=True), shape)
            np.testing.assert_array_equal(written_out(p.without(some, every), shape), expected)
        box = tuple(Points.among(rng.choice(n, rng.integers(1, n + 1), replace=False)) for n in shape)
        held = np.zeros(shape, bool)
        for part in rest(p, box):
            held[np.ix_(*(points.positions for points in part))] = True
        asked = np.zeros(shape, bool)
        asked[np.ix_(*(points.positions for points in box))] = True
        np.testing.assert_array_equal(held, full & asked)
