"""Parts of the product that can be taken out, to see whether the adversary finds that they are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest import mock


def _no_reading_before_a_second_call(_: Callable[..., Any]) -> Callable[..., Any]:
    from treazure_pipeline.ledger import adjustments as queue  # noqa: PLC0415

    def send_again(work: Any, _account: Any, adjustment: Any, _result: Any, *_: Any, **__: Any) -> None:
        queue.settle(work.ledger, adjustment, "queued", reason="sent again unread", run_id=work.run_id)

    return send_again


def _never(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_, **__: None


def _always(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_, **__: True


def _at_once(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_, **__: 0.0


Mend = tuple[str, str, Callable[[Callable[..., Any]], Callable[..., Any]]]

PARTS: dict[str, Mend] = {
    "look-up": ("treazure_pipeline.sync.adjustments", "_look_up", _no_reading_before_a_second_call),
    "fencing": ("treazure_pipeline.ledger.leases", "Leases.check", _never),
    "history reaches now": ("treazure_pipeline.sync.adjustments", "reaches_now", _always),
}
"""By name: where a part is, and what stands in its place."""


@contextmanager
def without(part: str | None) -> Iterator[None]:
    """Take a part out for the block."""
    if part is None:
        yield
        return
    module, path, replace = PARTS[part]
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for one in outer:
        owner = getattr(owner, one)
    with mock.patch.object(owner, name, replace(getattr(owner, name))):
        yield
