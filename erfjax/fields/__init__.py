"""What the three readings return: `TheoreticalField`, where a unit looks, and `EffectiveField`, what a pixel counts.

Both are frozen and complete: the readings fill them in, nothing here computes a receptive field. What is costly and
rarely wanted (phases, masks, layer rows) is handed over as a function without arguments, called when first asked for.
Positions are pixels of the input grid, zero-based, half-open, one entry per spatial axis in the order of the layout.
"""

from erfjax.fields.advice import Advice
from erfjax.fields.effective import EffectiveField
from erfjax.fields.rows import LayerRow, Phase, PhaseTable
from erfjax.fields.theoretical import TheoreticalField

__all__ = ["Advice", "EffectiveField", "LayerRow", "Phase", "PhaseTable", "TheoreticalField"]
