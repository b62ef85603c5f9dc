"""Rules and dashboard ask for metrics that /metrics has, and every alarm leads to a section that tells what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from treazure_pipeline.ledger.limiter import Priority, SharedRate
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline_tests.deploy.shipped import DEPLOY, ROOT, WITHOUT_TOOLS
from treazure_pipeline_tests.service.conftest import event, serving
from treazure_pipeline_tests.test_docs import anchors

RULES = DEPLOY / "prometheus" / "rules.yaml"
DASHBOARD = DEPLOY / "grafana" / "treazure-pipeline.json"
OF_THE_TARGET = {"tenant", "instance"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [rule["expr"] for rule in rules()] + [
        target["expr"] for panel in panels for target in panel.get("targets", [])
    ]


def selectors(part: Any) -> Iterator[Any]:
    """Every selector of a parsed expression."""
    promql = pytest.importorskip("promql_parser", reason=WITHOUT_TOOLS)
    if isinstance(part, promql.VectorSelector):
        yield part
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if hasattr(part, name):
            yield from selectors(getattr(part, name))
    for argument in getattr(part, "args", None) or ():
        yield from selectors(argument)


@pytest.fixture
def told(database_url: str) -> dict[str, set[str]]:
    """The labels of each metric that a receiver tells which has had a delivery, and a ledger with a programme."""
    with psycopg.connect(database_url) as connection:
        connection.execute("set search_path to treazure_pipeline")
        connection.execute(
            "insert into programme (name, loyalty_id, definition_id, covered) "
            "values ('points', 'points', 1, '{[2000-01-01, 2026-01-01)}')"
        )
        connection.execute("insert into alert (key, firing, began, title, body) values ('a', true, now(), 't', 'b')")
    with (
        Ledger(database_url, connections=1) as ledger,
        SharedRate(ledger, "engage:0", 9, Priority.SYNC, 60, threading.Event()).slot(),
        serving(database_url) as running,
    ):
        running.deliver(event())
        families = text_string_to_metric_families(running.get("/metrics").text)
        return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@pytest.mark.slow
def test_every_metric_and_label_that_is_asked_for_is_told(told: dict[str, set[str]]) -> None:
    promql = pytest.importorskip("promql_parser", reason=WITHOUT_TOOLS)
    asked = [selector for text in expressions() for selector in selectors(promql.parse(text))]
    assert len(asked) >= len(expressions())
    assert {selector.name for selector in asked} - told.keys() == set()
    for selector in asked:
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels - OF_THE_TARGET <= told[selector.name], selector.name


def test_every_alarm_leads_to_a_section_that_tells_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) > 0
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert anchor in anchors(ROOT / page)
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]


def test_no_section_is_about_an_alarm_that_is_gone() -> None:
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    sections = [line.removeprefix("### ") for line in page.splitlines() if line.startswith("### Treazure")]
    assert sections == [rule["alert"] for rule in rules()]


def test_the_rules_ring_when_they_should_and_else_not(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, of Prometheus")
    shutil.copy(RULES, tmp_path)
    shutil.copy(Path(__file__).parent / "data" / "rules.test.yaml", tmp_path)
    for arguments in (["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]):
        done = subprocess.run([promtool, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
