from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step

SWITCHES: dict[str, dict[str, Any]] = {
    "Engage ignores older time stamps": {"time_stamps": "ignore_older"},
    "Engage ignores older and equal time stamps": {"time_stamps": "ignore_older_or_equal"},
    "Engage doesn't look at time stamps": {"time_stamps": "not_looked_at"},
    "Engage rounds to whole points": {"digits": 0},
    "Engage rounds to one digit": {"digits": 1},
    "Engage rounds to two digits": {"digits": 2},
    "Engage applies late": {"apply_delay": 0.3},
    "Engage's clock is an hour ahead": {"engage_clock": 3600},
    "Engage's clock is an hour behind": {"engage_clock": -3600},
    "Treazure's clock is ahead": {"treazure_clock": 240},
    "Treazure's clock is behind": {"treazure_clock": -240},
    "Treazure commits late": {"commit_calls": 2},
    "GUIDs come in upper case": {"upper_case": True},
    "the contact is called contactId": {"account_key": "contactId"},
    "rows have no mutatedAt": {"mutated_at": False},
    "href": {"href": "href"},
    "hRef": {"href": "hRef"},
    "links.href": {"href": "links.href"},
    "links.hRef": {"href": "links.hRef"},
    "an absolute href": {"href": "absolute"},
    "an export takes some polls": {"export_polls": 3},
    "an export that isn't ready is not found": {"export_polls": 3, "export_not_ready": 404},
    "no Retry-After while an export isn't ready": {"export_polls": 3, "export_retry_after": None},
    "answers take a while": {"latency": 0.05},
    "tokens are short-lived": {"token_life": 1},
}


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_the_sync_works_with_either_version_of_engage_s_interface(shop: Shop, version: str) -> None:
    shop.sync(ENGAGE_API_VERSION=version)
    assert_in_step(shop)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
def test_both_systems_agree_however_they_behave(new_shop: Callable[..., Shop], switches: dict[str, Any]) -> None:
    shop = new_shop(members=120, behavior={"digits": None} | switches)
    shop.sync()
    for number in range(3):
        shop.sandbox.play_hour(changes=30)
        if number == 1:
            shop.sandbox.set_fault("lost_after", count=2)
            shop.sandbox.set_fault("duplicates", share=0.3)
        shop.sync()
    if "commit_calls" in switches:
        shop.sync()
        shop.sync()
    shop.sandbox.apply_queue()
    assert shop.pending() == {}
    assert_in_step(shop)
