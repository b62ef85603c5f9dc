from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from treazure_pipeline.balance_sync.exports import seconds_ahead
from treazure_pipeline.balance_sync.snapshot import read_account
from treazure_pipeline.errors import ClocksApartError, RemoteError
from treazure_pipeline.ledger import coverage, figures
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, fetch, run_of

BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
OVERLAP = timedelta(hours=2)
INSTANT = timedelta(seconds=20)


def covered(shop: Shop) -> list[tuple[datetime, datetime]]:
    return shop.sql("select lower(r), upper(r) from programme, unnest(covered) r order by 1")


def holes(shop: Shop) -> int:
    with shop.connect() as connections:
        return len(coverage.holes(connections.ledger, account_of(connections)))


def test_the_first_window_begins_at_the_programmes_beginning_and_ends_two_hours_from_now(shop: Shop) -> None:
    run = shop.sync(PROGRAMME_BEGINNING="2001-02-03")
    window = run.snapshot.window
    assert window.start == datetime(2001, 2, 3, tzinfo=UTC)
    assert window.is_full
    ((start, end),) = covered(shop)
    assert start == window.start
    assert abs(window.end - end - OVERLAP) < INSTANT


def test_the_next_window_begins_two_hours_before_the_export_that_is_in_the_ledger_was_asked_for(shop: Shop) -> None:
    shop.sync()
    ((asked,),) = shop.sql("select asked from observation where state = 'merged'")
    run = shop.sync()
    assert run.snapshot.window.start == asked - OVERLAP
    assert not run.snapshot.window.is_full
    assert holes(shop) == 0


def test_an_export_that_was_fetched_and_never_merged_covers_nothing(shop: Shop) -> None:
    shop.sync()
    before = covered(shop)
    with shop.connect() as connections:
        fetch(connections, account_of(connections))
    assert covered(shop) == before
    shop.sandbox.play_hour(changes=10)
    shop.sync()
    assert holes(shop) == 0
    assert_in_step(shop)


