"""The compiled side of a measurement: one function per model and shapes, on one device or a mesh of them.

An `Engine` takes a batch of sample indices and rows and gives back their scaled maps. It is kept as long as the model's
function lives, so measuring the same function again neither traces nor compiles; nor does measuring a pytree model whose
weights alone are others. When the device runs out of memory the batch is halved, for good.
"""

import collections
import dataclasses
import math
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from erfjax.measurement import jacobian
from erfjax.measurement.model import take_apart
from erfjax.measurement.probe import Channels, Probe, hoist
from erfjax.typing import Statistic

DRAW = 0xD4A31  # folded into a sample's key to draw its input, apart from what the model draws from that key
HOST_BUDGET = 1 << 30  # bytes of intermediate results that a batch may take on a CPU
DEVICE_SHARE = 0.5  # of an accelerator's memory
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
        drawn: whether the inputs are drawn on the device; rows are empty then.
        facts: what else is known about the function and worth keeping as long as it.
    """

    probe: Probe
    compiled: Callable[..., Any]
    consts: Any
    mesh: jax.sharding.Mesh | None
    lowered: Callable[[Any, jax.ShapeDtypeStruct], str]
    cost: int
    drawn: bool
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

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

    def submit(self, key: Any, first: int, rows: np.ndarray, size: int) -> Any:
        """Starts the samples first, first + 1, ...: one per row, padded to the batch size by repeating the last."""
        pad = size - len(rows)
        rows = rows if self.drawn else self.probe.crop(rows, 1)
        indices = np.arange(first, first + size, dtype=np.uint32)
        padded = np.concatenate([rows, np.repeat(rows[-1:], pad, axis=0)]) if pad else rows
        return self.compiled(self.consts, key, self._spread(indices), self._spread(padded))

    def _spread(self, host: np.ndarray) -> Any:
        """An array split over the devices of the mesh; every process holds all of it."""
        if self.mesh is None:
            return host
        sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


_engines: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = weakref.WeakKeyDictionary()
_recent: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
MOST_RECENT = 32  # compiled pytree models that are kept


def cached(f: Callable[..., Any], settings: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` compiles for f with these settings, made if there is none yet: it lives as long as f does.

    What is compiled for a pytree model serves all models of its structure; the least recently used is dropped.
    """
    structure = take_apart(f).structure
    if structure is not None:
        engine = _recent.pop((structure, settings), None) or make()
        _recent[structure, settings] = engine
        if len(_recent) > MOST_RECENT:
            _recent.popitem(last=False)
        return engine
    try:
        engines = _engines.setdefault(f, {})
        engine = engines.get(settings)
    except TypeError:  # a callable that cannot be hashed or weakly referenced
        return make()
    return engine if engine is not None else engines.setdefault(settings, make())


def assemble(
    probe: Probe,
    statistic: Statistic,
    channels: Channels,
    draw: Callable[[Any], Any] | None,
    key: Any,
    mesh: jax.sharding.Mesh | None,
) -> Engine:
    """The engine of a probe: samples under `vmap`, sharded over the mesh if there is one."""
    one = jacobian.sample_maps(probe, statistic, channels)
    call, drawn = (None, ()) if draw is None else hoist(draw, (jax.eval_shape(lambda: key),))[:2]

    def sample(consts: Any, key: Any, index: Any, row: Any) -> Any:
        key = jax.random.fold_in(key, index)
        window = row if call is None else probe.crop(call(consts[1], jax.random.fold_in(key, DRAW)))
        return one(consts[0], key, window)

    def batch(consts: Any, key: Any, indices: Any, rows: Any) -> Any:
        return jax.vmap(lambda index, row: sample(consts, key, index, row))(indices, rows)

    consts, compiled = (probe.consts, drawn), jax.jit(batch)
    if mesh is not None:
        whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names)
        replicated = NamedSharding(mesh, whole)
        sharded = jax.shard_map(
            batch, mesh=mesh, in_specs=(whole, whole, split, split), out_specs=split, check_vma=False
        )
        compiled = jax.jit(sharded, out_shardings=replicated)  # every process sees every map
        consts = jax.tree.map(lambda c: replicate(c, replicated), consts)

    def lowered(key: Any, row: jax.ShapeDtypeStruct) -> str:
        window = row if draw is not None else jax.eval_shape(probe.crop, row)
        return jax.jit(sample).lower((probe.consts, drawn), key, jax.ShapeDtypeStruct((), jnp.uint32), window).as_text()

    cost = probe.cost + jacobian.gradient_bytes(probe, channels)
    return Engine(probe, compiled, consts, mesh, lowered, cost, draw is not None)


def replicate(value: Any, sharding: NamedSharding) -> Any:
    """The same array on every device of every process."""
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def choose_batch_size(engine: Engine, samples: int | None) -> int:
    """As many samples at once as the memory budget allows, in batches of equal size if their number is known."""
    stats = jax.local_devices()[0].memory_stats() or {}
    budget = DEVICE_SHARE * stats["bytes_limit"] if "bytes_limit" in stats else HOST_BUDGET
    largest = max(1, min(LARGEST_BATCH, int(budget // max(1, engine.cost)))) * engine.devices
    size = largest if samples is None else math.ceil(samples / math.ceil(samples / largest))
    return math.ceil(size / engine.devices) * engine.devices


def out_of_memory(error: Exception) -> bool:
    """Whether a run-time error says that memory ran out."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
