"""The first call: CPU seconds of a fresh process, import aside, over those of the first dense gradient of the same function.

Each number is a process of its own, one thread each, so that nothing compiled before helps and other work on the machine
hardly counts. Bars: 1.3 for a measurement, 1.5 for a closed form with random signs, 2 with summed channels or by mean field.
"""

import dataclasses
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

import erfjax as ej
from benchmarks import architectures, harness, models
from benchmarks.measured import Case

NETWORKS: dict[str, tuple[models.Network, int]] = {
    "ResNet-50": (models.resnet50, 224),
    "EfficientNet-B0-like": (architectures.efficientnet, 224),
    "DenseNet-121-like": (architectures.densenet(), 224),
    "ConvNeXt-T-like": (architectures.convnext(), 224),
    "U-Net, depth 4": (models.unet(4, 32), 256),
    "ViT-Ti-like": (architectures.vit(), 224),
}
BATCH = 8
DENSE = "dense gradient"
WAYS: dict[str, Callable[[Case], object]] = {
    DENSE: lambda case: case.dense(),
    "empirical": lambda case: case.erfjax(),
    "analytic, random signs": lambda case: ej.analytic(
        case.model, case.images, unit=case.unit, channels="random-signs"
    ),
    "analytic, sum": lambda case: ej.analytic(case.model, case.images, unit=case.unit),
    "analytic, mean field": lambda case: ej.analytic(
        case.model, case.images, unit=case.unit, channels="random-signs", gates="mean-field"
    ),
}
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": "",
}
LIMIT = 600  # seconds after which a way is given up


def rows() -> Iterator[harness.Row]:
    """Each network, by all ways."""
    for name, (_, size) in NETWORKS.items():
        yield row(name, size, BATCH, tuple(WAYS))


def row(name: str, size: int, batch: int, ways: tuple[str, ...]) -> harness.Row:
    """One network: the seconds of the first call of every way, and the ratio to the dense gradient's."""
    found = {way: first_call(name, size, batch, way) for way in ways}
    timings = {way: harness.Timing(s, s, s, s) for way, s in found.items() if s is not None}
    missing = {way: "refused, or too long" for way, s in found.items() if s is None}
    ratios = {way: f"{s / timings[DENSE].first:.2f}" for way, s in found.items() if s is not None and way != DENSE}
    what = f"{name} ({', '.join(f'{way}: {said}' for way, said in missing.items())})" if missing else name
    facts = {"of the dense gradient's": ratios}
    return dataclasses.replace(harness.Row(what, f"{size} px, batch {batch}", timings, DENSE), facts=facts)


@functools.cache
def first_call(name: str, size: int, batch: int, way: str) -> float | None:
    """CPU seconds of the first call in a process of its own; None where the way does not exist for the network."""
    code = f"from benchmarks.cold import work; work({name!r}, {size}, {batch}, {way!r})"
    try:
        found = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | ONE_THREAD, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return None
    if found.returncode:
        print(f"{name}, {way}: {found.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return float(found.stdout.split()[-1])


def work(name: str, size: int, batch: int, way: str) -> None:
    """What such a process does."""
    case = Case(NETWORKS[name][0], size, batch)
    _ = case.model, case.images, case.unit
    jax.block_until_ready(jax.jit(lambda a: a @ a)(jnp.ones((4, 4))))  # JAX itself has started
    begin = time.process_time()
    jax.block_until_ready(WAYS[way](case))
    print(time.process_time() - begin)
