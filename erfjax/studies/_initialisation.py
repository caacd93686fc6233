"""Weights that widen the field: the best profile found by gradient ascent, its fields, and whether it learns faster.

1. Which kernel makes σ² largest? The variance of a tap's position is concave in the weights of the taps, so ascent with
   `jax.grad` on the simplex ends at the maximum wherever it starts: all weight in the corners, √(3(k - 1)/(k + 1)) wider
   than uniform.
2. The fields of initialisers between corners and flat (He's), in closed form and measured.
3. Learning curves on digits, corner-weighted against He and Glorot, several seeds, with confidence intervals.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from erfjax import initializers, summary
from erfjax.closed_form import laws, moments
from erfjax.errors import KernelError, SampleError, StackError
from erfjax.layers import Conv
from erfjax.plot.canvas import CONTOUR, DASHES, INK, MARKERS, draw_map, figure, legend_below
from erfjax.plot.profiles import GREY, centre, limits, markers, theory
from erfjax.progress import bar
from erfjax.studies._support.convergence import Interval, Learning, Readout, interval, learn
from erfjax.studies._support.pairs import Claim, Pair, Result, pair, pair_arrays
from erfjax.typing import Progress

PROFILES = {
    "corners": initializers.corner_weighted(0.0),
    "corners, softness 0.3": initializers.corner_weighted(0.3),
    "flat (He)": initializers.flat(),
    "bell, width 0.6": initializers.gaussian(0.6),
}
LEARNERS = {
    "He": "he",
    "Glorot": "glorot",
    "corners": PROFILES["corners"],
    "corners, softness 0.3": PROFILES["corners, softness 0.3"],
}


@dataclasses.dataclass(frozen=True, eq=False)
class Ascent:
    """A k x k kernel climbing to the largest σ².

    Attributes:
        kernels: weights at every step, (steps, k, k), each summing to one.
        variance: σ² summed over both axes, at every step.
    """

    kernels: Float[np.ndarray, "steps k k"]
    variance: Float[np.ndarray, " steps"]

    @property
    def corners(self) -> float:
        """The weight in the four corners at the end."""
        return float(self.kernels[-1][np.ix_((0, -1), (0, -1))].sum())

    @property
    def gain(self) -> float:
        """σ at the end in units of that of the uniform kernel."""
        k = self.kernels.shape[1]
        return float(np.sqrt(self.variance[-1] / ((k**2 - 1) / 6)))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InitialisationResult(Result):
    """What `initialisation` found.

    Attributes:
        ascents: by k, the way to the best kernel.
        pairs: the fields of initialisers, in closed form and measured.
        learning: learning curves by readout and initialiser; empty if none were asked for.
    """

    name = "initialisation"

    ascents: dict[int, Ascent]
    pairs: tuple[Pair, ...]
    learning: dict[str, dict[str, Learning]]

    def tables(self) -> tuple[summary.Table, ...]:
        """The best kernels; the fields of initialisers; the learning curves with differences to He's."""
        best = tuple((k, a.corners, a.gain, laws.corner_gain(k)) for k, a in self.ascents.items())
        columns = ("k", "weight in the corners", "σ / σ of uniform, found", "√(3(k-1)/(k+1))")
        notes = (
            "mirror ascent on the simplex with jax.grad from a random start; σ² summed over both axes",
            "opposite corners weigh the same; how the two pairs share is free, as σ² sees no correlation of the axes",
        )
        tables = [summary.Table("the kernel of largest σ", columns, best, notes)]
        rows = []
        for one in self.pairs:
            sigma = one.ratio()
            rows.append((one.name, one.trf, sigma.a, sigma.b, sigma.b_stderr, sigma.value, one.gaussianity[0]))
        names = "initialiser, TRF, σ closed form, measured, ± se, ratio, R² of a Gaussian"
        s = self.settings
        text = (
            f"{s['field_depth']} layers 3 x 3 with ReLU, width {s['width']}, {s['samples']} samples; corners: a lattice"
        )
        tables.append(summary.Table("fields at initialisation", tuple(names.split(", ")), tuple(rows), (text,)))
        return (*tables, self._learned()) if self.learning else tuple(tables)

    def _learned(self) -> summary.Table:
        rows = []
        for readout, found in self.learning.items():
            for name, curves in found.items():
                loss, accuracy = interval(curves.loss.mean(1)), interval(100 * curves.accuracy[:, -1])
                gains = () if name == "He" else tuple(self.against_he(readout, name))
                rows.append((readout, name, _text(loss), _text(accuracy), *(map(_text, gains) if gains else ("", ""))))
        names = "readout, initialiser, mean training loss, final test accuracy %, loss - He, accuracy - He"
        s = self.settings
        notes = (
            f"digits; {s['learning_depth']} layers, {s['epochs']} epochs, {s['seeds']} seeds; ± 95 % confidence over seeds",
            "mean training loss: over all epochs, so that faster learning is a smaller number; differences seed by seed",
        )
        return summary.Table("learning digits", tuple(names.split(", ")), tuple(rows), notes)

    def against_he(self, readout: str, name: str) -> tuple[Interval, Interval]:
        """Mean training loss, and final test accuracy in percent, minus those of He's initialiser, seed by seed."""
        he, other = self.learning[readout]["He"], self.learning[readout][name]
        accuracy = 100 * (other.accuracy[:, -1] - he.accuracy[:, -1])
        return interval(other.loss.mean(1) - he.loss.mean(1)), interval(accuracy)

    def claims(self) -> tuple[Claim, ...]:
        """The optimal kernel, and whether learning is faster."""
        found = [
            Claim(
                f"widest {k} x {k} kernel",
                "weights in the corners",
                f"{a.corners:.1%} in the corners, σ × {a.gain:.4f}",
            )
            for k, a in self.ascents.items()
        ]
        reported = "30 % faster in a few cases, often no difference"
        for readout in self.learning:
            loss, accuracy = self.against_he(readout, "corners")
            here = f"mean training loss {_text(loss)}, accuracy {_text(accuracy)} % above He's (95 %)"
            found.append(Claim(f"learning from corners, readout {readout}", reported, here))
        return tuple(found)

    def arrays(self) -> dict[str, np.ndarray]:
        """Kernels, fields and learning curves."""
        arrays = {f"kernel {k}": ascent.kernels for k, ascent in self.ascents.items()} | pair_arrays(self.pairs)
        for readout, found in self.learning.items():
            for name, curves in found.items():
                arrays[f"loss {readout} {name}"], arrays[f"accuracy {readout} {name}"] = curves
        return arrays

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def _text(value: Interval) -> str:
    return f"{value.mean:.3f} ± {value.half:.3f}"


