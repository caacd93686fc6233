"""`growth`: reads every network of a family twice, in closed form and by measurement, with the same statistic and channels.

A network is a function, whose weights the measurement draws anew (`redraw`) as its closed form with exchangeable weights
assumes, or a stack, which has a closed form and a sampler of its own.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.calling import explained
from erfjax.errors import SampleError, StackError
from erfjax.fields import EffectiveField
from erfjax.growth_laws.result import Growth, check
from erfjax.layers import Stack
from erfjax.layouts import parse_input, shaped
from erfjax.progress import bar
from erfjax.readings.analytic import analytic
from erfjax.readings.empirical import empirical
from erfjax.readings.redrawn import redraw
from erfjax.typing import Channels, Gates, Given, Progress, Statistic

ROWS = 8  # inputs of a closed form whose gates come from data, where they are drawn by a function
GAUSSIAN = {"abs": math.sqrt(2 / math.pi), "relu": math.sqrt(0.5 / math.pi)}
"""E|g| and E[max(g, 0)] of a normal g, over √E[g²]."""
NORMAL = "E|g| and E[max(g, 0)] are taken from √E[g²] as of normal gradients, which they are for wide networks."


def growth(
    family: Given,
    depths: Given,
    x: Any,
    *,
    layout: str = "NHWC",
    out_layout: str | None = None,
    unit: Any = None,
    channels: Channels = "sum",
    statistic: Statistic = "square",
    gates: Gates = "data",
    measure: str = "luo",
    samples: Given = 100,
    key: Any = None,
    predict: Iterable[int] = (),
    name: str | None = None,
    progress: Progress = None,
    **settings: Any,
) -> Growth:
    """How the effective field of a family of networks grows with depth: in closed form, and measured on drawn weights.

    Args:
        family: n -> a function of an array (from any framework), or n -> a stack of `erfjax.layers`. Of a function the shapes and
            the variances of its weights count, not the numbers: `analytic(f, x, weights="exchangeable")` stands beside
            `empirical(redraw(f), x)`.
        depths: the n to measure, at least two.
        x: inputs, an array of rows or a function key -> input, as in `empirical`; or a dict that gives one of these for
            each depth.
        layout, out_layout, unit: as in `empirical`.
        channels, statistic: the same on both sides. "abs" and "relu" have the closed form of a normal gradient.
        gates: of the closed form of functions; see `analytic`.
        measure: which size; see `EffectiveField.size`.
        samples: draws of weights for each depth, or a dict of them.
        key: of every random number; None is `jax.random.key(0)`.
        predict: further n, for which the closed form alone is computed.
        name: what tables and figures call the family; by default its own name.
        progress: whether to show a bar, or a function that takes lines; None shows a bar on a terminal.
        settings: of the networks of a stack: width, activation, init (see `erfjax.layers.Settings`).

    Returns:
        A `Growth`: print it, `.plot()` it, `.save(folder)` it; sizes in pixels of the input.

    Raises:
        StackError: fewer than two depths, one below 1, or settings for a family of functions.
        SampleError: no input for a depth, or a unit that is dead in all samples.
        MapError: a field without such a size.

    Source: W. Luo et al., "Understanding the Effective Receptive Field in Deep CNNs", NeurIPS 2016, figure 2: √n and 1/√n.

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> kernel = jax.random.normal(jax.random.key(0), (3, 4, 4))
        >>> layer = lambda x: jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        >>> def family(n):
        ...     def f(x):
        ...         for _ in range(n):
        ...             x = layer(x)
        ...         return x
        ...     return f
        >>> x = jnp.ones((1, 41, 4))
        >>> found = ej.growth(family, (2, 4), x, layout="NWC", measure="sigma", samples=20, predict=(16,))
        >>> found.trf, found.predicted[0].sigma()[0].__round__(1)
        ((5.0, 9.0), 2.9)
    """
    if not callable(family):
        raise StackError(f"`family` must be a function n -> network, but got {family!r}.")
    if statistic == "share":
        raise StackError(
            'statistic="share" has no closed form to grow beside: take "square", or measure each depth with '
            '`ej.empirical(..., statistic="share")`.'
        )
    x = shaped(x) if isinstance(x, list) else x
    measured, predicted = _depths(depths), _depths(predict, least=0)
    predicted = tuple(n for n in predicted if n not in measured)
    key = jax.random.key(0) if key is None else key
    reader = _Reader(family, x, layout, out_layout, unit, channels, statistic, gates, settings, key)
    closed: dict[int, EffectiveField] = {}
    found: dict[int, EffectiveField] = {}
    for n in (shown := bar((*measured, *predicted), progress)):
        shown.set_postfix_str(f"{name or ''} n = {n}, closed form".strip())
        with explained(f"`family`, which gives a network for a number of layers, called with n = {n},"):
            network = family(n)
        if not (callable(network) or isinstance(network, Stack)):
            raise StackError(
                f"`family` must give a function of an array, or a stack, for every n, but gave {type(network).__name__} "
                f"at n = {n}."
            )
        closed[n] = reader.closed(network, n)
        if n in measured:
            shown.set_postfix_str(f"{name or ''} n = {n}, measuring".strip())
            found[n] = reader.measured(network, n, samples[n] if isinstance(samples, Mapping) else samples)
    return check(
        Growth(
            name or str(getattr(family, "__name__", type(family).__name__)),
            measured,
            tuple(closed[n] for n in measured),
            tuple(found[n] for n in measured),
            predicted,
            tuple(closed[n] for n in predicted),
            measure,
            {
                "depths": list(measured),
                "predict": list(predicted),
                "layout": layout,
                "out_layout": out_layout,
                "unit": None if unit is None else str(unit),
                "channels": channels,
                "statistic": statistic,
                "gates": gates,
                "measure": measure,
                "samples": {str(n): found[n].samples for n in measured},
                **{name: str(value) for name, value in settings.items()},
            },
        )
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """Both readings of one network, as `growth` is asked for them."""

    family: Any
    x: Any
    layout: str
    out_layout: str | None
    unit: Any
    channels: Channels
    statistic: Statistic
    gates: Gates
    settings: dict[str, Any]
    key: Any

    def inputs(self, n: int) -> Any:
        """What `x` gives for a depth; None if nothing."""
        return self.x.get(n) if isinstance(self.x, Mapping) else self.x

    def closed(self, network: Any, n: int) -> EffectiveField:
        """The closed form."""
        statistic: Any = "rms" if self.statistic in GAUSSIAN else self.statistic
        inputs = self.inputs(n)
        if isinstance(network, Stack):
            shape = (
                None if inputs is None else jax.eval_shape(inputs, self.key).shape if callable(inputs) else inputs.shape
            )
            space = None if shape is None else parse_input(self.layout, shape).space(shape)
            settings = dict(self.settings)
            if shape is not None:
                settings.setdefault("in_channels", shape[self.layout.index("C")])
            options = {"channels": self.channels, "image_shape": space, "unit": self.unit}
            field: Any = network.analytic(statistic, **options, **settings)
        else:
            if self.settings:
                raise StackError(
                    f"Settings ({', '.join(self.settings)}) are of stacks, but the family gives a function at n = {n}: "
                    "build them into it."
                )
            if inputs is None:
                raise SampleError(f"`x` has no inputs for n = {n}: the closed form of a function needs some.")
            rows = self.drawn(inputs) if callable(inputs) else inputs
            field = analytic(
                network,
                rows,
                unit=self.unit,
                layout=self.layout,
                out_layout=self.out_layout,
                statistic=statistic,
                gates=self.gates,
                weights="exchangeable",
                channels=self.channels,
            )
        if self.statistic not in GAUSSIAN:
            return cast(EffectiveField, field)
        return dataclasses.replace(
            field,
            map=GAUSSIAN[self.statistic] * field.map,
            statistic=self.statistic,
            coverage="approximate",
            notes=(*field.notes, NORMAL),
        )

    def drawn(self, draw: Callable[[Any], Any]) -> Any:
        """Some inputs that a function draws, along the batch."""
        batch = self.layout.find("N")
        keys = jax.random.split(jax.random.fold_in(self.key, 0), ROWS if batch >= 0 else 1)
        return jnp.concatenate([draw(key) for key in keys], batch) if batch >= 0 else draw(keys[0])

    def measured(self, network: Any, n: int, samples: Any) -> EffectiveField:
        """The measurement."""
        inputs = self.inputs(n)
        if inputs is None:
            raise SampleError(f"`x` has no inputs for n = {n}: give an array or a function for every depth.")
        g: Any = network.sampler(**self.settings) if isinstance(network, Stack) else redraw(network)
        field: Any = empirical(
            g,
            inputs,
            key=jax.random.fold_in(self.key, n),
            samples=samples,
            unit=self.unit,
            layout=self.layout,
            out_layout=self.out_layout,
            statistic=self.statistic,
            channels=self.channels,
            progress=False,
        )
        if not np.any(field.map):
            raise SampleError(
                f"The unit of the network at n = {n} was dead in all {field.samples} samples, so it has no size: take more "
                "samples, or inputs with bright and dark parts."
            )
        return cast(EffectiveField, field)


def _depths(depths: Given, least: int = 2) -> tuple[int, ...]:
    try:
        result = tuple(sorted({operator.index(n) for n in depths}))
    except TypeError:
        raise StackError(f"Depths must be integers, but got {depths!r}.") from None
    if len(result) < least or (result and result[0] < 1):
        raise StackError(f"Growth needs at least {least} different depths of 1 or more, but got {result}.")
    return result
