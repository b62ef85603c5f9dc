"""A large export is merged in slices, a transaction each. What comes between two of them loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal

import pytest

from treazure_pipeline.balance_sync import merge as merging
from treazure_pipeline.balance_sync import readings
from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import DatabaseError
from treazure_pipeline.ledger import coverage
from treazure_pipeline_tests.balance_sync.dying_run import killed
from treazure_pipeline_tests.balance_sync.shop import (
    Shop,
    account_of,
    assert_adds_up,
    assert_in_step,
    fetch,
    merge,
    send,
)
from treazure_pipeline_tests.databases import backup

MEMBERS = 300
SLICES = 6


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SLICE_ROWS", MEMBERS // SLICES)


@pytest.fixture
def loaded(new_shop: Callable[..., Shop]) -> Shop:
    """A shop in step, where every balance has changed since, some to below zero, and some contacts are new."""
    shop = new_shop(members=MEMBERS)
    shop.sync()
    contacts = shop.sandbox.contact_ids(MEMBERS)
    shop.sandbox.add_points({contact: number % 7 + 1 for number, contact in enumerate(contacts)})
    shop.sandbox.set_points(dict.fromkeys(contacts[:3], "-5"))
    shop.sandbox.play_hour(changes=30, joins=10)
    return shop


class Between:
    """Does something once a slice has been merged, and counts the slices."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object] = lambda: None, *, after: int = 1
    ) -> None:
        self.slices = 0
        merge_slice = merging._merge_slice  # noqa: SLF001

        def watched(*arguments: object) -> object:
            found = merge_slice(*arguments)  # type: ignore[arg-type]
            self.slices += 1
            if self.slices == after:
                act()
            return found

        monkeypatch.setattr(merging, "_merge_slice", watched)


@pytest.fixture
def fetched(loaded: Shop) -> Iterator[Connections]:
    """Connections whose export is staged, and whose merge is due."""
    with loaded.connect() as connections:
        connections.ledger.hold(account_of(connections))
        fetch(connections, account_of(connections))
        yield connections


def finish(shop: Shop, connections: Connections, *, held: int = 3) -> None:
    """Merge and send; all but the negative balances is equal afterwards."""
    account = account_of(connections)
    pushed = send(connections, account, diff=merge(connections, account))
    assert (pushed.pending, pushed.held, pushed.error) == (0, held, None)
    assert_adds_up(connections, account)
    shop.sandbox.set_points(dict.fromkeys(shop.sandbox.contact_ids(3), "5"))
    connections.ledger.release(account)
    shop.sync()
    assert_in_step(shop)


@pytest.mark.parametrize("full", [False, True])
def test_slices_come_to_what_a_merge_in_one_comes_to(
    loaded: Shop, monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    contacts = loaded.sandbox.contact_ids(MEMBERS)
    loaded.sql(
        "insert into pending (programme, contact, master, observation, since) "
        "select programme, contact, 1, observation, now() from ledger where contact = any (%s::uuid[])",
        contacts[3:200:9],
    )
    loaded.sql("update programme set points_total = (select sum(master) from balance)")
    found = []
    between = Between(monkeypatch)
    with backup(loaded.database_url) as copy:
        for shop, rows in ((replace(loaded, database_url=copy), 10**6), (loaded, MEMBERS // SLICES)):
            monkeypatch.setattr(merging, "SLICE_ROWS", rows)
            with shop.connect() as connections:
                account = account_of(connections)
                fetch(connections, account, coverage.next_window(connections.ledger, account, full=full))
                figures = merge(connections, account).figures
                assert figures.backlog.pending == len(shop.pending())
                assert_adds_up(connections, account)
            known = shop.sql("select contact, master, sent, pending, observation from balance order by contact")
            found.append((figures, known))
    assert found[0] == found[1]
    assert found[0][0].changed == len(found[0][1])
    assert between.slices == 1 + SLICES + 1


def test_an_adjustment_waits_for_one_slice_only(
    loaded: Shop, fetched: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    contacts = loaded.sandbox.contact_ids(MEMBERS)
    chosen = {min(contacts): "701.5", max(contacts): "702.5"}

    def adjust() -> None:
        loaded.sandbox.set_points(chosen)
        with loaded.connect() as others:
            account = account_of(others)
            for contact, points in chosen.items():
                asked = others.ledger.now()
                assert readings.record_account(others.ledger, account, contact, Decimal(points), asked, "adjustment")

    between = Between(monkeypatch, adjust)
    account = account_of(fetched)
    diff = merge(fetched, account)
    assert between.slices == SLICES + 1
    assert send(fetched, account, diff=diff).pending == 0
    assert {contact: str(loaded.known_master()[contact]) for contact in chosen} == chosen


def test_a_reading_from_before_the_export_is_undecided_whatever_slice_its_contact_is_in(
    loaded: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is known to be newer, not even where the export says what was known."""
    loaded.sync()
    quiet = [contact for contact in loaded.sandbox.contact_ids(MEMBERS) if contact not in loaded.pending()]
    with loaded.connect() as connections, loaded.connect() as others:
        account = account_of(connections)
        connections.ledger.hold(account)
        asked = others.ledger.now()
        fetch(connections, account, run_id="full")

        def late() -> None:
            for contact in (min(quiet), max(quiet)):
                settled = readings.record_account(others.ledger, account, contact, Decimal(1), asked, "late")
                assert not settled

        Between(monkeypatch, late)
        merge(connections, account)
    loaded.sync(full=True)
    loaded.sandbox.set_points(dict.fromkeys(loaded.sandbox.contact_ids(3), "5"))
    loaded.sync()
    assert_in_step(loaded)


def test_a_merge_that_breaks_off_goes_on_where_it_was(
    loaded: Shop, fetched: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    between = Between(monkeypatch, stop, after=3)
    with pytest.raises(KeyboardInterrupt):
        merge(fetched, account_of(fetched))
    assert loaded.sql("select state from observation order by id desc limit 1") == [("staged",)]
    figures = merge(fetched, account_of(fetched)).figures
    assert between.slices == SLICES + 1
    assert figures.adds_up
    assert figures.changed == len(loaded.pending())
    finish_after = send(fetched, account_of(fetched))
    assert finish_after.held == 3
    assert_adds_up(fetched, account_of(fetched))


def test_after_a_kill_between_slices_the_next_run_asks_anew_and_loses_nothing(
    loaded: Shop,
) -> None:
    assert killed(loaded.variables, "between_slices", 2)
    assert 0 < len(loaded.pending()) < MEMBERS
    loaded.sandbox.play_hour(changes=20)
    loaded.sync()
    assert loaded.sql("select relname from pg_class where relname ~ '^(stage|latest)_'") == []
    assert loaded.sql(
        "select count(*) from change c where not exists (select from observation o where o.id = c.observation)"
    ) == [(0,)]
    loaded.sandbox.set_points(dict.fromkeys(loaded.sandbox.contact_ids(3), "5"))
    loaded.sync()
    assert_in_step(loaded)


def test_rows_that_a_crash_of_the_server_took_are_missed(
    loaded: Shop, fetched: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the export counts as covered: the tables of an export are unlogged, and empty after a crash."""
    ((number,),) = loaded.sql("select id from observation where state = 'staged'")
    covered = loaded.sql("select covered from programme")
    Between(monkeypatch, lambda: loaded.sql(f"truncate latest_{number}, stage_{number}"))
    with pytest.raises(DatabaseError, match="the database server crashed"):
        merge(fetched, account_of(fetched))
    assert loaded.sql("select covered from programme") == covered
    fetch(fetched, account_of(fetched))
    finish(loaded, fetched)