def test_days_without_a_run_leave_no_hole(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.play_hour(changes=10)
    shop.sandbox.move_clock(3 * 24 * 3600)
    shop.time_passes(hours=3 * 24)
    shop.sandbox.move_clock(0)
    shop.sandbox.behave(treazure_clock=-3 * 24 * 3600, engage_clock=-3 * 24 * 3600)
    run = shop.sync()
    assert run.snapshot.window.end - run.snapshot.window.start > timedelta(days=3, hours=4)
    assert len(covered(shop)) == 1
    assert holes(shop) == 0
    assert_in_step(shop)


def test_a_window_by_hand_that_leaves_a_gap_is_shown_and_the_next_run_closes_it(shop: Shop) -> None:
    shop.sync()
    shop.time_passes(hours=48)
    now = datetime.now(UTC)
    shop.sync(window=(now - timedelta(hours=1), now + OVERLAP))
    assert len(covered(shop)) == 2
    assert holes(shop) == 1
    gap_begins = covered(shop)[0][1]
    run = shop.sync()
    assert run.snapshot.window.start == gap_begins - OVERLAP
    assert len(covered(shop)) == 1
    assert holes(shop) == 0


def test_a_window_by_hand_before_the_first_sync_does_not_count_as_the_beginning(shop: Shop) -> None:
    now = datetime.now(UTC)
    shop.sync(window=(now - timedelta(hours=1), now + OVERLAP))
    run = shop.sync()
    assert run.snapshot.window.start == BEGINNING
    assert_in_step(shop)


def test_a_window_in_the_past_takes_nothing_back(shop: Shop) -> None:
    shop.sync()
    before = covered(shop)
    shop.sandbox.play_hour(changes=10)
    shop.sync(window=(BEGINNING, datetime.now(UTC) - timedelta(days=1)))
    assert covered(shop)[0][1] >= before[0][1]
    shop.sync()
    assert_in_step(shop)


def test_a_window_that_ends_in_the_past_covers_no_more_than_it_asked_for(shop: Shop) -> None:
    end = datetime.now(UTC) - timedelta(days=1)
    shop.sync(window=(BEGINNING, end))
    assert covered(shop) == [(BEGINNING, end)]
    assert shop.sync().snapshot.window.start == end - OVERLAP
    assert_in_step(shop)


def test_an_earlier_beginning_is_fetched_from_there(shop: Shop) -> None:
    shop.sync(PROGRAMME_BEGINNING="2020-01-01")
    run = shop.sync(PROGRAMME_BEGINNING="2010-01-01")
    assert run.snapshot.window.start == datetime(2010, 1, 1, tzinfo=UTC)
    assert_in_step(shop)


def test_a_failed_run_covers_nothing_and_the_next_one_fetches_its_time_too(shop: Shop) -> None:
    shop.sync()
    before = covered(shop)
    shop.sandbox.play_hour(changes=10)
    shop.sandbox.set_fault("truncated", count=1)
    with pytest.raises(RemoteError):
        shop.sync()
    assert covered(shop) == before
    run = shop.sync()
    assert run.snapshot.window.start == before[0][1] - OVERLAP
    assert_in_step(shop)


def test_clocks_a_few_minutes_apart_lose_nothing_and_the_run_says_so(shop: Shop) -> None:
    for seconds in (0, 240, -240, 0):
        shop.sandbox.behave(treazure_clock=seconds)
        shop.sandbox.play_hour(changes=20)
        ahead = shop.sync().snapshot.clock_ahead
        assert ahead is not None
        assert abs(ahead - seconds) < 10
        assert_in_step(shop)


@pytest.mark.parametrize("seconds", [-5400, -400, 400, 5400])
def test_clocks_further_apart_fail_the_run_cover_nothing_and_the_next_run_goes_on(shop: Shop, seconds: int) -> None:
    shop.sync()
    before = covered(shop)
    shop.sandbox.behave(treazure_clock=seconds)
    shop.sandbox.play_hour(changes=20)
    with pytest.raises(ClocksApartError, match="ahead of" if seconds > 0 else "behind"):
        shop.sync()
    assert covered(shop) == before
    shop.sandbox.behave(treazure_clock=0)
    shop.sync()
    assert_in_step(shop)


@pytest.mark.parametrize(
    ("clock", "ahead"), [(-61, -60), (-60.5, -59.5), (-1, 0), (-0.5, 0), (0, 0), (10, 0), (11, 1), (70, 60)]
)
def test_a_clock_read_between_two_times_is_ahead_or_behind_by_what_it_lies_outside_of_them(
    clock: float, ahead: float
) -> None:
    asked, answered = BEGINNING, BEGINNING + timedelta(seconds=10)
    assert seconds_ahead(asked + timedelta(seconds=clock), asked, answered) == ahead


def test_mutations_that_treazure_commits_late_are_found_by_the_overlap(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.behave(commit_calls=2)
    shop.sandbox.play_hour(changes=20)
    assert shop.sync().pushed.sent == 0
    run = shop.sync()
    assert run.pushed.sent > 0
    assert shop.sandbox.differences()["uncommitted"] == 0
    assert_in_step(shop)


def test_mutations_committed_more_than_an_hour_late_are_found_by_the_overlap(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.behave(commit_delay=7000)
    shop.sandbox.play_hour(changes=20)
    shop.sandbox.behave(commit_delay=0)
    assert shop.sync().pushed.sent == 0
    shop.time_passes(hours=1.9)
    shop.sandbox.move_clock(6900)
    shop.sandbox.behave(treazure_clock=-6900)
    shop.sandbox.commit()
    assert shop.sync().pushed.sent > 0
    assert_in_step(shop)


@pytest.mark.parametrize("hours", [0.04, 1, 3, 30])
def test_the_database_s_clock_was_ahead_and_is_set_right(shop: Shop, hours: float) -> None:
    shop.sync()
    shop.time_passes(hours=-hours)
    shop.sandbox.play_hour(changes=20)
    shop.sync()
    ((start, end),) = covered(shop)
    assert start == BEGINNING
    assert end < datetime.now(UTC) + coverage.MOST_APART
    assert holes(shop) == 0
    assert_in_step(shop)


def test_what_a_clock_that_was_ahead_has_covered_is_a_hole_for_check_and_status(shop: Shop) -> None:
    shop.sync()
    shop.time_passes(hours=-3)
    with shop.connect() as connections:
        status = figures.status(connections.ledger, account_of(connections))
    assert (status.covered_until, status.holes, holes(shop)) == (None, 1, 1)
    now = datetime.now(UTC)
    shop.sync(window=(now - timedelta(hours=1), now + OVERLAP))
    assert (len(covered(shop)), holes(shop)) == (1, 1)
    assert shop.sync().snapshot.window.is_full
    assert holes(shop) == 0


def test_what_a_clock_that_was_ahead_has_observed_is_replaced_by_what_is_read_now(shop: Shop) -> None:
    contact = shop.sandbox.contact_ids(1)[0]
    shop.sync()
    with shop.connect() as connections:
        account = account_of(connections)
        for points in (5, 6):
            shop.time_passes(hours=-3)
            shop.sandbox.set_points({contact: points})
            read_account(run_of(connections, account, "run"), contact)
            assert shop.known_master()[contact] == points
    shop.time_passes(hours=-3)
    shop.sandbox.set_points({contact: 7})
    shop.sync()
    assert shop.in_engage(contact) == ["7"]
    assert shop.sql("select * from reread") == []


def test_what_a_clock_that_was_ahead_has_changed_or_refused_is_sent_and_settled(shop: Shop) -> None:
    one, other = shop.sandbox.contact_ids(2)
    shop.sandbox.know([other], known=False)
    shop.sync()
    shop.sandbox.know([other], known=True)
    shop.sandbox.set_points({one: 5})
    shop.sync(complete=False, ENGAGE_BASE_URL="http://127.0.0.1:9")
    assert sorted(shop.pending()) == sorted([one, other])
    shop.sql("update pending set next_try = null, changed_at = now() + interval '3 hours'")
    shop.sql("update pending set refused_last = now() + interval '4 hours' where refused_last is not null")
    shop.send_pending()
    assert shop.pending() == {}
    assert_in_step(shop)


def test_three_days_of_outage_in_which_every_run_fails_leave_no_hole_and_the_next_run_closes_it_alone(
    shop: Shop,
) -> None:
    shop.sync()
    shop.time_passes(hours=72)
    end_of_coverage = covered(shop)[0][1]
    for hours in (70, 45, 20):
        shop.sandbox.behave(treazure_clock=-hours * 3600)
        shop.sandbox.play_hour(changes=20)
        shop.sandbox.set_fault("server_error", on=["treazure"], count=None)
        with pytest.raises(RemoteError):
            shop.sync()
        shop.sandbox.clear_faults()
    shop.sandbox.behave(treazure_clock=0)
    assert covered(shop)[0][1] == end_of_coverage
    run = shop.sync()
    assert run.snapshot.window.start == end_of_coverage - OVERLAP
    assert len(covered(shop)) == 1
    assert holes(shop) == 0
    assert_in_step(shop)
