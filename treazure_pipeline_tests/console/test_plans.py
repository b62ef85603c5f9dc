from __future__ import annotations

import html
import re
import uuid
from collections.abc import Callable

import pytest

from treazure_pipeline.balance_sync.guards import judge
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, fetch, merge, run_of
from treazure_pipeline_tests.console.conftest import Browser

AsRole = Callable[[str], Browser]


@pytest.fixture
def digest(shop: Shop) -> str:
    """The digest of a plan that a guard holds: two balances have grown by far too much."""
    shop.sync()
    grow(shop, 5_000_000)
    return open_digest(shop)


def grow(shop: Shop, points: int) -> None:
    contacts = [row["contactId"] for row in shop.sandbox.balances(limit=2)]
    shop.sandbox.set_points(dict.fromkeys(contacts, points))
    with shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        run_id = uuid.uuid4().hex
        fetch(connections, account, run_id=run_id)
        merge(connections, account, run_id)
        judge(run_of(connections, account, run_id))


def open_digest(shop: Shop) -> str:
    ((digest,),) = shop.sql("select digest from plan where state = 'open'")
    return str(digest)


def shown(browser: Browser, path: str = "/plans") -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", browser.get(path).text)).split())


def test_a_held_plan_is_shown_with_why_the_largest_changes_and_a_histogram(
    as_role: AsRole, shop: Shop, digest: str
) -> None:
    text = shown(as_role("viewer"))

    assert f"Plan {digest} is held and waits for approval" in text
    assert "GUARD_MAX_SINGLE_CHANGE" in text or "single" in text or "5,0" in text
    assert "gain 1,000,000 to 10,000,000 2" in text
    for contact in shop.pending():
        assert re.search(rf"{contact} \S+ 5,000,000 \+", text)
    assert "An approver can let it through" in text


def test_an_approver_lets_exactly_this_plan_through_with_name_and_reason(
    as_role: AsRole, shop: Shop, digest: str
) -> None:
    browser = as_role("approver")

    answer = browser.post(f"/plans/points/{digest}/approve", page="/plans", reason=" a campaign <b> ")

    assert "was approved by" in answer.text
    assert shop.sql("select state, approved_by, digest from plan") == [("approved", "approver@shop.example", digest)]
    decided = shop.sql("select decided_by, what, subject, why from decision")
    assert decided == [("approver@shop.example", "approved", f"plan {digest}", "a campaign <b>")]
    assert "a campaign <b>" in shown(browser, "/decisions")
    shop.send_pending()
    assert_in_step(shop)


def test_letting_it_be_is_kept_with_its_reason_and_sends_nothing(as_role: AsRole, shop: Shop, digest: str) -> None:
    as_role("approver").post(f"/plans/points/{digest}/let-be", page="/plans", reason="a typing error in Treazure")

    assert shop.sql("select state from plan") == [("open",)]
    assert shop.sql("select decided_by, what, why from decision") == [
        ("approver@shop.example", "let be", "a typing error in Treazure")
    ]
    assert "approver@shop.example let it be" in shown(as_role("viewer"))
    assert "waits for approval. Somebody has looked at it and let it be." in shown(as_role("viewer"))
    assert "typing error" not in shown(as_role("viewer"))
    assert "typing error" in shown(as_role("operator"))


@pytest.mark.parametrize("role", ["viewer", "service", "operator"])
@pytest.mark.parametrize("action", ["approve", "let-be"])
def test_nobody_but_an_approver_decides(as_role: AsRole, shop: Shop, digest: str, role: str, action: str) -> None:
    browser = as_role(role)
    page = "/contacts" if role != "viewer" else "/plans"
    path = f"/plans/points/{digest}/{action}"
    if role == "viewer":
        assert browser.client.post(f"{browser.url}{path}", data={"reason": "me"}).status_code == 403
    else:
        answer = browser.post(path, page=page, reason="me")
        assert answer.status_code == 403
        assert "needs the role approver" in answer.text
    assert shop.sql("select state from plan") == [("open",)]
    assert shop.sql("select count(*) from decision") == [(0,)]


def test_a_plan_that_was_replaced_meanwhile_is_not_approved(as_role: AsRole, shop: Shop, digest: str) -> None:
    browser = as_role("approver")
    browser.get("/plans")
    grow(shop, 6_000_000)

    for action in ("approve", "let-be"):
        answer = browser.post(f"/plans/points/{digest}/{action}", page="/plans", reason="yes")
        assert answer.status_code == 422
    assert sorted(shop.sql("select state from plan")) == [("open",), ("replaced",)]
    assert shop.sql("select count(*) from decision") == [(0,)]


def test_without_a_reason_nothing_is_decided(as_role: AsRole, shop: Shop, digest: str) -> None:
    for reason in ("", "x" * 501):
        answer = as_role("approver").post(f"/plans/points/{digest}/approve", page="/plans", reason=reason)
        assert answer.status_code == 422
    assert shop.sql("select state from plan") == [("open",)]


def test_where_nothing_is_held_the_page_says_so(as_role: AsRole, shop: Shop) -> None:
    shop.sync()

    assert "Nothing is held, and a push would change nothing" in shown(as_role("viewer"))
