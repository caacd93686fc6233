"""The measured reading: effective receptive fields from Jacobians, with error bars. A page over `erfjax.measurement`."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, SupportsIndex, overload

import jax
import numpy as np

from erfjax.errors import SampleError
from erfjax.fields import EffectiveField
from erfjax.measurement import reduction
from erfjax.measurement.designs import Noise
from erfjax.measurement.inputs import Source, open_source
from erfjax.readings.drawn import CLOSED
from erfjax.readings.measured import Settings, measured
from erfjax.readings.question import Question, Questions, ask, of_image, require_floating
from erfjax.typing import ArrayLike, Channels, Function, Given, Statistic, Tree, Unit

Inputs = ArrayLike | Iterable[Any] | Callable[..., Any] | Noise
"""Rows of samples: an array, a tuple or dict of arrays, an iterable of these, a function of a random key, or a `Noise`."""


@overload
def empirical(
    f: Function,
    inputs: Inputs,
    *,
    key: jax.Array | None = None,
    samples: SupportsIndex | tuple[SupportsIndex, SupportsIndex] | None = None,
    unit: list[Unit],
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: Statistic = "square",
    channels: Channels = "sum",
    batch_size: SupportsIndex | None = None,
    target: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    nonfinite: Literal["raise", "skip"] = "raise",
    gates: Literal["own", "shuffled"] = "own",
    tied: int | Sequence[int] = 1,
    variance: Literal["plain", "control", "auto"] = "plain",
) -> tuple[EffectiveField, ...]: ...
@overload
def empirical(
    f: Function,
    inputs: Inputs,
    *,
    key: jax.Array | None = None,
    samples: SupportsIndex | tuple[SupportsIndex, SupportsIndex] | None = None,
    unit: Unit | Literal["all"] = None,
    step: SupportsIndex | Sequence[int] = 1,
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: Statistic = "square",
    channels: Channels = "sum",
    batch_size: SupportsIndex | None = None,
    target: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    nonfinite: Literal["raise", "skip"] = "raise",
    gates: Literal["own", "shuffled"] = "own",
    tied: int | Sequence[int] = 1,
    variance: Literal["plain", "control", "auto"] = "plain",
) -> EffectiveField: ...
@overload
def empirical(
    f: Function,
    inputs: Inputs,
    *,
    key: jax.Array | None = None,
    samples: SupportsIndex | tuple[SupportsIndex, SupportsIndex] | None = None,
    unit: Unit | list[Unit] = None,
    layout: Tree = None,
    out_layout: str | None = None,
    statistic: Statistic = "square",
    channels: Channels = "sum",
    batch_size: SupportsIndex | None = None,
    target: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    nonfinite: Literal["raise", "skip"] = "raise",
    gates: Literal["own", "shuffled"] = "own",
    tied: int | Sequence[int] = 1,
    variance: Literal["plain", "control", "auto"] = "plain",
) -> Tree: ...
def empirical(
    f: Given,
    inputs: Given,
    *,
    key: Given = None,
    samples: Given = None,
    unit: Given = None,
    step: Given = 1,
    layout: Given = None,
    out_layout: str | None = None,
    statistic: str = "square",
    channels: Given = "sum",
    batch_size: SupportsIndex | None = None,
    target: Given = None,
    mesh: Given = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    nonfinite: str = "raise",
    gates: str = "own",
    tied: Given = 1,
    variance: str = "plain",
) -> EffectiveField | tuple[EffectiveField, ...] | Tree:
    """The effective receptive field of a unit, averaged over samples: E[s(∂ unit / ∂ pixel)] with its standard error.

    Without a key a sample is one row of `inputs`, and f(x) is called with a batch of one. With a key sample i calls
    f(fold_in(key, i), x_i): fresh random weights each time. Sample i depends on nothing else, and samples are added in
    float64 in their order: batch size, number of devices and interruptions change nothing beyond rounding.

    Args:
        f: a differentiable function from an array to an array (or from a tuple or dict of arrays to any tree of arrays); of
            (key, x) if there is a key. It is traced and compiled once for each shape, as by `jax.jit`: pass the same function
            object again and nothing is compiled anew. A pytree (`jax.tree_util.Partial(apply, params)`, an Equinox module) is
            compiled once for all weights. Only the cone of the units is computed, unless it would unroll a long loop.
        inputs: an array of rows (along N, or along a leading axis if the layout has no N), or an iterable of rows or
            batches for data that does not fit into memory. A tuple or dict of arrays is the input of a function of several
            arrays: each with space in turn is asked about, the others held as they are in that sample. With a key the rows
            of an array are reused in turn, and a function key -> x (one sample, traceable by JAX) may be given instead;
            `ej.Noise` has antithetic and quasi-random sets of noise images.
        key: the random key of all samples.
        samples: how many samples; by default every row once. It may be left out if there is a target. (draws, inputs) draws the
            weights so many times and measures each draw on so many inputs: intervals and errors then have the degrees of freedom
            of the draws, and `diagnostics` splits the variance into what weights and inputs make.
        unit: index of the output unit, one integer per spatial axis; None is the centre n // 2; a list is a batch of
            units. "all" gives the mean over all units whose field lies inside the image, each aligned on the centre unit.
        step: with unit="all", every how many units along each axis, an integer or one per axis; the centre unit is among them.
        layout: the axes of one sample: N batch, C channels, D, H, W, L space; None infers NWC, NHWC or NDHWC from 3, 4 or 5
            axes (an iterable of single images may leave out N).
        out_layout: the axes of the output; by default those of the input, or "NC" where there is no space left.
        statistic: s, taken per input channel and summed over them: "square" g², "rms" the root of its mean, "abs" |g|,
            "relu" max(g, 0), "mean" g, "share" the squares of a sample divided by their sum over its pixels.
        channels: "sum" differentiates the sum of the unit's channels, an integer one channel, "frobenius" every channel
            by itself and sums their statistics, "random-signs" estimates that for squares with one random sign per
            channel.
        batch_size: samples computed at once; by default what a memory budget allows.
        target: stop when the relative standard errors of the map's total and of its Luo size are both this small, and the 95 %
            interval of the total is no longer than 2 · 1.96 of them: so a run does not stop early by luck.
        mesh: devices to share every batch; in a run of several processes each calls with the same arguments.
        checkpoint: a file that keeps the state every few seconds; the same call continues from it, to the same bits.
            Several processes must see the same file.
        progress: whether to show a bar; by default on a terminal.
        nonfinite: "raise" stops at a sample whose output or gradient is not finite, "skip" leaves it out and says so.
        gates: "own" measures the gradient; "shuffled" pulls back through the weights as they are with the gates of every layer
            (slopes, choices, statistics of norms) from another row, so that gates of different layers are independent: the
            expectation of `analytic(weights="given", positions="together")`, at any size. `account` compares the two.
        variance: "control" subtracts from every sample what the closed form of its own draw of the weights explains of its
            scatter (`erfjax.tracing.second_moments.mirrored`): the same expectation from fewer samples, each about twice as
            costly; the notes say what it is worth. For networks whose weights are drawn from the key as normal numbers
            (`ej.redraw`, samplers of stacks), the statistics "square" and "rms", and all that is a chain of weights,
            elementwise functions, pools and sums. "auto" takes it where 128 draws of their own say that it saves more samples
            than it costs, and "plain" everywhere else.
        tied: with shuffled gates, how many neighbouring layers take them from the same row, or a group number for each layer.

    Returns:
        The field in the squared gradient (or gradient) per unit of output on the input's pixels; a tuple of fields, one
        per unit, if `unit` is a list; trees of fields for several inputs or outputs, as `theoretical` gives them. Ctrl-C
        ends a run early with a valid field of the samples so far.

    Raises:
        LayoutError, UnitError: layout, unit or channel do not fit the input or the output.
        SampleError: no samples, or one that is not finite.
        FunctionError: f cannot be traced.
        CheckpointError: the checkpoint is damaged or of another run.

    Source: W. Luo et al., "Understanding the Effective Receptive Field in Deep CNNs", NeurIPS 2016, section 3.

    Example:
        >>> import erfjax as ej, numpy as np
        >>> blur = lambda x: (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
        >>> ej.empirical(blur, np.ones((3, 7, 1), np.float32), layout="NWC", statistic="abs").map
        array([0.  , 0.  , 0.25, 0.5 , 0.25, 0.  , 0.  ])
    """
    chosen = reduction.check_statistic(statistic)
    if nonfinite not in ("raise", "skip"):
        raise SampleError(f'`nonfinite` must be "raise" or "skip", but got {nonfinite!r}.')
    if gates not in ("own", "shuffled"):
        raise SampleError(f'`gates` must be "own" or "shuffled", but got {gates!r}.')
    _check_key(key)
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
        raise SampleError(
            f"`mesh` must be a jax.sharding.Mesh, for example jax.make_mesh((2,), ('samples',)), but got {mesh!r}."
        )
    once = isinstance(inputs, Iterator)
    first, again = itertools.tee(inputs) if once else (inputs, inputs)
    every = isinstance(unit, str) and unit == "all"
    steps = _steps(step, every)
    if gates == "shuffled" and (every or key is not None):
        raise SampleError('gates="shuffled" is for the units of one network: give units, not "all", and no key.')
    variance = _variance(variance, key, chosen, every or gates == "shuffled")
    samples = _nested(samples, key) if isinstance(samples, tuple | list) else samples
    per_draw = samples[1] if isinstance(samples, tuple) else 1
    tied = tied if isinstance(tied, int | np.integer) else tuple(tied)

    def opened(layout: Any) -> tuple[Source, Questions, Any]:
        source = open_source(first, key, layout, per_draw)
        require_floating(source.spec, source.layouts)
        one = None if every else unit
        return source, ask(f, source.spec, source.layouts, key=key, unit=one, out_layout=out_layout), layout

    source, asked, layout = of_image(opened, inputs, layout)
    if once:  # every output and every input reads all rows; one question alone keeps none of them
        again = list(again) if len(asked.each) > 1 else ()
    settings = Settings(
        key, samples, chosen, channels, batch_size, target, mesh, progress, nonfinite, steps, gates, tied, variance
    )
    sources = iter([source])  # the first question takes the source that is open, the others open their own

    def answer(question: Question) -> tuple[EffectiveField, ...]:
        rows = next(sources, None) or open_source(again, key, layout, per_draw)
        path = None if checkpoint is None else _numbered(checkpoint, asked.each.index(question))
        return measured(f, question, rows, settings, path)

    return asked.answer(answer)


def _steps(step: Any, every: bool) -> tuple[int, ...] | None:
    """Every how many units are taken, once or per axis; nothing for a step of one; None if units are given.

    Raises:
        SampleError: no positive integers, or there is nothing to step over.
    """
    steps = tuple(step) if isinstance(step, tuple | list) else (step,)
    if not all(isinstance(s, int | np.integer) and not isinstance(s, bool) and s > 0 for s in steps):
        raise SampleError(f"`step` must be a positive integer, or one for each axis, but got {step!r}.")
    if not every and any(s > 1 for s in steps):
        raise SampleError(f'`step` is for unit="all": units that are given need none, but got step={step!r}.')
    return (() if set(steps) == {1} else tuple(map(int, steps))) if every else None


def _numbered(path: str | os.PathLike[str], index: int) -> str | os.PathLike[str]:
    """The file of one of several questions: the first has the path as given."""
    return path if index == 0 else Path(path).with_name(f"{Path(path).name}.{index}")


def _nested(samples: Any, key: Any) -> tuple[int, int]:
    """(draws, inputs) as integers.

    Raises:
        SampleError: they are not two positive integers, or nothing is drawn.
    """
    numbers = [n for n in samples if isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0]
    if len(numbers) != 2 or len(samples) != 2:
        raise SampleError(f"`samples` must be a positive integer or (draws, inputs), two of them, but got {samples!r}.")
    if key is None:
        raise SampleError(
            "samples=(draws, inputs) draws the weights so many times: pass a key and a function f(key, x), such as ej.redraw(f)."
        )
    return int(numbers[0]), int(numbers[1])


def _variance(variance: str, key: Any, statistic: str, special: bool) -> str:
    """The variance, "plain" for "auto" where there is no control; refuses a control there."""
    if variance not in ("plain", "control", "auto", CLOSED):
        raise SampleError(f'`variance` must be "plain", "control" or "auto", but got {variance!r}.')
    if variance == "auto" and (key is None or statistic not in ("square", "rms") or special):
        return "plain"
    if variance in ("plain", CLOSED):
        return variance
    if key is None:
        raise SampleError(
            'variance="control" explains what the draw of the weights does, but here the weights are given: pass a key and a '
            "function f(key, x) that draws them, such as ej.redraw(f)."
        )
    if statistic not in ("square", "rms"):
        raise SampleError(
            'variance="control" rests on the closed form of E[g²], so `statistic` must be "square" or "rms", but got '
            f"{statistic!r}."
        )
    if special:
        raise SampleError('variance="control" is for the units of one network: give units, not "all", and gates="own".')
    return variance


def _check_key(key: Any) -> None:
    """Refuses what is not one random key, typed or raw."""
    typed = hasattr(key, "dtype") and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    if key is not None and getattr(key, "ndim", None) != (0 if typed else 1):
        raise SampleError(f"`key` must be one random key such as jax.random.key(0), but got {key!r}.")
