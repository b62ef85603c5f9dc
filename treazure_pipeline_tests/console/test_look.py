"""A person looks into Treazure for an adjustment that nobody can decide, and sees what processing would go by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.console.conftest import Browser
from treazure_pipeline_tests.console.test_adjustments import decisions, shown

AsRole = Callable[..., Browser]
CREDENTIALS = ("TREAZURE_BASE_URL", "TREAZURE_CLIENT_ID", "TREAZURE_CLIENT_SECRET", "ENGAGE_BASE_URL")


@pytest.fixture
def desk(as_role: AsRole, adjustment_shop: AdjustmentShop) -> Callable[[str], Browser]:
    """Starts a console that was given Treazure's credentials."""
    given = {name: adjustment_shop.variables[name] for name in CREDENTIALS}

    def start(role: str) -> Browser:
        return as_role(role, **given)

    return start


def undecided(shop: AdjustmentShop, fault: str, **parameters: Any) -> int:
    """An adjustment whose answer was lost an hour ago and which nobody has looked up since."""
    number = shop.give(shop.contacts(1)[0], 5, description="for Anna")
    shop.sandbox.set_fault(fault, on=["transaction"], **parameters)
    shop.process()
    shop.later()
    shop.sql("update adjustment set state = 'uncertain', reason = 'nobody could tell'")
    return number


def test_the_button_that_the_evidence_advises_is_the_first_choice(
    desk: Callable[[str], Browser], adjustment_shop: AdjustmentShop
) -> None:
    number = undecided(adjustment_shop, "lost_after")
    page = desk("operator").post(f"/adjustments/{number}/look", f"/adjustments/{number}").text
    assert '<button name="action" value="posted">' in page
    assert page.count('<button name="action"') == 1


def look(browser: Browser, number: int) -> str:
    answer = browser.post(f"/adjustments/{number}/look", f"/adjustments/{number}")
    assert answer.status_code == 200, answer.text
    return shown(answer.text)


def test_one_that_treazure_has_is_shown_with_its_movement_and_settled(
    desk: Callable[[str], Browser], adjustment_shop: AdjustmentShop
) -> None:
    number = undecided(adjustment_shop, "lost_after")
    before = adjustment_shop.sql("select state, lookups, asked, next_try from adjustment")
    browser = desk("operator")
    text = look(browser, number)

    assert (
        "Already booked in Treazure: its receipt is in the history. Choose “Already booked in Treazure” below" in text
    )
    assert "its receipt" in text
    assert "for Anna" not in text.split("Evidence")[1].split("What happened")[0]
    assert adjustment_shop.sql("select state, lookups, asked, next_try from adjustment") == before
    browser.post("/adjustments/decide", "/adjustments", action="posted", number=str(number), reason="seen")
    adjustment_shop.process()
    adjustment_shop.later()
    adjustment_shop.finish()
    assert adjustment_shop.states() == ["done"]
    assert adjustment_shop.booked() == 1
    assert decisions(adjustment_shop)[0][1] == "found in Treazure"


def test_one_that_treazure_does_not_have_may_be_sent_again(
    desk: Callable[[str], Browser], adjustment_shop: AdjustmentShop
) -> None:
    number = undecided(adjustment_shop, "lost_before")

    assert "Not booked in Treazure: its receipt is not in the history. It may be sent again" in look(
        desk("operator"), number
    )


def test_one_that_the_pipeline_still_looks_for_needs_nobody(
    desk: Callable[[str], Browser], adjustment_shop: AdjustmentShop
) -> None:
    number = undecided(adjustment_shop, "lost_after")
    adjustment_shop.sql("update adjustment set state = 'sending'")
    text = look(desk("operator"), number)

    assert "There is nothing to do: the pipeline looks for it as well, and continues by itself" in text
    assert "Choose" not in text


def test_where_treazure_does_not_answer_nobody_can_tell(
    desk: Callable[[str], Browser], adjustment_shop: AdjustmentShop
) -> None:
    number = undecided(adjustment_shop, "lost_before")
    adjustment_shop.sandbox.set_fault("server_error", on=["history"], status=503)

    assert "Nobody can tell yet: the history can't be read" in look(desk("operator"), number)


def test_a_look_right_after_a_call_is_no_evidence(
    desk: Callable[[str], Browser], adjustment_shop: AdjustmentShop
) -> None:
    number = undecided(adjustment_shop, "lost_before")
    adjustment_shop.sql("update adjustment set asked = clock_timestamp()")

    assert "Nobody can tell yet: the history was read too soon after the call" in look(desk("operator"), number)


def test_a_look_is_a_look_up_and_is_recorded(desk: Callable[[str], Browser], adjustment_shop: AdjustmentShop) -> None:
    number = undecided(adjustment_shop, "lost_before")
    look(desk("operator"), number)

    assert adjustment_shop.sql("select looked_by, contact::text from lookup") == [
        ("operator@shop.example", adjustment_shop.contacts(1)[0])
    ]
    assert desk("service").post(f"/adjustments/{number}/look", "/contacts").status_code == 403


def test_without_credentials_the_page_says_so_and_asks_nobody(as_role: AsRole, adjustment_shop: AdjustmentShop) -> None:
    number = undecided(adjustment_shop, "lost_before")
    asked = adjustment_shop.sandbox.report()["requests"]
    browser = as_role("operator")

    assert "needs Treazure's credentials (TREAZURE_CLIENT_ID" in shown(browser.get(f"/adjustments/{number}").text)
    answer = browser.post(f"/adjustments/{number}/look", f"/adjustments/{number}")
    assert answer.status_code == 409
    assert adjustment_shop.sandbox.report()["requests"] == asked
