from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from treazure_pipeline.clients.pacing import Unpaced
from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import RateUsedUpError
from treazure_pipeline.ledger.limiter import Priority, SharedRate, shared_rate
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.balance_sync.shop import Shop
from treazure_pipeline_tests.roles import administrators


def count_contacts(environ: dict[str, str]) -> None:
    with Connections(load_settings(environ)) as connections, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: connections.engage.contact_count(), range(20)))


def die_with_two_slots(environ: dict[str, str]) -> None:
    with Connections(load_settings(environ)) as connections:
        pacer = SharedRate(connections.ledger, "bucket", 2, Priority.SYNC, 2, threading.Event())
        with pacer.slot(), pacer.slot():
            processes.die()


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with Ledger(database_url) as ledger:
        yield ledger


def rate(ledger: Ledger, bucket: str, per_second: int, priority: Priority) -> SharedRate:
    return SharedRate(ledger, bucket, per_second, priority, 30, threading.Event())


def take(pacer: SharedRate, times: int) -> list[float]:
    """Take so many slots one by one, and tell when."""
    taken = []
    for _ in range(times):
        with pacer.slot():
            taken.append(time.monotonic())
    return taken


def most_in_one_second(moments: list[float]) -> int:
    return max(sum(start <= moment < start + 1 for moment in moments) for start in moments)


def test_processes_and_threads_together_stay_below_the_limit_in_every_second(
    new_shop: Callable[..., Shop],
) -> None:
    shop = new_shop(members=10, environ={"ENGAGE_MAX_REQUESTS_PER_SECOND": "15"})
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(processes.ended, [count_contacts] * 3, [shop.variables] * 3)) == [0, 0, 0]
    report = shop.sandbox.report()
    assert report["requests"]["contact_count"] == 60
    assert report["largest_in_one_second"] <= 15


def test_slow_answers_do_not_let_more_through(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=10, environ={"ENGAGE_MAX_REQUESTS_PER_SECOND": "6"}, behavior={"latency": 0.2})
    with shop.connect() as connections, ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda _: connections.engage.contact_count(), range(15)))
    assert shop.sandbox.report()["largest_in_one_second"] <= 6


def test_background_work_gets_half_of_the_budget_at_most(ledger: Ledger) -> None:
    background = rate(ledger, "bucket", 8, Priority.BACKGROUND)
    with ThreadPoolExecutor(8) as threads:
        moments = [moment for part in threads.map(lambda _: take(background, 2), range(8)) for moment in part]
    assert most_in_one_second(moments) <= 4


def test_an_adjustment_goes_before_a_sync_that_uses_the_whole_budget(ledger: Ledger) -> None:
    sync = rate(ledger, "bucket", 2, Priority.SYNC)
    adjustment = rate(ledger, "bucket", 2, Priority.ADJUSTMENT)
    over = threading.Event()
    served: list[str] = []

    def sync_on() -> None:
        while not over.is_set():
            with sync.slot():
                served.append("sync")

    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(sync_on) for _ in range(6)]
        while len(served) < 4:
            time.sleep(0.02)
        began = len(served)
        for _ in range(3):
            with adjustment.slot():
                served.append("adjustment")
        over.set()
        for one in running:
            one.result()
    meanwhile = served[began : len(served) - served[::-1].index("adjustment")]
    assert meanwhile.count("sync") <= 6


def test_a_pause_holds_everybody_back_and_ends(ledger: Ledger) -> None:
    first = rate(ledger, "bucket", 20, Priority.SYNC)
    second = rate(ledger, "bucket", 20, Priority.ADJUSTMENT)
    take(first, 1)
    began = time.monotonic()
    first.pause(0.8)
    assert take(second, 1)[0] - began >= 0.8
    assert take(first, 1)


def test_a_pause_of_one_system_does_not_hold_back_the_other(ledger: Ledger) -> None:
    engage = rate(ledger, "engage", 20, Priority.SYNC)
    treazure = rate(ledger, "treazure", 20, Priority.SYNC)
    engage.pause(600)
    assert take(treazure, 1)


def test_a_shorter_pause_does_not_end_a_longer_one(ledger: Ledger) -> None:
    pacer = rate(ledger, "bucket", 20, Priority.SYNC)
    take(pacer, 1)
    began = time.monotonic()
    pacer.pause(0.8)
    pacer.pause(0.1)
    assert take(pacer, 1)[0] - began >= 0.8


def test_the_slots_of_a_dead_process_come_back_when_their_lease_is_over(shop: Shop) -> None:
    assert processes.killed(die_with_two_slots, shop.variables)
    with shop.connect() as connections:
        ((taken,),) = shop.sql("select count(*) from rate_slot where bucket = 'bucket'")
        assert taken == 2
        assert len(take(rate(connections.ledger, "bucket", 2, Priority.SYNC), 2)) == 2


def test_a_limit_of_zero_switches_it_off(shop: Shop) -> None:
    with shop.connect() as connections:
        assert isinstance(shared_rate(connections.ledger, "bucket", 0, Priority.SYNC, 30, connections.stop), Unpaced)
        for _ in range(30):
            connections.engage.contact_count()
    assert shop.sql("select count(*) from rate_slot") == [(0,)]


