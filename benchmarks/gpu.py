"""Measured fields on an accelerator: what share of its arithmetic and of its memory's bandwidth they reach, cold and warm.

Each network in three precisions of matrix products (float32, TF32, bfloat16 with float32 accumulation, as
`jax.default_matmul_precision` sets them), with the batch that memory holds. Rates are measured here, by a large matrix
product in the same precision and a copy of a large array. Without an accelerator it runs small, to show that it runs.
"""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks import harness, measured, models
from benchmarks.measured import BASELINE, Case

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
ROWS = (
    ("plain 3x3, 20 layers", models.plain(20, 64), 64),
    ("plain 3x3, 10 layers", models.plain(10, 128), 56),
    ("VGG16 to conv3_3", models.vgg16(3), 224),
    ("ResNet-50, last map", models.resnet50, 224),
)
DRY = (("plain 3x3, 3 layers, dry run", models.plain(3, 8), 16),)
SHARE = 0.25  # of the accelerator's memory for the intermediate results of a batch
LARGEST = 256  # images


def rows() -> Iterator[harness.Row]:
    """Each network in each precision."""
    dry = jax.default_backend() == "cpu"
    copied = bandwidth(1 << (20 if dry else 28))
    for what, network, size in DRY if dry else ROWS:
        batch = 2 if dry else fitting(Case(network, size, 1))
        for precision in PRECISIONS:
            with jax.default_matmul_precision(precision):
                yield row(what, Case(network, size, batch), precision, copied, 256 if dry else 8192)


def row(what: str, case: Case, precision: str, copied: float, n: int) -> harness.Row:
    """One network in one precision."""
    rate = measured.gemm_rate(n)
    candidates = {BASELINE: case.dense, "erfjax": case.erfjax}
    found = harness.compare(f"{what}, {precision}", f"{case.size} px, batch {case.batch}", candidates, BASELINE)
    steps, seconds = case.cone_steps(), found.timings["erfjax"].median
    work = 2 * case.batch * sum(map(measured.flops, steps))
    moved = 3 * case.batch * sum(measured.held(step) for step in steps)  # written, read again, and its gradient
    facts = {
        "of matrix rate": {"erfjax": work / seconds / rate},
        "of bandwidth": {"erfjax": moved / seconds / copied},
        "TFLOP/s measured": rate / 1e12,
        "GB/s measured": copied / 1e9,
    }
    return dataclasses.replace(found, facts=facts)


def fitting(case: Case) -> int:
    """How many images memory holds with all their intermediate results, a power of two."""
    stats = jax.local_devices()[0].memory_stats() or {}
    one = 2 * sum(measured.held(step) for step in case.cone_steps())
    return min(LARGEST, 1 << int(math.log2(max(1, SHARE * stats.get("bytes_limit", 1 << 30) / max(1, one)))))


def bandwidth(size: int) -> float:
    """Bytes per second of a copy, read and written: the best of several."""
    a = jnp.ones(size // 4, jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    jax.block_until_ready(copy(a))
    return 2 * a.nbytes / min(harness.seconds(lambda: copy(a)) for _ in range(8))
