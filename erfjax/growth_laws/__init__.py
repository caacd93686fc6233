"""Growth laws of families of networks: how the field of n layers grows with n, in closed form and measured."""

from erfjax.growth_laws.reading import growth
from erfjax.growth_laws.result import Growth, Slope

__all__ = ["Growth", "Slope", "growth"]
