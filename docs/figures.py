"""Draws the figures of the documentation into docs/figures: closed forms and small runs. `make docs` runs it."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import erfjax as ej
from erfjax.typing import Figure

FOLDER = Path(__file__).parent / "figures"
CONV, SKIP = ej.layers.Conv(3), ej.layers.Identity()


def fields() -> Figure:
    """A plain and a residual network of one depth, on one scale."""
    networks = {"plain": CONV**20, "residual": (SKIP + CONV) ** 20}
    return ej.plot.fields({name: stack.analytic(image_shape=(61, 61)) for name, stack in networks.items()})


def central_limit() -> Figure:
    """One axis of repeated convolution beside the Gaussian of its mean and variance."""
    drawn = {}
    for n in (2, 5, 20):
        stack = ej.layers.Conv((3,)) ** n
        drawn[f"{n} layers"] = stack.analytic(image_shape=(61,))
    drawn["Gaussian of 20"] = (ej.layers.Conv((3,)) ** 20).gaussian()
    return ej.plot.profile(drawn)


def growth() -> Figure:
    """Theoretical and effective size against depth."""
    layers = {str(n): (CONV**n).analytic(image_shape=(2 * n + 21,) * 2) for n in (1, 2, 5, 10, 20, 40)}
    return ej.plot.depth(layers)


def strides() -> Figure:
    """Where subsampling stands decides the width: early against late, at the same cost in strides."""
    down = ej.layers.Conv(3, stride=2)
    networks = {"stride 2 last": CONV**6 * down, "stride 2 first": down * CONV**6}
    return ej.plot.fields({name: stack.analytic(image_shape=(96, 96)) for name, stack in networks.items()}, ratios=())


def dilations() -> Figure:
    """Dilations without holes and with them, by distance."""

    def chain(*dilations: int) -> ej.layers.Stack:
        stack = ej.layers.Identity()
        for dilation in dilations:
            stack = stack * ej.layers.Conv((3,), dilation=dilation)
        return stack

    networks = {"1, 2, 4": chain(1, 2, 4), "1, 3, 9": chain(1, 3, 9), "2, 2, 2": chain(2, 2, 2)}
    return ej.plot.profile({name: stack.analytic(image_shape=(48,)) for name, stack in networks.items()})


def box() -> Figure:
    """The theoretical box of a unit of a strided network on a photograph."""
    picture = ej.studies.datasets.photograph()[::5, ::4]
    field = (ej.layers.Conv(7, stride=2) * ej.layers.MaxPool(3, stride=2) * CONV**4).theoretical(picture.shape[:2])
    return field.plot(picture)


def effective() -> Figure:
    """One field: its map and its cross-sections beside a Gaussian."""
    return (CONV**12).analytic(image_shape=(48, 64)).plot()


def comparison() -> Figure:
    """Two fields, their difference and their cross-sections."""
    plain, residual = ((stack**12).analytic(image_shape=(41, 41)) for stack in (CONV, SKIP + CONV))
    return ej.compare(plain, residual, labels=("plain", "residual")).plot()


def laws() -> Figure:
    """The growth laws of convolutions with a ReLU: closed form and measured."""

    def family(n: int) -> ej.layers.Stack:
        return (CONV * ej.layers.Activation("relu")) ** n

    x = jax.random.normal(jax.random.key(0), (4, 22, 24, 3))
    return ej.growth(family, (2, 4, 8), x, samples=24, width=6, progress=False).plot()


def tiles() -> Figure:
    """The plan by which an image is computed tile by tile."""
    f = (CONV * ej.layers.MaxPool(2, stride=2) * CONV**2).network(jax.random.key(0), width=2)
    return ej.tiling(f, jax.ShapeDtypeStruct((1, 96, 128, 3), np.float32), tile=(32, 32)).plot()


def levels() -> Figure:
    """Which level of a pyramid fits which object."""
    down = CONV**2 * ej.layers.Conv(3, stride=2)
    pyramid = {f"P{n}": (down**n).analytic(image_shape=(128, 128)) for n in (1, 2, 3)}
    return ej.match(pyramid, (4, 8, 16, 32)).plot()


def reach() -> Figure:
    """How far the layers of a sequence model look back and ahead."""

    def model(x: jax.Array) -> jax.Array:
        for i, ahead in enumerate((0, 1, 2)):
            with jax.named_scope(f"layer{i}"):
                x = jnp.tanh(x + _moved(x, 2**i) + (_moved(x, -ahead) if ahead else 0))
        return x

    return ej.context(model, jax.ShapeDtypeStruct((1, 40, 1), np.float32)).plot()


def _moved(x: jax.Array, by: int) -> jax.Array:
    """A sequence moved along its axis, zeros behind it."""
    pad = jnp.pad(x, ((0, 0), (max(by, 0), max(-by, 0)), (0, 0)))
    return pad[:, : x.shape[1]] if by > 0 else pad[:, -x.shape[1] :]


def attention() -> Figure:
    """The study of transformers at birth, small: decoders with and without a window."""
    names = ["decoder", "window"]
    small = {"tokens": 24, "width": 8, "heads": 2, "samples": 16, "layers": (10, 20, 40)}
    return ej.studies.attention((1, 4), networks=names, progress=False, **small).plot()


DRAWN = (fields, central_limit, growth, strides, dilations, box)
FIGURES: tuple[Callable[[], Figure], ...] = (*DRAWN, effective, comparison, laws, tiles, levels, reach, attention)


def main() -> None:
    """Writes every figure as a PNG of its name."""
    FOLDER.mkdir(exist_ok=True)
    for draw in FIGURES:
        ej.plot.save(draw(), FOLDER / f"{draw.__name__}.png")


if __name__ == "__main__":
    main()
