"""The stack vocabulary: describe a network as a product of layers, then prove, build, trace and measure that same object.

    stack = Conv(3) ** 20
    resnet = (Identity() + Conv(3) * Activation("relu") * Conv(3)) ** 17
    decoder = Dense() * (Identity() + Norm() * Attention(4, "causal")) ** 12

`*` composes (a * b is a, then b), `+` sums branches, `**` repeats, numbers scale.
"""

from erfjax.layers.blocks import Attention, ConvTranspose, Dense, Norm, Upsample
from erfjax.layers.combinations import Identity
from erfjax.layers.gates import ACTIVATIONS
from erfjax.layers.kinds import Activation, AvgPool, Conv, Dropout, MaxPool, SparseConv
from erfjax.layers.plan import Settings
from erfjax.layers.stack import Stack

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Attention",
    "AvgPool",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Identity",
    "MaxPool",
    "Norm",
    "Settings",
    "SparseConv",
    "Stack",
    "Upsample",
]
