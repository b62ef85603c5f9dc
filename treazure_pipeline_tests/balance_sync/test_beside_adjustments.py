"""A push beside running adjustments: what it counts adds up, whatever others settle and enter meanwhile (I6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from decimal import Decimal
from functools import partial

import psycopg

from treazure_pipeline.balance_sync.push import push_contacts
from treazure_pipeline.balance_sync.snapshot import read_account
from treazure_pipeline.connections import Connections
from treazure_pipeline.database.schema import SCHEMA
from treazure_pipeline.ledger import batches, figures
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, fetch, merge, run_of, send


def adjust(connections: Connections, shop: Shop, contact: str) -> None:
    """Points are added in Treazure, read back and sent, as processing an adjustment does."""
    account = account_of(connections)
    shop.sandbox.add_points({contact: Decimal(1)})
    run = run_of(connections, account, "adjust")
    read_account(run, contact)
    push_contacts(run, [contact])


@contextmanager
def adjustments_running(shop: Shop, contacts: list[str], threads: int = 3) -> Iterator[None]:
    """Adjustments of these contacts, one after the other in each thread, beside the block."""

    def work(number: int) -> None:
        with shop.connect() as connections:
            for contact in contacts[number::threads]:
                adjust(connections, shop, contact)

    with ThreadPoolExecutor(threads) as pool:
        workers = [pool.submit(work, number) for number in range(threads)]
        yield
        for worker in workers:
            worker.result()


def test_a_first_load_beside_running_adjustments_adds_up(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=1000)
    contacts = shop.sandbox.contact_ids(limit=12) * 6
    with shop.connect(ENGAGE_BATCH_SIZE="100") as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        fetch(connections, account)
        diff = merge(connections, account)
        with adjustments_running(shop, contacts):
            send(connections, account, "run", diff)
    shop.sync()
    shop.sandbox.apply_queue()
    assert_in_step(shop)


def test_a_balance_read_while_its_request_is_folded_is_counted_once(shop: Shop) -> None:
    (contact,) = shop.sandbox.contact_ids(limit=1)
    with shop.connect() as connections, ThreadPoolExecutor(2) as pool:
        account, ledger = account_of(connections), connections.ledger
        fetch(connections, account)
        backlog = merge(connections, account).figures.backlog
        while (batch := batches.claim_planned(ledger, account, run_id="run", lease=30)) is not None:
            batches.accept(ledger, account, batch, transaction_id="t", request_id="r", refused={}, scale=1)
        shop.sandbox.add_points({contact: Decimal(1)})
        with psycopg.connect(shop.database_url) as somebody:
            somebody.execute(f"select from {SCHEMA}.batch for update")
            folding = pool.submit(batches.fold, ledger, account)
            shop.wait_for_lock()
            reading = pool.submit(read_account, run_of(connections, account, "adjust"), contact)
            with suppress(TimeoutError):
                reading.result(1.0)
        folding.result()
        reading.result()
        flow = figures.flow_since(ledger, account, backlog, ledger.now())
    assert backlog.pending + flow.entered == flow.sent + flow.refused + flow.held + flow.left


def test_a_row_accepted_but_not_folded_is_not_sent_and_counted_once_more(shop: Shop) -> None:
    shop.sync()
    (contact,) = shop.sandbox.contact_ids(limit=1)
    with shop.connect() as connections:
        account, ledger = account_of(connections), connections.ledger
        backlog = figures.count_backlog(ledger, account)
        shop.sandbox.add_points({contact: Decimal(1)})
        read_account(run_of(connections, account, "adjust"), contact)
        claim = partial(batches.claim, ledger, account, run_id="run", run_started=ledger.now(), size=10, lease=30)
        batch = claim()
        assert batch is not None
        batches.accept(ledger, account, batch, transaction_id="t", request_id="r", refused={}, scale=1)
        assert claim(only=[contact]) is None
        adjust(connections, shop, contact)
        flow = figures.flow_since(ledger, account, backlog, ledger.now())
    assert (backlog.pending, flow.entered, flow.sent, flow.left) == (0, 1, 1, 0)
    assert shop.in_engage(contact) == [str(shop.known_master()[contact])]
