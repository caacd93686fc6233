"""Do error bars keep their promise: how often intervals hold the true value, for random networks of any depth and width.

A population of networks (of `NETWORKS`, fresh weights and a fresh input each) is measured once per architecture, depth, width and
statistic. Data sets of S samples are then drawn from it again and again; each gives its intervals and its
verdict on itself (`EffectiveField.diagnostics`). The truth is that of the population, so nothing is left to a formula; its
total stands beside the closed form's.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from erfjax import summary
from erfjax.errors import MapError, StackError
from erfjax.fields import EffectiveField
from erfjax.fields.intervals import intervals
from erfjax.layers import Activation, Conv
from erfjax.layers.networks import Sampler
from erfjax.plot.canvas import INK, MARKERS, figure
from erfjax.progress import bar
from erfjax.readings.empirical import empirical
from erfjax.studies._support.pairs import Claim, Result, noise
from erfjax.typing import Progress, Statistic
from erfjax.uncertainty.records import Record, summarise

MEASURES = ("total", "luo", "sigma", "effective_area", "energy_radius", "fwhm", "share")
OPTIONS = {"energy_radius": {"fraction": 0.9}}
STATISTICS = ("square", "rms", "abs", "share")
AT_ONCE = 2000  # networks per run: so many maps of single samples are kept
PROMISED = 0.93  # an interval that calls itself one of 95 % holds the truth as often at least, or its field has a note
TOKENS = 12  # of the attention


def _convolutions(taps: int, activation: str) -> Callable[[int, int], tuple[Callable[..., Any], tuple[int, ...], str]]:
    """(depth, width) -> a sampler of plain networks of 3 taps along so many axes, the shape of its input, the layout."""

    def make(depth: int, width: int) -> tuple[Callable[..., Any], tuple[int, ...], str]:
        stack = (Conv((3,) * taps, padding="VALID") * Activation(activation)) ** depth
        return stack.sampler(width=width), (2 * depth + 1,) * taps, {1: "NWC", 2: "NHWC"}[taps]

    return make


def _attention(depth: int, width: int) -> tuple[Callable[..., Any], tuple[int, ...], str]:
    """The same of causal attention of one head between shortcuts, behind norms."""

    def f(key: Any, x: Any) -> Any:
        x = x @ jax.random.normal(jax.random.fold_in(key, 0), (x.shape[-1], width))
        for layer in range(depth):
            draws = jax.random.normal(jax.random.fold_in(key, 1 + layer), (4, width, width)) / math.sqrt(width)
            query, keys, value, out = draws
            normed = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
            scores = jnp.einsum("nic,njc->nij", normed @ query, normed @ keys) / math.sqrt(width)
            causal = np.tril(np.ones((1, TOKENS, TOKENS), bool))
            x = x + jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)) @ normed @ value @ out
        return x

    return f, (TOKENS,), "NLC"


NETWORKS = {
    "relu": _convolutions(1, "relu"),
    "tanh": _convolutions(1, "tanh"),
    "image": _convolutions(2, "relu"),
    "attention": _attention,
}
"""(depth, width) -> a random function, the spatial shape of its input, and the layout."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One depth, width, statistic and number of samples.

    Attributes:
        network: of `NETWORKS`.
        statistic, depth, width, samples: of the data sets.
        spread: standard deviation of log total in the population.
        closed: total of the population over that in closed form; NaN where there is no form.
        noted: the share of the data sets that say of themselves that their bars cannot be trusted.
        covered: by measure, the share of intervals that hold the truth, at every level.
        silent: the same of the data sets without that note; NaN where all have it.
    """

    network: str
    statistic: str
    depth: int
    width: int
    samples: int
    spread: float
    closed: float
    noted: float
    covered: dict[str, tuple[float, ...]]
    silent: dict[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CoverageResult(Result):
    """What `coverage` found.

    Attributes:
        levels: nominal coverage.
        repeats: data sets per cell.
        cells: one per statistic, depth, width and number of samples.
    """

    name = "coverage"

    levels: tuple[float, ...]
    repeats: int
    cells: tuple[Cell, ...]

    def tables(self) -> tuple[summary.Table, ...]:
        """One table per measure: a row per cell, actual coverage at every level, of all data sets and of those without a note."""
        measures = list(self.cells[0].covered)
        shown = [f"{100 * level:g} %" for level in self.levels]
        names = (
            "network",
            "statistic",
            "depth",
            "width",
            "samples",
            "s(log total)",
            "total / closed",
            "noted",
            *shown,
            *(f"{s} silent" for s in shown),
        )
        notes = (
            f"{self.repeats} data sets per row: a binomial standard error of {math.sqrt(0.05 * 0.95 / self.repeats):.3f} at 95 %",
            "noted: data sets whose own diagnostics say that their bars cannot be trusted; silent: coverage of the others",
        )

        def row(cell: Cell, measure: str) -> tuple[Any, ...]:
            found = (*cell.covered[measure], *cell.silent[measure])
            return (
                cell.network,
                cell.statistic,
                cell.depth,
                cell.width,
                cell.samples,
                cell.spread,
                cell.closed,
                cell.noted,
                *found,
            )

        return tuple(
            summary.Table(f"coverage: {measure}", names, tuple(row(cell, measure) for cell in self.cells), notes)
            for measure in measures
        )

    def claims(self) -> tuple[Claim, ...]:
        """How far the promise is kept."""
        at = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - 0.95))
        level = self.levels[at]
        allowed = level - 2 * math.sqrt(level * (1 - level) / self.repeats)
        unwarned = [hits[at] for cell in self.cells for hits in cell.covered.values() if cell.noted < 0.5]
        below = sum(hit < allowed for hit in unwarned)
        here = f"{below} of {len(unwarned)} cells without a note lie below by more than two standard errors; "
        here += f"worst without a note: {min(unwarned, default=math.nan):.3f}"
        claims = [Claim(f"{100 * level:g} % intervals", "no error bars", here)]
        if abs(level - 0.95) < 1e-9:
            silent = self.silent_failures()
            named = "; ".join(
                f"{m}, {c.network} {c.statistic}, {c.depth} layers of {c.width}, {c.samples} samples: {c.covered[m][at]:.3f}"
                for c, m in silent
            )
            here = f"{len(silent)} of {len(unwarned)} cells" + (f" ({named})" if named else "")
            claims.append(Claim(f"below {PROMISED:.0%} without a note", "no error bars", here))
        return tuple(claims)

    def silent_failures(self) -> tuple[tuple[Cell, str], ...]:
        """The cells, with the measure, whose 95 % intervals hold the truth less often than `PROMISED` and say nothing of it.

        The binomial error of the repeats is not allowed for: with few of them some cells are here by chance.
        """
        at = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - 0.95))
        return tuple(
            (c, m) for c in self.cells for m, hits in c.covered.items() if hits[at] < PROMISED and c.noted < 0.5
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Actual coverage (cells, measures, levels), of all data sets and of the silent ones."""
        return {
            name: np.array([list(getattr(cell, name).values()) for cell in self.cells])
            for name in ("covered", "silent")
        }

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def coverage(
    depths: Sequence[int] = (5, 20),
    *,
    widths: Sequence[int] = (8, 32),
    samples: Sequence[int] = (16, 64),
    statistics: Sequence[str] = ("square", "share"),
    architectures: Sequence[str] = ("relu",),
    measures: Sequence[str] = ("total", "luo", "sigma"),
    levels: Sequence[float] = (0.68, 0.95, 0.99),
    repeats: int = 60,
    networks: int = 2000,
    seed: int = 0,
    progress: Progress = None,
) -> CoverageResult:
    """Actual against nominal coverage of the confidence intervals of random networks.

    Args:
        depths: numbers of layers.
        widths: channels of every layer.
        samples: sizes of the data sets.
        statistics: of "square", "rms", "abs", "share".
        architectures: of "relu" and "tanh" (3 taps along one axis), "image" (3 x 3 taps, ReLU), "attention" (12 tokens).
        measures: what the intervals are about, of `MEASURES`.
        levels: nominal coverage.
        repeats: data sets per cell.
        networks: size of the population of every depth, width and statistic; large where tails are heavy.
        seed: of every random number.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Raises:
        StackError: an unknown statistic or measure, or numbers that make no experiment.

    Source: B. Hanin, M. Nica 2020, for how the spread of log totals grows with depth / width.

    Example:
        >>> import erfjax as ej
        >>> result = ej.studies.coverage((2,), widths=(8,), samples=(16,), statistics=("square",), measures=("total",),
        ...                              repeats=20, networks=200)
        >>> result.cells[0].covered["total"][1] > 0.7
        True
    """
    for given, known in ((statistics, STATISTICS), (measures, MEASURES), (architectures, tuple(NETWORKS))):
        if not given or not set(given) <= set(known):
            raise StackError(f"Expected some of {', '.join(known)}, but got {tuple(given)!r}.")
    if min(*depths, *widths, repeats) < 1 or min(samples) < 2 or networks < 2:
        raise StackError("Depths, widths and repeats must be 1 or more; samples and networks 2 or more.")
    rng, cells = np.random.default_rng(seed), []
    jobs = [(a, s, n, w) for a in architectures for s in statistics for n in depths for w in widths]
    for i, (network, statistic, depth, width) in enumerate(shown := bar(jobs, progress)):
        shown.set_postfix_str(f"{network}, {statistic}, {depth} layers of width {width}")
        key = jax.random.fold_in(jax.random.key(seed), i)
        population, closed = _population(network, statistic, depth, width, networks, key)
        for size in samples:
            cells.append(
                _cell(
                    population, (network, statistic, depth, width, size), closed, measures, tuple(levels), repeats, rng
                )
            )
    settings = {
        "depths": list(depths),
        "widths": list(widths),
        "samples": list(samples),
        "statistics": list(statistics),
        "architectures": list(architectures),
    }
    settings |= {
        "measures": list(measures),
        "levels": list(levels),
        "repeats": repeats,
        "networks": networks,
        "seed": seed,
    }
    return CoverageResult(settings, tuple(levels), repeats, tuple(cells))


