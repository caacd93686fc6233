"""`redraw`: any function with its weights drawn anew, as the closed form with exchangeable weights assumes.

The function is traced, and its flat program evaluated with other numbers in place of its weights. A *weight* is what the
closed form takes for one: a known operand of a contraction that comes from arrays that the function closed over and is no
filter (the same for all channels). Its entries are drawn independently from a normal distribution of mean zero and of the
variance that the given tensor has at that tap. Everything else stays: biases, scales and statistics of norms, filters, masks.

Operands that are one array seen in several ways (a matrix and its transpose, the steps of a recurrence) share their draw.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.calling import explained
from erfjax.errors import SampleError
from erfjax.measurement.model import require_function
from erfjax.tracing import jaxpr as jx
from erfjax.tracing import registry
from erfjax.tracing.program.equations import Block, Equation, Known, Program, Var
from erfjax.tracing.program.flatten import record
from erfjax.tracing.program.origins import Origins, moved
from erfjax.tracing.second_moments.coverage import place
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.second_moments.random_weights import CHANCE, channel_axes, independence, listed, stands_for_draws
from erfjax.typing import Given

LARGEST_SIDE = 512  # of a matrix whose singular values are looked at: beyond, they take longer than the rest
EVEN = 1e-3  # squared singular values that differ by less, relative to the largest, are those of an orthogonal matrix
SINGULAR = 1e-10  # squared singular values below, relative to the largest, are zeros in float32

Place = tuple[int, int]
"""An operand of an equation: (id of the equation, index of the operand)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """How one operand is drawn.

    Attributes:
        operand: the weight as it is given.
        number: of its origin, whose normal numbers it takes.
        scale: the standard deviation of its entries, one for each tap.
    """

    operand: Known
    number: int
    scale: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A traced function and the draws of its weights.

    Attributes:
        program: the flat program of the function.
        draws: of every operand that is a weight.
        sizes: of the origins, in their order.
        notes: what is tied, kept and lost.
        concrete: whether all weights have values: they have none inside `jax.jit`.
    """

    program: Program
    draws: Mapping[Place, Draw]
    sizes: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]
    concrete: bool

    def __call__(self, key: Any, x: Any) -> Any:
        """The outputs for weights drawn from a key, in the function's own tree."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.sizes], dtype=int)
        total = int(ends[-1]) if len(ends) else 0
        normal = jax.random.normal(key, (total,))  # at once: a generator for every weight takes XLA seconds to compile
        numbers = [part.reshape(shape) for part, shape in zip(jnp.split(normal, ends[:-1]), self.sizes, strict=False)]

        def value(draw: Draw) -> Any:
            drawn = moved(draw.operand, numbers[draw.number])
            return (drawn * jnp.asarray(draw.scale, drawn.dtype)).astype(draw.operand.dtype)

        drawn = {place: value(draw) for place, draw in self.draws.items()}
        return jax.tree.unflatten(
            jax.tree.structure(self.program.tree), _evaluate(self.program, jax.tree.leaves(x), drawn)
        )


class Redrawn:
    """A function g(key, x): that of `f` with weights drawn from the key.

    Attributes:
        f: the function as it is.
    """

    def __init__(self, f: Callable[..., Any]):
        self.f = f
        self._plans: dict[Any, Plan] = {}

    def __call__(self, key: Any, x: Any) -> Any:
        """The output for x of a network whose weights are drawn from `key`."""
        x = jnp.asarray(x) if isinstance(x, list) else x
        x = jax.tree.map(lambda leaf: leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf), x)
        specs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jax.dtypes.canonicalize_dtype(a.dtype)), x)
        name = (jax.tree.structure(x), *((spec.shape, str(spec.dtype)) for spec in jax.tree.leaves(specs)))
        plan = self._plans.get(name)
        if plan is None:
            plan = _plan(self.f, specs)
            if plan.concrete:
                self._plans[name] = plan
        return plan(key, x)

    @property
    def notes(self) -> tuple[str, ...]:
        """One line each: what is drawn, what is tied, what is kept, which structure of the weights is lost; none before the
        first call, which traces the function."""
        return tuple(dict.fromkeys(note for plan in self._plans.values() for note in plan.notes))

    def __repr__(self) -> str:
        name = getattr(self.f, "__qualname__", None) or type(self.f).__qualname__
        return "\n· ".join([f"redraw({name})", *(self.notes or ("not traced yet: call it with a key and an input",))])


