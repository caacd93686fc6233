"""One network learning one task, looked at on the way: its accuracy, its measured field and its analytic one.

Everything that is random follows from the seed and the number of the epoch, and the state is kept in a file, so a run that was
interrupted goes on as if it had not been. Fields are taken on the same images each time, of the network with exact statistics
in its batch normalisations (`residual.calibrate`).
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Float

from erfjax import files
from erfjax.errors import CheckpointError, FileFormatError, MapError
from erfjax.fields import EffectiveField
from erfjax.readings.analytic import analytic
from erfjax.readings.empirical import empirical
from erfjax.studies._support import residual
from erfjax.studies.datasets import Task
from erfjax.typing import Weights

KIND = "TrainingRun"
EVERY = 20.0  # seconds between two states on disk
JUDGED = 64  # images per call when accuracy is taken
SHIFT = 8  # augmentation moves an image by up to 1 / SHIFT of its side


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a network is made and trained.

    Attributes:
        blocks, width, subsamplings, normalisation, readout: of the network.
        epochs, batch, rate, decay: of stochastic gradient descent with Nesterov momentum 0.9; the rate falls as half a cosine.
        augmented: whether images are shifted, and mirrored where that keeps their label.
    """

    blocks: int = 6
    width: int = 16
    subsamplings: int = 0
    normalisation: residual.Normalisation = "batch"
    readout: residual.Readout = "mean"
    epochs: int = 12
    batch: int = 64
    rate: float = 0.1
    decay: float = 5e-4
    augmented: bool = False

    def network(self, task: Task, seed: int) -> residual.ResidualNetwork:
        """The network before training."""
        shape = (task.train.images.shape[-1], task.classes)
        names = ("blocks", "width", "subsamplings", "normalisation", "readout")
        return residual.ResidualNetwork(*shape, seed=seed, **{name: getattr(self, name) for name in names})


class Probe(NamedTuple):
    """What is differentiated, and what is taken of the gradient."""

    function: Callable[..., Any]
    statistic: str
    channels: str
    out_layout: str | None = None


MAIN, APART, SHUFFLED = "unit, E g²", "unit, channels apart", "unit, gates shuffled"
PROBES = {
    MAIN: Probe(residual.features, "square", "sum"),
    "unit, E |g|": Probe(residual.features, "abs", "sum"),
    APART: Probe(residual.features, "square", "random-signs"),
    "its winning score": Probe(residual.winner, "square", "sum"),
    "the image's winning logit": Probe(residual.decision, "square", "sum", "NC"),
}
"""Units are those at the centre of the last feature map; a sum of channels is one unit's."""


GIVEN, EXCHANGEABLE = "analytic, weights as given", "analytic, weights exchangeable"
"""The closed forms of the unit's channels apart: of these weights, and of random ones with the same variance at every tap."""


class Seen(NamedTuple):
    """A field at one moment.

    Attributes:
        map: it sums to one.
        sigma, luo: its σ (root mean square over the axes) and Luo size in pixels, each with its standard error (0 for a closed
            form); NaN where the map has none.
    """

    map: Float[np.ndarray, "*space"]
    sigma: Float[np.ndarray, "2"]
    luo: Float[np.ndarray, "2"]

    @classmethod
    def of(cls, field: Any) -> "Seen":
        """What is kept of an EffectiveField."""
        return cls(field.map / (field.map.sum() or 1.0), *(_with_error(field, measure) for measure in ("sigma", "luo")))


def _with_error(field: EffectiveField, measure: str) -> np.ndarray:
    try:
        return np.array([field.size(measure), field.size_stderr(measure) or 0.0])
    except MapError:
        return np.full(2, np.nan)


class Look(NamedTuple):
    """A network at one moment.

    Attributes:
        step: batches learned from so far.
        loss: the mean of the training loss since the look before, NaN at the first.
        accuracy: on the test examples.
        kernels: Var X of the kernels as a share of that of flat ones (`residual.kernel_variance`).
        fields: by probe, and of the two closed forms.
    """

    step: int
    loss: float
    accuracy: float
    kernels: float
    fields: dict[str, Seen]


