"""Tables: what a cell, a text table, an HTML table and a dict look like."""

import csv
import math

import numpy as np
import pytest

from erfjax import summary

TABLE = summary.Table(
    "sizes <1>", ("layer", "size", "σ"), (("conv<1>", (3, 5), 0.81650), ("pool", (4, math.inf), None)), notes=("a & b",)
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (False, "no"),
        (np.bool_(True), "yes"),
        (3, "3"),
        (10**9, "1000000000"),
        (np.int64(7), "7"),
        (0.0, "0"),
        (2.0, "2"),
        (1 / 3, "0.3333"),
        (1.5e-9, "1.5e-09"),
        (np.float32(0.25), "0.25"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (math.nan, "nan"),
        ((3, 5.5), "3 × 5.5"),
        ([1, None], "1 × –"),
        ("as it is", "as it is"),
        (b"bytes", "b'bytes'"),
    ],
)
def test_a_cell(value, text):
    assert summary.cell(value) == text


def test_text_aligns_words_left_and_numbers_right():
    assert str(TABLE).splitlines() == [
        "sizes <1>",
        " layer     size       σ",
        " -------  -----  ------",
        " conv<1>  3 × 5  0.8165",
        " pool     4 × ∞       –",
        "· a & b",
    ]


def test_html_is_escaped():
    html = TABLE._repr_html_()
    assert "<td>conv&lt;1&gt;</td>" in html
    assert "<caption>sizes &lt;1&gt;</caption>" in html
    assert "<p>a &amp; b</p>" in html
    assert html.count("<tr>") == 3


def test_dicts_keep_the_values():
    assert TABLE.to_dict()[1] == {"layer": "pool", "size": (4, math.inf), "σ": None}


def test_facts_have_no_head():
    table = summary.facts("", {"size": (7,), "unit": "(1,)"}, notes=["n"])
    assert str(table) == " size  7\n unit  (1,)\n· n"
    assert "<thead>" not in table._repr_html_()


def test_an_empty_table_prints_its_head():
    assert str(summary.Table("", ("a", "bc"), ())) == " a  bc\n -  --"


def test_tables_stack():
    assert summary.stack(TABLE, TABLE) == f"{TABLE}\n\n{TABLE}"
    assert summary.stack_html(TABLE, TABLE) == 2 * TABLE._repr_html_()


def test_commas_separate_values_that_stay_whole():
    rows = list(csv.reader(TABLE.to_csv().splitlines()))
    assert rows == [["layer", "size", "σ"], ["conv<1>", "3 × 5", "0.8165"], ["pool", "4 × ∞", ""]]
    third = summary.Table("", ("a", "b"), ((1 / 3, np.int64(2)), (True, math.inf)))
    assert list(csv.reader(third.to_csv().splitlines()))[1:] == [[str(1 / 3), "2"], ["yes", "inf"]]


class Both(summary.Shown):
    """A result of two tables."""

    def table(self):
        return TABLE

    def _tables(self):
        return (TABLE, TABLE)


def test_a_result_shows_all_its_tables_and_is_one_line():
    assert str(Both()) == summary.stack(TABLE, TABLE)
    assert Both()._repr_html_() == summary.stack_html(TABLE, TABLE)
    assert repr(Both()) == "Both(sizes <1>)"
