from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

import pytest

from treazure_pipeline.clients.engage_wire import is_same
from treazure_pipeline.errors import BusyError
from treazure_pipeline.verification import rounds
from treazure_pipeline_tests.balance_sync.shop import account_of, assert_in_step
from treazure_pipeline_tests.verification.verification_shop import VerificationShop


def test_balances_that_engage_has_applied_are_equal_and_nothing_is_marked(verification_shop: VerificationShop) -> None:
    tally = verification_shop.verify().tally
    assert (tally.read, tally.equal, tally.drift, tally.missing, tally.unsettled) == (80, 80, 0, 0, 0)
    assert verification_shop.marked() == {}
    assert verification_shop.standing().read_through_from is not None


def test_drift_made_by_hand_in_engage_is_found_and_healed_by_the_next_push(verification_shop: VerificationShop) -> None:
    drifted = verification_shop.drift_by_hand(5)
    before = verification_shop.sql("select contact, sent, batch from ledger order by 1")
    tally = verification_shop.verify().tally
    assert (tally.drift, tally.marked, tally.equal) == (5, 5, 75)
    assert sorted(verification_shop.marked()) == sorted(drifted)
    assert verification_shop.sql("select contact, sent, batch from ledger order by 1") == before
    assert verification_shop.standing().drift == 5
    assert verification_shop.send_pending().sent == 5
    assert_in_step(verification_shop)
    again = verification_shop.verify().tally
    assert (again.drift, again.healed) == (0, 5)
    assert verification_shop.standing().drift == 0


def test_rows_that_engage_swallowed_are_found_and_healed_by_the_next_push(verification_shop: VerificationShop) -> None:
    verification_shop.verify()
    verification_shop.sandbox.set_fault("swallowed", count=None)
    verification_shop.sandbox.play_hour(changes=20)
    changed = verification_shop.sync().diff.figures.changed
    verification_shop.sandbox.clear_faults()
    assert not verification_shop.sandbox.differences()["equal"]
    assert verification_shop.verify().tally.drift == changed > 0
    assert verification_shop.sync().pushed.sent == changed
    assert_in_step(verification_shop)
    assert verification_shop.verify().tally.healed == changed


def test_an_account_that_does_not_exist_is_missing_and_not_drift(verification_shop: VerificationShop) -> None:
    removed = verification_shop.members(3)
    verification_shop.sandbox.set_engage_balances(dict.fromkeys(removed))
    tally = verification_shop.verify().tally
    assert (tally.missing, tally.drift, tally.marked) == (3, 0, 3)
    verification_shop.send_pending()
    assert_in_step(verification_shop)
    assert verification_shop.verify().tally.healed == 3


def test_a_contact_that_engage_has_forgotten_is_missing_and_then_refused(verification_shop: VerificationShop) -> None:
    forgotten = verification_shop.members(1)
    verification_shop.sandbox.know(forgotten, known=False)
    assert verification_shop.verify().tally.missing == 1
    assert verification_shop.send_pending().refused == 1
    assert verification_shop.verify().tally.unsettled == 1
    standing = verification_shop.standing()
    assert (standing.missing, standing.drift, standing.will_not_heal) == (1, 0, 0)


def test_without_an_account_and_without_points_nothing_is_sent_again(verification_shop: VerificationShop) -> None:
    contact = verification_shop.members(1)[0]
    verification_shop.sandbox.set_points({contact: 0})
    verification_shop.sync()
    verification_shop.sandbox.set_engage_balances({contact: None})
    for _ in range(5):
        tally = verification_shop.verify().tally
        assert (tally.missing, tally.marked) == (1, 0)
    assert verification_shop.standing().will_not_heal == 0
    assert verification_shop.sql("select count(*) from finding") == [(1,)]


def test_what_engage_accepted_within_the_grace_time_is_not_even_read(
    new_verification_shop: Callable[..., VerificationShop],
) -> None:
    verification_shop = new_verification_shop(
        environ={"ENGAGE_VERIFY_GRACE_SECONDS": "1800"}, behavior={"apply_delay": 600}
    )
    verification_shop.sync()
    tally = verification_shop.verify().tally
    assert (tally.unsettled, tally.read, tally.requests) == (80, 0, 0)
    verification_shop.grace_passes()
    verification_shop.sandbox.apply_queue()
    tally = verification_shop.verify().tally
    assert (tally.unsettled, tally.equal, tally.marked) == (0, 80, 0)


