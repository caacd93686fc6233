"""What is written down is true: README and docstring examples run, every public name is documented."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Protocol

import jax
import pytest

import erfjax as ej

ROOT = Path(__file__).parents[1]
MODULES = sorted(m.name for m in pkgutil.walk_packages(ej.__path__, "erfjax.") if m.name != "erfjax.__main__")
NAMESPACES = ("measures", "closed_form", "layers", "protocols", "studies", "tracing", "initializers")


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    with jax.enable_x64(False):
        result = doctest.testmod(importlib.import_module(module), optionflags=flags)
    assert result.failed == 0


def blocks():
    """The Python code of the README, one piece per block."""
    text = (ROOT / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_readme_code_runs(capsys):
    assert blocks()
    space: dict = {}
    for code in blocks():
        exec(compile(code, "README.md", "exec"), space)
        said = [line.split("  # ")[1] for line in code.splitlines() if line.startswith("print(")]
        assert capsys.readouterr().out.splitlines() == said  # the comment behind a print is what it prints


def public():
    """Every public function and class with the name that users write."""
    spaces = [("ej", ej), *((f"ej.{name}", getattr(ej, name)) for name in NAMESPACES if hasattr(ej, name))]
    for prefix, space in spaces:
        for name in getattr(space, "__all__", [n for n in vars(space) if not n.startswith("_")]):
            value = getattr(space, name)
            own = getattr(value, "__module__", "").startswith("erfjax")
            if (inspect.isfunction(value) or inspect.isclass(value)) and own:
                yield f"{prefix}.{name}", value


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in public()])
def test_public_names_are_documented(name, value):
    text = inspect.getdoc(value) or ""
    assert len(text.split()) >= 3
    assert not text.startswith(value.__name__ + "("), "a dataclass without a docstring of its own"
    passive = inspect.isclass(value) and (
        dataclasses.is_dataclass(value) or issubclass(value, Exception | tuple | Protocol)
    )
    assert passive or ">>>" in text, "no example"


def test_changelog_knows_this_version():
    assert f"## {ej.__version__}" in (ROOT / "CHANGELOG.md").read_text()
