from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

import pytest

from treazure_pipeline.clients.engage_wire import is_same
from treazure_pipeline.errors import BusyError
from treazure_pipeline.verification import rounds
from treazure_pipeline_tests.balance_sync.shop import account_of, assert_in_step
from treazure_pipeline_tests.verification.watch import Watch


def test_balances_that_engage_has_applied_are_equal_and_nothing_is_marked(watch: Watch) -> None:
    tally = watch.verify().tally
    assert (tally.read, tally.equal, tally.drift, tally.missing, tally.unsettled) == (80, 80, 0, 0, 0)
    assert watch.marked() == {}
    assert watch.standing().read_through_from is not None


def test_drift_made_by_hand_in_engage_is_found_and_healed_by_the_next_push(watch: Watch) -> None:
    drifted = watch.drift_by_hand(5)
    before = watch.sql("select contact, sent, batch from ledger order by 1")
    tally = watch.verify().tally
    assert (tally.drift, tally.marked, tally.equal) == (5, 5, 75)
    assert sorted(watch.marked()) == sorted(drifted)
    assert watch.sql("select contact, sent, batch from ledger order by 1") == before
    assert watch.standing().drift == 5
    assert watch.send_pending().sent == 5
    assert_in_step(watch)
    again = watch.verify().tally
    assert (again.drift, again.healed) == (0, 5)
    assert watch.standing().drift == 0


def test_rows_that_engage_swallowed_are_found_and_healed_by_the_next_push(watch: Watch) -> None:
    watch.verify()
    watch.sandbox.set_fault("swallowed", count=None)
    watch.sandbox.play_hour(changes=20)
    changed = watch.sync().diff.figures.changed
    watch.sandbox.clear_faults()
    assert not watch.sandbox.differences()["equal"]
    assert watch.verify().tally.drift == changed > 0
    assert watch.sync().pushed.sent == changed
    assert_in_step(watch)
    assert watch.verify().tally.healed == changed


def test_an_account_that_does_not_exist_is_missing_and_not_drift(watch: Watch) -> None:
    removed = watch.members(3)
    watch.sandbox.set_engage_balances(dict.fromkeys(removed))
    tally = watch.verify().tally
    assert (tally.missing, tally.drift, tally.marked) == (3, 0, 3)
    watch.send_pending()
    assert_in_step(watch)
    assert watch.verify().tally.healed == 3


def test_a_contact_that_engage_has_forgotten_is_missing_and_then_refused(watch: Watch) -> None:
    forgotten = watch.members(1)
    watch.sandbox.know(forgotten, known=False)
    assert watch.verify().tally.missing == 1
    assert watch.send_pending().refused == 1
    assert watch.verify().tally.unsettled == 1
    standing = watch.standing()
    assert (standing.missing, standing.drift, standing.will_not_heal) == (1, 0, 0)


def test_without_an_account_and_without_points_nothing_is_sent_again(watch: Watch) -> None:
    contact = watch.members(1)[0]
    watch.sandbox.set_points({contact: 0})
    watch.sync()
    watch.sandbox.set_engage_balances({contact: None})
    for _ in range(5):
        tally = watch.verify().tally
        assert (tally.missing, tally.marked) == (1, 0)
    assert watch.standing().will_not_heal == 0
    assert watch.sql("select count(*) from finding") == [(1,)]


def test_what_engage_accepted_within_the_grace_time_is_not_even_read(new_watch: Callable[..., Watch]) -> None:
    watch = new_watch(environ={"ENGAGE_VERIFY_GRACE_SECONDS": "1800"}, behaviour={"apply_delay": 600})
    watch.sync()
    tally = watch.verify().tally
    assert (tally.unsettled, tally.read, tally.requests) == (80, 0, 0)
    watch.grace_passes()
    watch.sandbox.apply_queue()
    tally = watch.verify().tally
    assert (tally.unsettled, tally.equal, tally.marked) == (0, 80, 0)


