"""Settings under which every test runs: strict promotion, no global x64, and a fixture that runs a test in both precisions.

Tests compile much and compute little, so XLA optimises little here, which takes 40 % less time. `make test-latest`, `make docs`,
`make notebooks` and `make run` compile as users do.
"""

import os
import pkgutil
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of processes that a test starts, too

import jax
import pytest
from jaxtyping import install_import_hook

# Calls are checked against their annotations, shapes too. `tracing` has no shapes to check and many short calls.
PACKAGE = str(Path(__file__).parent.parent / "erfjax")
checked = [f"erfjax.{module.name}" for module in pkgutil.iter_modules([PACKAGE]) if module.name != "tracing"]
install_import_hook(checked, "beartype.beartype")

jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """Runs the test twice; gives the name of the floating dtype that JAX uses by default inside."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param
