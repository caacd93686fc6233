"""Rows as they are shown: a text table for a terminal, an HTML table for a notebook, plain dicts for everything else.

Nothing is computed here. A result makes a `Table` of itself; the table knows how numbers, sizes and gaps are written, and
`Shown` is what every result has in common: it prints as its tables, and is one line inside of something else.
"""

import csv
import dataclasses
import html
import io
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
 body {{ font: 15px/1.45 system-ui, sans-serif; color: #111; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
 table {{ border-collapse: collapse; margin: 1.2rem 0; font-variant-numeric: tabular-nums }}
 caption {{ text-align: left; font-weight: 600; padding-bottom: .3rem }}
 th, td {{ text-align: left; vertical-align: top; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid #ddd }}
 img {{ max-width: 100% }}
 pre {{ overflow-x: auto; font-size: 12px; line-height: 1.3 }}
 h2 {{ margin-top: 3rem; border-top: 1px solid #111; padding-top: .6rem }}
</style>
<h1>{title}</h1>
{body}
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
        def row(texts: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

        head = f"<thead>{row(self.columns, 'th')}</thead>" if any(self.columns) else ""
        body = "".join(row(texts, "td") for texts in self._cells())
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
        return stack_html(*self._tables())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._brief()})"


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
