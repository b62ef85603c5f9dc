"""Parts of the product that can be taken out, to see whether the adversary finds that they are missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any
from unittest import mock

from treazure_pipeline.clients.pacing import Unpaced


@dataclass(frozen=True)
class Part:
    """Where a part is, and what stands in its place; `kinds`: the troubles that it is there for, none: all."""

    module: str
    path: str
    instead: Callable[[Any], Any]
    kinds: Sequence[str] = ()


def _no_reading_before_a_second_call(_: Callable[..., Any]) -> Callable[..., Any]:
    from treazure_pipeline.adjustments import queue  # noqa: PLC0415

    def send_again(work: Any, _account: Any, adjustment: Any, _result: Any, *_: Any, **__: Any) -> None:
        queue.settle(work.ledger, adjustment, "queued", reason="sent again unread", looked=True, run_id=work.run_id)

    return send_again


def _believes_whatever_is_read(_: Any) -> Callable[..., Any]:
    from treazure_pipeline.adjustments.evidence import Verdict, stands_for  # noqa: PLC0415

    def decide(call: Any, reading: Any, **_: Any) -> Verdict:
        found = any(stands_for(movement.receipt_nr, call.receipt, ()) for movement in reading.movements)
        return Verdict("happened" if found else "absent", "whatever was read")

    return decide


def _unread_is_empty(read: Callable[..., Any]) -> Callable[..., Any]:
    def reading(*arguments: Any) -> Any:
        found = read(*arguments)
        return replace(found, failure=None, account_failure=None, balance=found.balance or Decimal(0))

    return reading


def _exactly(_: Any) -> Callable[..., Any]:
    return lambda shown, receipt, _others: shown == receipt


def _with(**changes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Call the function with other arguments."""
    return lambda original: lambda *arguments, **keywords: original(*arguments, **{**keywords, **changes})


def _always(value: Any) -> Callable[[Any], Any]:
    """Return the same whatever is asked."""
    return lambda _: lambda *_, **__: value


async def _nothing(*_: Any) -> set[str]:
    return set()


_ADJUSTMENTS = "treazure_pipeline.adjustments.processing"
_QUEUE = "treazure_pipeline.adjustments.queue"
_EVIDENCE = "treazure_pipeline.adjustments.evidence"
_ENGAGE = "treazure_pipeline.clients.engage"
_NO_ORDER = ("e.state = 'sending' or e.id < a.id", "false and e.id < a.id")
_ALWAYS_NEWER = ("r.id is null as newer", "true as newer")

PARTS: dict[str, Part] = {
    "look before a second call": Part(_ADJUSTMENTS, "_look_up", _no_reading_before_a_second_call, ["lost"]),
    "evidence at all": Part(_EVIDENCE, "decide", _believes_whatever_is_read, ["lost", "late", "receipts"]),
    "history that reaches the balance": Part(_EVIDENCE, "reaches", _always(value=True), ["lost", "late"]),
    "404 proves nothing": Part(_ADJUSTMENTS, "_read", _unread_is_empty, ["missing"]),
    "receipts folded or shortened": Part(_EVIDENCE, "stands_for", _exactly, ["receipts"]),
    "restored ledgers noticed": Part("treazure_pipeline.ledger.identity", "NOTICE", lambda _: "select 1", ["restore"]),
    "old ones looked up first": Part(_QUEUE, "claim", _with(first_after=1e9), ["rollback"]),
    "one at a time, in order": Part(_QUEUE, "_CLAIM", lambda sql: sql.replace(*_NO_ORDER), ["lost", "burst"]),
    "another event under an id": Part("treazure_pipeline.adjustments.inbox", "Store._insert_others", lambda _: _nothing,
                                      ["same_id"]),
    "nothing sent too late": Part(_ENGAGE, "EngageClient.set_balances", _with(before=math.inf),
                                  ["freeze"]),
    "rows of a request leased": Part("treazure_pipeline.ledger.batches", "claim", _with(lease=0), ["crowd", "lost"]),
    "accounts that overlap read again": Part("treazure_pipeline.balance_sync.readings", "to_reread", _always(value=[]),
                                             ["burst"]),
    "exports older than what is known": Part("treazure_pipeline.balance_sync.merge", "_NOTE",
                                             lambda sql: sql.replace(*_ALWAYS_NEWER), ["overlap"]),
    "doubted rows left to the sync": Part("treazure_pipeline.ledger.batches", "claim", _with(doubted=True)),
    "windows that overlap": Part("treazure_pipeline.ledger.coverage", "OVERLAP", lambda _: timedelta(0), ["tardy"]),
    "reading back marks": Part("treazure_pipeline.verification.read_back", "is_same", _always(value=True), ["slow"]),
    "the shared rate": Part("treazure_pipeline.connections", "shared_rate", lambda _: lambda *_, **__: Unpaced(),
                            ["rate", "crowd"]),
}  # fmt: skip
"""By name."""


@contextmanager
def without(part: str | None) -> Iterator[None]:
    """Take a part out for the block."""
    if part is None:
        yield
        return
    taken = PARTS[part]
    owner: Any = import_module(taken.module)
    *outer, name = taken.path.split(".")
    for one in outer:
        owner = getattr(owner, one)
    with mock.patch.object(owner, name, taken.instead(getattr(owner, name))):
        yield
