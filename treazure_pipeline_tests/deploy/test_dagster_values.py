"""The values for Dagster's own chart say what dagster.yaml says."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from treazure_pipeline.settings import Settings
from treazure_pipeline.settings.loading import variables
from treazure_pipeline_tests.deploy.shipped import DEPLOY, ROOT


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "helm" / "dagster-values.yaml").read_text(encoding="utf-8"))
    return loaded


def snaked(value: Any) -> Any:
    """As the chart's template writes it into dagster.yaml: other names, and nothing where nothing is given."""
    if isinstance(value, dict):
        return {re.sub(r"(?<=[a-z])[A-Z]", lambda match: f"_{match[0].lower()}", key): snaked(inner)
                for key, inner in value.items() if inner is not None}  # fmt: skip
    return [snaked(inner) for inner in value] if isinstance(value, list) else value


def test_every_setting_of_the_instance_is_carried_over(values: dict[str, Any]) -> None:
    """Except for the storage, which the chart sets up: an external server, over TLS."""
    instance = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    assert instance.pop("storage") == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    daemon = values["dagsterDaemon"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    logs, retention, concurrency = values["pythonLogs"], dict(values["retention"]), dict(values["concurrency"])
    assert retention.pop("enabled")
    assert concurrency.pop("enabled")
    assert not queue.pop("tagConcurrencyLimits")
    carried = {
        "run_queue": queue,
        "concurrency": concurrency,
        "run_monitoring": daemon["runMonitoring"],
        "run_retries": daemon["runRetries"],
        "schedules": daemon["schedules"],
        "sensors": daemon["sensors"],
        "retention": retention,
        "python_logs": logs,
        "telemetry": values["telemetry"],
        **values["additionalInstanceConfig"],
    }
    assert snaked(carried) == instance
    assert values["postgresql"]["postgresqlParams"]["sslmode"] in {"require", "verify-full"}


def test_the_code_location_has_known_settings_and_its_secrets_as_files(values: dict[str, Any]) -> None:
    [location] = values["dagster-user-deployments"]["deployments"]
    settings = {one["name"]: one["value"] for one in location["env"]}
    known = {*variables(Settings), "TREAZURE_LOYALTY_ID"}
    assert {name.removesuffix("_FILE") for name in settings} <= known
    [secret] = [volume["secret"] for volume in location["volumes"]]
    files = {f"/run/secrets/treazure/{item['path']}" for item in secret["items"]}
    assert {value for name, value in settings.items() if name.endswith("_FILE")} == files
    assert location["includeConfigInLaunchedRuns"]["enabled"]
