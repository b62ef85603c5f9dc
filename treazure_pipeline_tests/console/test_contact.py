from __future__ import annotations

import html
import re
import uuid
from collections.abc import Callable

import pytest

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.console.conftest import Browser, Console

AsRole = Callable[[str], Browser]
COMMENT = "Anna's birthday <script>"


def shown(answer_text: str) -> str:
    """The text of a page, without its marks."""
    return html.unescape(re.sub(r"<[^>]*>", " ", answer_text))


@pytest.fixture
def contact(adjustment_shop: AdjustmentShop) -> str:
    """Somebody who was synced, was given 5 points in Engage, and whose log was fetched."""
    (one,) = adjustment_shop.contacts(1)
    adjustment_shop.give(one, 5, description=COMMENT)
    adjustment_shop.process()
    adjustment_shop.sql(
        "insert into points_history (programme, contact, position, date_time, amount, balance, transaction_type, "
        "expires_at, comment, shop_id, receipt_nr) values "
        "(1, %s, 1, '2026-01-05 10:00+00', 12.5, 12.5, 'Load', '2027-01-05 00:00+00', %s, 'S7', 'R-100')",
        one, COMMENT,
    )  # fmt: skip
    return one


def test_a_look_up_answers_why_with_both_balances_and_one_timeline(
    as_role: AsRole, contact: str, adjustment_shop: AdjustmentShop
) -> None:
    browser = as_role("service")

    answer = browser.post("/contacts", page="/contacts", key=f" {contact.upper()} ")
    text = shown(answer.text)
    (balance,) = adjustment_shop.sql("select trim_scale(sent)::text from ledger where contact = %s", contact)[0]

    assert str(answer.url).endswith(f"/contacts/{contact}")
    assert re.search(rf"Engage accepted {re.escape(balance)} points", text)
    assert f"Treazure has {float(balance):,g}" in " ".join(text.split())
    for kind in ("observed", "sent", "adjustment", "points log"):
        assert kind in text
    assert "12.50 points, balance 12.50, Load, shop S7, receipt «…», expires 2027-01-05" in text.replace("R-100", "«…»")


def test_where_the_points_come_from_is_told_by_the_points_log(as_role: AsRole, contact: str) -> None:
    text = " ".join(shown(as_role("operator").get(f"/contacts/{contact}").text).split())

    assert "The latest movements in Treazure's points log" in text
    assert f"+12.50 12.50 Load, shop S7, receipt R-100, expires 2027-01-05, «{COMMENT}»" in text


def test_without_a_points_log_the_changes_that_were_seen_are_told(
    as_role: AsRole, contact: str, adjustment_shop: AdjustmentShop
) -> None:
    adjustment_shop.sql("delete from points_history")
    adjustment_shop.sandbox.add_points({contact: 3})
    adjustment_shop.later(60)
    adjustment_shop.sync()
    text = " ".join(shown(as_role("service").get(f"/contacts/{contact}").text).split())

    assert "The latest changes that were observed" in text
    assert re.search(r"\+3 [\d.,]+ seen in Treazure .* first seen in Treazure", text)
    assert "the job refresh_points_history" in text


def test_free_texts_are_for_operators(as_role: AsRole, contact: str) -> None:
    seen = {role: shown(as_role(role).get(f"/contacts/{contact}").text) for role in ("service", "operator", "approver")}

    assert "birthday" not in seen["service"]
    assert seen["operator"].count(COMMENT) == 3
    assert seen["approver"].count(COMMENT) == 3


def test_a_comment_is_shown_as_text(as_role: AsRole, contact: str) -> None:
    assert "<script" not in as_role("operator").get(f"/contacts/{contact}").text


def test_why_a_person_decided_is_for_operators(as_role: AsRole, contact: str, adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.sql(
        "insert into adjustment_transition (adjustment, state, reason) select id, 'discarded', 'Anna complained' "
        "from adjustment"
    )

    assert "complained" not in as_role("service").get(f"/contacts/{contact}").text
    assert "complained" in as_role("operator").get(f"/contacts/{contact}").text


def test_a_viewer_looks_nobody_up(as_role: AsRole, contact: str, adjustment_shop: AdjustmentShop) -> None:
    browser = as_role("viewer")

    assert browser.get("/contacts").status_code == 403
    assert browser.get(f"/contacts/{contact}").status_code == 403
    assert 'href="/contacts"' not in browser.get("/").text
    assert adjustment_shop.sql("select count(*) from lookup") == [(0,)]


def test_each_look_up_is_recorded_with_who_when_and_whom(
    as_role: AsRole, contact: str, adjustment_shop: AdjustmentShop
) -> None:
    unknown = str(uuid.uuid4())
    as_role("service").post("/contacts", page="/contacts", key=contact)
    answer = as_role("operator").get(f"/contacts/{unknown}")

    assert "Nothing is known about this contact" in answer.text
    recorded = adjustment_shop.sql("select looked_by, contact::text, now() - at < interval '1 minute' from lookup")
    assert recorded == [("service@shop.example", contact, True), ("operator@shop.example", unknown, True)]
    listed = shown(as_role("approver").get("/look-ups").text)
    assert re.search(rf"operator@shop.example\s+{unknown}.*service@shop.example\s+{contact}", listed, re.DOTALL)
    assert as_role("operator").get("/look-ups").status_code == 403


def test_a_key_of_the_migration_and_a_receipt_lead_to_their_contact(
    as_role: AsRole, contact: str, adjustment_shop: AdjustmentShop
) -> None:
    adjustment_shop.sql(
        "insert into migration_contact (migration, shard, contact, balance, settled, key) "
        "values (1, 0, gen_random_uuid(), 1, true, 'M-77'), (2, 0, %s, 1, true, 'M-77')",
        contact,
    )
    ((receipt,),) = adjustment_shop.sql("select receipt from adjustment")
    browser = as_role("service")

    for key in ("M-77", receipt.lower()):
        assert str(browser.post("/contacts", page="/contacts", key=key).url).endswith(contact)
    nobody = browser.post("/contacts", page="/contacts", key='M-78"><script>')
    assert nobody.status_code == 404
    assert "No contact has this key" in nobody.text
    assert "<script" not in nobody.text


def test_whoever_looks_up_all_the_time_is_slowed_down(as_role: AsRole) -> None:
    browser = as_role("service")

    answers = [browser.get(f"/contacts/{uuid.uuid4()}").status_code for _ in range(31)]

    assert set(answers[:30]) == {200}
    assert answers[30] == 429


def test_a_look_up_that_can_not_be_recorded_shows_nothing(
    console: Console, contact: str, adjustment_shop: AdjustmentShop
) -> None:
    adjustment_shop.sql("alter table lookup add check (looked_by = '')")

    answer = console().get(f"/contacts/{contact}")

    assert answer.status_code == 500
    assert "points" not in answer.text
