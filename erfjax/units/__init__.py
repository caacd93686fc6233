"""Every unit by itself: how the size of the measured field varies over the image, at borders and from phase to phase."""

from erfjax.units.reading import every_unit
from erfjax.units.result import EveryUnit

__all__ = ["EveryUnit", "every_unit"]
