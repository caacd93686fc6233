"""Options of the command line: how their values are read, and what the tab key offers."""

import ast
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem


def integers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Numbers separated by commas."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected integers separated by commas, but got {value!r}") from error


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The tab key offers files, for a target or a photograph."""
    return [CompletionItem(incomplete, type="file")]


def studies(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The tab key offers the studies."""
    from erfjax.studies import BY_NAME

    return [name for name in (*BY_NAME, "all") if name.startswith(incomplete)]


def words(*allowed: str) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """Words separated by commas, each of those allowed."""

    def parse(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
        words = tuple(value.split(","))
        if not set(words) <= set(allowed):
            raise click.BadParameter(f"expected {' or '.join(allowed)}, separated by commas, but got {value!r}")
        return words

    return parse


def settings(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is no Python literal is text."""
    found = {}
    for pair in value:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"expected NAME=VALUE, but got {pair!r}")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found
