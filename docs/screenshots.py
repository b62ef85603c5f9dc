# ruff: noqa: INP001 - a script, not a package
"""Remake the pictures in docs/images from real runs on the sandbox: `.venv/bin/python docs/screenshots.py`.

Needs Chromium (the command `chromium`, or its path as the only argument). Runs `treazure-pipeline dev --sandbox` with a
home of its own, plays some hours of shop life with a few mishaps, runs the sync after each, and takes the pictures.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from dagster_graphql import DagsterGraphQLClient
from websockets.sync.client import ClientConnection, connect

from treazure_pipeline.sandbox.handle import Sandbox

IMAGES = Path(__file__).parent / "images"
ENDS = {"SUCCESS", "FAILURE", "CANCELED"}
SHARES = (0.0, 0.02, 0.05, 0.08, 0.06, 0.03, 0.04, 0.07, 0.09, 0.05)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)  # fmt: skip


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(ready: Callable[[], Any], seconds: float = 120) -> Any:
    """Return what `ready` returns once that is true; a connection error counts as not ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := ready():
                return found
        except (httpx.HTTPError, OSError):
            pass
        time.sleep(0.3)
    raise TimeoutError("not ready in time")


@contextmanager
def running(command: list[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process as long as the block lasts."""
    process = subprocess.Popen(  # noqa: S603 - our own commands, and the browser that was asked for
        command, env=os.environ | (environment or {}), stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


def play(box: Sandbox, ui_port: int) -> None:
    """Run the sync after each hour of shop life: a lost answer in the third, rows that are no balances in the fifth."""
    dagster = DagsterGraphQLClient("127.0.0.1", port_number=ui_port)
    box.reset(members=20_000, unknown_share=0.0005)
    for hour, share in enumerate(SHARES):
        if hour:
            box.play_hour(share=share)
        if hour == 3:
            box.set_fault("lost_after", count=1)
        if hour == 5:
            box.set_fault("bad_rows", count=1)
        run = dagster.submit_job_execution(
            "hourly_balance_sync", repository_location_name="treazure_pipeline", repository_name="__repository__"
        )
        while dagster.get_run_status(run).value not in ENDS:
            time.sleep(0.5)
        sys.stdout.write(f"hour {hour}: {dagster.get_run_status(run).value}\n")


class Page:
    """One tab of a headless Chromium, spoken to over its debugging protocol."""

    def __init__(self, wire: ClientConnection, address: str) -> None:
        self._wire = wire
        self._address = address
        self._sent = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._sent += 1
        self._wire.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while (answer := json.loads(self._wire.recv(60))).get("id") != self._sent:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def run(self, script: str) -> Any:
        """Run a script and return its value."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, path: str, text: str, height: int, width: int = 1400) -> None:
        """Open a page of the UI in a window of this size and wait for a text on it."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=f"{self._address}/{path}")
        self.wait(text)

    def wait(self, text: str) -> None:
        """Wait for a text on the page, and for what is still being drawn."""
        until(lambda: self.run(f"document.body && document.body.innerText.includes({json.dumps(text)})"))
        time.sleep(4)

    def click(self, text: str) -> None:
        """Click the first button or link that says exactly this."""
        self.run(
            "[...document.querySelectorAll('button,a,[role=button]')]"
            f".find(e => e.innerText.trim() === {json.dumps(text)}).click()"
        )
        time.sleep(3)

    def top(self, text: str) -> int:
        """Return where the innermost element that says exactly this begins, in pixels from the top."""
        return int(
            self.run(
                "[...document.querySelectorAll('*')]"
                f".filter(e => e.innerText?.trim() === {json.dumps(text)}).pop().getBoundingClientRect().top"
            )
        )

    def take(self, name: str, x: int, y: int, width: int, height: int) -> None:
        """Write a part of the window as a picture."""
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        picture = self.call("Page.captureScreenshot", format="png", clip=clip)["data"]
        (IMAGES / f"{name}.png").write_bytes(base64.b64decode(picture))


@contextmanager
def browser(chromium: str, address: str) -> Iterator[Page]:
    """Open a tab in a new browser with an empty profile."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        running([chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]),
    ):
        told = Path(profile) / "DevToolsActivePort"
        port = until(lambda: told.exists() and told.read_text().split("\n")[0])
        tab = httpx.put(f"http://127.0.0.1:{port}/json/new?about:blank").raise_for_status().json()
        with connect(tab["webSocketDebuggerUrl"], max_size=None) as wire:
            yield Page(wire, address)


def pictures(page: Page) -> None:
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    page.open("overview", "Overview", 900)
    page.run("localStorage.setItem('asset-graph-direction', JSON.stringify('vertical'))")
    page.click("Hide navigation")
    page.open("locations/treazure_pipeline/asset-groups/balance_sync/lineage", "engage_point_accounts", 1420, 900)
    page.wait("Passed")
    page.take("asset-graph", 60, 0, 840, 1420)
    page.open("assets/engage_balance_push?view=events", "seconds_fold", 1060, 1200)
    page.take("push-materialisation", 60, 0, 1140, 1060)
    page.open("assets/engage_balance_push?view=overview", "seconds_fold", 2600, 1300)
    page.click("Plots")
    first = page.top("lost_answers") - 20
    page.take("push-plots", 80, first, 860, page.top("requests") - 20 - first)
    page.open("assets/balance_diff?view=checks&checkDetail=points_are_conserved", "sum_of_its_own", 760, 1200)
    page.take("checks", 60, 0, 1140, 760)


def main() -> None:
    """Run everything, play, take the pictures, stop everything."""
    chromium = sys.argv[1] if len(sys.argv) > 1 else "chromium"
    ui_port, sandbox_port = free_port(), free_port()
    address = f"http://127.0.0.1:{ui_port}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o755)  # the embedded server runs as another user where this runs as root
        command = str(Path(sys.executable).with_name("treazure-pipeline"))
        ports = ["--port", str(ui_port), "--sandbox-port", str(sandbox_port)]
        with running([command, "dev", "--sandbox", *ports], {"TREAZURE_PIPELINE_HOME": home}):
            until(lambda: httpx.get(f"{address}/server_info").is_success)
            with Sandbox(f"http://127.0.0.1:{sandbox_port}") as box:
                play(box, ui_port)
            with browser(chromium, address) as page:
                pictures(page)


if __name__ == "__main__":
    main()
