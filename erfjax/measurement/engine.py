"""The compiled side of a measurement: one function per model and shapes, on one device or a mesh of them.

An `Engine` takes a batch of sample indices and rows and gives back their scaled maps. It is kept as long as the model's
function lives (`model.cached`), so measuring the same function again neither traces nor compiles; nor does measuring a pytree
model whose weights alone are others. When the device runs out of memory the batch is halved, for good.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from erfjax.measurement import jacobian
from erfjax.measurement.inputs import Rows
from erfjax.measurement.probe import Probe
from erfjax.tracing.program.flatten import record
from erfjax.tracing.windows.brief import brief
from erfjax.tracing.windows.compiler import KEPT, LASTING, ROOM, Jitted
from erfjax.tracing.windows.cpu_taps import on_cpu
from erfjax.tracing.windows.fourier import transforms
from erfjax.typing import Channels, Number, Statistic

DRAW = 0xD4A31  # folded into a sample's key to draw its input, apart from what the model draws from that key
HOST_BUDGET = 1 << 30  # bytes of intermediate results that a batch may take on a CPU
DEVICE_SHARE = 0.5  # of an accelerator's memory
FILLED = 0.75  # of the memory that is kept go to the largest array that is known; gradients are padded
LARGEST_BATCH = 64  # beyond, nothing gets faster, but the first result comes later


@dataclasses.dataclass(eq=False)
class Engine:
    """A compiled measurement.

    Attributes:
        probe: what is measured.
        compiled: (consts, key, indices, windows) -> (maps, exponents, faults), each with a leading axis of samples.
        consts: the arrays the model and the input function closed over, on the device.
        mesh: the devices that share a batch, or None.
        lowered: gives the text of the program of one sample, by which a checkpoint recognises the model.
        cost: bytes that one sample may take.
        largest: bytes of the largest array of one sample, 0 where that is not known.
        drawn: whether the inputs are drawn on the device; rows are empty then.
        main: which leaf of a sample is asked about.
    """

    probe: Probe
    compiled: Callable[..., Any]
    consts: Any
    mesh: jax.sharding.Mesh | None
    lowered: Callable[[Any, Sequence[jax.ShapeDtypeStruct]], str]
    cost: int
    largest: int
    drawn: bool
    main: int

    @property
    def devices(self) -> int:
        """How many devices share a batch: batch sizes are multiples of it."""
        return 1 if self.mesh is None else self.mesh.size

    def with_weights(self, weights: tuple[Any, ...]) -> "Engine":
        """The same engine for a model that differs in the weights it holds as a pytree."""
        if not weights:
            return self
        model, drawn = self.consts
        if self.mesh is not None:
            replicated = NamedSharding(self.mesh, PartitionSpec())
            weights = tuple(replicate(weight, replicated) for weight in weights)
        return dataclasses.replace(self, consts=((*model[: len(model) - len(weights)], *weights), drawn))

    def submit(self, key: Any, first: int, rows: Rows, size: int) -> Any:
        """Starts the samples first, first + 1, ...: one per row, padded to the batch size by repeating the last."""
        pad = size - len(rows)
        indices = np.arange(first, first + size, dtype=np.uint32)
        leaves = rows.leaves if self.drawn else self.cropped(rows.leaves, 1)
        padded = [np.concatenate([leaf, np.repeat(leaf[-1:], pad, axis=0)]) if pad else leaf for leaf in leaves]
        return self.compiled(self.consts, key, self._spread(indices), tuple(map(self._spread, padded)))

    def cropped(self, leaves: Sequence[Any], axes: int = 0) -> tuple[Any, ...]:
        """The leaves of a sample, the one asked about cut to the window; so many axes stand in front."""
        return tuple(self.probe.crop(leaf, axes) if i == self.main else leaf for i, leaf in enumerate(leaves))

    def _spread(self, host: np.ndarray) -> Any:
        """An array split over the devices of the mesh; every process holds all of it."""
        if self.mesh is None:
            return host
        sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


@dataclasses.dataclass(frozen=True, eq=False)
class Parted:
    """The maps of one sample in several runs of one compiled function: work that is too much for one, and that no compiled loop
    does as quickly (XLA's convolutions on a CPU are 10 times slower in one).

    Attributes:
        one: the function (consts, key, window, others, part) -> what is kept of a part.
        parts: one for each run, equal in shape.
        join: what is kept of all parts, each with a leading axis of samples -> (maps, exponents, faults).
        cost: bytes that a part of one sample takes beside its forward pass.
    """

    one: Callable[..., Any]
    parts: Sequence[Any]
    join: Callable[[Sequence[Any]], Any]
    cost: int

    def joined(self, compiled: Callable[..., Any]) -> Callable[..., Any]:
        """All parts of a batch, by its compiled function."""
        join = jax.jit(self.join)

        def run(consts: Any, key: Any, indices: Any, rows: Any) -> Any:
            return join([compiled(consts, key, indices, rows, part) for part in self.parts])

        return run


def assemble(
    probe: Probe,
    statistic: Statistic,
    channels: Channels,
    draw: Callable[[Any], Any] | None,
    key: Any,
    mesh: jax.sharding.Mesh | None,
    main: int = 0,
    one: Callable[..., Any] | Parted | None = None,
    per_draw: int = 1,
    runs: Number = math.inf,
) -> Engine:
    """The engine of a probe: samples under `vmap`, sharded over the mesh if there is one.

    `one` gives the maps of one sample where they are not those of the probe's units (see `jacobian.sample_maps`). So many
    consecutive samples as `per_draw` says share their key, and so the weights that it draws. What it is compiled to depends on
    how many samples there will be, about (`runs`).
    """
    one = one or jacobian.sample_maps(probe, statistic, channels)
    parted = one if isinstance(one, Parted) else None
    of_one = one.one if isinstance(one, Parted) else one
    drawing = None if draw is None else record(draw, jax.eval_shape(lambda: key))
    drawn = () if drawing is None else drawing.consts

    def sample(consts: Any, key: Any, index: Any, leaves: Any, *part: Any) -> Any:
        key = jax.random.fold_in(key, index // per_draw)
        if drawing is not None:
            own = jax.random.fold_in(key, DRAW)
            own = own if per_draw == 1 else jax.random.fold_in(own, index % per_draw)
            leaves = engine.cropped(drawing.evaluate([own], consts[1]))
        with brief(runs), transforms(probe.transformed):
            return of_one(consts[0], key, leaves[main], (*leaves[:main], *leaves[main + 1 :]), *part)

    def batch(consts: Any, key: Any, indices: Any, rows: Any, *part: Any) -> Any:
        return jax.vmap(lambda index, leaves: sample(consts, key, index, leaves, *part))(indices, rows)

    options = LASTING if probe.piecewise_linear else {}
    consts, compiled = (probe.consts, drawn), Jitted(batch, options)
    if mesh is not None:
        whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names)
        replicated = NamedSharding(mesh, whole)
        specs = (whole, whole, split, split, *((whole,) if parted else ()))
        sharded = jax.shard_map(batch, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
        compiled = Jitted(sharded, options, {"out_shardings": replicated})  # every process sees every map
        consts = jax.tree.map(lambda c: replicate(c, replicated), consts)

    def lowered(key: Any, row: Sequence[jax.ShapeDtypeStruct]) -> str:
        leaves = row if draw is not None else jax.eval_shape(engine.cropped, row)
        index = jax.ShapeDtypeStruct((), jnp.uint32)
        part = (parted.parts[0],) if parted else ()
        return jax.jit(sample).lower((probe.consts, drawn), key, index, tuple(leaves), *part).as_text()

    cost = probe.cost + (parted.cost if parted else jacobian.gradient_bytes(probe, channels))
    largest = 0 if parted else probe.largest * jacobian.most_at_once(probe, channels)
    whole_sample = parted.joined(compiled) if parted else compiled
    engine = Engine(probe, whole_sample, consts, mesh, lowered, cost, largest, draw is not None, main)
    return engine


def replicate(value: Any, sharding: NamedSharding) -> Any:
    """The same array on every device of every process."""
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def choose_batch_size(engine: Engine, samples: int | None) -> int:
    """As many samples at once as the memory budget allows, in batches of equal size if their number is known.

    On a CPU no more than keep every array so small that its memory is not given back after each batch (`compiler.KEPT`): a
    batch of ConvNeXt-T then takes a fifth less per sample. Where one sample's arrays are larger, nothing is to be kept.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    budget = DEVICE_SHARE * stats["bytes_limit"] if "bytes_limit" in stats else HOST_BUDGET
    fitting = min(LARGEST_BATCH, int(budget // max(1, engine.cost)))
    if on_cpu() and 0 < engine.largest <= ROOM:
        fitting = min(fitting, max(1, int(FILLED * KEPT) // engine.largest))
    most = max(1, fitting) * engine.devices
    size = most if samples is None else math.ceil(samples / math.ceil(samples / most))
    return math.ceil(size / engine.devices) * engine.devices


def out_of_memory(error: Exception) -> bool:
    """Whether a run-time error says that memory ran out."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
