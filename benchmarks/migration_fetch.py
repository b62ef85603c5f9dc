"""How much of the allowed rate the fetching of points logs uses: `python benchmarks/migration_fetch.py`.

A sandbox whose answers take 50 ms, the product's own limiter on an embedded PostgreSQL, one shard of a migration. A
migration works in the background of the shared rate, so allowed is half of TREAZURE_MAX_REQUESTS_PER_SECOND. The first
second, in which the limiter makes its slots, counts too. The sandbox tells how many requests came in any second.
"""

from __future__ import annotations

import time

from databases import running_server

from treazure_pipeline.connections import Connections
from treazure_pipeline.database import schema
from treazure_pipeline.ledger.limiter import Priority
from treazure_pipeline.point_migration import steps
from treazure_pipeline.sandbox import API_KEY, CLIENT_ID, CLIENT_SECRET, LOYALTY_ID, sandbox_process
from treazure_pipeline.settings import load_settings

RATES = (40, 80, 160)
SECONDS = 30
ANSWER_SECONDS = 0.05


def main() -> None:
    """Measure each rate once and print a table."""
    print("| allowed (half of the rate) | contacts | seconds | fetched a second | share | most in any second |")
    print("|---|---|---|---|---|---|")
    for rate in RATES:
        allowed = rate // 2
        contacts = allowed * SECONDS
        arguments = ("--members", str(contacts), "--set", f"latency={ANSWER_SECONDS}", "--set", "export_polls=0")
        with running_server() as url, sandbox_process(*arguments) as sandbox:
            schema.upgrade(url)
            settings = load_settings(
                {
                    "TREAZURE_BASE_URL": sandbox.base_url,
                    "ENGAGE_BASE_URL": sandbox.base_url,
                    "TREAZURE_CLIENT_ID": CLIENT_ID,
                    "TREAZURE_CLIENT_SECRET": CLIENT_SECRET,
                    "ENGAGE_API_KEY": API_KEY,
                    "TREAZURE_LOYALTY_ID": LOYALTY_ID,
                    "TREAZURE_PIPELINE_DATABASE_URL": url,
                    "TREAZURE_MAX_REQUESTS_PER_SECOND": str(rate),
                    "MIGRATION_SHARDS": "1",
                }
            )
            with Connections(settings, priority=Priority.BACKGROUND) as connections:
                (programme,) = settings.programmes
                account = connections.ledger.account(programme)
                steps.prepare(connections, account, programme, run_id="benchmark")
                began = time.perf_counter()
                fetched = steps.fetch(connections, account, 0)
                seconds = time.perf_counter() - began
            most = sandbox.report()["treazure_largest_in_one_second"]
        speed = fetched.contacts / seconds
        print(f"| {allowed} | {fetched.contacts:,} | {seconds:.1f} | {speed:.1f} | {speed / allowed:.0%} | {most} |")


if __name__ == "__main__":
    main()
