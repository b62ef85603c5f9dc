"""``adjustments``: what a person can do with the queue."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.padding import Padding

from treazure_pipeline import people, phrases
from treazure_pipeline.adjustments import dead_letters as unread
from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import SenselessError, sense
from treazure_pipeline.adjustments.queue import Received
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger import frames
from treazure_pipeline.tables import CsvFile, Row, WrongLine, shown
from treazure_pipeline.terminal import output, user
from treazure_pipeline.terminal.ledger import at_ledger

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = {
    "contact": ("contact", "contactid"),
    "amount": ("amount",),
    "definition_id": ("definitionid", "definition", "pointdefinitionid"),
    "description": ("description",),
}
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
STATES = ("received", "queued", "sending", "posted", "done", "rejected", "uncertain", "discarded")


@click.group("adjustments", cls=output.Group)
def command() -> None:
    """List adjustments, add some by hand, and retry or discard those that need a person."""


@command.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only these (repeatable).")
@click.option("--limit", default=50, show_default=True, help="At most this many, the newest.")
@output.json_option
def list_(*, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Show adjustments, newest first, and dead letters, which are deliveries that could not be read."""
    with at_ledger() as opened:
        ledger = opened.ledger
        rows = _rows(frames.adjustments(ledger, states or None, limit=limit))
        letters = _rows(frames.dead_letters(ledger, limit=limit))
        counts = queue.figures(ledger)
    if as_json:
        output.print_json({"status": "ok", "states": {state: getattr(counts, state) for state in STATES},
                           "adjustments": rows, "dead_letters": letters})  # fmt: skip
        return
    output.verdict(_verdict(counts))
    for row in rows:
        points = "" if row["amount"] is None else f"  {phrases.change(row['amount'])} points"
        _print(_shown(row), f"{row['id']}  {row['state']}{points}")
    if letters:
        output.say("\nDead letters (their bodies are in the table dead_letter):")
    for row in letters:
        _print(row, str(row["id"]))


