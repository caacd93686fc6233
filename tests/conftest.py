"""Settings under which every test runs: strict promotion, no global x64, and a fixture that runs a test in both precisions.

Tests compile much and compute little, so XLA optimises little here, which takes 40 % less time. `make test-latest`, `make docs`,
`make notebooks` and `make run` compile as users do.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of processes that a test starts, too

import jax
import pytest

jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """Runs the test twice; gives the name of the floating dtype that JAX uses by default inside."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param
