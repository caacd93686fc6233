"""The one call into `empirical` that all protocols make: one unit, one field."""

from typing import Any

from erfjax.errors import UnitError
from erfjax.fields import EffectiveField
from erfjax.readings.empirical import empirical
from erfjax.typing import Function


def measured(f: Function, inputs: Any, **settings: Any) -> EffectiveField:
    """The field that `ej.empirical` measures with these settings.

    Raises:
        UnitError: several units were asked for.
    """
    field = empirical(f, inputs, **settings)
    if not isinstance(field, EffectiveField):
        raise UnitError(f"A protocol measures one unit at a time, but `unit` names {len(field)}: call it for each.")
    return field
