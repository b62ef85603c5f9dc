"""``env``: what a shell needs for `dagster dev`, `dg dev` and `dg launch` on our instance."""

from __future__ import annotations

import os
import shlex

import click

from treazure_pipeline.database import urls
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.settings import load_settings
from treazure_pipeline.terminal import instance


@click.command("env")
def command() -> None:
    """Print the exports that Dagster's own commands need.

    Use it as: eval "$(treazure-pipeline env)". Starts the embedded database and brings its schema up to date.
    Variables that are already set are not printed, and no secret is.
    """
    settings = load_settings()
    place = instance.locate(settings)
    is_set = _is_set_for_dagster()
    if not is_set and urls.has_password(place.dagster_url):
        form = urls.without_secrets(place.dagster_url)
        raise SettingsError(
            "Dagster reads DAGSTER_POSTGRES_URL itself. Its value holds a password, so it is not printed.",
            hint=f"Set it yourself, like this: {form}",
        )
    environment = instance.prepare(settings).environment
    if not settings.is_embedded:
        del environment["TREAZURE_PIPELINE_DATABASE_URL"], environment["TREAZURE_PIPELINE_DATABASE_URL_FILE"]
    if is_set:
        del environment["DAGSTER_POSTGRES_URL"], environment["DAGSTER_POSTGRES_URL_FILE"]
    for name, value in environment.items():
        if value or name in os.environ:
            click.echo(f"export {name}={shlex.quote(value)}")


def _is_set_for_dagster() -> bool:
    """Whether the address of Dagster's storage is already set, in a form that Dagster understands."""
    given = os.environ.get("DAGSTER_POSTGRES_URL", "").strip()
    return bool(given) and urls.is_plain(given)
