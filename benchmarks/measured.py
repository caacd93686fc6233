"""Measured fields: `erfjax.empirical` against the dense gradient of the same function, in JAX and in torch.

All three give the mean over the batch of the squared gradient of the centre unit's channel sum. The dense gradients run through
the whole image: JAX's is one jitted function with the weights as arguments, torch's has frozen weights and the better of its two
memory layouts. `erfjax` is the public call as users make it, its host-side statistics included.
"""

import dataclasses
import functools
import itertools
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import erfjax as ej
from benchmarks import architectures, harness, models
from erfjax.layouts import parse
from erfjax.measurement.cone import cone_of
from erfjax.tracing import trace
from erfjax.tracing.registry import lengths
from erfjax.tracing.windows.cone import Step

ROWS = (
    ("plain 3x3, 20 layers", models.plain(20, 64), 64, 16),
    ("plain 3x3, 10 layers", models.plain(10, 128), 56, 8),
    ("plain 3x3, 10 layers", models.plain(10, 64), 224, 4),
    ("VGG16 to conv3_3", models.vgg16(3), 224, 4),
    ("VGG16 to conv5_3", models.vgg16(5), 224, 4),
    ("ResNet-50, last map", models.resnet50, 224, 4),
    ("ResNet-50, last map", models.resnet50, 512, 2),
    ("U-Net, depth 4", models.unet(4, 64), 512, 1),
    ("RepLKNet-31-like", architectures.convnext((1, 1, 2, 1), 64, 31), 224, 2),
    ("ConvNeXt-T-like", architectures.convnext(), 224, 2),
    ("U-Net, depth 4", models.unet(4, 32), 256, 4),
    ("ViT-Ti-like", architectures.vit(), 224, 4),
)
BASELINE = "dense JAX"


def rows() -> Iterator[harness.Row]:
    """Each network, then the cost of more samples."""
    rate = gemm_rate()
    for what, network, size, batch in ROWS:
        yield Case(network, size, batch).row(what, rate)
    yield more_samples()
    yield more_devices()


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with weights, on a batch of square images."""

    network: models.Network
    size: int
    batch: int

    @functools.cached_property
    def weights(self) -> models.Weights:
        return models.draw(self.network, (1, self.size, self.size, 3))

    @functools.cached_property
    def images(self) -> np.ndarray:
        shape = (self.batch, self.size, self.size, 3)
        return np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    @functools.cached_property
    def model(self) -> Callable[[Any], Any]:
        weights = {name: jnp.asarray(array) for name, array in self.weights.items()}
        return lambda x: self.network(models.Jax(weights), x)

    @functools.cached_property
    def unit(self) -> tuple[int, int]:
        _, height, width, _ = jax.eval_shape(self.model, self.images[:1]).shape
        return height // 2, width // 2

    def erfjax(self) -> np.ndarray:
        return ej.empirical(self.model, self.images, unit=self.unit).map

    @functools.cached_property
    def dense(self) -> Callable[[], Any]:
        weights, images = jax.tree.map(jnp.asarray, self.weights), jnp.asarray(self.images)
        row, column = self.unit

        @jax.jit
        def field(weights: Any, images: Any) -> Any:
            def total(x: Any) -> Any:
                return self.network(models.Jax(weights), x)[:, row, column].sum()

            return (jax.grad(total)(images) ** 2).sum(-1).mean(0)

        return lambda: field(weights, images)

    def torch(self, channels_last: bool) -> Callable[[], Any]:
        import torch

        layout = torch.channels_last if channels_last else torch.contiguous_format
        ops = models.Torch(self.weights, channels_last)
        images = torch.from_numpy(self.images.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)
        row, column = self.unit

        def field() -> np.ndarray:
            x = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.network(ops, x)[:, :, row, column].sum(), x)
            return (gradient**2).sum(1).mean(0).numpy()

        return field

    def row(self, what: str, rate: float) -> harness.Row:
        candidates = {BASELINE: self.dense, **self._best_torch(), "erfjax": self.erfjax}
        truth = np.asarray(self.dense(), np.float64)
        differences = {name: np.abs(np.asarray(f()) - truth).max() / truth.max() for name, f in candidates.items()}
        memory = {name: harness.peak_memory(f) for name, f in candidates.items()}
        row = harness.compare(what, f"{self.size} px, batch {self.batch}", candidates, BASELINE)
        work = 2 * self.batch * sum(flops(step) for step in self.cone_steps())
        facts = {
            "than torch": {
                name: f"{row.timings['torch'].median / row.timings[name].median:.3g}x" for name in candidates
            }
            if "torch" in candidates
            else {},
            "of GEMM rate": {"erfjax": work / row.timings["erfjax"].median / rate},
            "peak MB": {name: value / 1e6 for name, value in memory.items() if value is not None},
            "difference": {name: float(value) for name, value in differences.items() if name != BASELINE},
        }
        return dataclasses.replace(row, facts=facts)

    def _best_torch(self) -> dict[str, Callable[[], Any]]:
        """Torch in the memory layout that is quicker here, or nothing where it is not installed."""
        try:
            candidates = [self.torch(channels_last) for channels_last in (False, True)]
        except ModuleNotFoundError:
            print("torch is not installed, its column is left out: pip install 'erfjax[bench]'", file=sys.stderr)
            return {}
        times = [min(harness.seconds(candidate) for _ in range(2)) for candidate in candidates]
        return {"torch": candidates[int(np.argmin(times))]}

    def cone_steps(self) -> tuple[Step, ...]:
        layout = parse("NHWC", 4)
        program = trace(self.model, jax.ShapeDtypeStruct((1, *self.images.shape[1:]), jnp.float32))
        cone = cone_of(program, layout, layout, [self.unit])
        return () if cone is None else cone.steps


def flops(step: Step) -> int:
    """Multiplications and additions of a convolution on its box, without those in padding and holes; its pullback has as many."""
    equation = step.equation
    if equation.primitive is not jax.lax.conv_general_dilated_p:
        return 0
    lhs, rhs, out = equation.params["dimension_numbers"]
    x, kernel = (atom.shape for atom in equation.inputs)
    batch = step.box[out[0]]
    count = 2 * kernel[rhs[0]] * kernel[rhs[1]] * int(batch.stop - batch.start)
    for axis, (low, _) in enumerate(equation.params["padding"]):
        stride, dilation, base = (
            equation.params[name][axis] for name in ("window_strides", "rhs_dilation", "lhs_dilation")
        )
        positions = step.box[out[2 + axis]]
        starts = stride * np.arange(positions.start, positions.stop)[:, None] - low
        read = starts + dilation * np.arange(kernel[rhs[2 + axis]])
        count *= int(((read % base == 0) & (read >= 0) & (read < base * x[lhs[2 + axis]])).sum())
    return count


def held(step: Step) -> int:
    """The bytes of the result of a step on its box."""
    return math.prod(lengths(step.box)) * step.output.dtype.itemsize


def gemm_rate(n: int = 2048) -> float:
    """The machine's floating-point operations per second in a large single-precision matrix product: the best of several."""
    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    return 2 * n**3 / min(harness.seconds(lambda: product(a, a)) for _ in range(8))


