"""Draws the figures of the documentation into docs/figures: closed forms, so it takes seconds. `make docs` runs it."""

from collections.abc import Callable
from pathlib import Path

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


FIGURES: tuple[Callable[[], Figure], ...] = (fields, central_limit, growth, strides, dilations, box)


def main() -> None:
    """Writes every figure as a PNG of its name."""
    FOLDER.mkdir(exist_ok=True)
    for draw in FIGURES:
        ej.plot.save(draw(), FOLDER / f"{draw.__name__}.png")


if __name__ == "__main__":
    main()
