"""What is shipped for containers names only settings and commands that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from treazure_pipeline.cli import COMMANDS
from treazure_pipeline.settings import ReceiverSettings, Settings, _variables

DEPLOY = Path(__file__).parent.parent / "deploy"
OTHERS = {"TREAZURE_LOYALTY_ID", "DAGSTER_POSTGRES_URL", "POSTGRES_PASSWORD"}
KNOWN = {*_variables(Settings), *_variables(ReceiverSettings), *OTHERS}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def test_every_variable_is_a_setting(compose: dict[str, Any]) -> None:
    named = {
        name.removesuffix("_FILE")
        for service in compose["services"].values()
        for name in service.get("environment", {})
    }
    named |= set(
        re.findall(r"^([A-Z_]+)=", (DEPLOY / "treazure.env.example").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named - KNOWN == set()


def test_every_secret_is_given_as_a_file_and_none_in_the_environment(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service.get("secrets", [])) <= compose["secrets"].keys()
        for name, value in service.get("environment", {}).items():
            if name.endswith("_FILE"):
                assert Path(value).name in service["secrets"]


def test_every_service_runs_a_command_that_there_is(compose: dict[str, Any]) -> None:
    ours = {name: service for name, service in compose["services"].items() if service["image"] == "treazure-pipeline"}
    assert ours.keys() >= {"upgrade", "code", "webserver", "daemon", "worker", "receiver-1", "receiver-2"}
    for service in ours.values():
        words = [word for word in service["command"] if word != "treazure-pipeline"]
        assert words[0] in COMMANDS or words[0] in {"dagster", "dagster-webserver", "dagster-daemon"}
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
