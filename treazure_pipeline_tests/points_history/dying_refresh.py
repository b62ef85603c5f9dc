"""A refresh of the logs, or their export, in a process that is killed (SIGKILL) at a chosen point."""

from __future__ import annotations

from typing import Any

from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.connections import Connections
from treazure_pipeline.points_history import export, store
from treazure_pipeline.points_history.refresh import refresh
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.balance_sync import dying_run
from treazure_pipeline_tests.balance_sync.shop import account_of

POINTS: dict[str, tuple[Any, str, bool]] = {
    "before_it_is_noted_who_is_due": (store, "note_due", False),
    "after_it_was_noted_who_is_due": (store, "note_due", True),
    "before_a_log_is_asked_for": (TreazureClient, "history", False),
    "before_a_log_is_stored": (store, "replace", False),
    "when_a_log_s_old_rows_are_gone": (store, "_copy", False),
    "when_a_log_s_new_rows_are_written": (store, "_copy", True),
    "before_a_log_s_commit": (store, "_count_months", True),
    "after_a_log_was_stored": (store, "replace", True),
    "in_the_middle_of_a_file": (export, "_table", True),
    "between_two_files": (export._Target, "write", True),  # noqa: SLF001
}


def killed(environ: dict[str, str], point: str, nth: int, url: str | None = None) -> None:
    """Read the logs that are due, and export them where an address is given, until the n-th passing of a point."""
    assert processes.killed(_work, environ, point, nth, url)


def _work(environ: dict[str, str], point: str, nth: int, url: str | None) -> None:
    dying_run.POINTS = POINTS
    dying_run.die_at(point, nth, processes.die)
    with Connections(load_settings(environ)) as connections:
        account = account_of(connections)
        refresh(connections.ledger, connections.treazure, account, concurrency=4)
        if url is not None:
            export.export(connections.ledger, account, url)
