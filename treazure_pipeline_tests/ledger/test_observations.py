from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from decimal import Decimal

import psycopg
import pytest

from treazure_pipeline.balance_sync import readings
from treazure_pipeline.balance_sync.snapshot import reread_accounts
from treazure_pipeline.clients.engage_wire import encode_balances
from treazure_pipeline.connections import Connections
from treazure_pipeline.ledger import batches
from treazure_pipeline.ledger.batches import Batch
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.verification.explain import explain
from treazure_pipeline_tests.balance_sync.shop import (
    Shop,
    account_of,
    assert_adds_up,
    assert_in_step,
    fetch,
    merge,
    run_of,
    send,
)

NOBODY = "http://127.0.0.1:9"


class Counter:
    """One contact of a shop of twenty, and the connections to work on it by hand."""

    def __init__(self, shop: Shop, connections: Connections) -> None:
        self.shop = shop
        self.connections = connections
        self.ledger = connections.ledger
        self.account: Account = account_of(connections)
        self.contact = shop.sandbox.contact_ids(20)[7]

    def set(self, points: str) -> None:
        """Change the balance in Treazure."""
        self.shop.sandbox.set_points({self.contact: points})

    def observe(self, asked: object = None) -> bool:
        """Record what Treazure says of the account now, as if asked at that time."""
        began = asked or self.ledger.now()
        balance = self.connections.treazure.account_balance(self.contact, self.account.loyalty_id)
        assert balance is not None
        return readings.record_account(self.ledger, self.account, self.contact, balance, began, "adjustment")  # type: ignore[arg-type]

    def claim(self, lease: float = 30) -> Batch:
        """Claim all planned rows for one request."""
        batch = batches.claim_planned(self.ledger, self.account, run_id="run", lease=lease)
        assert batch is not None
        return batch

    def post(self, batch: Batch) -> None:
        """Let Engage have the request."""
        self.connections.engage.set_balances(
            encode_balances(batch.contacts, batch.amounts, self.account.definition_id, batch.time_stamp)
        )

    def accept(self, batch: Batch) -> None:
        """Record that it was accepted."""
        batches.accept(self.ledger, self.account, batch, transaction_id="t", request_id=None, refused={}, scale=0.001)

    def master(self) -> Decimal:
        """What the ledger says that Treazure has."""
        return self.shop.known_master()[self.contact]

    def assert_ends_with(self, points: str) -> None:
        """After what is pending was sent, all places agree."""
        send(self.connections, self.account)
        assert self.shop.pending() == {}
        assert self.shop.in_engage(self.contact) == [points]
        assert self.master() == Decimal(points)
        assert_adds_up(self.connections, self.account)
        assert_in_step(self.shop)


@pytest.fixture
def counter(new_shop: Callable[..., Shop]) -> Iterator[Counter]:
    shop = new_shop(members=20)
    with shop.connect() as connections:
        counter = Counter(shop, connections)
        connections.ledger.hold(counter.account)
        yield counter


def test_a_balance_observed_after_the_export_replaces_it(counter: Counter) -> None:
    counter.shop.sql("select 1")
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    counter.set("51.5")
    assert counter.observe()
    counter.assert_ends_with("51.5")


def test_the_balance_of_an_account_that_no_export_listed_yet_is_recorded(counter: Counter) -> None:
    counter.set("51.5")
    assert counter.observe()
    assert counter.shop.pending() == {counter.contact: Decimal("51.5")}
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    counter.assert_ends_with("51.5")


def test_a_balance_asked_before_an_export_was_answered_can_t_be_told_apart_and_changes_nothing(
    counter: Counter,
) -> None:
    asked = counter.ledger.now()
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    before = counter.master()
    counter.set("51.5")
    assert not counter.observe(asked)
    assert counter.master() == before
    assert counter.observe()
    counter.assert_ends_with("51.5")


def test_an_overlapping_observation_that_is_equal_only_moves_its_time(counter: Counter) -> None:
    asked = counter.ledger.now()
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    send(counter.connections, counter.account)
    assert counter.observe(asked)
    assert counter.shop.pending() == {}
    assert_in_step(counter.shop)


