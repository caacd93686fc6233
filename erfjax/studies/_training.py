"""What training does to the ERF: residual networks looked at before, during and after, and what decides whether it grows.

The paper reports that the ERF grows with training (section 3.2). Here every network is measured on the same images all the
way, and its change is taken apart. For random weights with the variances of the kernels at the moment, the closed form gives

    σ² = (convolutions on the path) · (Var X of their kernels),

for every block adds its share of the gradient that takes the branch and not the shortcut. With the weights as they are and the
gates of every layer from another image σ² changes by the *coherence* of the weights, which are no independent draws; with all
gates of one image, by the *dependence of gates*. So a change of σ² is a product of four, and variants of the same training show
what moves which.

What the default run finds: σ falls within the first epoch, as the shortcuts take over the gradient, and grows after it,
though the shortcuts keep what they took: trained weights become coherent. The kernels' energy moves hardly at all.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erfjax import summary
from erfjax.errors import MissingDependencyError, SampleError, StackError
from erfjax.plot.canvas import DASHES, INK, MARKERS, around, draw_map, figure, plain_ticks
from erfjax.progress import bar
from erfjax.studies import datasets
from erfjax.studies._support.convergence import Interval, interval
from erfjax.studies._support.pairs import Claim, Result
from erfjax.typing import Progress

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "twice as wide": {"width": 2},
    "silent branches": {"normalisation": "batch, silent branches"},
    "no normalisation": {"normalisation": "none", "rate": 0.2},
    "augmented": {"augmented": True},
    "centre readout": {"readout": "centre"},
}
"""Changes of a setting; numbers multiply. The centre readout is the task that needs far pixels: one unit must tell the label."""

PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "full": {"blocks": 17, "width": 64, "epochs": 100, "batch": 128, "augmented": True},
}
"""Beside `fitting.Setting`: for two CPU cores; for a GPU (17 blocks of two convolutions: a theoretical field of 71 pixels)."""

DENSE: dict[str, Any] = {"subsamplings": 4, "readout": "pixels", "blocks": 8, "batch": 8, "epochs": 30, "rate": 0.05}
"""What is different where every pixel has a label: a map of units 16 pixels apart, interpolated to the image."""

COLUMNS = 5  # of maps in the figure, besides the look after the first epoch
ROWS = ("measured,\nE g²", "measured,\nchannels apart", "closed form,\nchannels apart")
FACTORS = {
    "σ²": "σ²",
    "on the path": "convolutions on the path",
    "kernels": "Var X of the kernels",
    "coherence": "coherence of the weights",
    "gates": "dependence of gates",
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrainingResult(Result):
    """What `training` found.

    Attributes:
        steps_per_epoch: batches of one epoch.
        runs: by variant, the looks (`fitting.Look`) at the network of every seed.
    """

    name = "training"
    main, apart, shuffled = "unit, E g²", "unit, channels apart", "unit, gates shuffled"  # see `fitting`
    given, exchangeable = "analytic, weights as given", "analytic, weights exchangeable"

    steps_per_epoch: int
    runs: dict[str, tuple[tuple[Any, ...], ...]]

    @property
    def epochs(self) -> np.ndarray:
        """When was looked, in epochs."""
        looks = next(iter(self.runs.values()))[0]
        return np.array([look.step for look in looks]) / self.steps_per_epoch

    @property
    def first(self) -> int:
        """The number of the look after the first epoch."""
        return int(np.flatnonzero(self.epochs == 1)[0])

    def sigma(self, variant: str, field: str) -> np.ndarray:
        """σ of a probe or of a closed form, (seeds, looks)."""
        return np.array([[look.fields[field].sigma[0] for look in looks] for looks in self.runs[variant]])

    def accuracy(self, variant: str) -> np.ndarray:
        """Test accuracy, (seeds, looks)."""
        return np.array([[look.accuracy for look in looks] for looks in self.runs[variant]])

    def factors(self, variant: str) -> dict[str, np.ndarray]:
        """σ² of the unit's channels apart and the four numbers whose product it is, each (seeds, looks)."""
        measured = self.sigma(variant, self.apart) ** 2
        random = self.sigma(variant, self.exchangeable) ** 2
        shuffled = self.sigma(variant, self.shuffled) ** 2
        kernels = np.array([[look.kernels for look in looks] for looks in self.runs[variant]])
        return {
            "σ²": measured,
            "on the path": random / kernels,
            "kernels": kernels,
            "coherence": shuffled / random,
            "gates": measured / shuffled,
        }

    def curve(self, variant: str, values: np.ndarray, field: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Means over seeds of (seeds, looks) values, and the half-widths of 95 % intervals.

        Of one seed the interval is that of the images which a `field` was averaged over.
        """
        if len(values) > 1:
            found = [interval(column) for column in values.T]
            return np.array([one.mean for one in found]), np.array([one.half for one in found])
        looks = self.runs[variant][0]
        errors = [look.fields[field].sigma[1] if field else 0.0 for look in looks]
        return values[0], 1.96 * np.array(errors)

    def tables(self) -> tuple[summary.Table, ...]:
        """σ by variant; what its changes are made of; other probes of the first variant."""
        return self._sizes(), self._changes(), self._probes()

    def claims(self) -> tuple[Claim, ...]:
        """Whether the field grows."""
        found = []
        for variant in self.runs:
            sigma = self.sigma(variant, self.main)
            ratios = (sigma[:, self.first] / sigma[:, 0], sigma[:, -1] / sigma[:, self.first])
            texts = [_text(_spread(ratio)) for ratio in ratios]
            here = f"σ × {texts[0]} in the first epoch, × {texts[1]} after it"
            found.append(Claim(f"training, {variant}", "the ERF grows", here))
        return tuple(found)

    def _sizes(self) -> summary.Table:
        rows = []
        for variant in self.runs:
            mean, half = self.curve(variant, self.sigma(variant, self.main), self.main)
            at = (0, self.first, -1)
            accuracy, _ = self.curve(variant, 100 * self.accuracy(variant))
            luo = np.array([looks[-1].fields[self.main].luo[0] for looks in self.runs[variant]]).mean()
            sizes = tuple(_text(Interval(mean[i], half[i])) for i in at)
            lowest = int(mean.argmin())
            rows.append((variant, *sizes, f"{mean[lowest]:.2f} at {self.epochs[lowest]:.3g}", luo, accuracy[-1]))
        names = "network, σ before, after 1 epoch, at the end, least σ at epoch, Luo size, accuracy %"
        s = self.settings
        notes = (
            f"{s['data']}: {s['blocks']} blocks, width {s['width']}, {s['epochs']} epochs, {s['seeds']} seed(s); "
            f"± 95 % over {'seeds' if s['seeds'] > 1 else 'images'}",
            f"σ and Luo size in pixels, of E g² at the centre of the last feature map, on the same {s['images']} test images",
        )
        return summary.Table("the ERF before, during and after training", tuple(names.split(", ")), tuple(rows), notes)

    def _changes(self) -> summary.Table:
        rows = []
        for variant in self.runs:
            factors = self.factors(variant)
            for label, start, stop in (("1st epoch", 0, self.first), ("later", self.first, -1)):
                ratios = [f[:, stop] / f[:, start] for f in factors.values()]
                rows.append((variant, label, *(_text(_spread(ratio)) for ratio in ratios)))
        names = "network, when, σ², convolutions on the path, kernels, coherence, gates"
        notes = (
            "factors of change; σ² is the product of the other four",
            "on the path: σ² of random weights with these variances, over Var X of the kernels (flat: 1)",
            "coherence: σ² with shuffled gates over that of random weights; gates: measured over shuffled; channels apart",
        )
        return summary.Table("what changed", tuple(names.split(", ")), tuple(rows), notes)

    def _probes(self) -> summary.Table:
        variant = next(iter(self.runs))
        rows = []
        for field in self.runs[variant][0][0].fields:
            mean, half = self.curve(variant, self.sigma(variant, field), field)
            rows.append((field, *(_text(Interval(mean[i], half[i])) for i in (0, self.first, -1))))
        names = ("what is read", "σ before", "after 1 epoch", "at the end")
        return summary.Table(f"other readings: {variant}", names, tuple(rows))

    def arrays(self) -> dict[str, np.ndarray]:
        """Every number and every map."""
        arrays: dict[str, np.ndarray] = {"epochs": self.epochs}
        for variant, seeds in self.runs.items():
            arrays[f"{variant} accuracy"] = self.accuracy(variant)
            arrays[f"{variant} loss"] = np.array([[look.loss for look in looks] for looks in seeds])
            arrays[f"{variant} kernels"] = self.factors(variant)["kernels"]
            for field in seeds[0][0].fields:
                arrays[f"{variant} {field} sigma"] = np.array(
                    [[look.fields[field].sigma for look in looks] for looks in seeds]
                )
                arrays[f"{variant} {field} map"] = np.stack([look.fields[field].map for look in seeds[0]])
        return arrays

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def _text(value: Interval) -> str:
    return f"{value.mean:.2f}" + (f" ± {value.half:.2f}" if np.isfinite(value.half) else "")


def _spread(ratios: np.ndarray) -> Interval:
    return interval(ratios) if len(ratios) > 1 else Interval(float(ratios[0]), float("nan"))


def training(
    data: str = "digits",
    folder: str | os.PathLike[str] | None = None,
    *,
    preset: str = "small",
    variants: Sequence[str] | None = None,
    seeds: int | None = None,
    examples: int | None = None,
    images: int = 32,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress = None,
    **changes: Any,
) -> TrainingResult:
    """Residual networks trained and looked at: σ of the ERF against steps and accuracy, with what its change is made of.

    Args:
        data: "digits" (nothing to download), "mnist", "cifar10" or "camvid"; see `datasets.task`.
        folder: where the files of the data lie.
        preset: "small" takes minutes on two CPU cores, "full" a GPU.
        variants: names of `VARIANTS`; by default all on digits, else the first alone.
        seeds: networks per variant; by default 3 on digits, else 1.
        examples: how many training examples are used; by default all, 4000 in the small preset.
        images: how many test images the fields are averaged over.
        checkpoint: a folder that keeps the state of every network; the same call continues from it.
        seed: of the first network; the others follow.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.
        changes: of the setting: blocks, width, subsamplings, normalisation, readout, epochs, batch, rate, decay, augmented.

    Raises:
        SampleError: no such preset, variant or setting.
        FileFormatError, FileNotFoundError: the data are not there, or damaged.
        CheckpointError: the folder holds another run.
        MissingDependencyError: Flax and optax are not installed.

    Source: W. Luo et al. 2016, section 3.2: 17 residual blocks on CIFAR-10, and 16 with four subsamplings on CamVid.

    Example:
        >>> import erfjax as ej
        >>> tiny = {"blocks": 1, "width": 2, "epochs": 1, "batch": 32}
        >>> result = ej.studies.training(variants=["as it is"], seeds=1, examples=64, images=2, **tiny)
        >>> result.epochs.tolist(), [looks[0].step for looks in result.runs["as it is"]]
        ([0.0, 0.5, 1.0], [0])
    """
    fitting = _fitting()
    task = _cut(datasets.task(data, folder), 4000 if examples is None and preset == "small" else examples)
    named = _variants(variants, data)
    count = (3 if data == "digits" else 1) if seeds is None else seeds
    if count < 1:
        raise SampleError(f"`seeds` must be at least 1, but got {count}.")
    base = _setting(fitting, task, preset, changes)
    steps = max(1, len(task.train) // base.batch)
    with bar(progress=progress, total=steps * base.epochs * count * len(named), unit="step") as shown:
        looks: dict[str, list[Any]] = {name: [] for name in named}
        for name, number in itertools.product(named, range(seed, seed + count)):
            shown.set_postfix_str(f"{name}, seed {number}")
            path = None if checkpoint is None else Path(checkpoint) / f"{re.sub('[^a-z0-9]+', '-', name)}-{number}.npz"
            setting = _changed(base, VARIANTS[name])
            looks[name].append(fitting.fit(task, setting, seed=number, images=images, path=path, advance=shown.update))
    settings = dataclasses.asdict(base) | {"data": data, "preset": preset, "variants": list(named), "seeds": count}
    settings |= {"examples": len(task.train), "images": images, "seed": seed}
    return TrainingResult(settings, steps, {name: tuple(found) for name, found in looks.items()})


def _fitting() -> Any:
    """The module that needs Flax and optax."""
    try:
        from erfjax.studies._support import fitting
    except ImportError as error:
        raise MissingDependencyError("Training needs Flax and optax: pip install 'erfjax[training]'.") from error
    return fitting


def _variants(variants: Sequence[str] | None, data: str) -> tuple[str, ...]:
    named = tuple(VARIANTS) if data == "digits" else tuple(VARIANTS)[:1]
    named = named if variants is None else tuple(variants)
    unknown = set(named) - set(VARIANTS)
    if unknown or not named:
        raise SampleError(f"`variants` are among {', '.join(map(repr, VARIANTS))}, but got {sorted(unknown) or named}.")
    if data == "camvid" and "centre readout" in named:
        raise SampleError("Where every pixel has a label there is no centre readout: leave this variant out.")
    return named


def _setting(fitting: Any, task: datasets.Task, preset: str, changes: Mapping[str, Any]) -> Any:
    """The setting of the first variant: that of the task and the preset, with the user's changes."""
    if preset not in PRESETS:
        raise SampleError(f"`preset` must be one of {', '.join(map(repr, PRESETS))}, but got {preset!r}.")
    known = {field.name for field in dataclasses.fields(fitting.Setting)}
    if set(changes) - known:
        raise SampleError(
            f"There is no setting {sorted(set(changes) - known)}: choose among {', '.join(sorted(known))}."
        )
    own = PRESETS[preset] | (DENSE if task.dense else {})
    if task.dense and preset == "full":
        own |= {"blocks": 16, "epochs": 200}
    setting = fitting.Setting(**{**own, **changes})
    if (
        setting.blocks < max(1, setting.subsamplings - 1)
        or setting.epochs < 1
        or setting.batch < 1
        or setting.width < 1
    ):
        raise StackError("Blocks (one for each subsampling after the first), width, epochs and batch must be positive.")
    return dataclasses.replace(setting, batch=min(setting.batch, len(task.train)))


def _changed(setting: Any, changes: Mapping[str, Any]) -> Any:
    """The setting of a variant: numbers multiply, all else replaces."""
    own = {
        name: type(getattr(setting, name))(getattr(setting, name) * value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else value
        for name, value in changes.items()
    }
    return dataclasses.replace(setting, **own)


def _cut(task: datasets.Task, examples: int | None) -> datasets.Task:
    """The task with so many training examples."""
    if examples is None or examples >= len(task.train):
        return task
    if examples < 2:
        raise SampleError(f"`examples` must be at least 2, but got {examples}.")
    kept = datasets.Examples(task.train.images[:examples], task.train.labels[:examples])
    return dataclasses.replace(task, train=kept)


def _figure(result: TrainingResult) -> Any:
    """Maps of the first network, σ by epoch and by accuracy, and the factors of its change."""
    first = next(iter(result.runs))
    looks = result.runs[first][0]
    picked = sorted({round(i * (len(looks) - 1) / (COLUMNS - 1)) for i in range(COLUMNS)} | {result.first})
    with figure(10.0, 8.8) as drawing:
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.1, 1))
        names = result.main, result.apart, result.given
        panels = upper.subplots(len(names), len(picked), squeeze=False)
        window = around(max((looks[i].fields[result.main].map for i in picked), key=_reach), 3.0)
        for column, index in enumerate(picked):
            for axes, name in zip(panels[:, column], names, strict=True):
                seen = looks[index].fields[name]
                draw_map(axes, seen.map[window])
                axes.set_xlabel(f"σ {seen.sigma[0]:.2f}" + (f" ± {seen.sigma[1]:.2f}" if seen.sigma[1] else ""))
            epoch = result.epochs[index]
            panels[0, column].set_title(
                f"epoch {epoch:.3g}, {looks[index].accuracy:.0%} right" if index else "before training"
            )
        for axes, label in zip(panels[:, 0], ROWS, strict=True):
            axes.set_ylabel(label)
        by_epoch, by_accuracy, change = lower.subplots(1, 3)
        for style, variant in enumerate(result.runs):
            look = _look(style)
            mean, half = result.curve(variant, result.sigma(variant, result.main), result.main)
            by_epoch.errorbar(result.epochs, mean, half, label=variant, elinewidth=0.6, **look)
            accuracy, _ = result.curve(variant, result.accuracy(variant))
            by_accuracy.plot(100 * accuracy, mean, **{k: v for k, v in look.items() if k != "capsize"})
            by_accuracy.plot(
                100 * accuracy[:1], mean[:1], marker=MARKERS[style % 5], markersize=5, color=INK[style % 5]
            )
        reached = []
        for style, (name, values) in enumerate(result.factors(first).items()):
            mean, half = result.curve(first, values / values[:, :1])
            reached += [mean.min(), mean.max()]
            change.errorbar(result.epochs, mean, half, label=FACTORS[name], elinewidth=0.6, **_look(style))
        for axes in (by_epoch, change):
            axes.set_xscale("symlog", linthresh=float(result.epochs[1]))
            shown = [
                e for e in result.epochs if e in (0, 1, result.epochs[1], result.epochs[-1]) or float(e).is_integer()
            ]
            axes.set_xticks(shown, labels=[f"{e:.3g}" for e in shown])
            axes.minorticks_off()
        by_epoch.set(xlabel="epoch", ylabel="σ of the measured ERF in pixels (E g²)", title="σ by epoch")
        by_accuracy.set(xlabel="test accuracy in %", title="σ by accuracy; filled: before")
        change.set(xlabel="epoch", title=f"what changed: {first}", ylabel="factor of σ² since the start", yscale="log")
        change.set_ylim(0.85 * min(reached), max(reached) / 0.85)
        plain_ticks(change)
        change.legend(loc="best", fontsize=7)
        lower.legend(*by_epoch.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawing


def _look(style: int) -> dict[str, Any]:
    line = {"color": INK[style % 5], "linestyle": DASHES[style % 5], "linewidth": 1.1, "capsize": 1.5}
    return line | {"marker": MARKERS[style % 5], "markersize": 3.5, "markerfacecolor": "white"}


def _reach(values: np.ndarray) -> int:
    """How many pixels a window around a map has along its axes, to find the widest."""
    return sum(part.stop - part.start for part in around(values, 3.0))
