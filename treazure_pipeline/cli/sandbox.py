"""``sandbox``: stand-ins for both systems on one port, and the settings that point to them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from treazure_pipeline.database import homes
from treazure_pipeline.sandbox.behavior import API_KEY, CLIENT_ID, CLIENT_SECRET, LOYALTY_ID, WEBHOOK_SECRET
from treazure_pipeline.terminal import instance

PORT = 8790


def command_line(*arguments: str) -> list[str]:
    """The command line of the sandbox's own process."""
    return [sys.executable, "-m", "treazure_pipeline.sandbox", *arguments]


def settings(port: int) -> dict[str, str]:
    """The environment variables for a sandbox on this port of this machine."""
    address = f"http://127.0.0.1:{port}"
    return {
        "TREAZURE_BASE_URL": address,
        "TREAZURE_CLIENT_ID": CLIENT_ID,
        "TREAZURE_CLIENT_SECRET": CLIENT_SECRET,
        "TREAZURE_LOYALTY_ID": LOYALTY_ID,
        "ENGAGE_BASE_URL": address,
        "ENGAGE_API_KEY": API_KEY,
        "ENGAGE_DEFINITION_ID": "1",
        "ENGAGE_WEBHOOK_SECRET": WEBHOOK_SECRET,
    }


# What a process needs from its environment. Everything else may point to production: databases, targets, alerts.
_KEPT = {
    "COLUMNS", "FORCE_COLOR", "HOME", "LANG", "LD_LIBRARY_PATH", "LINES", "LOGNAME", "NO_COLOR", "PATH", "PYTHONPATH",
    "SYSTEMROOT", "TEMP", "TERM", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV",
}  # fmt: skip


def set_apart(name: str) -> Path:
    """Remove everything from the environment that may point to production; return a home below the configured one."""
    given = os.environ.get("TREAZURE_PIPELINE_HOME")
    home = (Path(given).expanduser().absolute() if given else homes.default()) / name
    instance.say_where(home)
    for variable in [name for name in os.environ if name not in _KEPT and not name.startswith("LC_")]:
        del os.environ[variable]
    os.environ["TREAZURE_PIPELINE_HOME"] = str(home)
    return home


@click.command("sandbox", context_settings={"ignore_unknown_options": True}, add_help_option=False, options_metavar="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS]")
def command(arguments: tuple[str, ...]) -> None:
    """Run only the sandbox of both systems, with its fault switches (--help lists them)."""
    from treazure_pipeline.sandbox.__main__ import run

    run(arguments)
