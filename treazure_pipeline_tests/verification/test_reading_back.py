from __future__ import annotations

from treazure_pipeline_tests.sync.shop import assert_in_step
from treazure_pipeline_tests.verification.watch import Watch


def test_balances_that_engage_has_applied_are_equal_and_nothing_is_marked(watch: Watch) -> None:
    tally = watch.verify().tally
    assert (tally.read, tally.equal, tally.drift, tally.missing, tally.unsettled) == (200, 200, 0, 0, 0)
    assert watch.marked() == {}
    assert watch.standing().read_through_from is not None


def test_drift_made_by_hand_in_engage_is_found_and_healed_by_the_next_push(watch: Watch) -> None:
    drifted = watch.drift_by_hand(5)
    before = watch.sql("select contact, sent, batch from ledger order by 1")
    tally = watch.verify().tally
    assert (tally.drift, tally.marked, tally.equal) == (5, 5, 195)
    assert sorted(watch.marked()) == sorted(drifted)
    assert watch.sql("select contact, sent, batch from ledger order by 1") == before
    assert watch.standing().drift == 5
    assert watch.send_pending().sent == 5
    assert_in_step(watch)
    again = watch.verify().tally
    assert (again.drift, again.healed) == (0, 5)
    assert watch.standing().drift == 0
