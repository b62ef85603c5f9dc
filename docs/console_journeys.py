# ruff: noqa: INP001 - a script, not a package
"""Do tasks with nothing but the console, as somebody new would: `.venv/bin/python docs/console_journeys.py`.

Why a member has these points; letting a plan through; whether Treazure has an adjustment. Prints the pages, clicks and
seconds of each, and remakes the pictures console-why, console-held and console-look in docs/images.

Needs Chromium (the command `chromium`) and the extra `browser-tests`. Everything runs on a sandbox, in a home of its
own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from treazure_pipeline.cli import sandbox
from treazure_pipeline.sandbox import Sandbox, running_sandbox

IMAGES = Path(__file__).parent / "images"
COMMAND = [sys.executable, "-m", "treazure_pipeline.cli"]
MEMBERS = 1500
GONE = 60


@dataclass
class Journey:
    """A task at the browser: what was opened, and how often something was clicked or typed."""

    page: Page
    task: str
    began: float = field(default_factory=time.monotonic)
    pages: list[str] = field(default_factory=list)
    clicks: int = 0

    def click(self, role: str, name: str) -> None:
        """Click what is called so."""
        self.page.get_by_role(role, name=name).first.click()  # type: ignore[arg-type]
        self.clicks += 1
        title = self.page.title().split(" · ")[0]
        if not self.pages or self.pages[-1] != title:
            self.pages.append(title)

    def write(self, label: str, text: str) -> None:
        """Write into the field of this label."""
        self.page.get_by_label(label).fill(text)

    def read(self, *texts: str) -> None:
        """Find what answers the question on the page."""
        shown = self.page.inner_text("main")
        if missing := [text for text in texts if text not in shown]:
            sys.exit(f"{self.task}: the page does not say {missing}:\n{shown}")

    def done(self) -> None:
        """Say how it went."""
        seconds = time.monotonic() - self.began
        print(f"{self.task}: {' → '.join(self.pages)}; {self.clicks} clicks, {seconds:.1f} s")  # noqa: T201 - its output


def main() -> None:
    """Set the scene, and do them."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("There is no command `chromium`.")
    switches = {"apply_delay": 0, "export_polls": 0, "max_requests_per_second": 0}
    with (
        tempfile.TemporaryDirectory(prefix="treazure-journeys-", ignore_cleanup_errors=True) as folder,
        running_sandbox(members=MEMBERS, **switches) as box,
    ):
        Path(folder).chmod(0o755)  # the embedded server runs as another user where this runs as root
        environment = {
            **os.environ, **sandbox.settings(int(box.base_url.rsplit(":", 1)[1])),
            "TREAZURE_PIPELINE_HOME": f"{folder}/home", "TREAZURE_PIPELINE_RETRY_SCALE": "0.01", "LOGNAME": "operator",
            "TREAZURE_TIMEOUT_SECONDS": "5", "TREAZURE_LOOKUP_WAIT_SECONDS": "5",
        }  # fmt: skip
        try:
            member = scene(box, environment)
            with started([*COMMAND, "console", "--port", "0"], environment) as url, sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1000, "height": 600})
                page.goto(url)
                why(page, member)
                page.goto(url)
                let_through(page)
                page.goto(url)
                settle(page)
                browser.close()
        finally:
            call(environment, "db", "stop")


def scene(box: Sandbox, environment: dict[str, str]) -> str:
    """A member who shopped and was given points, an adjustment whose answer was lost, and a plan that a guard holds."""
    call(environment, "run", "balance-sync")
    member, other, *expiring = box.contact_ids(limit=GONE + 2)
    with started([*COMMAND, "receiver", "--port", "0"], environment) as webhooks:
        box.behave(webhook_url=webhooks)
        box.give_points(member, 20, description="Sorry for the late parcel")
        box.wait_until_delivered()
        call(environment, "run", "adjustments")
        box.set_fault("lost_after", on=["transaction"])
        box.give_points(other, 35, description="Birthday")
        box.wait_until_delivered()
        call(environment, "run", "adjustments")
    box.clear_faults()
    box.add_points({member: 100})
    call(environment, "run", "balance-sync")
    call(environment, "run", "verify")
    call(environment, "run", "history")
    box.set_points(dict.fromkeys(expiring, 0))
    call(environment, "run", "balance-sync", expected=3)
    return member


def why(page: Page, member: str) -> None:
    """Why does this member have these points?"""
    journey = Journey(page, "Why does this member have these points?")
    journey.click("link", "Contact")
    journey.write("Contact id, key or receipt", member)
    journey.click("button", "Look up")
    journey.read("Where the points come from", "+100", "+20", "Sorry for the late parcel")
    page.screenshot(path=IMAGES / "console-why.png", full_page=True)
    journey.done()


def let_through(page: Page) -> None:
    """Let today's plan through if it is right."""
    journey = Journey(page, "Let today's plan through if it is right")
    journey.read("A guard has stopped the push of points")
    journey.click("link", "Look at the plan")
    journey.read("would be set to zero, the limit is 2.0%", "The largest changes")
    page.screenshot(path=IMAGES / "console-held.png", full_page=True)
    journey.write("Why", "The points of 2023 expired, as announced")
    journey.click("button", "Approve plan")
    journey.read("was approved by operator", "The next hourly run, at 7 minutes past, sends it")
    journey.done()


def settle(page: Page) -> None:
    """Does Treazure have this adjustment?"""
    journey = Journey(page, "Does Treazure have this adjustment?")
    journey.click("link", "Adjustments")
    page.get_by_label("sending").check()
    journey.click("button", "Show")
    journey.click("link", "2")
    journey.click("button", "Look in Treazure now")
    journey.read("Already booked in Treazure")
    page.screenshot(path=IMAGES / "console-look.png", full_page=True)
    journey.done()


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Run a command that says its address first."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def call(environment: dict[str, str], *arguments: str, expected: int = 0) -> None:
    """Run a command of ours to its end."""
    ended = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode != expected:
        sys.exit(f"{' '.join(arguments)}: {ended.returncode}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}")


if __name__ == "__main__":
    main()
