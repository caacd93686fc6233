"""Slow truths for closed forms: powers of integer polynomials in exact arithmetic, and sums over all paths."""

import itertools
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np


def integer_power(taps: Sequence[int], n: int) -> Iterator[int]:
    """The coefficients of (Σ taps[j] z^j)^n in order, by J.C.P. Miller's recurrence; taps[0] must not be 0."""
    recent = [taps[0] ** n]
    yield recent[0]
    for m in range(1, n * (len(taps) - 1) + 1):
        terms = zip(taps[1:], reversed(recent), strict=False)
        total = sum((j * (n + 1) - m) * tap * before for j, (tap, before) in enumerate(terms, start=1))
        recent = [*recent, total // (m * taps[0])][-(len(taps) - 1) :]
        yield recent[-1]


def log_of(value: int, denominator: int = 1, power: int = 1) -> float:
    """Correctly rounded natural logarithm of value / denominator^power, integers of any size."""
    if value == 0:
        return -math.inf
    with localcontext() as context:
        context.prec = 40
        shift = max(0, value.bit_length() - 160)
        return float(Decimal(value >> shift).ln() + shift * Decimal(2).ln() - power * Decimal(denominator).ln())


def exact_log_power(taps: Sequence[float], n: int) -> np.ndarray:
    """log of the n-th power of a kernel of doubles, every one taken at its exact binary value."""
    exact = [Fraction(float(tap)) for tap in taps]
    denominator = math.lcm(*(f.denominator for f in exact))
    counts = integer_power([int(f * denominator) for f in exact], n)
    return np.array([log_of(c, denominator, n) for c in counts])


def all_paths(
    kernels: Sequence[np.ndarray], strides: Sequence[Sequence[int]], dilations: Sequence[Sequence[int]]
) -> np.ndarray:
    """The map of a chain by summing the products of weights over every path, one tap per layer."""
    dims = kernels[0].ndim
    jump, steps = [1] * dims, []
    for stride, dilation in zip(strides, dilations, strict=True):
        steps.append([j * d for j, d in zip(jump, dilation, strict=True)])
        jump = [j * s for j, s in zip(jump, stride, strict=True)]
    shape = [1 + sum(step[a] * (k.shape[a] - 1) for step, k in zip(steps, kernels, strict=True)) for a in range(dims)]
    result = np.zeros(shape)
    for path in itertools.product(*(np.ndindex(k.shape) for k in kernels)):
        at = tuple(sum(step[a] * tap[a] for step, tap in zip(steps, path, strict=True)) for a in range(dims))
        result[at] += math.prod(k[tap] for k, tap in zip(kernels, path, strict=True))
    return result
