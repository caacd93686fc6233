"""Laws of blocks that mix positions, against stacks, whose closed forms carry pairs of positions, and plain recursions."""

import math

import numpy as np
import pytest

from erfjax.closed_form import laws
from erfjax.errors import KernelError
from erfjax.layers import Attention, AvgPool, Conv, Identity, Upsample


@pytest.mark.parametrize(("mask", "options"), [("causal", {}), (3, {"window": 3}), ("full", {"causal": False})])
def test_attention_is_the_stack_of_uniform_attentions(mask, options):
    shape, unit = (7, 5) if mask != "full" else ((1, 7), (0, 5))
    field = ((1 + 0.5 * Attention(1, mask, scale=0)) ** 3).analytic(
        image_shape=shape, unit=unit, channels="random-signs", in_channels=4
    )
    assert field.coverage == "exact"
    found = laws.attention_share(7, 3, unit=5, branch=0.5, **options)
    np.testing.assert_allclose(found, field.normalised().ravel(), atol=1e-12)


def test_a_causal_decoder_is_a_u_and_without_residuals_its_left_arm():
    line = laws.attention_share(256, 8)
    assert line.argmin() not in (0, 255)
    binomial = np.array([math.comb(8, k) for k in range(9)])
    expected = binomial @ np.array([_row(256, k) ** 2 for k in range(9)])
    np.testing.assert_allclose(line, expected / expected.sum(), rtol=1e-9)
    left = laws.attention_share(256, 8, skip=0)
    assert (np.diff(left) <= 0).all()


def _row(tokens, k):
    mean = np.tril(np.ones((tokens, tokens))) / np.arange(1, tokens + 1)[:, None]
    return np.linalg.matrix_power(mean, k)[-1]


def test_the_horizon_of_windows_is_one_and_a_half():
    assert laws.window_horizon(8) / 8 == pytest.approx(1.537, abs=1e-3)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_recurrences_are_powers_of_jordan_blocks(order):
    block = 0.8 * np.eye(order) + np.diag(np.ones(order - 1), 1)
    expected = [np.linalg.matrix_power(block, k)[0, -1] for k in range(12)]
    np.testing.assert_allclose(laws.recurrence_gradient(0.8, 12, order), expected, atol=1e-12)


@pytest.mark.parametrize(("ndim", "pooled"), [(1, True), (2, True), (1, False)])
def test_residual_u_nets_have_the_scales_of_their_levels(ndim, pooled):
    net = Identity()
    for _ in range(2):
        down = AvgPool(2) if pooled else Conv(2, stride=2)
        net = 1 + down * Conv((3,) * ndim) * net * Upsample(2)
    n = 28
    units = [(n // 2 // 4 * 4 + i,) * ndim for i in range(4)]  # one of each phase
    fields = net.analytic(image_shape=(n,) * ndim, unit=units, channels="random-signs", in_channels=2)
    lines = [(f.normalised().sum(axis=tuple(range(1, ndim))), f.unit[0]) for f in fields]
    distance = np.mean([line @ (np.arange(n) - u) ** 2 for line, u in lines])
    assert laws.unet_scales(2, ndim=ndim, pooled=pooled).sigma ** 2 == pytest.approx(distance)


def test_mixers_spread_evenly():
    share = np.eye(6)[2]
    for _ in range(4):
        share = share + 0.25 * share.sum() / 6
    np.testing.assert_allclose(laws.mixer_share(6, 4, unit=2, branch=0.5), share / share.sum())


@pytest.mark.parametrize(
    "call",
    [
        lambda: laws.attention_share(4, 1, unit=4),
        lambda: laws.attention_share(4, 1, window=2, causal=False),
        lambda: laws.attention_share(4, 1, skip=0, branch=0),
        lambda: laws.window_horizon(4, skip=1.0),
        lambda: laws.recurrence_gradient(0.5, 4, order=0),
        lambda: laws.unet_scales(2, factor=0),
        lambda: laws.mixer_share(4, 1, unit=4),
        lambda: laws.mixer_share(4, 1, branch=-1),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(KernelError):
        call()
