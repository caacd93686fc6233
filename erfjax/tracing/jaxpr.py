"""The quarantine: the only file that touches `jax.extend` or the parameters of call, loop and branch primitives.

JAX promises nothing about the shape of its intermediate language, so everything that has moved between releases is read here
and handed on in a form that does not move:

* a *body* is a pair (open jaxpr, constants), whether JAX calls it `Jaxpr` or `ClosedJaxpr` this year;
* a call is one body; a loop, a while and a branch are small records of bodies and operand counts;
* an equation is evaluated with `jax.core.eval_jaxpr`, never by binding parameters by hand.

Primitives are compared as objects. Their names appear in messages only.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core, source_info_util
from jax.extend.core import primitives

Primitive = core.Primitive
Literal = core.Literal
Equation = Any  # a JaxprEqn; the class itself is not part of the promise

# A call has exactly one body, named by this parameter; the value and the dependence of the call are those of the body.
CALLS: dict[Primitive, str] = {
    primitives.jit_p: "jaxpr",
    primitives.remat_p: "jaxpr",
    primitives.closed_call_p: "call_jaxpr",
    primitives.call_p: "call_jaxpr",
}
LINEAR_SOLVE = primitives.linear_solve_p
REMAT = primitives.remat_p
SCAN, WHILE, COND = primitives.scan_p, primitives.while_p, primitives.cond_p
CUSTOM_JVP, CUSTOM_VJP = primitives.custom_jvp_call_p, primitives.custom_vjp_call_p


def lax_primitive(name: str) -> Primitive | None:
    """The primitive object that this JAX keeps under `name`, or None if this JAX has no such primitive."""
    return next((getattr(home, name) for home in (lax, primitives, lax.linalg) if hasattr(home, name)), None)


def named(names: str) -> list[Primitive]:
    """The primitives of `jax.lax` of these names, without "_p"; names that this JAX does not have are passed over."""
    found = (lax_primitive(f"{name}_p") for name in names.split())
    return [primitive for primitive in found if primitive is not None]


@dataclasses.dataclass(frozen=True)
class Body:
    """An open jaxpr and the constants that close it."""

    jaxpr: Any
    consts: tuple[Any, ...]

    @property
    def equations(self) -> Sequence[Equation]:
        """Its equations, in order."""
        return self.jaxpr.eqns

    @classmethod
    def of(cls, value: Any) -> "Body":
        return cls(getattr(value, "jaxpr", value), tuple(getattr(value, "consts", ())))


@dataclasses.dataclass(frozen=True)
class Loop:
    """A scan: operands are constants, then carries, then scanned arrays; results are carries, then stacked arrays."""

    body: Body
    length: int
    reverse: bool
    n_consts: int
    n_carry: int


@dataclasses.dataclass(frozen=True)
class While:
    """Operands are constants of the test, constants of the body, then the carry."""

    test: Body
    body: Body
    n_test: int
    n_body: int


def make(f: Callable[..., Any], *args: Any) -> tuple[Body, Any]:
    """The jaxpr of `f` at the shapes of `args`, and the tree of shapes that `f` returns."""
    closed, shape = jax.make_jaxpr(f, return_shape=True)(*args)
    return Body.of(closed), shape


def call(equation: Equation, operands: Sequence[Any]) -> tuple[Body, Sequence[Any]] | None:
    """The body of a call that may be inlined and the operands that it takes, or None if the equation is no such call."""
    parameter = CALLS.get(equation.primitive)
    return None if parameter is None else (Body.of(equation.params[parameter]), operands)


def solver(equation: Equation, operands: Sequence[Any]) -> tuple[Body, Sequence[Any]]:
    """What gives a linear solve its value, and its operands: the third of four groups of constants, and the right-hand side.

    Its derivative is not that of this body, which holds the factors constant.
    """
    _, start, stop, end = itertools.accumulate(equation.params["const_lengths"])
    return Body.of(equation.params["jaxprs"].solve), (*operands[start:stop], *operands[end:])


def derived(equation: Equation) -> Body:
    """The body of a function that comes with a derivative of its own."""
    return Body.of(equation.params["call_jaxpr"])


def branches(equation: Equation) -> tuple[Body, ...]:
    """The branches of a cond; its operand 0 is the index of the branch."""
    return tuple(Body.of(branch) for branch in equation.params["branches"])


def loop(equation: Equation) -> Loop:
    params = equation.params
    if "ft_in" in params:  # JAX >= 0.11
        consts, carry, _ = params["ft_in"].unpack()
        n_consts, n_carry = len(list(consts)), len(list(carry))
    else:
        n_consts, n_carry = params["num_consts"], params["num_carry"]
    return Loop(Body.of(params["jaxpr"]), params["length"], params["reverse"], n_consts, n_carry)


def while_loop(equation: Equation) -> While:
    params = equation.params
    return While(
        Body.of(params["cond_jaxpr"]), Body.of(params["body_jaxpr"]), params["cond_nconsts"], params["body_nconsts"]
    )


def evaluate(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """The results of one equation; at once, even inside `jit`, where no operand is traced."""
    inputs, names = [], []
    for atom, value in zip(equation.invars, operands, strict=True):
        if not isinstance(atom, Literal) and atom not in names:
            names.append(atom)
            inputs.append(value)
    jaxpr = core.Jaxpr((), names, equation.outvars, [equation], equation.effects, debug_info=_origin())
    if any(isinstance(value, jax.core.Tracer) for value in inputs):
        return jax.core.eval_jaxpr(jaxpr, (), *inputs)
    with jax.ensure_compile_time_eval():
        return jax.core.eval_jaxpr(jaxpr, (), *inputs)


def bind(equation: Equation, operands: Sequence[Any], **changed: Any) -> Any:
    """The results of the primitive of a flat equation on other operands, with some of its parameters changed."""
    return equation.primitive.bind(*operands, **{**equation.params, **changed})


def call_on_host(function: Callable[..., Any], equation: Equation, operands: Sequence[Any]) -> Any:
    """A NumPy function of the parameters and the operands of an equation."""
    return function(equation.params, *map(np.asarray, operands))


def is_traced(value: Any) -> bool:
    """Whether a value is known to JAX alone (inside `jit` or `grad`), or is of a dtype that NumPy does not have."""
    return isinstance(value, jax.core.Tracer) or is_extended(getattr(value, "dtype", np.dtype(int)))


def is_extended(dtype: Any) -> bool:
    """Whether a dtype is one of JAX's own, such as that of random keys, which NumPy does not have."""
    return jax.dtypes.issubdtype(dtype, jax.dtypes.extended)


