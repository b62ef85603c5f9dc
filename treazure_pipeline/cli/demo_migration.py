"""The demo's migration part: a programme's points move from Treazure into Engage, in a separate sandbox."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from treazure_pipeline.cli import sandbox
from treazure_pipeline.cli.run import run_balance_sync
from treazure_pipeline.cli.run_migration import run_migration
from treazure_pipeline.settings import load_settings
from treazure_pipeline.terminal import output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from treazure_pipeline.sandbox import Sandbox
    from treazure_pipeline.settings import Settings

_LOYALTY_ID = "CLUB"
_DEFINITION = 7
_HOURS = 3


@contextmanager
def shop(members: int) -> Iterator[Sandbox]:
    """Run a separate sandbox with this many members and some hours of shopping.

    It has no rate limits: at the default of 20 a second, 2,000 histories would take almost two minutes.
    """
    from treazure_pipeline.sandbox import sandbox_process

    arguments = (
        "--members", str(members), "--programme", f"{_LOYALTY_ID}={_DEFINITION}", "--unknown-share", "0",
        "--set", "max_requests_per_second=100000", "--set", "apply_delay=0",
    )  # fmt: skip
    with sandbox_process(*arguments) as box:
        for _ in range(_HOURS):
            box.play_hour(share=0.2)
        yield box


def play(box: Sandbox, members: int) -> dict[str, Any]:
    """Migrate the programme of a `shop`, import its files, audit it; return what `run migration --json` prints.

    Uses the ledger and the Dagster instance of the environment.
    """
    output.note(f"A programme of {members:,} members moves into Engage, in a separate sandbox …")
    began = time.perf_counter()
    settings = _settings(box)
    (programme,) = settings.programmes
    delivered = run_migration(settings, programme)
    if delivered["status"] != "waiting":
        return delivered | {"status": "failed"}
    output.note("The files are delivered, and the audit says: not imported yet. Now Engage imports them.")
    imported = [answer for folder in settings.home.rglob("delivered") for answer in box.import_folder(folder)]
    box.play_hour(share=0.01)
    output.note("Meanwhile some members shop. The hourly sync will send their new balances after the migration.")
    result = run_migration(settings, programme)
    moved = box.differences(_LOYALTY_ID)["differing"]
    synced = run_balance_sync(settings, programme, {})
    box.apply_queue()
    equal = box.differences(_LOYALTY_ID)["equal"]
    _print(
        delivered, imported, result, time.perf_counter() - began, moved=moved, sent=synced.get("sent", 0), equal=equal
    )
    if not equal or synced["status"] != "ok":
        result["status"] = "failed"
    return result


def _settings(box: Sandbox) -> Settings:
    """The demo's own settings, with another sandbox, another programme and no rate limits."""
    return load_settings(
        {
            **{name: value for name, value in os.environ.items() if not name.startswith("PROGRAMME_")},
            **sandbox.settings(int(box.base_url.rsplit(":", 1)[1])),
            "PROGRAMME_NAME": "club",
            "TREAZURE_LOYALTY_ID": _LOYALTY_ID,
            "ENGAGE_DEFINITION_ID": str(_DEFINITION),
            "TREAZURE_MAX_REQUESTS_PER_SECOND": "0",
            "ENGAGE_MAX_REQUESTS_PER_SECOND": "0",
            "MIGRATION_SHARDS": "2",
            "TREAZURE_PIPELINE_TENANT": "moving",  # in Dagster its runs are not those of the demo's own programme
        }
    )


def _print(
    delivered: dict[str, Any],
    imported: list[dict[str, Any]],
    result: dict[str, Any],
    seconds: float,
    *,
    moved: int,
    sent: int,
    equal: bool,
) -> None:
    table = output.table("", "")
    for name, value in {
        "contacts in the roster": delivered["contacts"],
        "movements fetched from their points logs": delivered["movements"],
        "files delivered, with a manifest": delivered["files"],
        "rows in them": delivered["rows"],
        "points in them": delivered["points"],
        "findings a person should look at": delivered["findings"],
        "rows that Engage imported": sum(answer["imported"] for answer in imported),
        "rows that Engage refused": sum(answer["refused"] for answer in imported),
        "balances read back from Engage": result.get("read", 0),
        "of these equal to the cut-off": result.get("equal", 0),
        "the programme is": result["programme_mode"],
        "members that have shopped since the cut-off": moved,
        "balances that the first hourly sync sent": sent,
        "both systems agree": equal,
        "seconds": round(seconds),
    }.items():
        table.add_row(name, value)
    output.say("")
    output.say("A point migration")
    output.console().print(table)
    if "error" in result:
        output.error(result["error"])
