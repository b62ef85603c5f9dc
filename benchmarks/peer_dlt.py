"""(c) dlt, as its pages on reverse ETL and on performance advise.

A resource with an incremental cursor on `mutatedAt` yields the export as Arrow tables, a custom destination posts it.
Eight files are posted at once, and a killed load goes on with the request it was at. dlt
keeps no balances: what changed is what the export shows with a later time than the last run saw.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import members

THREADS = 8
SCALE = float(os.environ.get("TREAZURE_PIPELINE_RETRY_SCALE", "1"))
SETTINGS = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "RUNTIME__REQUEST_BACKOFF_FACTOR": str(SCALE),
    "LOAD__WORKERS": str(THREADS),
    "DATA_WRITER__FILE_MAX_ITEMS": str(members.ROWS_PER_REQUEST),  # each part of the export is a file
}


def run(stub: str, folder: Path) -> dict[str, Any]:
    """Fetch, find what changed and post it; the pipeline's state is kept in `folder`."""
    os.environ.update(SETTINGS)
    import dlt
    import polars as pl
    from dlt.sources.helpers import requests

    @dlt.resource(name="balances")
    def balances(
        _changed: Any = dlt.sources.incremental("mutatedAt", initial_value="2026-01-01T00:00:00.000Z"),  # noqa: B008
    ) -> Iterator[Any]:
        href = requests.post(f"{stub}/api/v1.0/LoyaltyVault/Balances/Get", json={}).json()["href"]
        export = pl.read_json(requests.get(f"{stub}{href}/result").content).to_arrow()
        rows = members.ROWS_PER_REQUEST * max(1, -(-export.num_rows // (members.ROWS_PER_REQUEST * THREADS)))
        for start in range(0, export.num_rows, rows):
            yield export.slice(start, rows)

    @dlt.destination(batch_size=members.ROWS_PER_REQUEST, loader_file_format="parquet", name="engage")
    def engage(items: Any, _table: Any) -> None:
        rows = [
            {
                "contactId": row["accountNumber"],
                "amount": row["balance"],
                "definitionId": 1,
                "timeStamp": row["mutatedAt"],
            }
            for row in items.to_pylist()
        ]
        headers = {"apikey": "benchmark", "user-agent": "benchmark/1", "content-type": "application/json"}
        body = json.dumps(rows, separators=(",", ":"))
        requests.post(f"{stub}/api/v2/point-accounts/balances", data=body, headers=headers).raise_for_status()

    _import_all(dlt, pl)
    pipeline = dlt.pipeline("points", destination=engage, pipelines_dir=str(folder))
    began = time.perf_counter()
    if pipeline.has_pending_data:
        print(pipeline.run(), file=sys.stderr)
    pipeline.run(balances())
    seconds = time.perf_counter() - began
    steps = {
        step.step: (step.finished_at - step.started_at).total_seconds()
        for step in pipeline.last_trace.steps
        if step.finished_at is not None
    }
    return {"seconds": seconds, "phases": {name: steps[name] for name in ("extract", "normalize", "load")}}


def _import_all(dlt: Any, pl: Any) -> None:
    """Run a pipeline of one row: what a run imports is no part of its time."""

    @dlt.destination(loader_file_format="parquet", name="nowhere")
    def nowhere(_items: Any, _table: Any) -> None:
        """Take a row."""

    @dlt.resource(name="one")
    def one(_changed: Any = dlt.sources.incremental("at", initial_value="2026-01-01")) -> Iterator[Any]:  # noqa: B008
        yield pl.DataFrame({"at": ["2026-01-02"]}).to_arrow()

    with tempfile.TemporaryDirectory() as folder:
        dlt.pipeline("imports", destination=nowhere, pipelines_dir=folder).run(one())
