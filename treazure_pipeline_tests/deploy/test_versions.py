"""What is shipped is of one version: the package's, and Dagster's as the tests ran with it."""

from __future__ import annotations

import re

import yaml

from treazure_pipeline import __version__
from treazure_pipeline_tests.deploy.shipped import DEPLOY, ROOT


def test_image_chart_and_composition_are_of_the_packages_version() -> None:
    chart = yaml.safe_load((DEPLOY / "helm" / "treazure-pipeline" / "Chart.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((DEPLOY / "helm" / "dagster-values.yaml").read_text(encoding="utf-8"))
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    [label] = re.findall(r"^ARG VERSION=(\S+)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    [location] = values["dagster-user-deployments"]["deployments"]

    assert {chart["version"], chart["appVersion"], label, compose["x-service"]["image"].partition(":")[2]} == {
        __version__
    }
    for image in (values["dagsterWebserver"]["image"], values["dagsterDaemon"]["image"], location["image"]):
        assert image["tag"] == __version__


def test_dagsters_chart_is_of_the_version_that_is_pinned() -> None:
    [pinned] = re.findall(r"^dagster==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    for path in (DEPLOY / "helm" / "dagster-values.yaml", ROOT / "docs" / "deploying.md"):
        assert re.findall(r"dagster/dagster --version (\S+)", path.read_text(encoding="utf-8")) == [pinned]