def _population(
    network: str, statistic: str, depth: int, width: int, networks: int, key: Any
) -> tuple[np.ndarray, float]:
    """The maps of single networks, and their mean total over the closed form's."""
    sampler, shape, layout = NETWORKS[network](depth, width)
    unit = tuple(n - 1 for n in shape) if network == "attention" else None
    maps = []
    for first in range(0, networks, AT_ONCE):
        field = empirical(
            sampler,
            noise(shape),
            key=jax.random.fold_in(key, first),
            samples=min(AT_ONCE, networks - first),
            layout=layout,
            unit=unit,
            statistic=cast(Statistic, statistic),
            channels="sum" if statistic == "abs" else "random-signs",
            progress=False,
        )
        maps.append(field.batches)
    population = np.concatenate([one for one in maps if one is not None])
    closed = math.nan
    if isinstance(sampler, Sampler) and statistic in ("square", "rms"):
        closed = float(sampler.stack.analytic("square", channels="random-signs", width=width).map.sum())
    return population, float(population.mean(0).sum() / closed)


def _cell(
    population: np.ndarray,
    cell: tuple[str, str, int, int, int],
    closed: float,
    measures: Sequence[str],
    levels: tuple[float, ...],
    repeats: int,
    rng: np.random.Generator,
) -> Cell:
    """The data sets of one cell."""
    network, statistic, depth, width, size = cell
    truth = _field(population, statistic)
    true = {measure: truth.reader(measure, **OPTIONS.get(measure, {}))(truth.map) for measure in measures}
    noted, hits = [], []
    for _ in range(repeats):
        field = _field(population[rng.integers(0, len(population), size)], statistic)
        noted.append(not field.diagnostics().trusted)
        hits.append([_holds(field, measure, levels, true[measure]) for measure in measures])
    told, held = np.array(noted), np.array(hits)
    silent = held[~told].mean(0) if not told.all() else np.full(held.shape[1:], np.nan)
    assert truth.record is not None
    return Cell(
        network,
        statistic,
        depth,
        width,
        size,
        math.sqrt(truth.record.log_moments[1]),
        closed,
        float(told.mean()),
        {m: tuple(map(float, held[:, i].mean(0))) for i, m in enumerate(measures)},
        {m: tuple(map(float, silent[i])) for i, m in enumerate(measures)},
    )


