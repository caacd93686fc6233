"""Random networks with known zeros, written once for two houses: JAX, which is traced, and NumPy, which differentiates.

A network is a list of steps, functions (x, xp) of a sequence x (..., n, c). In NumPy x is complex and carries a step of 1e-30
along each input in its imaginary part: what comes out is the Jacobian in double precision, exact zeros included, and nothing has
to be compiled.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

STEP = 1e-30
C = 2


def jacobian(steps, x):
    """∂f/∂x of shape f(x).shape + x.shape, by complex steps."""
    moved = x + 1j * STEP * np.eye(x.size).reshape(x.size, *x.shape)
    with np.errstate(all="ignore"):
        out = run(steps, moved, np)
    return np.moveaxis(out.imag / STEP, 0, -1).reshape(*out.shape[1:], *x.shape)


def run(steps, x, xp):
    for step in steps:
        x = step(x, xp)
    return x


def network(rng):
    """The steps of a random network, and its input."""
    n = int(rng.integers(4, 9))
    kinds = rng.choice(len(STEPS), size=rng.integers(1, 4))
    return [STEPS[kind](rng, n) for kind in kinds], rng.standard_normal((n, C))


def random_mask(rng, n):
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    w = int(rng.integers(1, 4))
    segments = np.sort(rng.integers(0, 3, n))
    masks = [
        lambda: i >= j,
        lambda: (i >= j) & (i - j <= w),
        lambda: abs(i - j) <= w,
        lambda: (i - j) % (w + 1) == 0,
        lambda: segments[:, None] == segments,
        lambda: (j // w <= i // w) & (j // w >= i // w - 1),
        lambda: (j < w) | (i >= j),
        lambda: np.broadcast_to(j < n - w, (n, n)),
        lambda: rng.random((n, n)) < 0.5,
        lambda: np.ones((n, n), bool),
    ]
    mask = masks[rng.integers(len(masks))]()
    if rng.random() < 0.3:
        mask = mask & masks[rng.integers(len(masks))]()
    if rng.random() < 0.2:
        mask = mask[::-1, ::-1]
    return mask | (~mask.any(1, keepdims=True) & np.eye(n, dtype=bool))


def weights(rng, *shape):
    return 0.5 * rng.standard_normal(shape)


def hidden(rng, mask):
    """One of the ways to hide scores."""
    fill = [-np.inf, np.finfo(np.float64).min, -1e9, -1e4][rng.integers(4)]
    keep = mask.astype(np.float64)
    ways = [
        lambda s, xp: xp.where(xp.asarray(mask), s, fill),
        lambda s, xp: s + xp.where(xp.asarray(mask), 0.0, fill),
        lambda s, xp: s + (1 - xp.asarray(keep)) * -1e9,
        lambda s, xp: s - (1 - xp.asarray(keep)) * 1e9,
        lambda s, xp: xp.where(xp.asarray(~mask), fill, s),
    ]
    return ways[rng.integers(len(ways))]


def top(s, xp):
    return s.real.max(-1, keepdims=True) if xp is np else lax.stop_gradient(s.max(-1, keepdims=True))


def apart(x, xp):
    """Copies of one token made to differ: of equal keys all weights are equal, so that the query cancels."""
    n = x.shape[-2]
    return x * xp.asarray(1 + np.arange(n)[:, None] / n)


def softmax(s, xp):
    """Exactly one where a single key is left, also for complex numbers, whose quotients are rounded."""
    e = xp.exp(s - top(s, xp))
    a = e / e.sum(-1, keepdims=True)
    return np.where((e != 0).sum(-1, keepdims=True) == 1, e != 0, a) if xp is np else a


def attention(rng, n):
    """Attention with a random mask, two heads or one, with or without a residual."""
    heads = int(rng.integers(1, 3))
    wq, wk, wv = (weights(rng, C, heads, C) for _ in range(3))
    hide, residual, transposed = hidden(rng, random_mask(rng, n)), rng.random() < 0.5, rng.random() < 0.3

    def step(x, xp):
        q, k, v = (xp.einsum("...ic,chd->...hid", x, xp.asarray(w)) for w in (wq, wk, wv))
        s = hide(xp.einsum("...hid,...hjd->...hij", q, k), xp)
        a = softmax(s, xp)
        if transposed:
            y = xp.einsum("...hji,...hjd->...hid", xp.swapaxes(a, -1, -2), v)
        else:
            y = xp.einsum("...hij,...hjd->...hid", a, v)
        y = y.sum(-3)
        return x + y if residual else apart(y, xp)

    return step


def windowed(rng, n):
    """Attention inside windows of a rolled sequence, with a mask of its own for every window."""
    size = next((w for w in (3, 2) if n % w == 0), n)
    count, roll = n // size, int(rng.integers(0, size))
    hide = hidden(rng, np.stack([random_mask(rng, size) for _ in range(count)]))
    wq, wk, wv = (weights(rng, C, C) for _ in range(3))

    def step(x, xp):
        y = xp.roll(x, -roll, -2).reshape(*x.shape[:-2], count, size, C)
        q, k, v = (xp.einsum("...c,cd->...d", y, xp.asarray(w)) for w in (wq, wk, wv))
        s = hide(xp.einsum("...id,...jd->...ij", q, k), xp)
        y = xp.einsum("...ij,...jd->...id", softmax(s, xp), v)
        return apart(xp.roll(y.reshape(x.shape), roll, -2), xp)

    return step


def masked_convolution(rng, n):
    """A convolution over positions, some taps of which are zero for all channels."""
    size, dilation = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    taps = rng.random(size) < 0.6
    taps[rng.integers(size)] = True
    kernel = weights(rng, size, C, C) * taps[:, None, None]
    low = int(rng.integers(0, (size - 1) * dilation + 1))
    high = (size - 1) * dilation - low

    def step(x, xp):
        if xp is jnp:
            lines = ("NWC", "WIO", "NWC")
            w = jnp.asarray(kernel)
            return lax.conv_general_dilated(
                x[None], w, (1,), [(low, high)], rhs_dilation=(dilation,), dimension_numbers=lines
            )[0]
        padded = np.pad(x, [(0, 0), (low, high), (0, 0)])
        return sum(padded[:, t * dilation : t * dilation + n] @ kernel[t] for t in range(size))

    return step


def gathered(rng, n):
    """Positions that are looked up, some twice."""
    index = rng.integers(0, n, n) if rng.random() < 0.5 else rng.permutation(n)
    return lambda x, xp: apart(xp.take(x, xp.asarray(index), axis=-2), xp)


def recurrence(rng, n):
    """A linear recurrence that forgets everything at known places, forwards or backwards."""
    keep, decay, reverse = (rng.random(n) < 0.7).astype(np.float64), weights(rng, C), bool(rng.random() < 0.5)
    keep[0] = keep[0] if keep.any() else 1.0  # a factor that is zero everywhere is a silent branch, not a mask
    mix = weights(rng, C, C)

    def step(x, xp):
        if xp is jnp:
            cell = lambda h, xs: (xs[1] * (h * decay) + xs[0] @ jnp.asarray(mix),) * 2  # noqa: E731
            return lax.scan(cell, jnp.zeros(C), (x, jnp.asarray(keep)), reverse=reverse)[1]
        h, rows = np.zeros((len(x), C)), [None] * n
        for t in reversed(range(n)) if reverse else range(n):
            h = rows[t] = keep[t] * (h * decay) + x[:, t] @ mix
        return np.stack(rows, 1)

    return step


def over_positions(rng, n):
    """A dense layer over positions, some weights of which are zero."""
    w = weights(rng, n, n) * random_mask(rng, n)
    return lambda x, xp: xp.einsum("ij,...jc->...ic", xp.asarray(w), x)


def dropped(rng, n):
    """Positions that are set to zero before a mean, or are taken from elsewhere."""
    keep = rng.random(n) < 0.7
    keep[rng.integers(n)] = True
    w = weights(rng, C, C)
    ways = [
        lambda x, xp: x * xp.asarray(keep.astype(float))[:, None] @ xp.asarray(w),
        lambda x, xp: x + xp.where(xp.asarray(keep)[:, None], x, 0.0).sum(-2, keepdims=True),
        lambda x, xp: xp.where(xp.asarray(keep)[:, None], x @ xp.asarray(w), xp.roll(x, 1, -2)),
        lambda x, xp: xp.where(xp.asarray(keep)[:, None], xp.exp(x * 0.1), 0.0) * xp.roll(x, 2, -2),
    ]
    return ways[rng.integers(len(ways))]


def dense(rng, n):
    w = weights(rng, C, C)
    return lambda x, xp: xp.tanh(x @ xp.asarray(w) * 0.3)


def summed(rng, n):
    return lambda x, xp: xp.cumsum(x, -2)


STEPS = (
    attention,
    attention,
    windowed,
    masked_convolution,
    gathered,
    recurrence,
    over_positions,
    dropped,
    dense,
    summed,
)
