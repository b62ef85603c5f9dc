"""A process that works on a step of a migration and is killed at a chosen place, as the kernel would do it."""

from __future__ import annotations

from treazure_pipeline.connections import Connections
from treazure_pipeline.point_migration import steps
from treazure_pipeline.point_migration.logs import fetch_shard
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.balance_sync.shop import account_of

PART = 10
CONCURRENCY = 4


def killed(environ: dict[str, str], step: str, place: tuple[str, str, int]) -> bool:
    """Work in another process that is killed at `place`; tell whether it was, and not done before.

    A place is a hook (`call` or `return`), a function's qualified name and the number of the call.
    """
    return processes.killed(_work, environ, step, place)


def _work(environ: dict[str, str], step: str, place: tuple[str, str, int]) -> None:
    with Connections(load_settings(environ)) as connections:
        account = account_of(connections)
        processes.die_at(*place)
        if step == "prepare":
            steps.prepare(connections, account, connections.settings.programmes[0], run_id="victim")
        elif step == "fetch":
            fetch_shard(
                connections.ledger, connections.treazure, account, 0, concurrency=CONCURRENCY,
                retry=connections.retry, part_contacts=PART,
            )  # fmt: skip
        elif step == "write":
            steps.write(connections, account, 0)
        elif step in {"files", "api"}:
            steps.deliver(connections, account, by=step)
        else:
            steps.audit(connections, account, run_id="victim")
