"""`trace`: makes the jaxpr of a function once and inlines everything that has a body, so that the walks meet arithmetic only.

A `Trace` is that jaxpr with the arrays that it closed over apart, so that it can be flattened or evaluated for other arrays
(weights that are arguments of a compiled function) without calling the user's function again.

Calls are inlined, loops unrolled, branches with a known index picked. What stays a block: branches that the data choose (the
hull joins them), and functions with a derivative of their own that is not that of their body: an elementwise custom_jvp such as
`jax.nn.relu` (whose slope at 0 is 0, where `max` has 1/2), and any custom_vjp.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from erfjax.calling import explained
from erfjax.errors import DataDependentError
from erfjax.tracing import jaxpr as jx
from erfjax.tracing import registry
from erfjax.tracing.program import modules
from erfjax.tracing.program.around_scans import taken_out
from erfjax.tracing.program.equations import Atom, Block, Equation, Known, Program, Scan, Var
from erfjax.tracing.second_moments.kinds import Kind

MAX_STEPS = 100_000  # a while loop with a known test that runs longer than this is taken for endless


def trace(f: Callable[..., Any], x: Any) -> Program:
    """The flat program of `f` at the shape of `x`.

    Args:
        f: a function of one array; what it closes over (weights) is known.
        x: an array or a `jax.ShapeDtypeStruct`; only its shape and dtype are used.

    Raises:
        DataDependentError: a `while` whose test depends on the input.
        FunctionError: f raises an error.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from erfjax.tracing import trace
        >>> program = trace(jax.jit(lambda x: jnp.sin(x) * 2), jax.ShapeDtypeStruct((3,), jnp.float32))
        >>> [str(equation.primitive) for equation in program.equations]
        ['sin', 'mul']
    """
    with explained("The function", x):
        recorded = record(f, x)
    return recorded.program([Var(*spec) for spec in recorded.operands])


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """How many steps of a scan are unrolled; a longer one is kept as one equation, if a closed form can enter it. None: all.

    Attributes:
        fixed: of a scan whose body contracts what depends on the input with no known array. Where that is less, what steps need
            not of each other is taken out of the body.
        weighted: of a scan whose body does.
    """

    fixed: int | None = None
    weighted: int | None = None


ALL = Unrolled()


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """A function traced once.

    Attributes:
        body: its jaxpr; the operands are the leaves of its arguments.
        consts: the floating-point arrays with more than one entry that it closed over, wherever in its calls they stand.
        tree: shapes and dtypes of its outputs, in the tree in which it returns them.
    """

    body: jx.Body
    consts: tuple[Any, ...]
    tree: Any

    @property
    def operands(self) -> list[tuple[tuple[int, ...], Any]]:
        """Shape and dtype of every operand."""
        return [(var.aval.shape, var.aval.dtype) for var in self.body.jaxpr.invars]

    def program(
        self, operands: Sequence[Atom], consts: Sequence[Any] | None = None, unrolled: Unrolled = ALL
    ) -> Program:
        """The flat program on these operands: Vars are inputs, in their order.

        Args:
            operands: an atom for every operand.
            consts: arrays (traced ones too) in place of those that the function closed over.
            unrolled: which scans are unrolled.
        """
        values = self.consts if consts is None else consts
        captured = {
            id(const): Known(const.shape, const.dtype, lambda value=value: value, captured=True)  # type: ignore[misc]
            for const, value in zip(self.consts, values, strict=True)
        }
        flattener = _Flattener(captured, unrolled)
        outputs = flattener.inline(self.body, operands, "", "")
        inputs = tuple(atom for atom in operands if isinstance(atom, Var))
        return Program(inputs, _needed(flattener.equations, outputs), tuple(outputs), self.tree)

    def evaluate(self, operands: Sequence[Any], consts: Sequence[Any]) -> list[Any]:
        """The outputs of the function, loops as loops, for these operands and closed-over arrays."""
        held = {id(const): value for const, value in zip(self.consts, consts, strict=True)}
        return jx.run(self.body, operands, lambda const: held.get(id(const), const))

    @functools.cached_property
    def footprint(self) -> int:
        """The bytes of all intermediate results: what reverse mode may have to keep."""
        return jx.footprint(self.body)

    @functools.cached_property
    def loops(self) -> bool:
        """Whether a scan or a while loop stands in it, which a flat program unrolls."""
        return jx.has_loops(self.body)


def record(f: Callable[..., Any], *args: Any) -> Trace:
    """Calls `f` once with abstract arrays of the shapes of `args` (trees of arrays or `jax.ShapeDtypeStruct`s)."""
    with modules.named():
        body, tree = jx.make(f, *args)
    distinct = {id(const): const for const in jx.constants(body)}
    return Trace(body, tuple(const for const in distinct.values() if _may_be_weight(const)), tree)


def _may_be_weight(const: Any) -> bool:
    return getattr(const, "size", 0) > 1 and jax.numpy.issubdtype(const.dtype, jax.numpy.floating)


def only(program: Program, output: int) -> Program:
    """The program of one of its outputs."""
    atom = program.outputs[output]
    return Program(program.inputs, _needed(program.equations, [atom]), (atom,), program.tree)


def _needed(equations: Sequence[Equation], outputs: Iterable[Atom]) -> tuple[Equation, ...]:
    """The equations that some output depends on, in order."""
    wanted, kept = set(outputs), []
    for equation in reversed(equations):
        if not wanted.isdisjoint(equation.outputs):
            wanted.update(equation.inputs)
            kept.append(equation)
    return tuple(reversed(kept))


class _Flattener:
    """Inlines bodies into one list of equations. Each call gets an environment of its own: JAX shares bodies between calls."""

    def __init__(
        self, captured: Mapping[int, Known], unrolled: Unrolled = ALL, numbers: Iterator[int] | None = None
    ) -> None:
        self.equations: list[Equation] = []
        self.captured, self.longest = captured, unrolled
        self.numbers = itertools.count() if numbers is None else numbers
        self.loops, self.loop = 0, 0  # how many scans there have been, and the number of the outermost around here

    def inline(self, body: jx.Body, operands: Sequence[Atom], layer: str, where: str) -> list[Atom]:
        env: dict[Any, Atom] = dict(zip(body.jaxpr.invars, operands, strict=True))
        for var, const in zip(body.jaxpr.constvars, body.consts, strict=True):
            env[var] = self.captured.get(id(const)) or _constant(const, var.aval)

        def read(atom: Any) -> Atom:
            return _constant(atom.val, atom.aval) if isinstance(atom, jx.Literal) else env[atom]

        for equation in body.equations:
            scope = "/".join(part for part in (layer, jx.scope(equation)) if part)
            inputs = [read(atom) for atom in equation.invars]
            results = self.equation(equation, inputs, scope, where or jx.source_line(equation))
            env.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in body.jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[Atom], layer: str, where: str) -> Sequence[Atom]:
        called = jx.call(equation, inputs)
        if called is not None:
            return self.inline(*called, layer, where)
        if equation.primitive is jx.CUSTOM_JVP and not registry.pointwise(
            self.block(jx.derived(equation), inputs, layer, where)
        ):
            return self.inline(jx.derived(equation), inputs, layer, where)
        if all(isinstance(atom, Known) for atom in inputs):
            return _evaluated(equation, inputs)
        if equation.primitive is jx.SCAN:
            loop = jx.loop(equation)
            shorter = taken_out(loop) if self.takes_out(loop) else None
            if shorter is not None:
                avals = [jax.ShapeDtypeStruct(atom.shape, atom.dtype) for atom in inputs]
                return self.inline(jx.make(shorter, *avals)[0], inputs, layer, where)
            kept = self.kept(loop, inputs, layer, where)
            if kept is None:
                return self.unrolled(loop, inputs, layer, where)
            return self.append(equation, inputs, layer, where, scan=kept)
        if equation.primitive is jx.WHILE:
            return self.while_loop(jx.while_loop(equation), inputs, layer, where)
        if equation.primitive is jx.COND:
            index = inputs[0].concrete if isinstance(inputs[0], Known) else None
            if index is not None:
                return self.inline(jx.branches(equation)[int(index)], inputs[1:], layer, where)
            blocks = tuple(self.block(branch, inputs[1:], layer, where) for branch in jx.branches(equation))
        elif equation.primitive in (jx.CUSTOM_JVP, jx.CUSTOM_VJP):
            blocks = (self.block(jx.derived(equation), inputs, layer, where),)
        elif equation.primitive is jx.LINEAR_SOLVE:
            blocks = (self.solver(equation, inputs, layer, where),)
        else:
            blocks = ()
        return self.append(equation, inputs, layer, where, blocks=blocks)

    def append(self, equation: Any, inputs: Sequence[Atom], layer: str, where: str, **parts: Any) -> tuple[Var, ...]:
        """One more equation, and its results."""
        outputs = tuple(Var(var.aval.shape, var.aval.dtype) for var in equation.outvars)
        flat = Equation(
            equation.primitive,
            tuple(inputs),
            outputs,
            jx.parameters(equation),
            layer,
            where,
            raw=equation,
            loop=self.loop,
            number=next(self.numbers),
            **parts,
        )
        self.equations.append(flat)
        return outputs

    def takes_out(self, loop: jx.Loop) -> bool:
        """Whether it matters that a scan has no weights in its body."""
        fixed, weighted = self.longest.fixed, self.longest.weighted
        return fixed is not None and fixed != weighted and loop.length > fixed

    def kept(self, loop: jx.Loop, inputs: Sequence[Atom], layer: str, where: str) -> Scan | None:
        """A long scan with its body once; None if it is short, or of a body or rows that no closed form can enter."""
        first_row = loop.n_consts + loop.n_carry
        rows = inputs[first_row:]
        steps = [n for n in (self.longest.fixed, self.longest.weighted) if n is not None]
        if loop.length <= min(steps, default=loop.length) or not all(isinstance(row, Var) for row in rows):
            return None
        consts, carry = (
            _fresh(inputs[: loop.n_consts]),
            [Var(a.shape, a.dtype) for a in inputs[loop.n_consts : first_row]],
        )
        fresh: list[Atom] = [*consts, *carry, *(Var(row.shape[1:], row.dtype) for row in rows)]
        inside = _Flattener(self.captured, numbers=self.numbers)
        outputs = inside.inline(loop.body, fresh, layer, where)
        equations = _needed(inside.equations, outputs)
        longest = self.longest.weighted if any(map(weighted, equations)) else self.longest.fixed
        if longest is None or loop.length <= longest or not all(map(_enterable, equations)):
            return None
        return Scan(
            Block(tuple(atom for atom in fresh if isinstance(atom, Var)), equations, tuple(outputs)),
            tuple(i for i, atom in enumerate(consts) if isinstance(atom, Var)),
            loop.n_consts,
            loop.n_carry,
            loop.length,
            loop.reverse,
            tuple(Var((loop.length, *atom.shape), atom.dtype) for atom in carry),
        )

    def unrolled(self, loop: jx.Loop, inputs: list[Atom], layer: str, where: str) -> list[Atom]:
        """A scan, its equations marked as those of one loop."""
        outer = self.loop
        if not outer:
            self.loops += 1
            self.loop = self.loops
        results = self.scan(loop, inputs, layer, where)
        self.loop = outer
        return results

    def scan(self, loop: jx.Loop, inputs: list[Atom], layer: str, where: str) -> list[Atom]:
        consts, carry, scanned = (
            inputs[: loop.n_consts],
            inputs[loop.n_consts : loop.n_consts + loop.n_carry],
            inputs[loop.n_consts + loop.n_carry :],
        )
        steps = range(loop.length)
        rows: list[Sequence[Atom]] = [()] * loop.length
        for i in reversed(steps) if loop.reverse else steps:
            row = [self.apply(lambda a, i=i: a[i], [array], layer, where) for array in scanned]
            results = self.inline(loop.body, [*consts, *carry, *row], layer, where)
            carry, rows[i] = results[: loop.n_carry], results[loop.n_carry :]
        columns = list(zip(*rows, strict=True))
        if not loop.length:  # nothing ran: the stacked results are empty arrays
            avals = [var.aval for var in loop.body.jaxpr.outvars[loop.n_carry :]]
            return [*carry, *(_constant(np.zeros((0, *a.shape), a.dtype), None) for a in avals)]
        return [*carry, *(self.apply(lambda *a: jax.numpy.stack(a), column, layer, where) for column in columns)]

    def while_loop(self, loop: jx.While, inputs: list[Atom], layer: str, where: str) -> list[Atom]:
        tests, consts = inputs[: loop.n_test], inputs[loop.n_test : loop.n_test + loop.n_body]
        carry = inputs[loop.n_test + loop.n_body :]
        for _ in range(MAX_STEPS):
            (going,) = self.inline(loop.test, [*tests, *carry], layer, where)
            flag = going.concrete if isinstance(going, Known) else None
            if flag is None:
                raise DataDependentError(
                    f"the number of steps of a while loop depends on the input{f' (at {where})' if where else ''}; no trace can "
                    "say where such a loop looks. Give it a static number of steps (lax.fori_loop, lax.scan), or measure: "
                    "ej.empirical works where the loop has a derivative of its own (jax.custom_vjp, jax.lax.custom_root)."
                )
            if not flag:
                return carry
            carry = self.inline(loop.body, [*consts, *carry], layer, where)
        raise DataDependentError(f"a while loop did not end within {MAX_STEPS} steps (at {where})")

    def block(self, body: jx.Body, operands: Sequence[Atom], layer: str, where: str) -> Block:
        """A body on fresh variables, kept apart from the equations around it."""
        fresh = _fresh(operands)
        inside = _Flattener(self.captured)
        outputs = inside.inline(body, fresh, layer, where)
        return Block(tuple(fresh), _needed(inside.equations, outputs), tuple(outputs))

    def solver(self, equation: Any, operands: Sequence[Atom], layer: str, where: str) -> Block:
        """The solver of a linear solve, on all the operands of the solve."""
        fresh = _fresh(operands)
        inside = _Flattener(self.captured)
        outputs = inside.inline(*jx.solver(equation, fresh), layer, where)
        return Block(tuple(fresh), _needed(inside.equations, outputs), tuple(outputs))

    def apply(self, f: Callable[..., Any], operands: Sequence[Atom], layer: str, where: str) -> Atom:
        """One array computed from atoms by a small JAX function, flattened like everything else."""
        body, _ = jx.make(f, *(jax.ShapeDtypeStruct(atom.shape, atom.dtype) for atom in operands))
        (result,) = self.inline(body, operands, layer, where)
        return result


def _enterable(equation: Equation) -> bool:
    """Whether an equation of a body has a closed form of its own."""
    if registry.bodies(equation) or not registry.known(equation.primitive):
        return False
    return registry.lookup(equation).moment is not None


def weighted(equation: Equation) -> bool:
    """Whether an equation contracts what depends on the input with a known array."""
    return registry.moment(equation.primitive) is Kind.BILINEAR and any(
        isinstance(atom, Known) for atom in equation.inputs
    )


def _fresh(operands: Sequence[Atom]) -> list[Atom]:
    return [Var(atom.shape, atom.dtype) if isinstance(atom, Var) else atom for atom in operands]


def _constant(value: Any, aval: Any) -> Known:
    shaped = value if aval is None else aval
    return Known(shaped.shape, shaped.dtype, lambda: value)


def _evaluated(equation: Any, inputs: Sequence[Atom]) -> list[Known]:
    """The results of an equation on known operands: evaluated together, when the first of them is asked for."""
    cell: list[Sequence[Any]] = []

    def result(i: int) -> Any:
        if not cell:
            cell.append(registry.evaluate(equation, [atom.value for atom in inputs]))  # type: ignore[union-attr]
        return cell[0][i]

    captured = any(atom.captured for atom in inputs)  # type: ignore[union-attr]
    outputs = tuple(Var(var.aval.shape, var.aval.dtype) for var in equation.outvars)  # their shapes, for rules to read
    origin = Equation(equation.primitive, tuple(inputs), outputs, jx.parameters(equation), raw=equation)
    return [
        Known(v.shape, v.dtype, lambda i=i: result(i), captured, (origin, i))  # type: ignore[misc]
        for i, v in enumerate(outputs)
    ]


def retrace(f: Callable[..., Any], operands: Sequence[Atom]) -> Block:
    """A JAX function of several arrays as a block: its inputs are fresh variables for Vars, the atoms themselves for Knowns."""
    body, _ = jx.make(f, *(jax.ShapeDtypeStruct(atom.shape, atom.dtype) for atom in operands))
    return _Flattener({}).block(body, operands, "", "")
