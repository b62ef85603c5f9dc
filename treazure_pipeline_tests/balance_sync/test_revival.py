"""A new balance of a contact revives it, whatever it was held for: a refusal is of the amount that was refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline.ledger import batches
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, fetch, merge

REAL_WAITS = {"TREAZURE_PIPELINE_RETRY_SCALE": "1"}
HELD = {"waiting": "select 1", "gone": "update pending set gone = true, tries = 30"}


def refused(new_shop: Callable[..., Shop]) -> tuple[Shop, str]:
    """A shop in step, but for one contact that Engage does not know and whose balance it has refused."""
    shop = new_shop(members=30, environ=REAL_WAITS)
    contact = shop.sandbox.contact_ids(1)[0]
    shop.sandbox.know([contact], known=False)
    assert shop.sync().pushed.refused == 1
    return shop, contact


@pytest.mark.parametrize("held", HELD)
def test_a_contact_that_engage_knows_again_gets_its_new_balance_with_the_next_sync(
    new_shop: Callable[..., Shop], held: str
) -> None:
    shop, contact = refused(new_shop)
    shop.sql(HELD[held])
    shop.sandbox.know([contact], known=True)
    shop.sandbox.set_points({contact: "123.45"})
    assert shop.sync().pushed.sent == 1
    assert shop.in_engage(contact) == ["123.45"]
    assert_in_step(shop)


def test_a_balance_that_is_still_the_refused_one_waits_for_its_next_try(new_shop: Callable[..., Shop]) -> None:
    shop, contact = refused(new_shop)
    shop.sandbox.know([contact], known=True)
    shop.sandbox.add_points({contact: 0})
    assert (shop.sync().pushed.held, shop.sql("select tries from pending")) == (1, [(1,)])


def test_a_new_balance_that_is_refused_again_is_gone_at_once_after_the_thirty_days(
    new_shop: Callable[..., Shop],
) -> None:
    shop, contact = refused(new_shop)
    shop.time_passes(hours=31 * 24)
    shop.sync()
    assert shop.sql("select gone from pending") == [(True,)]
    shop.sandbox.set_points({contact: 7})
    assert shop.sync().pushed.refused == 1
    assert shop.sql("select gone, master from pending") == [(True, 7)]


def test_a_refusal_of_an_amount_that_changed_meanwhile_is_not_held_against_the_new_one(
    new_shop: Callable[..., Shop],
) -> None:
    shop = new_shop(members=30, environ=REAL_WAITS)
    contact = shop.sandbox.contact_ids(1)[0]
    with shop.connect() as connections:
        account, ledger = account_of(connections), connections.ledger
        fetch(connections, account)
        merge(connections, account)
        batch = batches.claim_planned(ledger, account, run_id="run", lease=30)
        assert batch is not None
        shop.sandbox.set_points({contact: 7})
        fetch(connections, account)
        merge(connections, account)
        no = dict.fromkeys(batch.contacts, "no")
        batches.accept(ledger, account, batch, transaction_id="t", request_id=None, refused=no, scale=1)
    assert shop.sql("select contact::text from pending where refused_last is null") == [(contact,)]
    assert shop.sync().pushed.sent == 1
    assert shop.in_engage(contact) == ["7"]
