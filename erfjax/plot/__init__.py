"""Figures of results: the only module that knows matplotlib, which it imports when something is drawn and not before.

Nothing is computed here beyond what a picture needs (a slice, a normalisation, the Gaussian with a map's own σ). Every
function returns a `matplotlib.figure.Figure` that is not registered with pyplot, so nothing leaks and nothing pops up; a
notebook shows it as it is. All of it can be read in black and white: lightness grows or falls along the colour map, and lines
differ in dashes and markers, never in colour alone.
"""

from erfjax.plot.beyond import design, flat, initialisation, regularisation, sparse
from erfjax.plot.canvas import (
    around,
    draw_map,
    draw_section,
    figure,
    gaussian_of,
    line_through,
    middle,
    moments,
    plane,
    read_image,
    read_pixels,
    save,
)
from erfjax.plot.experiments import architecture, shapes, slopes
from erfjax.plot.learning import training
from erfjax.plot.maps import comparison, effective, theoretical
from erfjax.plot.studies import growth

__all__ = [
    "architecture",
    "around",
    "comparison",
    "design",
    "draw_map",
    "draw_section",
    "effective",
    "figure",
    "flat",
    "gaussian_of",
    "growth",
    "initialisation",
    "line_through",
    "middle",
    "moments",
    "plane",
    "read_image",
    "read_pixels",
    "regularisation",
    "save",
    "shapes",
    "slopes",
    "sparse",
    "theoretical",
    "training",
]
