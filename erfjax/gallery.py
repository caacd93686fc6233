"""One page of all studies: what each asks, what the paper reports beside what is found, its figure, its numbers, its command.

A study is whatever `studies.BY_NAME` names; the page reads what the results saved, so studies of several runs share it. All
links are relative: the folder may move.
"""

import html
import inspect
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from erfjax import files, studies, summary

INTRODUCTION = """
W. Luo, Y. Li, R. Urtasun and R. Zemel, Understanding the Effective Receptive Field in Deep Convolutional Neural Networks (NeurIPS
2016), reproduced and continued. In every figure lines are closed forms and markers are measurements; where a map is shown,
black is its peak and a dashed contour 4.55 % of it. All sizes are in pixels of the input."""


def gallery(folder: str | os.PathLike[str], failed: Mapping[str, str] | None = None) -> Path:
    """The path of index.html in `folder`, a page of every study that was saved there under its name.

    Args:
        folder: one folder per study, as `erfjax reproduce NAME --out folder` leaves them.
        failed: what went wrong in studies that did not finish, by name.

    Example:
        >>> import tempfile
        >>> from erfjax.gallery import gallery
        >>> gallery(tempfile.mkdtemp(), {"flat": "out of memory"}).read_text().count("out of memory")
        1
    """
    failed = dict(failed or {})
    shown = [name for name in studies.BY_NAME if name in failed or any(_found(folder, name, "*.png", "*.txt"))]
    links = ", ".join(f'<a href="#{quote(name)}">{html.escape(name)}</a>' for name in shown)
    claims = tuple((name, *claim.values()) for name in shown for claim in _claims(folder, name))
    beside = summary.Table("the paper and these runs", ("study", "what", "reported", "here"), claims)
    parts = [_prose(INTRODUCTION), f"<p>Studies: {links}.</p>", beside._repr_html_() if claims else ""]
    parts += [_section(folder, name, failed.get(name)) for name in shown]
    return files.save_text(Path(folder) / "index.html", summary.page("erfjax: the studies", "\n".join(parts)))


def _section(folder: str | os.PathLike[str], name: str, failure: str | None) -> str:
    """Question, command, figures and numbers of one study."""
    said = html.escape(name)
    parts = [f'<h2 id="{quote(name)}">{said}</h2>', _prose(_question(name))]
    parts.append(f"<p><code>erfjax reproduce {said} --out .</code></p>")
    if failure is not None:
        parts.append(f"<p><strong>This run failed:</strong></p>\n<pre>{html.escape(failure)}</pre>")
        if any(_found(folder, name, "*.png", "*.txt")):
            parts.append("<p>What follows is of an earlier run.</p>")
    parts += [
        f'<p><a href="{_link(folder, path)}"><img alt="figure: {said}" src="{_link(folder, path)}"></a></p>'
        for path in _found(folder, name, "*.png")
    ]
    for path in _found(folder, name, "*.txt"):
        text = html.escape(path.read_text(encoding="utf-8"))
        parts.append(f"<details open><summary>numbers</summary><pre>{text}</pre></details>")
    data = ", ".join(
        f'<a href="{_link(folder, path)}">{html.escape(path.name)}</a>'
        for path in _found(folder, name, "*.json", "*.npz")
    )
    return "\n".join([*parts, f"<p>Data: {data}</p>" if data else ""])


def _found(folder: str | os.PathLike[str], name: str, *patterns: str) -> list[Path]:
    """What a study saved, without files that are being written."""
    found = (path for pattern in patterns for path in sorted((Path(folder) / name).glob(pattern)))
    return [path for path in found if not path.name.startswith(".")]


def _link(folder: str | os.PathLike[str], path: Path) -> str:
    return quote(path.relative_to(folder).as_posix())


def _claims(folder: str | os.PathLike[str], name: str) -> list[dict[str, str]]:
    """What a study saved of the paper's claims."""
    found: list[dict[str, str]] = []
    for path in _found(folder, name, "*.json"):
        with files.damaged(path):
            found += json.loads(path.read_text(encoding="utf-8")).get("claims", [])
    return found


def _question(name: str) -> str:
    """What a study says of itself: the docstring of its module."""
    return inspect.getdoc(inspect.getmodule(studies.BY_NAME[name])) or ""


def _prose(text: str) -> str:
    """Paragraphs, list items and code of a docstring as HTML."""
    blocks = re.split(r"\n\s*\n|\n(?=\* |\d\. )", text.strip())
    paragraphs = "\n".join(f"<p>{html.escape(' '.join(block.split()))}</p>" for block in blocks)
    return re.sub("`([^`]+)`", r"<code>\1</code>", paragraphs)
