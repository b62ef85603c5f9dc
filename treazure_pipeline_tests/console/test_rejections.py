from __future__ import annotations

import html
import json
import re
from collections.abc import Callable

import pytest

from treazure_pipeline_tests.balance_sync.shop import Shop
from treazure_pipeline_tests.console.conftest import Browser

AsRole = Callable[[str], Browser]
CAUSE = re.compile(r'name="cause" value="([^"]*)"')
DIGEST = re.compile(r'name="digest" value="([0-9a-f]+)"')


def shown(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


@pytest.fixture
def rejected(shop: Shop) -> Shop:
    """Two rows of an export that can't be understood, of a contact, with a text in them."""
    (contact,) = [row["contactId"] for row in shop.sandbox.balances(limit=1)]
    rows = [json.dumps({"accountNumber": contact, "balance": text}) for text in ("Anna <script>", "Bo")]
    shop.sandbox.set_fault("bad_rows", raw_rows=rows)
    shop.sync()
    assert shop.sql("select count(*) from rejection where resolved_at is null") == [(2,)]
    return shop


def test_causes_are_for_all_and_the_rows_for_operators(as_role: AsRole, rejected: Shop) -> None:
    assert rejected.known_master()
    viewer, operator = as_role("viewer"), as_role("operator")

    assert "2 outstanding" in shown(viewer.get("/rejections").text)
    assert "balance" in shown(viewer.get("/rejections").text)
    for text in ("Anna", "Bo"):
        assert text not in shown(viewer.get("/rejections?reason=balance").text)
        assert text in shown(operator.get("/rejections?reason=balance").text)
    assert "<script" not in operator.get("/rejections?reason=balance").text
    assert "Nothing is outstanding with this cause" in operator.get("/rejections?reason=nothing-like-it").text


def test_a_cause_is_tried_again_after_a_preview(as_role: AsRole, rejected: Shop) -> None:
    browser = as_role("operator")
    cause = html.unescape(CAUSE.findall(browser.get("/rejections").text)[0])

    preview = browser.post("/rejections/points/retry", page="/rejections", cause=cause)
    assert "2 rows:" in shown(preview.text)
    assert rejected.sql("select count(*) from reread") == [(0,)]
    done = browser.post(
        "/rejections/points/retry/decide", page="/rejections", cause=cause, reason="corrected in Treazure"
    )

    assert "reads 1 account." in done.text
    assert rejected.sql("select count(*) from reread") == [(1,)]
    ((by, what, why),) = rejected.sql("select decided_by, what, why from decision")
    assert (by, what, why) == ("operator@shop.example", "retried", "corrected in Treazure")


def test_chosen_rows_are_discarded_for_good_after_a_preview(as_role: AsRole, rejected: Shop) -> None:
    browser = as_role("operator")
    digests = DIGEST.findall(browser.get("/rejections?reason=balance").text)
    assert len(digests) == 2

    preview = browser.post("/rejections/points/discard", page="/rejections", digest=digests[0])
    assert "Each of these rows is discarded for good" in shown(preview.text)
    given = {"page": "/rejections", "digest": digests[0], "reason": "a test row"}
    assert "1 row discarded" in browser.post("/rejections/points/discard/decide", **given).text
    assert "0 rows discarded" in browser.post("/rejections/points/discard/decide", **given).text

    left = rejected.sql("select digest from rejection where resolved_at is null")
    assert left == [(digests[1],)]
    assert rejected.sql("select decided_by, subject, why from decision") == [
        ("operator@shop.example", f"rejection {digests[0]}", "a test row")
    ]


def test_the_beginning_of_a_digest_discards_nothing(as_role: AsRole, rejected: Shop) -> None:
    (digest, *_) = DIGEST.findall(as_role("operator").get("/rejections?reason=balance").text)
    browser = as_role("operator")

    browser.post("/rejections/points/discard/decide", page="/rejections", digest=digest[:1], reason="all of them")

    assert rejected.sql("select count(*) from rejection where resolved_at is null") == [(2,)]


@pytest.mark.parametrize("path", ["retry", "retry/decide", "discard", "discard/decide"])
def test_nobody_below_an_operator_acts(as_role: AsRole, rejected: Shop, path: str) -> None:
    fields = {"cause": "balance", "digest": "0" * 32, "reason": "me"}

    assert as_role("service").post(f"/rejections/points/{path}", page="/contacts", **fields).status_code == 403
    assert rejected.sql("select count(*) from decision") == [(0,)]
