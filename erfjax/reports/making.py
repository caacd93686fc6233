"""`report`: all three readings of one unit, side by side. A reading that is not possible is left out, and the report says why."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from erfjax import files, summary
from erfjax.accounts import Account
from erfjax.accounts import account as account_of
from erfjax.agreement import Comparison, compare
from erfjax.decisions.streaming import context
from erfjax.errors import ErfjaxError, FunctionError, LayoutError, MapError, SampleError, UnitError
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.fields.advice import image_size_per_axis
from erfjax.fields.intervals import intervals
from erfjax.fields.sizes import LISTED
from erfjax.readings import rounding
from erfjax.readings.analytic import analytic
from erfjax.readings.by_layer import by_layer
from erfjax.readings.empirical import empirical
from erfjax.readings.question import of_image
from erfjax.readings.theoretical import theoretical
from erfjax.reports import layers as by_depth
from erfjax.reports.inputs import Inputs, inputs_of
from erfjax.reports.words import SIZES, TASKS, advice, agreement
from erfjax.typing import Channels, Function, Given, Number, Statistic
from erfjax.uncertainty import Interval

LEVEL = 0.95  # of the intervals of sizes


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Report(summary.Shown):
    """What one unit of a function sees, in every reading that is possible.

    Attributes:
        name: of the function.
        theoretical, analytic, measured: the three fields; None where `refused` says why not.
        comparison: of the closed form with the measurement, where both are there.
        sizes: by measure, the size of the closed form and the interval of the measurement; None for what a map does not have.
        refused: by reading, why it is missing.
        advice: tables for the task.
        inputs: what was measured with.
        settings: what reproduces it, by name.
        command: the line that makes it.
        by_layer: the measured fields of layers by name, for `ej.plot.depth`.
        account: what the measured field is made of, if it was asked for.
    """

    name: str
    theoretical: TheoreticalField | None
    analytic: EffectiveField | None
    measured: EffectiveField | None
    comparison: Comparison | None
    sizes: dict[str, tuple[float | None, Interval | None]]
    refused: dict[str, str]
    advice: tuple[summary.Table, ...]
    inputs: Inputs
    settings: dict[str, str]
    command: str
    by_layer: dict[str, EffectiveField] = dataclasses.field(default_factory=dict)
    account: Account | None = None

    def table(self) -> summary.Table:
        """One row per size: that of the closed form, and of the measurement with its interval."""
        rows, ndim = [], sum(letter not in "NC" for letter in self.inputs.letters)
        for measure, (closed, interval) in self.sizes.items():
            between = None if interval is None or not interval.units else f"{interval.low:.4g} to {interval.high:.4g}"
            rows.append(
                (SIZES[measure][0], closed, interval and interval.value, between, summary.unit_of(measure, ndim))
            )
        return summary.Table("sizes", ("size", "analytic", "measured", "95 % interval", "unit"), tuple(rows))

    def _tables(self) -> tuple[summary.Table, ...]:
        fields = (self.analytic, self.measured)
        shown = [] if self.theoretical is None else list(self.theoretical._tables())
        if self.theoretical is not None and self.by_layer:
            told = by_depth.words(self.theoretical, self.by_layer)
            shown[-1] = dataclasses.replace(by_depth.glance(self.theoretical, self.by_layer), notes=told)
        shown += [
            dataclasses.replace(f.facts(), title=name)
            for f, name in zip(fields, ("analytic", "measured"), strict=True)
            if f
        ]
        shown += [self.table()] if self.sizes else []
        if self.comparison is not None:
            shown.append(summary.Table("agreement", (), (), agreement(self.comparison)))
        shown += [] if self.account is None else [self.account.table()]
        if self.refused:
            shown.append(summary.facts("not possible here", dict(self.refused)))
        return (*shown, *self.advice)

    def _brief(self) -> str:
        have = [name for name in ("theoretical", "analytic", "measured") if getattr(self, name) is not None]
        return f"{self.name}: {', '.join(have)}"

    def __str__(self) -> str:
        return f"{self.name}\n\n{super().__str__()}"

    def _repr_html_(self) -> str:
        from erfjax.reports.page import body

        return body(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The path of one HTML page with all figures and tables inside, which needs no network."""
        from erfjax.reports.page import body

        return files.save_text(path, summary.page(self.name, body(self)))


