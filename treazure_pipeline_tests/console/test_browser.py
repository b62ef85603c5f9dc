"""The console in a real browser: each page, each action, the keyboard alone, a phone, and an accessibility checker."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.console.conftest import Console, oidc_settings
from treazure_pipeline_tests.console.provider import Provider
from treazure_pipeline_tests.console.test_plans import grow, open_digest

WITHOUT = "needs the extra browser-tests (`make test` installs it) and Chromium (`apt install chromium`)"
playwright = pytest.importorskip("playwright.sync_api", reason=WITHOUT)
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=WITHOUT)
CHROMIUM = shutil.which("chromium") or ""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=WITHOUT)]

HOSTILE = "<script>document.title='owned'</script>[/b]\u202e"
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@dataclass(frozen=True)
class Visit:
    """A browser's window at the console, what it complained of, and the shop behind it."""

    page: Any
    url: str
    complaints: list[str]
    shop: AdjustmentShop
    contact: str

    def open(self, path: str) -> Any:
        self.page.goto(f"{self.url}{path}")
        return self.page

    @property
    def paths(self) -> list[str]:
        return [
            "/", "/contacts", f"/contacts/{self.contact}", "/plans", "/adjustments", "/adjustments/1", "/dead-letters",
            "/rejections?reason=balance", "/migration", "/decisions", "/look-ups", "/nowhere",
        ]  # fmt: skip


@pytest.fixture
def visit(
    chromium: Any, console: Console, oidc: Provider, adjustment_shop: AdjustmentShop
) -> Iterator[Callable[..., Visit]]:
    """Signs an approver in at a shop with a held plan, refused adjustments, a rejected row, and hostile texts."""
    shop = adjustment_shop
    contact, other = shop.contacts(2)
    shop.sandbox.set_fault("server_error", on=["transaction"], status=400, count=2)
    for one in (contact, other):
        shop.give(one, 7, description=HOSTILE)
    shop.deliver(f'"{HOSTILE}"')
    shop.process()
    shop.sync()
    shop.sandbox.set_fault("bad_rows", raw_rows=[f'{{"accountNumber": "{contact}", "balance": "{HOSTILE[:30]}"}}'])
    grow(shop, 5_000_000)
    oidc.person = {"email": "anna@shop.example"}
    url = console(**oidc_settings(oidc)).url
    contexts = []

    def begin(**how: Any) -> Visit:
        contexts.append(chromium.new_context(**how))
        page = contexts[-1].new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        found = Visit(page, url, complaints, shop, contact)
        found.open("/")
        return found

    yield begin
    for each in contexts:
        each.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_accessibility_checker_finds_nothing_on_any_page(visit: Callable[..., Visit], scheme: str) -> None:
    # The checker is a script that it puts into the page.
    at = visit(bypass_csp=True, color_scheme=scheme)
    found = {}
    for path in at.paths:
        at.open(path)
        found[path] = [one["id"] for one in axe.Axe().run(at.page).response["violations"]]
    at.open("/adjustments").get_by_label("Adjustment 1").check()
    at.page.get_by_role("button", name="Discard").click()
    found["preview"] = [one["id"] for one in axe.Axe().run(at.page).response["violations"]]

    assert {path: each for path, each in found.items() if each} == {}


def test_the_checker_would_find_a_field_without_a_label(visit: Callable[..., Visit]) -> None:
    at = visit(bypass_csp=True)
    at.open("/contacts").evaluate("document.querySelector('label').remove()")

    assert "label" in [one["id"] for one in axe.Axe().run(at.page).response["violations"]]


def test_no_page_is_wider_than_a_phone_and_no_hostile_text_does_anything(visit: Callable[..., Visit]) -> None:
    at = visit(viewport=PHONE)
    wide = []
    for path in at.paths:
        page = at.open(path)
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(path)
        assert "owned" not in page.title()
        assert page.locator("script").count() == 0

    assert wide == []
    assert [one for one in at.complaints if "404" not in one] == []
    assert "<script>document.title" in at.open(f"/contacts/{at.contact}").locator("main").inner_text()


def test_a_member_is_looked_up_with_the_keyboard_alone(visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Contact":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/contacts")
    while page.evaluate("document.activeElement.id") != "key":
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") != "BODY"
    page.keyboard.type(str(uuid.uuid4()))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/contacts/[0-9a-f-]{36}"))

    assert "Nothing is known about this contact" in page.inner_text("main")


def test_a_plan_is_let_through_with_three_clicks_and_a_reason(visit: Callable[..., Visit]) -> None:
    at = visit()
    digest = open_digest(at.shop)
    at.page.get_by_role("link", name="Plans").click()
    at.page.get_by_role("button", name="Let it be").click()
    assert at.page.evaluate("document.activeElement.name") == "reason"  # it asks for the reason that is missing
    at.page.get_by_label("Why").fill("the summer campaign")
    at.page.get_by_role("button", name=f"Approve plan {digest}").click()

    assert "was approved by anna@shop.example" in at.page.inner_text("main")
    assert at.shop.sql("select state from plan where digest = %s", digest) == [("approved",)]
    assert "the summer campaign" in at.open("/decisions").inner_text("main")


def test_adjustments_are_chosen_previewed_and_sent_again(visit: Callable[..., Visit]) -> None:
    at = visit()
    page = at.open("/adjustments")
    page.get_by_label("Adjustment 1").check()
    page.get_by_label("Adjustment 2").check()
    page.get_by_role("button", name="Send again").click()
    assert "Nothing has been done yet" in page.inner_text("main")
    assert at.shop.states() == ["rejected", "rejected"]
    page.get_by_label("Why").fill("the accounts are open again")
    page.get_by_role("button", name="Send again: 2").click()

    assert "Done:" in page.inner_text("main")
    assert at.shop.states() == ["queued", "queued"]


def test_a_rejected_row_is_tried_again_and_another_time_discarded(visit: Callable[..., Visit]) -> None:
    at = visit()
    page = at.open("/rejections")
    page.get_by_role("button", name="Try again").first.click()
    page.get_by_label("Why").fill("corrected")
    page.get_by_role("button", name="Try again").click()
    assert "reads 1 account." in page.inner_text("main")
    page = at.open("/rejections?reason=balance")
    page.get_by_role("checkbox", name="Row ").check()
    page.get_by_role("button", name="Discard").click()
    page.get_by_label("Why").fill("a test")
    page.get_by_role("button", name="Discard").click()

    assert "1 row discarded" in page.inner_text("main")
    assert at.shop.sql("select count(*) from rejection where resolved_at is null") == [(0,)]


def test_whoever_signs_out_has_to_sign_in_again(visit: Callable[..., Visit], oidc: Provider) -> None:
    at = visit()
    at.page.get_by_role("button", name="Sign out").click()
    assert "You are signed out" in at.page.inner_text("main")
    oidc.person = {"email": "stranger@elsewhere.example"}

    assert "no role in this console" in at.open("/plans").inner_text("main")
