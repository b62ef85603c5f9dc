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
from treazure_pipeline_tests.point_migration.move import Move


def adjustments(move: Move) -> list[str]:
    """Work on the queue once; return the states of all adjustments."""
    with move.shop.connect() as connections:
        process(work_of(connections, connections.settings.programmes, "adjustments"))
    return [state for (state,) in move.shop.sql("select state from adjustment order by id")]


def give(move: Move, contact: str, amount: str = "5") -> None:
    payload = {"amount": Decimal(amount), "contactId": contact, "pointDefinitionId": 1, "description": "gift"}
    with move.shop.connect() as connections:
        assert queue.add(connections.ledger, f"event-{contact}-{amount}", payload)


def test_while_a_programme_migrates_the_sync_records_and_sends_nothing(move: Move) -> None:
    move.prepare()
    run = move.shop.sync(complete=False)
    assert run.diff.figures.changed == 200
    assert (run.pushed.sent, run.pushed.requests, run.pushed.pending) == (0, 0, 200)
    assert "set_balances" not in move.shop.sandbox.report()["requests"]


def test_while_a_programme_migrates_adjustments_wait_and_afterwards_they_go_on(move: Move) -> None:
    contact = move.shop.sandbox.contact_ids(limit=1)[0]
    move.prepare()
    give(move, contact)
    assert adjustments(move) == ["queued"]
    assert "transaction" not in move.shop.sandbox.report()["requests"]
    move.shards()
    move.deliver(by="api")
    move.audit()
    assert adjustments(move) == ["done"]
    move.shop.sync()
    assert_in_step(move.shop)


def test_a_process_that_still_thinks_the_programme_is_live_claims_nothing(move: Move) -> None:
    contact = move.shop.sandbox.contact_ids(limit=1)[0]
    give(move, contact)
    with move.shop.connect() as connections:
        account = account_of(connections)
        work = work_of(connections, connections.settings.programmes, "stale")
        assert account.mode == "live"
        fetch(connections, account, run_id="stale")
        diff = merge(connections, account, "stale")
        move.prepare()
        assert send(connections, account, "stale", diff).requests == 0
        assert batches.claim_planned(connections.ledger, account, run_id="stale", lease=1) is None
        process(work)
    assert "transaction" not in move.shop.sandbox.report()["requests"]
    assert "set_balances" not in move.shop.sandbox.report()["requests"]


def test_a_programme_that_was_synced_to_engage_is_refused_unless_a_person_says_so(move: Move) -> None:
    move.shop.sync()
    with pytest.raises(MigrationError, match="has sent balances to Engage already"):
        move.prepare()
    assert move.mode() == "live"
    assert move.prepare(although_loaded=True).figures["contacts"] == 200
    assert move.mode() == "migrating"


def test_a_migration_begins_only_between_two_runs_of_the_sync(move: Move) -> None:
    with move.shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        with pytest.raises(BusyError, match="under way"):
            move.prepare(TREAZURE_PIPELINE_RETRY_SCALE="0.0001")
        assert move.mode() == "live"
        preparing = threading.Thread(target=move.prepare, kwargs={"TREAZURE_PIPELINE_RETRY_SCALE": "1"})
        preparing.start()
        while not move.shop.sql("select 1 from lease where name like 'migration:%' and expires_at > clock_timestamp()"):
            time.sleep(0.05)
        connections.ledger.release(account)
        preparing.join()
    assert move.mode() == "migrating"


def test_a_request_on_its_way_when_a_migration_begins_is_waited_for(move: Move) -> None:
    with move.shop.connect() as connections:
        account = account_of(connections)
        fetch(connections, account)
        merge(connections, account)
        assert batches.claim_planned(connections.ledger, account, run_id="run", lease=1.0) is not None
        began = time.monotonic()
        with pytest.raises(MigrationError, match="has sent balances"):
            move.prepare()
        move.prepare(although_loaded=True)
        assert time.monotonic() - began > 0.5
        assert move.shop.sql("select distinct state from batch") == [("lost",)]


def test_a_migration_that_is_given_up_leaves_a_live_programme_whose_sync_sets_all(move: Move) -> None:
    move.prepare()
    move.shop.sync(complete=False)
    with move.connect() as connections:
        backfill.abandon(connections.ledger, account_of(connections), by="Kim", reason="wrong weekend")
    assert move.mode() == "live"
    assert move.shop.sql("select state, ended_by, ended_because from migration") == [
        ("abandoned", "Kim", "wrong weekend")
    ]
    move.shop.sync()
    assert_in_step(move.shop)
    with pytest.raises(MigrationError, match="has no migration"):
        move.fetch(0)


def test_two_runs_never_work_on_one_shard_at_once(move: Move) -> None:
    move.prepare()
    with move.connect() as connections:
        account = account_of(connections)
        with backfill.holding(connections.ledger, account, 1):
            with pytest.raises(BusyError, match="shard 1"):
                move.fetch(1)
            move.fetch(0)
        move.fetch(1)


def test_the_hourly_sync_runs_while_the_migration_works_and_both_end_in_step(move: Move) -> None:
    roster = move.prepare()
    assert roster.figures["contacts"] == 200
    move.shards()
    move.shop.sync(complete=False)
    move.shop.sandbox.play_hour(changes=30)
    move.deliver(by="api")
    move.shop.sync(complete=False)
    move.shop.sandbox.apply_queue()
    found = move.audit()
    assert found.equal == 200
    assert found.pending == 30
    run = move.shop.sync()
    assert run.pushed.sent == 30
    assert_in_step(move.shop)
    assert_well_behaved(move.shop)
