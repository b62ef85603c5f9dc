from __future__ import annotations

import html
import re
from collections.abc import Callable

import pytest

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.console.conftest import Browser

AsRole = Callable[[str], Browser]
COMMENT = "for Anna <b>"


def shown(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


@pytest.fixture
def refused(adjustment_shop: AdjustmentShop) -> AdjustmentShop:
    """Three adjustments that Treazure has refused."""
    adjustment_shop.sandbox.set_fault("server_error", on=["transaction"], status=400, count=3)
    for contact in adjustment_shop.contacts(3):
        adjustment_shop.give(contact, 7, description=COMMENT)
    adjustment_shop.process()
    assert adjustment_shop.states() == ["rejected"] * 3
    return adjustment_shop


def decisions(shop: AdjustmentShop) -> list[tuple[object, ...]]:
    return shop.sql("select decided_by, what, subject, why from decision order by id")


def test_what_needs_a_person_is_listed_and_other_states_where_asked_for(
    as_role: AsRole, refused: AdjustmentShop
) -> None:
    browser = as_role("viewer")
    text = shown(browser.get("/adjustments").text)

    assert "rejected (3)" in text
    assert [contact in text for contact in refused.contacts(3)] == [True] * 3
    assert "None in these states" in browser.get("/adjustments?state=done").text


def test_comments_are_for_operators(as_role: AsRole, refused: AdjustmentShop) -> None:
    assert refused.states()
    assert COMMENT not in shown(as_role("viewer").get("/adjustments").text)
    assert COMMENT in shown(as_role("operator").get("/adjustments").text)
    assert as_role("service").get("/adjustments/1").status_code == 403


def test_several_are_sent_again_after_a_preview_that_changes_nothing(as_role: AsRole, refused: AdjustmentShop) -> None:
    browser = as_role("operator")
    chosen: dict[str, str | list[str]] = {"action": "retry", "number": ["1", "3"]}

    preview = browser.post("/adjustments/preview", "/adjustments", **chosen)
    assert "Adjustment 1: 7 points" in shown(preview.text)
    assert "Adjustment 2" not in shown(preview.text)
    assert refused.states() == ["rejected"] * 3
    done = browser.post("/adjustments/decide", "/adjustments", reason="the account is open", **chosen)

    assert "Done: 1, 3" in done.text
    assert refused.states() == ["queued", "rejected", "queued"]
    assert decisions(refused) == [
        ("operator@shop.example", "retried", "adjustment 1", "the account is open"),
        ("operator@shop.example", "retried", "adjustment 3", "the account is open"),
    ]
    refused.process()
    assert refused.states() == ["done", "rejected", "done"]


def test_one_that_is_discarded_stays_so_and_a_second_click_does_nothing(
    as_role: AsRole, refused: AdjustmentShop
) -> None:
    browser = as_role("operator")
    given = {"page": "/adjustments", "action": "discard", "number": "2", "reason": "given twice"}

    assert "Done: 2" in browser.post("/adjustments/decide", **given).text
    assert "Not done: 2" in browser.post("/adjustments/decide", **given).text
    assert refused.state(2)[0] == "discarded"
    assert decisions(refused) == [("operator@shop.example", "discarded", "adjustment 2", "given twice")]


def test_an_uncertain_one_is_settled_with_the_evidence_beside_it(
    as_role: AsRole, adjustment_shop: AdjustmentShop
) -> None:
    (contact,) = adjustment_shop.contacts(1)
    number = adjustment_shop.give(contact, 9, description="x")
    adjustment_shop.process()
    adjustment_shop.sql("update adjustment set state = 'uncertain', finished_at = null")
    ((receipt,),) = adjustment_shop.sql("select receipt from adjustment")
    adjustment_shop.sql(
        "insert into points_history (programme, contact, position, date_time, amount, balance, transaction_type, "
        "receipt_nr) values (1, %s, 1, now(), 9, 20, 'Load', %s), (1, %s, 2, now(), 9, 29, 'Load', 'TILL-1')",
        contact, receipt.lower(), contact,
    )  # fmt: skip
    browser = as_role("operator")
    page = browser.get(f"/adjustments/{number}").text
    text = shown(page)

    assert "Adjustments that need a person: 1 uncertain" in shown(browser.get("/").text)
    assert '<button name="action"' not in page, "without evidence, nothing is advised"
    assert " Uncertain " in text
    assert "its receipt: already booked in Treazure" in text
    assert "TILL-1 same amount, another receipt: proves nothing" in text
    preview = browser.post("/adjustments/preview", page="/adjustments", action="retry", number=str(number))
    assert "sending again gives the points twice" in preview.text
    browser.post("/adjustments/decide", page="/adjustments", action="posted", number=str(number), reason="seen")
    assert adjustment_shop.state(number)[0] == "posted"
    assert decisions(adjustment_shop)[0][1] == "found in Treazure"


def test_nobody_below_an_operator_acts(as_role: AsRole, refused: AdjustmentShop) -> None:
    answer = as_role("service").post("/adjustments/decide", page="/contacts", action="retry", number="1", reason="me")

    assert answer.status_code == 403
    assert refused.states() == ["rejected"] * 3


@pytest.mark.parametrize("fields", [{"action": "delete", "number": "1"}, {"action": "retry"}, {"number": "1"}])
def test_a_form_that_makes_no_sense_does_nothing(
    as_role: AsRole, refused: AdjustmentShop, fields: dict[str, str]
) -> None:
    answer = as_role("operator").post("/adjustments/decide", page="/adjustments", reason="x", **fields)

    assert answer.status_code == 422
    assert refused.states() == ["rejected"] * 3
