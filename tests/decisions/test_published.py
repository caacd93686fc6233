"""Integers that papers state about the reach of their networks, from the networks as the papers describe them.

One axis is enough: windows are squares and cubes. Widths are one; sizes do not depend on them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej


def conv(x, kernel, stride=1, padding="SAME", *, dilation=1, base=1):
    w = jnp.ones((kernel, x.shape[-1], 1), x.dtype)
    padding = [padding] if isinstance(padding, tuple) else padding
    dims = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(x, w, (stride,), padding, (base,), (dilation,), dimension_numbers=dims)


def same(x, kernel, stride=1):
    """Padded alike on both sides, as PyTorch does."""
    return conv(x, kernel, stride, ((kernel - 1) // 2,) * 2)


def pool(x, size, stride, padding=(0, 0)):
    return lax.reduce_window(x, -np.inf, lax.max, (1, size, 1), (1, stride, 1), [(0, 0), padding, (0, 0)])


def nearest(x):
    return jnp.repeat(x, 2, 1)


def bilinear(x):
    return jax.image.resize(x, (1, 2 * x.shape[1], 1), "bilinear")


def deconvolved(x):
    return conv(x, 2, 1, (1, 1), base=2)


def line(n):
    return jax.ShapeDtypeStruct((1, n, 1), jnp.float32)


def sizes(f, n):
    """Of every output the sizes that occur over its phases."""
    fields = ej.theoretical(f, line(n), layout="NWC")
    fields = fields if isinstance(fields, dict) else {"": fields}
    return {name: {row.size for row in field.phases().rows} for name, field in fields.items()}


def resnet_stages(x):
    """ResNet-50 with the stride in the 3 x 3, as torchvision has it."""
    x, ends = pool(same(x, 7, 2), 3, 2, (1, 1)), []
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = same(same(same(x, 1), 3, stride), 1) + same(x, 1, stride)
        ends.append(x)
    return ends


def test_resnet_pyramid():
    """T.-Y. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (RetinaNet): P3 to P7 on ResNet-50.

    P3 has two phases: its 3 x 3 lies over one unit of the level above, or over two.
    """

    def pyramid(x):
        _, c3, c4, c5 = resnet_stages(x)
        m4 = nearest(c5) + c4
        m3 = nearest(m4) + c3
        p6 = same(c5, 3, 2)
        ends = {"p3": same(m3, 3), "p4": same(m4, 3), "p5": same(c5, 3), "p6": p6, "p7": same(p6, 3, 2)}
        return {"c3": c3, "c4": c4, "c5": c5, **ends}

    found = sizes(pyramid, 1024)
    assert [max(found[name]) for name in ("c3", "c4", "c5")] == [91, 267, 427]
    assert found["p3"] == {427, 459}
    assert [found[name] for name in ("p4", "p5", "p6", "p7")] == [{459}, {491}, {491}, {619}]


def darknet(x):
    """Darknet-53 up to its strides of 8, 16 and 32."""
    x, ends = same(x, 3), []
    for blocks in (1, 2, 8, 8, 4):
        x = same(x, 3, 2)
        for _ in range(blocks):
            x = x + same(same(x, 1), 3)
        ends.append(x)
    return ends[2:]


def head(x):
    """The five convolutions before a route, three of them 1 x 1."""
    return same(same(same(same(same(x, 1), 3), 1), 3), 1)


def test_yolo():
    """J. Redmon, A. Farhadi, YOLOv3, 2018: 213, 533 and 917 pixels at strides 8, 16 and 32, along the backbone.

    With the routes from the coarser levels, which these numbers leave out, the two finer levels see more.
    """
    alone = sizes(lambda x: dict(zip("abc", (same(head(end), 3) for end in darknet(x)), strict=True)), 1024)
    assert alone == {"a": {213}, "b": {533}, "c": {917}}

    def routed(x):
        c8, c16, c32 = darknet(x)
        h32 = head(c32)
        h16 = head(c16 + nearest(h32))
        h8 = head(c8 + nearest(h16))
        return {"a": same(h8, 3), "b": same(h16, 3), "c": same(h32, 3)}

    found = sizes(routed, 2048)
    assert found["c"] == {917}
    assert min(found["b"]) > 917
    assert min(found["a"]) > 917


@pytest.mark.parametrize(("layers", "size"), [(1, 16), (3, 70), (4, 142), (5, 286)])
def test_patch_discriminators(layers, size):
    """P. Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017: n strided 4 x 4, two more."""

    def f(x):
        for stride in (2,) * layers + (1, 1):
            x = conv(x, 4, stride, (1, 1))
        return x

    assert sizes(f, 512) == {"": {size}}


def test_inflated_inception():
    """J. Carreira, A. Zisserman, Quo Vadis, Action Recognition?, CVPR 2017 (I3D): after the last pooling, at the end."""

    def f(x):
        x = conv(conv(x, 7, 2), 3)
        for _ in range(2):
            x = conv(x, 3) + conv(x, 1)
        x = conv(x, 3, 2)
        for _ in range(5):
            x = conv(x, 3) + conv(x, 1)
        pooled = x = conv(x, 2, 2)
        for _ in range(2):
            x = conv(x, 3) + conv(x, 1)
        return {"pooled": pooled, "end": x}

    assert sizes(f, 512) == {"pooled": {67}, "end": {99}}


@pytest.mark.parametrize(
    ("kernels", "strides", "size", "stride"),
    [
        ((10, 8, 4, 4, 4), (5, 4, 2, 2, 2), 465, 160),
        ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), 400, 320),
    ],
)
def test_wav2vec_encoders(kernels, strides, size, stride):
    """S. Schneider et al., wav2vec, 2019: 465 samples every 160; A. Baevski et al., wav2vec 2.0, 2020: 400 every 320."""

    def f(x):
        for layer in zip(kernels, strides, strict=True):
            x = conv(x, *layer, "VALID")
        return x

    field = ej.theoretical(f, line(16_000), layout="NWC")
    assert (field.size, field.stride) == ((size,), (stride,))
    found = ej.context(f, line(16_000), layout="NWC", rate=16_000)
    assert (found.left, found.right) == (0, size - stride)
    assert found.plan(stride * 10).halo == ((0, size - stride),)


def test_multi_stage_temporal_network():
    """Y. Abu Farha, J. Gall, MS-TCN, CVPR 2019: ten residual layers of dilation 1 to 512 see 2,047 frames per stage."""

    def stage(x):
        for i in range(10):
            x = x + conv(conv(x, 3, dilation=2**i), 1)
        return x

    found = ej.context(stage, line(4096), layout="NWC")
    assert (found.left, found.right) == (1023, 1023)
    assert found.table().rows[-1][3] == 2047


def test_wavenet():
    """A. van den Oord et al., WaveNet, 2016: a causal layer and dilations 1 to 512 of two taps: 1,025 samples, none ahead."""

    def f(x):
        for dilation in (1, *(2**i for i in range(10))):
            x = conv(jnp.pad(x, ((0, 0), (dilation, 0), (0, 0))), 2, 1, "VALID", dilation=dilation)
        return x

    found = ej.context(f, line(2048), layout="NWC", rate=16_000)
    assert (found.causal, found.left) == (True, 1024)
    assert found.table().rows[-1][3] == 1025


def test_demucs_for_speech():
    """A. Defossez, G. Synnaeve, Y. Adi, Real Time Speech Enhancement in the Waveform Domain, 2020: 37 ms at 16 kHz.

    Resampled by 4, five layers of kernel 8 and stride 4 down, a recurrence, and up again. The paper's 37 ms are the 597 samples
    of the first frame; a sample looks at most 596 ahead.
    """

    def f(x):
        n, y, skips = x.shape[1], jnp.repeat(x, 4, 1), []
        for _ in range(5):
            y = conv(y, 8, 4, "VALID")
            skips.append(y)
        y = jnp.cumsum(y, 1)
        for skip in skips[::-1]:
            y = conv(y + skip[:, : y.shape[1]], 8, 1, (7, 7), base=4)
        return y[:, : 4 * n : 4]

    frames = 20
    length = frames
    for _ in range(5):
        length = (length - 1) * 4 + 8
    found = ej.context(f, line(length // 4), layout="NWC", rate=16_000)
    assert found.right == 596
    assert round(1000 * (found.right + 1) / 16_000, 1) == 37.3
    assert found.grows == (True, False)


def levels(x, convolutions, down, up, padding="SAME", kernel=3):
    """A U-Net: some convolutions per level, and what leads down and up."""
    skips = []
    for i, n in enumerate(convolutions):
        for _ in range(n):
            x = conv(x, kernel, 1, padding)
        if i < len(convolutions) - 1:
            skips.append(x)
            x = down(x)
    for n, skip in zip(convolutions[-2::-1], skips[::-1], strict=True):
        x = up(x)
        off = (skip.shape[1] - x.shape[1]) // 2
        x = x + skip[:, off : off + x.shape[1]]
        for _ in range(n):
            x = conv(x, kernel, 1, padding)
    return x


def test_volumetric_unet():
    """O. Cicek et al., 3D U-Net, MICCAI 2016: 132 voxels give 44, so 88 are lost at the borders.

    A single voxel sees 92 or 100, by its phase: the first of the 44 and the last have phases that waste less.
    """

    def f(x):
        return levels(x, (2, 2, 2, 2), lambda x: pool(x, 2, 2), deconvolved, "VALID")

    assert 132 - jax.eval_shape(f, line(132)).shape[1] == 88
    assert sizes(f, 132) == {"": {92, 100}}
    assert ej.tiling(f, line(132), tile=8, layout="NWC").halo == ((0, 92),)


def test_vnet():
    """F. Milletari, N. Navab, S.-A. Ahmadi, V-Net, 3DV 2016: its table has 5, 22, 72, 172 and 372 on the way down, as found here.

    For the way up it has 476, 528, 546 and 551, where the hull of the network as drawn is 468, 516, 532, and 532 or 548 by phase.
    """

    def f(x):
        ends, skips = {}, []
        for i, n in enumerate((1, 2, 3, 3, 3)):
            y = x
            for _ in range(n):
                y = same(y, 5)
            ends[f"left {i + 1}"] = y
            skips.append(y + x)
            x = conv(y + x, 2, 2, "VALID") if i < 4 else y + x
        for i, n in zip((4, 3, 2, 1), (3, 3, 2, 1), strict=True):
            above = deconvolved(x)
            y = above + skips[i - 1]
            for _ in range(n):
                y = same(y, 5)
            x = ends[f"right {i}"] = y + above
        return ends

    found = sizes(f, 1024)
    assert [found[f"left {i}"] for i in (1, 2, 3, 4, 5)] == [{5}, {22}, {72}, {172}, {372}]
    assert [found[f"right {i}"] for i in (4, 3, 2, 1)] == [{468}, {516}, {532}, {532, 548}]


@pytest.mark.parametrize(("up", "expected"), [(nearest, {188, 204}), (bilinear, {220, 236})])
def test_stardist(up, expected):
    """U. Schmidt et al., Cell Detection with Star-Convex Polygons, MICCAI 2018: a U-Net of depth 3 on a grid of 2."""

    def f(x):
        x = pool(conv(conv(x, 3), 3), 2, 2)
        return conv(levels(x, (2, 2, 2, 2), lambda x: pool(x, 2, 2), up), 3)

    assert sizes(f, 512) == {"": expected}
