"""Ends and strides of fields as numbers: whole ones are integers, and axes that are seen globally are infinite."""

import math
from fractions import Fraction
from typing import Any

from erfjax.typing import Extent


def moved(start: Extent, there: Extent, by: int) -> Extent:
    """How far a start moves per unit, seen on one that is `by` units away; 0 where either is global."""
    return 0 if math.isinf(start) or math.isinf(there) else number((there - start) * by)


def number(value: Any) -> Extent:
    """An int where the value is whole, else a float."""
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def integers(hull: tuple[tuple[Extent, ...], tuple[Extent, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    start, stop = hull
    return tuple(map(int, start)), tuple(map(int, stop))
