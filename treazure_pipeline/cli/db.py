"""``db start``, ``stop``, ``upgrade``, ``adopt``: the embedded server, the schema and the owner of whichever server."""

from __future__ import annotations

import click

from treazure_pipeline.cli import instance, output
from treazure_pipeline.database import embedded
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.settings import Storage, load_settings, load_storage


@click.group("db")
def command() -> None:
    """Start or stop the embedded database, or bring the schema up to date."""


@command.command()
@output.json_option
def start(*, as_json: bool) -> None:
    """Start the embedded database; it stays until it is stopped."""
    storage = _embedded_storage()
    url = embedded.start(storage.home)
    if as_json:
        output.print_json({"status": "ok", "url": url})
    else:
        output.say(f"The embedded database of {storage.home} runs: {url}")


@command.command()
@output.json_option
def stop(*, as_json: bool) -> None:
    """Stop the embedded database, ending its connections."""
    storage = _embedded_storage()
    embedded.stop(storage.home)
    if as_json:
        output.print_json({"status": "ok"})
    else:
        output.say(f"The embedded database of {storage.home} is stopped.")


@command.command()
@output.json_option
def upgrade(*, as_json: bool) -> None:
    """Bring the ledger's schema to this version; starts the embedded database where that is used."""
    before, after = instance.upgrade(load_storage())
    if as_json:
        output.print_json({"status": "ok", "before": before, "after": after})
    elif before == after:
        output.say(f"The schema is up to date, at revision {after}.")
    else:
        output.say(f"The schema went from {before or 'nothing'} to revision {after}.")


@command.command()
@output.json_option
def adopt(*, as_json: bool) -> None:
    """Say that the ledger's two systems have moved to the addresses of the settings. Never for other systems."""
    from treazure_pipeline.ledger import owner
    from treazure_pipeline.ledger.store import Ledger

    settings = load_settings()
    wanted = owner.systems(settings)
    with Ledger(instance.prepare(settings).ledger_url, connections=2) as ledger:
        before = owner.adopt(ledger, wanted)
    if as_json:
        output.print_json({"status": "ok", "before": before and str(before), "after": str(wanted)})
    else:
        output.say(f"The ledger belongs to {wanted} now; before, to {before or 'nobody yet'}.")


def _embedded_storage() -> Storage:
    storage = load_storage()
    if not instance.uses_embedded(storage):
        raise SettingsError(
            "TREAZURE_PIPELINE_DATABASE_URL is set to a server of your own, "
            "so there is no embedded database to start or stop."
        )
    return storage
