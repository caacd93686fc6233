"""Random networks: the field is the support of the dense Jacobian, and what a walk over single positions finds."""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import erfjax as ej
from tests import oracles
from tests.catalogue import LAYOUTS, Node, build

LARGEST = 22
ROUNDING = 1e-12
SETTINGS = functools.partial(
    hypothesis.settings,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def per_axis(draw, rank, low, high):
    return tuple(draw(st.integers(low, high)) for _ in range(rank))


@st.composite
def networks(draw):
    """A spatial shape and the nodes of a connected network on it: every array that is made is used."""
    rank = draw(st.sampled_from([1, 2]))
    space = per_axis(draw, rank, 5, 14 if rank == 1 else 9)
    hypothesis.assume(rank == 1 or space[0] != space[1])
    nodes, sizes, loose = [], {"input": space}, ["input"]
    for i in range(draw(st.integers(1, 6))):
        n = draw(operation(f"n{i}", rank, sizes, loose))
        nodes.append(n)
        sizes = oracles.shapes(nodes, space)
        loose = [name for name in loose if name not in n.inputs] + [n.name]
        hypothesis.assume(all(1 <= m <= LARGEST for m in sizes[n.name]))
    if len(loose) > 1:
        nodes.append(Node("last", draw(st.sampled_from(["add", "concat"])), tuple(loose), method="channels"))
    return space, nodes


@st.composite
def operation(draw, name, rank, sizes, loose):
    kinds = ["conv", "conv", "transposed", "pool", "pad", "slice", "resize", "reverse", "add", "concat"]
    op = draw(st.sampled_from(kinds))
    one = draw(st.sampled_from(loose)) if draw(st.booleans()) else draw(st.sampled_from(sorted(sizes)))
    x, ones = sizes[one], (1,) * rank
    window = {
        "kernel": per_axis(draw, rank, 1, 4),
        "stride": per_axis(draw, rank, 1, 3),
        "dilation": per_axis(draw, rank, 1, 3),
        "base": ones,
        "padding": tuple((draw(st.integers(-1, 4)), draw(st.integers(-1, 4))) for _ in range(rank)),
    }
    if op == "conv":
        if draw(st.booleans()):
            window["padding"] = draw(st.sampled_from(["SAME", "VALID"]))
        return Node(name, "conv", (one,), **window)
    if op == "transposed":
        return Node(name, "conv", (one,), **window | {"stride": ones, "base": per_axis(draw, rank, 2, 3)})
    if op == "pool":
        return Node(name, "pool", (one,), **window | {"padding": tuple((abs(a), abs(b)) for a, b in window["padding"])})
    if op == "pad":
        return Node(name, "pad", (one,), padding=window["padding"], base=per_axis(draw, rank, 1, 2))
    if op == "slice":
        starts = [draw(st.integers(0, m - 1)) for m in x]
        ends = tuple((a, draw(st.integers(a + 1, m))) for a, m in zip(starts, x, strict=True))
        return Node(name, "slice", (one,), padding=ends, stride=per_axis(draw, rank, 1, 3))
    if op == "resize":
        method = draw(st.sampled_from(["nearest", "linear", "cubic"]))
        return Node(name, "resize", (one,), per_axis(draw, rank, 2, 12), method=method)
    if op == "reverse":
        return Node(name, "reverse", (one,), method=draw(st.integers(0, rank - 1)))
    others = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, max_size=2))
    method = draw(st.sampled_from(["channels", *range(rank)])) if op == "concat" else None
    return Node(name, op, (one, *others), method=method)


def matrices(nodes, space):
    """The weights of every resize, read off a basis of a longer line: per axis (matrix, its first input, its first output)."""
    sizes, found = oracles.shapes(nodes, space), {}
    for n in nodes:
        if n.op == "resize":
            pairs = zip(sizes[n.inputs[0]], n.kernel, strict=True)
            found[n.name] = [longer(m, out, n.method, 1 + 64 // (out // math.gcd(m, out))) for m, out in pairs]
    return found


def longer(m, out, method, repeats):
    """The line with some periods more on either side, where the weights of the line are as they would be without a border."""
    step, period = m // math.gcd(m, out), out // math.gcd(m, out)
    shape = (m + 2 * repeats * step, out + 2 * repeats * period)
    matrix = jax.image.resize(jnp.eye(shape[0]), shape, method, antialias=False)
    return np.abs(np.asarray(matrix)) > ROUNDING, -repeats * step, -repeats * period


def lawless(n, shape):
    """Whether a resize is too small to show two periods (then it has no virtual positions), or picks pixels at even distances."""
    for m, out in zip(shape, n.kernel, strict=True):
        weights = np.asarray(jax.image.resize(jnp.eye(m), (m, out), n.method, antialias=False)) > ROUNDING
        inner = (weights.any(0) & ~weights[[0, -1]].any(0)).sum()
        steps = set(np.diff(weights.argmax(0)).tolist())
        if 2 * out // math.gcd(m, out) > inner or (len(steps) == 1 and (weights.sum(0) == 1).all()):
            return True
    return False


def check(space, nodes, seed, units=3):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.standard_normal((1, *space, 2)))
    layout = LAYOUTS[len(space)]
    f = build(nodes, channels=2, seed=seed)
    jacobian = oracles.support(build(nodes, channels=2, seed=seed, pool="avg"), x)
    out = jacobian.shape[1 : 1 + len(space)]
    asked = [tuple(m // 2 for m in out), *(tuple(int(rng.integers(m)) for m in out) for _ in range(units - 1))]
    weights = matrices(nodes, space)
    sizes = oracles.shapes(nodes, space)
    virtual_too = not any(n.op == "resize" and lawless(n, sizes[n.inputs[0]]) for n in nodes)
    for unit, found in zip(asked, ej.theoretical(f, x, unit=list(asked), layout=layout), strict=True):
        seen = jacobian[(0, *unit)].any((0, 1, -1))
        np.testing.assert_array_equal(found.mask(), seen)
        hull = [np.flatnonzero(seen.any(tuple(b for b in range(len(space)) if b != a))) for a in range(len(space))]
        expected = [(int(h[0]), int(h[-1]) + 1) if h.size else (0, 0) for h in hull]
        assert list(zip(*found.clipped, strict=True)) == expected
        walked = np.zeros(space, bool)
        walked[
            tuple(np.array(list(oracles.field(nodes, space, unit, True, weights)), int).reshape(-1, len(space)).T)
        ] = True
        np.testing.assert_array_equal(found.mask(), walked)
        virtual = np.array(list(oracles.field(nodes, space, unit, False, weights)), int).reshape(-1, len(space))
        if virtual_too:
            nothing = np.zeros((1, len(space)), int)  # a window between the taps of all others has no place either
            assert found.start == tuple((virtual if virtual.size else nothing).min(0).tolist())
            assert found.stop == tuple((virtual + 1 if virtual.size else nothing).max(0).tolist())
            assert all(a <= c and d <= b for a, b, (c, d) in zip(found.start, found.stop, expected, strict=True) if d)


@SETTINGS(max_examples=30)
@hypothesis.given(networks(), st.integers(0, 2**31 - 1))
def test_random_networks(network, seed):
    with jax.enable_x64(True):
        check(*network, seed)


@pytest.mark.slow
@SETTINGS(max_examples=250, derandomize=False)
@hypothesis.given(networks(), st.integers(0, 2**31 - 1))
def test_many_random_networks(network, seed):
    with jax.enable_x64(True):
        check(*network, seed, units=6)
