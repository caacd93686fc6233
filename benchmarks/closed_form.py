"""Powers of kernels in closed form, against repeated convolution in NumPy, plain FFT powers and exact integers.

The worst relative error is over every point whose true value is a normal double; "points lost" is the share of them
without a correct digit. Truth comes from exact integers where they are affordable, else from the direct
sum of positive terms, and at n = 1,000,000 from our own logarithms.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import scipy.signal

from benchmarks import harness
from erfjax.closed_form import extended_binomial, log_power, power

Candidates = Mapping[str, Callable[[], np.ndarray]]


def rows() -> Iterator[harness.Row]:
    """Each row compares `erfjax` with other ways to the same map."""
    for n in (40, 400, 2000):
        kernel = np.ones(3) / 3
        candidates = {**_rivals(kernel, n), "exact integers": lambda n=n: _exact(n)}
        yield _row("uniform, 3 taps", f"n = {n}", candidates, _exact(n))
    kernel = np.random.default_rng(0).random(31)
    kernel /= kernel.sum()
    yield _row("random, 31 taps", "n = 100", _rivals(kernel, 100), power(kernel, 100, "direct"))
    matrix = np.random.default_rng(0).random((3, 3))
    matrix /= matrix.sum()
    yield _row("random 3x3, not separable", "n = 60", _rivals(matrix, 60), power(matrix, 60, "direct"))
    kernel = np.ones(3) / 3
    candidates = dict(list(_rivals(kernel, 1_000_000).items())[1:])
    truth = np.exp(log_power(kernel, 1_000_000))
    yield _row("uniform, 3 taps", "n = 1,000,000", candidates, truth, "FFT power")


def _rivals(kernel: np.ndarray, n: int) -> Candidates:
    return {
        "NumPy repeated convolution": functools.partial(_repeat, kernel, n),
        "FFT power": functools.partial(_fft_power, kernel, n),
        "erfjax": functools.partial(power, kernel, n),
        "erfjax, in logs": functools.partial(log_power, kernel, n),
    }


def _row(
    what: str, sizes: str, candidates: Candidates, truth: np.ndarray, baseline: str = "NumPy repeated convolution"
) -> harness.Row:
    values = {name: np.exp(f()) if "logs" in name else f() for name, f in candidates.items()}
    normal = truth > sys.float_info.min
    errors = {name: np.abs(value[normal] / truth[normal] - 1) for name, value in values.items()}
    facts = {
        "worst relative error": {name: float(error.max()) for name, error in errors.items()},
        "points lost": {name: f"{(error >= 1).mean():.1%}" for name, error in errors.items()},
    }
    return harness.compare(what, sizes, candidates, baseline, facts)


def _exact(n: int) -> np.ndarray:
    whole = 3**n
    return np.array([count / whole for count in extended_binomial(n, 3)])


def _repeat(kernel: np.ndarray, n: int) -> np.ndarray:
    convolve = np.convolve if kernel.ndim == 1 else functools.partial(scipy.signal.convolve, method="direct")
    return functools.reduce(convolve, [kernel] * n)


def _fft_power(kernel: np.ndarray, n: int) -> np.ndarray:
    shape: Sequence[int] = [n * (k - 1) + 1 for k in kernel.shape]
    return np.fft.irfftn(np.fft.rfftn(kernel, shape, axes=range(kernel.ndim)) ** n, shape, axes=range(kernel.ndim))
