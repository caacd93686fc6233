"""Rows as they are shown: a text table for a terminal, an HTML table for a notebook, plain dicts for everything else.

Nothing is computed here. A result makes a `Table` of itself; the table knows how numbers, sizes and gaps are written, and
`Shown` is what every result has in common: it prints as its tables, and is one line inside of something else.
"""

import base64
import csv
import dataclasses
import html
import io
import math
import numbers
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
 :root {{ color-scheme: light dark; --ink: #161616; --paper: #fff; --line: #d4d4d4; --soft: #5a5a5a; --link: #14508f }}
 @media (prefers-color-scheme: dark) {{
  :root {{ --ink: #ececec; --paper: #151619; --line: #3c3f45; --soft: #a9adb4; --link: #8dbdf2 }}
 }}
 body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem;
  margin: 1.5rem auto; padding: 0 1rem; overflow-wrap: break-word }}
 a {{ color: var(--link) }}
 h1 {{ font-size: 1.5rem; overflow-wrap: anywhere }}
 table {{ border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums }}
 caption {{ text-align: left; font-weight: 600; padding-bottom: .3rem }}
 th, td {{ text-align: left; vertical-align: top; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line) }}
 th {{ font-weight: 600 }}
 th[scope=row] {{ font-weight: 400; color: var(--soft) }}
 img {{ max-width: 100%; height: auto }}
 pre {{ overflow-x: auto; font-size: 12px; line-height: 1.35 }}
 h2 {{ font-size: 1.15rem; margin-top: 2.2rem; border-top: 1px solid var(--line); padding-top: .6rem }}
 figure {{ margin: 0 }}
 figure img {{ background: #fff; border-radius: 3px }}
 figcaption, .soft {{ color: var(--soft); font-size: .9rem }}
 summary {{ cursor: pointer }}
 .definition {{ width: min(28rem, 72vw) }}
 .scroll {{ overflow-x: auto; max-width: 100% }}
 .scroll thead + tbody td {{ white-space: nowrap }}
 .command {{ white-space: pre-wrap; overflow-wrap: break-word }}
 .figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem }}
 @media (max-width: 30rem) {{ th, td {{ padding-right: .5rem }} }}
 @media print {{
  :root {{ --ink: #000; --paper: #fff; --line: #bbb; --soft: #333; --link: #000 }}
  nav {{ display: none }}
  .scroll {{ overflow: visible }}
  figure, tr {{ break-inside: avoid }}
  details::details-content {{ content-visibility: visible; height: auto }}
 }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def cell(value: Any) -> str:
    """A value as it stands in a table: four significant digits, ∞, a dash for nothing, sizes as 3 × 5.

    Example:
        >>> from erfjax.summary import cell
        >>> [cell(v) for v in (8.30662, 41, (7, float("inf")), None, True)]
        ['8.307', '41', '7 × ∞', '–', 'yes']
    """
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return _number(float(value))
    if isinstance(value, list | tuple):
        return " × ".join(cell(v) for v in value)
    return str(value)


def _number(value: float) -> str:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under named columns, with a title and notes; `str()` for a terminal, `_repr_html_` for a notebook.

    Example:
        >>> from erfjax.summary import Table
        >>> print(Table("growth", ("n", "size"), ((5, 8.3066), (10, 11.7047)), notes=("uniform 3 × 3",)))
        growth
          n   size
         --  -----
          5  8.307
         10   11.7
        · uniform 3 × 3
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()

    def _cells(self) -> list[list[str]]:
        return [[cell(value) for value in row] for row in self.rows]

    def _is_text(self, column: int) -> bool:
        return any(isinstance(row[column], str) for row in self.rows)

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(len(text) for text in column) for column in zip(self.columns, *cells, strict=True)]
        left = [self._is_text(i) for i in range(len(self.columns))]

        def line(texts: Sequence[str]) -> str:
            padded = (t.ljust(w) if flush else t.rjust(w) for t, w, flush in zip(texts, widths, left, strict=True))
            return " " + "  ".join(padded).rstrip()

        lines = [self.title] if self.title else []
        if any(self.columns):
            lines += [line(self.columns), line(["-" * width for width in widths])]
        return "\n".join(lines + [line(row) for row in cells] + [f"· {note}" for note in self.notes])

    def _repr_html_(self) -> str:
        headed = any(self.columns)
        heads = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in self.columns)
        head = f"<thead><tr>{heads}</tr></thead>" if headed else ""
        body = "".join(_row(texts, named=not headed) for texts in self._cells())
        title = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f'<table class="erfjax">{title}{head}<tbody>{body}</tbody></table>{notes}'

    def to_dict(self) -> list[dict[str, Any]]:
        """One dict per row, keyed by column, values as they are."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def to_csv(self) -> str:
        """Comma-separated values under a line of column names: numbers in full, sizes as 3 × 5, nothing for a gap.

        Example:
            >>> from erfjax.summary import Table
            >>> print(Table("", ("layer", "size", "σ"), (("a,b", (3, 5), 1 / 3), ("c", 1, None))).to_csv(), end="")
            layer,size,σ
            "a,b",3 × 5,0.3333333333333333
            c,1,
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_plain(value) for value in row] for row in self.rows)
        return text.getvalue()


def _row(texts: Sequence[str], named: bool) -> str:
    """A row of cells in HTML; where there are no column heads, the first cell is the head of its row."""
    cells = [f"<td>{html.escape(text)}</td>" for text in texts]
    if named:
        cells[:1] = [f'<th scope="row">{html.escape(text)}</th>' for text in texts[:1]]
    return f"<tr>{''.join(cells)}</tr>"