def test_an_export_that_was_answered_before_a_newer_observation_is_superseded(counter: Counter) -> None:
    fetch(counter.connections, counter.account)
    counter.set("51.5")
    assert counter.observe()
    diff = merge(counter.connections, counter.account)
    assert (diff.figures.superseded, diff.reread) == (1, 0)
    counter.assert_ends_with("51.5")


def test_where_export_and_observation_overlap_and_differ_the_account_is_read_once_more(counter: Counter) -> None:
    asked = counter.ledger.now()
    fetch(counter.connections, counter.account)
    counter.set("51.5")
    assert counter.observe(asked)
    counter.set("52.5")
    diff = merge(counter.connections, counter.account)
    assert (diff.figures.superseded, diff.reread) == (1, 1)
    assert counter.master() == Decimal("52.5")
    assert counter.shop.sql("select contact from reread") == []
    counter.assert_ends_with("52.5")


def test_a_reread_that_fails_is_its_own_trouble_keeps_its_reason_and_waits_longer_each_time(counter: Counter) -> None:
    asked = counter.ledger.now()
    fetch(counter.connections, counter.account)
    counter.set("51.5")
    assert counter.observe(asked)
    counter.set("52.5")
    counter.shop.sandbox.set_fault("server_error", on=["account"], status=400)
    merge(counter.connections, counter.account)
    kept = "select contact::text, tries, reason, next_try - clock_timestamp() from reread"
    ((contact, tries, reason, wait),) = counter.shop.sql(kept)
    assert (contact, tries, reason) == (counter.contact, 1, "status 400")
    assert reread_accounts(run_of(counter.connections, counter.account)) == []
    counter.shop.sql("update reread set next_try = now()")
    counter.shop.sandbox.set_fault("server_error", on=["account"], status=400)
    assert reread_accounts(run_of(counter.connections, counter.account)) == [contact]
    ((_, tries, _, longer),) = counter.shop.sql(kept)
    assert tries == 2
    assert longer > wait
    explanation = explain(counter.ledger, counter.connections.settings.programmes[0], counter.contact)
    assert explanation is not None
    assert "could not be read 2 times: status 400" in explanation.verdict
    counter.shop.sql("update reread set next_try = now()")
    counter.connections.ledger.release(counter.account)
    assert counter.shop.sync().diff.reread == 1
    assert counter.shop.sql("select contact from reread") == []
    counter.assert_ends_with("52.5")


def test_a_newer_observation_of_a_planned_row_is_what_is_sent(counter: Counter) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    counter.set("51.5")
    assert counter.observe()
    counter.assert_ends_with("51.5")
    assert counter.shop.sandbox.report()["rows"]["received"] == 20


def test_a_newer_observation_of_a_row_in_flight_is_sent_afterwards(counter: Counter) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    batch = counter.claim()
    counter.post(batch)
    counter.set("51.5")
    assert counter.observe()
    counter.accept(batch)
    counter.assert_ends_with("51.5")
    assert counter.shop.sandbox.report()["rows"]["received"] == 21


def test_a_newer_observation_of_a_row_that_was_accepted_and_not_folded_is_sent_afterwards(counter: Counter) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    batch = counter.claim()
    counter.post(batch)
    counter.accept(batch)
    counter.set("51.5")
    assert counter.observe()
    counter.assert_ends_with("51.5")


@pytest.mark.parametrize("answered", [True, False])
def test_what_was_accepted_earlier_does_not_settle_a_row_whose_newer_request_is_under_way(
    counter: Counter, *, answered: bool
) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    first = counter.claim()
    counter.post(first)
    counter.accept(first)
    before = dict(zip(first.contacts, first.amounts, strict=True))[counter.contact]
    counter.set("51.5")
    assert counter.observe()
    # What was accepted and is not folded yet keeps the contact: no newer request can be under way beside it.
    assert try_claim_only(counter, lease=0.5) is None
    batches.fold(counter.ledger, counter.account)
    second = claim_only(counter, lease=0.5)
    counter.set(before)
    assert counter.observe()
    batches.fold(counter.ledger, counter.account)
    counter.post(second)
    if answered:
        counter.accept(second)
    counter.assert_ends_with(before)


