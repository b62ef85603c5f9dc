"""``rejections``: what a person can do about rejected and refused rows of the balance sync."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import click

from treazure_pipeline.balance_sync import rejections as kept
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.terminal import output, user
from treazure_pipeline.terminal.ledger import at_ledger

_SHORTEST_DIGEST = 6
_ORIGINS = {"export": "row of an export", "engage": "refused by Engage"}

_programme_option = click.option(
    "--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable)."
)
_contact_option = click.option("--contact", metavar="GUID", help="Only this contact.")
_reason_option = click.option("--reason", metavar="TEXT", help="Only rows whose reason contains this text.")


@click.group("rejections", cls=output.Group)
def command() -> None:
    """List rows that were rejected or refused, retry them, or discard a row of an export."""


@command.command("list")
@_programme_option
@_contact_option
@_reason_option
@click.option("--rows", "as_rows", is_flag=True, help="List each row instead of a summary. Default with --contact.")
@click.option("--all", "resolved", is_flag=True, help="List each row, including resolved rows of exports.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1), help="At most this many.")
@output.json_option
def list_(
    *,
    names: tuple[str, ...],
    contact: str | None,
    reason: str | None,
    as_rows: bool,
    resolved: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Show what is outstanding, by reason or row by row: since when, and when it is tried next."""
    contact = _guid(contact)
    as_rows = as_rows or resolved or contact is not None
    results = []
    with at_ledger() as opened:
        ledger = opened.ledger
        for account in opened.accounts(names):
            groups = kept.groups(ledger, account, contact=contact, reason=reason)
            rows = (
                kept.rows(ledger, account, contact=contact, reason=reason, resolved=resolved, limit=limit)
                if as_rows
                else []
            )
            results.append((account, groups, rows))
    if as_json:
        output.print_json({"status": "ok", "programmes": [_as_json(*result, limit=limit) for result in results]})
        return
    for account, groups, rows in results:
        outstanding = sum(group.rows for group in groups)
        oldest = min((group.since for group in groups), default=None)
        since = f", the oldest since {_time(oldest)} (all times UTC)" if oldest else ""
        output.say(f"{account.name}: {outstanding:,} outstanding{since}")
        for row in rows:
            _say_row(row)
        for group in () if as_rows else groups[:limit]:
            _say_group(group)


@command.command()
@_programme_option
@_contact_option
@_reason_option
@click.option("--all", "everything", is_flag=True, help="Everything that is outstanding.")
@click.option("--why", default="", metavar="TEXT", help="Why, for the record.")
@output.json_option
def retry(
    *, names: tuple[str, ...], contact: str | None, reason: str | None, everything: bool, why: str, as_json: bool
) -> None:
    """Let the next run try again: it sends refused rows, even if gone, and reads the accounts of rejected rows.

    Choose them by contact, by reason, or all. A row of an export that names no contact can't be read on its own. A full resync resolves it
    once Treazure no longer lists it.
    """
    contact = _guid(contact)
    if everything == bool(contact or reason):
        raise SettingsError("Choose what to try again with --contact or --reason, or use --all alone.")
    results = []
    with at_ledger() as opened:
        for account in opened.accounts(names):
            done = kept.retry(opened.ledger, account, contact=contact, reason=reason, by=user.known(), why=why)
            results.append({"programme": account.name, **asdict(done)})
    if as_json:
        output.print_json({"status": "ok", "programmes": results})
        return
    for result in results:
        output.say(
            f"{result['programme']}: the next run sends {result['refused']:,} refused rows again and reads "
            f"{result['to_read']:,} accounts."
        )
        if result["nameless"]:
            output.say(
                f"{result['nameless']:,} rows of exports name no contact: `run balance-sync --full-resync` "
                "resolves those that Treazure no longer lists, and `rejections discard` drops the others."
            )


@command.command()
@click.argument("digest")
@_programme_option
@click.option("--reason", required=True, help="Why, for the record.")
@output.json_option
def discard(*, digest: str, names: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Discard a rejected row of an export for good. `list --rows` shows its DIGEST; the first characters are enough.

    If the same row comes again, it stays discarded. Nothing changes for its contact.
    """
    if len(digest) < _SHORTEST_DIGEST:
        raise SettingsError(f"DIGEST ({digest!r}) must have at least {_SHORTEST_DIGEST} characters.")
    with at_ledger() as opened:
        discarded = sum(
            kept.discard(opened.ledger, account, digest.lower(), reason, by=user.known())
            for account in opened.accounts(names)
        )
    if not discarded:
        raise SettingsError(
            f"No outstanding row of an export has a digest beginning with {digest!r}. "
            "`treazure-pipeline rejections list --rows` shows them; what Engage refuses can't be discarded."
        )
    if as_json:
        output.print_json({"status": "ok", "discarded": discarded})
    else:
        output.say(f"{discarded:,} discarded.")


def _guid(contact: str | None) -> str | None:
    if contact is None:
        return None
    try:
        return str(uuid.UUID(contact))
    except ValueError:
        raise SettingsError(f"--contact ({contact!r}) must be a GUID.") from None


def _as_json(
    account: Account, groups: Sequence[kept.Group], rows: Sequence[kept.Rejection], *, limit: int
) -> dict[str, object]:
    return {
        "programme": account.name,
        "outstanding": sum(group.rows for group in groups),
        "since": min((group.since for group in groups), default=None),
        "reasons": [asdict(group) for group in groups[:limit]],
        "rows": [asdict(row) for row in rows],
    }


def _say_group(group: kept.Group) -> None:
    facts = [_ORIGINS[group.origin], f"first {_time(group.first_seen)}", f"last {_time(group.last_seen)}"]
    if group.next_try:
        facts.append(f"next try {_time(group.next_try)}")
    if group.gone:
        facts.append(f"{group.gone:,} gone")
    output.say(f"{group.rows:>9,}  {group.reason}")
    output.say(f"{'':>9}  {', '.join(facts)}")


def _say_row(row: kept.Rejection) -> None:
    facts = [_ORIGINS[row.origin], f"count {row.times:,}", f"since {_time(row.since)}", f"last {_time(row.last_seen)}"]
    if row.digest:
        facts.append(f"digest {row.digest[:12]}")
    if row.resolved_at:
        facts.append(f"resolved {_time(row.resolved_at)} by {row.resolved_by}: {row.note or 'its cause is gone'}")
    elif row.gone:
        facts.append("gone")
    elif row.next_try:
        facts.append(f"next try {_time(row.next_try)}")
    output.say(f"{row.contact or 'no contact'}  {', '.join(facts)}")
    output.say(f"    {row.reason}")
    output.say(f"    {row.raw}" if row.raw is not None else f"    balance {row.balance}")


def _time(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
