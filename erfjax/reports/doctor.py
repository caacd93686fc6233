"""What is installed and how JAX is set up: the first thing to look at when something does not work, and to put into a report."""

import importlib.metadata
import os
import platform
import re

import jax
import numpy as np

from erfjax import summary

REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+)[^;]*;.*extra\s*==\s*['"]([^'"]+)['"]""")
DEVELOPMENT = {"latest", "test", "notebooks", "docs", "lint", "release", "bench", "dev"}  # extras that no user needs
CACHE = "JAX_COMPILATION_CACHE_DIR"


def versions() -> dict[str, str]:
    """The versions that a result depends on.

    Example:
        >>> from erfjax.reports.doctor import versions
        >>> list(versions())
        ['erfjax', 'jax', 'jaxlib', 'numpy', 'Python']
    """
    from erfjax import __version__  # known once all of the package is imported

    return {
        "erfjax": __version__,
        "jax": jax.__version__,
        "jaxlib": _installed("jaxlib") or "not installed",
        "numpy": np.__version__,
        "Python": platform.python_version(),
    }


def doctor() -> summary.Table:
    """Versions, devices, precision, optional packages and the compilation cache, one fact a row.

    Raises:
        RuntimeError: JAX finds no device.

    Example:
        >>> from erfjax.reports.doctor import doctor
        >>> [row[0] for row in doctor().rows][:3]
        ['erfjax', 'jax', 'jaxlib']
    """
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    devices = [f"{device.platform}:{device.id} ({device.device_kind})" for device in jax.devices()]
    pairs = {
        **versions(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "devices": ", ".join(devices),
        "64-bit numbers (jax_enable_x64)": jax.dtypes.canonicalize_dtype(float) == np.float64,
        **{f"extra {name}": said for name, said in extras().items() if name not in DEVELOPMENT},
        "compilation cache": _cache(folder),
    }
    notes = () if folder else (f"To compile every program only once: export {CACHE}=~/.cache/jax",)
    return summary.facts("erfjax doctor", pairs, notes)


def _cache(folder: str | None) -> str:
    """Where compiled programs are kept, and how many there are."""
    if not folder:
        return "off"
    try:
        count = sum(name.endswith("-cache") for name in os.listdir(folder))
    except OSError:
        return f"{folder}, nothing in it yet"
    least = getattr(jax.config, "jax_persistent_cache_min_compile_time_secs", None)
    return f"{folder}, {count} programs" + ("" if least is None else f"; kept if they took {least:g} s to compile")


def extras() -> dict[str, str]:
    """By extra of erfjax, its packages with their versions, or the line that installs those that are missing."""
    try:
        required = importlib.metadata.requires("erfjax") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for match in filter(None, map(REQUIREMENT.match, required)):
        name, extra = match.groups()
        if name != "erfjax":
            found.setdefault(extra, []).append(name)
    return {extra: _extra(extra, names) for extra, names in found.items()}


def _extra(extra: str, names: list[str]) -> str:
    present = {name: _installed(name) for name in names}
    missing = [name for name, version in present.items() if version is None]
    said = ", ".join(f"{name} {version}" for name, version in present.items() if version is not None)
    lacks = f"missing {', '.join(missing)}: pip install 'erfjax[{extra}]'" if missing else ""
    return "; ".join(filter(None, (said, lacks)))


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
