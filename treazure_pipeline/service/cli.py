"""``receiver``: runs the webhook receiver until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import sys

import click

from treazure_pipeline.errors import PipelineError
from treazure_pipeline.settings import load_receiver
from treazure_pipeline.terminal import instance, output, signals

PORT = 8787


def command_line(*arguments: str) -> list[str]:
    """Return the command line of a receiver process. The first line of its output is its address."""
    return [sys.executable, "-m", "treazure_pipeline.cli", "receiver", *arguments]


@click.command("receiver")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
def command(host: str, port: int) -> None:
    """Receive Engage's webhooks: POST /webhooks/engage stores adjustments for `run adjustments`.

    With HISTORY_API_KEY it also serves points logs: GET /contacts/CONTACT/points-history. There are also /healthz,
    /readyz, /metrics and /openapi.json. SIGTERM ends it once its last request is answered.
    """
    from treazure_pipeline.points_history.contact_card import Histories
    from treazure_pipeline.service.app import bind, build_app, server

    settings = load_receiver()
    # An external server may be down. Deliveries are refused until it is back, and /readyz says why.
    found = instance.prepare(settings) if settings.is_embedded else instance.locate(settings)
    secrets = [secret.get_secret_value() for secret in settings.engage_webhook_secret]
    histories = None
    if settings.history_api_key is not None and settings.master is not None:
        histories = Histories(found.ledger_url, settings.history_api_key, settings.master)
    app = build_app(found.ledger_url, secrets, settings.adjustment_answer_within_seconds, histories)
    try:
        listener, url = bind(host, port)
    except OSError as error:
        raise PipelineError(f"The receiver can't listen on {host}, port {port}: {error.strerror}.") from None
    output.say(f"{url}/webhooks/engage")
    running = server(app)
    # The server shuts down cleanly on SIGINT and SIGTERM, and raises them again afterwards. A closed terminal does the same.
    signal.signal(signal.SIGHUP, lambda _, frame: running.handle_exit(signal.SIGTERM, frame))
    try:
        asyncio.run(running.serve(sockets=[listener]))
    except signals.StoppedError as stopped:  # stopped as asked, after its last request: nothing to report
        raise click.exceptions.Exit(stopped.exit_code) from None
    if not running.started:
        raise PipelineError("The receiver did not start.", hint="Its output is above.")
