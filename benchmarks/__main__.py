"""`python -m benchmarks [NAME ...]`: runs the benchmarks of those names, or all, and prints their tables."""

import importlib
import pkgutil
import sys

import benchmarks
from benchmarks import harness

HELPERS = {"architectures", "harness", "models", "networks", "__main__"}
BY_NAME_ONLY = {"check", "gpu", "scale"}


def main(names: list[str]) -> None:
    """Runs and prints one benchmark after the other."""
    known = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name not in HELPERS)
    unknown = set(names) - set(known)
    if unknown:
        sys.exit(f"there is no benchmark {', '.join(sorted(unknown))}: choose among {', '.join(known)}")
    for name in names or sorted(set(known) - BY_NAME_ONLY):
        rows = importlib.import_module(f"benchmarks.{name}").rows()
        print(harness.table(name, rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
