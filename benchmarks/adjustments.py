"""Measure adjustments; `python benchmarks/adjustments.py` runs this and writes docs/benchmarks-adjustments.md.

First the queue: adjustments of different contacts, taken from the queue to Treazure, which answers after 50 ms and has
no rate limit here, and from there to Engage with its default budget. Beside it stands the floor: the same calls, bare,
from 8 threads that keep their connections, with no queue and no ledger. Both take turns. Then the whole way: signed
webhook, receiver, sensor, run, Treazure, Engage, with Dagster's daemon running, which gives each run a process of its
own; and once more with a worker instead of the daemon. All of it shares the machine. `--way` measures only that, and
writes nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import httpx
import psycopg
from databases import running_server, sibling

from treazure_pipeline.adjustments import queue
from treazure_pipeline.clients import wire
from treazure_pipeline.connections import Connections
from treazure_pipeline.database import schema
from treazure_pipeline.sandbox import (
    API_KEY,
    CLIENT_ID,
    CLIENT_SECRET,
    LOYALTY_ID,
    WEBHOOK_SECRET,
    Sandbox,
    sandbox_process,
)
from treazure_pipeline.settings import Settings, load_settings
from treazure_pipeline.terminal import instance
from treazure_pipeline.terminal.processes import Family

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks-adjustments.md"
THREADS = 8
ANSWER_SECONDS = 0.05
COMMAND = [sys.executable, "-c", "from treazure_pipeline.cli import main; main()"]
PATIENCE = 120
VERIFIED = 20_000  # a quarter of an hour at half of 45 a second


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks/adjustments.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few, once; writes nothing but the output")
    parser.add_argument("--way", action="store_true", help="only from the webhook to the balance; writes nothing")
    given = parser.parse_args()
    quick = given.quick
    count, repeat, deliveries = (100, 1, 3) if quick else (1000, 3, 8)
    with running_server() as url:
        schema.upgrade(url)
        if given.way:
            for beside in (False, True):
                for worker in (False, True):
                    by = f"{'a worker' if worker else 'a run'}{', beside a verification' if beside else ''}"
                    print(_said(delivered(url, deliveries, worker=worker, beside=beside), by), flush=True)
            return
        with sandbox(count + 1) as stand_in:
            settings = load_settings(environment(stand_in, url))
            process(settings, url, stand_in, 20)
            runs = []
            for _ in range(repeat):
                runs.append((bare(stand_in, count), process(settings, url, stand_in, count)))
                print(f"bare {runs[-1][0]:.1f} s, product {runs[-1][1]:.1f} s", file=sys.stderr)
        latencies = delivered(url, deliveries)
        by_worker = delivered(url, deliveries, worker=True)
    text = markdown(count, runs, latencies, by_worker)
    print(text)
    if not quick:
        PAGE.write_text(f"# Adjustments, measured\n\n{text}\n", encoding="utf-8")


@contextmanager
def sandbox(members: int) -> Iterator[Sandbox]:
    """Both systems in a process of their own; only transactions take their time."""
    switches = ["apply_delay=0", f"transaction_latency={ANSWER_SECONDS}", "track_rows=false", "track_amounts=false"]
    arguments = ["--members", str(members), "--in-step", *(part for text in switches for part in ("--set", text))]
    with sandbox_process(*arguments) as running:
        yield running


def environment(stand_in: Sandbox, url: str, **more: str) -> dict[str, str]:
    """Return the settings: the defaults but for Treazure's rate, which is lifted unless `more` says so."""
    return {
        "TREAZURE_BASE_URL": stand_in.base_url,
        "TREAZURE_CLIENT_ID": CLIENT_ID,
        "TREAZURE_CLIENT_SECRET": CLIENT_SECRET,
        "TREAZURE_LOYALTY_ID": LOYALTY_ID,
        "ENGAGE_BASE_URL": stand_in.base_url,
        "ENGAGE_API_KEY": API_KEY,
        "TREAZURE_PIPELINE_DATABASE_URL": url,
        "TREAZURE_MAX_REQUESTS_PER_SECOND": "0",
    } | more


def bare(stand_in: Sandbox, count: int) -> float:
    """Make the same calls with nothing around them; return the seconds."""
    contacts = stand_in.contact_ids(limit=count)
    with httpx.Client(base_url=stand_in.base_url, limits=httpx.Limits(max_keepalive_connections=THREADS)) as client:
        form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        token = client.post(wire.TOKEN, data=form | {"scope": wire.SCOPE}).raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

        def post(contact: str) -> None:
            content = wire.encode_transaction(LOYALTY_ID, Decimal("12.5"), uuid.uuid4().hex, "Points given by hand")
            client.post(wire.transaction_path(contact), content=content, headers=headers).raise_for_status()

        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(post, contacts):
                pass
        return time.perf_counter() - began


def process(settings: Settings, url: str, stand_in: Sandbox, count: int) -> float:
    """Process as many adjustments as the job does, from the first look into the queue until Engage has accepted all."""
    from treazure_pipeline.adjustments.processing import process, work_of

    with Connections(settings) as connections:
        for contact in stand_in.contact_ids(limit=count):
            payload = {"contactId": contact, "amount": Decimal("12.5"), "pointDefinitionId": 1,
                       "description": "Points given by hand"}  # fmt: skip
            queue.add(connections.ledger, uuid.uuid4().hex, payload)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("checkpoint")
    with Connections(settings) as connections:
        began = time.perf_counter()
        done = process(work_of(connections, settings.programmes, uuid.uuid4().hex))
        seconds = time.perf_counter() - began
    if (done.posted, done.done) != (count, count):
        sys.exit(f"{done} instead of {count} posted and done")
    return seconds


