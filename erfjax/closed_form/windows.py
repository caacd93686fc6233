"""Powers of a non-negative kernel, exact to the last tail: one short FFT per window of tilted taps, logs at the end.

A plain FFT of w^{*n} errs by about 1e-16 of the *peak*, so everything smaller than that is noise. Tilted, the peak
stands where it is wanted (see `tilting`): q comes from an FFT just longer than its bell, and every point within some
four standard deviations has all its digits. About support/σ windows cover everything. Four things make this hold at n =
10^6 and beyond:

* the factor M^n e^{-θ·m} is found once per window in 40-digit decimals;
* the spectrum is (1 + u)^n with u = Σ_j p(j) (e^{-iω(j - m/n)} - 1) summed without cancellation: the power costs no
  digits;
* every window bounds its own rounding error and certifies only the points that stand high enough above it;
* the tilt bounds w^{*n} from above, so it proves which points lie below a floor, and whole half-spaces are skipped.

Where a kernel is nearly periodic, such as (1, 1e-9, 1), tiny values interleave with large ones and no FFT certifies
them. Such windows are summed directly from two half powers, w^{*n}(m) = Σ_i w^{*a}(i) w^{*b}(m - i), a + b = n: every
term is positive, nothing is lost, and the tilt again confines the sum to the bell.
"""

import functools
import math
from collections.abc import Callable, Iterable

import numpy as np
import scipy
from jaxtyping import Bool, Float

from erfjax.closed_form import kernels
from erfjax.closed_form.tilting import Base, Index, Tilt, Vector, tilt_at

TOLERANCE = 1e-11
"""Relative error that a window certifies, ten times below what `power` promises. Of partial powers w^{*j} only j/n as
much is allowed, because the errors of two halves add up."""

TAIL = 48.0
"""Minus the logarithm (1e-21) of the probability that may alias into a window and of the smallest frequency kept."""

HALF_TAIL = 200.0
"""The same for sums of half powers, which resolve values down to 1e-76 of the peak."""

REACH = 3.7
"""Standard deviations from its centre that a window is expected to certify."""

EPSILON = float(np.finfo(np.float64).eps)

Values = Float[np.ndarray, "..."]
Mask = Bool[np.ndarray, "..."]
Halves = Callable[[], Iterable[Values]]


