"""The picture of the training study: a field before, during and after training, its size, and what its change is made of."""

from typing import Any

import numpy as np

from erfjax.plot.canvas import DASHES, INK, MARKERS, around, draw_map, figure

COLUMNS = 5
ROWS = ("measured,\nE g²", "measured,\nchannels apart", "closed form,\nchannels apart")
FACTORS = {
    "σ²": "σ²",
    "on the path": "convolutions on the path",
    "kernels": "Var X of the kernels",
    "coherence": "coherence",
}


def training(result: Any) -> Any:
    """A figure of a `TrainingResult`: maps of the first network, σ by epoch and by accuracy, and the factors of its change."""
    first = next(iter(result.runs))
    looks = result.runs[first][0]
    picked = sorted({round(i * (len(looks) - 1) / (COLUMNS - 1)) for i in range(COLUMNS)} | {result.first})
    with figure(10.0, 8.8) as drawing:
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.1, 1))
        names = result.main, result.apart, result.given
        panels = upper.subplots(len(names), len(picked), squeeze=False)
        window = around(max((looks[i].fields[result.main].map for i in picked), key=_spread), 3.0)
        for column, index in enumerate(picked):
            for axes, name in zip(panels[:, column], names, strict=True):
                seen = looks[index].fields[name]
                draw_map(axes, seen.map[window])
                axes.set_xlabel(f"σ {seen.sigma[0]:.2f}" + (f" ± {seen.sigma[1]:.2f}" if seen.sigma[1] else ""))
            epoch = result.epochs[index]
            panels[0, column].set_title(
                f"epoch {epoch:.3g}, {looks[index].accuracy:.0%} right" if index else "before training"
            )
        for axes, label in zip(
            panels[:, 0], ("measured,\nE g²", "measured,\nchannels apart", "closed form,\nchannels apart"), strict=True
        ):
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
        _plain_ticks(change)
        change.legend(loc="best", fontsize=7)
        lower.legend(*by_epoch.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawing


def _look(style: int) -> dict[str, Any]:
    line = {"color": INK[style % 5], "linestyle": DASHES[style % 5], "linewidth": 1.1, "capsize": 1.5}
    return line | {"marker": MARKERS[style % 5], "markersize": 3.5, "markerfacecolor": "white"}


def _spread(values: np.ndarray) -> int:
    """How many pixels a window around a map has along its axes, to find the widest."""
    return sum(part.stop - part.start for part in around(values, 3.0))


def _plain_ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
