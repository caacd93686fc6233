"""Expectations of an elementwise function of a normal variable: the one Gaussian quadrature of the library.

    E[g(φ(z), φ'(z))],  z ~ N(m, q)

is a sum of integrals over panels with Gauss-Legendre nodes. Kinks and jumps of φ and φ' (ReLU, hard tanh, ELU ...) are found
first and become ends of panels, so between them everything is smooth. There are two fronts: `expectations` in float64 on the
host, cut finer until the result stands still (`mean_field`), and `integrals` of JAX arrays of means and variances, with panels
that resolve φ whatever these are (the chains of a traced network).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float64

from erfjax.closed_form.kernels import namespace
from erfjax.errors import KernelError
from erfjax.typing import Number

Both = Callable[[np.ndarray], np.ndarray]
"""x -> φ(x) and φ'(x), stacked."""

BLOCK = 2**12
"""φ is evaluated at so many points at a time, so that JAX compiles it once."""

PROBES = np.linspace(-9.9034876, 9.9021123, 2**15)
"""arsinh of the points at which φ is searched for kinks: 6e-4 apart at 0, 6e-4 |x| further out; no round numbers."""

BEND = 1e-4
"""Second difference of neighbouring probes, relative to the size of the function there, that may be a kink."""

SMOOTH = 0.09
"""A second difference over the one of four times the spacing: 1/16 for a smooth function, 1/8 or more at a kink."""

KINKS = 256
"""At most so many kinks are refined, those nearest to 0 first."""

WIDTH = 10.0
"""Standard deviations that the host integrates over; beyond lies 1e-23 of the mass."""

RULE = np.polynomial.legendre.leggauss(16)
"""Nodes and weights of one panel on the host."""

EDGES = np.concatenate([[0.0], 1e-4 * 1.6 ** np.arange(40)])
"""Ends of panels in units of the pre-activation, 0 .. 1e4 and mirrored: features of φ are resolved whatever q is."""

REFINEMENTS = (1, 2, 4, 8, 16)
"""Into how many parts panels are cut until the result stands still."""

REACH = 8.0
"""Standard deviations that `integrals` takes in; beyond lies 1e-15 of the mass."""

NODES, MASSES = ((a + b) / 2 for a, b in zip(np.polynomial.legendre.leggauss(8), (1.0, 0.0), strict=True))
"""One panel [0, 1] of `integrals`."""

DENSITY_ENDS = (-REACH, -5.0, -2.5, 0.0, 2.5, 5.0, REACH)
"""Ends of panels in standard deviations: they resolve the density."""

FEATURE_ENDS = (-16.0, -4.0, -1.0, 0.0, 1.0, 4.0, 16.0)
"""Ends of panels in units of z: they resolve φ, whatever the variance."""

MOST_KINKS, MOST_PANELS, FINEST = 16, 512, 2e-3
"""How many kinks of a traced φ are ends, those nearest to 0 first; how many panels there are, and what is halved no further."""

RESOLVED = (1e-6, 1e-7)
"""Errors that halve no panel: of the integral over it, and of the greatest mean over a panel."""


