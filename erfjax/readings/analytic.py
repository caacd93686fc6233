"""`analytic`: how much each pixel counts for a unit of any JAX function, in closed form: one moments pass and its transpose."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, SupportsIndex, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from erfjax.errors import ErfjaxError
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.measurement.engine import HOST_BUDGET
from erfjax.measurement.model import cached
from erfjax.measurement.waiting import told
from erfjax.readings import drawn, rounding
from erfjax.readings.input_rows import rows_of
from erfjax.readings.moment_pass import MomentPass, finish, plain, sides
from erfjax.readings.options import Options
from erfjax.readings.question import Question, Questions, ask, of_image, one_sample, require_floating
from erfjax.readings.remarks import swapped
from erfjax.readings.theoretical import fields_of
from erfjax.tracing.second_moments.activity import held_bytes
from erfjax.tracing.second_moments.coverage import Survey
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.windows.brief import brief
from erfjax.tracing.windows.compiler import Jitted, brief_options
from erfjax.typing import Averages, Channels, Function, Gates, Given, Positions, Shaped, Statistic, Tree, Unit, Weights

MOST_ROWS = 16  # rows that share one call; more make nothing faster


@dataclasses.dataclass(frozen=True, eq=False)
class _Compiled:
    """A moments pass, compiled, and what is known about it."""

    moment_pass: MomentPass
    survey: Survey
    rows_at_once: int
    run: Callable[..., Any]
    theory: tuple[TheoreticalField | str, ...]
    notes: tuple[str, ...]

    def asked(self, question: Question) -> "_Compiled":
        """The same for a model that differs in the weights it holds as a pytree: surveyed anew, not compiled anew."""
        before = self.moment_pass.question.weights
        if all(a is b for a, b in zip(before, question.weights, strict=True)):
            return self
        moment_pass = MomentPass.of(question, self.moment_pass.options)
        moment_pass = dataclasses.replace(moment_pass, notes=self.moment_pass.notes)
        if not moment_pass.serves_as(self.moment_pass):
            return dataclasses.replace(
                self, moment_pass=moment_pass, survey=moment_pass.survey(), run=_compiled(moment_pass)
            )
        moment_pass = dataclasses.replace(moment_pass, sizes=self.moment_pass.sizes)
        return dataclasses.replace(self, moment_pass=moment_pass, survey=moment_pass.survey())


@overload
def analytic(
    f: Function,
    x: Shaped | list,
    *,
    unit: list[Unit],
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: Literal["square", "rms", "mean"] = "square",
    gates: Gates = "data",
    weights: Weights = "given",
    channels: Channels = "sum",
    positions: Positions = "auto",
    key: jax.Array | None = None,
    samples: SupportsIndex | None = None,
) -> tuple[EffectiveField, ...]: ...
@overload
def analytic(
    f: Function,
    x: Shaped | list,
    *,
    unit: Unit = None,
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: Literal["square", "rms", "mean"] = "square",
    gates: Gates = "data",
    weights: Weights = "given",
    channels: Channels = "sum",
    positions: Positions = "auto",
    key: jax.Array | None = None,
    samples: SupportsIndex | None = None,
) -> EffectiveField: ...
@overload
def analytic(
    f: Function,
    x: Tree,
    *,
    unit: Unit | list[Unit] = None,
    layout: Tree = None,
    out_layout: str | None = None,
    statistic: Literal["square", "rms", "mean"] = "square",
    gates: Gates = "data",
    weights: Weights = "given",
    channels: Channels = "sum",
    positions: Positions = "auto",
    key: jax.Array | None = None,
    samples: SupportsIndex | None = None,
) -> Tree: ...
def analytic(
    f: Given,
    x: Given,
    *,
    unit: Given = None,
    layout: Given = None,
    out_layout: str | None = None,
    statistic: str = "square",
    gates: str = "data",
    weights: str = "given",
    channels: Given = "sum",
    positions: str = "auto",
    key: Given = None,
    samples: Given = None,
) -> EffectiveField | tuple[EffectiveField, ...] | Tree:
    """The effective receptive field of a unit in closed form: E[g²], g the gradient of the unit's channels, without sampling.

    One pass pushes a second moment through the traced function, each primitive acting by its squared Jacobian; the
    transpose of that pass at the unit is the map. It is exact for independent zero-mean weights with independent gates;
    `coverage` says whether that is so here, and `notes` why not.

    Args:
        f: a function from an array to an array (or from a tuple or dict of arrays to any tree of arrays). It is traced and
            compiled once for each shape, as by `jax.jit`; a pytree (`jax.tree_util.Partial(apply, params)`, an Equinox module)
            once for all weights.
        x: inputs, averaged over the rows of N. With mean-field gates only their mean square counts, and a
            `jax.ShapeDtypeStruct` stands for one. Of several inputs each in turn is asked about, the others held as they are.
        unit: index of the output unit, one integer per spatial axis; None is the centre n // 2; a list is a batch of units.
        layout, out_layout: the axes of `x` and of the output; see `theoretical`.
        statistic: "square" E[g²] per input channel, summed over them; "rms" the root per channel, summed; "mean" E[g], weights as
            they are and gates E[φ'].
        gates: "data" takes φ' at the activations that `x` causes; "mean-field" computes E[φ'²] from the variance of every
            pre-activation, pushed forward through zero-mean weights.
        weights: "given" takes each weight's square; "exchangeable" replaces each weight by the mean square of its tensor at that
            tap: what the network would see before training, with these variances.
        channels: "sum" differentiates the sum of the unit's channels, whose gradient has a coherent part after a nonlinearity:
            weights are then conditioned on the activations that they cause (with gates from data). "random-signs" gives every
            channel a random sign, which leaves no such part, and is the same as "frobenius"; an integer takes one channel.
        positions: "apart" squares gradients position by position, which is exact while only random weights mix positions.
            "together" carries the covariance of every two positions, by the true Jacobian of what lies between random weights
            (attention, pooling, resizing, normalisation, gating, sums of branches): exact in the limit of width. With given
            weights it carries the covariance over positions and channels through the weights as they are, the gates of different
            layers taken as independent: the closed form of a trained network, for small ones. By mean field it takes the gates of
            pairs from the covariance of positions, for networks of random layers, linear operations (pooling by means, blur,
            resizing, sums, concatenations) and elementwise functions. Of two positions that fixed operations bring together
            only where they are few lags apart a band of lags is held, of others a matrix; "band" and "matrix" ask for one or the
            other. "auto" takes positions together, with exchangeable weights, where that is needed, possible and affordable.
        key: with a key f is a function of (key, x) that draws its weights, `ej.redraw(f)` for one, and the result the mean of the
            closed forms of `samples` networks, each with its own weights and the gates that they open, the rows of x in turn. It
            varies less than the same number of measured gradients, and has error bars and intervals as they have; what it takes
            as random that is not is its bias, which `ej.compare` with `ej.empirical` shows.
        samples: how many networks; None is one for each row.

    Returns:
        The field, in squared gradient (or gradient) per unit of output; a tuple of fields if `unit` is a list; trees of fields
        for several inputs or outputs, as `theoretical` gives them.

    Raises:
        LayoutError, UnitError, SampleError: an argument does not fit.
        FunctionError: f cannot be traced.
        UnsupportedPrimitiveError: a primitive without a closed form.
        DataDependentError: branches that the data choose.

    Source: W. Luo et al., "Understanding the Effective Receptive Field in Deep CNNs", NeurIPS 2016, section 2; for positions
    together, that gradients meet weights as if these were drawn anew: G. Yang, "Tensor Programs II", 2020.

    Example:
        >>> import erfjax as ej, numpy as np
        >>> blur = lambda x: (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
        >>> field = ej.analytic(blur, np.ones((3, 7, 1), np.float32), layout="NWC", statistic="mean")
        >>> field.map, field.coverage
        (array([0.  , 0.  , 0.25, 0.5 , 0.25, 0.  , 0.  ]), 'exact')
    """
    options = Options(statistic, gates, weights, channels, positions)
    options.check()
    if key is not None or samples is not None:
        from erfjax.readings.empirical import empirical  # it builds on this module

        drawn.check(options, key)
        settings = {
            "statistic": statistic,
            "channels": channels,
            "unit": unit,
            "layout": layout,
            "out_layout": out_layout,
        }
        return cast(Any, empirical)(f, x, key=key, samples=samples, variance=drawn.CLOSED, **settings)

    def asked(layout: Any) -> tuple[Questions, tuple[Any, ...]]:
        sample, inputs = one_sample(x, layout)
        require_floating(sample, inputs)
        rows = rows_of(x, sample, inputs, options)
        return ask(f, sample, inputs, unit=unit, out_layout=out_layout), rows

    questions, rows = of_image(asked, x, layout)
    return questions.answer(lambda question: _fields(question, f, rows, options))


def analytic_map(
    f: Function,
    x: Shaped,
    *,
    unit: Unit | list[Unit] = None,
    layout: str | None = None,
    out_layout: str | None = None,
    statistic: Literal["square", "rms", "mean"] = "square",
    gates: Gates = "data",
    weights: Weights = "given",
    channels: Channels = "sum",
    positions: Literal["apart", "together", "band", "matrix"] = "apart",
) -> Float[Array, "*space"]:
    """The map of `analytic` as a JAX array that can be jitted, mapped and differentiated, also by what f closes over.

    Arguments are those of `analytic`, where `positions` are not "auto"; a list of units gives a leading axis. Nothing is cached
    and no coverage is known: wrap the caller in `jax.jit`.

    Args:
        f, x, unit, layout, out_layout, statistic, gates, weights, channels: as for `analytic`.
        positions: "apart", "together", "band" or "matrix".

    Returns:
        The map, with the shape of the input's space; of a list of units one map for each along a first axis.

    Raises:
        LayoutError, UnitError, SampleError: an argument does not fit.
        FunctionError: there are several inputs or outputs.
        UnsupportedPrimitiveError, DataDependentError: as for `analytic`.

    Example:
        A regulariser that widens the field of a network: climb the gradient of its width.

        >>> import jax, jax.numpy as jnp
        >>> from erfjax.readings.analytic import analytic_map, widths
        >>> dims = ("NHWC", "HWIO", "NHWC")
        >>> def net(w):
        ...     return lambda x: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)
        >>> def width(w):
        ...     return widths(analytic_map(net(w), jnp.ones((1, 9, 11, 1)))).sum()
        >>> w = jax.random.normal(jax.random.key(0), (3, 3, 1, 4))
        >>> step = w + 0.1 * jax.grad(width)(w)
        >>> bool(width(step) > width(w))
        True
    """
    options = Options(statistic, gates, weights, channels, positions)
    options.check()
    sample, inputs = one_sample(x, layout)
    require_floating(sample, inputs)
    rows = rows_of(x, sample, inputs, options)
    question = ask(f, sample, inputs, unit=unit, out_layout=out_layout).only("analytic_map")
    _check(question, options)
    moment_pass = MomentPass.of(question, options)

    def each(consts: Any, rows: Any) -> Scaled:
        return lax.map(functools.partial(moment_pass.moments, consts), rows)

    # Weights that are known stay known: the zeros of fixed matrices decide the window.
    found = jax.jit(functools.partial(moment_pass.given if options.layerwise else each, question.consts))(rows)
    highest = found.exponent.max(0)
    digits = jax.vmap(lambda one: jax.vmap(Scaled.at)(one, highest))(found)
    maps = finish(jax.vmap(Scaled.restored)(Scaled(digits.mean(0), highest)), moment_pass, jnp)
    maps = jnp.pad(maps, [(0, 0), *sides(moment_pass)])
    return maps if question.several else maps[0]


def widths(field: Float[Array, "*space"]) -> Float[Array, " axes"]:
    """The standard deviation of a non-negative map along each axis, in pixels, as a smooth JAX function of the map.

    Formula: σ_a² = Σ m (i_a - ī_a)² / Σ m.

    Example:
        >>> import jax.numpy as jnp
        >>> from erfjax.readings.analytic import widths
        >>> [round(float(w), 3) for w in widths(jnp.ones((1, 3)))]
        [0.0, 0.816]
    """
    mass = field / jnp.sum(field)
    found = []
    for axis, n in enumerate(field.shape):
        line = jnp.sum(mass, [a for a in range(field.ndim) if a != axis])
        away = jnp.arange(n, dtype=field.dtype)
        away = away - jnp.sum(line * away)
        variance = jnp.sum(line * away**2)
        found.append(jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0))
    return jnp.stack(found)


def _check(question: Question, options: Options) -> None:
    question.check_differentiable()
    question.check_channels(options.channels, "square")


def _compile(question: Question, f: Function, options: Options) -> _Compiled:
    """Tells weights from filters, surveys what the theory covers, and compiles the pass."""
    _check(question, options)
    moment_pass = MomentPass.of(question, options)
    held = 0 if moment_pass.cone is None else held_bytes(moment_pass.cone)
    at_once = max(1, min(MOST_ROWS, HOST_BUDGET // max(1, 2 * held)))
    cancelled = rounding.notes(question, options.channels) if options.coherent and options.gates == "data" else ()
    run = _compiled(moment_pass)
    return _Compiled(moment_pass, moment_pass.survey(), at_once, run, theory_of(question, f), cancelled)


def _compiled(moment_pass: MomentPass) -> Callable[..., Any]:
    """The pass: (arguments, rows) -> moments of every row, compiled when it is needed, with care where it goes wrong without."""
    if moment_pass.options.layerwise:
        return jax.jit(moment_pass.compiled_given)
    careful = _jitted(moment_pass, careful=True)
    if not moment_pass.risky:
        return careful
    quick = _jitted(moment_pass, careful=False)

    def run(arguments: Any, rows: Any) -> Scaled:
        with moment_pass.quickly():
            found = quick(arguments, rows)
        return found if moment_pass.went_well(found) else careful(arguments, rows)

    return run


def _jitted(moment_pass: MomentPass, *, careful: bool) -> Callable[..., Any]:
    each = lax.map if moment_pass.options.together else lambda one, rows: jax.vmap(one)(rows)

    def run(arguments: Any, rows: Any) -> Scaled:
        with brief():
            return each(functools.partial(moment_pass.compiled_moments, arguments, careful=careful), rows)

    return Jitted(run, brief_options(moment_pass.batched))


def theory_of(question: Question, f: Function) -> tuple[TheoreticalField | str, ...]:
    """The theoretical field of every unit, or in words why there is none."""
    try:
        return fields_of(question, f)
    except ErfjaxError as error:
        return (f"no theoretical field: {error}",) * len(question.units)


def _fields(question: Question, f: Function, rows: tuple[Any, ...], options: Options) -> tuple[EffectiveField, ...]:
    """The fields of all units."""
    identity = ("analytic", question.identity, options)
    compiled = cast(_Compiled, cached(f, identity, lambda: _compile(question, f, options))).asked(question)
    moment_pass, count, step = compiled.moment_pass, len(rows[0]), compiled.rows_at_once
    step = math.ceil(count / math.ceil(count / step))  # parts of equal size
    if options.layerwise:  # the mean over rows is taken inside, layer by layer
        step = count
    total: Any = 0.0
    arguments = moment_pass.arguments()
    for first in range(0, count, step):
        chunk = [np.asarray(leaf[first : first + step]) for leaf in rows]
        size = len(chunk[0])
        if count > step:  # the last chunk is filled up, so that all have one shape
            chunk = [np.concatenate([leaf, np.repeat(leaf[-1:], step - size, axis=0)]) for leaf in chunk]
        with told("the closed form"):
            found = compiled.run(arguments, tuple(chunk))
        total = total + plain(found, moment_pass, chunk)[:size].sum(axis=0)
    maps = finish(total / (1 if options.layerwise else count), moment_pass, np)
    metadata = {"rows": count, "layout": question.source.letters}
    return tuple(_field(np.pad(m, sides(moment_pass)), compiled, i, metadata) for i, m in enumerate(maps))


def _field(values: np.ndarray, compiled: _Compiled, i: int, metadata: dict[str, Any]) -> EffectiveField:
    """The field of one unit."""
    survey, theory = compiled.survey, compiled.theory[i]
    question, options = compiled.moment_pass.question, compiled.moment_pass.options
    explained = values.any() or any(word in note for note in survey.notes for word in ("silent", "does not depend"))
    dead = () if explained else ("every gradient is zero: the unit is dead",)
    doubts = (theory,) if isinstance(theory, str) else swapped(theory.notes)
    data = options.gates == "mean-field" or metadata["rows"] > 1
    over: Averages | None = "inputs" if data else None
    if options.power == 2 and not options.layerwise:
        over = "inputs and weights" if data else "weights"
    return EffectiveField(
        map=values,
        stderr=None,
        statistic=cast(Statistic, options.statistic),
        samples=0,
        unit=question.units[i],
        theoretical=None if isinstance(theory, str) else theory,
        coverage="approximate" if survey.reasons else "exact",
        notes=(*question.notes, *survey.reasons, *survey.notes, *compiled.notes, *dead, *doubts),
        metadata={**dataclasses.asdict(options), **metadata},
        channels=options.channels if isinstance(options.channels, str) else int(options.channels),
        averages=over,
    )
