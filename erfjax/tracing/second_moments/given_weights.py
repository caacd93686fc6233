"""The closed form of a network with the weights that it has: the covariance of the gradient over positions and channels.

    K ← Wᵀ K W through weights,     K ← E_x[J(x)ᵀ K J(x)] through the gates of one layer,     map = Σ_c K(i, c; i, c)

Weights act as they are. What the data decide, J(x), is averaged layer by layer: the gates of different layers are taken as
independent, those of one layer go together as they do over the rows of x. Where gates act position by position this is
K ∘ Γ with their co-activation Γ = E_x d dᵀ. K is held whole, over all positions and channels of the arrays that later layers
read, skip connections included. Without gates (a linear network) it is exact.
"""

import dataclasses
import math
from collections.abc import Container, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from erfjax.errors import SampleError
from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.layerwise import fixed, layers, live, pulled
from erfjax.tracing.second_moments.scaled import Scaled
from erfjax.tracing.second_moments.steps import dependent, elementwise
from erfjax.tracing.windows.cone import Cone, Step

MOST = 8192  # entries of a gradient whose covariance is held: 256 MiB in single precision
AT_ONCE = 128  # rows of a covariance pulled back together


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Steps of one layer: its weights, or its gates.

    Attributes:
        steps: in their order.
        after: the arrays whose gradients come in.
        before: the arrays whose gradients go out.
        fixed: whether the Jacobian is the same for all data.
        diagonal: whether one array becomes one other, position by position.
    """

    steps: tuple[Step, ...]
    after: tuple[Var, ...]
    before: tuple[Var, ...]
    fixed: bool
    diagonal: bool


def parts(cone: Cone, heads: Container[int]) -> tuple[Part, ...]:
    """The parts of a cone from the unit to the input.

    Args:
        heads: the places in `cone.steps` of contractions with weights; see `layerwise.contractions`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from erfjax.tracing import trace
        >>> from erfjax.tracing.positions.index_sets import full
        >>> from erfjax.tracing.second_moments.given_weights import parts
        >>> from erfjax.tracing.second_moments.layerwise import contractions
        >>> from erfjax.tracing.windows.cone import restrict
        >>> w = jax.random.normal(jax.random.key(0), (3, 3))
        >>> program = trace(lambda x: jnp.tanh(x @ w) @ w, jax.ShapeDtypeStruct((2, 3), jnp.float32))
        >>> cone = restrict(program, {program.output: full((2, 3))})
        >>> [part.fixed for part in parts(cone, contractions(cone))]
        [True, False, True]
    """
    alive = live(cone)
    layer_of = layers(cone, heads)
    (output,) = cone.wanted
    assert isinstance(output, Var)
    found: list[Part] = []
    after: tuple[Var, ...] = (output,)
    for layer in reversed(range(1 + max(layer_of, default=0))):
        here = [at for at, of in enumerate(layer_of) if of == layer]
        for chosen in ([at for at in here if at not in heads], [at for at in here if at in heads]):
            part = _part(cone, tuple(cone.steps[at] for at in chosen), after, alive)
            if part.steps:
                found.append(part)
                after = part.before
    return tuple(found)


def _part(cone: Cone, steps: Sequence[Step], after: tuple[Var, ...], alive: frozenset[Atom]) -> Part:
    """The steps that the gradients of some arrays pass, and where they end."""
    ends, taken = dict.fromkeys(after), []
    for step in reversed(steps):
        if step.output in ends:
            del ends[step.output]
            taken.append(step)
            ends |= {
                atom: None
                for i in dependent(step)
                if isinstance(atom := step.equation.inputs[i], Var) and atom in alive
            }
    before = tuple(ends)
    boxes = {lengths(cone.boxes[atom]) for atom in (*after, *before)}
    whole = all(lengths(step.box) in boxes for step in taken)
    single = len(after) == len(before) == len(boxes) == 1
    return Part(
        tuple(reversed(taken)),
        after,
        before,
        all(fixed(step, alive) for step in taken),
        single and whole and all(map(elementwise, taken)),
    )


def size(cone: Cone, atoms: Sequence[Atom]) -> int:
    """The entries of some arrays on their boxes."""
    return sum(math.prod(lengths(cone.boxes[atom])) for atom in atoms)


def check(cone: Cone, heads: Container[int]) -> None:
    """Refuses a network whose covariance over positions and channels is too large.

    Raises:
        SampleError: it is.
    """
    entries = largest(cone, heads)
    if entries > MOST:
        raise SampleError(
            f'positions="together" with given weights holds a covariance of {entries:,} by {entries:,} positions and channels, '
            f'more than {MOST:,}: ej.empirical(..., gates="shuffled") estimates the same at any size.'
        )


def largest(cone: Cone, heads: Container[int]) -> int:
    """The entries of the longest gradient whose covariance is held."""
    return max(size(cone, atoms) for part in parts(cone, heads) for atoms in (part.after, part.before))


def moments(cone: Cone, heads: Container[int], rows: Sequence[Any], covariance: Any) -> Scaled:
    """E g² at every entry of the window of the input.

    Args:
        cone: of the unit, with its weights as they are.
        heads: see `contractions`.
        rows: what goes into the cone, its windows, each with a leading axis of rows of data.
        covariance: E of the outer product of the unit's cotangents with themselves, over the entries of the output's box.
    """
    atoms = [*cone.block.inputs, *(step.output for step in cone.steps)]

    def forward(windows: Sequence[Any]) -> list[Any]:
        held = cone.values(*windows)
        return [held[atom] for atom in atoms]

    values: dict[Atom, Any] = dict(zip(atoms, jax.vmap(forward)(list(rows)), strict=True))
    alive, held, after = live(cone), Scaled.of(covariance), tuple(cone.wanted)
    for part in parts(cone, heads):
        held = Scaled.of(_passed(cone, part, alive, values, held.digits), held.exponent)
        after = part.before
    window = lengths(cone.windows[0])
    if after != (cone.block.inputs[0],):  # no gradient comes through
        return Scaled.of(jnp.zeros(window, covariance.dtype))
    return held.linear(lambda k: jnp.maximum(jnp.diagonal(k), 0).reshape(window))  # rounding aside


def _passed(cone: Cone, part: Part, alive: frozenset[Atom], values: dict[Atom, Any], covariance: Any) -> Any:
    """The covariance behind a part."""
    read = list(dict.fromkeys(a for step in part.steps for a in step.equation.inputs if a in values))
    stacked, dtype = [values[atom] for atom in read], covariance.dtype

    def back(row: Sequence[Any], gradient: Any) -> Any:
        held = dict(zip(read, row, strict=True))
        steps = [(step, held.__getitem__) for step in part.steps]
        arrived = pulled(cone, steps, alive, _split(cone, part.after, gradient))
        ends = [arrived.get(atom, jnp.zeros(lengths(cone.boxes[atom]), dtype)) for atom in part.before]
        return jnp.concatenate([end.astype(dtype).ravel() for end in ends])

    def both(row: Sequence[Any]) -> Any:
        half = lax.map(lambda line: back(row, line), covariance, batch_size=AT_ONCE)
        return lax.map(lambda line: back(row, line), half.T, batch_size=AT_ONCE)

    if part.fixed:
        return both([rows[0] for rows in stacked])
    count = len(stacked[0])
    if part.diagonal:
        gates = jax.vmap(lambda row: back(row, jnp.ones(len(covariance), dtype)))(stacked)
        return covariance * (gates.T @ gates / count)
    ends = size(cone, part.before)
    total, _ = lax.scan(lambda k, row: (k + both(row), None), jnp.zeros((ends, ends), dtype), stacked)
    return total / count


def _split(cone: Cone, atoms: Sequence[Atom], gradient: Any) -> dict[Atom, Any]:
    """A gradient of several arrays, one after the other, array by array."""
    found, first = {}, 0
    for atom in atoms:
        shape = lengths(cone.boxes[atom])
        count = math.prod(shape)
        found[atom] = gradient[first : first + count].reshape(shape).astype(atom.dtype)
        first += count
    return found
