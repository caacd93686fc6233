"""Other people's definitions, to the letter: measure as they did, to compare with the numbers that they published.

Each protocol has a part that acts on maps alone and a part that measures; each result prints itself. What a protocol does
that one would not do today is named in its docstring and kept. For new work use `ej.empirical` and `ej.measures`.
"""

from erfjax.protocols._all import Protocols, all
from erfjax.protocols._luo2016 import LuoGrowth, luo2016, luo_map
from erfjax.protocols._openerf import OpenERF, openerf, radial_metrics
from erfjax.protocols._replknet import RepLKNet, replknet, replknet_squares
from erfjax.protocols._unet_study import UNetStudy, erf_rate, unet_map, unet_study

__all__ = [
    "LuoGrowth",
    "OpenERF",
    "Protocols",
    "RepLKNet",
    "UNetStudy",
    "all",
    "erf_rate",
    "luo2016",
    "luo_map",
    "openerf",
    "radial_metrics",
    "replknet",
    "replknet_squares",
    "unet_map",
    "unet_study",
]
