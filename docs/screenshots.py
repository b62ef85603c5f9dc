# ruff: noqa: INP001 - a script, not a package
"""Remake the pictures in docs/images from real runs on the sandbox: `.venv/bin/python docs/screenshots.py`.

Needs Chromium (the command `chromium`, or its path as the only argument). Runs the sandbox, and `treazure-pipeline dev`
on it with a home of its own, plays some hours of shop life with a few mishaps, runs the sync after each, lets a guard
trip, reads balances back, migrates the programme once more, and takes the pictures. At last webservers alone show how
three programmes look, and two retailers.
"""

from __future__ import annotations

import base64
import html
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from dagster_graphql import DagsterGraphQLClient
from websockets.sync.client import ClientConnection, connect

from treazure_pipeline.cli import sandbox
from treazure_pipeline.sandbox.client import Sandbox

IMAGES = Path(__file__).parent / "images"
ENDS = {"SUCCESS", "FAILURE", "CANCELED"}
LOCATION, REPOSITORY = "treazure_pipeline", "__repository__"
MEMBERS = 2_000
SHARDS = 4
SHARES = (0.0, 0.02, 0.05, 0.08, 0.06, 0.03, 0.04, 0.07, 0.09, 0.05)
# Neither the rates nor the grace time are kept to: a picture takes a minute instead of an hour.
QUICK = {
    "ENGAGE_VERIFY_GRACE_SECONDS": "0",
    "ENGAGE_VERIFY_SECONDS": "20",
    "ENGAGE_MAX_REQUESTS_PER_SECOND": "0",
    "TREAZURE_MAX_REQUESTS_PER_SECOND": "0",
    "MIGRATION_SHARDS": str(SHARDS),
}
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
        command, env=os.environ | (environment or {}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


class Dagster:
    """The instance that runs, spoken to as its UI does."""

    def __init__(self, port: int) -> None:
        self._client = DagsterGraphQLClient("127.0.0.1", port_number=port)
        self._address = f"http://127.0.0.1:{port}/graphql"

    def run(self, job: str, config: dict[str, Any] | None = None) -> str:
        """Run a job to its end and return how it ended."""
        run = self._client.submit_job_execution(
            job, repository_location_name=LOCATION, repository_name=REPOSITORY, run_config=config or {}
        )
        while (status := self._client.get_run_status(run).value) not in ENDS:
            time.sleep(0.5)
        sys.stdout.write(f"{job}: {status}\n")
        return str(status)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask for something that the client has no method for."""
        answer = httpx.post(self._address, json={"query": query, "variables": variables}, timeout=60)
        return dict(answer.raise_for_status().json()["data"])

    def newest(self, job: str) -> str:
        """Return the id of the job's newest run."""
        runs = (
            "query ($job: String!) { runsOrError(filter: {pipelineName: $job}, limit: 1) "
            "{ ... on Runs { results { runId } } } }"
        )
        return str(self.ask(runs, job=job)["runsOrError"]["results"][0]["runId"])

    def backfill(self) -> str:
        """Launch the migration's backfill over all shards, wait for its end, and return its id."""
        place = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY}
        launched = self.ask(
            "mutation ($given: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $given) "
            "{ ... on LaunchBackfillSuccess { backfillId } } }",
            given={
                "selector": {"partitionSetName": "point_migration_partition_set", "repositorySelector": place},
                "partitionNames": [f"{shard:03}" for shard in range(SHARDS)],
                "title": "Point migration",
            },
        )["launchPartitionBackfill"]["backfillId"]
        status = (
            "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
        )
        until(lambda: self.ask(status, id=launched)["partitionBackfillOrError"]["status"].startswith("COMPLETED"), 1800)
        return str(launched)


def play(box: Sandbox, dagster: Dagster) -> None:
    """Run the sync after each hour of shop life: a lost answer in the third, rows that are no balances in the fifth."""
    box.reset(members=MEMBERS, unknown_share=0.004)
    for hour, share in enumerate(SHARES):
        if hour:
            box.play_hour(share=share)
        if hour == 3:
            box.set_fault("lost_after", count=1)
        if hour == 5:
            box.set_fault("bad_rows", count=1)
        dagster.run("hourly_balance_sync")


