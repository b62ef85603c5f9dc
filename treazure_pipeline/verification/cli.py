"""``explain``: why a contact has its balance, as a timeline."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any

import click
from rich.padding import Padding

from treazure_pipeline import people
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.terminal import output
from treazure_pipeline.terminal.ledger import at_ledger, run_url
from treazure_pipeline.verification.explain import Explanation

_SHORT = 8
"""Dagster shows this many characters of a run's id."""


@click.command("explain")
@click.argument("contact")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@output.json_option
def command(*, contact: str, names: tuple[str, ...], as_json: bool) -> None:
    """Show everything known about CONTACT's balance, oldest first, and where it stands now. Changes nothing."""
    from treazure_pipeline.verification.explain import explain

    try:
        guid = str(uuid.UUID(contact.strip()))
    except ValueError:
        raise SettingsError(f"{contact!r} is not a contact. It must be a GUID, as both systems show it.") from None
    with at_ledger() as opened:
        programmes = opened.programmes(names)
        told = [explain(opened.ledger, programme, guid) for programme in programmes]
    found = [one for one in told if one is not None]
    if not found:
        among = ", ".join(programme.name for programme in programmes)
        raise SettingsError(
            f"Nothing is known about contact {guid} in: {among}.",
            hint="No export from Treazure and no adjustment has named it. Look it up in Treazure.",
        )
    if as_json:
        output.print_json({"status": "ok", "contact": guid, "programmes": [_plain(one) for one in found]})
        return
    for one in found:
        _print(one)


def _plain(one: Explanation) -> dict[str, Any]:
    events = [asdict(event) | {"run_url": run_url(event.run_id)} for event in one.events]
    return asdict(one) | {"events": events}


def _print(one: Explanation) -> None:
    output.verdict(one.verdict)
    output.say(f"{one.contact} in programme {one.programme}; all times are UTC.")
    for event in one.events:
        of = f"  (run {event.run_id[:_SHORT]})" if event.run_id else ""
        output.say(f"\n{event.at:%Y-%m-%d %H:%M:%S}  {event.kind.replace('_', ' ')}{of}")
        output.console().print(Padding(people.printable(event.text), (0, 0, 0, 2), expand=False))
    runs = dict.fromkeys(event.run_id for event in one.events if event.run_id)
    if urls := [url for run in runs if (url := run_url(run))]:
        output.say("\nRuns:")
        for url in urls:
            output.say(f"  {url}")
    output.say("")
