"""The page of a report: HTML with its figures inside, in the order in which one reads it."""

import base64
import html
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from erfjax import measures, summary
from erfjax.errors import MapError
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.plot import panels
from erfjax.reports import layers as by_depth
from erfjax.reports.doctor import versions
from erfjax.reports.making import Report
from erfjax.reports.words import COVERAGES, SIZES, agreement, in_short, mean_of


def body(made: Report) -> str:
    """The body of the page of a report, without scripts and without anything from elsewhere.

    Example:
        >>> import erfjax as ej, jax, jax.numpy as jnp
        >>> from erfjax.reports.page import body
        >>> made = ej.report(jnp.sin, jax.ShapeDtypeStruct((1, 9, 1), jnp.float32), layout="NWC", samples=4)
        >>> body(made).count("<h2"), "<script" in body(made)
        (7, False)
    """
    parts: tuple[tuple[str, Callable[[Report], str]], ...] = (
        ("At a glance", _glance),
        ("Sizes", _size_table),
        ("Maps", _maps),
        ("Agreement", _agreement),
        ("What it is made of", _account),
        ("Coverage and notes", _notes),
        ("Advice", _advice),
        ("Layers", _layers),
        ("How to reproduce", _reproduce),
    )
    written = [(title, title.lower().replace(" ", "-"), make(made)) for title, make in parts]
    written = [part for part in written if part[2]]
    links = " · ".join(f'<a href="#{anchor}">{title}</a>' for title, anchor, _ in written)
    sections = (
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{title}</h2>\n{text}\n</section>'
        for title, anchor, text in written
    )
    return f'<nav aria-label="parts of the report">{links}</nav>\n<main>\n' + "\n".join(sections) + "\n</main>"


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _figure(drawing: Any, alt: str, caption: str) -> str:
    """A figure as a picture in the page."""
    data = base64.b64encode(panels.as_png(drawing)).decode()
    image = f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _glance(made: Report) -> str:
    """The input with box and contour, and the theoretical field in facts."""
    used, theory = made.measured or made.analytic, made.theoretical
    lines = [f"{name.capitalize()} reading: not possible here. {why}" for name, why in made.refused.items()]
    said = _paragraphs(lines)
    if theory is None:
        return said
    alt = f"The input of {summary.cell(theory.image_shape)} pixels. Unit {theory.unit} can look at {_box(theory)}."
    caption = "Dashed: the theoretical box, padding included."
    if made.inputs.picture is not None:
        caption += " Pale: what the unit cannot see."
    if used is not None and _usable(used):
        alt += f" {_where(used)}"
        caption += " Solid: pixels that count for 4.55 % of the peak or more."
    drawn = used if used is not None and _usable(used) else None
    figure = _figure(panels.input_panel(theory, made.inputs.picture, drawn), alt, caption)
    said += _paragraphs([in_short(theory, used if drawn is not None else None)])
    return f'{said}<div class="figures">{figure}<div>{summary.scrolling(theory.facts())}</div></div>'


def _box(theory: TheoreticalField) -> str:
    size = summary.cell(theory.size)
    said = f"{size} {summary.places(len(theory.size))}"
    return said if all(map(math.isfinite, theory.size)) else f"{said}, ∞ for all of an axis"


def _usable(field: EffectiveField) -> bool:
    return bool(np.isfinite(field.map).all() and field.map.any())


def _where(field: EffectiveField) -> str:
    """Where a map lies, in words."""
    try:
        centre, spread = measures.centroid(np.abs(field.map)), measures.sigma(np.abs(field.map))
    except MapError:
        return "The map is zero everywhere."
    at = ", ".join(f"{c:.1f}" for c in centre)
    noun = summary.places(len(spread))
    return f"The effective field is centred on pixel ({at}), with σ {' × '.join(f'{s:.3g}' for s in spread)} {noun}."


def _size_table(made: Report) -> str:
    """All sizes with intervals, each with its definition behind a click."""
    if not made.sizes:
        return ""
    table = made.table()
    heads = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in table.columns[:-1])
    rows = []
    for measure, cells in zip(made.sizes, table._cells(), strict=True):
        name, definition = (html.escape(text) for text in SIZES[measure])
        named = f"<summary>{name} <small>{cells[-1]}</small></summary>"
        first = f'<th scope="row"><details>{named}<p class="definition">{definition}</p></details></th>'
        rows.append(f"<tr>{first}{''.join(f'<td>{html.escape(text)}</td>' for text in cells[1:-1])}</tr>")
    notes = ["Click a name for its definition."]
    if made.measured is not None and not any(i is not None and i.units for _, i in made.sizes.values()):
        few = (
            "they need two samples, and one was measured"
            if made.measured.samples < 2
            else "see the notes on the measured map"
        )
        notes.append(f"No intervals: {few}.")
    elif made.measured is not None:
        notes.append(
            "An interval holds the true value in 95 % of such measurements; it is about the inputs named below."
        )
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="sizes"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{_paragraphs(notes)}"
    )