def more_samples() -> harness.Row:
    """Fresh random weights for every sample: time in proportion to their number, memory flat."""
    stack = ej.layers.Conv(3) ** 10
    f, images = stack.sampler(width=16, activation="relu"), np.ones((1, 64, 64, 3), np.float32)

    def run(samples: int) -> np.ndarray:
        return ej.empirical(f, images, key=jax.random.key(0), samples=samples, batch_size=64).map

    candidates = {f"{n} samples": functools.partial(run, n) for n in (256, 1024, 4096)}
    memory = {name: harness.peak_memory(candidate) for name, candidate in candidates.items()}
    facts = {"peak MB": {name: value / 1e6 for name, value in memory.items() if value is not None}}
    return harness.compare("random networks, 10 layers", "64 px, width 16", candidates, "256 samples", facts)


def more_devices() -> harness.Row:
    """The same samples on one device with two threads, on two devices, and in two processes that share the work."""
    ways = {"1 device": [Worker(1)], "2 devices": [Worker(2)], "2 processes": Worker.pair()}

    def run(workers: list["Worker"]) -> None:
        for worker in workers:
            worker.begin()
        for worker in workers:
            worker.end()

    try:
        candidates = {name: functools.partial(run, workers) for name, workers in ways.items()}
        for start in candidates.values():  # processes come up and compile
            start()
        row = harness.compare("plain 3x3, 10 layers", "56 px, 32 samples", candidates, "1 device")
        maps = {name: workers[0].field() for name, workers in ways.items()}
    finally:
        for worker in itertools.chain(*ways.values()):
            worker.process.stdin.close()
        for worker in itertools.chain(*ways.values()):
            worker.process.wait()
    truth = maps["1 device"]
    facts = {"difference": {name: float(np.abs(m - truth).max() / truth.max()) for name, m in maps.items()}}
    return dataclasses.replace(row, facts=facts)


class Worker:
    """A process that measures whenever a line comes in; its last field is in a file."""

    def __init__(self, devices: int, *distributed: Any):
        """Starts it with so many devices, and as one process of two if an address and a rank are given."""
        self.path = os.path.join(tempfile.mkdtemp(), "field.npy")
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", f"from benchmarks.measured import work; work({self.path!r}, *{distributed!r})"]
        self.process: Any = subprocess.Popen(
            command, env=os.environ | flags, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @classmethod
    def pair(cls) -> list["Worker"]:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        return [cls(1, address, rank) for rank in (0, 1)]

    def begin(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        if "done\n" not in iter(self.process.stdout.readline, ""):  # collectives say that they are connected
            raise RuntimeError("a worker of the benchmark died")

    def field(self) -> np.ndarray:
        return np.load(self.path)


def work(path: str, address: str | None = None, rank: int = 0) -> None:
    """What a worker does: the same measurement for every line of its input, on all devices there are."""
    if address is not None:
        jax.distributed.initialize(address, 2, rank)
    case = Case(models.plain(10, 128), 56, 32)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("samples",)) if len(jax.devices()) > 1 else None
    model, images = case.model, case.images
    for _ in sys.stdin:
        field = ej.empirical(model, images, unit=(28, 28), mesh=mesh)
        np.save(path, field.map)
        print("done", flush=True)
