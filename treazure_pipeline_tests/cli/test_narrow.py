"""Commands on a terminal of 80 columns, and without a terminal at all."""

from __future__ import annotations

import io
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from treazure_pipeline.cli import commands
from treazure_pipeline.terminal import output
from treazure_pipeline.terminal.progress import HowFar, bar

COLUMNS = 80


def every_command() -> Iterator[list[str]]:
    """The words that name each command and each group, the whole command line first."""
    found: list[tuple[list[str], click.Command]] = [([], commands)]
    while found:
        words, command = found.pop()
        yield words
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                found.append(([*words, name], inner))


def test_the_help_of_every_command_fits_80_columns_and_cuts_no_sentence() -> None:
    wrong = []
    for words in every_command():
        shown = CliRunner().invoke(commands, [*words, "--help"], env={"COLUMNS": str(COLUMNS)})
        assert shown.exit_code == 0
        for line in shown.output.splitlines():
            cut = line.rstrip().endswith(("...", "\N{HORIZONTAL ELLIPSIS}")) and "Usage:" not in line
            if cut or len(line) > COLUMNS:
                wrong.append((" ".join(words), line))
    assert wrong == []


def test_progress_says_how_much_how_quickly_and_how_long_and_until_there_is_a_total_the_time_that_has_passed() -> None:
    moments = iter(range(1_000))
    progress = bar()
    progress.get_time = lambda: float(next(moments))
    task = progress.add_task("sending", total=None)
    assert HowFar().render(progress.tasks[0]).plain == "0:00:01"
    progress.update(task, total=5_000)
    for _ in range(3):
        progress.update(task, advance=500)
    said = HowFar().render(progress.tasks[0]).plain
    assert said.startswith("30% of 5,000, ")
    assert "/s, 0:00:" in said
    assert said.endswith(" left")


def test_progress_stays_on_one_line_and_whole_however_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = Console(width=COLUMNS, file=io.StringIO())
    monkeypatch.setattr(output, "progress", lambda: narrow)
    progress = bar()
    moments = iter(range(1_000))
    progress.get_time = lambda: next(moments) * 0.3
    task = progress.add_task("club: fetching the points logs", total=20_000_000)
    for _ in range(3):
        progress.update(task, advance=1_234)
    with narrow.capture() as captured:
        narrow.print(progress.get_renderable())
    (line,) = captured.get().splitlines()
    assert line.endswith(" 0% of 20,000,000, 4,113/s, 1:21:02 left")
