"""One measurement in a process of its own, so that its peak memory is its own; prints one JSON object.

Run as `measure.py KIND STUB_URL [ARGUMENT]`. Seconds count from the first request on: imports and the start of the
interpreter are no part of them.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import members

CONCURRENCY = 8
CHUNK = 1 << 20
HEADERS = {"apikey": "benchmark", "user-agent": "benchmark/1", "content-type": "application/json"}


def floor(stub: str, changes: str) -> dict[str, Any]:
    """(a) Fetch the bytes of the export and post as many as the pipeline posts, with nothing in between."""
    row = {
        "contactId": members.contact(1),
        "amount": 1000.5,
        "definitionId": 1,
        "timeStamp": "2026-01-31T12:00:00.123Z",
    }
    bodies = [json.dumps([row] * members.ROWS_PER_REQUEST, separators=(",", ":")).encode()]
    bodies *= -(-int(changes) // members.ROWS_PER_REQUEST)
    with httpx.Client(base_url=stub, timeout=60) as client, ThreadPoolExecutor(CONCURRENCY) as threads:
        began = time.perf_counter()
        href = client.post("/api/v1.0/LoyaltyVault/Balances/Get", json={}).json()["href"]
        with client.stream("GET", f"{href}/result") as response:
            for _ in response.iter_bytes(CHUNK):
                pass
        fetched = time.perf_counter()
        for response in threads.map(
            lambda body: client.post("/api/v2/point-accounts/balances", content=body, headers=HEADERS), bodies
        ):
            response.raise_for_status()
        ended = time.perf_counter()
    return {"seconds": ended - began, "phases": {"fetch": fetched - began, "post": ended - fetched}}


def state(_stub: str, path_and_base: str) -> dict[str, Any]:
    """Write the plain script's state: what it sent last, for all members."""
    import pandas as pd

    path, base = path_and_base.rsplit(":", 1)
    numbers = range(1, int(base) + 1)
    pd.DataFrame(
        {
            "contact": list(map(members.contact, numbers)),
            "sent": [float(members.before(number)) for number in numbers],
        }
    ).to_parquet(path)
    return {}


def plain(stub: str, path: str) -> dict[str, Any]:
    """(b) The script that one would write: httpx, json and pandas, its state in a Parquet file."""
    import pandas as pd

    began = time.perf_counter()
    with httpx.Client(base_url=stub, timeout=60) as client, ThreadPoolExecutor(CONCURRENCY) as threads:
        href = client.post("/api/v1.0/LoyaltyVault/Balances/Get", json={}).json()["href"]
        export = pd.DataFrame(client.get(f"{href}/result").json())
        fetched = time.perf_counter()
        export = export.rename(columns={"accountNumber": "contact"}).sort_values("mutatedAt")
        export = export.drop_duplicates("contact", keep="last")[["contact", "balance"]]
        known = pd.read_parquet(path)
        merged = export.merge(known.reset_index(), on="contact", how="left")
        changed = merged[merged["balance"] != merged["sent"]]
        compared = time.perf_counter()
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        rows = changed[["contact", "balance"]].rename(columns={"contact": "contactId", "balance": "amount"})
        records = rows.assign(definitionId=1, timeStamp=moment).to_dict("records")
        size = members.ROWS_PER_REQUEST
        parts = [records[start : start + size] for start in range(0, len(records), size)]
        for response in threads.map(
            lambda part: client.post("/api/v2/point-accounts/balances", json=part, headers=HEADERS), parts
        ):
            response.raise_for_status()
        pushed = time.perf_counter()
        sent = changed[["contact", "balance"]].rename(columns={"balance": "sent"})
        pd.concat([known.drop(changed["index"].dropna()), sent]).to_parquet(f"{path}.new")
        Path(f"{path}.new").rename(f"{path}.after")
    ended = time.perf_counter()
    return {
        "seconds": ended - began,
        "sent": len(records),
        "phases": {
            "fetch": fetched - began,
            "compare": compared - fetched,
            "post": pushed - compared,
            "save": ended - pushed,
        },
    }