def test_a_lot_planned_before_an_adjustment_was_sent_and_folded_does_not_undo_it(counter: Counter) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    counter.set("51.5")
    assert counter.observe()
    adjusted = claim_only(counter)
    counter.post(adjusted)
    counter.accept(adjusted)
    batches.fold(counter.ledger, counter.account)
    counter.assert_ends_with("51.5")


@contextmanager
def merge_half_done(counter: Counter) -> Iterator[None]:
    """Keep a merge between its comparison and its effect for the block, and see it end."""
    with ThreadPoolExecutor(1) as thread, psycopg.connect(counter.shop.database_url) as blocker:
        blocker.execute("lock table treazure_pipeline.reread in exclusive mode")
        merging = thread.submit(merge, counter.connections, counter.account)
        while not counter.shop.sql(
            "select 1 from pg_locks where relation = 'treazure_pipeline.reread'::regclass and not granted"
        ):
            assert not merging.done()
            time.sleep(0.01)
        yield
        blocker.rollback()
        merging.result(30)


def adjusted_to(counter: Counter, points: str) -> Batch:
    """After the balance was synced, an adjustment changes it, and its request is under way."""
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    send(counter.connections, counter.account)
    counter.set(points)
    assert counter.observe()
    return claim_only(counter)


def claim_only(counter: Counter, lease: float = 30) -> Batch:
    """Claim the contact's row, as an adjustment's run does."""
    batch = try_claim_only(counter, lease)
    assert batch is not None
    return batch


def try_claim_only(counter: Counter, lease: float = 30) -> Batch | None:
    """The same; None where the row can't be claimed now."""
    return batches.claim(
        counter.ledger, counter.account, run_id="other", run_started=counter.ledger.now(), size=50, lease=lease,
        only=[counter.contact],
    )  # fmt: skip


def test_a_row_accepted_and_folded_while_a_merge_replaces_it_is_sent_again(counter: Counter) -> None:
    batch = adjusted_to(counter, "51.5")
    counter.set("60")
    fetch(counter.connections, counter.account)
    with ThreadPoolExecutor(1) as thread:
        with merge_half_done(counter):
            counter.post(batch)
            counter.accept(batch)
            folding = thread.submit(batches.fold, counter.ledger, counter.account)
            wait([folding], timeout=0.5)
        folding.result(30)
    counter.assert_ends_with("60")


@pytest.mark.parametrize("back", [True, False])
def test_a_claim_that_waits_for_a_merge_takes_what_the_merge_has_found(counter: Counter, *, back: bool) -> None:
    first = adjusted_to(counter, "51.5")
    batches.fail(counter.ledger, first, effect_possible=False, error="no connection")
    points = {True: str(counter.shop.in_engage(counter.contact)[0]), False: "60"}[back]
    counter.set(points)
    fetch(counter.connections, counter.account)
    with ThreadPoolExecutor(1) as thread:
        with merge_half_done(counter):
            claiming = thread.submit(
                batches.claim, counter.ledger, counter.account, run_id="other", run_started=counter.ledger.now(),
                size=50, lease=30, only=[counter.contact],
            )  # fmt: skip
            wait([claiming], timeout=0.5)
        batch = claiming.result(30)
    assert batch is None or batch.amounts == [points]
    if batch is not None:
        counter.post(batch)
        counter.accept(batch)
    counter.assert_ends_with(points)


def test_a_row_in_flight_is_not_claimed_a_second_time(counter: Counter) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    batch = counter.claim()
    counter.set("51.5")
    assert counter.observe()
    again = batches.claim(
        counter.ledger, counter.account, run_id="other", run_started=counter.ledger.now(), size=50, lease=30,
        only=[counter.contact],
    )  # fmt: skip
    assert again is None
    counter.post(batch)
    counter.accept(batch)
    counter.assert_ends_with("51.5")


def test_a_row_of_a_dead_process_is_not_sent_with_a_newer_balance_and_then_with_its_old_one(counter: Counter) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    counter.post(counter.claim(lease=0.01))
    counter.set("51.5")
    assert counter.observe()
    adjusted = batches.claim(
        counter.ledger, counter.account, run_id="other", run_started=counter.ledger.now(), size=50, lease=30,
        only=[counter.contact],
    )  # fmt: skip
    if adjusted is not None:
        counter.post(adjusted)
        counter.accept(adjusted)
        batches.fold(counter.ledger, counter.account)
    counter.assert_ends_with("51.5")


