from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from treazure_pipeline.cli import demo_drift
from treazure_pipeline.terminal import instance
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.verification.verification_shop import VerificationShop


def test_the_act_about_drift_finds_and_heals_all_of_it_and_plots_it(
    new_verification_shop: Callable[..., VerificationShop],
    empty_database_url: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verification_shop = new_verification_shop(members=120)
    verification_shop.sync()
    settings = verification_shop.settings(DAGSTER_POSTGRES_URL=empty_database_url, TREAZURE_PIPELINE_HOME=str(home))
    for name, value in instance.prepare(settings).environment.items():
        monkeypatch.setitem(os.environ, name, value)
    played = demo_drift.play(verification_shop.sandbox, settings)
    assert played["status"] == "ok"
    assert played["differing"] > demo_drift.BY_HAND + demo_drift.REMOVED
    assert Path(played["plot"]).read_bytes().startswith(b"\x89PNG")
    assert played["plot"] in "".join(capsys.readouterr().out.split("\n"))
    assert_in_step(verification_shop)
