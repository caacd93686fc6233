"""The flat program of a function: equations in order, what is known before any input is, and the layer each one belongs to.

The distinction made here is *what depends on the input*: a `Var` does, a `Known` does not. A known value is computed at most
once, and only if a walk asks for it, so tracing a 4096-pixel image touches no array of that size.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from erfjax.errors import InternalError


class Var:
    """An array that depends on the input: one per equation result and call, compared by identity."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Sequence[int], dtype: Any):
        self.shape, self.dtype = tuple(map(int, shape)), dtype

    def __repr__(self) -> str:
        return f"Var({self.dtype}{list(self.shape)})"


class Known:
    """An array that does not depend on the input; its value is computed when first asked for, and once.

    `captured` says whether it derives from floating-point arrays that the function closed over or holds as a pytree: weights,
    filters, masks; what the function computed from nothing (the matrix of a resize) is not captured. `origin` is the equation
    that makes it and the number of the result, None for what was there before.
    """

    __slots__ = ("_compute", "_value", "captured", "dtype", "origin", "shape")

    def __init__(
        self,
        shape: Sequence[int],
        dtype: Any,
        compute: Callable[[], Any],
        captured: bool = False,
        origin: "tuple[Equation, int] | None" = None,
    ):
        self.shape, self.dtype, self.captured, self.origin = tuple(map(int, shape)), dtype, captured, origin
        self._compute: Callable[[], Any] | None = compute
        self._value: Any = None

    @property
    def value(self) -> Any:
        if self._compute is not None:
            self._value, self._compute = self._compute(), None
        return self._value

    @property
    def concrete(self) -> np.ndarray | None:
        """The value as NumPy, or None where JAX itself does not have it yet (inside `jit` or `grad`)."""
        return None if isinstance(self.value, jax.core.Tracer) else np.asarray(self.value)

    def __repr__(self) -> str:
        return f"Known({list(self.shape)})"


Atom = Var | Known


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One primitive applied to atoms.

    Attributes:
        blocks: bodies that are not inlined: the branches of a data-dependent `cond`, or the body of a function with a
            derivative of its own (an elementwise custom_jvp, any custom_vjp).
        layer: the layer path from the name stack, "" outside any named scope.
        where: the user's own line, "" where JAX does not know it.
        raw: what JAX wrote, for evaluating the equation as a whole.
        loop: the number of the outermost scan that it belongs to, 0 outside any.
        number: its place in the trace, the same whenever the function is traced again; -1 for what is derived later.
        scan: what it repeats, if it is a scan that was kept as one equation.
    """

    primitive: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Var, ...]
    params: dict[str, Any]
    layer: str = ""
    where: str = ""
    blocks: tuple["Block", ...] = ()
    raw: Any = None
    loop: int = 0
    number: int = -1
    scan: "Scan | None" = None

    @property
    def operands_of_blocks(self) -> tuple[Atom, ...]:
        """The operands that the bodies take, in their order."""
        return self.inputs[len(self.inputs) - len(self.blocks[0].inputs) :]

    @property
    def operands_before_blocks(self) -> tuple[Atom, ...]:
        """The operands that choose between the bodies: the index of a cond."""
        return self.inputs[: len(self.inputs) - len(self.blocks[0].inputs)]

    def __str__(self) -> str:
        return f"`{self.primitive}`{f' in layer {self.layer}' if self.layer else ''}{f' at {self.where}' if self.where else ''}"


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A closed piece of program: `outputs` in terms of `inputs`."""

    inputs: tuple[Atom, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """A scan that is one equation, its body once.

    The operands of the equation are constants, carries and scanned arrays; its results are carries and stacked arrays.

    Attributes:
        body: inputs are the constants that depend on the input, all carries, and one row of each scanned array; outputs are the
            next carries, and one row of each stacked array.
        moving: which operands of the equation are constants that depend on the input.
        n_consts, n_carry: how many operands are constants, and carries.
        length: how many steps.
        reverse: whether it begins at the last row.
        history: every carry before each step, stacked.
    """

    body: Block
    moving: tuple[int, ...]
    n_consts: int
    n_carry: int
    length: int
    reverse: bool
    history: tuple[Var, ...]

    @property
    def places(self) -> tuple[int, ...]:
        """For every input of the body, the operand of the equation that it is, begins with, or is a row of."""
        rest = len(self.body.inputs) - len(self.moving)
        return (*self.moving, *range(self.n_consts, self.n_consts + rest))


@dataclasses.dataclass(frozen=True, eq=False)
class Program(Block):
    """A traced function: a block whose first input is the array asked about, and the tree in which it returns its outputs.

    Further inputs are other data: they are not known, and no field of them is asked for.
    """

    tree: Any = None

    @property
    def input(self) -> Var:
        var = self.inputs[0]
        if not isinstance(var, Var):
            raise InternalError("the input of a program must be a Var")
        return var

    @property
    def output(self) -> Atom:
        """The single output. Raises ValueError where the function returns several arrays."""
        if len(self.outputs) != 1:
            raise ValueError(
                f"expected a function that returns one array, but it returns {len(self.outputs)}: select one"
            )
        return self.outputs[0]

    def __str__(self) -> str:
        lines = [
            f"{e.layer or '-':40s} {e.primitive!s:24s} {[list(v.shape) for v in e.outputs]}" for e in self.equations
        ]
        return "\n".join([f"program of {len(lines)} equations on {list(self.input.shape)}", *lines])