@functools.cache
def _origin() -> Any:
    """What JAX asks of every program that is put together: where it comes from; here from nowhere."""
    return Body.of(jax.make_jaxpr(lambda: ())()).jaxpr.debug_info


def parameters(equation: Equation) -> dict[str, Any]:
    """The parameters, with axes and sizes as Python integers: JAX keeps some as NumPy's."""
    return {name: _plain(value) for name, value in equation.params.items()}


def _plain(value: Any) -> Any:
    if hasattr(value, "_fields"):  # dimension numbers are named tuples
        return type(value)(*map(_plain, value))
    if type(value) is tuple:
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, np.integer) else value


def bodies(equation: Equation) -> list[Body]:
    """Every body inside an equation."""
    inner = [v for p in equation.params.values() for v in (p if isinstance(p, tuple) else (p,))]
    return [Body.of(v) for v in inner if hasattr(getattr(v, "jaxpr", v), "eqns")]


def constants(body: Body) -> list[Any]:
    """The constants of a body and of all bodies inside it."""
    inner = [const for equation in body.equations for part in bodies(equation) for const in constants(part)]
    return [*body.consts, *inner]


def run(body: Body, operands: Sequence[Any], replaced: Callable[[Any], Any]) -> list[Any]:
    """The results of a body with other constants; calls are entered, so that the constants inside them are replaced too."""
    env = dict(zip(body.jaxpr.invars, operands, strict=True))
    env.update((var, replaced(const)) for var, const in zip(body.jaxpr.constvars, body.consts, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for equation in body.equations:
        inputs = [read(atom) for atom in equation.invars]
        called = None if equation.primitive is REMAT else call(equation, inputs)
        results = evaluate(equation, inputs) if called is None else run(*called, replaced)
        env.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in body.jaxpr.outvars]


def result_bytes(equation: Equation) -> list[int]:
    """The bytes of every result of an equation."""
    return [math.prod(v.aval.shape) * getattr(v.aval.dtype, "itemsize", 8) for v in equation.outvars]


def footprint(body: Body) -> int:
    """The bytes of all intermediate results of a body: what reverse mode may have to keep."""
    total = 0
    for equation in body.equations:
        inner = [footprint(part) for part in bodies(equation)]
        own = sum(result_bytes(equation))
        total += max(own, equation.params.get("length", 1) * max(inner, default=0))
    return total


def largest(body: Body) -> int:
    """The bytes of the largest result in a body, at any depth."""
    return max((n for e in body.equations for n in (*result_bytes(e), *map(largest, bodies(e)))), default=0)


def batched_products(body: Body) -> list[int]:
    """How many multiplications each dot product with batch axes takes for one index of these, at any depth."""
    found = []
    for equation in body.equations:
        found += [count for part in bodies(equation) for count in batched_products(part)]
        if equation.primitive is lax.dot_general_p and equation.params["dimension_numbers"][1][0]:
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            found.append(math.prod(result[len(batch) :]) * math.prod(left[axis] for axis in contracted))
    return found


def has_loops(body: Body) -> bool:
    """Whether a scan or a while loop stands in a body, at any depth."""
    return any(e.primitive in (SCAN, WHILE) or any(map(has_loops, bodies(e))) for e in body.equations)


def label(equation: Equation) -> str:
    """What people call the operation: the primitive, or the function under a derivative of its own (`relu`)."""
    if equation.primitive in (CUSTOM_JVP, CUSTOM_VJP):
        inner = derived(equation).equations
        if len(inner) == 1 and inner[0].primitive in CALLS:
            return inner[0].params.get("name", str(equation.primitive))
    return str(equation.primitive)


def source_line(equation: Equation) -> str:
    """The user's own line `file:line (function)`, or "" where JAX has lost it."""
    text = source_info_util.summarize(equation.source_info)
    return "" if text == "unknown" else text


def scope(equation: Equation) -> str:
    """The layer path: named scopes, module names; the transformations between them (`vmap`) are left out."""
    return "/".join(part.name for part in equation.source_info.name_stack.stack if type(part).__name__ == "Scope")
