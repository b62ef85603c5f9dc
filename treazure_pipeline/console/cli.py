"""``console``: the web console, until it is stopped."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from functools import partial

import click

from treazure_pipeline.conventions import is_loopback
from treazure_pipeline.database import schema
from treazure_pipeline.errors import PipelineError, SettingsError
from treazure_pipeline.settings import load_console
from treazure_pipeline.terminal import instance, output, signals
from treazure_pipeline.terminal.ledger import at_ledger

PORT = 8788
_CONNECTIONS = 10
_EXTRA = ("authlib", "itsdangerous", "python_multipart")


@click.command("console")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
def command(host: str, port: int) -> None:
    """Serve the web console: health, contacts, plans, rejections, adjustments, migration.

    It needs the ledger's database, and Treazure's credentials only to look up an adjustment there. CONSOLE_AUTH says how people sign in; without it the
    console listens on loopback only. SIGTERM stops it once its last request is answered.
    """
    settings = load_console()
    if settings.console_auth == "none" and not is_loopback(host):
        raise SettingsError(
            f"CONSOLE_AUTH is none, so nobody signs in and the console listens on loopback only, not on {host}.",
            hint="Leave out --host, or set CONSOLE_AUTH to oidc or proxy (docs/console.md).",
        )
    if any(importlib.util.find_spec(name) is None for name in _EXTRA):
        raise SettingsError("The console needs more packages.", hint="pip install 'treazure-pipeline[console]'.")
    from treazure_pipeline.console.app import build_app
    from treazure_pipeline.console.desk import Desk, looking
    from treazure_pipeline.service.app import bind, server

    with at_ledger(settings, connections=_CONNECTIONS) as opened, looking(settings, opened.ledger) as treazure:
        url = instance.locate(settings).ledger_url
        app = build_app(Desk(opened, settings, partial(schema.check, url), treazure))
        try:
            listener, address = bind(host, port)
        except OSError as error:
            raise PipelineError(f"The console can't listen on {host}, port {port}: {error.strerror}.") from None
        output.say(address)
        running = server(app)
        signal.signal(signal.SIGHUP, lambda _, frame: running.handle_exit(signal.SIGTERM, frame))
        try:
            asyncio.run(running.serve(sockets=[listener]))
        except signals.StoppedError as stopped:  # stopped as asked: nothing to say
            raise click.exceptions.Exit(stopped.exit_code) from None
