"""A run of the sync whose process is killed (SIGKILL) at a chosen point."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

from treazure_pipeline.balance_sync import merge as balance_sync_merge
from treazure_pipeline.balance_sync import push, snapshot, staging
from treazure_pipeline.clients.engage import EngageClient
from treazure_pipeline.connections import Connections
from treazure_pipeline.ledger import batches
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.balance_sync.shop import account_of, fetch, merge, send

# Point: the function that is about to be called, or (`after`) has been, when the process dies.
POINTS: dict[str, tuple[Any, str, bool]] = {
    "before_the_export_is_asked_for": (staging, "ask", False),
    "in_the_middle_of_the_export": (staging, "_keep_rejected", False),
    "between_export_and_merge": (balance_sync_merge, "merge", False),
    "in_the_middle_of_the_merge": (balance_sync_merge, "_note_vanished", True),
    "between_slices": (balance_sync_merge, "_merge_slice", True),
    "between_merge_and_push": (snapshot, "reread_accounts", True),
    "after_a_batch_was_claimed": (push, "encode_balances", False),
    "after_a_batch_was_accepted_but_not_recorded": (batches, "accept", False),
    "between_batches": (batches, "accept", True),
    "between_acceptance_and_folding": (push._Push, "_fold", False),  # noqa: SLF001
    "after_folding": (push._Push, "_fold", True),  # noqa: SLF001
    "after_a_batch_was_refused_but_not_recorded": (batches, "refuse", False),
    "after_a_batch_was_split": (batches, "refuse", True),
    "after_an_answer_was_lost": (batches, "fail", False),
    "instead_of_sending": (EngageClient, "set_balances", False),
}


def die_at(point: str, nth: int, die: Callable[[], None]) -> None:
    """Have `die` called at the n-th passing of a point."""
    owner, name, after = POINTS[point]
    original = getattr(owner, name)
    left = [nth]
    guard = threading.Lock()

    def passing(*arguments: Any, **keywords: Any) -> Any:
        with guard:
            left[0] -= 1
            last = left[0] == 0
        if last and not after:
            die()
        result = original(*arguments, **keywords)
        if last and after:
            die()
        return result

    setattr(owner, name, passing)


def killed(environ: dict[str, str], point: str, nth: int = 1) -> bool:
    """Sync in another process that is killed at the n-th passing of a point; tell whether it was."""
    return processes.killed(_work, environ, point, nth)


def _work(environ: dict[str, str], point: str, nth: int) -> None:
    balance_sync_merge.SLICE_ROWS = 100
    die_at(point, nth, processes.die)
    with Connections(load_settings(environ)) as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        run_id = uuid.uuid4().hex
        fetch(connections, account, run_id=run_id)
        send(connections, account, run_id, merge(connections, account, run_id))
