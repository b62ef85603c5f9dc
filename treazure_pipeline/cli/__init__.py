"""The command ``treazure-pipeline``.

One module per command, imported when needed, so that ``--help`` is quick. What the commands have in common:

- they raise; :class:`Commands` turns what was raised into a message on standard error and an exit code;
- with ``--json`` the last line on standard output is one JSON object, whatever happened;
- text for people goes through :mod:`treazure_pipeline.terminal.output`.

Exit codes: 0 done, 1 unexpected, 2 usage or settings, 3 a guard tripped, 4 busy, 5 a system or the database
could not be used or the run failed, 6 waiting for a person's next step, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by a
terminal that was closed.
"""

from __future__ import annotations

import importlib
import io
import logging
import sys
import traceback
from typing import Any

import click

from treazure_pipeline import __version__
from treazure_pipeline.errors import BusyError
from treazure_pipeline.terminal import output, signals, startup

# In the order of the help: the module, imported only to run its `command`, and the first sentence of its help.
COMMANDS = {
    "demo": (
        "cli.demo",
        "Run everything on a sandbox of both systems, starting from nothing, and show that they agree.",
    ),
    "dev": ("cli.dev", "Run the Dagster UI and daemon on the configured systems until Ctrl-C."),
    "env": ("cli.env", "Print the exports that Dagster's own commands need."),
    "sandbox": ("cli.sandbox", "Run only the sandbox of both systems, with its fault switches (--help lists them)."),
    "doctor": ("cli.doctor", "Check the settings, both systems, the database and Dagster, and say what to fix."),
    "run": ("cli.run", "Run a job once, in the foreground."),
    "status": (
        "cli.status",
        "Show the last window, coverage, rows that are pending, held, refused or rejected, and adjustments.",
    ),
    "plan": ("balance_sync.cli", "Show the plan that waits for approval, or what a push would change now."),
    "approve": ("balance_sync.approve", "Approve the plan with this DIGEST."),
    "explain": (
        "verification.cli",
        "Show everything known about CONTACT's balance, oldest first, and where it stands now.",
    ),
    "rejections": (
        "balance_sync.rejections_cli",
        "List rows that were rejected or refused, retry them, or discard a row of an export.",
    ),
    "adjustments": (
        "adjustments.cli",
        "List adjustments, add some by hand, and retry or discard those that need a person.",
    ),
    "contact": ("retention.cli", "Export everything stored about a contact, or erase its texts."),
    "receiver": (
        "service.cli",
        "Receive Engage's webhooks: POST /webhooks/engage stores adjustments for `run adjustments`.",
    ),
    "console": ("console.cli", "Serve the web console: health, contacts, plans, rejections, adjustments, migration."),
    "worker": ("adjustments.worker", "Process adjustments as they arrive, until stopped."),
    "db": ("cli.db", "Start or stop the embedded database, upgrade the schema, give roles their rights."),
}


class Commands(click.Group):
    """A group that imports its commands lazily. The only place where errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Name the commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _sentence = COMMANDS[cmd_name]
        with startup.importing():
            command: click.Command = importlib.import_module(f"treazure_pipeline.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_module, sentence) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; say what went wrong on standard error and end with its exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            output.note("Stopped.")
            _result(ctx, "failed", "Stopped.")
            ctx.exit(getattr(stopped, "exit_code", 130))
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - the last place that can say anything
            from treazure_pipeline.surroundings import understood

            if (ours := understood(error)) is not None:
                _report(ctx, "busy" if isinstance(ours, BusyError) else "failed", str(ours))
                ctx.exit(ours.exit_code)
            # The error's text is only shown on request: it might contain a secret.
            _report(
                ctx,
                "failed",
                f"Unexpected {type(error).__name__}; this is a bug in treazure-pipeline. "
                "Run `treazure-pipeline --debug` with the same command to see where.",
            )
            if ctx.params["debug"]:
                click.echo(traceback.format_exc(), err=True)
            ctx.exit(1)


def _report(ctx: click.Context, status: str, message: str) -> None:
    output.error(message)
    _result(ctx, status, message)


def _result(ctx: click.Context, status: str, message: str) -> None:
    if ctx.meta.get(output.JSON):
        output.print_json({"status": status, "error": message})


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(version)s")
@click.option("--debug", is_flag=True, help="Log details, and show where an unexpected error came from.")
def commands(*, debug: bool) -> None:
    """Keep the points in Voyado Engage equal to the points in Treazure.

    Settings are read from the environment; `treazure-pipeline doctor` says what is missing.
    """
    handler = logging.StreamHandler()
    if not debug:  # what Dagster logs is in the run's log
        handler.addFilter(lambda record: not hasattr(record, "dagster_meta"))
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=[handler],
    )
    # These log whole addresses, and our own errors say what matters.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)


def main() -> None:
    """Run the command line."""
    signals.listen()
    # A terminal with another encoding shows the characters it lacks as escapes.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    commands(prog_name="treazure-pipeline")
