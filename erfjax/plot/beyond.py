"""Pictures of what goes beyond the paper: design search, flat fields, sparse connections, initialisation.

In every panel the closed form is a line and the measurement stands as markers on it.
"""

import math
from typing import Any

import numpy as np

from erfjax.plot.canvas import CONTOUR, DASHES, INK, MARKERS, draw_map, draw_section, figure, legend_below, log_log
from erfjax.plot.profiles import GREY, limits, markers, profile, theory


def design(result: Any) -> Any:
    """A figure of a `DesignResult`: profiles by budget (columns) and rule (rows), and below σ against cost."""
    names, rules = list(result.given), list(next(iter(result.pairs.values())))
    with figure(max(3.1 * len(names), 7.0), 1.55 * len(rules) + 4.2) as drawing:
        drawing.suptitle("design: the widest fields within the TRF, cost and stride of given designs")
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.55 * len(rules) + 0.7, 3.5))
        panels = upper.subplots(len(rules), len(names), squeeze=False, sharex="col")
        for column, name in enumerate(names):
            given, reach = result.pairs[name]["given"], math.ceil(result.given[name].trf / 2)
            for axes, rule in zip(panels[:, column], rules, strict=True):
                one, found = result.pairs[name][rule], result.designs(name)[rule]
                back: Any = {"color": GREY, "linewidth": 3, "alpha": 0.35, "label": "given design: closed form"}
                draw_section(axes, profile(given.closed)[0], through=(_centre(given),), **back)
                line: Any = {"linewidth": 1.0, "label": "design of the row: closed form"}
                draw_section(axes, profile(one.closed)[0], through=(_centre(one),), **line)
                markers(axes, one.measured, 0, "measured, ± 2 se", reach, max(1, reach // 14))
                limits(axes, reach)
                axes.set(xlabel="" if rule != rules[-1] else axes.get_xlabel())
                axes.set_title(f"{found}: σ {found.sigma:.3g}", fontsize=7.5, loc="left")
            budget = result.given[name]
            panels[0, column].annotate(
                f"{name}: TRF {budget.trf}, cost {budget.cost:.4g}",
                (0.5, 1.24),
                xycoords="axes fraction",
                ha="center",
                fontsize=9.5,
            )
        for axes, rule in zip(panels[:, 0], rules, strict=True):
            axes.set_ylabel(f"{rule}\nshare per column" if rule == "given" else rule.replace(", ", ",\n"))
        legend_below(upper, panels[0, 0])
        _frontiers(lower.subplots(), result)
    return drawing


def _frontiers(axes: Any, result: Any) -> None:
    """The widest field by cost, any depth, in units of the flat field of the budget; the given and the best designs on it."""
    for style, (name, found) in enumerate(result.frontiers.items()):
        look, given = {"color": INK[style % 5]}, result.given[name]
        flat = given.sigma / given.flatness
        points = look | {"marker": MARKERS[style % 5], "linestyle": "none", "markersize": 6}
        cost, sigma = ([*(getattr(d, key) for d in found)] for key in ("cost", "sigma"))
        line = look | {"linestyle": DASHES[style % 5], "label": f"best of any depth, TRF <= {given.trf}"}
        axes.step([*cost, given.cost], np.array([*sigma, sigma[-1]]) / flat, where="post", linewidth=1.1, **line)
        same_depth = [d for rule, d in result.best[name].items() if "any depth" not in rule]
        shares = [d.sigma / flat for d in same_depth]
        axes.plot([d.cost for d in same_depth], shares, markerfacecolor="white", **points)
        axes.plot(given.cost, given.flatness, label=f"{name}: given (filled), best of its depth (open)", **points)
    axes.axhline(1.0, color=GREY, linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(
        xlabel="cost in multiply-adds per input pixel and pair of channels",
        ylabel="σ / σ of a flat field of that TRF",
        ylim=(0, 1.08),
        title="the widest field by cost: 1 is flat, the most without holes",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.2), ncols=2, fontsize=7.5)


def flat(result: Any) -> Any:
    """A figure of a `FlatResult`: measured maps, profiles on the closed form, growth, and what rounding leaves."""
    pairs = result.pairs
    with figure(max(2.3 * len(pairs), 7.0), 7.4) as drawing:
        drawing.suptitle(
            "flat: signed three-tap kernels see every pixel of the TRF equally (dashed: 4.55 % of the peak)"
        )
        upper, lower = drawing.subfigures(2, 1, height_ratios=(1.25, 1))
        panels = upper.subplots(2, len(pairs), squeeze=False, height_ratios=(1.3, 1))
        for column, one in enumerate(pairs):
            n, reach = (one.trf - 1) // 2, one.trf // 2 + 2
            draw_map(panels[0, column], np.pad(one.measured.map, 2))
            panels[0, column].set_title(f"{n} layers, TRF {one.trf}")
            below = panels[1, column]
            draw_section(below, np.pad(profile(one.closed)[0], 2), linewidth=1.0, through=(n + 2,), label="closed form")
            markers(below, one.measured, 0, "measured", reach, max(1, reach // 10))
            bell = _bell(np.sqrt(n * 2 / 3), reach)
            draw_section(below, bell, style=1, color=GREY, through=(reach,), label="n uniform kernels: Gaussian")
            limits(below, reach)
        panels[1, 0].set_ylabel("share per column")
        legend_below(upper, panels[1, 0])
        growing, losing = lower.subplots(1, 2, width_ratios=(1, 1.15))
        _flat_growth(growing, result)
        for style, (kind, values) in enumerate(result.deviation.items()):
            shown = np.maximum(np.nan_to_num(values, posinf=np.inf), 1e-17)
            look = {"color": INK[style % 5], "linestyle": DASHES[style % 5], "marker": MARKERS[style % 5]}
            losing.plot(
                result.depths, shown, markersize=4, markerfacecolor="white", linewidth=1, label=", ".join(kind), **look
            )
        losing.axhline(1.0, color=GREY, linewidth=0.8)
        losing.set(
            yscale="log",
            xlabel="layers n",
            ylabel="max |map / mean - 1|",
            ylim=(1e-17, 1e9),
            title="deviation by precision and order (1: lost)",
        )
        losing.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawing


def _flat_growth(axes: Any, result: Any) -> None:
    """σ of flat and of uniform stacks against depth: closed forms as lines, measurements as markers."""
    n = np.array([(one.trf - 1) // 2 for one in result.pairs], dtype=float)
    at = np.geomspace(n.min(), n.max(), 50)
    axes.plot(at, np.sqrt(((2 * at + 1) ** 2 - 1) / 12), color=INK[0], linewidth=1, label="flat: σ = √(n(n + 1)/3)")
    measured = [one.ratio().b for one in result.pairs]
    axes.plot(n, measured, "o", color=INK[0], markerfacecolor="white", label="measured, float32, Leja's order")
    axes.plot(at, np.sqrt(at * 2 / 3), color=GREY, linestyle="--", linewidth=1, label="uniform: σ = √(2n/3)")
    axes.set(xlabel="layers n", ylabel="σ in pixels", title="the field grows as n, not √n")
    log_log(axes, n)
    axes.legend(loc="upper left", fontsize=7)


def sparse(result: Any) -> Any:
    """A figure of a `SparseResult`: maps and profiles by window, and σ against the window."""
    count = len(result.windows)
    reach = max(one.trf for one in result.sparse) // 2 + 1
    with figure(max(2.1 * count, 7.0), 9.0) as drawing:
        drawing.suptitle("sparse: nine taps drawn in a window, and a dilated kernel of the same cost (black: the peak)")
        upper, lower = drawing.subfigures(2, 1, height_ratios=(2.2, 1))
        panels = upper.subplots(3, count, squeeze=False, height_ratios=(1.2, 1.2, 1))
        for column, window in enumerate(result.windows):
            for row, one in enumerate((result.sparse[column], result.dilated[column])):
                padded = np.pad(one.measured.map, reach)
                at = _centre(one) + reach
                around = slice(at - reach, at + reach + 1)
                draw_map(panels[row, column], padded[around, around], contour=None)
                panels[row, column].set_xlabel(f"σ {one.ratio().b:.2f}")
            panels[0, column].set_title(f"window {window}")
            below, one = panels[2, column], result.sparse[column]
            line = profile(one.closed)[0]
            draw_section(below, line, linewidth=1.0, through=(_centre(one),), label="random taps: closed form")
            markers(below, one.measured, 0, "random taps: measured, ± 2 se", reach, max(1, reach // 12))
            limits(below, reach)
        for row, name in enumerate(("random taps", "dilated", "share per column")):
            panels[row, 0].set_ylabel(name)
        legend_below(upper, panels[2, 0])
        _by_window(lower.subplots(), result)
    return drawing


def _by_window(axes: Any, result: Any) -> None:
    """σ against the window, for random and for dilated taps."""
    k = np.array(result.windows, dtype=float)
    axes.plot(k, result.expected, color=GREY, linewidth=4, alpha=0.4, label="random taps: mean over all draws")
    for style, (name, pairs) in enumerate((("random taps", result.sparse), ("dilated", result.dilated))):
        ratios = [one.ratio() for one in pairs]
        look = {"color": INK[style], "linewidth": 1.0}
        axes.plot(k, [r.a for r in ratios], linestyle=DASHES[style], label=f"{name}: closed form", **look)
        points = {"fmt": MARKERS[style], "markersize": 4.5, "markerfacecolor": "white", "capsize": 2}
        errors = [2 * (r.b_stderr or 0) for r in ratios]
        axes.errorbar(k, [r.b for r in ratios], errors, label=f"{name}: measured, ± 2 se", **points, **look)
    depth = result.settings["depth"]
    axes.set(
        xlabel="window in pixels", ylabel="σ in pixels", title=f"{depth} layers of nine taps: same cost, wider field"
    )
    axes.set_xticks(k)
    axes.legend(loc="upper left")


def initialisation(result: Any) -> Any:
    """A figure of an `InitialisationResult`: best kernels, fields of initialisers, learning curves."""
    heights = (1.0, 1.9, 1.3 if result.learning else 0.0)
    with figure(9.4, 2.4 * sum(heights)) as drawing:
        drawing.suptitle("initialisation: the kernel of largest σ², fields (dashed: 4.55 % of the peak), learning")
        parts = drawing.subfigures(3 if result.learning else 2, 1, height_ratios=[h for h in heights if h])
        _ascents(parts[0], result.ascents)
        panels = parts[1].subplots(2, len(result.pairs), squeeze=False, height_ratios=(1.3, 1))
        reach = max(math.ceil(3.3 * one.closed.sigma()[-1]) for one in result.pairs)
        for column, one in enumerate(result.pairs):
            at = slice(_centre(one) - min(reach, _centre(one)), _centre(one) + reach + 1)
            lattice = (one.closed.map[at, at] == 0).any()  # its contour would be one ring per pixel
            draw_map(panels[0, column], one.measured.map[at, at], contour=None if lattice else CONTOUR)
            panels[0, column].set(title=one.name, xlabel=f"σ {one.ratio().b:.2f}, closed form {one.ratio().a:.2f}")
            theory(panels[1, column], one.closed)
            markers(panels[1, column], one.measured, 0, "measured, ± 2 se", reach)
            limits(panels[1, column], reach)
        panels[1, 0].set_ylabel("share per column")
        legend_below(parts[1], panels[1, 0])
        if result.learning:
            _learning(parts[2], result.learning)
    return drawing


def _ascents(part: Any, ascents: Any) -> None:
    """The best kernels, and σ on the way to them."""
    panels = part.subplots(1, len(ascents) + 1, squeeze=False, width_ratios=[1.0] * len(ascents) + [2.2])[0]
    for style, (axes, (k, ascent)) in enumerate(zip(panels, ascents.items(), strict=False)):
        draw_map(axes, ascent.kernels[-1], contour=None)
        axes.set(title=f"largest σ², {k} × {k}", xlabel=f"{ascent.corners:.1%} in the corners")
        gain = np.sqrt(ascent.variance / ((k**2 - 1) / 6))
        look = {"color": INK[style % 5], "linestyle": DASHES[style % 5]}
        panels[-1].plot(
            gain, linewidth=1.2, label=f"{k} × {k}, √(3(k-1)/(k+1)) = {math.sqrt(3 * (k - 1) / (k + 1)):.3f}", **look
        )
        panels[-1].axhline(math.sqrt(3 * (k - 1) / (k + 1)), color=GREY, linewidth=0.7, zorder=0)
    panels[-1].set(xlabel="steps of gradient ascent", ylabel="σ / σ of uniform")
    panels[-1].legend(loc="lower right")


def _learning(part: Any, learning: Any) -> None:
    """Training loss by epoch and readout: means over seeds with 95 % confidence intervals."""
    panels = part.subplots(1, len(learning), squeeze=False)[0]
    for axes, (readout, found) in zip(panels, learning.items(), strict=True):
        for style, (name, curves) in enumerate(found.items()):
            epochs = np.arange(1, curves.loss.shape[1] + 1) + 0.06 * (style - 1.5)
            mean, half = curves.mean_accuracy
            look = {"color": INK[style % 5], "linestyle": DASHES[style % 5], "marker": MARKERS[style % 5], "capsize": 2}
            axes.errorbar(
                epochs, 100 * mean, 100 * half, label=name, linewidth=1, markersize=4, markerfacecolor="white", **look
            )
        axes.set(xlabel="epoch", title=f"digits, readout: {readout}" + (" units" if readout == "all" else " unit"))
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("test accuracy in %, mean and 95 % interval")
    panels[-1].legend(loc="lower right")


def regularisation(result: Any) -> Any:
    """A figure of a `RegularisationResult`: accuracy and σ by step, and the measured fields at the end, by task."""
    with figure(9.6, 3.0 * len(result.trained) + 0.4) as drawing:
        drawing.suptitle(
            "regularisation: the width of the analytic field in the loss, where the label depends on two far pixels"
        )
        panels = drawing.subplots(len(result.trained), 3, squeeze=False)
        for row, (task, kinds) in zip(panels, result.trained.items(), strict=True):
            for style, (name, one) in enumerate(kinds.items()):
                _trained(row, result.steps, style, name, one)
            for side in (-task.distance, task.distance):
                row[2].axvline(side, color=GREY, linewidth=0.8, linestyle=":")
            row[0].axhline(100, color=GREY, linewidth=0.7, zorder=0)
            row[0].set(title=str(task), xlabel="step of training", ylabel="accuracy in %, mean and 95 % interval")
            row[0].set_ylim(top=103)
            row[1].set(
                title="σ of the field: analytic (open),\nmeasured at the end (filled)", xlabel="step of training"
            )
            row[1].set(ylabel="pixels, mean and 95 % interval")
            row[2].set(title="measured field at the end", ylabel="share of each pixel", yscale="log")
            row[2].set(xlabel="pixels from the unit (dotted: the label's)")
        legend_below(drawing, panels[0, 0])
    return drawing


def _trained(row: Any, steps: Any, style: int, name: str, one: Any) -> None:
    """The curves and the field of networks of one kind, a little aside so that error bars do not hide each other."""
    aside = np.array(steps) + 0.012 * steps[-1] * (style - 1.5)
    points: Any = {"color": INK[style % 5], "marker": MARKERS[style % 5], "markersize": 3.5}
    look: Any = points | {"linestyle": DASHES[style % 5], "linewidth": 1.1, "markerfacecolor": "white"}
    for axes, what, scale in ((row[0], "accuracy", 100), (row[1], "sigma", 1)):
        mean, half = one.curve(what)
        axes.errorbar(aside, scale * mean, scale * half, label=name, elinewidth=0.6, capsize=1.5, **look)
    mean, half = one.final_sigma
    row[1].errorbar(steps[-1] * (1.06 + 0.03 * style), mean, half, elinewidth=0.6, capsize=1.5, **points)
    offset = np.arange(one.measured.shape[1]) - one.measured.shape[1] // 2
    row[2].plot(offset, one.measured.mean(0), **look)


def _bell(sigma: float, reach: int) -> np.ndarray:
    t = np.arange(-reach, reach + 1)
    return np.exp(-0.5 * (t / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))


def _centre(one: Any) -> int:
    """The column at the centre of a pair's theoretical field."""
    return math.floor(one.closed.theoretical.centre[-1] + 0.5)
