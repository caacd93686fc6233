"""Numbers that a function knows by position: tiles are alike where these are; windows are no longer than they must be."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.decisions import lines, varying
from erfjax.decisions.cuts import Cut


def kept(low, high):
    """Positions outside [low, high) are set to zero: a mask of padding, a block that was cut out."""
    return lambda x: jnp.where(
        ((jnp.arange(x.shape[1]) < low) | (jnp.arange(x.shape[1]) >= high))[None, :, None], x, 0.0
    )


@pytest.mark.parametrize(
    ("n", "tile", "low", "high"), [(500, 16, 300, 500), (96, 8, 20, 30), (2000, 64, 1000, 2000), (2000, 64, 900, 910)]
)
def test_a_change_at_an_absolute_position_is_found(n, tile, low, high):
    x = jax.ShapeDtypeStruct((1, n, 2), jnp.float32)
    plan = ej.tiling(kept(low, high), x, tile=tile, layout="NLC")
    assert not plan.exact
    assert "uses numbers that depend on the position" in plan.why
    beyond = ej.tiling(kept(n, n + 1), x, tile=tile, layout="NLC")
    assert (beyond.exact, beyond.notes) == (True, ())


def test_a_change_in_an_image():
    hidden = lambda x: x * (jnp.arange(x.shape[2]) != 333).astype(x.dtype)[None, None, :, None]  # noqa: E731
    plan = ej.tiling(hidden, jax.ShapeDtypeStruct((1, 40, 600, 1), jnp.float32), tile=(8, 16))
    assert not plan.exact
    assert ej.tiling(hidden, jax.ShapeDtypeStruct((1, 40, 600, 1), jnp.float32), tile=(8, None)).exact


POSITIONS = {
    "slices": lambda x: jnp.concatenate([x[:, :1234], -x[:, 1234:]], 1),
    "written": lambda x: x.at[:, 1234:1240].set(7.0),
    "patch": lambda x: jax.lax.dynamic_update_slice(x, jnp.ones((1, 3, 2), x.dtype), (0, 1234, 0)),
    "turned": lambda x: jnp.concatenate([x[:, :1234], x[:, 1250:1233:-1], x[:, 1251:]], 1),
    "lookup": lambda x: x[:, jnp.where(jnp.arange(x.shape[1]) == 1234, 1200, jnp.arange(x.shape[1]))],
    "longer arrays": lambda x: x if x.shape[1] < 600 else -x,
    "a mean of longer arrays": lambda x: x if x.shape[1] < 600 else x - x.mean(1, keepdims=True),
}


@pytest.mark.parametrize("form", POSITIONS)
def test_what_is_done_at_an_absolute_position_is_found(form):
    """Far from the ends, or on long arrays alone: no short array shows it."""
    plan = ej.tiling(POSITIONS[form], jax.ShapeDtypeStruct((1, 2000, 2), jnp.float32), tile=50, layout="NLC")
    assert not plan.exact
    assert re.search(r"takes more steps|does not move with the tile|uses numbers that depend", plan.why)


def test_a_hole_where_rows_and_columns_meet():
    """A mask of two axes: neither the rows nor the columns of the middle show the hole."""
    x = jax.ShapeDtypeStruct((1, 600, 700, 1), jnp.float32)

    def holed(x):
        rows, columns = jnp.arange(x.shape[1]) == 433, jnp.arange(x.shape[2]) == 557
        return jnp.where((rows[:, None] & columns[None])[None, :, :, None], 0.0, x)

    plan = ej.tiling(holed, x, tile=50)
    assert not plan.exact
    assert "`select_n`" in plan.why
    patched = lambda x: x.at[:, 433:436, 557:560].set(0.0)  # noqa: E731
    assert not ej.tiling(patched, x, tile=50).exact


def test_a_change_behind_numbers_that_differ_everywhere():
    """Turned by positions, all tiles know other numbers; the one with the hole is looked at all the same."""

    def turned(x):
        angle = jnp.arange(x.shape[1], dtype=jnp.float32)[None, :, None]
        a, b = x[..., :1] * jnp.cos(angle), x[..., 1:] * jnp.sin(angle)
        return a**2 / jnp.cos(angle) ** 2 + b**2 / jnp.sin(angle) ** 2

    def holed(x):
        return jnp.where((jnp.arange(x.shape[1]) == 1234)[None, :, None], 0.0, x)

    x = jax.ShapeDtypeStruct((1, 2000, 2), jnp.float32)
    kept = varying.kinds_of([0] * 9, [(i, i + 1) for i in range(9)], [b""] * 9, [])
    assert varying.unproved(kept, {}) == ([0], [])
    numbers = [(np.arange(9.0), {0: lines.Fraction(1)}), (np.arange(9) == 4, {0: lines.Fraction(1)})]
    kinds = varying.kinds_of([0] * 9, [(i, i + 1) for i in range(9)], [b""] * 9, numbers)
    assert {4} <= set(varying.unproved(kinds, {})[1]) <= set(range(9))
    assert not ej.tiling(lambda x: turned(holed(x)), x, tile=50, layout="NLC").exact


def test_numbers_that_are_too_many_are_said(monkeypatch):
    monkeypatch.setattr(varying, "MOST_READ", 1000)
    plan = ej.tiling(kept(1900, 2000), jax.ShapeDtypeStruct((1, 2000, 2), jnp.float32), tile=64, layout="NLC")
    assert plan.exact
    assert any("holds more numbers along an axis of 2000" in note for note in plan.notes)


@pytest.mark.parametrize("grid", [1, 2, 4])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 0), (0, 5), (3, 5)])
@pytest.mark.parametrize("n", [50, 53, 64])
def test_windows_are_as_short_as_they_can_be(grid, before, after, n):
    """Corners on the grid, lengths as the axis modulo the grid, tile and halo inside; one grid step less is too short."""
    cut = Cut(8, grid, lines.Fraction(1), (before, after))
    line, window = cut.line(n, n), cut.window(n)
    assert (n - window) % grid == 0
    assert -(-before // grid) * grid + 8 + after <= window < -(-before // grid) * grid + 8 + after + grid
    assert len(line.reads) == -(-n // 8)
    for (start, stop), (low, high), at in zip(line.reads, line.writes, line.inside, strict=True):
        assert stop - start == window
        assert start % grid == 0
        assert start <= max(0, low - before)
        assert stop >= min(n, high + after)
        assert at == low - start
    streamed = Cut(8, grid, lines.Fraction(1), (before, after), streamed=True).line(n, n)
    for (start, stop), (low, high) in zip(streamed.reads, streamed.writes, strict=True):
        assert start <= max(0, low - before)
        assert min(n, high + after) <= stop < low + 8 + after + grid
        assert (n - stop) % grid == 0
