"""The console in the hands of somebody who means harm: each kind of attack on every page and form, later ones too."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from treazure_pipeline.console.access import needed
from treazure_pipeline.settings import Role
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.console.conftest import Browser, Console, oidc_settings
from treazure_pipeline_tests.console.provider import SECRET, Provider
from treazure_pipeline_tests.console.test_plans import grow
from treazure_pipeline_tests.console.test_shield import FREE, routes

AsRole = Callable[..., Browser]
FREE_TEXT = "Anna Andersson"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE")
HOSTILE = {
    "HTML": "\"'><script>document.title='owned'</script><img src=x onerror=alert(1)>",
    "from right to left": "abc\u202e\u2066fdp.exe",
    "10,000 characters": "x" * 10_000,
    "NUL": "a\0b",
    "half a character": "\ud800",
    "a quote of SQL": "'; drop table ledger; --",
    "control characters": "\x1b[31mred\x07\r\nSet-Cookie: a=b",
    "a template": "{{ 7 * 191 }}{% raw %}",
}


@dataclass(frozen=True)
class Open:
    """A route as an attacker calls it."""

    path: str
    methods: frozenset[str]
    role: Role | None


def every_route() -> list[Open]:
    found = []
    for route in routes():
        path = re.sub(r"{contact}", str(uuid.UUID(int=7)), route.path)
        path = re.sub(r"{number}", "1", re.sub(r"{programme}", "points", re.sub(r"{digest}", "0" * 16, path)))
        found.append(Open(path, frozenset(route.methods or ()), role_of(route)))
    return found


def role_of(route: APIRoute) -> Role | None:
    return needed(each.call for each in route.dependant.dependencies)


@pytest.fixture
def shop(adjustment_shop: AdjustmentShop) -> AdjustmentShop:
    """A shop with something on every page, each with a text that a person wrote."""
    contact, other = adjustment_shop.contacts(2)
    adjustment_shop.sandbox.set_fault("server_error", on=["transaction"], status=400, count=2)
    for one in (contact, other):
        adjustment_shop.give(one, 7, description=FREE_TEXT)
    adjustment_shop.deliver(json.dumps(FREE_TEXT))
    adjustment_shop.process()
    adjustment_shop.sync()
    row = json.dumps({"accountNumber": contact, "balance": FREE_TEXT})
    adjustment_shop.sandbox.set_fault("bad_rows", raw_rows=[row])
    grow(adjustment_shop, 5_000_000)
    adjustment_shop.sql("insert into decision (decided_by, what, subject, why) values ('a', 'b', 'c', %s)", FREE_TEXT)
    adjustment_shop.sql(
        "insert into points_history (programme, contact, position, date_time, amount, balance, transaction_type, "
        "comment, operator_id) values (1, %s, 1, now(), 9, 20, 'Load', %s, %s)", contact, FREE_TEXT, FREE_TEXT,
    )  # fmt: skip
    return adjustment_shop


def state(shop: AdjustmentShop) -> list[Any]:
    """Whatever a form of the console could change."""
    return [
        shop.sql(f"select * from {table} order by 1")  # noqa: S608
        for table in ("plan", "decision", "adjustment", "dead_letter", "rejection", "reread", "lookup")
    ]


def token(browser: Browser) -> str:
    """The token of the session, as its owner reads it from the cookie: that is signed, not hidden."""
    browser.get("/")
    (cookie,) = [value for name, value in browser.client.cookies.items() if "console" in name]
    payload = cookie.partition(".")[0]
    return str(json.loads(base64.b64decode(payload + "=="))["form"])


@pytest.mark.parametrize("role", ["viewer", "service", "operator"])
def test_a_role_that_is_too_low_gets_nothing_from_any_route_by_any_method(
    as_role: AsRole, shop: AdjustmentShop, role: str
) -> None:
    browser = as_role(role)
    form = {"form": token(browser), "reason": "me", "number": "1", "action": "retry", "cause": "x", "digest": "0" * 32}
    form["key"] = shop.contacts(1)[0]
    before = state(shop)
    wrong = []
    for route in every_route():
        if route.role is None or route.role <= Role[role.upper()]:
            continue
        for method in METHODS:
            answer = browser.client.request(
                method, f"{browser.url}{route.path}", data=form if method == "POST" else None
            )
            expected = {403} if method in route.methods else {403, 405}
            if answer.status_code not in expected or FREE_TEXT in answer.text:
                wrong.append((method, route.path, answer.status_code))

    assert wrong == []
    assert state(shop) == before


def test_no_method_but_those_of_a_route_does_anything_for_anybody(as_role: AsRole, shop: AdjustmentShop) -> None:
    browser = as_role("approver")
    form = {"form": token(browser), "reason": "me", "number": "1", "action": "discard", "_method": "POST"}
    before = state(shop)
    for route in every_route():
        for method in set(METHODS) - route.methods:
            headers = {"X-HTTP-Method-Override": "POST"}
            answer = browser.client.request(method, f"{browser.url}{route.path}", params=form, headers=headers)
            assert answer.status_code in {405, 422} or method in {"GET", "POST"}, (method, route.path)

    assert state(shop)[:-1] == before[:-1]


def test_no_page_answers_whoever_has_not_signed_in(console: Console, oidc: Provider, shop: AdjustmentShop) -> None:
    browser = console(**oidc_settings(oidc))
    before = state(shop)
    for route in every_route():
        if route.path in FREE or route.path.startswith("/sign-in"):
            continue
        for method in route.methods:
            answer = browser.client.request(method, f"{browser.url}{route.path}", follow_redirects=False)
            assert answer.status_code == (403 if method == "POST" else 303), (method, route.path)
            assert answer.headers.get("location", "/sign-in") == "/sign-in"

    assert state(shop) == before


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_hostile_text_breaks_a_page_or_does_anything_on_it(
    as_role: AsRole, shop: AdjustmentShop, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    browser = as_role("approver")
    text = HOSTILE[kind]
    sent = text.encode("utf-8", "surrogatepass").decode("latin-1")  # as bytes that are no UTF-8, where it has to be
    form = {
        "form": token(browser),
        "reason": sent,
        "cause": sent,
        "key": sent,
        "number": sent,
        "action": sent,
        "digest": sent,
    }
    form |= {"number": "1", "action": "discard"} if kind in {"HTML", "a template", "a quote of SQL"} else {}
    for route in every_route():
        for method in route.methods & {"GET", "POST"}:
            path = route.path.replace("points", "%3Cscript%3E")
            answer = (
                browser.client.post(f"{browser.url}{path}", data=form)
                if method == "POST"
                else browser.client.get(f"{browser.url}{path}", params={"reason": sent, "state": sent})
            )
            assert answer.status_code < 500, (method, route.path, answer.status_code)
            assert "<script" not in answer.text, (method, route.path)
            assert "\u202e" not in answer.text, (method, route.path)
            assert "a=b" not in answer.headers.get("set-cookie", "")
            assert "1337" not in answer.text or kind != "a template"

    assert shop.sql("select count(*) > 0 from ledger") == [(True,)]
    assert "Unexpected" not in caplog.text


@pytest.mark.parametrize(
    "path", ["/adjustments/99999999999999999999", "/adjustments/-1", "/contacts/%00", "/adjustments?state=%00"]
)
def test_an_address_that_makes_no_sense_is_refused(as_role: AsRole, shop: AdjustmentShop, path: str) -> None:
    assert as_role("operator").get(path).status_code in {404, 422}
    assert shop.states()


@pytest.mark.parametrize("role", ["viewer", "service"])
def test_what_a_person_wrote_is_on_no_page_below_an_operator(as_role: AsRole, shop: AdjustmentShop, role: str) -> None:
    browser, operator = as_role(role), as_role("operator")
    contact = shop.contacts(1)[0]
    seen = {}
    for route in every_route():
        if "GET" in route.methods:
            path = route.path.replace(str(uuid.UUID(int=7)), contact)
            seen[path] = FREE_TEXT in html.unescape(browser.get(path).text)

    assert [path for path, found in seen.items() if found] == []
    assert FREE_TEXT in operator.get(f"/contacts/{contact}").text
    assert FREE_TEXT in operator.get("/dead-letters").text


def test_every_answer_says_that_nobody_may_keep_it(as_role: AsRole, shop: AdjustmentShop) -> None:
    browser = as_role("approver")
    assert shop.states()
    for route in every_route():
        if "GET" in route.methods and route.path != "/console.css":
            assert browser.get(route.path).headers["cache-control"] == "no-store", route.path
    assert browser.get("/nowhere").headers["cache-control"] == "no-store"
    assert browser.client.post(f"{browser.url}/adjustments/decide").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["//evil.example/", "//evil.example/%2e%2e", "/\\evil.example", "/contacts/", "/sign-in/done/"]
)
def test_no_address_leads_to_another_host(console: Console, oidc: Provider, path: str) -> None:
    oidc.person = {"email": "anna@shop.example"}
    browser = console(**oidc_settings(oidc))

    answer = browser.client.get(f"{browser.url}{path}", follow_redirects=False)
    assert "evil" not in answer.headers.get("location", "")
    assert answer.status_code in {303, 404}
    back = browser.get("/")
    assert [one.headers["location"] for one in back.history][-1] == "/"


def test_a_session_from_before_the_sign_in_is_worth_nothing_after_it(console: Console, oidc: Provider) -> None:
    oidc.person = {"email": "anna@shop.example"}
    browser = console(**oidc_settings(oidc))
    planted = browser.client.get(f"{browser.url}/nowhere")  # a page for a stranger, with a session of the stranger's
    known = json.loads(base64.b64decode(planted.cookies["console"].partition(".")[0] + "=="))["form"]
    browser.get("/")

    answer = browser.client.post(f"{browser.url}/sign-out", data={"form": known})
    assert answer.status_code == 403
    assert "anna@shop.example" in browser.get("/").text


def test_a_cookie_that_somebody_has_changed_is_no_session(console: Console, oidc: Provider) -> None:
    oidc.person = {"email": "bo@shop.example", "groups": ["loyalty"]}
    browser = console(**oidc_settings(oidc))
    browser.get("/")
    payload, _, signature = browser.client.cookies["console"].partition(".")
    session = json.loads(base64.b64decode(payload + "==")) | {"name": "anna@shop.example"}
    forged = base64.b64encode(json.dumps(session).encode()).decode()

    answer = httpx.get(browser.url, headers={"Cookie": f"console={forged}.{signature}"}, follow_redirects=False)
    assert answer.headers["location"] == "/sign-in"


def test_the_session_is_out_of_reach_of_scripts_and_other_sites(console: Console) -> None:
    plain = console().get("/").headers["set-cookie"].lower()
    assert "httponly" in plain
    assert "samesite=lax" in plain
    over_tls = console(CONSOLE_URL="https://127.0.0.1").get("/").headers
    assert over_tls["set-cookie"].startswith("__Host-console=")
    assert "secure" in over_tls["set-cookie"].lower()
    assert "max-age" in over_tls["strict-transport-security"]


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Host", "X-Forwarded-User"]
)
def test_nobody_passes_for_the_proxy_by_a_header(console: Console, header: str) -> None:
    proxy = {"CONSOLE_AUTH": "proxy", "CONSOLE_PROXY_ADDRESSES": "10.1.2.3", "CONSOLE_ROLES": "*=approver"}
    said = {header: "for=10.1.2.3" if header == "Forwarded" else "10.1.2.3", "X-Forwarded-Email": "anna@shop.example"}

    assert console(**proxy).get("/", said).status_code == 403


@pytest.mark.parametrize("name", ["", "a, b", "\u00a0", "*", "loyalty-team"])
def test_a_name_is_whole_and_gives_no_role_but_its_own(console: Console, name: str) -> None:
    proxy = {
        "CONSOLE_AUTH": "proxy",
        "CONSOLE_PROXY_ADDRESSES": "127.0.0.1",
        "CONSOLE_ROLES": "anna@shop.example=approver",
    }

    answer = console(**proxy).get("/", {"X-Forwarded-Email": name.encode("latin-1")})  # type: ignore[dict-item]
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8788", "127.0.0.1@evil.example", ""]
)
def test_no_other_name_of_the_console_is_answered(console: Console, host: str) -> None:
    browser = console()

    for path in ("/", "/contacts", "/console.css"):
        assert browser.get(path, {"Host": host}).status_code in {400, 421}


def test_a_look_up_that_finds_nobody_or_several_is_recorded_without_what_was_looked_for(
    as_role: AsRole, shop: AdjustmentShop
) -> None:
    one, other = shop.contacts(2)
    shop.sql(
        "insert into migration_contact (migration, shard, contact, balance, settled, key) "
        "values (1, 0, %s, 1, true, 'M-77'), (1, 0, %s, 1, true, 'M-77'), (1, 0, gen_random_uuid(), 1, true, 'M-1')",
        one, other,
    )  # fmt: skip
    browser = as_role("service")

    assert browser.post("/contacts", "/contacts", key="M-78").status_code == 404
    assert browser.post("/contacts", "/contacts", key="M-77").status_code == 409
    answer = browser.client.post(
        f"{browser.url}/contacts", data={"form": token(browser), "key": "M-1"}, follow_redirects=False
    )
    assert answer.status_code == 303
    recorded = shop.sql("select looked_by, contact::text from lookup order by id")
    assert recorded[:2] == [("service@shop.example", None)] * 2
    assert recorded[2][1] in answer.headers["location"]
    assert "nobody was found" in as_role("approver").get("/look-ups").text


def test_forms_all_the_time_are_slowed_down_for_their_sender_alone(as_role: AsRole, shop: AdjustmentShop) -> None:
    browser = as_role("service")
    answers = [browser.post("/contacts", "/contacts", key=f"M-{n}").status_code for n in range(31)]

    assert (set(answers[:30]), answers[30]) == ({404}, 429)
    assert shop.sql("select count(*) from lookup") == [(30,)]
    assert as_role("operator").post("/contacts", "/contacts", key="M-1").status_code == 404


def test_no_secret_and_nobody_is_in_the_logs(
    console: Console, oidc: Provider, shop: AdjustmentShop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    oidc.person = {"email": "anna@shop.example"}
    session = "a secret of the sessions, of 32 characters"
    browser = console(**oidc_settings(oidc), CONSOLE_SECRET=session)
    browser.get("/")
    browser.post("/contacts", "/contacts", key="M-4711")
    browser.get("/adjustments/1")
    browser.get("/sign-in/done?code=stolen&state=guessed")
    ours = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("treazure", "uvicorn", "authlib"))
    )

    assert [each for each in (SECRET, session, FREE_TEXT, "M-4711", "stolen", token(browser)) if each in ours] == []
    assert shop.states()