class Profile:
    """An activation as the quadrature sees it: φ and φ' in float64 on the host, and where they are not smooth."""

    def __init__(self, phi: Callable[..., Any]):
        self.compiled = jax.jit(functools.partial(_value_and_slope, phi))
        self.dtype: Any = np.float64
        try:
            self(np.zeros(1))
        except (TypeError, ValueError):  # φ insists on float32, e.g. by constants under strict promotion
            self.dtype = np.float32

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """φ and φ' at x, stacked: shape (2, *x.shape); in blocks of one size, so that φ is compiled once."""
        blocks = np.zeros((-(-x.size // BLOCK), BLOCK), dtype=self.dtype)
        blocks.reshape(-1)[: x.size] = x.reshape(-1)
        with jax.ensure_compile_time_eval(), jax.enable_x64(self.dtype == np.float64):
            both = np.concatenate([np.asarray(self.compiled(block), dtype=np.float64) for block in blocks], axis=1)
        return both[:, : x.size].reshape(2, *x.shape)

    @functools.cached_property
    def kinks(self) -> np.ndarray:
        """Where φ or φ' bends or jumps."""
        return kinks(self, np.finfo(self.dtype).eps)

    def check(self) -> None:
        """Moves half a block elsewhere and changes its neighbours: an elementwise function must not notice.

        Raises:
            KernelError: it does notice, or is no function of JAX arrays.
        """
        x, half = np.linspace(-2.1, 2, BLOCK), BLOCK // 2
        try:
            here, there = self(x)[:, :half], self(np.concatenate([1 - x[half:], x[:half]]))[:, half:]
        except Exception as error:
            raise KernelError(
                f"Mean field needs an elementwise function of JAX arrays, but calling it failed: {error}"
            ) from error
        if not np.allclose(here, there, rtol=1e-5, equal_nan=True):
            raise KernelError(
                "Mean field needs an elementwise function, but this one mixes the entries of its input "
                "(as softmax does)."
            )


def _value_and_slope(phi: Callable[..., Any], x: jax.Array) -> jax.Array:
    value, pullback = jax.vjp(phi, x)
    return jnp.stack([value, pullback(jnp.ones_like(value))[0]])


def two_slopes(both: Both) -> tuple[float, float] | None:
    """The slopes left and right of 0 of a φ that is two straight lines through 0, such as a ReLU; None for any other φ.

    Only for these is E[φ'²] = (left² + right²)/2 whatever the variance.

    Example:
        >>> import numpy as np
        >>> from erfjax.closed_form.gaussian_integrals import two_slopes
        >>> two_slopes(lambda x: np.stack([np.maximum(x, 0.1 * x), np.where(x > 0, 1.0, 0.1)]))
        (0.1, 1.0)
    """
    at = np.array([-16.0, -2.0, -1.0, -0.25, 0.25, 1.0, 2.0, 16.0])
    value = both(at)[0] / np.abs(at)
    left, right = -value[2], value[5]
    straight = np.allclose(value, np.where(at < 0, -left, right), rtol=1e-5, atol=1e-12)
    return (float(left), float(right)) if straight else None


def straight_pairs(slopes: tuple[Number, Number], root: Any, rho: Any, both: Any = None) -> tuple[Any, Any, Any]:
    """E φ, E[φ(z) φ(z')] and E[φ'(z) φ'(z')] of all pairs for two straight lines through 0: the arc-cosine kernels.

    Args:
        slopes: left and right of 0.
        root: standard deviations (n,) of normal variables of zero mean; NumPy or JAX.
        rho: their correlations: (n, n), or those of any pairs in any shape.
        both: the product of the two standard deviations of each pair, in the shape of `rho`; all pairs where it is left out.

    Source: Y. Cho, L. Saul, Kernel Methods for Deep Learning, NeurIPS 2009.

    Example:
        >>> import numpy as np
        >>> from erfjax.closed_form.gaussian_integrals import straight_pairs
        >>> straight_pairs((0.0, 1.0), np.ones(2), np.array([[1.0, 0.5], [0.5, 1.0]]))[2].round(4)
        array([[0.5   , 0.3333],
               [0.3333, 0.5   ]])
    """
    left, right = slopes
    xp = namespace(root, rho)
    angle = xp.arccos(rho)
    same, opposite = (math.pi - angle) / (2 * math.pi), angle / (2 * math.pi)  # both on one side, one on each
    sine = xp.sqrt(xp.maximum(1 - rho**2, 0)) / (2 * math.pi)
    even, odd = left**2 + right**2, 2 * left * right
    both = xp.outer(root, root) if both is None else both
    values = both * (even * (sine + same * rho) + odd * (opposite * rho - sine))
    return (right - left) * root / math.sqrt(2 * math.pi), values, even * same + odd * opposite


def kinks(both: Both, eps: Number) -> Float64[np.ndarray, " kinks"]:
    """Points where φ or φ' bends or jumps: second differences that do not shrink with the square of the spacing.

    Over a stretch of length h a smooth function has a second difference of h² |f''|, a bend h |Δf'|, a jump |Δf|.

    Args:
        both: φ and φ'.
        eps: the relative precision with which they are computed.
    """
    values = both(np.sinh(PROBES))
    floor = max(1e-8, 1e5 * eps)  # of what is greatest near 0: below, differences are rounding
    return np.unique(np.concatenate([_bends(lambda x, i=i: both(x)[i], values[i], floor) for i in range(2)]))  # type: ignore[misc]


def _bends(f: Callable[[np.ndarray], np.ndarray], values: np.ndarray, floor: Number) -> np.ndarray:
    """Where one function bends, nearest to 0 first where there are many, closed in on to the last digit."""
    with np.errstate(invalid="ignore", over="ignore"):
        fine = np.abs(values[:-2] - 2 * values[1:-1] + values[2:])[3:-3]
        wide = np.abs(values[:-8] - 2 * values[4:-4] + values[8:])
        local = np.max([np.abs(values[i : len(values) - 8 + i]) for i in (0, 4, 8)], axis=0)
        central = np.nanmax(np.abs(values[np.abs(PROBES) < 3]), initial=0.0)
        pair, reach = fine[:-1] + fine[1:], np.maximum(wide[:-1], wide[1:])
        bent = (pair > BEND * np.maximum(local[:-1], floor * central)) & (pair > 0.19 * reach)
    index = np.flatnonzero(bent) + 4
    index = index[nearest(PROBES[index], KINKS)]
    if not len(index):
        return np.empty(0)
    low, high = PROBES[index], PROBES[index + 1]
    points = max(9, min(65, BLOCK // len(index)))
    sharp = np.ones(len(index), bool)
    for zoom in range(math.ceil(math.log(1e15) / math.log((points - 1) / 2))):
        at = f(np.sinh(np.linspace(low, high, points)))
        with np.errstate(invalid="ignore", over="ignore"):
            second = np.nan_to_num(np.abs(at[:-2] - 2 * at[1:-1] + at[2:]))
            if not zoom:  # what oscillates is smooth from near: a sixteenth, where a bend keeps an eighth at least
                sharp = second.max(0) > np.nan_to_num(np.abs(at[:-8] - 2 * at[4:-4] + at[8:])).max(0) * SMOOTH
        steps, most, which = np.linspace(low, high, points), second.argmax(axis=0), np.arange(len(index))
        low, high = steps[most, which], steps[most + 2, which]
    low, high = low[sharp], high[sharp]
    return np.unique(np.sinh((low + high) / 2))


def nearest(points: np.ndarray, most: int) -> np.ndarray:
    """Which points are nearest to 0, where z is likely to be."""
    return np.argsort(np.abs(points), kind="stable")[:most]


def expectations(
    profile: Profile, g: Callable[[np.ndarray], np.ndarray], q: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """E[g(φ(z), φ'(z))], z ~ N(0, q), for each q of a vector, by panels that are cut until the result stands still.

    Example:
        >>> import jax, numpy as np
        >>> from erfjax.closed_form.gaussian_integrals import Profile, expectations
        >>> expectations(Profile(jax.nn.relu), lambda both: both[1] ** 2, np.array([1.0, 9.0])).round(12)
        array([0.5, 0.5])
    """
    root = np.sqrt(q)[:, None]
    ends = np.concatenate([-EDGES, EDGES, profile.kinks])[None] / root
    ends = np.concatenate(
        [np.broadcast_to(np.linspace(-WIDTH, WIDTH, 41), (len(q), 41)), np.clip(ends, -WIDTH, WIDTH)], axis=1
    )
    ends.sort(axis=1)
    nodes, weights = RULE
    tolerance, last = (1e-11 if profile.dtype == np.float64 else 1e-5), None
    for parts in REFINEMENTS:
        cuts = ends[:, :-1, None] + np.diff(ends)[..., None] * np.arange(parts) / parts
        half = np.diff(ends)[..., None, None] / (2 * parts)
        z = cuts[..., None] + half * (1 + nodes)
        density = half * weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        result = (g(profile(z * root[..., None, None])) * density).sum(axis=(1, 2, 3))
        if last is not None and np.allclose(result, last, rtol=tolerance, atol=1e-300):
            break
        last = result
    return result


def panels(both: Both, eps: Number) -> Float64[np.ndarray, " ends"]:
    """Ends of panels in units of z between which φ² and φ'² are smooth, and resolved by the rule of `integrals`."""
    bends = kinks(both, eps)
    if len(bends) > MOST_KINKS:  # far out, what oscillates quicker than the search has points looks bent
        bends = bends[np.abs(bends) < FEATURE_ENDS[-1]]
    ends = np.unique([*FEATURE_ENDS, *bends[nearest(bends, MOST_KINKS)]])
    while True:
        middles, widths = (ends[:-1] + ends[1:]) / 2, np.diff(ends)
        with np.errstate(over="ignore", invalid="ignore"):  # far out φ may overflow, and stays as it is
            whole, halves = _squares(both, ends), _squares(both, np.sort([*ends, *middles]))
            sums = halves[:, ::2] + halves[:, 1::2]
            greatest = np.nanmax(sums / np.maximum(widths, FINEST), axis=1, keepdims=True)
            rough = np.abs(whole - sums) > RESOLVED[0] * sums + RESOLVED[1] * greatest * widths
        more = middles[rough.any(axis=0) & (widths > FINEST)]
        more = more[nearest(more, MOST_PANELS - len(ends))]
        if not more.size:
            return ends
        ends = np.sort([*ends, *more])


def _squares(both: Both, ends: np.ndarray) -> np.ndarray:
    """∫φ² and ∫φ'² over panels, by the rule of `integrals`."""
    low, width = ends[:-1], np.diff(ends)
    values = both((low[:, None] + width[:, None] * NODES).ravel()).reshape(2, *low.shape, len(NODES))
    return (values**2 @ MASSES) * width


def integrals(
    terms: Callable[[Any, Any], Sequence[Any]],
    zeros: Sequence[Any],
    ends: np.ndarray | Sequence[float],
    mean: Any,
    sigma: Any,
) -> tuple[Any, ...]:
    """∫ of each term over the normal distribution of z, position by position, as JAX arrays.

    Args:
        terms: (z, weight of the node at every position) -> what is added to each integral.
        zeros: where each integral starts; they may be smaller than z, if `terms` cuts them.
        ends: ends of panels in units of z, as `panels` gives them.
        mean, sigma: of z, at every position.

    Example:
        >>> import jax.numpy as jnp
        >>> from erfjax.closed_form.gaussian_integrals import FEATURE_ENDS, integrals
        >>> mean, sigma = jnp.zeros(2), jnp.array([1.0, 3.0])
        >>> (square,) = integrals(lambda z, w: [w * z**2], [jnp.zeros(2)], FEATURE_ENDS, mean, sigma)
        >>> [round(float(s), 4) for s in square]
        [1.0, 9.0]
    """
    shape, dtype = (-1, *[1] * mean.ndim), mean.dtype
    features = jnp.clip((np.asarray(ends, dtype).reshape(shape) - mean[None]) / sigma[None], -REACH, REACH)
    fixed = np.asarray(DENSITY_ENDS, dtype).reshape(shape)
    lines = jnp.sort(jnp.concatenate([features, jnp.broadcast_to(fixed, (len(fixed), *mean.shape))]), axis=0)

    def panel(sums: Any, ends: Any) -> tuple[Any, None]:
        low, high = ends

        def node(sums: Any, rule: Any) -> tuple[Any, None]:
            at, mass = rule
            t = low + (high - low) * at
            weight = (high - low) * mass * jnp.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
            return tuple(s + term for s, term in zip(sums, terms(mean + sigma * t, weight), strict=True)), None

        return lax.scan(node, sums, (jnp.asarray(NODES, dtype), jnp.asarray(MASSES, dtype)))[0], None

    return lax.scan(panel, tuple(zeros), (lines[:-1], lines[1:]))[0]
