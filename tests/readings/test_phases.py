"""How a field varies with its unit: periods, phases, and what lies beyond the border."""

import math

import jax
import jax.numpy as jnp
import pytest

import erfjax as ej
from tests.readings.test_theoretical import image, stride_two, upsampled
from tests.tracing.layers import reflect_padding


def test_phases():
    """Nearest upsampling: units of the two phases see different pixels, and the table holds for all units."""
    field = ej.theoretical(upsampled, image())
    assert not field.shift_invariant
    table = field.phases()
    assert (table.period, table.shift) == ((2, 2), (2, 2))
    assert (table.minimum, table.maximum) == ((5, 5), (5, 5))
    for unit in [(6, 9), (7, 9), (13, 20)]:
        other = ej.theoretical(upsampled, image(), unit=unit)
        for axis, u in enumerate(unit):
            row = next(r for r in table.rows if r.axis == axis and r.phase == u % 2)
            moved = (u - row.unit) // 2 * 2
            assert (other.start[axis], other.stop[axis]) == (row.start + moved, row.stop + moved)
    single = ej.theoretical(stride_two, image()).phases()
    assert [(row.unit, row.start, row.stop) for row in single.rows] == [(10, 19, 22), (7, 14, 17)]


def test_resize_by_a_ratio_has_the_period_of_the_ratio():
    field = ej.theoretical(lambda x: jax.image.resize(x, (1, 60, 20, 1), "linear", antialias=False), image())
    table = field.phases()
    assert (table.period, table.shift) == ((3, 2), (2, 3))
    assert (field.stride, field.shift_invariant) == ((pytest.approx(2 / 3), 1.5), False)


def test_fields_without_a_period():
    field = ej.theoretical(reflect_padding, image(channels=4))
    assert (field.shift_invariant, field.size, field.stride) == (False, (3, 3), (1, 1))
    assert len(str(field).splitlines()) < 30
    assert "size over the units" in str(field)


def test_a_period_is_what_other_units_show():
    """Residue classes that attend to themselves, tiles, lists of indices, a row that data choose: no unit is its neighbour."""

    def classes(x):
        y = x.reshape(1, 6, 4, 2).swapaxes(1, 2)
        return (jax.nn.softmax(y @ y.swapaxes(-1, -2), -1) @ y).swapaxes(1, 2).reshape(1, 24, 2)

    line = jax.ShapeDtypeStruct((1, 24, 2), jnp.float32)
    field = ej.theoretical(classes, line, layout="NLC", unit=13)
    assert (field.start, field.stop, field.shift_invariant) == ((1,), (22,), False)

    tiled = ej.theoretical(lambda x: jnp.tile(x, (1, 3, 1)), line, layout="NLC", unit=30)
    assert (tiled.start, tiled.shift_invariant) == ((6,), False)
    assert (tiled.phases().period, tiled.phases().shift) == ((24,), (0,))

    listed = ej.theoretical(lambda x: x[:, jnp.array([0, 2, 3, 6])], line, layout="NLC")
    assert not listed.shift_invariant
    assert [row.start for row in listed.phases().rows] == [0, 2, 3, 6]

    def chosen(x):
        rows = [jax.lax.dynamic_index_in_dim(x[0], i, 0) for i in (2, (x.sum() > 0).astype(jnp.int32))]
        return jnp.concatenate(rows)[None]

    rows = ej.theoretical(chosen, line, layout="NLC").phases().rows
    assert [(row.start, row.stop) for row in rows] == [(2, 3), (-math.inf, math.inf)]


def test_a_unit_beside_a_global_one():
    """The next unit sees all: no stride leads there, and none is infinite."""

    def f(x):
        return jnp.concatenate([x[:, :3], x.mean(1, keepdims=True)], 1)

    field = ej.theoretical(f, image(), unit=(2, 0))
    assert (field.size, field.stride, field.padding, field.shift_invariant) == ((1, 1), (0, 1), (-2, 0), False)
    assert [row.size for row in field.phases().rows if row.axis == 0] == [1, 1, 1, math.inf]


def test_what_moves_along_one_axis_only():
    """Rows that are overwritten, gathered in pairs or grouped by batch are irregular along their own axis alone."""

    def f(x):
        x = x.at[:, jnp.array([6, 1, 4])].set(0.0).at[:, 9, :].set(x[:, 8])
        x = jax.lax.dynamic_update_slice(x, 2 * x[:, :2], (0, 12, 0, 0))
        return stride_two(x)

    field = ej.theoretical(f, image())
    assert field.phases().period[1] == 1
    assert (field.start[1], field.stop[1]) == (field.unit[1] * 2 - field.padding[1], field.start[1] + 3)
    pairs = ej.theoretical(lambda x: x[:, jnp.array([[0, 3], [6, 1]]), :, 0], image(), out_layout="NHDW")
    assert pairs.phases().period == (2, 1)


def test_resizing_has_virtual_positions():
    """Beyond the border the weights go on as inside: the size is the same for every unit of a phase."""
    half = lambda x: jax.image.resize(x, (1, 20, 15, 1), "linear")  # noqa: E731
    fields = ej.theoretical(half, image(), unit=[(0, 0), (7, 7), (19, 14)])
    assert [f.size for f in fields] == [(4, 4)] * 3
    assert [f.start for f in fields] == [(-1, -1), (13, 13), (37, 27)]
    assert all(f.shift_invariant and f.padding == (1, 1) for f in fields)
    assert fields[0].clipped == ((0, 0), (3, 3))
    twice = lambda x: stride_two(jax.image.resize(x, (1, 80, 60, 1), "nearest"))  # noqa: E731
    assert ej.theoretical(twice, image(), unit=(0, 5)).start == (-1, 5)
    assert ej.theoretical(lambda x: half(x).mean((1, 2), keepdims=True), image()).size == (math.inf, math.inf)
