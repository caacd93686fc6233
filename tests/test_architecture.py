"""The arrows of the design: imports go down only, files stay short, internals of JAX stay in quarantine."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "erfjax"
ROWS = (  # from the ground up; boxes on one row do not know each other
    {"errors", "typing"},
    {"files", "jackknife", "calling", "progress"},
    {"geometry", "layouts", "measures", "summary"},
    {"plot", "uncertainty"},
    {"fields"},
    {"closed_form", "initializers"},
    {"tracing"},
    {"measurement"},
    {"readings", "layers"},
    {"accounts", "agreement", "protocols", "growth_laws", "decisions", "units"},
    {"studies"},
    {"reports", "gallery"},
    {"cli"},
    {"__main__", "__init__"},
)
LEVEL = {box: level for level, row in enumerate(ROWS) for box in row}
LONGEST = 400
TRAINED = {
    "studies/_support/residual.py",
    "studies/_support/fitting.py",
}  # the only modules that need the training extra, imported on use
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted(
    path for folder in ("erfjax", "tests", "benchmarks", "notebooks") for path in (ROOT / folder).rglob("*.py")
)


def box_of(name):
    """The box of a dotted name below erfjax; the package itself is `__init__`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path):
    """Every dotted name that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for imported in imports(path):
        if imported.split(".")[0] != "erfjax":
            continue
        other = box_of(imported)
        if other == own or imported == "erfjax.__version__":
            continue
        assert other in LEVEL, f"{imported} is in no box of the design"
        assert LEVEL[other] < LEVEL[own], f"{own} must not know {other}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_what_only_one_module_may_know(path):
    inside = path.relative_to(PACKAGE)
    for imported in imports(path):
        top = imported.split(".")[0]
        assert top not in {"equinox", "haiku", "keras", "torch"}, imported
        assert top not in {"flax", "optax"} or str(inside) in TRAINED, imported
        assert top != "matplotlib" or inside.parts[0] == "plot", "matplotlib belongs to plot"
        assert not imported.startswith(("jax._src", "jax.interpreters", "jax.core.")), f"{imported} is internal to JAX"
        assert not imported.startswith("jax.extend") or str(inside) == "tracing/jaxpr.py", imported
        assert imported != "__future__.annotations", "jaxtyping reads annotations at run time"


OPENS_A_JAXPR = re.compile(r"\.eqns\b|primitive\.bind\(")
READS_PARAMETERS = re.compile(r"\.params(\[|\.get)")
# A rule reads the parameters of its own primitive.
RULES = ("tracing/rules", "tracing/windows/cpu_taps.py", "tracing/windows/fourier.py")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_one_module_opens_jaxprs(path):
    inside = str(path.relative_to(PACKAGE))
    if inside == "tracing/jaxpr.py":
        return
    assert not OPENS_A_JAXPR.findall(path.read_text())
    assert inside.startswith(RULES) or not READS_PARAMETERS.findall(path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_matplotlib_is_imported_on_use(path):
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
        assert not any((imported or "").startswith("matplotlib") for imported in names)


def test_import_leaves_out_what_is_heavy():
    """A fresh process pays for no study, no figure and none of SciPy's larger parts; the studies come when they are asked for."""
    heavy = (
        "erfjax.studies",
        "erfjax.decisions",
        "erfjax.protocols",
        "matplotlib",
        "scipy.stats",
        "scipy.optimize",
        "scipy.signal",
        "scipy.special",
    )
    code = f"""
import sys, erfjax
print([name for name in {heavy} if name in sys.modules], erfjax.studies.growth.__name__, "studies" in dir(erfjax))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[] growth True\n"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_stay_short_and_tidy(path):
    text = path.read_text()
    assert text.count("\n") <= LONGEST or path.name == "layers.py"  # the catalogue of layers is one long table
    markers = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")
    assert not [marker for marker in markers if marker in text]


BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", [path for path in BENCHMARKS if not path.name.startswith("__")], ids=name)
def test_benchmarks_find_what_they_import(path):
    importlib.import_module(f"benchmarks.{path.stem}")


def test_every_module_says_what_it_decides():
    silent = [path for path in MODULES if path.read_text() and not ast.get_docstring(ast.parse(path.read_text()))]
    assert [name(path) for path in silent] == []
