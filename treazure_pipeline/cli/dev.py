"""``dev``: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import httpx

from treazure_pipeline import private
from treazure_pipeline.cli import sandbox
from treazure_pipeline.database import embedded
from treazure_pipeline.service import cli
from treazure_pipeline.settings import load_settings
from treazure_pipeline.terminal import instance, output
from treazure_pipeline.terminal.processes import Family, require_free


@click.command("dev")
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
@click.option("--sandbox", "with_sandbox", is_flag=True, help="Run the sandbox and the receiver too.")
@click.option("--sandbox-port", default=sandbox.PORT, show_default=True, help="Port of the sandbox.")
@click.option("--receiver-port", default=cli.PORT, show_default=True, help="Port of the receiver.")
def command(*, port: int, with_sandbox: bool, sandbox_port: int, receiver_port: int) -> None:
    """Run the Dagster UI and daemon on the configured systems until Ctrl-C.

    With --sandbox all other settings are ignored. Everything is written below TREAZURE_PIPELINE_HOME/sandbox.
    """
    if with_sandbox:
        sandbox.set_apart("sandbox")
        os.environ.update(sandbox.settings(sandbox_port))
        require_free(sandbox_port, "The sandbox", "--sandbox-port")
        require_free(receiver_port, "The receiver", "--receiver-port")
    expect_ui(port)
    settings = load_settings()
    started_here = settings.is_embedded and embedded.running_url(settings.home) is None
    try:
        place = instance.prepare(settings)
        addresses: dict[str, str] = {}
        log = new_log(place)
        with Family(os.environ | place.environment, log) as family:
            if with_sandbox:
                webhooks = f"http://127.0.0.1:{receiver_port}/webhooks/engage"
                addresses = {"Sandbox": f"http://127.0.0.1:{sandbox_port}/docs", "Receiver": webhooks}
                family.start("sandbox", sandbox.command_line("--port", str(sandbox_port), "--webhook-url", webhooks))
                family.wait(lambda: _answers(f"http://127.0.0.1:{sandbox_port}/openapi.json"))
                family.start("receiver", cli.command_line("--port", str(receiver_port)))
            serve(family, place, port, addresses | {"Log": str(log)})
    finally:
        if started_here:
            embedded.stop(settings.home)


def expect_ui(port: int) -> None:
    """Make sure that the port of the UI is free; unless the UI has another address, alerts and `explain` link to it."""
    require_free(port, "The Dagster UI", "--port")
    os.environ.setdefault("DAGSTER_WEBSERVER_URL", f"http://127.0.0.1:{port}")


def new_log(place: instance.Instance) -> Path:
    """Return the log file of the processes, emptied."""
    log = place.home / "dev.log"
    private.write(log, b"")
    return log


def serve(family: Family, place: instance.Instance, port: int, addresses: Mapping[str, str]) -> None:
    """Run the daemon and the webserver and show `addresses`. Ends by raising the signal that stops it."""
    output.note("Starting the Dagster UI and daemon …")
    workspace = ["-w", str(place.dagster_home / "workspace.yaml")]
    family.start("daemon", [sys.executable, "-m", "dagster._daemon", "run", *workspace])
    webserver = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port)]
    family.start("webserver", [*webserver, *workspace])
    family.wait(lambda: _answers(f"http://127.0.0.1:{port}/server_info"))
    for name, address in {"Dagster UI": f"http://127.0.0.1:{port}", **addresses}.items():
        output.say(f"{name:<11} {address}")
    output.say("Ctrl-C stops all of it.")
    family.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
