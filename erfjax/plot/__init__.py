"""Figures of results: the only module that knows matplotlib, which it imports when something is drawn and not before.

Nothing is computed here beyond what a picture needs (a slice, a normalisation, the sizes of `erfjax.measures`). Functions
return a `matplotlib.figure.Figure` that is not registered with pyplot, so nothing leaks and nothing pops up, and a notebook
shows it as it is; those that take axes of yours (`ax`) draw there and return them. All of it can be read in black and white:
lightness grows or falls along the colour map, and lines differ in dashes and markers, never in colour alone.
"""

from erfjax.plot.boxes import theoretical
from erfjax.plot.canvas import (
    around,
    draw_map,
    draw_section,
    figure,
    gaussian_of,
    line_through,
    middle,
    plane,
    read_image,
    read_pixels,
    save,
)
from erfjax.plot.maps import comparison, effective
from erfjax.plot.side_by_side import depth, fields, profile

__all__ = [
    "around",
    "comparison",
    "depth",
    "draw_map",
    "draw_section",
    "effective",
    "fields",
    "figure",
    "gaussian_of",
    "line_through",
    "middle",
    "plane",
    "profile",
    "read_image",
    "read_pixels",
    "save",
    "theoretical",
]
