from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from treazure_pipeline.cli import COMMANDS, Commands, commands
from treazure_pipeline.errors import (
    AuthenticationError,
    BusyError,
    Call,
    DatabaseUnavailableError,
    RunIncompleteError,
    SchemaOutdatedError,
    SettingsError,
)
from treazure_pipeline.terminal import output
from treazure_pipeline_tests.cli.conftest import SYSTEMS, Run


def ended(error: BaseException, *options: str, group_options: tuple[str, ...] = ()) -> Result:
    """What the command line does when a command raises this."""

    class Failing(Commands):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:  # noqa: ARG002
            @click.command()
            @output.json_option
            def fail(*, as_json: bool) -> None:  # noqa: ARG001
                raise error

            return fail

    group = Failing(params=commands.params, callback=commands.callback)
    return CliRunner().invoke(group, [*group_options, "fail", *options])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("ENGAGE_API_KEY is missing."), 2),
        (BusyError("Another run is at it."), 4),
        (DatabaseUnavailableError("The database is down."), 5),
        (SchemaOutdatedError("The schema is old.", hint="Run the upgrade."), 5),
        (RunIncompleteError("Engage stayed away."), 5),
        (AuthenticationError("The key is refused.", Call("engage", "GET", "/x", 403)), 5),
    ],
)
def test_an_error_of_ours_is_its_message_and_its_exit_code(error: Exception, code: int) -> None:
    result = ended(error)

    assert result.exit_code == code
    assert str(error) in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_an_error_of_ours_is_json_for_programs() -> None:
    busy = json.loads(ended(BusyError("Another run."), "--json").stdout)
    failed = json.loads(ended(RunIncompleteError("Engage stayed away."), "--json").stdout)

    assert busy == {"status": "busy", "error": "Another run."}
    assert failed == {"status": "failed", "error": "Engage stayed away."}


def test_an_unexpected_error_shows_its_text_only_to_who_asks() -> None:
    result = ended(RuntimeError("postgresql://user:pass-word@db"))
    debugged = ended(RuntimeError("postgresql://user:pass-word@db"), group_options=("--debug",))

    assert result.exit_code == debugged.exit_code == 1
    assert "RuntimeError" in result.stderr
    assert "pass-word" not in result.output
    assert "Traceback" not in result.output
    assert "Traceback" in debugged.stderr


def test_ctrl_c_ends_without_a_traceback() -> None:
    result = ended(KeyboardInterrupt())

    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_wrong_usage_is_exit_code_2() -> None:
    assert CliRunner().invoke(commands, ["nonsense"]).exit_code == 2
    assert CliRunner().invoke(commands, ["db", "start", "--nonsense"]).exit_code == 2


def test_the_help_lists_every_command_with_its_own_first_sentence() -> None:
    result = CliRunner().invoke(commands, ["--help"])

    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    for name, (_module, sentence) in COMMANDS.items():
        command = commands.get_command(click.Context(commands), name)
        assert command is not None
        assert command.get_short_help_str(200) == sentence
        assert f"{name} {sentence}" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("--window-from", "yesterday"),
        ("--window-to", "2020-01-01"),
        ("--window-from", "2020-01-02", "--window-to", "2020-01-01"),
        ("--window-from", "2020-01-01", "--full-resync"),
        ("--programme", "unknown"),
    ],
)
def test_a_mistake_of_usage_is_told_before_there_is_a_run_or_a_database(
    run: Run, home: Path, arguments: tuple[str, ...]
) -> None:
    result = run("run", "balance-sync", *arguments, **SYSTEMS)
    assert result.returncode == 2, result.stderr
    assert not home.exists()
