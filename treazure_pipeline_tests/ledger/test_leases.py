"""Exclusive work (I12): whoever vanishes is succeeded soon, whoever stood still writes nothing, nobody is cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from treazure_pipeline.errors import BusyError, LeaseLostError
from treazure_pipeline.ledger import leases
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, fetch, merge, send

FROZEN = """
import uuid
from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import LeaseLostError
from treazure_pipeline.ledger import leases
from treazure_pipeline.settings import load_settings
from treazure_pipeline.balance_sync import push
from treazure_pipeline_tests.balance_sync.shop import account_of, fetch, merge, send
leases.LEASE_SECONDS, leases.RENEW_SECONDS = 2.0, 0.4
abandon = push.batches.abandon
def stop(*arguments):
    print('pushing', flush=True)
    input()
    return abandon(*arguments)
with Connections(load_settings()) as connections:
    account = account_of(connections)
    connections.ledger.hold(account)
    fetch(connections, account)
    diff = merge(connections, account)
    push.batches.abandon = stop
    try:
        send(connections, account, 'run', diff)
    except LeaseLostError as error:
        print(error.exit_code, flush=True)
"""


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.4)


def test_a_run_whose_process_stood_still_past_its_lease_is_succeeded_and_sends_nothing(shop: Shop) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FROZEN],
        env={**os.environ, **shop.variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as frozen:  # fmt: skip
        assert frozen.stdout is not None
        assert frozen.stdout.readline() == "pushing\n"
        frozen.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        shop.sync()  # waits for the end of the lease, which nobody renews
        sent, before = shop.sandbox.report()["requests"], shop.dump()
        frozen.send_signal(signal.SIGCONT)
        assert frozen.communicate("\n", timeout=60)[0] == "5\n"
    assert shop.sandbox.report()["requests"] == sent
    assert shop.dump() == before
    assert_in_step(shop)


@pytest.mark.parametrize("ahead", ["1 second", "1 day"])
def test_the_lease_of_a_host_that_vanished_is_free_soon_even_if_the_clock_was_put_back(shop: Shop, ahead: str) -> None:
    with shop.connect() as connections:
        account = account_of(connections)
    shop.sql(
        "insert into lease (name, token, holder, expires_at) "
        "values (%s, 7, 'another host 1 1', clock_timestamp() + %s::interval)",
        f"sync:{account.id}", ahead,
    )  # fmt: skip
    began = time.monotonic()
    with shop.connect() as connections:
        connections.ledger.hold(account)
        assert time.monotonic() - began < 10
        assert shop.sql("select token from lease") == [(8,)]


def test_a_lease_taken_over_ends_every_transaction_of_its_former_holder(shop: Shop) -> None:
    with shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        shop.sql("update lease set token = token + 1, holder = 'another host 1 1'")
        with pytest.raises(LeaseLostError, match="taken over"):
            connections.ledger.now()


def test_a_push_goes_on_when_its_connections_are_cut_and_no_other_starts_meanwhile(
    new_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 10.0)
    shop = new_shop(members=600, environ={"ENGAGE_BATCH_SIZE": "20"}, behavior={"latency": 0.2})
    over, busy = threading.Event(), []

    def cut() -> None:
        while not over.wait(1.0):
            shop.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            with shop.connect() as second:
                try:
                    second.ledger.hold(account_of(second))
                except BusyError:
                    busy.append(True)

    with shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        fetch(connections, account)
        diff = merge(connections, account)
        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            assert send(connections, account, "run", diff).error is None
        finally:
            over.set()
            cutter.join()
        assert connections.ledger.is_running(account)
        assert busy
    shop.leases_end()
    shop.send_pending()
    assert_in_step(shop)