def report(
    f: Function,
    x: Given,
    *,
    images: Sequence[str | os.PathLike[str] | np.ndarray] = (),
    unit: Given = None,
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: Statistic = "square",
    channels: Channels = "sum",
    samples: int = 32,
    seed: int = 0,
    task: Given = None,
    objects: Sequence[Number] = (),
    image_size: int | Sequence[int] | None = None,
    layers: Given = None,
    account: bool = False,
    unknown: Literal["refuse", "everything"] = "refuse",
    name: str | None = None,
    command: str | None = None,
    progress: Given = None,
) -> Report:
    """A report on one unit of a function: where it can look, how much each pixel counts in closed form and measured, agreement.

    Args:
        f: a function from an array to an array.
        x: inputs to measure with; or a `jax.ShapeDtypeStruct`, for crops of `images` or, without them, Gaussian noise.
        images: photographs, as paths or arrays (height, width[, channels]).
        unit: spatial index of the output; None is the centre.
        layout, out_layout, statistic, channels, unknown: as in `theoretical`, `analytic` and `empirical`.
            Where the sum of the unit's channels is constant, as behind a layer norm, `channels` is "random-signs" in its place.
        samples: how many inputs to make where `x` is only a shape.
        seed: of crops and noise.
        task: "classify", "segment", "detect", "track" or "sequence"; None gives general advice.
        objects: sizes of objects or anchors in pixels, for the task "detect".
        image_size: the image to give advice for, in pixels; None is the input.
        layers: names, or parts of names, of the layers whose effective fields are measured too, as in `by_layer`; None is the
            layers that widen the theoretical field (at most 32), "all" every layer, "none" no layer.
        account: whether to say what the measured field is made of (`erfjax.account`): two more readings.
        name: of the function, for the title.
        command: the line that makes the report, for the page.
        progress: whether to print each step with its time to stderr, or a function that takes the lines; by default on a
            terminal.

    Returns:
        A `Report`, all sizes in pixels of the input: `save("report.html")` writes a page, a notebook shows it.

    Raises:
        LayoutError, UnitError, FunctionError, SampleError: the arguments do not fit.
        ErfjaxError: no reading is possible; the error is that of the first.

    Source: the three readings are of W. Luo et al. 2016 and A. Araujo et al. 2019; see the verbs.

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> blur = lambda x: (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
        >>> made = ej.report(blur, jax.ShapeDtypeStruct((1, 9, 1), jnp.float32), layout="NWC", samples=4)
        >>> made.theoretical.size, made.comparison.total_variation < 1e-6
        ((3,), True)
    """
    if task is not None and task not in TASKS:
        raise SampleError(f"`task` must be one of {', '.join(TASKS)}, but got {task!r}.")
    if isinstance(unit, list):
        raise UnitError(
            "A report is about one unit: give one index per spatial axis of the output, not a list of units."
        )
    step = _Steps(sys.stderr.isatty() if progress is None else progress)
    asked: Any = {"unit": unit, "out_layout": out_layout}

    def begun(layout: str | None) -> tuple[Inputs, Any]:
        given = inputs_of(x, layout, images, samples, seed)
        named = asked | {"layout": given.letters, "unknown": unknown}
        return given, step("theoretical", lambda: theoretical(f, given.spec, **named), strict=True)

    given, theory = of_image(begun, x, layout)
    asked["layout"] = given.letters
    if theory is not None and not isinstance(theory, TheoreticalField):
        paths = jax.tree_util.tree_flatten_with_path(theory, lambda node: isinstance(node, TheoreticalField))[0]
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
        raise FunctionError(
            f"A report is about a function that returns one array, but this one returns {', '.join(names)}: pick one, "
            f"lambda x: f(x)[...], or --output {names[0]} on the command line."
        )
    asked |= {"channels": channels, "statistic": statistic}
    closed = step("analytic", lambda: analytic(f, given.rows, **asked))
    if statistic == "square" and closed is not None and rounding.NOTE in closed.notes:
        step.say("the sum of the unit's channels is constant: random signs are taken in its place")
        asked["channels"] = channels = "random-signs"
        closed = step("analytic", lambda: analytic(f, given.rows, **asked))
    measured = step("measured", lambda: empirical(f, given.rows, **asked, progress=False))
    if theory is None and closed is None and measured is None:
        raise next(iter(step.errors.values()))
    both = closed is not None and measured is not None
    hidden: dict[str, EffectiveField] = {}
    if theory is not None and theory.layers and measured is not None and layers not in ("none", ["none"], ("none",)):
        few = _first(given, by_depth.SAMPLES)
        chosen = by_depth.to_measure(theory, layers)
        told_by = {"layout": given.letters, "out_layout": out_layout, "statistic": statistic, "unit": unit}
        hidden = step("layers", lambda: by_layer(f, few, layers=chosen, progress=False, **told_by)) or {}
    compared = step("agreement", lambda: compare(closed, measured, labels=("analytic", "measured"))) if both else None
    made_of = None
    if account:
        made_of = step("account", lambda: account_of(f, given.rows, unit=unit, layout=given.letters, out_layout=out_layout,
                                                     channels=channels, progress=False))  # fmt: skip
    sizes = {} if closed is None and measured is None else step("sizes", lambda: _sizes(closed, measured)) or {}
    shape = tuple(n for n, letter in zip(given.spec.shape, given.letters, strict=True) if letter not in "NC")
    told = [advice(task, theory, measured or closed, image_size_per_axis(image_size, shape), objects)]
    if task == "sequence":
        looks = step(
            "look-back and look-ahead", lambda: context(f, given.spec, layout=given.letters, out_layout=out_layout)
        )
        told += [] if looks is None else [looks.table()]
    called = name or str(getattr(f, "__name__", type(f).__name__))
    settings = {"inputs": given.words, "input": f"{given.spec.dtype}{list(given.spec.shape)}, layout {given.letters}"}
    settings |= {"unit": "the centre" if unit is None else str(unit), "statistic": statistic, "channels": str(channels)}
    settings |= {"samples": str(given.count), "key": f"numpy.random.default_rng({seed})"}
    line = command or _call(called, given, seed, samples, unit=unit, out_layout=out_layout, statistic=statistic,
                            channels=channels, task=task, objects=objects, image_size=image_size, layers=layers,
                            account=account)  # fmt: skip
    refused, both_advice = step.refused, tuple(told)
    return Report(
        called, theory, closed, measured, compared, sizes, refused, both_advice, given, settings, line, hidden, made_of
    )


