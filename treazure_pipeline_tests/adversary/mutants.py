"""Parts of the product that can be taken out, to see whether the adversary finds that they are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from unittest import mock


@dataclass(frozen=True)
class Part:
    """Where a part is, and what stands in its place; `kinds`: the troubles that it is there for, none: all."""

    module: str
    path: str
    replace: Callable[[Any], Any]
    kinds: Sequence[str] = ()


def _no_reading_before_a_second_call(_: Callable[..., Any]) -> Callable[..., Any]:
    from treazure_pipeline.ledger import adjustments as queue  # noqa: PLC0415

    def send_again(work: Any, _account: Any, adjustment: Any, _result: Any, *_: Any, **__: Any) -> None:
        queue.settle(work.ledger, adjustment, "queued", reason="sent again unread", looked=True, run_id=work.run_id)

    return send_again


def _never(_: Any) -> Callable[..., Any]:
    return lambda *_, **__: None


def _always(_: Any) -> Callable[..., Any]:
    return lambda *_, **__: True


PARTS: dict[str, Part] = {
    "look-up": Part("treazure_pipeline.sync.adjustments", "_look_up", _no_reading_before_a_second_call, ["lost"]),
    "fencing": Part("treazure_pipeline.ledger.leases", "Leases.check", _never, ["freeze"]),
    "history reaches now": Part("treazure_pipeline.sync.evidence", "reaches", _always, ["lost", "late"]),
}
"""By name."""


@contextmanager
def without(part: str | None) -> Iterator[None]:
    """Take a part out for the block."""
    if part is None:
        yield
        return
    mend = PARTS[part]
    owner: Any = import_module(mend.module)
    *outer, name = mend.path.split(".")
    for one in outer:
        owner = getattr(owner, one)
    with mock.patch.object(owner, name, mend.replace(getattr(owner, name))):
        yield
