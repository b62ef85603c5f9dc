"""Logs of a shop's contacts, and of a Treazure that answers as a test tells it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from treazure_pipeline.balance_sync import readings
from treazure_pipeline.points_history.refresh import Refreshed, refresh
from treazure_pipeline.sandbox import LOYALTY_ID
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, new_shop, one_sandbox, shop
from treazure_pipeline_tests.clients.conftest import Stub, answer, stub

__all__ = ["new_shop", "one_sandbox", "shop", "stub"]

BASE = "/api/v1.0/LoyaltyVault/Account"
COUNTS = (
    "select (select count(*) from points_history), (select count(distinct contact) from points_history), "
    "(select count(*) from points_history_due)"
)


def read_logs(shop: Shop, *, everybody: bool = False, most_seconds: float = 3600, **changes: str) -> Refreshed:
    """Read the logs that are due, as the job does."""
    with shop.connect(**changes) as connections:
        return refresh(
            connections.ledger, connections.treazure, account_of(connections), everybody=everybody,
            concurrency=connections.settings.treazure_concurrency, most_seconds=most_seconds,
        )  # fmt: skip


def logged(shop: Shop, contact: str) -> list[tuple[Any, ...]]:
    """What the table says of a contact."""
    return shop.sql(
        "select position, date_time, amount, balance, transaction_type, receipt_nr from points_history "
        "where contact = %s order by position",
        contact,
    )


def assert_is_treazures(shop: Shop) -> None:
    """Every contact's rows are what Treazure's history says of it, movement by movement."""
    with shop.connect() as connections:
        loyalty_id = account_of(connections).loyalty_id
        for contact in shop.known_master():
            movements = connections.treazure.history(contact, loyalty_id).movements
            assert [row[1:] for row in logged(shop, contact)] == [
                (one.date_time, one.amount, one.balance, one.transaction_type, one.receipt_nr) for one in movements
            ]


def movement(at: str, amount: float, balance: float, kind: str = "Load", **more: Any) -> dict[str, Any]:
    """A movement as Treazure writes it."""
    return {"dateTime": at, "amount": amount, "balance": balance, "transactionType": kind, **more}


class Logs:
    """A ledger that knows some contacts, and a Treazure with the logs that a test gives them."""

    def __init__(self, shop: Shop, stub: Stub) -> None:
        shop.environ["TREAZURE_BASE_URL"] = stub.url
        self.shop = shop
        self.stub = stub
        stub.on("/identity/connect/token", answer({"access_token": "token", "expires_in": 3600}))

    def history_path(self, contact: str) -> str:
        return f"{BASE}/{contact}/LoyaltyPrograms/{LOYALTY_ID}/History"

    def give(self, contact: str, movements: list[dict[str, Any]], balance: str | None = None) -> None:
        """Let the ledger observe a balance (default: that of the last movement), and Treazure answer with a log."""
        known = Decimal(str(movements[-1]["balance"])) if balance is None else Decimal(balance)
        with self.shop.connect() as connections:
            now = connections.ledger.now()
            assert readings.record_account(connections.ledger, account_of(connections), contact, known, now, "test")
        self.stub.on(self.history_path(contact), answer(movements))
        program = {"loyaltyPointDefinitionId": LOYALTY_ID, "balance": float(known)}
        self.stub.on(f"{BASE}/{contact}", answer({"loyaltyPrograms": [program]}))


@pytest.fixture
def logs(new_shop: Callable[..., Shop], stub: Stub) -> Logs:
    return Logs(new_shop(members=0), stub)
