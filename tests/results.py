"""Results that tests make by hand: a theoretical field with everything in it, a map, an effective field."""

import math

import numpy as np

from erfjax.fields import EffectiveField, LayerRow, Phase, PhaseTable, TheoreticalField


def theoretical_field():
    """A field with a global axis, phases, a mask and layers, and the list of the parts that were asked for."""
    calls = []

    def layers():
        calls.append("layers")
        return (
            LayerRow("conv <1>", "conv", (1, 9, 12, 4), (3, 5), (1, 1), (1, 2), (3, 2), (6, 7)),
            LayerRow(
                "mean", "reduce", (1, 4), (11, math.inf), (2, math.nan), (3, math.inf), (-3, -math.inf), (8, math.inf)
            ),
        )

    return TheoreticalField(
        unit=(3, 4),
        output_shape=(8, 9),
        image_shape=(30, 40),
        start=(-3, -math.inf),
        stop=(8, math.inf),
        stride=(2, 1),
        padding=(3, math.inf),
        clipped=((0, 0), (8, 40)),
        shift_invariant=False,
        channels=(0, 2),
        notes=("one note",),
        phases_=lambda: PhaseTable((2, 1), (4, 1), (Phase(0, 0, 0, 1, 5), Phase(0, 1, 1, 3, 8), Phase(1, 0, 0, 0, 3))),
        mask_=lambda: np.arange(1200).reshape(30, 40) % 3 == 0,
        layers_=layers,
    ), calls


def gaussian(shape, centre, sigma):
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return np.exp(-0.5 * sum(((t - c) / s) ** 2 for t, c, s in zip(grid, centre, sigma, strict=True)))


def effective(values, **changes):
    plain = {
        "stderr": None,
        "statistic": "square",
        "samples": 0,
        "unit": (1, 2),
        "theoretical": None,
        "coverage": "exact",
    }
    return EffectiveField(values, **{**plain, **changes})
