"""The careful first send: N contacts go to Engage, are read back on both sides, and the rest is left pending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from treazure_pipeline.cli.run import run_balance_sync
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))


def run(shop: Shop, limit: int | None, **changes: str) -> dict[str, Any]:
    settings = shop.settings(**changes)
    return run_balance_sync(settings, settings.programmes[0], {}, limit=limit)


@pytest.mark.usefixtures("dagster_home")
def test_a_few_contacts_are_sent_and_shown_on_both_sides_and_the_rest_goes_later(
    new_shop: Callable[..., Shop],
) -> None:
    shop = new_shop(members=60, unknown_share=0.0, behavior={"apply_delay": 0.5})
    first = run(shop, 5)
    assert (first["status"], first["exit_code"]) == ("ok", 0)
    assert (first["sent"], first["pending"], first["requests"]) == (5, first["changed"] - 5, 1)
    shown = first["first_send"]
    assert len(shown) == 5
    assert all(row["verdict"] == "equal" for row in shown)
    assert all(float(row["treazure"]) == float(row["accepted"]) == float(row["engage"]) for row in shown)
    rest = run(shop, None)
    assert (rest["status"], rest["sent"]) == ("ok", first["changed"] - 5)
    assert "first_send" not in rest
    shop.sandbox.apply_queue()
    assert_in_step(shop)


@pytest.mark.usefixtures("dagster_home")
def test_what_engage_accepts_and_does_not_show_fails_the_run_and_the_rest_is_left(
    new_shop: Callable[..., Shop],
) -> None:
    shop = new_shop(members=60, unknown_share=0.0)
    shop.sandbox.set_fault("swallowed", on=["set_balances"], count=None)
    first = run(shop, 3, ENGAGE_VERIFY_GRACE_SECONDS="0")
    assert (first["status"], first["exit_code"], first["sent"]) == ("failed", 5, 3)
    assert "3 of 3 contacts differ from what Engage accepted" in first["error"]
    assert {row["verdict"] for row in first["first_send"]} <= {
        "Engage shows no account",
        "Engage shows another balance",
    }
    assert first["pending"] == first["changed"] - 3


@pytest.mark.usefixtures("dagster_home")
def test_contacts_that_engage_refuses_are_shown_as_not_accepted(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=30, unknown_share=1.0)
    first = run(shop, 2)
    assert (first["status"], first["sent"], first["refused"]) == ("ok", 0, 2)
    assert [row["verdict"] for row in first["first_send"]] == ["not accepted"] * 2