def _plain(value: Any) -> Any:
    """A value as it stands in a CSV file."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    return "" if value is None else cell(value)


class Shown:
    """A result that prints as its tables: `str()` for a terminal, `_repr_html_` for a notebook, `repr` in one line.

    A result says what `table()` is, and, if there is more to show, `_tables()`; and in `_brief()` what stands in its `repr`.
    """

    def table(self) -> Table:
        """The table of the result."""
        raise NotImplementedError

    def _tables(self) -> tuple[Table, ...]:
        return (self.table(),)

    def _brief(self) -> str:
        return self.table().title

    def __str__(self) -> str:
        return stack(*self._tables())

    def _repr_html_(self) -> str:
        return stack_html(*self._tables()) + picture(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._brief()})"


def picture(result: Any) -> str:
    """The figure of a result that has one, as an image in HTML; nothing where it cannot be drawn (a map of zeros, say)."""
    if not hasattr(result, "plot"):
        return ""
    buffer = io.BytesIO()
    try:
        result.plot().savefig(buffer, format="png", dpi=72)
    except Exception:  # printing never fails
        return ""
    alt = html.escape(f"figure: {result!r}", quote=True)
    return f'<img alt="{alt}" style="max-width: 100%" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def facts(title: str, pairs: dict[str, Any], notes: Sequence[str] = ()) -> Table:
    """A table without a head: one fact a row, its name on the left.

    Example:
        >>> from erfjax.summary import facts
        >>> print(facts("a field", {"size": (7, 5), "stride": 1}))
        a field
         size    7 × 5
         stride  1
    """
    rows = tuple((name, cell(value)) for name, value in pairs.items())
    return Table(title, ("", ""), rows, tuple(notes))


def axis_names(ndim: int) -> tuple[str, ...]:
    """What the spatial axes of a map are called, in their order.

    Example:
        >>> from erfjax.summary import axis_names
        >>> axis_names(2), axis_names(4)
        (('height', 'width'), ('axis 0', 'axis 1', 'axis 2', 'axis 3'))
    """
    named = {1: ("position",), 2: ("height", "width"), 3: ("depth", "height", "width")}
    return named.get(ndim, tuple(f"axis {axis}" for axis in range(ndim)))


def places(ndim: int) -> str:
    """What a place of an input of so many spatial axes is called: tokens and samples of sound are no pixels."""
    return "positions" if ndim == 1 else "pixels"


def counted(field: Any, units: str | None = None) -> str:
    """What the axes of a field count: `units` if given; else pixels, of one axis tokens (where its layout has L) or positions.

    Example:
        >>> import erfjax as ej
        >>> from erfjax.summary import counted
        >>> [counted((ej.layers.Conv((3,) * n) ** 2).theoretical((9,) * n)) for n in (1, 2)]
        ['positions', 'pixels']
    """
    if units is not None:
        return units
    layout = getattr(field, "metadata", {}).get("layout") or ""
    source = layout if isinstance(layout, str) else layout[0]
    ndim = len(field.map.shape if hasattr(field, "map") else field.image_shape)
    return "tokens" if ndim == 1 and "L" in source else places(ndim)


def along(name: str, units: str) -> str:
    """The label of an axis: its name and what it counts."""
    return name if units == "positions" else f"{name} in {units}"


def unit_of(measure: str, ndim: int) -> str:
    """What a size is counted in: places, or an area of them.

    Example:
        >>> from erfjax.summary import unit_of
        >>> unit_of("sigma", 2), unit_of("effective_area", 2), unit_of("effective_area", 1)
        ('pixels', 'pixels²', 'positions')
    """
    return places(ndim) + ({1: "", 2: "²", 3: "³"}.get(ndim, "ⁿ") if "area" in measure else "")


def stack(*tables: Table) -> str:
    """Several tables as one text, an empty line between them."""
    return "\n\n".join(str(table) for table in tables)


def stack_html(*tables: Table) -> str:
    """Several tables as one piece of HTML."""
    return "".join(table._repr_html_() for table in tables)


def page(title: str, body: str) -> str:
    """A whole HTML page; the title is text, the body HTML.

    Example:
        >>> from erfjax.summary import page
        >>> "<h1>1 &lt; 2</h1>" in page("1 < 2", "<p>so it is</p>")
        True
    """
    return PAGE.format(title=html.escape(title), body=body)


def scrolling(table: Table) -> str:
    """A table in a box of its own, which scrolls where the page is narrow, and its notes below the box.

    Example:
        >>> from erfjax.summary import Table, scrolling
        >>> scrolling(Table("growth", ("n",), ((5,),))).startswith('<div class="scroll"')
        True
    """
    inside = dataclasses.replace(table, notes=())._repr_html_()
    named = f'role="region" tabindex="0" aria-label="{html.escape(table.title or "table", quote=True)}"'
    return f'<div class="scroll" {named}>{inside}</div>{bullets(table.notes)}'


def bullets(texts: Sequence[str]) -> str:
    """Texts as a list in HTML; nothing for none.

    Example:
        >>> from erfjax.summary import bullets
        >>> bullets(["`a` < b"])
        '<ul><li><code>a</code> &lt; b</li></ul>'
    """
    items = (re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text)) for text in texts)
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if texts else ""
