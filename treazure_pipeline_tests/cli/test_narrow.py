"""Commands on a terminal of 80 columns, and without a terminal at all."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.testing import CliRunner

from treazure_pipeline.cli import commands
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


def test_progress_says_how_much_how_quickly_and_how_long_and_nothing_before_there_is_a_total() -> None:
    moments = iter(range(1_000))
    progress = bar()
    progress.get_time = lambda: float(next(moments))
    task = progress.add_task("sending", total=None)
    assert HowFar().render(progress.tasks[0]).plain == ""
    progress.update(task, total=5_000)
    for _ in range(3):
        progress.update(task, advance=500)
    said = HowFar().render(progress.tasks[0]).plain
    assert said.startswith("1,500 of 5,000, ")
    assert "a second, 0:00:" in said
    assert said.endswith(" left")
