"""What is released: one version, typed, with every file that is no source named beside its licence."""

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import erfjax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version_everywhere():
    assert PROJECT["dynamic"] == ["version"]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert cited[1] == erfjax.__version__
    assert (
        re.search(r"^license: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)[1] == PROJECT["license"]
    )


def test_the_package_is_typed_and_holds_source_alone():
    files = {path.suffix or path.name for path in (ROOT / "erfjax").rglob("*") if path.is_file()} - {".pyc"}
    assert files <= {".py", ".typed"}
    assert (ROOT / "erfjax" / "py.typed").exists()


def test_every_file_that_is_no_source_has_a_licence():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    source = (".py", ".md", ".toml", ".yml", ".cff", ".ipynb", ".typed")
    other = [name for name in listed if not name.endswith(source) and not name.startswith(".")]
    named = re.findall(r"`([\w/.*-]+)`", (ROOT / "docs/licences.md").read_text())
    assert [name for name in other if name != "Makefile" and not any(fnmatch(name, each) for each in named)] == []


def test_lowest_versions_are_those_of_the_project():
    done = subprocess.run([ROOT / ".ci" / "oldest", "latest"], capture_output=True, text=True, check=True)
    lowest = done.stdout.split()
    assert [line.partition("==")[0] for line in lowest[: len(PROJECT["dependencies"])]] == [
        re.split(r"[>=]", line)[0] for line in PROJECT["dependencies"]
    ]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in lowest)