def test_a_contact_that_will_not_heal_is_shown_after_three_rounds(watch: Watch) -> None:
    watch.sandbox.set_fault("swallowed", count=None)
    watch.drift_by_hand(2)
    for found in range(1, 5):
        assert watch.standing().will_not_heal == 0
        assert watch.verify().tally.drift == 2
        watch.send_pending()
        assert watch.sql("select rounds from verification where verdict = 'drift'") == [(found,)] * 2
    assert watch.standing().will_not_heal == 2
    watch.sandbox.clear_faults()
    watch.verify()
    watch.send_pending()
    assert watch.verify().tally.healed == 2
    assert watch.standing().will_not_heal == 0


def test_digits_that_engage_does_not_keep_are_no_drift(new_watch: Callable[..., Watch]) -> None:
    watch = new_watch(members=20, behaviour={"digits": 2})
    contacts = watch.sandbox.contact_ids(4)
    watch.sandbox.set_points(dict(zip(contacts, ("1.005", "1.015", "2.675", "3.999999"), strict=True)))
    watch.sync()
    tally = watch.verify().tally
    assert (tally.equal, tally.drift) == (20, 0)


@pytest.mark.parametrize("rounding", [ROUND_HALF_UP, ROUND_HALF_EVEN, ROUND_DOWN])
@pytest.mark.parametrize("sent", ["1.005", "1.015", "-2.675", "0.999999", "7", "-0.01", "12.344999"])
def test_however_engage_rounds_its_balance_is_the_same_and_a_digit_more_is_not(sent: str, rounding: str) -> None:
    shown = Decimal(sent).quantize(Decimal("0.01"), rounding)
    assert is_same(shown, Decimal(sent), 2)
    assert not is_same(shown + Decimal("0.02"), Decimal(sent), 2)


def test_a_balance_with_all_its_digits_kept_is_compared_exactly() -> None:
    assert is_same(Decimal("12.50"), Decimal("12.5"), 2)
    assert not is_same(Decimal("12.51"), Decimal("12.5"), 2)
    assert not is_same(Decimal(13), Decimal(12), 0)


def test_a_row_that_was_sent_anew_between_reading_and_recording_is_not_judged(watch: Watch) -> None:
    contact = watch.members(1)[0]
    with watch.connect() as connections:
        account = account_of(connections)
        number = rounds.begin(connections.ledger, account, "run")
        chunk = rounds.next_of_round(connections.ledger, account, grace=0, size=1000)
        watch.sandbox.set_points({contact: "77.5"})
        watch.sync()
        tally = rounds.Tally()
        wrong = [rounds.Reading(row, Decimal("77.5"), equal=False) for row in chunk.rows if row.contact == contact]
        rounds.record(connections.ledger, account, number, "run", chunk, wrong, tally, finished=True, grace=0)
    assert (tally.read, tally.drift, tally.unsettled) == (1, 0, 1)
    assert watch.marked() == {}


def test_a_row_that_became_pending_between_reading_and_recording_is_not_judged(watch: Watch) -> None:
    contact = watch.members(1)[0]
    with watch.connect() as connections:
        account = account_of(connections)
        number = rounds.begin(connections.ledger, account, "run")
        chunk = rounds.next_of_round(connections.ledger, account, grace=0, size=1000)
        watch.sandbox.set_points({contact: "77.5"})
        watch.sandbox.set_fault("server_error", count=None)
        watch.sync(complete=False)
        tally = rounds.Tally()
        wrong = [rounds.Reading(row, None, equal=False) for row in chunk.rows if row.contact == contact]
        rounds.record(connections.ledger, account, number, "run", chunk, wrong, tally, finished=True, grace=0)
    assert (tally.missing, tally.unsettled) == (0, 1)
    assert watch.pending() == {contact: Decimal("77.5")}
    assert watch.marked() == {}


def test_a_programme_in_migration_is_left_alone(watch: Watch) -> None:
    watch.drift_by_hand(1)
    watch.sql("update programme set mode = 'migrating'")
    assert watch.verify().tally.read == 0
    assert watch.marked() == {}


def test_a_second_verification_is_busy_and_one_beside_a_sync_is_not(watch: Watch) -> None:
    with watch.connect() as other:
        account = account_of(other)
        other.ledger.hold(account)
        assert watch.verify().tally.read == 80
        with rounds.holding(other.ledger, account):
            assert other.ledger.is_leased(rounds.lease(account))
            with pytest.raises(BusyError):
                watch.verify()
        assert not other.ledger.is_leased(rounds.lease(account))
