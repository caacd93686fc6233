"""What a refusal says to do works: rules are taught and extended as CONTRIBUTING.md shows."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from erfjax.errors import UnsupportedPrimitiveError
from erfjax.tracing import IDENTITY, Kind, Rule, extend, registry

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def test_the_worked_rule_prints_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    space = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), space)
    said = [line.split("  # ")[1] for line in code.splitlines() if line.startswith("print(")]
    assert capsys.readouterr().out.splitlines() == said
    measured = ej.empirical(space["f"], space["x"], layout="L", unit=1)
    np.testing.assert_array_equal(measured.map, ej.analytic(space["f"], space["x"], layout="L", unit=1).map)


def test_a_missing_column_is_named_and_added_without_losing_the_others(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    def f(x):
        return lax.exp2(x)

    rule = registry._RULES[lax.exp2_p]
    registry._RULES[lax.exp2_p] = Rule(hull=rule.hull, restrict=rule.restrict, pointwise=True)
    x = jnp.ones((1, 5, 2))
    with pytest.raises(UnsupportedPrimitiveError, match=r"no `moment` column.*extend\(primitive, moment="):
        ej.analytic(f, x, layout="NWC")
    extend(lax.exp2_p, moment=Kind.GATE)
    assert registry._RULES[lax.exp2_p] == rule
    assert ej.analytic(f, x, layout="NWC").map[2] == pytest.approx(2 * (2 * np.log(2)) ** 2)


def test_what_has_no_rule_is_told_so(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", {k: v for k, v in registry._RULES.items() if k is not lax.exp2_p})
    with pytest.raises(UnsupportedPrimitiveError, match=r"no rule for the primitive `exp2`.*register\(primitive, Rule"):
        ej.theoretical(lambda x: lax.exp2(x), jax.ShapeDtypeStruct((1, 5, 2), jnp.float32), layout="NWC")
    with pytest.raises(UnsupportedPrimitiveError, match="teach it first"):
        extend(lax.exp2_p, moment=Kind.GATE)
    registry.register(lax.exp2_p, Rule(hull=lambda equation, result: [IDENTITY]))
    extend(lax.exp2_p, moment=Kind.GATE)