def moments(epochs: int, steps: int) -> tuple[int, ...]:
    """When to look: before, at 1/8, 1/4, 1/2 and 1 of the first epoch, and after 2, 4, 8 ... and all epochs.

    Example:
        >>> from erfjax.studies._support.fitting import moments
        >>> moments(6, 20)
        (0, 2, 5, 10, 20, 40, 80, 120)
    """
    early = {steps // 8, steps // 4, steps // 2}
    later = {steps * 2**i for i in range(epochs.bit_length()) if 2**i <= epochs}
    return tuple(sorted({0, *early, *later, steps * epochs}))


def fit(
    task: Task,
    setting: Setting,
    *,
    seed: int,
    images: int,
    path: Path | None = None,
    advance: Callable[[int], Any] = lambda steps: None,
) -> tuple[Look, ...]:
    """The looks at one network, from before training to its end.

    Args:
        task: what to learn.
        setting: how.
        seed: of the weights, of the order of examples and of augmentation.
        images: how many test images the fields are averaged over.
        path: the file that keeps the state; the same call continues from it.
        advance: called with the number of steps that were taken.

    Raises:
        CheckpointError: the file is of another run, or damaged.
    """
    trainer = _Trainer(task, setting, seed, images, path)
    advance(trainer.step)
    looked = {look.step for look in trainer.looks}
    for moment in moments(setting.epochs, trainer.steps):
        while trainer.step < moment:
            trainer.learn()
            advance(1)
        if moment not in looked:
            trainer.look()
    return tuple(trainer.looks)


class _Trainer:
    """The state of a run: a network, its optimiser, what was seen so far."""

    def __init__(self, task: Task, setting: Setting, seed: int, images: int, path: Path | None):
        self.task, self.setting, self.seed, self.path = task, setting, seed, path
        count = len(task.train)
        self.steps = max(1, count // setting.batch)
        pixels = task.train.images.astype(np.float32)
        self.mean, self.scale = pixels.mean((0, 1, 2)), np.maximum(pixels.std((0, 1, 2)), 1e-3)
        chosen = np.random.default_rng(0).permutation(len(task.test))[:images]
        self.shown = self.standardised(task.test.images[chosen])
        self.reference = self.standardised(task.train.images[:: max(1, count // 256)][:256])
        graph, params, rest = split(setting.network(task, seed))
        self.graph: Any = graph
        init, self.update = _compiled(
            self.graph, setting.decay, setting.rate, self.steps * setting.epochs, task.ignored
        )
        self.state: Any = (params, rest, init(params))
        self.step, self.losses, self.saved = 0, list[Any](), time.monotonic()
        self.looks: list[Look] = []
        self.load()

    def standardised(self, images: np.ndarray) -> np.ndarray:
        """Mean 0 and variance 1 in every channel of the training images."""
        return (images.astype(np.float32) - self.mean) / self.scale

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The examples of the next step."""
        number, at = divmod(self.step, self.steps)
        order = np.random.default_rng([self.seed, number]).permutation(len(self.task.train))
        chosen = order[at * self.setting.batch : (at + 1) * self.setting.batch]
        images, labels = self.standardised(self.task.train.images[chosen]), self.task.train.labels[chosen]
        if self.setting.augmented:
            images, labels = augment(
                images, labels, np.random.default_rng([self.seed, 1, self.step]), self.task.mirrored
            )
        return images, labels.astype(np.int32)

    def learn(self) -> None:
        """One step."""
        self.state, loss = self.update(self.state, *self.batch())
        self.losses.append(loss)
        self.step += 1
        if time.monotonic() - self.saved > EVERY:
            self.save()

    def look(self) -> None:
        """Reads the network as it is."""
        network = residual.calibrate(nnx.merge(self.graph, *self.state[:2]), self.reference)
        losses = [float(loss) for loss in self.losses]
        loss = float(np.mean(losses)) if losses else float("nan")
        right = accuracy(network, self.standardised(self.task.test.images), self.task)
        self.looks.append(Look(self.step, loss, right, residual.kernel_variance(network), self.fields(network)))
        self.losses = []
        self.save()

    def fields(self, network: Any) -> dict[str, Seen]:
        """Every field of the network."""
        found: dict[str, Any] = {}
        for name, (function, statistic, channels, out_layout) in PROBES.items():
            if out_layout is None or not self.task.dense:
                options: Any = {"statistic": statistic, "channels": channels, "out_layout": out_layout}
                found[name] = empirical(Partial(function, network), self.shown, progress=False, **options)
        unit = Partial(residual.features, network)
        found[SHUFFLED] = empirical(unit, self.shown, channels="random-signs", gates="shuffled", progress=False)
        kinds: tuple[tuple[str, Weights], ...] = ((GIVEN, "given"), (EXCHANGEABLE, "exchangeable"))
        for name, weights in kinds:
            found[name] = analytic(unit, self.shown, weights=weights, channels="random-signs", positions="apart")
        return {name: Seen.of(field) for name, field in found.items()}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What makes this run this run."""
        settings = dataclasses.asdict(self.setting) | {"seed": self.seed, "images": len(self.shown)}
        settings["readings"] = [*PROBES, SHUFFLED]
        return settings | {"task": self.task.name, "examples": [len(self.task.train), len(self.task.test)]}

    def save(self) -> None:
        """Writes the state, whole or not at all."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"state {i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self.state))}
        arrays["losses"] = np.array([float(loss) for loss in self.losses])
        looks = []
        for i, look in enumerate(self.looks):
            looks.append({"numbers": [look.step, look.loss, look.accuracy, look.kernels], "fields": list(look.fields)})
            for j, seen in enumerate(look.fields.values()):
                arrays |= {f"look {i} {j} {part}": value for part, value in seen._asdict().items()}
        files.save(self.path, KIND, arrays, {"run": self.fingerprint, "step": self.step, "looks": looks})
        self.saved = time.monotonic()

    def load(self) -> None:
        """Goes on where the file ends, if there is one."""
        if self.path is None or not self.path.exists():
            return
        try:
            arrays, metadata = files.load(self.path, KIND)
            with files.damaged(self.path):
                for name, value in self.fingerprint.items():
                    if metadata["run"].get(name) != value:
                        raise CheckpointError(
                            f"{self.path.name!r} holds another run: its {name} was {metadata['run'].get(name)}, this one has "
                            f"{value}. Repeat its settings, or choose another folder."
                        )
                leaves, tree = jax.tree.flatten(self.state)
                kept = [jnp.asarray(arrays[f"state {i}"], leaf.dtype) for i, leaf in enumerate(leaves)]
                self.state, self.step = jax.tree.unflatten(tree, kept), int(metadata["step"])
                self.losses = list(arrays["losses"])
                self.looks = [
                    Look._make([*look["numbers"], {name: _seen(arrays, i, j) for j, name in enumerate(look["fields"])}])
                    for i, look in enumerate(metadata["looks"])
                ]
        except FileFormatError as error:
            raise CheckpointError(f"{self.path.name!r} holds no run that can be continued: {error}") from None


def _seen(arrays: dict[str, np.ndarray], look: int, field: int) -> Seen:
    return Seen(*(arrays[f"look {look} {field} {part}"] for part in Seen._fields))


def split(network: Any) -> Any:
    """The structure of a network, what is learned, and the rest of its state."""
    return nnx.split(network, nnx.Param, ...)


@functools.cache
def _compiled(graph: Any, decay: float, rate: float, steps: int, ignored: int | None) -> tuple[Any, Any]:
    """The optimiser's initial state of parameters, and a step (state, images, labels) -> (state, loss)."""

    def schedule(count: Any) -> Any:
        return rate / 2 * (1 + jnp.cos(np.pi / steps * count.astype(jnp.float32)))

    descent = optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, momentum=0.9, nesterov=True))

    @jax.jit
    def update(state: Any, images: Any, labels: Any) -> tuple[Any, Any]:
        params, rest, memory = state

        def loss(params: Any) -> tuple[Any, Any]:
            network = nnx.merge(graph, params, rest, copy=True)
            logits = network(images, train=True)
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            counts = jnp.ones_like(entropy) if ignored is None else (labels != ignored).astype(entropy.dtype)
            return (entropy * counts).sum() / jnp.maximum(counts.sum(), 1), split(network)[2]

        (value, rest), slope = jax.value_and_grad(loss, has_aux=True)(params)
        change, memory = descent.update(slope, memory, params)
        return (optax.apply_updates(params, change), rest, memory), value

    return descent.init, update


@jax.jit
def _choices(network: Any, images: Any) -> Any:
    return jnp.argmax(network(images), -1)


def accuracy(network: Any, images: np.ndarray, task: Task) -> float:
    """The share of test labels that the network tells, of those that count."""
    right = total = 0
    for first in range(0, len(images), JUDGED):
        labels = task.test.labels[first : first + JUDGED]
        chunk = images[first : first + JUDGED]
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], min(JUDGED, len(images)) - len(chunk), axis=0)])
        found = np.asarray(_choices(network, padded))[: len(labels)]
        counts = np.ones_like(labels, bool) if task.ignored is None else labels != task.ignored
        right, total = right + int((found == labels)[counts].sum()), total + int(counts.sum())
    return right / max(total, 1)


def augment(
    images: np.ndarray, labels: np.ndarray, generator: np.random.Generator, mirrored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Every image (and its labels, if they are one per pixel) shifted by up to an eighth of its sides, and mirrored or not.

    What is shifted in is the edge repeated.
    """
    shifted, moved = [], []
    reach = [n // SHIFT for n in images.shape[1:3]]
    for image, label in zip(images, labels, strict=True):
        corner = [generator.integers(0, 2 * r + 1) for r in reach]
        flipped = mirrored and bool(generator.integers(2))

        def place(array: np.ndarray, corner: Any = corner, flipped: bool = flipped) -> np.ndarray:
            sides = [(r, r) for r in reach] + [(0, 0)] * (array.ndim - 2)
            window = tuple(slice(c, c + n) for c, n in zip(corner, array.shape[:2], strict=True))
            found = np.pad(array, sides, mode="edge")[window]
            return found[:, ::-1] if flipped else found

        shifted.append(place(image))
        moved.append(place(label) if label.ndim == 2 else label)
    return np.stack(shifted), np.stack(moved)
