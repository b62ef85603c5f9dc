"""The image and compose.yaml: checked by their own tools, and they name only settings and commands that there are."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from treazure_pipeline.cli import COMMANDS
from treazure_pipeline_tests.deploy.shipped import DEPLOY, SETTINGS, WITHOUT_TOOLS, check

KNOWN = {*SETTINGS, "POSTGRES_PASSWORD", "RECEIVER_ADDRESS"}


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
    ours = {
        name: service
        for name, service in compose["services"].items()
        if service["image"].startswith("treazure-pipeline:")
    }
    assert ours.keys() >= {"upgrade", "code", "webserver", "daemon", "worker", "receiver-1", "receiver-2"}
    for service in ours.values():
        words = [word for word in service["command"] if word != "treazure-pipeline"]
        assert words[0] in COMMANDS or words[0] in {"dagster", "dagster-webserver", "dagster-daemon"}
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def test_the_upgrade_comes_as_the_owner_and_all_others_as_the_runtime_role(compose: dict[str, Any]) -> None:
    variable = "TREAZURE_PIPELINE_DATABASE_URL_FILE"
    files = {
        name: service["environment"][variable]
        for name, service in compose["services"].items()
        if variable in service.get("environment", {})
    }
    assert files.pop("upgrade") == "/run/secrets/owner_database_url"
    assert set(files.values()) == {"/run/secrets/database_url"}


def test_the_composition_is_one() -> None:
    pytest.importorskip("check_jsonschema", reason=WITHOUT_TOOLS)
    check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")


def test_the_image_is_built_as_the_linter_advises() -> None:
    if not shutil.which("hadolint", path=str(Path(sys.executable).parent)):
        pytest.skip(WITHOUT_TOOLS)
    check("hadolint", "deploy/Dockerfile")


def test_every_image_has_a_version(compose: dict[str, Any]) -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    images = [service["image"] for service in compose["services"].values()]
    images += re.findall(r"^ARG PYTHON=(\S+)$", dockerfile, re.MULTILINE)
    assert len(images) > len(compose["services"])
    assert [image for image in images if not re.search(r":\d+\.\d+(\.\d+)?(-|$)", image)] == []


def test_what_serves_somebody_says_whether_it_is_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"].items()
    assert {name for name, service in services if "healthcheck" not in service} == {"upgrade", "worker", "proxy"}


def test_the_proxy_passes_on_what_the_outside_calls_and_no_figures(compose: dict[str, Any]) -> None:
    caddyfile = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    assert re.findall(r"^\s*@public path (.+)$", caddyfile, re.MULTILINE) == ["/webhooks/engage /contacts/*"]
    assert re.findall(r"handle( \S+)? {\s*(\w+)", caddyfile) == [(" @public", "reverse_proxy"), ("", "respond")]
    receivers = {name for name in compose["services"] if name.startswith("receiver-")}
    assert {f"{name}:8787" for name in receivers} == set(re.findall(r"receiver-\d:8787", caddyfile))
    assert "./Caddyfile:/etc/caddy/Caddyfile:ro" in compose["services"]["proxy"]["volumes"]


def test_the_build_sees_what_it_needs_and_no_secret() -> None:
    seen = {line[1:] for line in (DEPLOY.parent / ".dockerignore").read_text().split() if line.startswith("!")}
    assert seen == {
        "treazure_pipeline",
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "dagster.yaml",
        "workspace.yaml",
    }
