"""How commands print: results for people and programs to standard output, everything else to standard error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from treazure_pipeline import people, phrases

# The key in click's context that says that JSON was asked for.
JSON = "treazure_pipeline.json"

_WHOLE = 10_000
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")

F = TypeVar("F", bound=Callable[..., Any])


class _Plain(Console):
    """Prints text as it is, whoever wrote it: no markup, no emoji codes, no terminal sequences."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(people.printable(text), **options)


class Group(click.Group):
    """A group whose help shows the whole first sentence of each command, however narrow the terminal is."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(_WHOLE)) for name, command in commands if command])


def console() -> Console:
    """Return the console for results: color on a terminal, plain text elsewhere."""
    return _Plain()


def progress() -> Console:
    """Return the console for progress. It is standard error, so that programs can read the results."""
    return _Plain(stderr=True)


def say(message: str) -> None:
    """Print a line of the result as it is."""
    console().print(message, soft_wrap=True)


def verdict(message: str) -> None:
    """Print the line with the verdict, before the figures."""
    console().print(message, style="bold", soft_wrap=True)


class Figures(Table):
    """A table without lines. Its cells are values."""

    def add_row(self, *cells: object, **options: Any) -> None:
        """Add a row of values."""
        super().add_row(*map(cell, cells), **options)


def table(*headings: str, **options: Any) -> Figures:
    """Return an empty table that shows each value as `cell` does."""
    return Figures(*headings, box=None, **options)


def cell(value: object) -> RenderableType:
    """Return a value for a table. Numbers get thousands separators, even if they are texts to stay exact."""
    if isinstance(value, Text):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        return phrases.points(value)
    return f"{value:,}" if isinstance(value, int | float) else str("" if value is None else value)


def error(message: str) -> None:
    """Print to standard error what went wrong."""
    progress().print(Text("Error:", "bold red"), message, soft_wrap=True)


def note(message: str) -> None:
    """Print to standard error what is being done."""
    progress().print(message, style="dim", soft_wrap=True)


def print_json(result: Mapping[str, Any]) -> None:
    """Print a JSON object on one line. Decimals and times become text."""
    click.echo(json.dumps(result, default=str))


def json_option(function: F) -> F:
    """Add ``--json``. The command gets it as ``as_json``, and its failures are printed as JSON too."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:  # noqa: FBT001
        ctx.meta[JSON] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, callback=remember, help="Print one JSON object as the last line of output."
    )(function)
