"""erfjax: what does a unit of a network really see?

Three readings of one trace of one JAX function: `theoretical` (where it can look, exactly), `analytic` (how much each pixel
counts, in closed form) and `empirical` (how much, measured, with error bars); `compare` says whether they agree.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from erfjax import (
    closed_form,
    errors,
    geometry,
    initializers,
    layers,
    layouts,
    measures,
    plot,
    tracing,
)
from erfjax.agreement import Comparison, compare
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.measurement.designs import Noise
from erfjax.readings.analytic import analytic, analytic_map
from erfjax.readings.by_layer import by_layer
from erfjax.readings.empirical import empirical
from erfjax.readings.redrawn import redraw
from erfjax.readings.theoretical import theoretical

if TYPE_CHECKING:
    from erfjax import protocols, studies
    from erfjax.accounts import Account, account
    from erfjax.decisions.sizing import Match, match, needed
    from erfjax.decisions.streaming import Context, context
    from erfjax.decisions.tiles import Tiling, tiling
    from erfjax.growth_laws import Growth, growth
    from erfjax.reports import Report, report
    from erfjax.units import EveryUnit, every_unit

__version__ = "0.1.0"  # the only place: the package metadata is built from it

__all__ = [
    "Account",
    "Comparison",
    "Context",
    "EffectiveField",
    "EveryUnit",
    "Growth",
    "Match",
    "Noise",
    "Report",
    "TheoreticalField",
    "Tiling",
    "account",
    "analytic",
    "analytic_map",
    "by_layer",
    "closed_form",
    "compare",
    "context",
    "empirical",
    "errors",
    "every_unit",
    "geometry",
    "growth",
    "initializers",
    "layers",
    "layouts",
    "match",
    "measures",
    "needed",
    "plot",
    "protocols",
    "redraw",
    "report",
    "studies",
    "theoretical",
    "tiling",
    "tracing",
]


_ON_USE = {
    "Account": "accounts",
    "Context": "decisions.streaming",
    "EveryUnit": "units",
    "Growth": "growth_laws",
    "Match": "decisions.sizing",
    "Report": "reports",
    "Tiling": "decisions.tiles",
    "account": "accounts",
    "context": "decisions.streaming",
    "every_unit": "units",
    "growth": "growth_laws",
    "match": "decisions.sizing",
    "needed": "decisions.sizing",
    "protocols": "",
    "report": "reports",
    "studies": "",
    "tiling": "decisions.tiles",
}
"""Where the names are that are imported when they are asked for; "" stands for a package of that name."""


def __getattr__(name: str) -> Any:
    """What a reading alone does not need is imported on use, so that `import erfjax` costs little more than `import jax`."""
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    home = _ON_USE[name]
    found = (
        getattr(importlib.import_module(f"erfjax.{home}"), name) if home else importlib.import_module(f"erfjax.{name}")
    )
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
