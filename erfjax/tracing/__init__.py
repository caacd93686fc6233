"""The trace of a function and the walks over it; teach it a primitive with `register(primitive, Rule(...))`."""

from erfjax.tracing import rules  # noqa: F401  (fills the registry)
from erfjax.tracing.program.equations import Program
from erfjax.tracing.program.flatten import trace
from erfjax.tracing.registry import Rule, register

__all__ = ["Program", "Rule", "register", "trace"]