def log_power(kernel: Values, n: int, floor: float = -math.inf) -> Values:
    """Natural logarithm of the n-th power, n >= 1, of a kernel w >= 0 that is not all zero; -inf off the support.

    Values that are certainly below `floor` may be -inf as well.
    """
    points, weights = kernels.taps(kernel)

    @functools.cache
    def logs(count: int, above: float = -math.inf) -> Values:
        base = Base(points, weights, count, kernels.support_shape(kernel.shape, count))
        result = np.full(base.shape, -np.inf)
        if count == 1 or len(weights) == 1:
            result[tuple(count * points.T)] = count * np.log(weights)
        else:
            halves = functools.partial(map, logs, (count // 2, count - count // 2))
            _cover(base, result, support(kernel > 0, count), above, TOLERANCE * count / n, halves)
        return result

    return logs(n, floor)


def support(positive: Mask, n: int) -> Mask:
    """Where the n-th power is positive: sums of n taps, by repeated squaring of the indicator."""
    if positive.all():
        return np.ones(kernels.support_shape(positive.shape, n), dtype=bool)
    result = np.ones((1,) * positive.ndim, dtype=bool)
    for bit in bin(n)[2:]:
        result = _sumset(result, result)
        if bit == "1":
            result = _sumset(result, positive)
    return result


def _sumset(a: Mask, b: Mask) -> Mask:
    shape = [m + n - 1 for m, n in zip(a.shape, b.shape, strict=True)]
    sizes = [scipy.fft.next_fast_len(s, real=True) for s in shape]
    ways = scipy.fft.irfftn(scipy.fft.rfftn(a.astype(float), sizes) * scipy.fft.rfftn(b.astype(float), sizes), sizes)
    return ways[tuple(slice(s) for s in shape)] > 0.5


def _cover(base: Base, result: Values, reachable: Mask, floor: float, tolerance: float, halves: Halves) -> None:
    """Fills `result` window by window, the first open point first; three FFTs may try before half powers settle it."""
    todo = reachable.copy()
    flat, position = todo.reshape(-1), 0
    theta, sigma = np.zeros(todo.ndim), np.zeros(todo.ndim)
    while True:
        position += int(np.argmax(flat[position:]))
        if not flat[position]:
            return
        unit = tuple(int(i) for i in np.unravel_index(position, base.shape))
        for scale in (REACH, REACH / 2, 0.0):
            centre = _ahead(unit, scale * sigma / math.sqrt(todo.ndim), base.shape)
            if scale and (centre == unit or not reachable[centre]):
                continue
            tilt = tilt_at(base, centre, theta)
            theta, sigma = tilt.theta, tilt.sigma
            if tilt.at(unit) < floor:
                todo &= tilt.plane((0,) * todo.ndim, todo.shape) >= floor
            else:
                _transform(base, tilt, tolerance, todo, result)
            if not flat[position]:
                break
        else:
            first, second = halves()
            _sum_window(base, tilt, first, second, todo, result)
            if flat[position]:
                result[unit] = _sum_point(unit, first, second)
                flat[position] = False


def _ahead(unit: Index, by: Vector, shape: Index) -> Index:
    return tuple(min(u + int(b), size - 1) for u, b, size in zip(unit, by, shape, strict=True))


def _accept(tilt: Tilt, low: Index, q: Values, certain: float, todo: Mask, result: Values) -> None:
    """Writes every open point of a window whose q stands above what is certain."""
    box = tuple(slice(a, a + size) for a, size in zip(low, q.shape, strict=True))
    good = todo[box] & (q > certain)
    result[box][good] = tilt.plane(low, q.shape)[good] + np.log(q[good])
    todo[box] &= ~good


def _transform(base: Base, tilt: Tilt, tolerance: float, todo: Mask, result: Values) -> None:
    """One window by FFT."""
    sizes, low, high = _extent(base, tilt)
    coefficients, error = _spectrum(base, tilt, sizes)
    q = scipy.fft.irfftn(coefficients, sizes)
    q = q[np.ix_(*(np.arange(a, b) - c for a, b, c in zip(low, high, tilt.centre, strict=True)))]
    _accept(tilt, low, q, error / tolerance, todo, result)


def _width(base: Base, tilt: Tilt, tail: float, share: float = 1.0) -> Vector:
    """Distance from the mean of the power share·n beyond which the bell holds less than e^-tail (Bernstein)."""
    jump = np.abs(base.points - np.array(tilt.centre) / base.n).max(axis=0) * tail / 3
    return jump + np.sqrt(jump**2 + 2 * share * tilt.sigma**2 * tail)


def _extent(base: Base, tilt: Tilt) -> tuple[Index, Index, Index]:
    """FFT length per axis, and the half-open box around the centre into which less than e^-TAIL aliases."""
    offset = np.abs(base.n * tilt.drift)
    tail, half = offset + _width(base, tilt, TAIL), offset + 1.2 * REACH * tilt.sigma + 8
    sizes, low, high = [], [], []
    for t, h, centre, size in zip(tail, half, tilt.centre, base.shape, strict=True):
        length, h = scipy.fft.next_fast_len(int(t + h) + 1, real=True), int(h)
        if length >= size:
            length, h = scipy.fft.next_fast_len(size, real=True), size
        sizes.append(length)
        low.append(max(0, centre - h))
        high.append(min(size, centre + h + 1))
    return tuple(sizes), tuple(low), tuple(high)


def _spectrum(base: Base, tilt: Tilt, sizes: Index) -> tuple[np.ndarray, float]:
    """DFT of q around the centre, and a bound of the absolute error of q."""
    n, grid = base.n, np.zeros(sizes)
    np.add.at(grid, tuple((base.points % sizes).T), tilt.p)
    power = np.abs(scipy.fft.rfftn(grid)) ** 2
    kept = np.nonzero(power > math.exp(-2 * TAIL / n))
    frequency = np.stack(kept, axis=1)
    omega = 2 * np.pi * np.where(2 * frequency > sizes, frequency - sizes, frequency) / sizes
    blocks = np.array_split(omega, 1 + len(omega) * len(tilt.p) // 1_000_000)
    real, imaginary, rounded = np.concatenate([_excess(base, tilt, block) for block in blocks], axis=1)
    modulus = 0.5 * np.log1p(2 * real + real**2 + imaginary**2)
    size = np.exp(n * modulus)
    coefficients = np.zeros(power.shape, dtype=complex)
    coefficients[kept] = size * np.exp(1j * n * np.arctan2(imaginary, 1 + real))
    relative = 6 + math.log2(grid.size) + 16 * n * rounded / np.exp(modulus)
    return coefficients, float(2 * EPSILON * (size @ relative) / grid.size + 4 * len(sizes) * math.exp(-TAIL))


def _excess(base: Base, tilt: Tilt, omega: Float[np.ndarray, "F D"]) -> Float[np.ndarray, "3 F"]:
    """Real and imaginary part of u = Σ_j p(j) (e^{-iω·x_j} - 1), x_j = j - centre/n, and the size of what was rounded.

    The linear part of the sine is the drift, known to all digits; the rest is of third order and no term cancels.
    """
    y = omega @ ((base.points * base.n - np.array(tilt.centre)) / base.n).T
    square = y * y
    series = -y * square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72 * (1 - square / 110))))
    sine = np.where(square < 0.25, series, np.sin(y) - y)
    linear = omega @ tilt.drift
    real = -2 * np.sin(y / 2) ** 2 @ tilt.p
    return np.stack([real, -(sine @ tilt.p + linear), np.abs(real) + np.abs(sine) @ tilt.p + np.abs(linear)])


