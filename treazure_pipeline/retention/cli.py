"""``contact``: exports or erases what is stored about a contact."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import click

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.retention import contacts
from treazure_pipeline.terminal import output
from treazure_pipeline.terminal.ledger import at_ledger

WAITING = 6


@click.group("contact", cls=output.Group)
def command() -> None:
    """Export everything stored about a contact, or erase its texts."""


@command.command()
@click.argument("guid")
def export(*, guid: str) -> None:
    """Print everything that the ledger has about the contact GUID, as one JSON object: its rows by table.

    It does not include files that were exported or delivered, or what Treazure and Engage have.
    """
    contact = _contact(guid)
    with at_ledger() as opened:
        tables = contacts.export(opened.ledger, contact)
    for log in tables["migration_log"]:
        log["body"] = _movements(log["body"], contact)
    click.echo(json.dumps({"contact": contact, "tables": tables}, default=str, indent=1))


@command.command()
@click.argument("guid")
@click.option("--by", required=True, metavar="NAME", help="Who erases, for the record.")
@click.option("--why", required=True, metavar="TEXT", help="Why, for the record.")
@output.json_option
@click.pass_context
def erase(ctx: click.Context, *, guid: str, by: str, why: str, as_json: bool) -> None:
    """Erase the texts about the contact GUID from the ledger: descriptions, comments, bodies and rows as they came.

    Ids, receipts, amounts and times stay, so that nothing can count twice. What waits to be sent keeps its texts; then
    the exit code is 6, and you have to run the command again later. Erase the contact in both systems first.
    """
    contact = _contact(guid)
    with at_ledger() as opened:
        erased = contacts.erase(opened.ledger, contact, by=by, why=why)
    if as_json:
        output.print_json({"status": "waiting" if erased.waiting else "ok", "contact": contact,
                           "erased": erased.blanked, "waiting": erased.waiting})  # fmt: skip
    else:
        output.say(f"Erased in {_counts(erased.blanked)}.")
        if erased.waiting:
            output.say(f"Still needed, so run it again later: {_counts(erased.waiting)}.")
    ctx.exit(WAITING if erased.waiting else 0)


def _counts(rows: dict[str, int]) -> str:
    return ", ".join(f"{table} ({count:,} rows)" for table, count in rows.items()) or "no table: there were no texts"


def _movements(body: str, contact: str) -> list[dict[str, Any]]:
    """Return the contact's movements from a part of the fetched logs."""
    from treazure_pipeline.point_migration import parts

    stored = base64.b64decode(body)
    if not stored:
        return []
    return [row for row in parts.decode(stored).iter_rows(named=True) if row["contact"] == contact]


def _contact(guid: str) -> str:
    try:
        return str(uuid.UUID(guid.strip()))
    except ValueError:
        raise SettingsError("The contact must be a GUID, as both systems show it.") from None
