"""`account`: reads one network three times, each time leaving out less of what its field is made of."""

import itertools
import math
from typing import Any

from tqdm import tqdm

from erfjax.accounts.result import Account, Pair
from erfjax.errors import SampleError
from erfjax.fields import EffectiveField
from erfjax.layouts import shaped
from erfjax.readings.analytic import analytic
from erfjax.readings.empirical import empirical
from erfjax.typing import Given

WAYS = ("auto", "closed form", "shuffled gates")


def account(
    f: Given,
    x: Given,
    *,
    unit: Given = None,
    layout: str | None = None,
    out_layout: str | None = None,
    channels: Given = "random-signs",
    coherence: str = "auto",
    locate: bool = False,
    progress: bool | None = None,
) -> Account:
    """What the measured field of a network is made of: variance of its weights, their coherence, dependence of its gates.

    Three readings of the same unit on the same inputs:

    1. *variance of the weights*: every weight is an independent draw of its tensor's variance, `analytic(f, x,
       weights="exchangeable", positions="apart")`;
    2. *coherence of the weights*: the weights as they are, the gates of different layers independent of each other, in closed
       form (`analytic(f, x, weights="given", positions="together")`) or by sampling (`empirical(f, x, gates="shuffled")`);
    3. *dependence of gates*: all of it, `empirical(f, x)`.

    Totals multiply: measured = variance x coherence x dependence. Variances σ² of the map add.

    Args:
        f: a function of one array with one output, usually a trained network.
        x: rows of inputs, two at least.
        unit, layout, out_layout: as in `empirical`; one unit.
        channels: of the unit, the same in all readings.
        coherence: how the second reading is taken: "closed form", "shuffled gates", or "auto", the first where it is affordable.
        locate: whether to say where gates depend on each other: every pair of neighbouring layers is tied in turn, its gates
            taken from one input. It takes one more sampled reading for each pair.
        progress: whether to show a bar; None shows it on a terminal.

    Returns:
        An `Account`.

    Raises:
        SampleError: a list of units, one row alone, or a network too large for the closed form asked for.
        MapError: the unit is dead: its measured map is zero.

    Source: the first reading is W. Luo et al., "Understanding the Effective Receptive Field in Deep CNNs", NeurIPS 2016, section
        2; the other two steps are derived in the documentation, "Two positions together".

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> kernels = jax.random.normal(jax.random.key(0), (3, 3, 4, 4)) / 2
        >>> def f(x):
        ...     for kernel in kernels:
        ...         x = jnp.tanh(jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")))
        ...     return x
        >>> found = ej.account(f, jax.random.normal(jax.random.key(1), (40, 15, 4)), layout="NWC", channels=0)
        >>> [round(factor, 2) > 0 for factor in found.factors]
        [True, True, True]
    """
    if coherence not in WAYS:
        raise SampleError(f"`coherence` must be one of {', '.join(map(repr, WAYS))}, but got {coherence!r}.")
    if isinstance(unit, list):
        raise SampleError("`account` is about one unit: call it for each.")
    x = shaped(x)
    question: dict[str, Any] = {"unit": unit, "layout": layout, "out_layout": out_layout, "channels": channels}
    with tqdm(total=3, unit="reading", disable=None if progress is None else not progress) as bar:
        bar.set_postfix_str("variance of the weights")
        variance = _one(analytic(f, x, weights="exchangeable", positions="apart", **question))
        bar.update()
        bar.set_postfix_str("coherence of the weights")
        coherent, how = _coherent(f, x, coherence, question)
        bar.update()
        bar.set_postfix_str("measured")
        measured = _one(empirical(f, x, progress=False, **question))
        bar.update()
    measured.normalised()  # a map of zeros is made of nothing
    pairs = _pairs(f, x, question, progress) if locate else ()
    return Account(variance, coherent, measured, how, pairs)


def _one(field: Any) -> EffectiveField:
    """The field, if there is one."""
    if not isinstance(field, EffectiveField):
        raise SampleError("`account` is about a function of one array with one output: pick one, lambda x: f(x)[...].")
    return field


def _coherent(f: Any, x: Any, way: str, question: dict[str, Any]) -> tuple[EffectiveField, str]:
    """The second reading, and how it was taken."""
    if way != "shuffled gates":
        try:
            return _one(analytic(f, x, weights="given", positions="together", **question)), "closed form"
        except SampleError:
            if way == "closed form":
                raise
    return _one(empirical(f, x, gates="shuffled", progress=False, **question)), "shuffled gates"


def _pairs(f: Any, x: Any, question: dict[str, Any], progress: bool | None) -> tuple[Pair, ...]:
    """What the total becomes where the gates of two neighbouring layers come from one input."""
    apart = _one(empirical(f, x, gates="shuffled", progress=False, **question))
    layers, gated = int(apart.metadata["layers"]), apart.metadata["gated"]
    found = []
    bar = tqdm(list(itertools.pairwise(gated)), unit="pair", disable=None if progress is None else not progress)
    for first, second in bar:
        groups = [first if layer == second else layer for layer in range(layers)]
        tied = _one(empirical(f, x, gates="shuffled", tied=groups, progress=False, **question))
        low, high = tied.interval("total", relative_to=apart) if apart.samples > 1 else (math.nan, math.nan)
        found.append(Pair((first, second), float(tied.map.sum() / apart.map.sum()), low, high))
    return tuple(found)