def ascend(k: int, *, steps: int = 150, rate: float = 0.5, seed: int = 0) -> Ascent:
    """A k x k kernel of weights that sum to one, climbing the gradient of σ² from a random start.

    Every step multiplies the weights by exp(rate · ∂σ²/∂w / (k - 1)²) and divides them by their sum: gradient ascent in the
    geometry of the simplex, so weights stay positive.

    Example:
        >>> from erfjax.studies._initialisation import ascend
        >>> found = ascend(3)
        >>> found.corners > 0.999, round(found.gain, 3)
        (True, 1.225)
    """

    def variance(w: Array) -> Array:
        return sum(moments(w).variance, start=jnp.zeros((), w.dtype))

    @jax.jit
    def step(w: Array) -> tuple[Array, Array]:
        value, slope = jax.value_and_grad(variance)(w)
        logs = jnp.log(w) + jnp.asarray(rate / (k - 1) ** 2, w.dtype) * slope
        return jax.nn.softmax(logs.ravel()).reshape(w.shape), value

    w = jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(k * k)).reshape(k, k), jnp.float32)
    kernels, values = [], []
    for _ in range(steps):
        after, value = step(w)
        kernels.append(np.asarray(w, np.float64))
        values.append(float(value))
        w = jnp.maximum(after, 1e-30)
    return Ascent(np.stack(kernels), np.array(values))


