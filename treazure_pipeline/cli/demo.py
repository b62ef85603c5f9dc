"""``demo``: everything on a sandbox of both systems, starting from nothing, with tables of what happened."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from treazure_pipeline.cli import demo_drift, demo_guards, demo_migration, sandbox
from treazure_pipeline.cli.dev import expect_ui, new_log, serve
from treazure_pipeline.cli.run import FIGURES, run_adjustments, run_balance_sync
from treazure_pipeline.cli.runner import print_results
from treazure_pipeline.database import embedded
from treazure_pipeline.errors import RunIncompleteError
from treazure_pipeline.service import cli
from treazure_pipeline.settings import Settings, load_settings
from treazure_pipeline.terminal import instance, output
from treazure_pipeline.terminal.processes import Family

if TYPE_CHECKING:
    from treazure_pipeline.sandbox import Sandbox

_HOURS = 2
_WAIT_SECONDS = 5


@click.command("demo")
@click.option("--members", default=2000, show_default=True, help="Members with points in the sandbox.")
@click.option("--ui", is_flag=True, help="Keep everything running, with the Dagster UI.")
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
def command(*, members: int, ui: bool, port: int) -> None:
    """Run everything on a sandbox of both systems, starting from nothing, and show that they agree.

    Everything is written below TREAZURE_PIPELINE_HOME/demo, which is emptied first. No configured system is touched.
    """
    from treazure_pipeline.sandbox import sandbox_process

    output.note("Starting a database and a sandbox of both systems …")
    home = sandbox.set_apart("demo")
    arguments = ("--members", str(members), "--unknown-share", "0.004", "--set", "apply_delay=0.2")
    try:
        with ExitStack() as stack, ThreadPoolExecutor(1) as beside:
            database = beside.submit(_start_database, home)
            box = stack.enter_context(sandbox_process(*arguments))
            database.result()
            os.environ.update(
                sandbox.settings(int(box.base_url.rsplit(":", 1)[1]))
                | {"TREAZURE_PIPELINE_HOME": str(home), "TREAZURE_PIPELINE_RETRY_SCALE": "0.01"}
                | dict.fromkeys(("TREAZURE_TIMEOUT_SECONDS", "TREAZURE_LOOKUP_WAIT_SECONDS"), str(_WAIT_SECONDS))
            )
            settings = load_settings()
            os.environ.update(instance.prepare(settings).environment)
            stack.enter_context(instance.opened())
            results = _play(box, settings)
            moving = beside.submit(stack.enter_context, demo_migration.shop(members))
            with _running_receiver() as webhooks:
                box.behave(webhook_url=webhooks)
                contact, given = _give_points(box, settings)
                results.append(given)
            acts = [demo_guards.play(box, settings)]
            equal = _compare(box)
            acts.append(demo_drift.play(box, settings)["status"] == "ok")
            acts.append(demo_migration.play(moving.result(), members)["status"] == "ok")
            if ui:
                expect_ui(port)
                place = instance.locate(settings)
                log = new_log(place)
                with Family(os.environ, log) as family:
                    assert box.process is not None
                    family.watch("sandbox", box.process)
                    serve(family, place, port, {"Sandbox": f"{box.base_url}/docs", "Log": str(log)})
    finally:
        embedded.stop(home)
    if not equal or not all(acts) or any(result["status"] != "ok" for result in results):
        raise RunIncompleteError("The two systems do not agree.", hint="The differences are listed above.")
    _say_what_next(home, contact)


def _start_database(home: Path) -> None:
    """Start an empty database in an empty home."""
    embedded.stop(home)
    shutil.rmtree(home, ignore_errors=True)
    embedded.start(home)


def _play(box: Sandbox, settings: Settings) -> list[dict[str, Any]]:
    """Run the first load and some hours of shopping; print a column for each."""
    (programme,) = settings.programmes
    results = []
    for hour in range(_HOURS + 1):
        title = "first load" if hour == 0 else f"hour {hour}"
        if hour:
            played = box.play_hour(share=0.04)
            happened = ", ".join(f"{count:,} {what}" for what, count in next(iter(played.values())).items())
            output.note(f"Hour {hour} in the shops: {happened}")
            if hour == 1:
                box.set_fault("lost_after", count=1)
                output.note("Engage's next answer will get lost, after Engage has processed the request.")
        result = run_balance_sync(settings, programme, {})
        results.append(result | {"programme": title})
    output.say("")
    output.say("What the sync did")
    print_results(results, FIGURES)
    return results


@contextmanager
def _running_receiver() -> Iterator[str]:
    process = subprocess.Popen(cli.command_line("--port", "0"), stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _give_points(box: Sandbox, settings: Settings) -> tuple[str, dict[str, Any]]:
    """Give points in Engage, and follow them to Treazure and back. Returns the contact, and the result of the run."""
    (member, *_) = box.balances(limit=1)
    contact = member["contactId"]
    description = "Welcome gift " + "for a new member " * 6
    box.give_points(contact, 50, description=description)
    output.note("50 points are given in Engage; it signs the webhook and delivers it to the receiver.")
    box.wait_until_delivered()
    result = run_adjustments(settings)
    # Until then a different balance could come from a replica that lags, and would wait for the next run.
    time.sleep(_WAIT_SECONDS)
    box.apply_queue()
    (after,) = box.balances([contact])
    report = box.adjustment_report()
    table = output.table("", "before", "after")
    for system in ("treazure", "engage"):
        table.add_row(f"points of {contact} in {system.capitalize()}", member[system], after[system])
    table.add_row("adjustments given in Engage", "", report["given"])
    table.add_row("  of these booked once in Treazure", "", report["once"])
    table.add_row("  booked more than once", "", report["more_than_once"])
    table.add_row("  description cut to 100 characters", "", len(description) > 100)
    output.say("")
    output.say("Points given in Engage")
    output.console().print(table)
    if report["once"] != report["given"]:
        result["status"] = "failed"
    return contact, result


def _say_what_next(home: Path, contact: str) -> None:
    output.say("\nWhat to try next, in the ledger that this demo has left behind:")
    output.say(f"  export TREAZURE_PIPELINE_HOME={home}")
    for command, what in {
        f"explain {contact}": "why the member above has these points",
        "status": "what is pending, held or rejected now",
        "rejections list": "which contacts Engage does not know",
        "db stop": "stop the database that these commands start",
    }.items():
        output.say(f"  treazure-pipeline {command}\n      {what}")
    output.say("Or watch it run:")
    output.say("  treazure-pipeline demo --ui\n      the same, with Dagster's UI at the end")
    output.say("  treazure-pipeline dev --sandbox\n      Dagster's schedules and sensors on a sandbox of both systems")


def _compare(box: Sandbox) -> bool:
    """Let Engage apply what it accepted, then compare every balance of both systems."""
    box.apply_queue()
    found, report = box.differences(), box.report()
    table = output.table("", "")
    for name, value in {
        "contacts compared": found["compared"],
        "differing balances": found["differing"],
        "points in Treazure": found["treazure_total"],
        "points in Engage": found["engage_total"],
        "members that Engage does not know (kept, tried again later)": found["unknown_to_engage"],
        "most requests in any second (Engage's clock)": report["largest_in_one_second"],
        "requests about one balance that overlapped": report["overlaps"]["count"],
        "balances sent that were older than the newest": report["stale_amounts"]["count"],
    }.items():
        table.add_row(name, value)
    output.say("")
    output.say("What both systems hold now")
    output.console().print(table)
    for row in found["examples"]:
        output.error(f"{row}")
    equal = bool(found["equal"]) and not report["problems"]
    output.say("")
    output.say("Both systems agree." if equal else "The two systems do not agree.")
    return equal
