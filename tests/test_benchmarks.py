"""Benchmarks that need what this machine lacks run dry; a guard that fails says which bound."""

import jax
import pytest

from benchmarks import check, cold, gpu, harness


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