@pytest.mark.parametrize("late", ["accept", "refuse", "fail"])
def test_an_answer_recorded_after_its_lease_was_over_and_its_rows_were_sent_again_changes_nothing(
    counter: Counter, late: str
) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    frozen = counter.claim(lease=0.01)
    counter.post(frozen)
    send(counter.connections, counter.account)
    counter.set("51.5")
    counter.observe()
    send(counter.connections, counter.account)
    if late == "accept":
        counter.accept(frozen)
    elif late == "refuse":
        batches.refuse(counter.ledger, counter.account, frozen, request_id=None, reason="no", scale=0.001)
    else:
        batches.fail(counter.ledger, frozen, effect_possible=True, error="late")
    batches.fold(counter.ledger, counter.account)
    assert counter.shop.pending() == {}
    counter.assert_ends_with("51.5")


def test_a_balance_that_goes_back_to_what_engage_has_is_settled_without_a_request(counter: Counter) -> None:
    shop = counter.shop
    counter.connections.ledger.release(counter.account)
    counter.set("10")
    shop.sync()
    counter.set("20")
    shop.sync(complete=False, ENGAGE_BASE_URL=NOBODY)
    assert shop.pending() == {counter.contact: Decimal(20)}
    counter.set("10")
    shop.sandbox.forget()
    run = shop.sync()
    assert (run.diff.figures.changed, run.pushed.requests) == (0, 0)
    counter.assert_ends_with("10")


@pytest.mark.parametrize("fault", ["lost_after", "lost_before"])
def test_a_balance_that_goes_back_while_a_request_is_in_doubt_is_sent_again(counter: Counter, fault: str) -> None:
    shop = counter.shop
    counter.connections.ledger.release(counter.account)
    counter.set("10")
    shop.sync()
    counter.set("20")
    shop.sandbox.set_fault(fault, count=None)
    shop.sync(complete=False)
    shop.sandbox.clear_faults()
    counter.set("10")
    shop.sync()
    counter.assert_ends_with("10")


def test_a_balance_that_goes_back_after_its_process_died_in_the_request_is_sent_again(counter: Counter) -> None:
    shop = counter.shop
    counter.connections.ledger.release(counter.account)
    counter.set("10")
    shop.sync()
    counter.set("20")
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    counter.post(counter.claim(lease=0.01))
    assert shop.in_engage(counter.contact) == ["20"]
    counter.set("10")
    shop.sync()
    counter.assert_ends_with("10")


def test_time_stamps_grow_even_if_the_clock_is_set_back(counter: Counter) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    send(counter.connections, counter.account)
    counter.shop.sql("update programme set last_time_stamp = last_time_stamp + interval '1 hour'")
    before = counter.shop.sql("select last_time_stamp from programme")[0][0]
    counter.set("51.5")
    assert counter.observe()
    counter.assert_ends_with("51.5")
    ((stamp,),) = counter.shop.sql("select max(time_stamp) from batch")
    assert stamp > before


def test_a_row_that_became_pending_while_the_merge_waited_for_the_programme_is_counted(counter: Counter) -> None:
    fetch(counter.connections, counter.account)
    merge(counter.connections, counter.account)
    send(counter.connections, counter.account)
    fetch(counter.connections, counter.account)
    with (
        psycopg.connect(counter.shop.database_url, autocommit=True) as other,
        ThreadPoolExecutor(1) as threads,
    ):
        with other.transaction():
            other.execute("set local search_path to treazure_pipeline")
            other.execute("update programme set points_total = points_total")
            other.execute(
                "insert into pending (programme, contact, master, observation, since, marked) "
                "select programme, contact, sent, observation, now(), true from ledger where contact = %s",
                (counter.contact,),
            )
            merging = threads.submit(merge, counter.connections, counter.account)
            waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            while not counter.shop.sql(waits):
                assert not merging.done()
        diff = merging.result()
    assert (diff.figures.carried_over, diff.figures.backlog.pending) == (1, 1)
    assert send(counter.connections, counter.account, diff=diff).sent == 1
    assert_in_step(counter.shop)