def test_a_429_pauses_every_process(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=10, environ={"ENGAGE_MAX_REQUESTS_PER_SECOND": "20"})
    with shop.connect() as first, Connections(shop.settings()) as second:
        second.engage.contact_count()
        shop.sandbox.set_fault("rate_limited", on=["contact_count"], seconds=1)
        began = time.monotonic()
        first.engage.contact_count()
        assert time.monotonic() - began >= 1
        ((until,),) = shop.sql("select count(*) from rate_hold where priority = 0")
        assert until == 1


def test_buckets_are_named_without_the_key(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=10, environ={"ENGAGE_MAX_REQUESTS_PER_SECOND": "20"})
    with shop.connect() as connections:
        connections.engage.contact_count()
        secret = connections.settings.engage_api_key.get_secret_value()
    assert all(secret not in bucket for (bucket,) in shop.sql("select bucket from rate_slot"))


@pytest.mark.parametrize("first", ["background work", "a crash of the server"])
def test_whoever_comes_first_the_bucket_fills_up_to_the_setting(ledger: Ledger, database_url: str, first: str) -> None:
    take(rate(ledger, "bucket", 8, Priority.BACKGROUND), 1)
    if first == "a crash of the server":  # the table is not logged
        with psycopg.connect(administrators(database_url)) as connection:
            connection.execute("truncate treazure_pipeline.rate_slot")
    sync = rate(ledger, "bucket", 8, Priority.SYNC)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        moments = [moment for part in threads.map(lambda _: take(sync, 2), range(8)) for moment in part]
    assert most_in_one_second(moments) <= 8
    assert max(moments) - began < 4


def test_a_raised_or_lowered_setting_holds_at_once(ledger: Ledger) -> None:
    for per_second in (4, 12, 6):
        pacer = rate(ledger, "bucket", per_second, Priority.SYNC)
        time.sleep(1)
        with ThreadPoolExecutor(6) as threads:
            moments = [moment for part in threads.map(take, [pacer] * 6, [3] * 6) for moment in part]
        assert per_second - 1 <= most_in_one_second(moments) <= per_second


def test_a_clock_that_is_put_back_keeps_nobody_waiting_and_a_long_lease_is_kept(
    ledger: Ledger, database_url: str
) -> None:
    pacer = SharedRate(ledger, "bucket", 1, Priority.SYNC, 7200, threading.Event(), patience=2)
    with pacer.slot(), pytest.raises(RateUsedUpError):
        take(pacer, 1)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "set search_path to treazure_pipeline; "
            "update rate_slot set free_at = free_at + interval '1 day', set_at = set_at + interval '1 day'; "
            "insert into rate_hold values ('bucket', 0, now() + interval '1 day', now() + interval '1 day')"
        )
    assert take(pacer, 1)


def test_what_a_request_reads_does_not_grow_while_an_old_snapshot_holds_vacuum_back(database_url: str) -> None:
    take_and_free = """do $$ declare got record; begin
        for n in 1..500 loop
            select * into strict got from take_slot('bucket', 20, 2, interval '65 seconds');
            commit;
            update rate_slot set free_at = clock_timestamp(), set_at = clock_timestamp(), turn = turn + 1
                where bucket = 'bucket' and slot = got.taken and turn = got.its_turn;
            commit;
        end loop; end $$"""
    with psycopg.connect(database_url) as old, psycopg.connect(database_url, autocommit=True) as connection:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select count(*) from pg_class")
        connection.execute("set search_path to treazure_pipeline")
        connection.execute("select take_slot('bucket', 20, 2, interval '1 second')")
        time.sleep(1.1)
        read = []
        for _ in range(4):
            connection.execute(take_and_free)
            plan = (
                "explain (analyze, buffers, format json) select * from take_slot('bucket', 20, 2, interval '1 second')"
            )
            ((explained,),) = connection.execute(plan.encode()).fetchall()
            read.append(explained[0]["Plan"]["Shared Hit Blocks"] + explained[0]["Plan"]["Shared Read Blocks"])
    assert max(read[1:]) <= 2 * read[0]


def test_a_process_of_the_version_before_takes_and_frees_slots_beside_this_one(
    ledger: Ledger, database_url: str
) -> None:
    pacer = SharedRate(ledger, "bucket", 1, Priority.SYNC, 60, threading.Event(), patience=3)
    take(pacer, 1)
    time.sleep(1.1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set search_path to treazure_pipeline")
        former = "select taken, wait from take_slot('bucket', 1, 2, interval '60 seconds')"
        assert connection.execute(former).fetchall() == [(0, 0)]
        with pytest.raises(RateUsedUpError):
            take(pacer, 1)
        connection.execute(
            "update rate_slot set free_at = clock_timestamp() + interval '1 second', set_at = clock_timestamp() "
            "where bucket = 'bucket' and slot = 0"
        )
    assert take(pacer, 1)
