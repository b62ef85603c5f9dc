"""What `dev --sandbox` and `demo` leave of the surroundings: nothing that points outwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from treazure_pipeline.cli import sandbox
from treazure_pipeline.settings import load_settings
from treazure_pipeline.terminal import instance


@pytest.mark.parametrize("name", ["sandbox", "demo"])
def test_nothing_of_production_is_left(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outward = {
        "TREAZURE_PIPELINE_DATABASE_URL": "postgresql://trap.invalid/ledger",
        "DAGSTER_POSTGRES_URL": "postgresql://trap.invalid/dagster",
        "DAGSTER_HOME": "/trap",
        "MIGRATION_DELIVERY_URL": "sftp://trap.invalid/in",
        "TREAZURE_PIPELINE_ALERT_URLS": "json://trap.invalid",
        "DEAD_MAN_URL": "https://trap.invalid/ping",
        "TREAZURE_PIPELINE_PROGRAMMES": "/trap.yaml",
        "GUARD_MAX_SINGLE_CHANGE": "1",
        "HISTORY_API_KEY": "trap",
        "A_SETTING_OF_TOMORROW": "trap",
        "PGHOST": "trap.invalid",
        "HTTPS_PROXY": "http://trap.invalid",
    }
    for variable in list(os.environ):  # all of it is put back after the test
        monkeypatch.setenv(variable, os.environ[variable])
    for variable, value in outward.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("TREAZURE_PIPELINE_HOME", str(tmp_path))
    assert sandbox.set_apart(name) == tmp_path / name
    assert not outward.keys() & os.environ.keys()
    place = instance.locate(load_settings(os.environ | sandbox.settings(1)))
    assert (place.home, place.dagster_home) == (tmp_path / name, tmp_path / name / "dagster")
    assert "trap" not in repr(place)