def trip(box: Sandbox) -> None:
    """Set so many balances to zero in Treazure that a guard trips."""
    members = [row["contactId"] for row in box.balances(limit=10_000) if row["known"] and float(row["treazure"]) > 0]
    box.set_points(dict.fromkeys(members[: MEMBERS // 25], 0))


def drift(box: Sandbox, dagster: Dagster) -> None:
    """Change balances in Engage by hand, and let reading back find and the push heal them, for some rounds."""
    contacts = box.contact_ids(MEMBERS)
    for number, changed in enumerate((0, 40, 0, 15, 0, 0)):
        box.set_engage_balances(dict.fromkeys(contacts[number * 50 : number * 50 + changed], 1))
        dagster.run("verify_balances")
        dagster.run("hourly_balance_sync")
        box.apply_queue()


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
        """Return where the innermost element that says exactly this begins, in pixels from the top; waits for it."""
        element = f"[...document.querySelectorAll('*')].filter(e => e.innerText?.trim() === {json.dumps(text)}).pop()"
        until(lambda: self.run(f"Boolean({element})"))
        return int(self.run(f"{element}.getBoundingClientRect().top"))

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


def pictures(page: Page, run: str) -> None:
    """Take the pictures of a sync that went well, `run` among them."""
    IMAGES.mkdir(exist_ok=True)
    page.open("overview", "Overview", 900)
    page.run("localStorage.setItem('asset-graph-direction', JSON.stringify('vertical'))")
    page.click("Hide navigation")
    page.open("locations/treazure_pipeline/asset-groups/balance_sync/lineage", "engage_point_accounts", 1420, 900)
    page.wait("Passed")
    page.take("asset-graph", 60, 0, 840, 1420)
    page.open("assets/engage_balance_push?view=events", "points_total", 1060, 1200)
    page.take("push-materialization", 60, 0, 1140, 1060)
    page.open("assets/engage_balance_push?view=overview", "points_total", 3600, 1300)
    page.click("Plots")
    first = page.top("data_age_hours") - 20
    page.take("push-plots", 80, first, 860, page.top("sent") + 240 - first)
    page.open("assets/balance_diff?view=checks&checkDetail=points_are_conserved", "last_summed_at", 760, 1200)
    page.take("checks", 60, 0, 1140, 760)
    page.open(f"runs/{run}", "RUN_SUCCESS", 900)
    page.take("run", 60, 0, 1340, 900)


def terminal(page: Page, name: str, text: str) -> None:
    """Take a picture of what a command has printed."""
    style = "background:#16181d;color:#e6e6e6;font:14px/1.35 monospace;padding:16px;margin:0;width:980px"
    page.call("Emulation.setDeviceMetricsOverride", width=1012, height=900, deviceScaleFactor=1, mobile=False)
    content = f"<body style='margin:0'><pre style='{style}'>{html.escape(text)}</pre>"
    page.call("Page.navigate", url="data:text/html;charset=utf-8," + quote(content))
    time.sleep(1)
    page.take(name, 0, 0, 1012, int(page.run("document.querySelector('pre').offsetHeight")))


def main() -> None:
    """Run everything, play, take the pictures, stop everything."""
    chromium = sys.argv[1] if len(sys.argv) > 1 else "chromium"
    ui_port, sandbox_port = free_port(), free_port()
    address = f"http://127.0.0.1:{ui_port}"
    command = str(Path(sys.executable).with_name("treazure-pipeline"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o755)  # the embedded server runs as another user where this runs as root
        environment = sandbox.settings(sandbox_port) | QUICK | {"TREAZURE_PIPELINE_HOME": home}
        with (
            running([command, "sandbox", "--port", str(sandbox_port)]),
            running([command, "dev", "--port", str(ui_port)], environment),
            browser(chromium, address) as page,
        ):
            until(lambda: httpx.get(f"{address}/server_info").is_success)
            dagster = Dagster(ui_port)
            with Sandbox(f"http://127.0.0.1:{sandbox_port}") as box:
                box.behave(max_requests_per_second=0)
                play(box, dagster)
                pictures(page, dagster.newest("hourly_balance_sync"))
                trip(box)
                dagster.run("hourly_balance_sync")
                page.open("assets/balance_diff?view=checks&checkDetail=guards_hold", "what_to_do", 1300, 1300)
                page.take("guard", 60, 0, 1240, 1300)
                settings = os.environ | environment
                shown = subprocess.run([command, "plan"], env=settings, capture_output=True, text=True, check=True)  # noqa: S603
                terminal(page, "plan", shown.stdout)
                digest = shown.stdout.split("plan ")[1].split()[0]
                config = {"ops": {"approve": {"config": {"digest": digest, "approved_by": "Sam"}}}}
                dagster.run("approve_plan", config)
                dagster.run("hourly_balance_sync")
                drift(box, dagster)
                page.open("assets/engage_balance_verification?view=overview", "seconds_verify", 3000, 1300)
                page.click("Plots")
                first = page.top("outstanding_drift") - 20
                page.take("verification-plots", 80, first, 860, 600)
                roster = {"ops": {"migration_roster": {"config": {"although_loaded": True}}}}
                dagster.run("prepare_migration", roster)
                page.open(f"runs/b/{dagster.backfill()}", "100% completed", 480, 1300)
                page.take("backfill", 60, 0, 1240, 330)
    three_programmes(chromium)
    two_retailers(chromium)


def three_programmes(chromium: str) -> None:
    """Take a picture of the groups of three programmes, two of which are migrated; nothing runs."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        listed = Path(home) / "programmes.yaml"
        listed.write_text(
            "- {name: club, loyalty_id: CLUB, migrated: true}\n"
            "- {name: outlet, loyalty_id: OUTLET, definition_id: 2, migrated: true}\n"
            "- {name: staff, loyalty_id: STAFF, definition_id: 3}\n"
        )
        alone = {"TREAZURE_LOYALTY_ID", "ENGAGE_DEFINITION_ID"}
        environment = {name: value for name, value in sandbox.settings(free_port()).items() if name not in alone}
        environment |= {"TREAZURE_PIPELINE_PROGRAMMES": str(listed), "DAGSTER_HOME": home}
        with webserver(chromium, ["-m", "treazure_pipeline.definitions"], environment) as page:
            page.open("asset-groups", "staff_point_migration", 620)
            page.click("Skip")
            page.take("three-programmes", 240, 0, 1160, 620)


def two_retailers(chromium: str) -> None:
    """Take a picture of what two retailers have on one instance, each a code location of its own; nothing runs."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, ExitStack() as servers:
        locations = []
        for tenant in ("north", "south"):
            port = free_port()
            environment = sandbox.settings(free_port()) | {"TREAZURE_PIPELINE_TENANT": tenant, "DAGSTER_HOME": home}
            served = [sys.executable, "-m", "dagster", "code-server", "start", "-m", "treazure_pipeline.definitions"]
            servers.enter_context(running([*served, "-h", "127.0.0.1", "-p", str(port)], environment))
            locations.append(f"  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: {tenant}}}\n")
        workspace = Path(home) / "workspace.yaml"
        workspace.write_text("load_from:\n" + "".join(locations))
        with webserver(chromium, ["-w", str(workspace)], {"DAGSTER_HOME": home}) as page:
            page.open("asset-groups", "south_balance_sync", 620)
            page.click("Skip")
            page.take("two-retailers", 240, 0, 1160, 620)


@contextmanager
def webserver(chromium: str, loaded: list[str], environment: dict[str, str]) -> Iterator[Page]:
    """Open a tab on a webserver that shows what is `loaded`, and runs nothing."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "dagster_webserver", *loaded, "-p", str(port)]
    with running(command, environment), browser(chromium, address) as page:
        until(lambda: httpx.get(f"{address}/server_info").is_success)
        yield page


if __name__ == "__main__":
    main()
