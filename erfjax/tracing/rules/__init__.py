"""The rules, one module per family; importing this package fills the registry."""

from erfjax.tracing.rules import (
    contraction,
    convolution,
    elementwise,
    indexing,
    known,
    known_arithmetic,
    known_copies,
    known_structure,
    known_windows,
    known_writes,
    pooling,
    random,
    reduction,
    shape,
)

__all__ = [
    "contraction",
    "convolution",
    "elementwise",
    "indexing",
    "known",
    "known_arithmetic",
    "known_copies",
    "known_structure",
    "known_windows",
    "known_writes",
    "pooling",
    "random",
    "reduction",
    "shape",
]
