"""Networks whose masks cut their field, each with a name: attention of every library, masked kernels, routing.

Every entry maps (rng) to a function of x (1, n, c) in float64 and the x; what it sees is decided by its Jacobian.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

N, C = 12, 4
SEGMENTS = np.repeat([0, 1, 2], [5, 3, 4])
HERE, THERE = np.arange(N)[:, None], np.arange(N)[None, :]
MASKS = {
    "causal": HERE >= THERE,
    "sliding": (HERE >= THERE) & (HERE - THERE < 3),
    "banded": np.abs(HERE - THERE) < 3,
    "dilated": (HERE >= THERE) & ((HERE - THERE) % 3 == 0),
    "blocks": SEGMENTS[:, None] == SEGMENTS[None, :],
    "chunks": (THERE // 4 <= HERE // 4) & (THERE // 4 >= HERE // 4 - 1),
    "prefix": (THERE < 3) | (HERE >= THERE),
    "padding": np.broadcast_to((THERE < 9), (N, N)),
    "anti": HERE <= THERE,
    "scattered": np.random.default_rng(3).random((N, N)) < 0.4,
}
FORMS = {
    "where -inf": lambda s, m: jnp.where(m, s, -jnp.inf),
    "where least": lambda s, m: jnp.where(m, s, jnp.finfo(s.dtype).min),
    "where -1e9": lambda s, m: jnp.where(m, s, -1e9),
    "add -inf": lambda s, m: s + jnp.where(m, 0.0, -jnp.inf),
    "add -1e9": lambda s, m: s + jnp.where(m, 0.0, -1e9),
    "add product": lambda s, m: s + (1.0 - m.astype(s.dtype)) * -1e9,
    "subtract": lambda s, m: s - (1.0 - m.astype(s.dtype)) * 1e9,
    "scaled after": lambda s, m: (s + jnp.where(m, 0.0, -1e9)) / 1.7,
}


def weights(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]))


def head(rng, heads=1):
    """Queries, keys and values (1, n, heads, d) of a sequence, and the way back."""
    wq, wk, wv = (weights(rng, C, heads, 3) for _ in range(3))
    wo = weights(rng, heads, 3, C)

    def project(x):
        return tuple(jnp.einsum("ntc,chd->nthd", x, w) for w in (wq, wk, wv))

    return project, lambda y: jnp.einsum("nthd,hdc->ntc", y, wo)


def softmax_by_hand(s):
    e = jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def awake(mask):
    """The mask, where a row that would see nothing sees itself."""
    return mask | (~mask.any(-1, keepdims=True) & np.eye(N, dtype=bool))


def attention(rng, form=FORMS["where -inf"], softmax=jax.nn.softmax, layers=1, heads=1):
    """Masked attention with a residual, as a function of x and the mask."""
    parts = [head(rng, heads) for _ in range(layers)]

    def f(x, mask):
        for project, back in parts:
            q, k, v = project(x)
            s = jnp.einsum("nihd,njhd->nhij", q, k) / jnp.sqrt(3.0)
            x = x + back(jnp.einsum("nhij,njhd->nihd", softmax(form(s, mask)), v))
        return x

    return f


def with_mask(name, **options):
    return lambda rng: functools.partial(attention(rng, **options), mask=jnp.asarray(awake(MASKS[name])))


def dot_product(rng, heads=2, kv_heads=None, **options):
    """`jax.nn.dot_product_attention`, with fewer heads for keys and values if asked for."""
    wq, wo = weights(rng, C, heads, 4), weights(rng, heads, 4, C)
    wk, wv = (weights(rng, C, kv_heads or heads, 4) for _ in range(2))

    def f(x):
        q, k, v = (jnp.einsum("ntc,chd->nthd", x, w) for w in (wq, wk, wv))
        return jnp.einsum("nthd,hdc->ntc", jax.nn.dot_product_attention(q, k, v, **options), wo)

    return f


def rotary(x):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] / 100 ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def rope(rng):
    wq, wk, wv = (weights(rng, C, 2, 4) for _ in range(3))

    def f(x):
        q, k, v = (jnp.einsum("ntc,chd->nthd", x, w) for w in (wq, wk, wv))
        return jax.nn.dot_product_attention(rotary(q), rotary(k), v, is_causal=True).reshape(1, N, 8)

    return f


def alibi(rng):
    """Linear biases, causal, as one additive array of all heads."""
    project, back = head(rng, 2)

    def f(x):
        q, k, v = project(x)
        away = jnp.arange(N)[:, None] - jnp.arange(N)[None, :]
        slopes = 2.0 ** -jnp.arange(1.0, 3.0)
        bias = jnp.where(away >= 0, -slopes[:, None, None] * away, -jnp.inf)
        return back(jnp.einsum("nhij,njhd->nihd", jax.nn.softmax(jnp.einsum("nihd,njhd->nhij", q, k) + bias), v))

    return f


def online(rng, causal=True, fill=-jnp.inf):
    """Attention by a scan over blocks of keys, with a running maximum and a running sum."""
    project, back = head(rng)
    block = 4

    def f(x):
        q, k, v = project(x)

        def step(carry, start):
            most, total, sum_ = carry
            ks, vs = (lax.dynamic_slice_in_dim(a, start, block, 1) for a in (k, v))
            s = jnp.einsum("nihd,njhd->nhij", q, ks)
            keys = start + jnp.arange(block)
            s = jnp.where(keys[None, :] <= jnp.arange(N)[:, None], s, fill) if causal else s
            more = jnp.maximum(most, s.max(-1))
            p = jnp.exp(s - more[..., None])
            shrink = jnp.exp(most - more)
            return (
                more,
                total * shrink + p.sum(-1),
                sum_ * shrink[..., None] + jnp.einsum("nhij,njhd->nhid", p, vs),
            ), None

        start = jnp.full((1, 1, N), -1e30), jnp.zeros((1, 1, N)), jnp.zeros((1, 1, N, 3))
        (_, total, sum_), _ = lax.scan(step, start, jnp.arange(0, N, block))
        return back((sum_ / total[..., None]).transpose(0, 2, 1, 3))

    return f


def by_blocks(rng, fill):
    """Blocks of queries outside, blocks of keys inside: of some pairs of blocks nothing is seen."""
    project, back = head(rng)
    block = 4

    def f(x):
        q, k, v = project(x)

        def rows(_, first):
            here = lax.dynamic_slice_in_dim(q, first, block, 1)

            def step(carry, start):
                most, total, sum_ = carry
                ks, vs = (lax.dynamic_slice_in_dim(a, start, block, 1) for a in (k, v))
                s = jnp.einsum("nihd,njhd->nhij", here, ks)
                s = jnp.where((start + jnp.arange(block))[None, :] <= (first + jnp.arange(block))[:, None], s, fill)
                more = jnp.maximum(most, s.max(-1))
                p, shrink = jnp.exp(s - more[..., None]), jnp.exp(most - more)
                sum_ = sum_ * shrink[..., None] + jnp.einsum("nhij,njhd->nhid", p, vs)
                return (more, total * shrink + p.sum(-1), sum_), None

            start = jnp.full((1, 1, block), fill), jnp.zeros((1, 1, block)), jnp.zeros((1, 1, block, 3))
            (_, total, sum_), _ = lax.scan(step, start, jnp.arange(0, N, block))
            return None, sum_ / total[..., None]

        _, found = lax.scan(rows, None, jnp.arange(0, N, block))
        return back(found.transpose(1, 0, 3, 2, 4).reshape(1, N, 1, 3))

    return f


def shifted_windows(rng, fill):
    """Windows of 4 tokens, rolled by 2, with the mask between what the roll has brought together."""
    project, back = head(rng)
    region = np.zeros(N, int)
    region[-4:-2], region[-2:] = 1, 2
    windows = region.reshape(-1, 4)
    mask = np.where(windows[:, :, None] != windows[:, None, :], fill, 0.0)

    def f(x):
        y = jnp.roll(x, -2, 1).reshape(N // 4, 4, C)
        q, k, v = project(y)
        s = jnp.einsum("wihd,wjhd->whij", q, k)
        s = s.reshape(1, N // 4, 1, 4, 4) + jnp.asarray(mask)[None, :, None]
        a = jax.nn.softmax(s.reshape(N // 4, 1, 4, 4))
        return x + jnp.roll(back(jnp.einsum("whij,wjhd->wihd", a, v)).reshape(1, N, C), 2, 1)

    return f


def triangular_dense(rng):
    w = weights(rng, N, N)
    return lambda x: jnp.einsum("ij,njc->nic", jnp.tril(w), x)


def permuted(rng):
    order = rng.permutation(N)
    f = with_mask("causal")(rng)
    return lambda x: f(x[:, order])[:, np.argsort(order)]


def routed(rng):
    """A known permutation, written as a matrix."""
    order = rng.permutation(N)
    return lambda x: jnp.einsum("ij,njc->nic", jax.nn.one_hot(order, N, dtype=x.dtype), jnp.sin(x))


def masked_tokens(rng):
    """Tokens of padding are multiplied by zero before a mean and a dense layer over positions."""
    w, keep = weights(rng, N, N), jnp.arange(N) < 9

    def f(x):
        x = x * keep[None, :, None]
        return jnp.einsum("ij,njc->nic", w, x) + (x.sum(1, keepdims=True) / keep.sum())

    return f


def relative_shift(rng):
    """Transformer-XL: scores against relative positions, moved into place by padding and reshaping, then masked."""
    project, back = head(rng)
    r = weights(rng, N, 3)

    def f(x):
        q, k, v = project(x)
        s = jnp.einsum("nihd,njhd->nhij", q, k)
        b = jnp.einsum("nihd,jd->nhij", q, r)
        b = jnp.pad(b, ((0, 0), (0, 0), (0, 0), (1, 0))).reshape(1, 1, N + 1, N)[:, :, 1:].reshape(1, 1, N, N)
        s = jnp.where(jnp.tril(jnp.ones((N, N), bool)), s + b, -1e30)
        return back(jnp.einsum("nhij,njhd->nihd", jax.nn.softmax(s), v))

    return f


def linear_attention(rng, way):
    """Scores times a causal mask, without a softmax, moved about before they meet the values."""
    project, back = head(rng)

    def f(x):
        q, k, v = project(x)
        s = jnp.einsum("nihd,njhd->nhij", q, k) * jnp.asarray(MASKS["causal"].astype(float))
        if way == "concatenate":
            s, v = jnp.concatenate([s, s[..., :3]], -1), jnp.concatenate([v, v[:, -3:]], 1)
        elif way == "pad":
            s, v = jnp.pad(s, ((0, 0),) * 3 + ((2, 1),)), jnp.pad(v, ((0, 0), (2, 1), (0, 0), (0, 0)))
        elif way == "dynamic slice":
            s, v = (lax.dynamic_slice_in_dim(a, 1, N - 3, axis) for a, axis in ((s, 3), (v, 1)))
        return back(jnp.einsum("nhij,njhd->nihd", s, v))

    return f


def gated_by(rng, way):
    """Tokens that are zero make a gate that is zero: what it multiplies is not seen there."""
    w, keep = weights(rng, C, C), jnp.asarray((np.arange(N) % 3 > 0).astype(float))[None, :, None]
    gate = {"product": lambda y: y @ w, "sum": lambda y: y.sum(-1, keepdims=True)}[way]
    return lambda x: gate(x * keep) * jnp.roll(x, 1, 1)


def online_additive(rng):
    """A running maximum of blocks of scores to which a mask adds -1e9; in some blocks nothing else is left."""
    project, back = head(rng)

    def f(x):
        q, k, v = project(x)
        s = jnp.einsum("nihd,njhd->nhij", q, k) + jnp.where(jnp.asarray(MASKS["causal"]), 0.0, -1e9)
        most = jnp.maximum(s[..., :6].max(-1), s[..., 6:].max(-1))
        e = jnp.exp(s - most[..., None])
        return back(jnp.einsum("nhij,njhd->nihd", e / e.sum(-1, keepdims=True), v))

    return f


def chosen_by_data(rng):
    """A mask that the data make, cut by a causal one."""
    project, back = head(rng)

    def f(x):
        q, k, v = project(x)
        s = jnp.einsum("nihd,njhd->nhij", q, k)
        mask = (s > 0) & jnp.asarray(MASKS["causal"]) | jnp.eye(N, dtype=bool)
        return back(jnp.einsum("nhij,njhd->nihd", jnp.where(mask, jnp.exp(s), 0.0), v) + v.sum(-1, keepdims=True))

    return f


def relative_shift_twice(rng):
    first, second = relative_shift(rng), relative_shift(rng)
    return lambda x: second(jnp.tanh(first(x)))


NETWORKS = {
    **{
        f"linear, {way}": functools.partial(linear_attention, way=way)
        for way in ("plain", "concatenate", "pad", "dynamic slice")
    },
    **{f"gated by a {way}": functools.partial(gated_by, way=way) for way in ("product", "sum")},
    "online, additive": online_additive,
    "relative shift twice": relative_shift_twice,
    "two layers": with_mask("sliding", layers=2),
    "two heads": with_mask("scattered", heads=2),
    "jax causal": functools.partial(dot_product, is_causal=True),
    "jax window": functools.partial(dot_product, local_window_size=(3, 1)),
    "jax causal window": functools.partial(dot_product, is_causal=True, local_window_size=(2, 0)),
    "jax mask": functools.partial(dot_product, mask=jnp.asarray(MASKS["blocks"])[None, None]),
    "jax bias": functools.partial(dot_product, bias=jnp.where(jnp.asarray(MASKS["chunks"]), 0.0, -jnp.inf)[None, None]),
    "jax grouped": functools.partial(dot_product, heads=4, kv_heads=2, is_causal=True),
    "jax lengths": functools.partial(
        dot_product, query_seq_lengths=jnp.array([N]), key_value_seq_lengths=jnp.array([9])
    ),
    "rotary": rope,
    "alibi": alibi,
    "online": online,
    "online, finite": functools.partial(online, fill=-1e30),
    "online, blocks of queries": functools.partial(by_blocks, fill=-1e30),
    "online, no mask": functools.partial(online, causal=False),
    "shifted windows, -100": functools.partial(shifted_windows, fill=-100.0),
    "shifted windows, -inf": functools.partial(shifted_windows, fill=-np.inf),
    "triangular dense": triangular_dense,
    "permuted": permuted,
    "routed": routed,
    "masked tokens": masked_tokens,
    "relative shift": relative_shift,
}
