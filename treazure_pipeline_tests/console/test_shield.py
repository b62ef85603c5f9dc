"""What holds for every page and every form, those to come as well."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest
from fastapi.routing import APIRoute

from treazure_pipeline.alerts import state
from treazure_pipeline.console.access import needed
from treazure_pipeline.console.app import build_app
from treazure_pipeline.console.desk import Desk
from treazure_pipeline.settings import Role, load_console
from treazure_pipeline_tests.console.conftest import Browser, Console, oidc_settings
from treazure_pipeline_tests.console.provider import Provider

FREE = {"/healthz", "/readyz", "/console.css", "/sign-out"}
_NOWHERE = {"TREAZURE_PIPELINE_DATABASE_URL": "postgresql://nobody@localhost/none"}


def routes() -> list[APIRoute]:
    app = build_app(Desk(Mock(), load_console(_NOWHERE), lambda: None))
    # Newer versions keep an included router whole.
    found = [each for one in app.routes for each in getattr(getattr(one, "original_router", None), "routes", [one])]
    return [route for route in found if isinstance(route, APIRoute)]


def test_every_page_names_the_role_it_needs() -> None:
    assert len(routes()) > len(FREE)
    without = {one.path for one in routes() if needed(each.call for each in one.dependant.dependencies) is None}
    assert without == FREE


def test_nobody_gets_a_right_without_this_list_being_changed() -> None:
    found = {
        f"{method} {one.path}": needed(each.call for each in one.dependant.dependencies)
        for one in routes()
        for method in one.methods or ()
    }
    lowest = {
        Role.SERVICE: ["GET /contacts", "POST /contacts", "GET /contacts/{contact}"],
        Role.APPROVER: [
            "POST /plans/{programme}/{digest}/approve", "POST /plans/{programme}/{digest}/let-be", "GET /look-ups",
        ],
        Role.OPERATOR: ["GET /decisions", "GET /adjustments/{number}"],
        Role.VIEWER: [
            "GET /", "GET /plans", "GET /adjustments", "GET /dead-letters", "GET /rejections", "GET /migration",
        ],
    }  # fmt: skip
    said = {route: role for role, routes_of in lowest.items() for route in routes_of}
    others = {route: role for route, role in found.items() if route.split()[1] not in FREE and route not in said}

    assert {route: found[route] for route in said} == said
    assert others
    assert set(others.values()) == {Role.OPERATOR}, "whatever else can be sent is for operators"


@pytest.mark.parametrize("path", [route.path for route in routes() if "POST" in (route.methods or ())])
def test_a_form_that_no_page_of_the_session_has_made_is_refused(console: Console, path: str) -> None:
    browser = console()
    browser.get("/")

    for data in ({}, {"form": ""}, {"form": "guessed"}):
        answer = browser.client.post(f"{browser.url}{path}", data=data)
        assert answer.status_code == 403
        assert "nothing was done" in answer.text


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}]
)
def test_a_form_from_another_site_is_refused_even_with_the_token(
    console: Console, oidc: Provider, headers: dict[str, str]
) -> None:
    oidc.person = {"email": "anna@shop.example"}
    browser = console(**oidc_settings(oidc))
    browser.get("/")
    browser.client.headers.update(headers)

    assert browser.post("/sign-out").status_code == 403
    for name in headers:
        del browser.client.headers[name]
    assert browser.post("/sign-out").status_code == 200


def test_every_answer_lets_no_script_run_and_nobody_frame_it(console: Console) -> None:
    browser = console()

    for path in ("/", "/console.css", "/healthz", "/nowhere", "/sign-out"):
        headers = browser.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_a_page_has_no_script_and_no_style_of_its_own(console: Console) -> None:
    text = console().get("/").text

    assert "<script" not in text
    assert "style=" not in text
    assert "<style" not in text


def test_another_name_that_resolves_to_the_console_is_refused(console: Console) -> None:
    browser = console()

    assert browser.get("/", {"Host": "evil.example"}).status_code == 421
    assert browser.get("/healthz", {"Host": "10.0.0.7:8788"}).json() == {"status": "ok"}


def test_a_form_that_is_too_large_is_refused(console: Console) -> None:
    browser = console()

    assert browser.client.post(f"{browser.url}/sign-out", data={"text": "x" * 70_000}).status_code == 413


def test_an_unexpected_error_shows_nothing_of_what_it_says(
    console: Console, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    browser: Browser = console()
    broken: Callable[..., object] = Mock(side_effect=ValueError("Anna Andersson"))
    monkeypatch.setattr(state, "firing", broken)

    answer = browser.get("/")

    assert answer.status_code == 500
    assert "Andersson" not in answer.text + caplog.text
    assert "Unexpected ValueError at /" in caplog.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
