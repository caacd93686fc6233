"""The measures of a map by name: which option takes the centre of the theoretical field, and what a table lists."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from erfjax import measures
from erfjax.errors import MapError
from erfjax.typing import Option

_SIZES: dict[str, tuple[Callable[..., Any], str | None]] = {
    "luo": (measures.luo_size, "reference"),
    "sigma": (measures.sigma, None),
    "area_ratio": (measures.area_ratio, "centre"),
    "energy_radius": (measures.energy_radius, None),
    "fwhm": (measures.fwhm, None),
    "effective_area": (measures.effective_area, None),
    "entropy_area": (measures.entropy_area, None),
}
"""Each measure, and the option that takes the centre of the theoretical field."""
LISTED: dict[str, dict[str, Option]] = {
    "luo": {},
    "sigma": {},
    "fwhm": {},
    "energy_radius": {"fraction": 0.9},
    "effective_area": {},
    "entropy_area": {},
}
"""The measures in a table of sizes, and the options they have there."""


def size_reader(
    measure: str, options: dict[str, Option], centre: tuple[int, ...] | None
) -> Callable[[np.ndarray], float]:
    """From a map to one measure of |map|; of one value per axis the root mean square over the axes with more than one pixel.

    Name and options are checked here, once for many maps.

    Args:
        measure: its name.
        options: of the measure.
        centre: the pixel nearest to the centre of the theoretical field, if it is known.

    Raises:
        MapError: no such measure, or options that it does not take or lacks; when called, what the measure says of a map.

    Example:
        >>> import numpy as np
        >>> from erfjax.fields.sizes import size_reader
        >>> size_reader("energy_radius", {"fraction": 0.8}, None)(np.ones((5, 5)))
        2.23606797749979
    """
    if measure not in _SIZES:
        raise MapError(f"`measure` must be one of {', '.join(sorted(_SIZES))}, but got {measure!r}.")
    function, anchor = _SIZES[measure]
    if anchor and centre is not None:
        options = {anchor: centre, **options}
    try:
        inspect.signature(function).bind(None, **options)
    except TypeError as error:
        example = ": give a part of the map such as fraction=0.9" if "fraction" in str(error) else ""
        raise MapError(f"The measure {measure!r} does not take these options ({error}){example}.") from None

    def read(values: np.ndarray) -> float:
        result = function(np.abs(values), **options)
        if not isinstance(result, tuple):
            return float(result)
        extended = [value for value, n in zip(result, values.shape, strict=True) if n > 1] or [0.0]
        return math.sqrt(sum(value**2 for value in extended) / len(extended))

    return read


def nearest_pixel(centre: tuple[float, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The pixel of the map nearest to `centre`, halves rounded up as the centre n // 2 is.

    Example:
        >>> from erfjax.fields.sizes import nearest_pixel
        >>> nearest_pixel((1.5, 9.0), (4, 6))
        (2, 5)
    """
    return tuple(min(max(math.floor(c + 0.5), 0), n - 1) for c, n in zip(centre, shape, strict=True))
