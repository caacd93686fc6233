"""erfjax: what does a unit of a network really see?

Three readings of one trace of one JAX function: `theoretical` (where it can look, exactly), `analytic` (how much each pixel
counts, in closed form) and `empirical` (how much, measured, with error bars); `compare` says whether they agree.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from erfjax import (
    closed_form,
    errors,
    geometry,
    initializers,
    layers,
    layouts,
    measures,
    plot,
    protocols,
    tracing,
)
from erfjax.agreement import Comparison, compare
from erfjax.decisions.sizing import Match, match, needed
from erfjax.decisions.streaming import Context, context
from erfjax.decisions.tiles import Tiling, tiling
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.growth_laws import Growth, growth
from erfjax.readings.analytic import analytic, analytic_map
from erfjax.readings.empirical import empirical
from erfjax.readings.redrawn import redraw
from erfjax.readings.theoretical import theoretical
from erfjax.reports import Report, report

if TYPE_CHECKING:
    from erfjax import studies

__version__ = "0.1.0"  # the only place: the package metadata is built from it

__all__ = [
    "Comparison",
    "Context",
    "EffectiveField",
    "Growth",
    "Match",
    "Report",
    "TheoreticalField",
    "Tiling",
    "analytic",
    "analytic_map",
    "closed_form",
    "compare",
    "context",
    "empirical",
    "errors",
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


def __getattr__(name: str) -> ModuleType:
    """The studies, imported when they are asked for: who reads a network of their own does not wait for them."""
    if name == "studies":
        return importlib.import_module("erfjax.studies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
