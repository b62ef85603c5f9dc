"""``db``: the embedded server, and the schema, owner and roles of any server."""

from __future__ import annotations

from importlib import resources

import click

from treazure_pipeline.database import embedded, schema
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.settings import Storage, load_ledger, load_storage
from treazure_pipeline.terminal import instance, output


@click.group("db", cls=output.Group)
def command() -> None:
    """Start or stop the embedded database, upgrade the schema, give roles their rights."""


@command.command()
@output.json_option
def start(*, as_json: bool) -> None:
    """Start the embedded database. It runs until it is stopped."""
    storage = _embedded_storage()
    instance.say_where(storage.home)
    url = embedded.start(storage.home)
    if as_json:
        output.print_json({"status": "ok", "url": url})
    else:
        output.say(f"The embedded database of {storage.home} is running: {url}")


@command.command()
@output.json_option
def stop(*, as_json: bool) -> None:
    """Stop the embedded database and end its connections."""
    storage = _embedded_storage()
    embedded.stop(storage.home)
    if as_json:
        output.print_json({"status": "ok"})
    else:
        output.say(f"The embedded database of {storage.home} is stopped.")


@command.command()
@output.json_option
def upgrade(*, as_json: bool) -> None:
    """Upgrade the ledger's schema to this version. Starts the embedded database if it is used."""
    before, after = instance.upgrade(load_storage())
    if as_json:
        output.print_json({"status": "ok", "before": before, "after": after})
    elif after != schema.head():
        output.say(f"The schema is at revision {after}, newer than this version needs. There is nothing to do.")
    elif before == after:
        output.say(f"The schema is up to date, at revision {after}.")
    else:
        output.say(f"The schema went from {before or 'nothing'} to revision {after}.")


@command.command()
@output.json_option
def adopt(*, as_json: bool) -> None:
    """Record that the ledger's two systems have moved to the addresses in the settings. Never for other systems."""
    from treazure_pipeline.ledger import owner
    from treazure_pipeline.ledger.store import Ledger
    from treazure_pipeline.terminal.ledger import ready, systems_of

    settings = load_ledger()
    wanted = systems_of(settings)
    if wanted is None:
        raise SettingsError(
            "Both systems' new addresses are needed.", hint="Set TREAZURE_BASE_URL and ENGAGE_BASE_URL, or their parts."
        )
    with Ledger(ready(settings), connections=2) as ledger:
        before = owner.adopt(ledger, wanted)
    if as_json:
        output.print_json({"status": "ok", "before": before and str(before), "after": str(wanted)})
    else:
        output.say(f"The ledger now belongs to {wanted}. It used to belong to {before or 'nobody'}.")


@command.command()
def roles() -> None:
    """Print the SQL that creates roles and databases on a server of your own."""
    click.echo(
        resources.files("treazure_pipeline.database").joinpath("roles.sql").read_text(encoding="utf-8"), nl=False
    )


@command.command("grant-reader")
@click.argument("role")
@output.json_option
def grant_reader(role: str, *, as_json: bool) -> None:
    """Let a database role read the reporting views. Needs the role that owns the ledger."""
    reports = schema.grant_reader(instance.locate(load_storage()).ledger_url, role)
    if as_json:
        output.print_json({"status": "ok", "role": role, "reports": reports})
    else:
        output.say(f"{role} may read {', '.join(reports)} in the schema {schema.REPORTING}.")


@command.command()
@click.option("--dbt", "as_dbt", is_flag=True, help="As a dbt sources.yml instead of a Markdown page.")
def dictionary(*, as_dbt: bool) -> None:
    """Print what the reporting views and their columns mean, from their comments in the database."""
    from treazure_pipeline.database import reporting

    about, views = reporting.described(instance.locate(load_storage()).ledger_url)
    click.echo((reporting.dbt_sources if as_dbt else reporting.dictionary)(about, views), nl=False)


def _embedded_storage() -> Storage:
    storage = load_storage()
    if not storage.is_embedded:
        raise SettingsError(
            "TREAZURE_PIPELINE_DATABASE_URL is set to a server of your own, "
            "so there is no embedded database to start or stop."
        )
    return storage
