"""What lies between the variables of a cone and the unit: where the mean gradient arrives, and what is nonlinear on its way."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from erfjax.tracing.program.equations import Atom, Known, Scan, Var
from erfjax.tracing.second_moments.activity import IsRandom
from erfjax.tracing.second_moments.kinds import Kind
from erfjax.tracing.second_moments.steps import bends, dependent, kind_of, multiplies, passes
from erfjax.tracing.windows.cone import Cone, Step

MOST_RUNS = 8  # bodies that are compiled for one scan


@dataclasses.dataclass(frozen=True)
class Downstream:
    """What lies between variables and the unit.

    Attributes:
        reached: the variables that the mean gradient reaches, and whether something nonlinear lies between them and the unit.
        runs: for every scan, the same of its body: from a step on, counted from the last, and before another.
    """

    reached: dict[Atom, bool]
    runs: dict[Atom, list[tuple[int, int, dict[Atom, bool]]]]


def nonlinear_downstream(cone: Cone, is_random: IsRandom) -> Downstream:
    """The variables that the mean gradient reaches, and whether something nonlinear lies between them and the unit."""
    found = Downstream(dict.fromkeys(cone.wanted, False), {})
    _reach(cone, is_random, found)
    return found


def _reach(cone: Cone, is_random: IsRandom, found: Downstream) -> dict[Atom, bool]:
    reached = found.reached
    for step in reversed(cone.steps):
        if step.inner is not None:
            _reach_scan(step, step.inner, is_random, found)
            continue
        nonlinear = reached.get(step.output)
        if nonlinear is None or not passes(step):
            continue
        if random_operand(step, is_random) is not None and not nonlinear:
            continue
        curved = bends(step) or multiplies(step)
        for i in dependent(step):
            atom = step.equation.inputs[i]
            reached[atom] = reached.get(atom, False) or nonlinear or curved
    return reached


def _reach_scan(step: Step, inner: Cone, is_random: IsRandom, found: Downstream) -> None:
    """A scan: its last steps may be followed by less than those before them."""
    scan = step.equation.scan
    outputs: dict[Atom, bool] = {o: found.reached[o] for o in step.outputs if o in found.reached}
    assert scan is not None
    if not outputs:
        return
    draws = [inside.output for inside in inner.steps if random_operand(inside, is_random) is not None]
    by_step, first = steps_from_the_end(
        scan, outputs, step.outputs, lambda sent: _reach(inner, is_random, Downstream(sent, {}))
    )
    anywhere: dict[Atom, bool] = {}
    runs: list[tuple[int, int, dict[Atom, bool]]] = []
    for k, here in enumerate(by_step):
        for atom, bent in here.items():
            anywhere[atom] = anywhere.get(atom, False) or bent
        stop = k + 1 if k + 1 < len(by_step) else scan.length
        if runs and all(runs[-1][2].get(z, False) == here.get(z, False) for z in draws):
            runs[-1] = (runs[-1][0], stop, here)
        else:
            runs.append((k, stop, here))
    found.runs[step.output] = runs if len(runs) <= MOST_RUNS else [(0, scan.length, anywhere)]
    found.reached.update(anywhere)
    began = dict(zip(range(len(scan.moving), len(scan.moving) + scan.n_carry), first, strict=True))
    for k, (i, source) in enumerate(zip(scan.places, scan.body.inputs, strict=True)):
        atom, known = step.equation.inputs[i], began.get(k, anywhere.get(source))
        if known is not None:
            found.reached[atom] = found.reached.get(atom, False) or known


def random_operand(step: Step, is_random: IsRandom) -> int | None:
    """The variable that a contraction with random weights acts on; None if the step is no such contraction."""
    if not passes(step) or kind_of(step.equation) is not Kind.BILINEAR:
        return None
    operands = dependent(step)
    known = [i for i, atom in enumerate(step.equation.inputs) if isinstance(atom, Known)]
    return operands[0] if len(operands) == 1 and any(is_random(step.equation, i) for i in known) else None


def steps_from_the_end(
    scan: Scan,
    outputs: Mapping[Atom, bool],
    results: Sequence[Var],
    reach: Callable[[dict[Atom, bool]], dict[Atom, bool]],
) -> tuple[list[dict[Atom, bool]], list[bool | None]]:
    """What a walk backwards knows of the arrays of the body: at the last step, at the one before, ..., until it repeats.

    Also what it knows of the carries before the first step.

    Args:
        scan: the scan.
        outputs: what is known of its results.
        results: these.
        reach: from what is known of outputs of the body to what is known of all its arrays.
    """
    states = scan.body.inputs[len(scan.moving) : len(scan.moving) + scan.n_carry]
    carried = [outputs.get(o) for o in results[: scan.n_carry]]
    stacked = [outputs.get(o) for o in results[scan.n_carry :]]
    found: list[dict[Atom, bool]] = []
    for _ in range(scan.length):
        sent: dict[Atom, bool] = {}
        for atom, known in zip(scan.body.outputs, [*carried, *stacked], strict=True):
            if known is not None and isinstance(atom, Var):
                sent[atom] = sent.get(atom, False) or known
        found.append(reach(sent))
        before, carried = carried, [found[-1].get(atom) for atom in states]
        if carried == before:
            break
    return found, carried