def _field(maps: np.ndarray, statistic: str) -> EffectiveField:
    """A field of these samples, as `empirical` makes it."""
    mean, middle = maps.mean(0), maps[(slice(None), *(n // 2 for n in maps.shape[1:]))]
    record = Record(summarise(maps, middle), np.stack([maps.reshape(len(maps), -1).sum(1), middle]), len(maps))
    field = np.sqrt(mean) if statistic == "rms" else mean
    return EffectiveField(
        field, None, cast(Any, statistic), len(maps), (0,), None, "measured", batches=maps, record=record
    )


def _holds(field: EffectiveField, measure: str, levels: tuple[float, ...], true: float) -> list[bool]:
    """Whether the interval at every level holds the true value; one that does not exist does not."""
    try:
        found = intervals(field, measure, levels, options=OPTIONS.get(measure))
    except MapError:
        return [False] * len(levels)
    return [bool(one.low * (1 - 1e-12) <= true <= one.high * (1 + 1e-12)) for one in found]


def _figure(result: CoverageResult) -> Any:
    """One panel per measure; filled markers are cells whose data sets warn of their bars."""
    measures = list(result.cells[0].covered)
    with figure(3.2 * len(measures), 3.2) as drawing:
        panels = drawing.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            for i, level in enumerate(result.levels):
                error = 2 * np.sqrt(level * (1 - level) / result.repeats)
                axes.axhspan(level - error, min(level + error, 1), color=INK[i % 5], alpha=0.12, linewidth=0)
                axes.axhline(level, color=INK[i % 5], linewidth=0.7)
                for cell in result.cells:
                    told = cell.noted > 0.5
                    axes.plot(
                        np.exp(cell.spread**2) / cell.samples,
                        cell.covered[measure][i],
                        MARKERS[i % 5],
                        color=INK[i % 5],
                        markersize=4,
                        fillstyle="full" if told else "none",
                    )
            axes.set(xscale="log", xlabel="exp(s²) / samples", title=measure, ylim=(0.4, 1.02))
        panels[0].set_ylabel("actual coverage; filled: noted")
    return drawing
