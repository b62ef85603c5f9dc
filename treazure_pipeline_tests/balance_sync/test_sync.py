from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from treazure_pipeline.balance_sync.snapshot import NoSnapshotError
from treazure_pipeline.ledger import figures, frames
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, fetch, merge


def test_the_first_sync_brings_every_balance_to_engage(shop: Shop) -> None:
    run = shop.sync()
    assert run.diff.figures.changed == run.pushed.sent == 200
    assert run.pushed.requests == 4
    assert shop.pending() == {}
    assert_in_step(shop)


def test_an_hour_without_changes_is_one_export_and_no_request_to_engage(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.forget()
    run = shop.sync()
    assert run.pushed.requests == 0
    requests = shop.sandbox.report()["requests"]
    assert requests["export_request"] == 1
    assert "set_balances" not in requests
    assert_in_step(shop)


def test_only_what_changed_in_an_hour_is_sent(shop: Shop) -> None:
    shop.sync()
    for _ in range(3):
        shop.sandbox.forget()
        shop.sandbox.play_hour(changes=30, joins=2)
        run = shop.sync()
        assert run.diff.figures.fetched >= 30
        assert run.pushed.sent == run.diff.figures.changed <= 32
        assert shop.sandbox.report()["rows"]["received"] == run.pushed.sent
        assert_in_step(shop)


def test_a_balance_that_went_there_and_back_within_the_hour_is_not_sent(shop: Shop) -> None:
    shop.sync()
    contact = shop.sandbox.contact_ids(1)[0]
    shop.sandbox.add_points({contact: 5})
    shop.sandbox.add_points({contact: -5})
    shop.sandbox.forget()
    run = shop.sync()
    assert run.diff.figures.changed == 0
    assert run.pushed.requests == 0
    assert_in_step(shop)


def test_balances_of_many_digits_arrive_exactly(shop: Shop) -> None:
    contacts = shop.sandbox.contact_ids(5)
    exact = ["9007199254740.993", "0.1", "17.000001", "0", "123456789012.3"]
    shop.sandbox.set_points(dict(zip(contacts, exact, strict=True)))
    shop.sync()
    assert [Decimal(str(held)) for held in shop.in_engage(*contacts)] == [Decimal(text) for text in exact]
    assert [shop.known_master()[contact] for contact in contacts] == [Decimal(text) for text in exact]
    assert_in_step(shop)


def test_a_new_member_with_no_points_gets_an_account_in_engage(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=0)
    contact = "00000000-0000-4000-8000-0000000000aa"
    shop.sandbox.set_points({contact: 0})
    run = shop.sync()
    assert run.pushed.sent == 1
    assert shop.in_engage(contact) == ["0"]
    assert_in_step(shop)


def test_a_programme_without_members_syncs_nothing(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=0)
    run = shop.sync()
    assert (run.snapshot.fetched, run.pushed.requests) == (0, 0)
    assert shop.sandbox.differences()["equal"]


def test_a_full_resync_pushes_only_what_differs(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.play_hour(changes=7)
    shop.sandbox.forget()
    run = shop.sync(full=True)
    assert run.snapshot.window.is_full
    assert run.snapshot.fetched == 200
    assert run.pushed.sent == run.diff.figures.changed <= 7
    assert shop.sandbox.report()["rows"]["received"] == run.pushed.sent
    assert_in_step(shop)


def test_a_contact_absent_from_a_full_export_is_shown_and_never_set_to_zero(shop: Shop) -> None:
    shop.sandbox.set_points({"00000000-0000-4000-8000-0000000000aa": "77.5"})
    shop.sync()
    gone = "00000000-0000-4000-8000-0000000000bb"
    shop.sql("insert into ledger select programme, %s::uuid, 12.5, batch, observation from ledger limit 1", gone)
    shop.sql("update programme set points_total = points_total + 12.5")
    run = shop.sync(full=True)
    assert run.diff.figures.vanished == 1
    assert shop.sql("select contact::text from vanished") == [(gone,)]
    assert run.pushed.requests == 0
    assert shop.known_master()[gone] == Decimal("12.5")
    with shop.connect() as connections:
        assert figures.status(connections.ledger, account_of(connections)).vanished == 1
    assert_in_step(shop)
    shop.sandbox.set_points({gone: "13.5"})
    shop.sync(full=True)
    assert shop.sql("select contact from vanished") == []
    assert_in_step(shop)


def test_a_contact_absent_from_an_hourly_export_has_not_vanished(shop: Shop) -> None:
    shop.sync()
    shop.time_passes(hours=30 * 24)
    run = shop.sync()
    assert run.snapshot.fetched < 200
    assert shop.sql("select contact from vanished") == []


def test_a_programme_in_migration_records_and_sends_nothing(shop: Shop) -> None:
    with shop.connect() as connections:
        account_of(connections)
    shop.sql("update programme set mode = 'migrating'")
    run = shop.sync(complete=False)
    assert run.pushed.error is None
    assert (run.pushed.sent, run.pushed.requests, run.pushed.pending) == (0, 0, 200)
    assert len(shop.pending()) == 200
    assert "set_balances" not in shop.sandbox.report()["requests"]
    shop.sql("update programme set mode = 'live'")
    assert shop.send_pending().sent == 200
    assert_in_step(shop)


def test_the_push_alone_sends_what_is_pending(shop: Shop) -> None:
    with shop.connect() as connections:
        account = account_of(connections)
        fetch(connections, account)
        merge(connections, account)
    assert shop.send_pending().sent == 200
    assert_in_step(shop)


def test_a_merge_without_a_snapshot_says_what_is_missing(shop: Shop) -> None:
    with shop.connect() as connections, pytest.raises(NoSnapshotError, match="treazure_balance_snapshot"):
        merge(connections, account_of(connections))


def test_the_ledger_reads_as_data_frames(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=40, unknown_share=0.1)
    first = shop.sync()
    contact = shop.sandbox.contact_ids(40)[-1]
    before = shop.known_master()[contact]
    shop.sandbox.add_points({contact: "1.25"})
    second = shop.sync()
    with shop.connect() as connections:
        ledger, account = connections.ledger, account_of(connections)
        diff = frames.diff(ledger, account, second.id)
        assert diff.to_dict("records") == [{"contact": contact, "before": before, "after": before + Decimal("1.25")}]
        assert len(frames.diff(ledger, account, first.id)) == 40
        assert len(frames.diff(ledger, account, first.id, limit=3)) == 3
        balances = frames.balances(ledger, account)
        assert len(balances) == 40
        assert balances["pending"].sum() == len(frames.pending(ledger, account)) == len(shop.pending())
        one = frames.balances(ledger, account, [contact]).iloc[0]
        assert one["master"] == before + Decimal("1.25")
        sent = frames.batches(ledger, account, first.id)
        assert sent["settled"].sum() == first.pushed.sent
        assert sent["rows"].sum() == 40


def test_the_ledger_counts_the_contacts_that_it_has(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.play_hour(changes=30, joins=7)
    shop.sync()
    ((contacts, rows),) = shop.sql("select k.contacts, (select count(*) from ledger) from known k")
    assert contacts == rows == 207


def test_requests_carry_neighbors_in_the_order_of_contacts(shop: Shop) -> None:
    shop.sync()
    changed = shop.sandbox.contact_ids(120)
    shop.sandbox.add_points(dict.fromkeys(changed, 5))
    with shop.connect() as connections:
        account = account_of(connections)
        fetch(connections, account)
        merge(connections, account)
    planned = shop.sql(
        "select c::text from change, unnest(contacts) with ordinality u (c, n) where planned order by id, n"
    )
    assert [contact for (contact,) in planned] == sorted(changed)


def test_a_row_that_is_marked_to_be_sent_again_is_sent_and_settled(shop: Shop) -> None:
    shop.sync()
    contact = shop.sandbox.contact_ids(1)[0]
    shop.sql(
        "insert into pending (programme, contact, master, observation, since, marked) "
        "select programme, contact, sent, observation, now(), true from ledger where contact = %s",
        contact,
    )
    pushed = shop.send_pending()
    assert (pushed.sent, pushed.requests) == (1, 1)
    assert shop.pending() == {}
    assert_in_step(shop)