def _sum_window(base: Base, tilt: Tilt, first: Values, second: Values, todo: Mask, result: Values) -> None:
    """One window as a direct convolution of the tilted half powers, confined to the bell of the first of them."""
    share = (base.n // 2) / base.n
    middle = share * (np.array(tilt.centre) + base.n * tilt.drift)
    width = _width(base, tilt, HALF_TAIL, share)
    _, low, high = _extent(base, tilt)
    left = [max(0, int(m - w)) for m, w in zip(middle, width, strict=True)]
    right = [min(size, int(m + w) + 2) for m, w, size in zip(middle, width, first.shape, strict=True)]
    a = _levelled(first, tilt, share, left, right)
    b = _levelled(
        second,
        tilt,
        1 - share,
        [m - i + 1 for m, i in zip(low, right, strict=True)],
        [m - i for m, i in zip(high, left, strict=True)],
    )
    _accept(tilt, low, scipy.signal.convolve(b, a, "valid", "direct"), math.exp(-HALF_TAIL) / TOLERANCE, todo, result)


def _levelled(logs: Values, tilt: Tilt, share: float, low: list[int], high: list[int]) -> Values:
    """exp(logs - plane) on a box that may reach beyond the array, where it is 0."""
    inside = tuple(slice(max(0, i), max(0, j)) for i, j in zip(low, high, strict=True))
    kept = logs[inside]
    values = np.exp(kept - tilt.plane(tuple(max(0, i) for i in low), kept.shape, share))
    pads = [(max(0, -i), j - i - max(0, -i) - size) for i, j, size in zip(low, high, kept.shape, strict=True)]
    return np.pad(values, pads)


def _sum_point(unit: Index, first: Values, second: Values) -> float:
    """One point from all pairs of the half powers, in logarithms: the last resort below 1e-76 of the peak."""
    low = [max(0, m - size + 1) for m, size in zip(unit, second.shape, strict=True)]
    high = [min(m, size - 1) + 1 for m, size in zip(unit, first.shape, strict=True)]
    left = first[tuple(slice(i, j) for i, j in zip(low, high, strict=True))]
    right = second[tuple(slice(m - j + 1, m - i + 1) for m, i, j in zip(unit, low, high, strict=True))]
    terms = left + right[(slice(None, None, -1),) * len(unit)]
    peak = terms.max()
    return float(peak + np.log(np.exp(terms - peak).sum()))