def _first(given: Inputs, most: int) -> np.ndarray:
    """The first of the inputs."""
    axis = given.letters.index("N") if "N" in given.letters else 0
    return given.rows.take(range(min(given.count, most)), axis=axis)


DEFAULTS = {"unit": None, "out_layout": None, "statistic": "square", "channels": "sum", "task": None, "objects": (),
            "image_size": None, "layers": None, "account": False}  # fmt: skip


def _call(name: str, given: Inputs, seed: int, samples: int, **options: Any) -> str:
    """The line of Python that makes the report, with the options that were set."""
    said = [name, "x" if given.own else f"jax.ShapeDtypeStruct({given.spec.shape}, '{given.spec.dtype}')"]
    said += ["images=images"] if given.picture is not None and not given.own else []
    said += [f"layout={given.letters!r}"] + [f"samples={samples}"] * (not given.own)
    said += [f"{key}={value!r}" for key, value in options.items() if value != DEFAULTS[key]] + [f"seed={seed}"]
    return f"ej.report({', '.join(said)}).save('report.html')"


def _sizes(
    closed: EffectiveField | None, measured: EffectiveField | None
) -> dict[str, tuple[float | None, Interval | None]]:
    """Every size that one of the maps has."""
    found: dict[str, tuple[float | None, Interval | None]] = {}
    for measure in LISTED:
        size, interval = _size(closed, measure), None
        if measured is not None and (value := _size(measured, measure)) is not None:
            try:
                interval = intervals(measured, measure, (LEVEL,), options=LISTED[measure])[0]
            except MapError:
                interval = Interval(value, value, value, LEVEL, 0, 0)  # one sample
        if size is not None or interval is not None:
            found[measure] = (size, interval)
    return found


def _size(field: EffectiveField | None, measure: str) -> float | None:
    """A size, or None where there is no field or the map has no such size."""
    try:
        return None if field is None else field.size(measure, **LISTED[measure])
    except MapError:
        return None


class _Steps:
    """Runs readings one by one, says what it does, and keeps why one is not possible."""

    def __init__(self, says: bool | Callable[[str], None]) -> None:
        self.says = says
        self.errors: dict[str, Exception] = {}

    @property
    def refused(self) -> dict[str, str]:
        """By reading, why it is missing, in one line."""
        return {what: _reason(error) for what, error in self.errors.items()}

    def __call__(self, what: str, read: Callable[[], Any], strict: bool = False) -> Any:
        """What `read` gives, or None.

        Args:
            what: the name of the step.
            read: the step.
            strict: let errors through that erfjax does not raise itself: no other reading is possible after them.
        """
        self.say(f"{what} ...")
        start = time.perf_counter()
        try:
            found = read()
        except (LayoutError, UnitError, FunctionError):
            raise
        except Exception as error:  # of the user's function as well: the other readings still say something
            if strict and not isinstance(error, ErfjaxError):
                raise
            self.errors[what] = error
            self.say(f"{what}: not possible, {_reason(error)}")
            return None
        self.say(f"{what}: {time.perf_counter() - start:.1f} s")
        return found

    def say(self, text: str) -> None:
        if callable(self.says):
            self.says(text)
        elif self.says:
            print(text, file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    """An error as one line."""
    lines = str(error).strip().splitlines() or [""]
    said = lines[0] if len(lines[0]) > 20 or len(lines) == 1 else " ".join(lines[:2])
    return said if isinstance(error, ErfjaxError) else f"{type(error).__name__}: {said}"