def redraw(f: Given) -> Redrawn:
    """The function g(key, x) that is f(x) with every weight drawn anew, as `analytic(f, x, weights="exchangeable")` assumes.

    Weights are the known operands of convolutions and contractions (dense layers, einsum, projections of attention) that derive
    from arrays that f closes over or holds as a pytree: f may be a function, a bound Flax `apply`, an nnx, Equinox or Keras
    model. Each is drawn from independent normal numbers of mean zero and of the variance (mean square over channels) that the
    given tensor has at that tap. Biases, norms and fixed filters (the same for all channels) are kept. A weight that is used
    more than once, transposed or cut in slices too, is drawn once. `g.notes` names what the given weights have
    that independent draws lose: orthogonality, low rank, zeros between channels, a mean, correlated taps.

    Args:
        f: a function of an array, or of a tree of arrays. It is traced at the shape of x when g meets that shape, and once.

    Returns:
        g, a JAX function of a random key and of x: jit, vmap and differentiate it, or measure it with
        `ej.empirical(g, x, key=key, samples=...)`. Keep g to keep what is compiled for it.

    Raises:
        DataDependentError: f has a while loop whose number of steps the data choose.
        FunctionError, SampleError: when g meets x, f cannot be traced, or weights are not finite.

    Source: W. Luo et al., "Understanding the Effective Receptive Field in Deep CNNs", NeurIPS 2016, section 2: weights are
        independent draws of zero mean.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import erfjax as ej
        >>> w = jnp.array([[3.0, 0.0], [4.0, 0.0]])
        >>> g = ej.redraw(lambda x: x @ w + 1)
        >>> y = jax.vmap(g, (0, None))(jax.random.split(jax.random.key(0), 1000), jnp.ones(2))
        >>> y.shape, y.mean().round(), y.var().round()  # of each weight the variance (9 + 16) / 4
        ((1000, 2), Array(1., dtype=float32), Array(12., dtype=float32))
    """
    require_function(f)
    return Redrawn(f)


def _evaluate(block: Block, operands: Sequence[Any], drawn: Mapping[Place, Any]) -> list[Any]:
    """The outputs of a block with drawn weights in place of the given ones."""
    held = dict(zip(block.inputs, operands, strict=True))

    def value(atom: Any) -> Any:
        return atom.value if isinstance(atom, Known) else held[atom]

    for equation in block.equations:
        values = [drawn.get((id(equation), i), value(atom)) for i, atom in enumerate(equation.inputs)]
        if equation.primitive is jx.COND:
            bodies = [lambda *x, body=body: _evaluate(body, x, drawn) for body in equation.blocks]
            results = lax.switch(values[0], bodies, *values[1:])
        else:
            results = jx.evaluate(equation.raw, values)
        held.update(zip(equation.outputs, results, strict=True))
    return [value(atom) for atom in block.outputs]


