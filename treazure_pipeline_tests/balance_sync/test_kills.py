from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline_tests.balance_sync.dying_run import POINTS, killed
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step

QUICK_LEASES = {"ENGAGE_TIMEOUT_SECONDS": "1", "ENGAGE_BATCH_SIZE": "20"}


def killed_run(shop: Shop, point: str, nth: int = 1) -> None:
    """Run the sync in a process of its own, which kills itself at that point."""
    assert killed(shop.variables, point, nth)


CASES = [
    ("before_the_export_is_asked_for", 1),
    ("in_the_middle_of_the_export", 1),
    ("between_export_and_merge", 1),
    ("in_the_middle_of_the_merge", 1),
    ("between_slices", 2),
    ("between_merge_and_push", 1),
    ("after_a_batch_was_claimed", 1),
    ("after_a_batch_was_accepted_but_not_recorded", 4),
    ("between_batches", 3),
    ("between_acceptance_and_folding", 1),
    ("after_folding", 1),
    ("instead_of_sending", 6),
]


@pytest.mark.parametrize(("point", "nth"), CASES, ids=[point for point, _ in CASES])
def test_after_a_kill_the_next_run_brings_both_systems_together(
    new_shop: Callable[..., Shop], point: str, nth: int
) -> None:
    shop = new_shop(members=300, environ=QUICK_LEASES)
    killed_run(shop, point, nth)
    shop.leases_end()
    shop.sandbox.play_hour(changes=40, joins=3)
    shop.sync()
    assert shop.pending() == {}
    assert_in_step(shop)


def test_a_process_killed_in_the_first_run_leaves_nothing_that_is_sent_twice_but_the_unrecorded(
    new_shop: Callable[..., Shop],
) -> None:
    shop = new_shop(members=300, environ=QUICK_LEASES | {"ENGAGE_CONCURRENCY": "1"})
    killed_run(shop, "after_a_batch_was_accepted_but_not_recorded", 4)
    assert shop.sandbox.report()["rows"]["received"] == 80
    assert len(shop.pending()) == 300
    shop.leases_end()
    shop.sync()
    assert shop.sandbox.report()["rows"]["received"] == 320
    assert_in_step(shop)


def test_rows_of_a_killed_request_are_not_sent_again_before_its_lease_is_over(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=100, environ=QUICK_LEASES | {"ENGAGE_CONCURRENCY": "1"})
    killed_run(shop, "after_a_batch_was_accepted_but_not_recorded", 2)
    ((contacts, lease_until),) = shop.sql("select contacts, lease_until from batch where state = 'sending'")
    shop.sync()
    again = shop.sql("select min(claimed_at) from batch where state = 'folded' and contacts && %s", contacts)
    assert again[0][0] >= lease_until
    assert shop.sql("select count(*) from batch where state = 'lost'") == [(1,)]
    assert_in_step(shop)


@pytest.mark.parametrize(
    "point", ["after_a_batch_was_refused_but_not_recorded", "after_a_batch_was_split", "after_an_answer_was_lost"]
)
def test_a_kill_while_something_is_wrong_with_engage_loses_nothing(new_shop: Callable[..., Shop], point: str) -> None:
    shop = new_shop(members=100, environ=QUICK_LEASES)
    bad = shop.sandbox.contact_ids(1)[0]
    if point == "after_an_answer_was_lost":
        shop.sandbox.set_fault("lost_after")
    else:
        shop.sandbox.behave(poison=[bad])
    killed_run(shop, point)
    shop.sandbox.behave(poison=[])
    shop.time_passes(hours=1)
    shop.sync()
    assert_in_step(shop)


def test_many_kills_in_a_row_end_well(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=300, environ=QUICK_LEASES)
    for point in ("between_batches", "between_export_and_merge", "between_merge_and_push", "after_a_batch_was_claimed"):
        killed_run(shop, point)
        shop.leases_end()
        shop.sandbox.play_hour(changes=30)
    shop.sync()
    assert_in_step(shop)


def test_every_point_of_a_kill_is_tried() -> None:
    tried = {point for point, _ in CASES}
    others = {"after_a_batch_was_refused_but_not_recorded", "after_a_batch_was_split", "after_an_answer_was_lost"}
    assert tried | others == set(POINTS)
