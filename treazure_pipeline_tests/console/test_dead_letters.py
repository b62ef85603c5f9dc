from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.console.conftest import Browser
from treazure_pipeline_tests.console.test_adjustments import decisions, shown

AsRole = Callable[[str], Browser]


@pytest.fixture
def letters(adjustment_shop: AdjustmentShop) -> AdjustmentShop:
    """Two deliveries that could not be read; an older version would have thought so of the second, too."""
    (contact,) = adjustment_shop.contacts(1)
    adjustment_shop.deliver('"for Anna <script>"')
    adjustment_shop.deliver('"neither"')
    event = {"eventType": "loyalty.addPoints", "payload": {"contactId": contact, "amount": 5, "pointDefinitionId": 1}}
    adjustment_shop.sql("update dead_letter set body = %s where id = 2", json.dumps(event))
    return adjustment_shop


def test_they_are_listed_with_why_and_their_bodies_are_for_operators(as_role: AsRole, letters: AdjustmentShop) -> None:
    seen = {role: as_role(role).get("/dead-letters").text for role in ("viewer", "operator")}

    assert letters.sql("select count(*) from dead_letter") == [(2,)]
    assert "The payload is not an object." in shown(seen["viewer"])
    assert "Anna" not in seen["viewer"]
    assert "for Anna <script>" in shown(seen["operator"])
    assert "<script" not in seen["operator"]
    assert "2 deliveries could not be read" in shown(as_role("viewer").get("/adjustments").text)


def test_what_was_delivered_at_all_is_counted_by_event_type(as_role: AsRole, letters: AdjustmentShop) -> None:
    letters.sql("insert into webhook_kind values ('Anna''s <type>', 1, now())")
    text = as_role("viewer").get("/dead-letters").text

    assert re.search(r"loyalty\.addPoints 2 20\d\d-", shown(text))
    assert "Anna" not in text
    assert "Anna's <type>" in shown(as_role("operator").get("/dead-letters").text)


def test_one_that_can_be_read_now_goes_to_the_queue_and_the_other_stays(
    as_role: AsRole, letters: AdjustmentShop
) -> None:
    browser = as_role("operator")
    chosen: dict[str, str | list[str]] = {"action": "retry", "number": ["1", "2"]}

    preview = browser.post("/dead-letters/preview", "/dead-letters", **chosen)
    assert "Nothing has been done yet" in preview.text
    assert letters.states() == []
    done = shown(browser.post("/dead-letters/decide", "/dead-letters", reason="after the upgrade", **chosen).text)

    assert "Done: 2" in done
    assert "Not done: 1" in done
    letters.process()
    assert letters.states() == ["done"]
    assert decisions(letters) == [("operator@shop.example", "read again", "dead letter 2", "after the upgrade")]


def test_one_that_somebody_has_dealt_with_is_discarded_with_name_and_reason(
    as_role: AsRole, letters: AdjustmentShop
) -> None:
    browser = as_role("operator")
    fields = {"page": "/dead-letters", "action": "discard", "number": "1", "reason": "given by hand"}

    assert "Done: 1" in browser.post("/dead-letters/decide", **fields).text
    assert "Dead letter 1" not in browser.get("/dead-letters").text
    assert decisions(letters) == [("operator@shop.example", "discarded", "dead letter 1", "given by hand")]
    assert browser.post("/dead-letters/preview", **fields).status_code == 404


def test_reading_one_again_that_was_delivered_well_meanwhile_gives_the_points_once(
    as_role: AsRole, letters: AdjustmentShop
) -> None:
    (contact,) = letters.contacts(1)
    payload = {"contactId": contact, "amount": 5, "pointDefinitionId": 1}
    event = {"eventType": "loyalty.addPoints", "id": "one", "payload": payload}
    letters.sql("update dead_letter set body = %s where id = 2", json.dumps(event))
    letters.deliver(json.dumps(payload | {"amount": 5.0}), "one")

    as_role("operator").post("/dead-letters/decide", "/dead-letters", action="retry", number="2", reason="the upgrade")
    letters.process()

    assert letters.states() == ["done"]
    assert letters.booked() == 1
