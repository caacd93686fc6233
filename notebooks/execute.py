"""Runs every notebook of this folder and fails at the first error; with --write their outputs are stored in them.

Metadata that changes from run to run is removed, so that a stored notebook changes only when its results do.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
TIMEOUT = 120  # seconds per cell


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", timeout=TIMEOUT, allow_errors=False, record_timing=False)
    client.execute(cwd=str(FOLDER))
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if {"text/html", "image/png"} & set(output.get("data", ())):
            output["data"].pop("text/plain", None)  # the same once more
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return notebook


def main(write: bool) -> None:
    """Runs all notebooks."""
    os.environ.setdefault("PYTHONPATH", str(FOLDER.parent))
    for path in sorted(FOLDER.glob("*.ipynb")):
        begin = time.perf_counter()
        notebook = execute(path)
        if write:
            nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