def _plan(f: Callable[..., Any], x: Any) -> Plan:
    """Traces f, and decides what is drawn."""
    with explained("The function", x):
        recorded = record(f, x)
    program = recorded.program([Var(*spec) for spec in recorded.operands])
    origins, draws = Origins(), {}
    kept: dict[str, list[str]] = collections.defaultdict(list)
    used: dict[int, list[str]] = collections.defaultdict(list)
    lost: dict[str, list[str]] = collections.defaultdict(list)
    looked: set[int] = set()
    concrete = True
    for equation, i, at in _weights(program):
        weight, channels = equation.inputs[i], channel_axes(equation, i)
        assert isinstance(weight, Known)
        captured = weight.captured
        given = weight.concrete
        if captured and at is None:
            kept["weights inside a function with a derivative of its own"].append(place(equation))
        elif stands_for_draws(weight, channels):
            assert at is not None
            number = origins.number(weight)
            draws[at] = Draw(weight, number, _scale(weight, channels))
            used[number].append(place(equation))
            if given is not None and number not in looked:
                looked.add(number)
                values = np.asarray(given, np.float64)
                if not np.isfinite(values).all():
                    raise SampleError(
                        f"The weights of {place(equation)} are not finite: they have no variance to draw from."
                    )
                for structure in _structure(values, channels):
                    lost[structure].append(place(equation))
        elif captured:
            kept["fixed filters: the same for all channels, graphs, symmetric matrices, transforms"].append(
                place(equation)
            )
        concrete = concrete and given is not None
    count = len(used)
    tied = [" = ".join(dict.fromkeys(places)) for places in used.values() if len(places) > 1]
    notes = [f"{count} weight{'' if count == 1 else 's'} drawn anew{listed([p[0] for p in used.values()])}"]
    notes += [f"drawn once for all uses{listed(tied)}"] if tied else []
    notes += [f"kept, {what}{listed(list(dict.fromkeys(where)))}" for what, where in kept.items()]
    notes += [f"lost, {what}{listed(list(dict.fromkeys(where)))}" for what, where in lost.items()]
    return Plan(program, draws, tuple(known.shape for known in origins.found), tuple(notes), concrete)


def _weights(block: Block, whole: bool = False) -> Iterator[tuple[Equation, int, Place | None]]:
    """Every known floating operand of a contraction, and where it is read; nowhere, if the body that reads it is not opened."""
    for equation in block.equations:
        known = registry.known(equation.primitive) and registry.lookup(equation).moment is Kind.BILINEAR
        for i, atom in enumerate(equation.inputs):
            if known and isinstance(atom, Known) and jnp.issubdtype(atom.dtype, jnp.floating):
                yield equation, i, None if whole else (id(equation), i)
        for body in equation.blocks:
            outside = {id(atom): i for i, atom in enumerate(equation.inputs) if isinstance(atom, Known)}
            shut = whole or equation.primitive is not jx.COND
            for inner, i, at in _weights(body, shut):
                atom = inner.inputs[i]
                passed = shut and not whole and id(atom) in outside
                yield inner, i, (id(equation), outside[id(atom)]) if passed else at


def _scale(weight: Known, channels: Sequence[int]) -> Any:
    """The root of the mean square over channels, at every tap."""
    library: Any = jnp if weight.concrete is None else np
    value = weight.value if weight.concrete is None else np.asarray(weight.concrete, np.float64)
    return library.sqrt(library.mean(library.square(value), tuple(channels), keepdims=True))


def _structure(weight: np.ndarray, channels: Sequence[int]) -> Iterator[str]:
    """What a weight has that independent draws of zero mean have not."""
    if not weight.any():
        return
    carrying = weight[np.broadcast_to((weight != 0).any(tuple(channels), keepdims=True), weight.shape)]
    if (carrying == 0).mean() >= 0.5:
        yield "zeros between channels (delta kernels, masks)"
    orthogonal = low = False
    for axis in channels:
        matrix = np.moveaxis(weight, axis, -1).reshape(-1, weight.shape[axis])
        if min(matrix.shape) >= 2 and max(min(matrix.shape), 2) <= LARGEST_SIDE:
            gram = matrix.T @ matrix if matrix.shape[1] <= matrix.shape[0] else matrix @ matrix.T
            squares = np.linalg.eigvalsh(gram)
            orthogonal |= bool(squares[-1] - squares[0] < EVEN * squares[-1])
            low |= bool(squares[0] < SINGULAR * squares[-1])
    if orthogonal:
        yield "orthogonal channels"
    if low:
        yield "low rank"
    for name, p in independence(weight, channels):
        if p < CHANCE / 2:
            yield {"mean": "a mean that is not zero", "neighbours": "correlated neighbouring taps"}[name]
