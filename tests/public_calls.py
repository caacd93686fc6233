"""Public calls with the types that users see: checked by mypy (`make lint`) and pyright (`make wheel`), never run."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import erfjax as ej


def f(x: jax.Array) -> jax.Array:
    return jnp.tanh(x[:, 1:] * x[:, :-1])


x = np.zeros((2, 9, 9, 3), np.float32)
where: ej.TheoreticalField = ej.theoretical(f, x)
several: tuple[ej.TheoreticalField, ...] = ej.theoretical(f, x, unit=[(1, 1), (2, 2)])
size: tuple[float, ...] = where.size
theory: ej.EffectiveField = ej.analytic(f, x, weights="exchangeable")
measured: ej.EffectiveField = ej.empirical(f, x, samples=2)
comparison: ej.Comparison = ej.compare(theory, measured)
verdict: bool | None = comparison.within_chance
each: ej.EveryUnit = ej.every_unit(f, x, step=2)
by_layer: dict[str, ej.EffectiveField] = ej.by_layer(f, x)
luo: float = measured.size("luo")
interval = measured.interval("sigma")
saved: Path = measured.save("field.npz")
again: ej.EffectiveField = ej.EffectiveField.load(saved)
made: ej.Report = ej.report(f, x, task="segment")
page: Path = made.save("report.html")
context: ej.Context = ej.context(f, x)
tiling: ej.Tiling = ej.tiling(f, x[:1], tile=(4, 4))
stack = (ej.layers.Conv(3) * ej.layers.Activation("relu")) ** 3
closed: ej.EffectiveField = stack.analytic(image_shape=(20, 20))
kernel: np.ndarray = ej.closed_form.power(np.ones((3, 3)) / 9, 4)
sigma: tuple[float, ...] = ej.measures.sigma(kernel)
figure = ej.plot.fields({"a": theory})
four: ej.protocols.Protocols = ej.protocols.all(f, x)
