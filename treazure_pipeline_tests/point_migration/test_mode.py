from __future__ import annotations

import threading
import time
from decimal import Decimal

import pytest

from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import process, work_of
from treazure_pipeline.errors import BusyError
from treazure_pipeline.ledger import batches
from treazure_pipeline.point_migration import backfill
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline_tests.balance_sync.shop import (
    account_of,
    assert_in_step,
    assert_well_behaved,
    fetch,
    merge,
    send,
)
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop


def adjustments(migration_shop: MigrationShop) -> list[str]:
    """Work on the queue once; return the states of all adjustments."""
    with migration_shop.shop.connect() as connections:
        process(work_of(connections, connections.settings.programmes, "adjustments"))
    return [state for (state,) in migration_shop.shop.sql("select state from adjustment order by id")]


def give(migration_shop: MigrationShop, contact: str, amount: str = "5") -> None:
    payload = {"amount": Decimal(amount), "contactId": contact, "pointDefinitionId": 1, "description": "gift"}
    with migration_shop.shop.connect() as connections:
        assert queue.add(connections.ledger, f"event-{contact}-{amount}", payload)


def test_while_a_programme_migrates_the_sync_records_and_sends_nothing(migration_shop: MigrationShop) -> None:
    migration_shop.prepare()
    run = migration_shop.shop.sync(complete=False)
    assert run.diff.figures.changed == 200
    assert (run.pushed.sent, run.pushed.requests, run.pushed.pending) == (0, 0, 200)
    assert "set_balances" not in migration_shop.shop.sandbox.report()["requests"]


def test_while_a_programme_migrates_adjustments_wait_and_afterwards_they_go_on(migration_shop: MigrationShop) -> None:
    contact = migration_shop.shop.sandbox.contact_ids(limit=1)[0]
    migration_shop.prepare()
    give(migration_shop, contact)
    assert adjustments(migration_shop) == ["queued"]
    assert "transaction" not in migration_shop.shop.sandbox.report()["requests"]
    migration_shop.shards()
    migration_shop.deliver(by="api")
    migration_shop.audit()
    assert adjustments(migration_shop) == ["done"]
    migration_shop.shop.sync()
    assert_in_step(migration_shop.shop)


def test_a_process_that_still_thinks_the_programme_is_live_claims_nothing(migration_shop: MigrationShop) -> None:
    contact = migration_shop.shop.sandbox.contact_ids(limit=1)[0]
    give(migration_shop, contact)
    with migration_shop.shop.connect() as connections:
        account = account_of(connections)
        work = work_of(connections, connections.settings.programmes, "stale")
        assert account.mode == "live"
        fetch(connections, account, run_id="stale")
        diff = merge(connections, account, "stale")
        migration_shop.prepare()
        assert send(connections, account, "stale", diff).requests == 0
        assert batches.claim_planned(connections.ledger, account, run_id="stale", lease=1) is None
        process(work)
    assert "transaction" not in migration_shop.shop.sandbox.report()["requests"]
    assert "set_balances" not in migration_shop.shop.sandbox.report()["requests"]


def test_a_programme_that_was_synced_to_engage_is_refused_unless_a_person_says_so(
    migration_shop: MigrationShop,
) -> None:
    migration_shop.shop.sync()
    with pytest.raises(MigrationError, match="has sent balances to Engage already"):
        migration_shop.prepare()
    assert migration_shop.mode() == "live"
    assert migration_shop.prepare(although_loaded=True).figures["contacts"] == 200
    assert migration_shop.mode() == "migrating"


def test_a_migration_begins_only_between_two_runs_of_the_sync(migration_shop: MigrationShop) -> None:
    with migration_shop.shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        with pytest.raises(BusyError, match="under way"):
            migration_shop.prepare(TREAZURE_PIPELINE_RETRY_SCALE="0.0001")
        assert migration_shop.mode() == "live"
        preparing = threading.Thread(target=migration_shop.prepare, kwargs={"TREAZURE_PIPELINE_RETRY_SCALE": "1"})
        preparing.start()
        while not migration_shop.shop.sql(
            "select 1 from lease where name like 'migration:%' and expires_at > clock_timestamp()"
        ):
            time.sleep(0.05)
        connections.ledger.release(account)
        preparing.join()
    assert migration_shop.mode() == "migrating"


def test_a_request_on_its_way_when_a_migration_begins_is_waited_for(migration_shop: MigrationShop) -> None:
    with migration_shop.shop.connect() as connections:
        account = account_of(connections)
        fetch(connections, account)
        merge(connections, account)
        assert batches.claim_planned(connections.ledger, account, run_id="run", lease=1.0) is not None
        began = time.monotonic()
        with pytest.raises(MigrationError, match="has sent balances"):
            migration_shop.prepare()
        migration_shop.prepare(although_loaded=True)
        assert time.monotonic() - began > 0.5
        assert migration_shop.shop.sql("select distinct state from batch") == [("lost",)]


def test_a_migration_that_is_given_up_leaves_a_live_programme_whose_sync_sets_all(
    migration_shop: MigrationShop,
) -> None:
    migration_shop.prepare()
    migration_shop.shop.sync(complete=False)
    with migration_shop.connect() as connections:
        backfill.abandon(connections.ledger, account_of(connections), by="Kim", reason="wrong weekend")
    assert migration_shop.mode() == "live"
    assert migration_shop.shop.sql("select state, ended_by, ended_because from migration") == [
        ("abandoned", "Kim", "wrong weekend")
    ]
    migration_shop.shop.sync()
    assert_in_step(migration_shop.shop)
    with pytest.raises(MigrationError, match="has no migration"):
        migration_shop.fetch(0)


def test_two_runs_never_work_on_one_shard_at_once(migration_shop: MigrationShop) -> None:
    migration_shop.prepare()
    with migration_shop.connect() as connections:
        account = account_of(connections)
        with backfill.holding(connections.ledger, account, 1):
            with pytest.raises(BusyError, match="shard 1"):
                migration_shop.fetch(1)
            migration_shop.fetch(0)
        migration_shop.fetch(1)


def test_the_hourly_sync_runs_while_the_migration_works_and_both_end_in_step(migration_shop: MigrationShop) -> None:
    roster = migration_shop.prepare()
    assert roster.figures["contacts"] == 200
    migration_shop.shards()
    migration_shop.shop.sync(complete=False)
    migration_shop.shop.sandbox.play_hour(changes=30)
    migration_shop.deliver(by="api")
    migration_shop.shop.sync(complete=False)
    migration_shop.shop.sandbox.apply_queue()
    found = migration_shop.audit()
    assert found.equal == 200
    assert found.pending == 30
    run = migration_shop.shop.sync()
    assert run.pushed.sent == 30
    assert_in_step(migration_shop.shop)
    assert_well_behaved(migration_shop.shop)
