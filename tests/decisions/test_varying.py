"""Numbers that a function knows by position: tiles are alike where these are; windows are no longer than they must be."""

import jax
import jax.numpy as jnp
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
