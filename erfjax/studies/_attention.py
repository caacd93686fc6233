"""The ERF of transformers at birth: where the U comes from, whether √n holds, and how far sliding windows see.

Every network is a stack of attention layers on a sequence, asked about its last token (an encoder: the middle one). In
closed form small
scores make attention uniform over what its mask leaves; measured are fresh networks on fresh normal tokens, scores scaled down to
that limit or as they are.

1. Causal decoders. Paths that skip every attention stay on the last token, and means over what came before favour the first
tokens: with
   residuals the map is a U, without them only its left arm is left. Norms damp later branches, perceptrons add to the right arm.
2. Growth. √n is the law of windows of random kernels. A causal window is off its centre, so that without residuals it drifts
as n; masks
   without a window see everything after one layer.
3. The horizon of sliding windows with residuals: the distance behind which one percent of the map is left, against W ln(ε) /
ln(1 - skip).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from erfjax import summary
from erfjax.closed_form import laws
from erfjax.errors import SampleError, StackError
from erfjax.layers import Activation, Attention, Conv, Dense, Norm, Stack
from erfjax.plot.canvas import DASHES, INK, MARKERS, figure
from erfjax.plot.profiles import GREY
from erfjax.progress import bar
from erfjax.readings.empirical import empirical
from erfjax.studies._support.pairs import Claim, Pair, Result, noise, pair_arrays
from erfjax.typing import Number, Progress

SKIPS = (0.5, 0.8, 0.95)  # residual weights whose horizon is drawn
BEYOND = 0.01  # the share of the map behind the horizon


def families(heads: int = 4, window: int = 8, scale: Number = 0.1) -> dict[str, Any]:
    """The networks of the study by name: functions of the number of layers.

    Example:
        >>> from erfjax.studies._attention import families
        >>> families(2)["decoder"](3)
        Conv((1,)) * (Identity() + Norm('layer') * Attention(2, mask='causal', scale=0.1)) ** 3
    """
    causal, local = Attention(heads, "causal", scale), Attention(heads, window, scale)
    perceptron = 1 + Norm() * Dense(expand=4) * Activation("relu") * Dense()
    tokens = Conv((1,))

    def of(block: Stack) -> Any:
        return lambda n: tokens * block**n

    return {
        "decoder": of(1 + Norm() * causal),
        "decoder, perceptrons": of((1 + Norm() * causal) * perceptron),
        "decoder, scores of scale 1": of(1 + Norm() * Attention(heads, "causal")),
        "decoder, no norms": of(1 + causal),
        "decoder, no residuals": of(causal),
        "window": of(1 + Norm() * local),
        "window, no residuals": of(local),
        "encoder": of(1 + Norm() * Attention(heads, scale=scale)),
    }


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AttentionResult(Result):
    """What `attention` found.

    Attributes:
        depths: numbers of layers.
        fields: by network, its field in closed form and measured at every depth.
        horizons: by the weight of the skip connection, the distance in tokens that holds all but a percent of the closed
            form, at every
            number of layers of `layers`.
        layers: numbers of layers of the horizons.
    """

    name = "attention"

    depths: tuple[int, ...]
    fields: dict[str, tuple[Pair, ...]]
    horizons: dict[float, tuple[int, ...]]
    layers: tuple[int, ...]

    def tables(self) -> tuple[summary.Table, ...]:
        """Shares and sizes by network and depth, how they grow, and the horizons."""
        rows = []
        for name, pairs in self.fields.items():
            for n, one in zip(self.depths, pairs, strict=True):
                first, last = (shares(one, at) for at in (0, one.closed.unit[0]))
                ratio = one.ratio()
                rows.append((name, n, *first, *last, ratio.a, ratio.b, ratio.b_stderr, variation(one)))
        names = (
            "network, layers, first token, measured, ± se, the unit, measured, ± se, σ closed form, measured, ± se, "
            "total variation"
        )
        s = self.settings
        notes = (
            f"{s['tokens']} tokens of width {s['width']}, {s['heads']} heads, windows of {s['window']}, "
            f"scores scaled by {s['scale']}; "
            f"E[g²] of {s['samples']} networks",
            "closed form: attention uniform over its mask, norms by mean field; the unit is the last token, "
            "of an encoder the middle one",
        )
        table = summary.Table("the ERF of transformers at birth", tuple(names.split(", ")), tuple(rows), notes)
        return table, *([self._grown()] if len(self.depths) > 1 else []), self._horizons()

    def _grown(self) -> summary.Table:
        rows = tuple((name, *self.slopes(name)) for name in self.fields)
        notes = ("least squares in log-log over the depths above; 0.5 is the law of √n, 1 a drift",)
        return summary.Table("log-log slopes of σ against depth", ("network", "closed form", "measured"), rows, notes)

    def _horizons(self) -> summary.Table:
        window = self.settings["window"]
        rows = tuple(
            (skip, laws.window_horizon(window, skip), *(h / window for h in found))
            for skip, found in self.horizons.items()
        )
        columns = ("skip", "W ln ε / ln(1 - skip)", *(f"{n} layers, in W" for n in self.layers))
        notes = (
            f"layers skip · x + (1 - skip) · attention(x) over windows of {window} tokens, in closed form; "
            f"horizon: the tokens behind it "
            f"share {BEYOND:.0%} of E[g²]",
        )
        return summary.Table("the horizon of sliding windows with residuals", columns, rows, notes)

    def slopes(self, name: str) -> tuple[float, float]:
        """The log-log slopes of σ against depth, in closed form and measured."""
        ratios = [one.ratio() for one in self.fields[name]]
        logs = np.log(self.depths)
        closed, measured = (np.polyfit(logs, np.log([getattr(r, side) for r in ratios]), 1)[0] for side in "ab")
        return float(closed), float(measured)

    def claims(self) -> tuple[Claim, ...]:
        """What the literature says of these networks."""
        found = []
        if "decoder" in self.fields:
            with_, without = (self.fields.get(name, (None,))[-1] for name in ("decoder", "decoder, no residuals"))
            assert with_ is not None
            line = with_.measured.normalised()
            here = f"{line[0]:.2f} on the first, {line.min():.3f} at the least, {line[-1]:.2f} on the last token"
            if without is not None:
                here += f"; without residuals {shares(without, 0)[1]:.2f} and {shares(without, -1)[1]:.3f}"
            found.append(Claim("U-shape of causal decoders (Chowdhury 2026)", "first and last tokens favoured", here))
        if len(self.depths) > 1:
            each = "; ".join(f"{name} n^{self.slopes(name)[1]:.2f}" for name in self.fields)
            found.append(Claim("σ grows as √n (Luo et al. 2016, of convolutions)", "n^0.5", each))
        if 0.95 in self.horizons:
            window, layers = self.settings["window"], f"{self.layers[0]} to {self.layers[-1]} layers"
            low, high = (f(self.horizons[0.95]) / window for f in (min, max))
            here = f"{low:.2f} W to {high:.2f} W over {layers}"
            found.append(Claim("horizon of windows, skip 0.95 (Xiao 2025)", "1.5 W at any depth", here))
        return tuple(found)

    def arrays(self) -> dict[str, np.ndarray]:
        """Both maps of every network and depth, and the horizons."""
        arrays = pair_arrays([one for pairs in self.fields.values() for one in pairs])
        arrays["layers"] = np.array(self.layers)
        return arrays | {f"horizon, skip {skip}": np.array(found) for skip, found in self.horizons.items()}

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def shares(one: Pair, at: int) -> tuple[float, float, float]:
    """The share of a token in closed form and measured, and the standard error of its own value."""
    assert one.measured.stderr is not None
    error = one.measured.stderr.ravel()[at] / one.measured.map.sum()
    return float(one.closed.normalised().ravel()[at]), float(one.measured.normalised().ravel()[at]), float(error)


def variation(one: Pair) -> float:
    """The total variation between the two maps as shares: half the sum of their absolute differences."""
    return float(np.abs(one.closed.normalised() - one.measured.normalised()).sum() / 2)


def horizon(share: np.ndarray, beyond: float = BEYOND) -> int:
    """How many tokens back from the last one hold all but a share of a map.

    Example:
        >>> import numpy as np
        >>> from erfjax.studies._attention import horizon
        >>> horizon(np.array([0.005, 0.2, 0.3, 0.495]))
        2
    """
    behind = np.cumsum(share[::-1])
    return int(np.argmax(behind >= 1 - beyond))


def attention(
    depths: Sequence[int] = (2, 4, 8),
    *,
    networks: Sequence[str] | None = None,
    tokens: int = 48,
    width: int = 32,
    heads: int = 4,
    window: int = 8,
    scale: Number = 0.1,
    samples: int = 64,
    layers: Sequence[int] = (10, 20, 40, 80, 160),
    seed: int = 0,
    progress: Progress = None,
) -> AttentionResult:
    """The ERF of decoders and encoders by depth, with and without windows, residuals, norms, MLPs: closed form and measured.

    Args:
        depths: numbers of layers.
        networks: which of `families` to measure; None are all.
        tokens, width, heads: of the sequence and of every layer.
        window: the latest tokens that a sliding window sees.
        scale: of the scores; the closed form is that of small ones.
        samples: pairs of fresh weights and fresh tokens for each network and depth.
        layers: numbers of layers for which the horizon of windows with residuals is computed.
        seed: of every random number.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Returns:
        An `AttentionResult`; sizes in tokens.

    Raises:
        StackError: no depths, depths below 1, or an unknown network.
        SampleError: fewer than two samples, which have no standard error.

    Source: Chowdhury 2026, arXiv 2603.10123 (the U-shape); G. Xiao, Why Stacking Sliding Windows Can't See Very Far, 2025
        (the horizon).

    Example:
        >>> import erfjax as ej
        >>> result = ej.studies.attention((1, 2), networks=["decoder"], tokens=4, width=4, heads=1, samples=8, layers=(4,))
        >>> [round(float(pair.closed.normalised()[-1]), 2) for pair in result.fields["decoder"]]
        [0.82, 0.63]
    """
    depths = tuple(sorted(set(map(int, depths))))
    if not depths or depths[0] < 1:
        raise StackError(f"`depths` must be numbers of layers from 1, but got {depths}.")
    if samples < 2:
        raise SampleError(f"A standard error needs two samples or more, but got {samples}.")
    known = families(heads, window, scale)
    chosen = list(known) if networks is None else list(networks)
    if not chosen or not set(chosen) <= set(known):
        raise StackError(f"`networks` must be of {', '.join(map(repr, known))}, but got {networks}.")
    fields: dict[str, list[Pair]] = {name: [] for name in chosen}
    jobs = [(name, n) for name in chosen for n in depths]
    for i, (name, n) in enumerate(shown := bar(jobs, progress)):
        shown.set_postfix_str(f"{name}, {n} layers")
        key = jax.random.fold_in(jax.random.key(seed), i)
        unit = tokens // 2 if name == "encoder" else tokens - 1
        options: Any = {"channels": "random-signs", "unit": unit}
        net = {"width": width, "in_channels": width}
        stack = known[name](n)
        closed = stack.analytic(image_shape=tokens, **options, **net)
        measured = empirical(
            stack.sampler(**net),
            noise((tokens,), width),
            key=key,
            samples=samples,
            layout="NWC",
            progress=False,
            **options,
        )
        fields[name].append(Pair(f"{name}, {n} layers", closed, measured))
    layers = tuple(sorted(set(map(int, layers))))
    horizons = {skip: tuple(_horizon(window, n, skip) for n in layers) for skip in SKIPS}
    settings = {"depths": list(depths), "networks": chosen, "tokens": tokens, "width": width, "heads": heads}
    settings |= {"window": window, "scale": scale, "samples": samples, "layers": list(layers), "seed": seed}
    return AttentionResult(settings, depths, {k: tuple(v) for k, v in fields.items()}, horizons, layers)


def _horizon(window: int, n: int, skip: float) -> int:
    """The horizon of n layers, on a sequence that is long enough for nearly all of their map."""
    length = window * (4 + math.ceil(2 * n * (1 - skip) ** 2 + 8 * math.sqrt(n * (1 - skip) ** 2)))
    return horizon(laws.attention_share(length, n, window=window, skip=skip, branch=1 - skip))


def _figure(result: AttentionResult) -> Any:
    """A panel of profiles for every network; σ against depth; horizons against depth."""
    columns = min(4, len(result.fields))
    rows = math.ceil(len(result.fields) / columns)
    with figure(max(2.6 * columns, 7.2), 2.3 * rows + 3.4) as drawing:
        drawing.suptitle(
            "attention: share of each token in E[g²] at birth (lines: closed form, markers: measured, ± 2 se)"
        )
        upper, lower = drawing.subfigures(2, 1, height_ratios=(2.3 * rows, 3.2))
        panels = upper.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, (name, pairs) in zip(panels, result.fields.items(), strict=False):
            for style, i in enumerate(sorted({0, len(pairs) // 2, len(pairs) - 1})):
                _profile(axes, pairs[i], style, result.depths[i])
            axes.set_title(name)
            axes.legend(title="layers", loc="upper center", fontsize=7, title_fontsize=7, ncols=3)
        for axes in panels[len(result.fields) :]:
            axes.set_axis_off()
        for axes in panels[::columns]:
            axes.set_ylabel("share")
        for axes in panels[max(len(result.fields) - columns, 0) : len(result.fields)]:
            axes.set_xlabel("token")
        left, right = lower.subplots(1, 2)
        _growth(left, result)
        _reach(right, result)
    return drawing


def _profile(axes: Any, one: Pair, style: int, depth: int) -> None:
    closed, measured = one.closed.normalised().ravel(), one.measured.normalised().ravel()
    assert one.measured.stderr is not None
    error = 2 * one.measured.stderr.ravel() / one.measured.map.sum()
    token = np.arange(1, len(closed) + 1)
    shown = np.unique(np.round(np.linspace(0, len(closed) - 1, 14)).astype(int))
    shown = shown[measured[shown] > 0]
    axes.semilogy(token, np.where(closed > 0, closed, np.nan), color=INK[style], linewidth=1.0, label=str(depth))
    look = {"color": INK[style], "markersize": 3, "markerfacecolor": "white", "markeredgewidth": 0.7, "elinewidth": 0.7}
    low = np.minimum(error, 0.9 * measured)  # a logarithm has no bar below zero
    axes.errorbar(token[shown], measured[shown], [low[shown], error[shown]], fmt=MARKERS[style], **look)
    axes.set_ylim(2e-4, 6)


def _growth(axes: Any, result: AttentionResult) -> None:
    """σ against depth, and what √n would be."""
    n = np.array(result.depths, dtype=float)
    for style, (name, pairs) in enumerate(result.fields.items()):
        ratios = [one.ratio() for one in pairs]
        look = {"color": INK[style % 5], "linewidth": 1.0}
        axes.plot(n, [r.a for r in ratios], linestyle=DASHES[style // 5], **look)
        points = {"marker": MARKERS[style % 5], "markersize": 4, "linestyle": "none", "elinewidth": 0.7}
        points["markerfacecolor"] = "white" if style < 5 else INK[style % 5]
        axes.errorbar(n, [r.b for r in ratios], [2 * (r.b_stderr or 0) for r in ratios], label=name, **points, **look)
    low = min(one.ratio().a for pairs in result.fields.values() for one in pairs)
    axes.plot(n, low * np.sqrt(n / n[0]), color=GREY, linewidth=4, alpha=0.3, label="√n")
    axes.set(xscale="log", yscale="log", xlabel="layers", ylabel="σ in tokens", title="growth with depth")
    axes.set_xticks(n, [str(int(v)) for v in n], minor=False)
    axes.set_xticks([], minor=True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)


def _reach(axes: Any, result: AttentionResult) -> None:
    """The horizon against depth, in windows, and what does not depend on depth."""
    window = result.settings["window"]
    for style, (skip, found) in enumerate(result.horizons.items()):
        look = {"color": INK[style], "linewidth": 1.0}
        axes.plot(result.layers, np.array(found) / window, marker=MARKERS[style], markersize=4, label=f"{skip}", **look)
        axes.axhline(laws.window_horizon(window, skip) / window, linestyle=":", **look)
    axes.set(xscale="log", xlabel="layers", ylabel="horizon in windows W", title="sliding windows with residuals")
    axes.set_xticks(result.layers, [str(n) for n in result.layers], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.legend(title="skip (dotted: W ln ε / ln(1 - skip))", loc="upper left", fontsize=7, title_fontsize=7)
