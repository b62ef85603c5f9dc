"""(d) drt-core, as its quickstart and its page on the REST API destination advise: DuckDB, an incremental cursor.

drt is the way back only, from the warehouse. So the export is loaded into DuckDB by DuckDB's own JSON reader and merged
into the table of balances with one statement, which numbers the load of each balance that differs. That number is the
cursor. `drt run --threads 8` works on eight syncs, each with an eighth of the contacts; one sync posts one request
after another. drt's default limit of ten requests a second is lifted.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import httpx
import members
import yaml

THREADS = 8
SCALE = float(os.environ.get("TREAZURE_PIPELINE_RETRY_SCALE", "1"))
PROJECT = {"name": "points", "version": "0.1", "profile": "local"}
_TABLE = f"""
create table balances as
select {members.CONTACT_SQL} as contact, ({members.BEFORE_SQL})::decimal(18, 2) as balance,
       timestamptz '2026-01-01 00:00:00+00' as mutated_at, 1 as load
from range(1, $base + 1) numbers(n)
"""  # noqa: S608 - nothing but constants of the benchmark
_EXPORT = """
create temp table export as
select accountNumber as contact, balance, mutatedAt as mutated_at
from read_json($path, format = 'array',
               columns = {accountNumber: 'uuid', balance: 'decimal(18, 2)', mutatedAt: 'timestamptz'})
qualify row_number() over (partition by accountNumber order by mutatedAt desc) = 1
"""
_MERGE = """
merge into balances b using (select *, (select max(load) + 1 from balances) as load from export) e
on b.contact = e.contact
when matched and b.balance <> e.balance then
    update set balance = e.balance, mutated_at = e.mutated_at, load = e.load
when not matched then insert (contact, balance, mutated_at, load) values (e.contact, e.balance, e.mutated_at, e.load)
"""
_MODEL = """
select contact::text as "contactId", balance::double as amount, 1 as "definitionId",
       strftime(mutated_at at time zone 'UTC', '%Y-%m-%dT%H:%M:%S.%gZ') as "timeStamp", load
from balances where hash(contact) % {threads} = {part}
"""


def prepare(folder: Path, base: int) -> None:
    """Make the warehouse that knows the members 1 to `base`."""
    import duckdb

    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        connection.execute(_TABLE, {"base": base})


def run(stub: str, folder: Path) -> dict[str, Any]:
    """Fetch, find what changed and post it; the warehouse and the cursors are kept in `folder`."""
    os.environ |= {"HOME": str(folder), "DO_NOT_TRACK": "1"}
    import duckdb
    from drt.cli.main import app

    _configure(stub, folder)
    os.chdir(folder)
    # What a run imports is no part of its time.
    app(["run", "--quiet", "--dry-run"], standalone_mode=False)
    began = time.perf_counter()
    with httpx.Client(base_url=stub, timeout=60) as client, Path("export.json").open("wb") as file:
        href = client.post("/api/v1.0/LoyaltyVault/Balances/Get", json={}).json()["href"]
        with client.stream("GET", f"{href}/result") as response:
            file.writelines(response.iter_bytes(1 << 20))
    fetched = time.perf_counter()
    with duckdb.connect("warehouse.duckdb") as connection:
        connection.execute(_EXPORT, {"path": "export.json"})
        connection.execute(_MERGE)
    merged = time.perf_counter()
    app(["run", "--quiet", "--threads", str(THREADS)], standalone_mode=False)
    ended = time.perf_counter()
    return {
        "seconds": ended - began,
        "phases": {"fetch": fetched - began, "merge": merged - fetched, "run": ended - merged},
    }


def _configure(stub: str, folder: Path) -> None:
    profile = {"local": {"type": "duckdb", "database": str(folder / "warehouse.duckdb")}}
    files: dict[str, dict[str, Any]] = {"drt_project.yml": PROJECT, ".drt/profiles.yml": profile}
    destination = {
        "type": "rest_api",
        "url": f"{stub}/api/v2/point-accounts/balances",
        "headers": {"Content-Type": "application/json", "apikey": "benchmark", "User-Agent": "benchmark/1"},
        "body_mode": "batch",
        "batch_template": "{{ rows | tojson_safe }}",
        "max_records_per_request": members.ROWS_PER_REQUEST,
    }
    sync = {
        "mode": "incremental",
        "cursor_field": "load",
        "watermark": {"storage": "local", "default_value": "1"},
        "batch_size": 10 * members.ROWS_PER_REQUEST,
        "rate_limit": {"requests_per_second": 1_000_000},
        "retry": {"initial_backoff": SCALE},
        "on_error": "fail",
    }
    for part in range(THREADS):
        model = _MODEL.format(threads=THREADS, part=part)
        name = f"balances_{part}"
        files[f"syncs/{name}.yml"] = {"name": name, "model": model, "destination": destination, "sync": sync}
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(content), encoding="utf-8")
