"""Designs: the widest fields that the budgets of the paper's networks allow, found exactly and checked by measurement.

`schedules` says what a design may be and how the best one is found. Here the fifteen layers of the 2016 paper, dilated or
strided, set the budgets: what beats them at the same TRF, cost and stride?
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from erfjax import summary
from erfjax.decisions.schedules import Budget, Design, Layer, search
from erfjax.errors import StackError
from erfjax.plot.canvas import DASHES, INK, MARKERS, draw_section, figure, legend_below
from erfjax.plot.profiles import GREY, centre, limits, markers, profile
from erfjax.progress import bar
from erfjax.studies._support.pairs import Pair, Result, pair, pair_arrays
from erfjax.typing import Progress

PAPER = {
    "dilated 2, 4, 8": Design((Layer(3),) * 12 + (Layer(3, 2), Layer(3, 4), Layer(3, 8))),
    "strided at 5, 10, 15": Design(((Layer(3),) * 4 + (Layer(3, 1, 2),)) * 3),
    "strided at 4, 8, 12": Design(((Layer(3),) * 3 + (Layer(3, 1, 2),)) * 3 + (Layer(3),) * 3),
}
"""Fifteen layers as in the architecture study: what each uses is the budget of its rivals."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DesignResult(Result):
    """What `design` found.

    Attributes:
        given: the designs to beat, by name.
        best: for each of them the widest designs of the same TRF, cost and stride, by what they must keep to.
        pairs: the fields of the "given" design and of each of these, in closed form and measured.
        frontiers: by name, the cheapest designs of any depth for every σ up to the widest.
    """

    name = "design"

    given: dict[str, Design]
    best: dict[str, dict[str, Design]]
    pairs: dict[str, dict[str, Pair]]
    frontiers: dict[str, tuple[Design, ...]]

    def tables(self) -> tuple[summary.Table, ...]:
        """One row per design: what it is, what it uses, σ in closed form and measured, σ in units of a flat field."""
        rows: list[tuple[Any, ...]] = []
        for name in self.given:
            for rule, found in self.designs(name).items():
                ratio = self.pairs[name][rule].ratio()
                label = name if rule == "given" else ""
                rows.append(
                    (label, rule, str(found), *_uses(found), found.sigma, ratio.b, ratio.b_stderr, found.flatness)
                )
        names = "budget, rule, layers, depth, TRF, cost, stride, σ closed form, measured, ± se, σ / flat"
        s = self.settings
        notes = (
            "layers: k taps, d dilation, s stride, ^ repeated; cost: multiply-adds per input pixel and pair of channels",
            "each rule allows no more TRF, cost and stride than the given design uses, and but for the last its depth",
            "σ / flat: 1 is a field as wide as a flat one of that TRF, the most there can be without holes",
            f"measured: E[g²] of {s['samples']} random networks of width {s['width']} with {s['activation']}",
        )
        return (summary.Table("widest fields within a budget", tuple(names.split(", ")), tuple(rows), notes),)

    def designs(self, name: str) -> dict[str, Design]:
        """The given design of that name, and the best ones within its budget."""
        return {"given": self.given[name], **self.best[name]}

    def arrays(self) -> dict[str, np.ndarray]:
        """Both maps of every design, and the frontiers as (cost, σ)."""
        arrays = {f"frontier {n}": np.array([(d.cost, d.sigma) for d in f]) for n, f in self.frontiers.items()}
        return arrays | pair_arrays(one for found in self.pairs.values() for one in found.values())

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def _uses(design: Design) -> tuple[int, int, float, int]:
    return len(design.layers), design.trf, round(design.cost, 2), design.stride


RULES: dict[str, dict[str, Any]] = {
    "smooth": {"spacing": "smooth"},
    "no holes": {},
    "no holes, any depth": {"depth": None},
}


def design(
    given: Mapping[str, Design] | None = None,
    *,
    activation: str = "linear",
    width: int = 32,
    samples: int = 64,
    seed: int = 0,
    progress: Progress = None,
) -> DesignResult:
    """The widest fields that the budgets of given designs allow, found exactly and checked by measurement.

    Args:
        given: designs to beat, by name; None are fifteen layers with dilation and stride as in the 2016 paper.
        activation: after every convolution of the measured networks.
        width: channels of the measured networks.
        samples: pairs of fresh weights and inputs.
        seed: of every random number.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Raises:
        StackError: no designs, or one without layers.

    Example:
        >>> import erfjax as ej
        >>> from erfjax.decisions.schedules import Design, Layer
        >>> result = ej.studies.design({"dense": Design((Layer(3),) * 4)}, width=2, samples=2, progress=False)
        >>> {rule: str(found) for rule, found in result.best["dense"].items()}
        {'smooth': '3^4', 'no holes': '3^4', 'no holes, any depth': '3 3d3'}
    """
    given = PAPER if given is None else dict(given)
    if not given or not all(found.layers for found in given.values()):
        raise StackError(f"`given` must name at least one design, each with a layer, but got {given}.")
    best = {
        name: {rule: search(dataclasses.replace(Budget.of(found), **change))[-1] for rule, change in RULES.items()}
        for name, found in given.items()
    }
    jobs = [(name, rule, found) for name in given for rule, found in ({"given": given[name]} | best[name]).items()]
    pairs: dict[str, dict[str, Pair]] = {name: {} for name in given}
    for i, (name, rule, found) in enumerate(shown := bar(jobs, progress)):
        shown.set_postfix_str(f"{name}: {found}")
        key = jax.random.fold_in(jax.random.key(seed), i)
        pairs[name][rule] = pair(f"{name}, {rule}", found.stack(activation), key=key, samples=samples, width=width)
    frontiers = {name: search(dataclasses.replace(Budget.of(found), depth=None)) for name, found in given.items()}
    settings = {"activation": activation, "width": width, "samples": samples, "seed": seed}
    settings["given"] = {name: str(found) for name, found in given.items()}
    return DesignResult(settings, dict(given), best, pairs, frontiers)


def _figure(result: DesignResult) -> Any:
    """Profiles by budget (columns) and rule (rows), and below σ against cost."""
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
                draw_section(axes, profile(given.closed)[0], through=(centre(given.closed),), **back)
                line: Any = {"linewidth": 1.0, "label": "design of the row: closed form"}
                draw_section(axes, profile(one.closed)[0], through=(centre(one.closed),), **line)
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