@command.command()
@click.option("--contact", help="The contact's GUID.")
@click.option("--amount", help="Points to add; negative to take points away.")
@click.option("--definition-id", type=int, default=1, show_default=True, help="Engage's point definition.")
@click.option("--description", default="", help="The text Treazure shows, cut to 100 characters.")
@click.option(
    "--csv",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with several: columns contact, amount, definition_id, description, separated by commas, semicolons or tabs.",
)
@click.option(
    "--reference",
    help="A name for this addition. What was added under the same name is not added twice. Default: a new one each time.",
)
@click.option("--yes", is_flag=True, help="Add them. Without it they are only checked and shown.")
@output.json_option
@click.pass_context
def add(
    ctx: click.Context,
    *,
    contact: str | None,
    amount: str | None,
    definition_id: int,
    description: str,
    path: Path | None,
    reference: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Add adjustments by hand or from a CSV file. Without --yes, they are only checked and shown."""
    given: list[Row | WrongLine] = (
        list(CsvFile(str(path), _COLUMNS, needed=("contact", "amount")).rows())
        if path
        else [Row(0, dict(zip(_COLUMNS, (contact or "", amount or "", str(definition_id), description), strict=True)))]
    )
    with at_ledger() as opened:
        ledger = opened.ledger
        definitions = {account.definition_id: account for account in opened.accounts(())}
        refuse_long = opened.settings.adjustment_long_description == "reject"
        name = reference or f"manual-{uuid.uuid4()}"
        problems: list[str] = []
        fine: list[Decimal] = []
        added = 0
        for number, row in enumerate(given, start=1):
            try:
                payload = _payload(row)
                fine.append(sense(Received(0, payload), definitions, refuse_long=refuse_long)["amount"])
            except SenselessError as error:
                problems.append(f"line {row.line}: {error}" if path else str(error))
            else:
                added += yes and queue.add(ledger, f"{name}-{number}", payload)
    for problem in problems:
        output.error(problem)
    total = sum(fine, Decimal(0))
    if as_json:
        output.print_json({"status": "failed" if problems else "ok", "checked": len(given), "problems": problems,
                           "points": str(total), "added": added, "dry_run": not yes, "reference": name})  # fmt: skip
    else:
        output.say(
            f"{len(fine):,} of {len(given):,} lines are fine, {phrases.points(total)} points in total; {added:,} added."
        )
        if fine and not yes:
            output.say("Nothing was added yet. Run it again with --yes to add the lines that are fine.")
        elif fine and problems:
            output.say(
                f"Fix the other lines in the same file and add it again with --reference {name}. No line is added twice."
            )
    ctx.exit(SettingsError.exit_code if problems else 0)


@command.command()
@click.argument("numbers", nargs=-1, type=int, required=True)
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--dead-letters", is_flag=True, help="The numbers are those of dead letters: read them again.")
@output.json_option
def retry(*, numbers: tuple[int, ...], reason: str, dead_letters: bool, as_json: bool) -> None:
    """Send rejected or uncertain adjustments again.

    An uncertain one may be in Treazure already, so first look for its receipt number in the history.
    """
    again = unread.read_again if dead_letters else queue.retry
    with at_ledger() as opened:
        changed = [number for number in numbers if again(opened.ledger, number, by=user.known(), why=reason)]
    _say_changed(changed, numbers, "read again" if dead_letters else "sent again", as_json=as_json)


@command.command()
@click.argument("numbers", nargs=-1, type=int, required=True)
@click.option("--reason", required=True, help="Why, for the record.")
@click.option("--posted", is_flag=True, help="Treazure has them; nothing more is posted.")
@click.option("--dead-letters", is_flag=True, help="The numbers are those of dead letters. They stay stored.")
@output.json_option
def discard(*, numbers: tuple[int, ...], reason: str, posted: bool, dead_letters: bool, as_json: bool) -> None:
    """Give up adjustments that are not finished, or record that an uncertain one is in Treazure."""
    if posted and dead_letters:
        raise SettingsError("--posted and --dead-letters can't be used together.")
    with at_ledger() as opened:
        ledger = opened.ledger
        if dead_letters:
            changed = [number for number in numbers if unread.settle(ledger, number, reason, by=user.known())]
        else:
            changed = [
                number for number in numbers if queue.discard(ledger, number, reason, posted=posted, by=user.known())
            ]
    _say_changed(changed, numbers, "posted" if posted else "discarded", as_json=as_json)


def _say_changed(changed: list[int], numbers: tuple[int, ...], what: str, *, as_json: bool) -> None:
    unchanged = [number for number in numbers if number not in changed]
    if as_json:
        output.print_json({"status": "ok", "changed": changed, "unchanged": unchanged})
        return
    output.say(f"{len(changed)} {what}.")
    if unchanged:
        output.say(f"Their state doesn't allow this: {', '.join(map(str, unchanged))}.")


def _rows(found: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(
        found.astype(object)
        .where(found.notna(), None)
        .to_json(orient="records", date_format="iso", default_handler=str)
    )
    return rows


def _verdict(counts: queue.QueueFigures) -> str:
    """Return what waits for a person, and how many adjustments are in each state."""
    persons = phrases.some(uncertain=counts.uncertain, rejected=counts.rejected, dead_letters=counts.dead_letters)
    told = f"{phrases.sentence(persons)} wait for a person." if persons else "Nothing waits for a person."
    states = phrases.some(**{state: getattr(counts, state) for state in STATES})
    return f"{told} Of all: {phrases.sentence(states) or 'none'}."


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return what of an adjustment a person reads below its title: of a finished one, no tries."""
    shown = {name: row[name] for name in ("contact", "comment", "receipt", "reason")}
    shown["received"] = _time(row["received_at"])
    if row["balance"] is not None:
        shown["balance"] = phrases.points(row["balance"])
    if row["state"] not in ("done", "discarded"):
        shown |= {"tries": row["tries"], "next_try": row["next_try"] and _time(row["next_try"])}
    return shown


def _time(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC"


def _print(row: dict[str, Any], title: str) -> None:
    """Print a row as a few lines that fit any terminal: a title, then the other values with their names."""
    output.say(f"\n{title}")
    for name, value in row.items():
        if name not in ("id", "state", "amount") and value is not None and value != "":
            line = people.printable(f"{name.replace('_', ' ')}: {value}")
            output.console().print(Padding(line, (0, 0, 0, 2), expand=False))


def _payload(row: Row | WrongLine) -> dict[str, Any]:
    """Return a row as the payload that Engage would send. Raises SenselessError for anything but plain numbers."""
    if isinstance(row, WrongLine):
        raise SenselessError(row.advice)
    amount, definition = row.fields["amount"].strip(" "), row.fields["definition_id"].strip(" ") or "1"
    if not _NUMBER.fullmatch(amount):
        raise SenselessError(
            f"amount ({people.said(shown(amount))}) must be a number such as 1000.5: digits 0 to 9, and a point."
        )
    if not (definition.isascii() and definition.isdecimal()):
        raise SenselessError(f"definition_id ({people.said(shown(definition))}) must be a whole number.")
    return {
        "contactId": row.fields["contact"].strip(),
        "amount": Decimal(amount),
        "pointDefinitionId": int(definition),
        "description": row.fields["description"],
    }