def test_a_contact_that_will_not_heal_is_shown_after_three_rounds(verification_shop: VerificationShop) -> None:
    verification_shop.sandbox.set_fault("swallowed", count=None)
    verification_shop.drift_by_hand(2)
    for found in range(1, 5):
        assert verification_shop.standing().will_not_heal == 0
        assert verification_shop.verify().tally.drift == 2
        verification_shop.send_pending()
        assert verification_shop.sql("select rounds from verification where verdict = 'drift'") == [(found,)] * 2
    assert verification_shop.standing().will_not_heal == 2
    verification_shop.sandbox.clear_faults()
    verification_shop.verify()
    verification_shop.send_pending()
    assert verification_shop.verify().tally.healed == 2
    assert verification_shop.standing().will_not_heal == 0


def test_digits_that_engage_does_not_keep_are_no_drift(new_verification_shop: Callable[..., VerificationShop]) -> None:
    verification_shop = new_verification_shop(members=20, behavior={"digits": 2})
    contacts = verification_shop.sandbox.contact_ids(4)
    verification_shop.sandbox.set_points(dict(zip(contacts, ("1.005", "1.015", "2.675", "3.999999"), strict=True)))
    verification_shop.sync()
    tally = verification_shop.verify().tally
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


def test_a_row_that_was_sent_again_between_reading_and_recording_is_not_judged(
    verification_shop: VerificationShop,
) -> None:
    contact = verification_shop.members(1)[0]
    with verification_shop.connect() as connections:
        account = account_of(connections)
        number = rounds.begin(connections.ledger, account, "run")
        chunk = rounds.next_of_round(connections.ledger, account, grace=0, size=1000)
        verification_shop.sandbox.set_points({contact: "77.5"})
        verification_shop.sync()
        tally = rounds.Tally()
        wrong = [rounds.Reading(row, Decimal("77.5"), equal=False) for row in chunk.rows if row.contact == contact]
        rounds.record(connections.ledger, account, number, "run", chunk, wrong, tally, finished=True, grace=0)
    assert (tally.read, tally.drift, tally.unsettled) == (1, 0, 1)
    assert verification_shop.marked() == {}


def test_a_row_that_became_pending_between_reading_and_recording_is_not_judged(
    verification_shop: VerificationShop,
) -> None:
    contact = verification_shop.members(1)[0]
    with verification_shop.connect() as connections:
        account = account_of(connections)
        number = rounds.begin(connections.ledger, account, "run")
        chunk = rounds.next_of_round(connections.ledger, account, grace=0, size=1000)
        verification_shop.sandbox.set_points({contact: "77.5"})
        verification_shop.sandbox.set_fault("server_error", count=None)
        verification_shop.sync(complete=False)
        tally = rounds.Tally()
        wrong = [rounds.Reading(row, None, equal=False) for row in chunk.rows if row.contact == contact]
        rounds.record(connections.ledger, account, number, "run", chunk, wrong, tally, finished=True, grace=0)
    assert (tally.missing, tally.unsettled) == (0, 1)
    assert verification_shop.pending() == {contact: Decimal("77.5")}
    assert verification_shop.marked() == {}


def test_a_programme_in_migration_is_left_alone(verification_shop: VerificationShop) -> None:
    verification_shop.drift_by_hand(1)
    verification_shop.sql("update programme set mode = 'migrating'")
    assert verification_shop.verify().tally.read == 0
    assert verification_shop.marked() == {}


def test_a_second_verification_is_busy_and_one_during_a_sync_is_not(verification_shop: VerificationShop) -> None:
    with verification_shop.connect() as other:
        account = account_of(other)
        other.ledger.hold(account)
        assert verification_shop.verify().tally.read == 80
        with rounds.holding(other.ledger, account):
            assert other.ledger.is_leased(rounds.lease(account))
            with pytest.raises(BusyError):
                verification_shop.verify()
        assert not other.ledger.is_leased(rounds.lease(account))
