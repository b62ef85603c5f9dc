from __future__ import annotations

import re

import pytest

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.settings import load_console
from treazure_pipeline_tests.console.conftest import Console, oidc_settings
from treazure_pipeline_tests.console.provider import Provider

_WHO = re.compile(r'<p class="who"><bdi>(.*?)</bdi>, (\w+)</p>')
PROXY = {"CONSOLE_AUTH": "proxy", "CONSOLE_PROXY_ADDRESSES": "127.0.0.0/8", "CONSOLE_ROLES": "team=operator, *=viewer"}


def test_who_signs_in_at_the_provider_has_the_role_of_their_group_until_they_sign_out(
    console: Console, oidc: Provider
) -> None:
    oidc.person = {"email": "bo@shop.example", "groups": ["everyone", "loyalty"]}
    browser = console(**oidc_settings(oidc))

    assert _WHO.findall(browser.get("/").text) == [("bo@shop.example", "operator")]
    assert "You are signed out" in browser.post("/sign-out").text
    assert browser.client.get(browser.url, follow_redirects=False).headers["location"] == "/sign-in"


def test_the_highest_of_several_roles_counts(console: Console, oidc: Provider) -> None:
    oidc.person = {"email": "anna@shop.example", "groups": ["loyalty"]}

    assert _WHO.findall(console(**oidc_settings(oidc)).get("/").text) == [("anna@shop.example", "approver")]


@pytest.mark.parametrize(
    ("person", "said"),
    [
        ({"email": "eve@shop.example", "groups": ["everyone"]}, "gives you no role"),
        ({"email": "anna@shop.example", "email_verified": False}, "no reliable name"),
        ({"groups": ["loyalty"]}, "no reliable name"),
    ],
)
def test_who_has_no_role_or_no_name_sees_nothing(
    console: Console, oidc: Provider, person: dict[str, object], said: str
) -> None:
    oidc.person = person

    answer = console(**oidc_settings(oidc)).get("/")

    assert answer.status_code == 403
    assert said in answer.text
    assert "<nav" not in answer.text


def test_a_token_that_the_provider_has_not_signed_signs_nobody_in(console: Console, oidc: Provider) -> None:
    oidc.person, oidc.forged = {"email": "anna@shop.example"}, True
    browser = console(**oidc_settings(oidc))

    assert browser.get("/").status_code == 400
    assert browser.client.get(browser.url, follow_redirects=False).headers["location"] == "/sign-in"


def test_a_sign_in_that_this_browser_has_not_begun_signs_nobody_in(console: Console, oidc: Provider) -> None:
    answer = console(**oidc_settings(oidc)).get("/sign-in/done?code=stolen&state=guessed")

    assert answer.status_code == 400
    assert "was started in another browser" in answer.text


def test_sign_ins_all_the_time_are_refused(console: Console, oidc: Provider) -> None:
    browser = console(**oidc_settings(oidc))

    answers = [browser.get("/sign-in/done?code=a&state=b").status_code for _ in range(30)]

    assert answers[0] == 400
    assert answers[-1] == 429


def test_a_provider_that_is_away_is_said_so(console: Console) -> None:
    away = Provider(url="http://127.0.0.1:9")

    answer = console(**oidc_settings(away)).get("/")

    assert answer.status_code == 502
    assert "provider did not answer" in answer.text


def test_a_proxy_says_who_it_is_and_in_which_groups(console: Console) -> None:
    browser = console(**PROXY)

    team = {"X-Forwarded-Email": "bo@shop.example", "X-Forwarded-Groups": "everyone,team"}
    assert _WHO.findall(browser.get("/", team).text) == [("bo@shop.example", "operator")]
    assert _WHO.findall(browser.get("/", {"X-Forwarded-Email": "eve@x"}).text) == [("eve@x", "viewer")]
    assert browser.get("/").status_code == 403


def test_a_header_that_stands_there_twice_is_not_believed(console: Console) -> None:
    browser = console(**PROXY)

    answer = browser.client.get(browser.url, headers=[("X-Forwarded-Email", "a"), ("X-Forwarded-Email", "b")])

    assert answer.status_code == 403


def test_headers_from_elsewhere_than_the_proxy_are_not_believed(console: Console) -> None:
    answer = console(**{**PROXY, "CONSOLE_PROXY_ADDRESSES": "10.1.2.3"}).get("/", {"X-Forwarded-Email": "bo"})

    assert answer.status_code == 403
    assert "did not come through the proxy" in answer.text


def test_without_a_way_in_the_user_of_the_machine_may_do_all(console: Console) -> None:
    ((_, role),) = _WHO.findall(console().get("/").text)
    assert role == "approver"


@pytest.mark.parametrize(
    ("given", "complaints"),
    [
        (
            {"CONSOLE_AUTH": "oidc"},
            ["CONSOLE_OIDC_ISSUER", "CONSOLE_OIDC_CLIENT_SECRET", "CONSOLE_URL", "CONSOLE_ROLES"],
        ),
        ({"CONSOLE_AUTH": "proxy"}, ["CONSOLE_PROXY_ADDRESSES", "CONSOLE_ROLES"]),
        ({"CONSOLE_AUTH": "basic"}, ["CONSOLE_AUTH ('basic')"]),
        ({"CONSOLE_ROLES": "team=king"}, ["CONSOLE_ROLES", "viewer, service, operator, approver"]),
        ({"CONSOLE_PROXY_ADDRESSES": "proxy.example"}, ["CONSOLE_PROXY_ADDRESSES", "10.0.0.0/8"]),
        ({"CONSOLE_URL": "http://console.example"}, ["CONSOLE_URL", "https://"]),
        ({"CONSOLE_SECRET": "short"}, ["CONSOLE_SECRET", "32"]),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_named(given: dict[str, str], complaints: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_console({"TREAZURE_PIPELINE_DATABASE_URL": "postgresql://nobody@localhost/none", **given})

    assert [each for each in complaints if each not in str(caught.value)] == []
