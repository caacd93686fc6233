"""Training with the size of the field in the loss: the analytic ERF is a smooth function of the weights.

A task that needs far pixels: noise along a line, and a label that depends on the two pixels at a distance d on either side of the
unit that must tell it; "product" asks for the sign of their product (each alone says nothing), "sum" for that of their sum. The
theoretical field holds both pixels, the effective one at initialisation hardly does. Compared are He's initialiser and a
corner-weighted one, each with the plain loss and with

    loss - strength · log σ,    σ the width of `analytic_map` with mean-field gates at the present weights.

What the default run finds, seed by seed with 95 % intervals: from corner-weighted weights the term adds 9 pixels to the analytic
σ at equal accuracy (0.4 ± 1.8 % and 0.5 ± 2.9 %) and nothing to the measured one (0.01 ± 0.08 and 0.05 ± 0.08 pixels): the field
settles on the two pixels with or without it, for the analytic field takes weights as independent, which trained ones are not.
What helps far labels is to start wide: twelve pixels away, corner-weighted networks are more accurate than He's by 12 ± 9 %
over the whole training, and each of them finds both pixels, where two of five of He's do.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from erfjax import initializers, summary
from erfjax.errors import SampleError, StackError
from erfjax.layers import Conv
from erfjax.plot.canvas import DASHES, INK, MARKERS, figure, legend_below
from erfjax.plot.profiles import GREY
from erfjax.progress import bar
from erfjax.readings.analytic import analytic_map, widths
from erfjax.studies._support.convergence import Interval, interval
from erfjax.studies._support.pairs import Result
from erfjax.typing import Progress

TAPS, DEPTH, WIDTH, BATCH, TEST = 5, 8, 16, 64, 2000
SIDE = DEPTH * (TAPS - 1) + 1
POINTS = 8  # of a learning curve
INITIALISERS = {"He": "he", "corners, softness 0.3": initializers.corner_weighted(0.3)}
STACK = Conv((TAPS,)) ** DEPTH
WIDE = ", wide"  # ends the name of networks with the width of their field in the loss
NET: Any = {"width": WIDTH, "in_channels": 1, "activation": "relu"}


class Task(NamedTuple):
    """What the label is: the sign of the product or the sum of the pixels `distance` away on either side."""

    kind: Literal["product", "sum"]
    distance: int

    def __str__(self) -> str:
        return f"sign of the {self.kind} of two pixels, {self.distance} away"


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """Networks of one kind, one row per seed.

    Attributes:
        accuracy: on fresh data, at each point of the learning curve.
        sigma: of the analytic field with mean-field gates, in pixels, at the same points.
        measured: E[g²] at the end over fresh inputs, one map per seed, each summing to one.
    """

    accuracy: Float[np.ndarray, "seeds points"]
    sigma: Float[np.ndarray, "seeds points"]
    measured: Float[np.ndarray, "seeds pixels"]

    @property
    def measured_sigma(self) -> Float[np.ndarray, " seeds"]:
        """σ of the measured maps."""
        away = np.arange(self.measured.shape[1])
        mean = self.measured @ away
        return np.sqrt(self.measured @ away**2 - mean**2)

    @property
    def final_sigma(self) -> Interval:
        """The mean σ of the measured maps over seeds."""
        return interval(self.measured_sigma)

    def curve(self, what: str) -> tuple[np.ndarray, np.ndarray]:
        """The mean over seeds of "accuracy" or "sigma", and half-widths of its 95 % confidence intervals."""
        found = [interval(column) for column in getattr(self, what).T]
        return np.array([one.mean for one in found]), np.array([one.half for one in found])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RegularisationResult(Result):
    """What `regularisation` found.

    Attributes:
        steps: of training, at the points of the learning curves.
        trained: networks by task and kind of training.
    """

    name = "regularisation"

    steps: tuple[int, ...]
    trained: dict[Task, dict[str, Trained]]

    def tables(self) -> tuple[summary.Table, ...]:
        """One row per task and kind: accuracy, analytic σ before and after, measured σ after, with confidence intervals."""
        rows = []
        for task, kinds in self.trained.items():
            for name, one in kinds.items():
                numbers = (100 * one.accuracy[:, -1], one.sigma[:, 0], one.sigma[:, -1], one.measured_sigma)
                rows.append((str(task), name, *(_text(interval(values)) for values in numbers)))
        names = "label, training, accuracy %, analytic σ before, analytic σ after, measured σ after"
        s = self.settings
        notes = (
            f"{DEPTH} layers of {TAPS} taps, TRF {SIDE}, width {WIDTH}; {s['steps']} steps, {s['seeds']} seeds; ± 95 %",
            f"wide: the loss holds - {s['strength']:g} log σ of the analytic field (mean-field gates)",
        )
        first = summary.Table("training with the ERF in the loss", tuple(names.split(", ")), tuple(rows), notes)
        return first, self.differences()

    def differences(self) -> summary.Table:
        """What the loss term changes, and what the start changes, seed by seed, with confidence intervals."""
        rows = []
        for task, kinds in self.trained.items():
            plain = [name for name in kinds if not name.endswith(WIDE)]
            changes = [(f"the loss term, from {name}", name, name + WIDE) for name in plain if name + WIDE in kinds]
            changes += [(f"the start, {name} for {plain[0]}", plain[0], name) for name in plain[1:]]
            for what, before, after in changes:
                a, b = kinds[before], kinds[after]
                learned = 100 * (b.accuracy - a.accuracy)
                widened = (b.sigma - a.sigma)[:, -1], b.measured_sigma - a.measured_sigma
                gains = (learned.mean(1), learned[:, -1], *widened)
                rows.append((str(task), what, *(_text(interval(gain)) for gain in gains)))
        names = "label, what is changed, accuracy % over training, at the end, analytic σ at the end, measured σ"
        notes = (
            "gains, seed by seed; ± 95 %: a smaller gain may be chance; over training: mean of the learning curve",
        )
        return summary.Table("what a wider field gains", tuple(names.split(", ")), tuple(rows), notes)

    def arrays(self) -> dict[str, np.ndarray]:
        """Learning curves and measured maps."""
        arrays = {"steps": np.array(self.steps)}
        for task, kinds in self.trained.items():
            for name, one in kinds.items():
                for field in dataclasses.fields(one):
                    arrays[f"{task.kind} {task.distance} {name} {field.name}"] = getattr(one, field.name)
        return arrays

    def plot(self) -> Any:
        """The figure of the study."""
        return _figure(self)


def _text(value: Interval) -> str:
    return f"{value.mean:.2f} ± {value.half:.2f}"


def regularisation(
    tasks: Sequence[Task | tuple[str, int]] = (Task("product", 6), Task("sum", 12)),
    *,
    strength: float = 0.05,
    steps: int = 800,
    rate: float = 3e-3,
    seeds: int = 5,
    seed: int = 0,
    progress: Progress = None,
) -> RegularisationResult:
    """Does a loss that asks for a wide ERF reach one, and does it help where the label depends on far pixels?

    Args:
        tasks: kinds of labels and distances of the pixels they depend on.
        strength: the weight of - log σ in the loss; 0 leaves these networks out.
        steps, rate: of Adam on fresh batches of 64.
        seeds: networks per task and kind, at least two.
        seed: of every random number.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.

    Raises:
        StackError: no task, a distance outside the theoretical field, an unknown label, or a negative strength.
        SampleError: fewer than two seeds, or no steps.

    Example:
        >>> import erfjax as ej
        >>> result = ej.studies.regularisation([("sum", 2)], strength=0.0, steps=8, seeds=2)
        >>> [round(float(one.sigma.mean())) for one in result.trained[("sum", 2)].values()]  # He, corners
        [4, 5]
    """
    chosen = [Task(*task) for task in tasks]
    if not chosen or not all(task.kind in ("product", "sum") and 0 < task.distance <= SIDE // 2 for task in chosen):
        raise StackError(f'`tasks` are "product" or "sum" of pixels 1 to {SIDE // 2} away, but got {chosen}.')
    if seeds < 2 or steps < 1:
        raise SampleError(
            f"A confidence interval needs two seeds or more, and training a step, but got {seeds}, {steps}."
        )
    if not 0 <= strength < math.inf:
        raise StackError(f"`strength` must be 0 or more, but got {strength}.")
    points = tuple(sorted({round(steps * i / POINTS) for i in range(POINTS + 1)}))
    trained: dict[Task, dict[str, Trained]] = {task: {} for task in chosen}
    jobs = list(itertools.product(chosen, INITIALISERS, sorted({0.0, float(strength)})))
    for task, name, weight in (shown := bar(jobs, progress)):
        label = name + WIDE if weight else name
        shown.set_postfix_str(f"{task}: {label}")
        rows = [_train(task, weight, rate, INITIALISERS[name], points, seed * 1000 + i) for i in range(seeds)]
        trained[task][label] = Trained(*(np.stack(values) for values in zip(*rows, strict=True)))
    settings: dict[str, Any] = {"tasks": [list(task) for task in chosen], "strength": strength, "steps": steps}
    settings |= {"rate": rate, "seeds": seeds, "seed": seed}
    return RegularisationResult(settings, points, trained)


def _train(task: Task, weight: float, rate: float, init: Any, points: tuple[int, ...], seed: int) -> tuple[Any, ...]:
    """Accuracy and analytic σ at every point of the curve, and the measured map at the end."""
    weights, head, data, test = jax.random.split(jax.random.key(seed), 4)
    params: Any = {
        "stack": STACK.init(weights, init=init, dtype=jnp.float32, **NET),
        "bias": jnp.zeros((), jnp.float32),
    }
    params["head"] = jax.nn.initializers.lecun_normal()(head, (WIDTH, 1), jnp.float32)[:, 0]
    zero = jax.tree.map(jnp.zeros_like, params)
    state, found = (params, zero, zero), []
    step, judge = _compiled(task, weight, rate)
    for first, last in itertools.pairwise((0, *points)):
        for i in range(first, last):
            state = step(i, state, data)
        found.append(judge(state[0], test))
    accuracy, sigma = np.array([values for *values, _ in found], np.float64).T
    energy = np.asarray(found[-1][-1], np.float64)
    return accuracy, sigma, energy / energy.sum()


def _scores(params: Any, x: Array) -> Array:
    """The score of every image (N, SIDE, 1): a linear readout of the centre unit."""
    return STACK.apply(params["stack"], x, **NET)[:, SIDE // 2] @ params["head"] + params["bias"]


def _sigma(params: Any) -> Array:
    """σ of the analytic field of the score's unit."""
    image = jax.ShapeDtypeStruct((1, SIDE, 1), jnp.float32)
    stack = functools.partial(STACK.apply, params["stack"], **NET)
    return widths(analytic_map(stack, image, unit=(SIDE // 2,), layout="NWC", gates="mean-field"))[0]


@functools.cache
def _compiled(task: Task, weight: float, rate: float) -> tuple[Any, Any]:
    """Two compiled functions: a step of Adam; the accuracy, the analytic σ and the measured E[g²] of parameters."""

    def batch(key: Any, count: int) -> tuple[Array, Array]:
        x = jax.random.normal(key, (count, SIDE, 1), jnp.float32)
        left, right = x[:, SIDE // 2 - task.distance, 0], x[:, SIDE // 2 + task.distance, 0]
        return x, (left * right if task.kind == "product" else left + right) > 0

    def loss(params: Any, x: Array, y: Array) -> Array:
        scores = _scores(params, x)
        entropy = jnp.mean(jax.nn.softplus(jnp.where(y, -scores, scores)))
        return entropy - weight * jnp.log(_sigma(params)) if weight else entropy

    @jax.jit
    def step(i: Any, state: Any, key: Any) -> Any:
        params, mean, square = state
        slope = jax.grad(loss)(params, *batch(jax.random.fold_in(key, i), BATCH))
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, slope)
        after = jnp.asarray(i + 1, jnp.float32)
        size = rate * jnp.sqrt(1 - 0.999**after) / (1 - 0.9**after)
        move = jax.tree.map(lambda p, m, s: p - size * m / (jnp.sqrt(s) + 1e-8), params, mean, square)
        return move, mean, square

    @jax.jit
    def judge(params: Any, key: Any) -> tuple[Array, Array, Array]:
        x, y = batch(key, TEST)
        right = ((_scores(params, x) > 0) == y).astype(jnp.float32)
        g = jax.grad(lambda x: _scores(params, x).sum())(x)  # of every image by itself
        return right.mean(), _sigma(params), jnp.mean(g[..., 0] ** 2, 0)

    return step, judge


def _figure(result: RegularisationResult) -> Any:
    """Accuracy and σ by step, and the measured fields at the end, by task."""
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