def _maps(made: Report) -> str:
    """Maps, error bars and cross-sections."""
    found = []
    fields = {"analytic": made.analytic, "measured": made.measured}
    there = {name: field for name, field in fields.items() if field is not None}
    for name, field in there.items():
        if not _usable(field):
            found.append(f"<p>The {name} map is zero or not finite: the unit is dead, or the gradient diverged.</p>")
            continue
        shape = f"{summary.cell(field.map.shape)} {summary.places(field.map.ndim)}"
        alt = f"Map of the {name} {field.formula}, {shape}. {_where(field)}"
        caption = f"{name.capitalize()}, {mean_of(field)}. Dotted: theoretical box; dashed: 4.55 % of the peak."
        found.append(_figure(panels.map_panel(field, name), alt, caption))
        if field.stderr is not None and np.isfinite(field.stderr).all() and field.stderr.any():
            worst = field.stderr.max() / np.abs(field.map).max()
            alt = f"Map of the standard error, at most {worst:.2g} of the peak of the map."
            found.append(_figure(panels.error_panel(field, "error bars"), alt, "Standard error of every pixel."))
    usable = {name: field for name, field in there.items() if _usable(field)}
    if usable:
        first = next(iter(usable.values()))
        for axis, name in enumerate(summary.axis_names(first.map.ndim)):
            if first.map.shape[axis] > 1:
                alt = f"Cross-sections along {name} of the {' and the '.join(usable)} map. {_where(first)}"
                caption = f"Through the middle of mass, along {name}; bands are ± 2 standard errors."
                found.append(_figure(panels.section_panel(usable, axis, f"along {name}"), alt, caption))
    return f'<div class="figures">{"".join(found)}</div>' if found else ""


def _agreement(made: Report) -> str:
    if made.comparison is None:
        return ""
    table = made.comparison.table()
    text = _paragraphs(agreement(made.comparison)) + summary.bullets(made.comparison.notes)
    return f"{text}<details><summary>All numbers</summary>{summary.scrolling(table)}</details>"


def _account(made: Report) -> str:
    """What the weights and the gates contribute, if it was asked for."""
    if made.account is None:
        return ""
    _, second, third = made.account.factors
    said = (
        f"Independent weights of the same variances would have {1 / (second * third):.3g} times the measured total. The "
        f"coherence of the weights multiplies it by {second:.3g}, the dependence of gates between layers by {third:.3g}."
    )
    alt = f"Cross-sections and totals of three fields: {made.account._brief()}."
    figure = _figure(made.account.plot(), alt, "Variance of the weights, coherence of the weights, all of it.")
    return f"{_paragraphs([said])}{figure}{summary.scrolling(made.account.table())}"


def _notes(made: Report) -> str:
    """What each reading promises, and where not."""
    found = []
    if made.theoretical is not None and made.theoretical.notes:
        found.append(f"<h3>Theoretical</h3>{summary.bullets(made.theoretical.notes)}")
    for name, field in (("Analytic", made.analytic), ("Measured", made.measured)):
        if field is not None:
            said = f"{COVERAGES[field.promise]} It is {mean_of(field)}."
            head = name if field.coverage == "measured" else f"{name}: {field.promise}"
            found.append(f"<h3>{head}</h3>{_paragraphs([said])}{summary.bullets(field.notes)}")
    return "".join(found)


def _advice(made: Report) -> str:
    return "".join(map(summary.scrolling, made.advice))


def _layers(made: Report) -> str:
    """The table per layer, and the phases where the field varies."""
    if made.theoretical is None:
        return ""
    found = ""
    if made.theoretical.layers:
        found = _paragraphs(by_depth.words(made.theoretical, made.by_layer))
        if len(made.by_layer) > 1:
            alt = "Effective and theoretical size of each measured layer, from the input on; the numbers are in the table."
            caption = (
                "Effective (Luo) size with 95 % intervals, theoretical size as steps, and √n through the last layer."
            )
            figure = _figure(panels.growth_panel(made.by_layer, by_depth.MEASURE), alt, caption)
            found += f'<div class="figures">{figure}</div>'
        short, whole = by_depth.glance(made.theoretical, made.by_layer), by_depth.table(made.theoretical, made.by_layer)
        found += summary.scrolling(short)
        if len(short.rows) < len(whole.rows):
            every = summary.scrolling(whole)
            found += f"<details><summary>All {len(whole.rows)} layers</summary>{every}</details>"
    if not made.theoretical.shift_invariant and made.theoretical.phases().rows:
        table = made.theoretical.phases().table()
        found += (
            "<details><summary>The field varies with the unit: its phases</summary>"
            f"<p>After {summary.cell(made.theoretical.phases().period)} units it repeats.</p>{summary.scrolling(table)}</details>"
        )
    return found


def _reproduce(made: Report) -> str:
    facts = summary.facts("settings and versions", {**made.settings, **versions()})
    return f'<pre class="command"><code>{html.escape(made.command)}</code></pre>{summary.scrolling(facts)}'
