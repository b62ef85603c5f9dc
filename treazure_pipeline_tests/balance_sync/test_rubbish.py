"""An export that can't be trusted covers nothing."""

from __future__ import annotations

from decimal import Decimal

import pytest

from treazure_pipeline.balance_sync.staging import is_rubbish
from treazure_pipeline.errors import UntrustedExportError
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step

SHARE = Decimal("0.1")
DISCARD = "update rejection set resolved_at = now(), resolved_by = 'person'"


def bad(count: int) -> list[str]:
    return [f'{{"accountNumber": "x{number}", "balance": 1}}' for number in range(count)]


@pytest.mark.parametrize(
    ("fetched", "rejected", "discarded", "rubbish"),
    [
        (0, 0, 0, False),
        (1000, 0, 0, False),
        (1, 1, 0, True),
        (9, 9, 0, True),
        (10, 9, 0, False),
        (11, 10, 0, True),
        (100, 10, 0, False),
        (99, 10, 0, True),
        (1000, 100, 0, False),
        (1000, 101, 0, True),
        (1000, 101, 1, False),
        (5, 5, 5, False),
        (5, 5, 4, True),
        (30, 20, 11, False),
    ],
)
def test_too_many_rejected_rows_are_rubbish(fetched: int, rejected: int, discarded: int, *, rubbish: bool) -> None:
    assert is_rubbish(fetched, rejected, discarded, SHARE) is rubbish


@pytest.mark.parametrize(("changes", "rejected"), [(0, 1), (30, 15)])
def test_rubbish_covers_nothing_and_the_run_after_the_cause_is_fixed_misses_nothing(
    shop: Shop, changes: int, rejected: int
) -> None:
    shop.sync()
    before = shop.dump()
    shop.sandbox.play_hour(changes=changes)
    shop.sandbox.set_fault("bad_rows", raw_rows=bad(rejected))
    with pytest.raises(
        UntrustedExportError, match=rf"{rejected} of .*accountNumber: the contact must be a GUID.* \({rejected}\)"
    ):
        shop.sync()
    assert shop.dump() == before
    assert shop.sql("select count(*) from rejection where resolved_at is null") == [(rejected,)]
    shop.sync()
    assert_in_step(shop)


def test_rows_that_a_person_has_discarded_make_no_rubbish(shop: Shop) -> None:
    shop.sync()
    rows = [*bad(20), *bad(1)]
    shop.sandbox.set_fault("bad_rows", raw_rows=rows, count=2)
    with pytest.raises(UntrustedExportError):
        shop.sync()
    shop.sql(DISCARD)
    shop.sandbox.play_hour(changes=5)
    assert shop.sync().diff.figures.rejected == 21
    assert shop.sql("select max(seen), min(seen) from rejection") == [(4, 2)]
    assert_in_step(shop)


def test_the_share_can_be_set(shop: Shop) -> None:
    shop.sandbox.set_fault("bad_rows", raw_rows=bad(150))
    assert shop.sync(GUARD_MAX_REJECTED_SHARE="0.5").diff.figures.rejected == 150
