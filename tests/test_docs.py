"""What is written down is true: README, documentation and docstring examples run, every public name is documented."""

import ast
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
NAMESPACES = ("measures", "closed_form", "layers", "plot", "protocols", "studies", "tracing", "initializers")
LISTED = (*NAMESPACES, "errors", "geometry", "layouts")  # in the documentation of the API


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    with jax.enable_x64(False):
        result = doctest.testmod(importlib.import_module(module), optionflags=flags)
    assert result.failed == 0


def blocks(page):
    """The Python code of a page, one piece per block."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def said(code):
    """The comments behind the prints of a block."""
    lines = code.splitlines()
    calls = [node for node in ast.parse(code).body if ast.unparse(node).startswith("print(")]
    return [lines[node.end_lineno - 1].split("  # ", 1)[1] for node in calls]


def named(page):
    return str(page.relative_to(ROOT))


PAGES = sorted((ROOT / "docs").rglob("*.md"))
CODE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(page for page in PAGES if blocks(page))]
OPTIONAL = ("equinox", "flax", "haiku", "keras", "optax", "torch", "torch2jax", "xarray")


@pytest.mark.pages
@pytest.mark.parametrize("page", CODE, ids=named)
def test_code_of_a_page_runs(page, capsys, tmp_path, monkeypatch):
    """One namespace per page; the comment behind a print is what it prints."""
    for name in OPTIONAL:
        if any(re.search(rf"^\s*(import|from) {name}\b", code, flags=re.MULTILINE) for code in blocks(page)):
            pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for code in blocks(page):
        exec(compile(code, named(page), "exec"), space)
        assert capsys.readouterr().out.splitlines() == said(code)


def test_links_between_pages_lead_somewhere():
    """As `mkdocs build --strict` has it, for those who do not build."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{named(page)}: {target}"


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES)


def public(namespaces=NAMESPACES):
    """Every public function and class with the name that users write."""
    spaces = [("ej", ej), *((f"ej.{name}", getattr(ej, name)) for name in namespaces if hasattr(ej, name))]
    for prefix, space in spaces:
        for name in getattr(space, "__all__", [n for n in vars(space) if not n.startswith("_")]):
            value = getattr(space, name)
            home = getattr(value, "__module__", "")
            own = home.startswith("erfjax") if hasattr(space, "__all__") else home == space.__name__
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


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in public(LISTED)])
def test_every_parameter_is_described(name, value):
    described = inspect.getdoc(value).split("Example:")[0] if inspect.isfunction(value) else ""
    asked = inspect.signature(value).parameters if described else ()
    assert [one for one in asked if not re.search(rf"\b{one}\b", described)] == []


def test_public_names_have_an_entry_in_the_documentation():
    listed = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    entries = set(re.findall(r"^::: erfjax\.(\S+)", listed, flags=re.MULTILINE))
    assert [name for name, _ in public(LISTED) if name.removeprefix("ej.") not in entries] == []


def test_changelog_knows_this_version():
    assert f"## {ej.__version__}" in (ROOT / "CHANGELOG.md").read_text()