def delivered(url: str, count: int, *, worker: bool = False, beside: bool = False) -> list[float]:
    """Deliver webhooks one after another, at odd moments; return the seconds until Engage has the new balance.

    `beside`: while a verification reads as many contacts back as its half of the rate allows.
    """
    name = f"delivered_{'worker' if worker else 'run'}{'_beside' if beside else ''}"
    ledger = sibling(url, name)
    with psycopg.connect(url, autocommit=True) as connection:
        for each in (name, f"{name}_dagster"):
            connection.execute(f'create database "{each}"')
    schema.upgrade(ledger)
    with sandbox(VERIFIED if beside else count) as stand_in, tempfile.TemporaryDirectory() as home:
        given = {**os.environ, **environment(stand_in, ledger, TREAZURE_MAX_REQUESTS_PER_SECOND="40")}
        given |= {
            "ENGAGE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "DAGSTER_POSTGRES_URL": sibling(url, f"{name}_dagster"),
            "TREAZURE_PIPELINE_HOME": home,
            "ENGAGE_VERIFY_GRACE_SECONDS": "0",
        }
        place = instance.prepare(load_settings(given))
        contacts = stand_in.contact_ids(limit=count)
        stand_in.set_points(dict.fromkeys(contacts, 100))
        with receiver(given | place.environment) as address, Family(given | place.environment) as family:
            workspace = str(place.dagster_home / "workspace.yaml")
            daemon = [sys.executable, "-m", "dagster._daemon", "run", "-w", workspace]
            family.start(*(("worker", [*COMMAND, "worker"]) if worker else ("daemon", daemon)))
            if beside:
                subprocess.run(
                    [*COMMAND, "run", "balance-sync"],
                    env=given | place.environment,
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
                family.start("verification", [*COMMAND, "run", "verify"])
            stand_in.behave(webhook_url=address)
            seconds = [_latency(stand_in, contact) for contact in contacts]
    return seconds[1:]


def _said(seconds: Sequence[float], by: str) -> str:
    middle = statistics.median(seconds)
    return f"Webhook to balance by {by}: median {middle:.1f} s of {len(seconds)}, at most {max(seconds):.1f} s."


def _latency(stand_in: Sandbox, contact: str) -> float:
    # Longer than a run waits for more: each webhook finds none under way.
    time.sleep(15 + uuid.uuid4().int % 5000 / 1000)
    began = time.perf_counter()
    stand_in.give_points(contact, "12.5")
    while stand_in.balances([contact])[0]["engage"] != "112.5":
        if time.perf_counter() - began > PATIENCE:
            sys.exit(f"The balance of {contact} has not arrived within {PATIENCE} s.")
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    print(f"webhook to balance {seconds:.1f} s", file=sys.stderr)
    return seconds


@contextmanager
def receiver(given: dict[str, str]) -> Iterator[str]:
    """Run the receiver in a process of its own; yield its address."""
    process = subprocess.Popen([*COMMAND, "receiver", "--port", "0"], env=given, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        yield address[0]
    finally:
        process.terminate()
        process.wait()


def markdown(
    count: int, runs: Sequence[tuple[float, float]], latencies: Sequence[float], by_worker: Sequence[float]
) -> str:
    """Return medians, ratios and targets as Markdown."""
    floor, ours = (statistics.median(run[index] for run in runs) for index in (0, 1))
    ratio, middle = ours / floor, statistics.median(latencies)
    rows = [
        f"| {count:,} adjustments of different contacts, s | < 15 | {ours:.1f} | {_met(ok=ours < 15)} |",
        f"| times the bare calls, {THREADS} threads ({floor:.1f} s) | ≤ 2 | **{ratio:.2f}** | {_met(ok=ratio <= 2)} |",
        f"| webhook to balance accepted by Engage, median, s | < 15 | {middle:.1f} | {_met(ok=middle < 15)} |",
        f"| the same with a worker, s | | {statistics.median(by_worker):.1f} | |",
    ]
    each = "; ".join(f"bare {first:.1f} s, product {second:.1f} s" for first, second in runs)
    machine = (
        f"Written by `python benchmarks/adjustments.py`. {os.cpu_count()} cores, shared with PostgreSQL (waiting for "
        "its disk), with the sandbox of both systems in a process of its own, and in the last row with Dagster's "
        f"daemon and the receiver. Treazure answers after {ANSWER_SECONDS * 1000:.0f} ms."
    )
    about_queue = (
        f"The queue, {len(runs)} times, taking turns: {each}. The product's time runs from the first look into a full "
        f"queue until Engage has accepted every balance at its default rate; {THREADS} threads with answers after "
        f"{ANSWER_SECONDS * 1000:.0f} ms could not be done before {count * ANSWER_SECONDS / THREADS:.2f} s."
    )
    about_way = (
        f"The whole way, {len(latencies)} webhooks at odd moments when no run was under way, all settings at their "
        f"defaults: {min(latencies):.1f} to {max(latencies):.1f} s. Most is Dagster's: the sensor's tick "
        "(every 5 s at the earliest), the run's queue, and the start of the run's process."
    )
    table = ["| target | wanted | measured | |", "|---|--:|--:|---|", *rows]
    return "\n".join([machine, "", *table, "", about_queue, "", about_way])


def _met(*, ok: bool) -> str:
    return "met" if ok else "**missed**"


if __name__ == "__main__":
    main()
