"""Transactions that meet (B): each is done once, whichever the server makes begin again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from treazure_pipeline.errors import DatabaseUnavailableError
from treazure_pipeline.ledger import batches, store
from treazure_pipeline.ledger.store import Account, Ledger
from treazure_pipeline.retention.prune import prune
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, fetch, merge, send


def accepted_twice(shop: Shop, *, contacts: int = 300, count: int = 12) -> None:
    """Accepted batches that nobody has folded yet, each contact in two of them, in opposite orders."""
    shop.sql(
        "insert into batch "
        "(programme, run_id, observation, state, contacts, amounts, time_stamp, claimed_at, lease_until) "
        "select 1, 'run', 0, 'accepted', array_agg(c order by case when n %% 2 = 0 then i else -i end), "
        "array_agg(7::numeric), clock_timestamp(), clock_timestamp(), clock_timestamp() "
        "from generate_series(1, %s) n, generate_series(1, %s) i, "
        "lateral (select lpad(to_hex(i), 32, '0')::uuid as c) u group by n",
        count, contacts,
    )  # fmt: skip


def fold(ledger: Ledger, account: Account, start: threading.Barrier, number: int) -> int:
    start.wait()
    return batches.fold(ledger, account, at_most=1 + number % 3)


def test_folds_and_merges_at_once_count_every_contact_once(shop: Shop) -> None:
    shop.sync()
    ((known,),) = shop.sql("select contacts from known")
    for _ in range(3):
        shop.sql("delete from ledger where contact < '00000000-0000-0000-0001-000000000000'")
        shop.sql("update known set contacts = %s", known)
        accepted_twice(shop)
        with shop.connect() as connections, ThreadPoolExecutor(7) as threads:
            account = account_of(connections)
            fetch(connections, account)
            start = threading.Barrier(7)

            folds = [threads.submit(fold, connections.ledger, account, start, number) for number in range(6)]
            start.wait()
            merge(connections, account)
            for one in folds:
                one.result()
            while batches.fold(connections.ledger, account):
                pass
            assert send(connections, account).error is None
        assert shop.sql("select contacts from known") == [(known + 300,)]
        assert shop.sql("select count(*) from ledger") == [(known + 300,)]
    shop.sql("delete from ledger where contact < '00000000-0000-0000-0001-000000000000'")
    assert_in_step(shop)


@pytest.mark.parametrize("state", ["40P01", "40001", "23505"])
def test_a_fold_that_meets_another_transaction_is_done_once_more(shop: Shop, state: str) -> None:
    shop.sync()
    accepted_twice(shop, count=1)
    shop.sql("create sequence met; grant all on sequence met to public")
    shop.sql(
        "create function meet() returns trigger language plpgsql as $$ begin "
        f"if nextval('met') <= 2 then raise exception 'met' using errcode = '{state}'; end if; return null; end $$; "
        "create trigger meet after insert on ledger execute function meet()"
    )
    ((known,),) = shop.sql("select contacts from known")
    with shop.connect() as connections:
        assert batches.fold(connections.ledger, account_of(connections)) == 300
    assert shop.sql("select contacts from known") == [(known + 300,)]


def test_a_merge_whose_commit_got_no_answer_is_not_done_twice(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    transaction = Ledger.transaction
    lost: list[bool] = []

    @contextmanager
    def losing_an_answer(ledger: Ledger, **keywords: bool) -> Iterator[psycopg.Connection]:
        with transaction(ledger, **keywords) as connection:
            yield connection
        if not lost and shop.sql("select 1 from observation where state = 'merged'"):
            lost.append(True)
            raise DatabaseUnavailableError("The connection was lost at its commit.")

    monkeypatch.setattr(Ledger, "transaction", losing_an_answer)
    assert shop.sync().pushed.error is None
    assert lost
    assert_in_step(shop)


def test_a_read_only_server_is_tried_again_and_then_named(
    new_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = new_shop(members=10)
    with shop.connect() as connections:
        account_of(connections)
    monkeypatch.setattr(store, "_WAITS", (0.01, 0.01))
    shop.sql(
        "do $$ begin execute format('alter database %I set default_transaction_read_only = on', "
        "current_database()); end $$"
    )
    with shop.connect() as connections, pytest.raises(DatabaseUnavailableError, match="read-only transaction"):
        prune(connections.ledger, 1)
