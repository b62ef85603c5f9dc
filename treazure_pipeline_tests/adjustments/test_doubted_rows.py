"""Engage was seen to hold something else than this ledger sent. It may be newer than what the ledger knows."""

from __future__ import annotations

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once


def test_an_adjustment_whose_balance_can_t_be_read_leaves_a_doubted_balance_to_the_sync(
    adjustment_shop: AdjustmentShop,
) -> None:
    """The disk of the ledger's server was put back, unnoticed: it has forgotten what it sent last."""
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sync()
    before = adjustment_shop.known_master()[contact]
    adjustment_shop.sandbox.add_points({contact: 10})
    adjustment_shop.sync()
    adjustment_shop.sql("update ledger set sent = %s where contact = %s", before, contact)
    adjustment_shop.sql(
        "insert into pending (programme, contact, master, observation, since, marked) "
        "select programme, contact, sent, observation, clock_timestamp(), true from ledger where contact = %s",
        contact,
    )
    adjustment_shop.sql("update programme set points_total = (select sum(master) from balance)")
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"], count=1)
    adjustment_shop.give(contact, 5)
    adjustment_shop.process()
    adjustment_shop.sandbox.set_fault("server_error", on=["account"], count=100)
    adjustment_shop.later()

    adjustment_shop.process()

    assert adjustment_shop.states() == ["posted"]
    assert adjustment_shop.in_engage(contact) == [str(before + 10)]
    adjustment_shop.sandbox.clear_faults()
    adjustment_shop.finish()
    adjustment_shop.sync()
    assert adjustment_shop.in_engage(contact) == [str(before + 15)]
    assert_each_once(adjustment_shop)
