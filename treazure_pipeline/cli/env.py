"""``env``: what a shell needs for `dagster dev`, `dg dev` and `dg launch` on our instance."""

from __future__ import annotations

import shlex

import click
import sqlalchemy as sa

from treazure_pipeline.cli import instance
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.settings import Settings, load_settings


@click.command("env")
def command() -> None:
    """Print the exports with which Dagster's own commands work.

    Use it as: eval "$(treazure-pipeline env)". Starts the embedded database and brings its schema up to date.
    What is set already is not printed, so no secret is.
    """
    settings = load_settings()
    _refuse_to_print_a_password(settings)
    environment = instance.prepare(settings).environment
    if not instance.uses_embedded(settings):
        del environment["TREAZURE_PIPELINE_DATABASE_URL"]
    if settings.dagster_postgres_url is not None:
        del environment["DAGSTER_POSTGRES_URL"]
    for name, value in environment.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _refuse_to_print_a_password(settings: Settings) -> None:
    if settings.dagster_postgres_url is None and sa.make_url(instance.locate(settings).dagster_url).password:
        raise SettingsError(
            "DAGSTER_POSTGRES_URL is not set, and what it would be holds the password of "
            "TREAZURE_PIPELINE_DATABASE_URL, which is not printed. "
            "Set it yourself: the same address with the database dagster."
        )
