"""Designs: the search is as good as trying every schedule, and what it finds is what measurement sees."""

import itertools
import math

import pytest

from erfjax.decisions.schedules import Budget, Design, Layer, search
from erfjax.errors import StackError
from erfjax.studies._design import PAPER, design

KERNELS, DILATIONS = (3, 5), (1, 2, 3)


def everything(budget, layers=(), j=1, trf=1, value=0, cost=0.0):
    """Every schedule within a budget, layer by layer: pairs of 12 σ² and the schedule."""
    if layers and budget.depth in (None, len(layers)):
        yield value, layers
    for k, d, s in itertools.product(KERNELS, DILATIONS, (1, 2)):
        step, spent = j * d, cost + k**2 / (j * s) ** 2
        fits = trf + step * (k - 1) <= budget.trf and spent <= budget.cost and j * s <= budget.stride
        close = budget.spacing == "any" or step <= trf
        smooth = budget.spacing != "smooth" or d == 1 or step <= 2 * math.sqrt(value / 12) + 1e-9
        if fits and close and smooth and len(layers) != budget.depth:
            more = value + step**2 * (k**2 - 1)
            yield from everything(budget, (*layers, Layer(k, d, s)), j * s, trf + step * (k - 1), more, spent)


@pytest.mark.parametrize(
    "budget",
    [
        Budget(11, 60, None),
        Budget(13, 40, 3, 2),
        Budget(15, 20, 3, 4, "smooth"),
        Budget(15, 31.5, None, 2, "smooth"),
        Budget(9, 30, 2, 2, "any"),
    ],
)
def test_no_schedule_is_wider_than_the_one_found(budget):
    best = search(budget, kernels=KERNELS, dilations=DILATIONS)[-1]
    tried = {layers: value for value, layers in everything(budget)}
    assert best.sigma == pytest.approx(math.sqrt(max(tried.values()) / 12))
    assert best.layers in tried


def test_cheaper_designs_on_the_frontier_are_narrower():
    found = search(Budget(31, 80, None, 2))
    assert all(a.cost < b.cost and a.sigma < b.sigma for a, b in itertools.pairwise(found))


def test_designs_of_the_paper_have_the_derived_numbers():
    numbers = {name: (found.trf, round(found.sigma, 2)) for name, found in PAPER.items()}
    assert numbers == {
        "dilated 2, 4, 8": (53, 8.0),
        "strided at 5, 10, 15": (71, 8.37),
        "strided at 4, 8, 12": (105, 13.56),
    }
    for found in PAPER.values():
        assert found.stack().theoretical().size == (found.trf, found.trf)
        assert math.sqrt(found.stack().variance()[0]) == pytest.approx(found.sigma)


def test_without_holes_nothing_is_wider_than_flat():
    for trf in (9, 20, 27, 53):
        best = search(Budget(trf, 100))[-1]
        assert best.flatness <= 1 + 1e-12
        assert not (best.stack().theoretical().mask() == 0).any()
    assert search(Budget(27, 27))[-1].flatness == pytest.approx(1.0)


def test_measured_designs_agree_with_their_closed_forms():
    given = {"dilated": Design((Layer(3), Layer(3), Layer(3, 2)))}
    result = design(given, width=8, samples=300, progress=False)
    for rule, one in result.pairs["dilated"].items():
        ratio = one.ratio()
        assert ratio.a == pytest.approx(result.designs("dilated")[rule].sigma)
        assert abs(ratio.b - ratio.a) < 5 * ratio.b_stderr
    assert [row[0] for row in result.table().rows] == ["dilated", "", "", ""]
    assert result.plot().get_size_inches()[0] > 4


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        (Budget(2, 100), {}),
        (Budget(9, 100), {"kernels": ()}),
        (Budget(9, 100, stride=0), {}),
        (Budget(9, 100, depth=0), {}),
        (Budget(9, math.inf), {}),
    ],
)
def test_impossible_budgets_are_refused(budget, options):
    with pytest.raises(StackError):
        search(budget, **options)


@pytest.mark.parametrize("given", [{}, {"empty": Design(())}])
def test_no_designs_are_refused(given):
    with pytest.raises(StackError, match="`given`"):
        design(given)
