from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from pydantic import SecretStr

from treazure_pipeline.clients.pacing import RetryPolicy
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.clients.wire import Movement
from treazure_pipeline.errors import AuthenticationError
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.point_migration.logs import UndecidedBalanceError, UnreadLogsError, moved_after, read_moved
from treazure_pipeline.point_migration.parts import decode
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACCOUNT = Account(1, "points", "points", 1, NOON, "migrating")


def movement(kind: str, amount: int, hours: float) -> Movement:
    return Movement(NOON + timedelta(hours=hours), Decimal(amount), kind, Decimal(0))


def histories(migration_shop: MigrationShop) -> int:
    return int(migration_shop.shop.sandbox.report()["requests"].get("history", 0))


@pytest.fixture
def migration_shop(new_migration_shop: Callable[..., MigrationShop]) -> MigrationShop:
    """A migration that fetches one history after the other, so that faults meet known contacts."""
    migration_shop = new_migration_shop(members=60, environ={"TREAZURE_CONCURRENCY": "1"})
    migration_shop.prepare()
    return migration_shop


def test_each_contact_is_fetched_once_and_a_shard_that_is_done_costs_nothing(migration_shop: MigrationShop) -> None:
    for shard in range(3):
        migration_shop.fetch(shard)
    assert histories(migration_shop) == 60
    again = migration_shop.fetch(0)
    assert (again.contacts, histories(migration_shop)) == (0, 60)
    assert again.progress.fetched == again.progress.contacts


def test_contacts_whose_log_cannot_be_read_are_kept_with_the_reason_and_read_alone_by_the_next_run(
    migration_shop: MigrationShop,
) -> None:
    migration_shop.shop.sandbox.set_fault("html", on=["history"], count=2, after=3)
    migration_shop.shop.sandbox.set_fault("html", on=["history"], count=1, after=7)
    with pytest.raises(UnreadLogsError, match=r"of 3 contacts of shard 0.*leave_out_unreadable"):
        migration_shop.fetch(0)
    unread = [
        contact for (contact,) in migration_shop.shop.sql("select contact::text from migration_unread order by contact")
    ]
    assert len(unread) == 3
    before = histories(migration_shop)
    assert migration_shop.fetch(0).contacts == 3
    assert histories(migration_shop) == before + 3
    assert migration_shop.shop.sql("select 1 from migration_unread") == []
    bodies = migration_shop.shop.sql("select body from migration_log where shard = 0 order by first")
    fetched = [contact for (body,) in bodies for contact in decode(body)["contact"].unique(maintain_order=True)]
    assert fetched == sorted(fetched)
    assert set(unread) < set(fetched)
    migration_shop.write(0)


def test_contacts_that_are_left_out_are_in_no_file_and_come_by_the_sync(migration_shop: MigrationShop) -> None:
    migration_shop.shop.sandbox.set_fault("html", on=["history"], count=1, after=2)
    with pytest.raises(UnreadLogsError):
        migration_shop.fetch(0)
    ((left_out,),) = migration_shop.shop.sql("select contact::text from migration_unread")
    assert migration_shop.fetch(0, leave_out_unreadable=True).progress.left_out == 1
    migration_shop.write(0)
    for shard in (1, 2):
        migration_shop.fetch(shard)
        migration_shop.write(shard)
    migration_shop.deliver()
    migration_shop.import_files()
    found = migration_shop.audit()
    assert (found.left_out, found.differing) == (1, 0)
    assert migration_shop.mode() == "live"
    assert set(migration_shop.shop.pending()) <= {left_out}
    migration_shop.shop.sync()
    assert_in_step(migration_shop.shop)


def test_refused_credentials_end_the_run_and_what_was_fetched_is_kept(migration_shop: MigrationShop) -> None:
    with pytest.raises(AuthenticationError):
        migration_shop.fetch(0, TREAZURE_CLIENT_SECRET="wrong")
    assert migration_shop.shop.sql("select 1 from migration_unread") == []
    migration_shop.fetch(0)


def test_a_log_that_does_not_add_up_is_closed_by_an_opening_row_and_listed(
    new_migration_shop: Callable[..., MigrationShop],
) -> None:
    migration_shop = new_migration_shop(members=60, behavior={"history_missing_first": 1})
    found = migration_shop.by_files()
    assert (found.equal, found.differing) == (60, 0)
    assert migration_shop.shop.sql("select count(*) > 0 from migration_finding where origin = 'files'") == [(True,)]
    assert_in_step(migration_shop.shop)


def test_what_moved_after_the_cut_off_is_added_up_without_what_moves_no_points() -> None:
    log = [movement("Load", 5, -1), movement("Load", 7, 0), movement("Redeem", -2, 1), movement("RedeemVoucher", -9, 2)]
    assert moved_after(log, NOON) == -2


def test_an_unknown_type_after_the_cut_off_is_not_guessed() -> None:
    assert moved_after([movement("Gift", 5, -1)], NOON) == 0
    with pytest.raises(UndecidedBalanceError, match="unknown type Gift"):
        moved_after([movement("Gift", 5, 1)], NOON)


def treazure(programmes: list[dict[str, object]], movements: list[dict[str, object]]) -> TreazureClient:
    """Treazure with one account whose two sides are what they are."""

    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            return httpx.Response(200, json={"access_token": "one", "expires_in": 3600})
        if request.url.path.endswith("/History"):
            return httpx.Response(200, json=movements)
        return httpx.Response(200, json={"loyaltyPrograms": programmes})

    transport = httpx.MockTransport(reply)
    return TreazureClient(
        "https://treazure.example", "id", SecretStr("secret"), retry=RetryPolicy(scale=0), transport=transport
    )


LOAD = {"dateTime": "2026-03-01T11:00:00Z", "amount": 5, "transactionType": "Load", "balance": 5}
SPENT = {"dateTime": "2026-03-01T11:30:00Z", "amount": -5, "transactionType": "Redeem", "balance": 0}


@pytest.mark.parametrize("movements", [[], [LOAD, SPENT]])
def test_an_account_outside_the_programme_held_nothing_where_its_log_says_so(
    movements: list[dict[str, object]],
) -> None:
    with treazure([], movements) as client:
        assert read_moved(client, ACCOUNT, "one", NOON, RetryPolicy(scale=0)).balance == 0


def test_an_account_outside_the_programme_whose_log_holds_points_is_undecided() -> None:
    with treazure([], [LOAD]) as client, pytest.raises(UndecidedBalanceError, match="without this programme"):
        read_moved(client, ACCOUNT, "one", NOON, RetryPolicy(scale=0))
