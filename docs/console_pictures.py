# ruff: noqa: INP001 - a script, not a package
"""Remake the pictures of the console in docs/images: `.venv/bin/python docs/console_pictures.py`.

Needs Chromium (the command `chromium`) and the extra `browser-tests`. Plays the demo in a home of its own, starts the
console on what that has left, and takes a picture of each page.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
COMMAND = [sys.executable, "-m", "treazure_pipeline.cli"]
PAGES = {
    "health": "/",
    "contact": "",
    "plans": "/plans",
    "adjustments": "/adjustments?state=done",
    "rejections": "/rejections",
    "migration": "/migration",
}


def main() -> None:
    """Take them all."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("There is no command `chromium`.")
    with tempfile.TemporaryDirectory(prefix="treazure-pictures-") as folder:
        Path(folder).chmod(0o755)
        environment = {**os.environ, "TREAZURE_PIPELINE_HOME": f"{folder}/home", "LOGNAME": "operator"}
        subprocess.run([*COMMAND, "demo"], env=environment, check=True)  # noqa: S603
        environment["TREAZURE_PIPELINE_HOME"] += "/demo"
        console = subprocess.Popen(  # noqa: S603
            [*COMMAND, "console", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert console.stdout is not None
        try:
            take(console.stdout.readline().strip(), chromium)
        finally:
            console.terminate()
            console.wait()
            subprocess.run([*COMMAND, "db", "stop"], env=environment, check=True)  # noqa: S603


def take(url: str, chromium: str) -> None:
    """Take the pictures of a console at `url`."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 600})
        page.goto(f"{url}/plans")
        while not page.locator("a[href^='/contacts/']").count():  # what Engage refused is due again within minutes
            page.wait_for_timeout(5000)
            page.reload()
        contact = page.locator("a[href^='/contacts/']").first.get_attribute("href")
        for name, path in PAGES.items():
            page.goto(f"{url}{path or contact}")
            page.screenshot(path=IMAGES / f"console-{name}.png", full_page=True)
        phone = browser.new_page(viewport={"width": 390, "height": 800})
        phone.goto(url)
        phone.screenshot(path=IMAGES / "console-phone.png")
        browser.close()


if __name__ == "__main__":
    main()
