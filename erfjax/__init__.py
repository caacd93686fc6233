"""erfjax: what does a unit of a network really see?

Three readings of one trace of one JAX function: `theoretical` (where it can look, exactly), `analytic` (how much each pixel
counts, in closed form) and `empirical` (how much, measured, with error bars); `compare` says whether they agree.
"""

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
    studies,
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
