"""Faults: what goes wrong, where, how often; switched on by ``POST /sandbox/faults`` or ``--fault``."""

from __future__ import annotations

import random
import threading
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Operation = Literal[
    "token", "export_request", "export_result", "account", "transaction", "history",
    "set_balances", "add_transactions", "read_accounts", "read_transactions", "definitions", "contact_count",
    "add_points_webhook", "balance_webhook",
]  # fmt: skip
"""One kind of request to one of the two systems, or of webhook from Engage."""

TREAZURE: tuple[Operation, ...] = (
    "token", "export_request", "export_result", "account", "transaction", "history",
)  # fmt: skip
ENGAGE: tuple[Operation, ...] = (
    "set_balances", "add_transactions", "read_accounts", "read_transactions", "definitions", "contact_count",
)  # fmt: skip
WEBHOOKS: tuple[Operation, ...] = ("add_points_webhook", "balance_webhook")

FaultName = Literal[
    "lost_before", "lost_after", "rate_limited", "server_error", "slow", "html", "empty", "not_array",
    "truncated", "token_expired", "export_expired", "export_never_ready", "bad_rows", "duplicates",
    "swallowed", "delivered_twice", "delivered_again_later", "webhook_answer_lost", "delivery_out_of_order",
    "encrypted", "foreign_link",
]  # fmt: skip

DEFAULT_ON: dict[FaultName, tuple[Operation, ...]] = {
    "lost_before": ("set_balances",),
    "lost_after": ("set_balances",),
    "rate_limited": ("set_balances",),
    "server_error": ("set_balances",),
    "slow": ("set_balances",),
    "html": ("export_result",),
    "empty": ("export_result",),
    "not_array": ("export_result",),
    "truncated": ("export_result",),
    "token_expired": tuple(name for name in TREAZURE if name != "token"),
    "export_expired": ("export_result",),
    "export_never_ready": ("export_result",),
    "bad_rows": ("export_result",),
    "duplicates": ("export_result",),
    "swallowed": ("set_balances",),
    "delivered_twice": WEBHOOKS,
    "delivered_again_later": WEBHOOKS,
    "webhook_answer_lost": WEBHOOKS,
    "delivery_out_of_order": WEBHOOKS,
    "encrypted": WEBHOOKS,
    "foreign_link": ("export_request",),
}
"""Where a fault happens unless `on` says otherwise."""

SAYS: dict[FaultName, str] = {
    "lost_before": "the connection is closed without an answer, and the request had no effect",
    "lost_after": "the connection is closed without an answer, but the request took effect",
    "rate_limited": "429 with Retry-After `seconds` (default 1), no effect",
    "server_error": "`status` (default 503), no effect unless `effect`; `seconds`: Retry-After; `quotes` the request",
    "slow": "the answer takes `seconds` (default 5) longer; so does the effect if `effect` is false",
    "html": "an HTML page with `status` (default 200), no effect",
    "empty": "status 200 and an empty body, no effect",
    "not_array": "status 200 and a JSON object with a message, no effect",
    "truncated": "the body stops half-way; the connection breaks there if `clean` is false",
    "token_expired": "401, and the token is invalid from now on",
    "export_expired": "410, and the export is gone",
    "export_never_ready": "the result is not ready yet (`count` null: never)",
    "bad_rows": "broken rows of many kinds among the good ones, or the JSON texts in `raw_rows`",
    "duplicates": "`share` (default 0.1) of the accounts are listed twice, once with an older balance",
    "swallowed": "Engage accepts the rows but never applies `share` (default 1) of them",
    "delivered_twice": "a webhook is sent twice at once",
    "delivered_again_later": "a webhook that was received is sent again after `seconds` (default 1)",
    "webhook_answer_lost": "a 2xx never reaches Engage, which sends the webhook again after the usual wait",
    "delivery_out_of_order": "a webhook waits `seconds` (default 1), so that later ones overtake it",
    "foreign_link": "the export's address leads to another host",
    "encrypted": "a webhook comes encrypted: isEncrypted true and an opaque payload",
}
"""What each fault does."""

GROUPS: dict[str, tuple[Operation, ...]] = {
    "treazure": TREAZURE,
    "engage": ENGAGE,
    "all": TREAZURE + ENGAGE,
    "webhooks": WEBHOOKS,
}


class Fault(BaseModel):
    """One fault that is switched on. Probabilities are drawn from the sandbox's seed."""

    model_config = ConfigDict(extra="forbid")

    name: FaultName
    on: list[str] | None = Field(
        None, description="operations, or `treazure`, `engage`, `all`, `webhooks`; none: the fault's usual place"
    )
    count: int | None = Field(1, ge=0, description="how many times it happens; null: until cleared")
    probability: float = Field(1, ge=0, le=1, description="that it happens at each request it could hit")
    after: int = Field(0, ge=0, description="how many requests pass unharmed first")
    seconds: float | None = Field(None, ge=0)
    status: int | None = Field(None, ge=400, le=599)
    effect: bool | None = Field(None, description="for server_error and slow: whether the request takes effect")
    clean: bool = True
    quotes: bool = Field(False, description="for server_error: whether the answer quotes the request's body")
    share: float | None = Field(None, ge=0, le=1)
    raw_rows: list[str] | None = None

    fired: int = Field(0, description="how many times it has happened")

    @model_validator(mode="after")
    def _known_operations(self) -> Fault:
        wrong = sorted(set(self.on or ()) - set(get_args(Operation)) - set(GROUPS))
        if wrong:
            msg = f"unknown operation {', '.join(wrong)}; known: {', '.join((*GROUPS, *get_args(Operation)))}"
            raise ValueError(msg)
        about_webhooks = {name in WEBHOOKS or name == "webhooks" for name in self.on or ()}
        if about_webhooks - {DEFAULT_ON[self.name] == WEBHOOKS}:
            msg = f"{self.name} can't happen on {', '.join(self.on or ())}"
            raise ValueError(msg)
        return self

    def hits(self, operation: Operation) -> bool:
        """Whether it can happen to this kind of request."""
        if self.on is None:
            return operation in DEFAULT_ON[self.name]
        return any(operation == name or operation in GROUPS.get(name, ()) for name in self.on)


class Faults:
    """The faults that are switched on. Safe to use from several threads."""

    def __init__(self, seed: int) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._active: list[Fault] = []
        self.fired: dict[str, int] = {}

    def add(self, fault: Fault) -> None:
        """Switch one more fault on."""
        with self._lock:
            self._active.append(fault.model_copy(update={"fired": 0}))

    def clear(self, name: str | None = None) -> None:
        """Switch off all faults, or those of one name."""
        with self._lock:
            self._active = [fault for fault in self._active if name is not None and fault.name != name]

    def active(self) -> list[Fault]:
        """The faults that can still happen, and how often they have."""
        with self._lock:
            return [fault.model_copy() for fault in self._active if fault.count != 0]

    def take(self, operation: Operation, *names: FaultName) -> Fault | None:
        """Return the first of these faults that happens to this request, and count it."""
        with self._lock:
            for fault in self._active:
                if fault.name not in names or fault.count == 0 or not fault.hits(operation):
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                if fault.probability < 1 and self._random.random() >= fault.probability:
                    continue
                if fault.count is not None:
                    fault.count -= 1
                fault.fired += 1
                self.fired[fault.name] = self.fired.get(fault.name, 0) + 1
                return fault.model_copy()
        return None
