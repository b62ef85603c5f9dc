"""Whose turn it is: what was sent lately, the rounds, the master's sample; how a run that stops half-way goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal

import pytest

from treazure_pipeline.verification import rounds
from treazure_pipeline.verification.read_back import Verified
from treazure_pipeline_tests.balance_sync.shop import account_of, assert_in_step
from treazure_pipeline_tests.verification.dying_verification import killed
from treazure_pipeline_tests.verification.verification_shop import VerificationShop


def verify_some(verification_shop: VerificationShop, most: int) -> Verified:
    """Run a verification that looks at so many contacts only."""
    return verification_shop.verify(most=most)


def cursor(verification_shop: VerificationShop) -> str | None:
    ((found,),) = verification_shop.sql("select cursor::text from verification_progress")
    return None if found is None else str(found)


def test_a_bounded_run_goes_on_where_the_last_one_stopped_until_the_round_is_through(
    new_verification_shop: Callable[..., VerificationShop],
) -> None:
    verification_shop = new_verification_shop(members=350)
    verification_shop.sync()
    verification_shop.sql("update batch set claimed_at = claimed_at - interval '25 hours'")
    reads, shares = [], []
    for _ in range(4):
        reads.append(verify_some(verification_shop, 100).tally.read)
        shares.append(verification_shop.standing().round_share)
    assert reads == [100, 100, 100, 50]
    assert shares == [0.2857, 0.5714, 0.8571, 1.0]
    assert cursor(verification_shop) is None
    assert verification_shop.standing().round == 1
    assert verify_some(verification_shop, 100).tally.read == 100
    assert verification_shop.standing().round == 2


def test_three_of_four_chunks_are_what_was_sent_lately_and_the_round_repeats_none_of_it(
    new_verification_shop: Callable[..., VerificationShop],
) -> None:
    verification_shop = new_verification_shop(members=600)
    verification_shop.sync()
    some = verify_some(verification_shop, 400).tally.read
    assert verification_shop.sql("select round_passed from verification_progress") == [(100,)]
    assert verification_shop.sql("select (batch - 1) * 50 + position from verification_progress") == [(300,)]
    assert some + verification_shop.verify().tally.read == 600
    assert len(verification_shop.verdicts()) == 600


def test_what_was_sent_since_the_last_run_comes_first(new_verification_shop: Callable[..., VerificationShop]) -> None:
    verification_shop = new_verification_shop(members=250)
    verification_shop.sync()
    verification_shop.verify()
    verification_shop.sandbox.play_hour(changes=30)
    changed = verification_shop.sync().diff.figures.changed
    since = verification_shop.sql("select clock_timestamp()")[0][0]
    verify_some(verification_shop, 1)
    read = {
        contact for (contact,) in verification_shop.sql("select contact from verification where read_at > %s", since)
    }
    sent = verification_shop.sql(
        "select l.contact from ledger l join batch b on b.id = l.batch order by b.id desc limit %s", changed
    )
    assert read == {contact for (contact,) in sent}


def test_rows_sent_more_than_a_day_ago_are_left_to_the_rounds(verification_shop: VerificationShop) -> None:
    verification_shop.sql("update batch set claimed_at = claimed_at - interval '25 hours'")
    with verification_shop.connect() as connections:
        account = account_of(connections)
        rounds.begin(connections.ledger, account, "run")
        assert rounds.sent_recently(connections.ledger, account, grace=0, size=100).is_last
    assert verification_shop.verify().tally.read == 80


def test_after_a_first_load_what_was_sent_last_does_not_wait_for_all_of_it(verification_shop: VerificationShop) -> None:
    verification_shop.sql("update batch set settled = 50001 where id = 1")
    verification_shop.sandbox.play_hour(changes=10)
    changed = verification_shop.sync().diff.figures.changed
    with verification_shop.connect() as connections:
        account = account_of(connections)
        rounds.begin(connections.ledger, account, "run")
        chunk = rounds.sent_recently(connections.ledger, account, grace=0, size=100)
        assert chunk.passed == 30 + changed
    assert verification_shop.verify().tally.read == 80


def test_rows_behind_a_request_under_way_wait_for_it_and_are_not_forgotten(verification_shop: VerificationShop) -> None:
    verification_shop.verify()
    verification_shop.sandbox.play_hour(changes=10)
    changed = verification_shop.sync().diff.figures.changed
    verification_shop.sql("update batch set state = 'sending' where id = 1")
    verification_shop.sql("update verification_progress set batch = 0")
    with verification_shop.connect() as connections:
        account = account_of(connections)
        assert rounds.sent_recently(connections.ledger, account, grace=0, size=100).is_last
        verification_shop.sql("update batch set state = 'folded' where id = 1")
        chunk = rounds.sent_recently(connections.ledger, account, grace=0, size=100)
        assert len(chunk.rows) == changed


def test_no_more_than_half_of_the_rate_is_used(new_verification_shop: Callable[..., VerificationShop]) -> None:
    verification_shop = new_verification_shop(members=60, environ={"ENGAGE_MAX_REQUESTS_PER_SECOND": "40"})
    verification_shop.sync()
    verification_shop.sandbox.forget()
    verification_shop.verify()
    report = verification_shop.sandbox.report()
    assert report["requests"]["read_accounts"] == 60
    assert report["largest_in_one_second"] <= 20


def test_answers_lost_while_reading_are_asked_for_again(verification_shop: VerificationShop) -> None:
    for after, fault in ((5, "lost_before"), (25, "lost_after"), (45, "server_error")):
        verification_shop.sandbox.set_fault(fault, on=["read_accounts"], count=2, after=after)
    verification_shop.sandbox.set_fault("rate_limited", on=["read_accounts"], count=2, seconds=0.1)
    tally = verification_shop.verify().tally
    assert (tally.equal, tally.failed) == (80, 0)


def test_a_failed_reading_is_no_verdict_and_the_run_goes_on(verification_shop: VerificationShop) -> None:
    verification_shop.sql("update batch set claimed_at = claimed_at - interval '25 hours'")
    verification_shop.sandbox.set_fault("server_error", on=["read_accounts"], status=400)
    for fault in ("html", "empty"):
        verification_shop.sandbox.set_fault(fault, on=["read_accounts"], after=5)
    tally = verification_shop.verify().tally
    assert (tally.read, tally.equal, tally.failed, tally.missing, tally.drift) == (77, 77, 3, 0, 0)
    assert verification_shop.verify().tally.read == 80


def test_a_spell_of_404_makes_no_account_missing(verification_shop: VerificationShop) -> None:
    verification_shop.sandbox.set_fault("server_error", on=["read_accounts"], status=404, count=None)
    verified = verification_shop.verify(complete=False)
    assert (verified.tally.read, verified.tally.missing) == (0, 0)
    assert verification_shop.marked() == {}
    verification_shop.sandbox.clear_faults()
    assert verification_shop.verify().tally.equal == 80


def test_a_reading_that_failed_has_its_turn_again_in_the_round(verification_shop: VerificationShop) -> None:
    verification_shop.sandbox.set_fault("server_error", on=["read_accounts"], count=3, status=400)
    tally = verification_shop.verify().tally
    assert (tally.equal, tally.failed, tally.requests) == (80, 3, 83)


def test_where_engage_as_a_whole_can_t_be_read_the_run_says_so_and_keeps_what_it_has(
    new_verification_shop: Callable[..., VerificationShop],
) -> None:
    verification_shop = new_verification_shop(members=250)
    verification_shop.sync()
    drifted = verification_shop.drift_by_hand(250)
    verification_shop.sandbox.set_fault("server_error", on=["read_accounts"], after=130, count=None)
    verified = verification_shop.verify(complete=False, ENGAGE_CONCURRENCY="1")
    assert verified.error is not None
    assert verified.tally.read == verified.tally.marked == 130
    assert verification_shop.sql("select error like '%%503%%', ended_at is not null from verification_run") == [
        (True, True)
    ]
    verification_shop.sandbox.clear_faults()
    assert verification_shop.verify().tally.marked == len(drifted) - 130
    verification_shop.send_pending()
    assert_in_step(verification_shop)


def test_a_key_that_is_refused_ends_the_run_at_once(verification_shop: VerificationShop) -> None:
    verified = verification_shop.verify(complete=False, ENGAGE_API_KEY="wrong")
    assert verified.error is not None
    assert verified.tally.requests <= 8
    assert verification_shop.verdicts() == {}


KILLS = [
    ("call", "_move_on", 2),
    ("return", "record", 2),
    ("call", "end", 1),
    ("return", "_Verification._read", 150),
]


@pytest.mark.parametrize(("event", "name", "nth"), KILLS, ids=[f"{event}_{name}" for event, name, _ in KILLS])
def test_a_killed_run_loses_a_chunk_at_most_and_the_next_one_finds_everything(
    new_verification_shop: Callable[..., VerificationShop], event: str, name: str, nth: int
) -> None:
    verification_shop = new_verification_shop(members=210)
    verification_shop.sync()
    drifted = verification_shop.drift_by_hand(210)
    assert killed(verification_shop.variables, (event, name, nth))
    kept = len(verification_shop.marked())
    assert kept == {"_move_on": 100, "record": 200, "end": 210, "_Verification._read": 100}[name]
    assert verification_shop.verify().tally.marked == 210 - kept
    assert sorted(verification_shop.marked()) == sorted(drifted)
    assert verification_shop.sql("select sum(entered) from observation where source = 'read_back'") == [(Decimal(210),)]
    assert verification_shop.send_pending().sent == 210
    assert_in_step(verification_shop)


def test_during_a_push_nothing_is_marked_wrongly(new_verification_shop: Callable[..., VerificationShop]) -> None:
    verification_shop = new_verification_shop(members=200, behavior={"latency": 0.01})
    verification_shop.sync()
    stop = threading.Event()
    runs: list[Verified] = []

    def keep_verifying() -> None:
        while not stop.is_set():
            runs.append(verification_shop.verify())

    verifying = threading.Thread(target=keep_verifying)
    verifying.start()
    try:
        for _ in range(5):
            verification_shop.sandbox.play_hour(changes=80)
            verification_shop.sync()
    finally:
        stop.set()
        verifying.join()
    assert sum(run.tally.equal for run in runs) > 0
    assert sum(run.tally.drift + run.tally.missing for run in runs) == 0
    assert verification_shop.sql("select count(*) from finding") == [(0,)]
    assert verification_shop.verify().tally.equal == 200
    assert_in_step(verification_shop)


def test_what_the_ledger_does_not_know_of_treazure_yet_is_recorded_and_sent(
    verification_shop: VerificationShop,
) -> None:
    contact = verification_shop.sql("select contact::text from ledger order by contact limit 1")[0][0]
    verification_shop.sandbox.set_points({contact: "64.5"})
    tally = verification_shop.verify().tally
    assert (tally.master_read, tally.master_recorded, tally.master_differs) == (50, 1, 0)
    assert verification_shop.pending() == {contact: Decimal("64.5")}
    verification_shop.send_pending()
    assert_in_step(verification_shop)


def test_the_master_s_sample_goes_round_all_contacts_run_by_run(verification_shop: VerificationShop) -> None:
    reads = [verification_shop.verify().tally.master_read for _ in range(3)]
    assert reads == [50, 30, 50]
    assert verification_shop.sandbox.report()["requests"]["account"] == 130


def test_a_change_that_the_sync_should_have_fetched_long_ago_is_told(verification_shop: VerificationShop) -> None:
    contact = verification_shop.sql("select contact::text from ledger order by contact limit 1")[0][0]
    verification_shop.sandbox.behave(
        treazure_clock=-3 * 3600
    )  # so it happened three hours ago, before the next window begins
    verification_shop.sandbox.set_points({contact: "64.5"})
    verification_shop.sql("update programme set covered = tstzmultirange(tstzrange('2000-01-01', clock_timestamp()))")
    tally = verification_shop.verify().tally
    assert (tally.master_recorded, tally.master_differs) == (1, 1)
    verification_shop.send_pending()
    assert verification_shop.in_engage(contact) == ["64.5"]


def test_while_treazure_can_t_be_read_engage_is_verified_all_the_same(verification_shop: VerificationShop) -> None:
    verification_shop.sandbox.set_fault("server_error", on=["account"], count=None)
    tally = verification_shop.verify().tally
    assert (tally.equal, tally.master_read) == (80, 0)
    assert tally.master_failed > 0


def test_a_run_in_which_every_row_is_within_the_grace_time_completes_no_round(
    verification_shop: VerificationShop,
) -> None:
    tally = verification_shop.verify(ENGAGE_VERIFY_GRACE_SECONDS="3600").tally
    assert (tally.read, tally.unsettled) == (0, 80)
    assert verification_shop.standing().read_through_at is None
    assert verification_shop.standing().round_share < 1
    verification_shop.grace_passes()
    assert verification_shop.verify(ENGAGE_VERIFY_GRACE_SECONDS="3600").tally.read == 80
    assert verification_shop.standing().read_through_at is not None
    assert verification_shop.standing().round == 1


def test_rows_within_the_grace_time_keep_the_round_open_for_them_alone(verification_shop: VerificationShop) -> None:
    verification_shop.grace_passes(7200)
    verification_shop.verify()
    late = verification_shop.sandbox.contact_ids(5)
    verification_shop.sandbox.set_points(dict.fromkeys(late, 7))
    verification_shop.sync()
    tally = verification_shop.verify(ENGAGE_VERIFY_GRACE_SECONDS="3600").tally
    assert (tally.read, tally.unsettled) == (75, 5)
    assert (verification_shop.standing().round, verification_shop.standing().round_share < 1) == (2, True)
    verification_shop.sandbox.set_engage_balances(dict.fromkeys(late, "0.5"))
    verification_shop.grace_passes()
    tally = verification_shop.verify(ENGAGE_VERIFY_GRACE_SECONDS="3600").tally
    assert (tally.read, tally.drift) == (5, 5)
    assert (verification_shop.standing().round, verification_shop.standing().round_share) == (2, 1.0)
