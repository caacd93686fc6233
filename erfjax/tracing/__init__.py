"""The trace of a function and the walks over it; teach it a primitive with `register(primitive, Rule(...))`.

A rule has three columns. `hull` says how each operand is seen, by `View` of one `Along`, `Fixed` or `Lookup` per operand axis
(`WHOLE`: the axis is seen globally; `IDENTITY`: position by position; `SCALAR`: no axes). `restrict`, a `WindowRule`, says how to
evaluate the primitive on windows of its operands. `moment`, a `Kind` or a `Choice`, says what is known of its squared Jacobian.
CONTRIBUTING.md shows one worked rule with all three.
"""

from erfjax.tracing import rules  # noqa: F401  (fills the registry)
from erfjax.tracing.positions.access import IDENTITY, SCALAR, WHOLE, Along, Fixed, Lookup, View
from erfjax.tracing.program.equations import Program
from erfjax.tracing.program.flatten import trace
from erfjax.tracing.registry import Rule, WindowRule, bind, extend, register
from erfjax.tracing.second_moments.kinds import Choice, Kind

__all__ = [
    "IDENTITY",
    "SCALAR",
    "WHOLE",
    "Along",
    "Choice",
    "Fixed",
    "Kind",
    "Lookup",
    "Program",
    "Rule",
    "View",
    "WindowRule",
    "bind",
    "extend",
    "register",
    "trace",
]
