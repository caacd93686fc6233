"""The paper's experiments, each one call that returns a result with `.table()`, `.plot()` and `.save(path)`.

`BY_NAME` is what `erfjax reproduce NAME` knows: the name of a study and the function that runs it with its defaults, first those
of the paper in its order, then those beyond it.
"""

from collections.abc import Callable
from typing import Any

from erfjax.studies import datasets
from erfjax.studies._architecture import ArchitectureResult, architecture
from erfjax.studies._attention import AttentionResult, attention
from erfjax.studies._coverage import CoverageResult, coverage
from erfjax.studies._design import DesignResult, design
from erfjax.studies._flat import FlatResult, flat
from erfjax.studies._growth import GrowthResult, growth
from erfjax.studies._initialisation import InitialisationResult, initialisation
from erfjax.studies._regularisation import RegularisationResult, regularisation
from erfjax.studies._shapes import ShapesResult, shapes
from erfjax.studies._slopes import SlopesResult, slopes
from erfjax.studies._sparse import SparseResult, sparse
from erfjax.studies._training import TrainingResult, training

BY_NAME: dict[str, Callable[..., Any]] = {
    "shapes": shapes,
    "growth": growth,
    "slopes": slopes,
    "architecture": architecture,
    "training": training,
    "initialisation": initialisation,
    "flat": flat,
    "sparse": sparse,
    "regularisation": regularisation,
    "design": design,
    "coverage": coverage,
    "attention": attention,
}

__all__ = [
    "BY_NAME",
    "ArchitectureResult",
    "AttentionResult",
    "CoverageResult",
    "DesignResult",
    "FlatResult",
    "GrowthResult",
    "InitialisationResult",
    "RegularisationResult",
    "ShapesResult",
    "SlopesResult",
    "SparseResult",
    "TrainingResult",
    "architecture",
    "attention",
    "coverage",
    "datasets",
    "design",
    "flat",
    "growth",
    "initialisation",
    "regularisation",
    "shapes",
    "slopes",
    "sparse",
    "training",
]
