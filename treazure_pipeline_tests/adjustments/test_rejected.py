from __future__ import annotations

import uuid
from collections.abc import Callable
from decimal import Decimal

import pytest

from treazure_pipeline.adjustments import queue
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once

CONTACT = "{contact}"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":0}', "changes nothing"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":0.000}', "changes nothing"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":-0.0}', "changes nothing"),
        ('{"contactId":"{contact}","pointDefinitionId":1}', "amount (None) must be a number"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":null}', "must be a number"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":true}', "must be a number"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":"twelve"}', "must be a number"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":[5]}', "must be a number"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":{"value":5}}', "must be a number"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":1000000000001}', "at most 1,000,000,000,000"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":-1e300}', "at most 1,000,000,000,000"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":1e5000}', "at most 1,000,000,000,000"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":%s}' % ("9" * 6000), "at most 1,000,000,000,000"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":0.0000001}', "at most 6 decimals"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":1e-5000}', "at most 6 decimals"),
        ('{"contactId":"{contact}","pointDefinitionId":1,"amount":999999999999.00000000000000000000001}', "6 decimals"),
        ('{"contactId":"{contact}","pointDefinitionId":2,"amount":5}', "belongs to no programme"),
        ('{"contactId":"{contact}","pointDefinitionId":"one","amount":5}', "belongs to no programme"),
        ('{"contactId":"{contact}","pointDefinitionId":%s,"amount":5}' % ("9" * 6000), "belongs to no programme"),
        ('{"contactId":"{contact}","pointDefinitionId":null,"amount":5}', "belongs to no programme"),
        ('{"contactId":"{contact}","amount":5}', "belongs to no programme"),
        ('{"contactId":"not-a-guid","pointDefinitionId":1,"amount":5}', "must be a GUID"),
        ('{"contactId":"{contact}0","pointDefinitionId":1,"amount":5}', "must be a GUID"),
        ('{"contactId":"../../Account","pointDefinitionId":1,"amount":5}', "must be a GUID"),
        ('{"contactId":null,"pointDefinitionId":1,"amount":5}', "must be a GUID"),
        ('{"contactId":["{contact}"],"pointDefinitionId":1,"amount":5}', "must be a GUID"),
        ("{}", "belongs to no programme"),
    ],
)
def test_an_event_without_sense_is_rejected_with_its_reason_and_the_others_go_on(
    adjustment_shop: AdjustmentShop, payload: str, reason: str
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    assert adjustment_shop.deliver(payload.replace("{contact}", contact)).is_success
    good = adjustment_shop.give(contact, 5)
    result = adjustment_shop.process()
    assert (result.rejected, result.posted, result.done) == (1, 1, 1)
    ((number, found),) = adjustment_shop.sql("select id, reason from adjustment where state = 'rejected'")
    assert reason in found
    assert len(found) < 400
    assert adjustment_shop.path(number) == ["rejected"]
    assert adjustment_shop.state(good)[0] == "done"
    assert_each_once(adjustment_shop)


@pytest.mark.parametrize("depth", [100, 900, 100_000])
@pytest.mark.parametrize("field", ["extra", "description", "amount"])
def test_an_event_nested_without_end_is_a_dead_letter_and_the_others_go_on(
    adjustment_shop: AdjustmentShop, depth: int, field: str
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    nested = f'{{"contactId":"{contact}","pointDefinitionId":1,"{field}":{"[" * depth}{"]" * depth}}}'
    assert adjustment_shop.deliver(nested).is_success
    ((reason,),) = adjustment_shop.sql("select reason from dead_letter")
    assert "nested more than 64 levels" in reason
    good = adjustment_shop.give(contact, 5)
    result = adjustment_shop.process()
    assert (result.rejected, result.posted, result.done) == (0, 1, 1)
    assert adjustment_shop.state(good)[0] == "done"


def test_brackets_within_a_text_are_no_depth(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    text = "[" * 200 + '\\"{'
    body = f'{{"contactId":"{contact}","pointDefinitionId":1,"amount":5,"description":"{text}"}}'
    assert adjustment_shop.deliver(body).is_success
    assert adjustment_shop.process().done == 1
    assert adjustment_shop.sql("select count(*) from dead_letter") == [(0,)]


@pytest.mark.parametrize(
    "stored",
    ["[" * 2500 + "]" * 2500, "[]", '"text"', "7", "null", '{"amount":' + "[" * 2500 + "]" * 2500 + "}"],
)
def test_whatever_is_stored_is_rejected_with_its_reason_and_the_others_go_on(
    adjustment_shop: AdjustmentShop, stored: str
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sql(
        "insert into adjustment (event_id, source, payload, receipt) values ('odd', 'webhook', %s::jsonb, 'VEODD')",
        stored,
    )
    good = adjustment_shop.give(contact, 5)
    result = adjustment_shop.process()
    assert (result.rejected, result.posted, result.done) == (1, 1, 1)
    ((reason,),) = adjustment_shop.sql("select reason from adjustment where state = 'rejected'")
    assert reason
    assert adjustment_shop.state(good)[0] == "done"


@pytest.mark.parametrize(
    "amount",
    ["0.1", "0.2", "0.3", "-0.1", "0.000001", "123456.789012", "99999999999.9", "100000000000.25", "-3", "5e1", "1.10"],
)
def test_an_amount_reaches_treazure_to_its_last_digit(adjustment_shop: AdjustmentShop, amount: str) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sandbox.set_points({contact: 100})
    body = f'{{"contactId":"{contact}","pointDefinitionId":1,"amount":{amount},"description":"exact"}}'
    assert adjustment_shop.deliver(body).is_success
    assert adjustment_shop.process().done == 1
    ((kept, balance),) = adjustment_shop.sql("select amount, balance from adjustment")
    assert kept == Decimal(amount)
    assert balance == 100 + Decimal(amount)
    row = adjustment_shop.sandbox.balances([contact])[0]
    assert Decimal(row["treazure"]) == Decimal(row["engage"]) == 100 + Decimal(amount)


def test_tenths_add_up_exactly(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sandbox.set_points({contact: 0})
    for amount in ("0.1", "0.2", "0.1", "-0.3"):
        adjustment_shop.give(contact, amount)
    assert adjustment_shop.process().done == 4
    assert Decimal(adjustment_shop.in_engage(contact)[0] or "") == Decimal("0.1")
    assert_each_once(adjustment_shop)


def test_the_case_of_a_guid_makes_no_difference(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.give(contact.upper(), 5)
    adjustment_shop.give(contact.lower(), 5)
    assert adjustment_shop.process().done == 2
    assert_each_once(adjustment_shop)


def test_points_that_are_not_there_cannot_be_taken_and_the_vendor_says_so(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sandbox.set_points({contact: 5})
    too_much, good = adjustment_shop.give(contact, -6), adjustment_shop.give(contact, -5)
    adjustment_shop.process()
    state, reason = adjustment_shop.state(too_much)
    assert state == "rejected"
    assert "too few points" in str(reason)
    assert adjustment_shop.state(good)[0] == "done"
    assert_each_once(adjustment_shop, never=1)


@pytest.mark.parametrize("status", [400, 404, 405, 410])
def test_a_page_of_a_gateway_rejects_nothing(adjustment_shop: AdjustmentShop, status: int) -> None:
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("html", on=["transaction"], status=status)
    adjustment_shop.finish()
    assert "rejected" not in adjustment_shop.path(number)
    assert_each_once(adjustment_shop)


def test_a_404_of_the_transaction_alone_rejects_nothing(adjustment_shop: AdjustmentShop) -> None:
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("server_error", on=["transaction"], status=404)
    adjustment_shop.finish()
    assert "rejected" not in adjustment_shop.path(number)
    assert_each_once(adjustment_shop)


def test_a_contact_that_treazure_does_not_know_is_rejected_until_it_does(adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.sync()
    stranger = str(uuid.uuid4())
    number, good = adjustment_shop.give(stranger, 5), adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.process()
    state, reason = adjustment_shop.state(number)
    assert state == "rejected"
    assert "No such account" in str(reason)
    assert adjustment_shop.state(good)[0] == "done"
    adjustment_shop.sandbox.set_points({stranger: 1})
    with adjustment_shop.working() as work:
        assert queue.retry(work.ledger, number)
    adjustment_shop.finish()
    assert adjustment_shop.state(number)[0] == "done"
    adjustment_shop.sync(full=True)
    assert_each_once(adjustment_shop)


def test_what_a_later_setting_makes_sense_of_can_be_retried(new_adjustment_shop: Callable[..., AdjustmentShop]) -> None:
    adjustment_shop = new_adjustment_shop(environ={"ENGAGE_DEFINITION_ID": "2"})
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.process()
    assert adjustment_shop.state(number)[0] == "rejected"
    adjustment_shop.environ["ENGAGE_DEFINITION_ID"] = "1"
    with adjustment_shop.working() as work:
        assert queue.retry(work.ledger, number)
    adjustment_shop.finish()
    assert adjustment_shop.state(number)[0] == "done"
    assert_each_once(adjustment_shop)


def test_a_discarded_adjustment_is_never_posted_and_lets_the_next_one_go(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    number, behind = adjustment_shop.give(contact, 5), adjustment_shop.give(contact, 6)
    adjustment_shop.process(TREAZURE_BASE_URL="http://127.0.0.1:9")
    with adjustment_shop.working() as work:
        assert queue.discard(work.ledger, number, "given by mistake", posted=False)
        assert not queue.discard(work.ledger, number, "again", posted=False)
        assert not queue.retry(work.ledger, number)
    adjustment_shop.finish()
    assert [adjustment_shop.state(each)[0] for each in (number, behind)] == ["discarded", "done"]
    assert_each_once(adjustment_shop, never=1)


def test_other_events_and_unreadable_ones_are_no_adjustments(adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.sandbox.set_fault("encrypted", on=["webhooks"])
    adjustment_shop.sandbox.give_points(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.wait_until_delivered()
    assert adjustment_shop.process().queued == 0
    assert adjustment_shop.states() == []
    with adjustment_shop.working() as work:
        assert queue.figures(work.ledger).dead_letters == 1