def environment(stub: str, database: str) -> dict[str, str]:
    """Return the environment's settings for the stub; it says what limit holds at Engage."""
    return {
        **os.environ,
        "FULL_RESYNC_CRON": "off",  # no hour is measured in which everything is read
        "TREAZURE_MAX_REQUESTS_PER_SECOND": "0",
        # Guards judge every run; what is measured here would trip them.
        "GUARD_MAX_CHANGED_SHARE": "1",
        "GUARD_MAX_TOTAL_SHARE": "1000",
        "TREAZURE_BASE_URL": stub,
        "TREAZURE_CLIENT_ID": "benchmark",
        "TREAZURE_CLIENT_SECRET": "benchmark",
        "TREAZURE_LOYALTY_ID": members.LOYALTY_ID,
        "ENGAGE_BASE_URL": stub,
        "ENGAGE_API_KEY": "benchmark",
        "TREAZURE_PIPELINE_DATABASE_URL": database,
    }


def settings(stub: str, database: str) -> Any:
    """Return the product's settings for the stub."""
    from treazure_pipeline.settings import load_settings

    return load_settings(environment(stub, database))


def pipeline(stub: str, database: str) -> dict[str, Any]:
    """The domain code without Dagster, called as the assets call it; all that is fetched has changed."""
    figures = sync(stub, database)
    if not figures["changed"] == figures["sent"] == figures["fetched"]:
        raise SystemExit(f"Not what a measurement should do: {figures}")
    return figures


def sync(stub: str, database: str) -> dict[str, Any]:
    """The same, whatever is fetched."""
    from treazure_pipeline.balance_sync.guards import judge
    from treazure_pipeline.balance_sync.push import push
    from treazure_pipeline.balance_sync.snapshot import merge_snapshot, take_snapshot
    from treazure_pipeline.balance_sync.windows import chosen_window
    from treazure_pipeline.connections import Connections, Run

    configured = settings(stub, database)
    began = time.perf_counter()
    with Connections(configured) as connections:
        run = Run.of(connections, configured.programmes[0], "benchmark")
        with run.ledger.holding(run.account):
            snapshot = take_snapshot(run, chosen_window(run))
            diff = merge_snapshot(run)
            judging = time.perf_counter()
            judgment = judge(run)
            judged = time.perf_counter() - judging
            pushed = push(run, since=diff.figures.backlog, judgment=judgment)
    ended = time.perf_counter()
    if pushed.error is not None:
        raise pushed.error
    return {
        "seconds": ended - began,
        "fetched": snapshot.fetched,
        "changed": diff.figures.changed,
        "sent": pushed.sent,
        "phases": {"export": snapshot.seconds, "merge": diff.seconds + judged, "push": pushed.seconds["push"]},
        "fold": pushed.seconds["fold"],
    }


def job(stub: str, database: str) -> dict[str, Any]:
    """The Dagster job in this process on an instance with PostgreSQL storage, beside the domain code for the same."""
    import dagster as dg

    from treazure_pipeline.definitions import build_definitions

    definitions = build_definitions(settings(stub, database))
    with dg.DagsterInstance.get() as instance:
        began = time.perf_counter()
        result = definitions.resolve_job_def("hourly_balance_sync").execute_in_process(instance=instance)
        seconds = time.perf_counter() - began
    if not result.success:
        raise SystemExit("The job failed.")
    return {"seconds": seconds}


def dlt(stub: str, folder: str) -> dict[str, Any]:
    """(c) dlt; benchmarks/peer_dlt.py says how it is set up."""
    import peer_dlt

    return peer_dlt.run(stub, Path(folder))


def drt(stub: str, folder: str) -> dict[str, Any]:
    """(d) drt-core on DuckDB; benchmarks/peer_drt.py says how it is set up."""
    import peer_drt

    return peer_drt.run(stub, Path(folder))


if __name__ == "__main__":
    kinds = {function.__name__: function for function in (floor, state, plain, pipeline, sync, job, dlt, drt)}
    figures = kinds[sys.argv[1]](sys.argv[2], sys.argv[3])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps(figures | {"peak_mb": peak / 1e6, "cpu": usage.ru_utime + usage.ru_stime}))