def initialisation(
    kernels: Sequence[int] = (3, 5, 7),
    *,
    initialisers: Mapping[str, Any] | None = None,
    field_depth: int = 10,
    width: int = 32,
    samples: int = 100,
    learning_depth: int = 5,
    learning_width: int = 12,
    epochs: int = 5,
    seeds: int = 8,
    rate: float = 0.03,
    readouts: Sequence[Readout] = ("all", "centre"),
    seed: int = 0,
    progress: Progress = None,
) -> InitialisationResult:
    """The kernel of largest σ, the fields of ERF-shaping initialisers, and their learning curves on digits.

    Args:
        kernels: sides k of the kernels whose σ² is maximised.
        initialisers: whose fields are measured, by name, each as in `layers.Settings`; None are corners, softened ones, He's
            and a bell.
        field_depth, width, samples: layers and channels of the networks whose field is measured, and how many.
        learning_depth, learning_width, epochs, rate: layers, channels, epochs and step size of the networks that learn.
        readouts: what the linear readout of these networks sees: "all" units, the "centre" unit.
        seeds: networks per initialiser and readout; 0 leaves the learning out, and scikit-learn is not needed.
        seed: of every random number.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Raises:
        SampleError: a single seed, which has no confidence interval.
        KernelError, StackError: kernels with a single tap, or no kernels or initialisers; an unknown readout.
        MissingDependencyError: scikit-learn is not installed (and `seeds` is not 0).

    Source: W. Luo et al. 2016, section 4.1 (they report some cases of faster training, and many of none).

    Example:
        >>> import erfjax as ej
        >>> own = {"mine": ej.initializers.corner_weighted(0.5)}
        >>> result = ej.studies.initialisation((3,), initialisers=own, field_depth=2, width=2, samples=2, seeds=0)
        >>> round(result.ascents[3].gain, 3), round(result.pairs[0].closed.sigma()[0] ** 2, 3)
        (1.225, 1.667)
    """
    if seeds == 1 or seeds < 0:
        raise SampleError(f"A confidence interval needs two seeds or more, or 0 for no learning, but got {seeds}.")
    if not kernels or min(kernels) < 2:
        raise KernelError(f"`kernels` must be sides of 2 taps or more, but got {tuple(kernels)}.")
    if not set(readouts) <= set(get_args(Readout)):
        raise StackError(f'`readouts` must be of "all" and "centre", but got {tuple(readouts)}.')
    profiles = PROFILES if initialisers is None else dict(initialisers)
    if not profiles:
        raise StackError("`initialisers` must name at least one, but is empty.")
    jobs: list[Any] = [("ascent", k) for k in kernels] + [("field", name) for name in profiles]
    jobs += [("learning", (readout, name)) for readout in readouts for name in LEARNERS if seeds]
    ascents: dict[int, Ascent] = {}
    pairs: list[Pair] = []
    learning: dict[str, dict[str, Learning]] = {}
    curves = functools.partial(learn, depth=learning_depth, width=learning_width, epochs=epochs, rate=rate)
    for kind, what in (shown := bar(jobs, progress, unit="part")):
        shown.set_postfix_str(f"{kind}: {what}")
        if kind == "ascent":
            ascents[what] = ascend(what, seed=seed)
        elif kind == "field":
            key = jax.random.fold_in(jax.random.key(seed), len(pairs))
            net: Any = {"width": width, "activation": "relu", "init": profiles[what]}
            pairs.append(pair(what, Conv(3) ** field_depth, key=key, samples=samples, **net))
        else:
            readout, name = what
            own = range(1000 * seed, 1000 * seed + seeds)
            learning.setdefault(readout, {})[name] = curves(LEARNERS[name], readout, seeds=own)
    settings = {
        "kernels": list(kernels),
        "field_depth": field_depth,
        "width": width,
        "samples": samples,
        "learning_depth": learning_depth,
        "learning_width": learning_width,
        "epochs": epochs,
        "seeds": seeds,
        "rate": rate,
        "readouts": list(readouts),
        "seed": seed,
    }
    return InitialisationResult(settings, ascents, tuple(pairs), learning)


def _figure(result: InitialisationResult) -> Any:
    """Best kernels, fields of initialisers, learning curves."""
    heights = (1.0, 1.9, 1.3 if result.learning else 0.0)
    with figure(9.4, 2.4 * sum(heights)) as drawing:
        drawing.suptitle("initialisation: the kernel of largest σ², fields (dashed: 4.55 % of the peak), learning")
        parts = drawing.subfigures(3 if result.learning else 2, 1, height_ratios=[h for h in heights if h])
        _ascents(parts[0], result.ascents)
        panels = parts[1].subplots(2, len(result.pairs), squeeze=False, height_ratios=(1.3, 1))
        reach = max(math.ceil(3.3 * one.closed.sigma()[-1]) for one in result.pairs)
        for column, one in enumerate(result.pairs):
            at = slice(centre(one.closed) - min(reach, centre(one.closed)), centre(one.closed) + reach + 1)
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
