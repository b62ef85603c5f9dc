from __future__ import annotations

import re

import pytest

from treazure_pipeline_tests.balance_sync.shop import Shop
from treazure_pipeline_tests.console.conftest import Browser, Console

_VERDICT = re.compile(r'<p class="verdict (\w+)">(.*?)</p>')


def verdicts(browser: Browser) -> list[tuple[str, str]]:
    return _VERDICT.findall(browser.get("/").text)


def test_an_empty_ledger_is_said_so(console: Console) -> None:
    assert verdicts(console()) == [("waiting", "The ledger has no programme yet: nothing has been synced.")]


def test_after_a_sync_the_programme_is_in_step(console: Console, shop: Shop) -> None:
    shop.sync()
    browser = console()

    ((level, sentence),) = verdicts(browser)
    page = browser.get("/").text
    total = shop.sql("select points_total from programme")[0][0]

    assert level == "good"
    assert sentence.startswith("points is in step")
    assert f"{total.normalize():,f}" in page
    assert "200 changed, 200 sent" in page
    assert page.count("<rect") == 1


def test_a_line_shows_what_was_outstanding_on_each_day(console: Console, shop: Shop) -> None:
    shop.sync()
    shop.sql("update liability_day set day = day - 2, added = 700, decreased = 0, carried = 0")
    page = console().get("/").text

    assert "<polyline" in page
    assert "between 700 and 700" in page


def test_what_waits_and_what_is_held_is_said_before_what_is_well(console: Console, shop: Shop) -> None:
    shop.sync()
    browser = console()
    shop.sql(
        "insert into pending (programme, contact, master, since, observation, reason, tries, next_try, refused_first, "
        "refused_last) select 1, contact, sent + 1, now(), observation, 'no', 1, now() + interval '1 h', now(), now() "
        "from ledger limit 3"
    )

    assert "3 balances held back" in verdicts(browser)[0][1]
    shop.sql("update pending set reason = null, next_try = null, tries = 0")
    assert verdicts(browser) == [("waiting", "3 balances of points wait for the next run.")]


def test_data_that_is_old_is_bad_whatever_else_is_well(console: Console, shop: Shop) -> None:
    shop.sync()
    shop.time_passes(hours=9)

    ((level, sentence),) = verdicts(console())

    assert (level, "is stale" in sentence) == ("bad", True)


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "[/b]", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}"]
)
def test_hostile_texts_are_shown_as_text(console: Console, shop: Shop, hostile: str) -> None:
    shop.sql(
        "insert into alert (key, episode, firing, began, title, body) values ('points:x', 1, true, now(), %s, %s)",
        f"Beware {hostile}",
        hostile,
    )
    page = console().get("/").text

    assert hostile not in page or hostile in {"[/b]", "{{ 7 * 7 }}"}
    assert "<script" not in page
    assert "<img" not in page
    assert "Beware" in page


def test_marks_that_reverse_or_hide_text_are_shown_and_not_obeyed(console: Console, shop: Shop) -> None:
    shop.sql(
        "insert into alert (key, episode, firing, began, title, body) values ('points:x', 1, true, now(), %s, 'b')",
        "a\u202egnp.exe\u200f\x1b[31m",
    )
    page = console().get("/").text

    assert "a\N{REPLACEMENT CHARACTER}gnp.exe\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m" in page


def test_what_others_said_is_not_shown_in_alerts(console: Console, shop: Shop) -> None:
    shop.sql(
        "insert into alert (key, episode, firing, began, title, body) "
        "values ('points:x', 1, true, now(), 'Refused', 'It says «Anna Andersson».')"
    )

    assert "Andersson" not in console().get("/").text


def test_a_ledger_that_can_not_be_used_is_said_at_once_and_the_process_lives_on(console: Console, shop: Shop) -> None:
    shop.sync()
    browser = console()
    shop.sql("update alembic_version set version_num = '0001'")

    assert browser.get("/healthz").status_code == 200
    assert browser.get("/readyz").status_code == 503
    answer = browser.get("/")
    assert answer.status_code == 503
    assert "That did not work" in answer.text
