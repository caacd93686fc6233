"""Benchmarks that need what this machine lacks run dry; a guard that fails says which bound."""

import jax
import pytest

from benchmarks import check, cold, gpu, harness, scale


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="on an accelerator it runs in earnest")
def test_the_accelerator_benchmark_runs_dry_on_a_cpu(monkeypatch):
    monkeypatch.setattr(gpu, "PRECISIONS", ("bfloat16",))
    table = harness.table("gpu", gpu.rows())
    assert len(table.rows) == 2 * len(gpu.PRECISIONS)
    assert {"of matrix rate", "of bandwidth"} <= set(table.columns)


def test_the_guard_says_which_bound_does_not_hold(monkeypatch):
    monkeypatch.setattr(check, "WARM", ())
    monkeypatch.setattr(cold, "first_call", lambda name, size, batch, way: 1.0 if way == cold.DENSE else 9.0)
    with pytest.raises(SystemExit, match=r"ResNet-50, analytic, sum: 9\.00x the first dense gradient, at most 4x"):
        list(check.rows())


def test_the_scale_study_on_small_networks(monkeypatch, tmp_path):
    monkeypatch.setattr(scale, "GRID", {"samples": (2, 8), "units": (1, 4)})
    monkeypatch.setattr(scale, "REPEATS", 1)
    for name, value in (("DEPTH", 2), ("WIDTH", 4), ("SIDE", 12)):
        monkeypatch.setattr(scale, name, value)
    monkeypatch.setattr(scale.measured, "__defaults__", (2, 4, 12, 2, 1))
    rows = {name: scale.row(name, values) for name, values in scale.GRID.items()}
    assert rows["samples"].facts["theory"] == pytest.approx(1)
    assert rows["samples"].facts["s to 5 % error"] > 0
    assert 0 < rows["units"].facts["theory"] < 1
    assert scale.draw(rows, tmp_path / "scale.png").stat().st_size > 1000
