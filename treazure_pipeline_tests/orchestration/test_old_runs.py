from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.settings import load_settings
from treazure_pipeline.terminal import instance
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.balance_sync.shop import Shop
from treazure_pipeline_tests.dagster_ui import dagster_ui
from treazure_pipeline_tests.materializations import figures

OURS, OTHERS = ({".dagster/repository": f"__repository__@{location}"} for location in ("ours", "others"))
BY_HAND = "__ASSET_JOB"
SYNC, VERIFY, PRUNE = "hourly_balance_sync", "verify_balances", "prune_history"
MIGRATION = ("prepare_migration", "finish_migration")
TABLES = ("runs", "run_tags", "event_logs", "asset_event_tags", "asset_check_executions")
PAGE = """query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
    assetMaterializations(limit: 1) { runId metadataEntries { label } }
    definition { assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization {
        runId status evaluation { success } } } } } } } } }"""


@dataclass
class History:
    """A Dagster instance on PostgreSQL with a history of runs, as the command makes them."""

    shop: Shop
    url: str
    environment: dict[str, str]
    home: Path
    dagster: dg.DagsterInstance

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def run(self, *command: str) -> None:
        done = processes.command("run", *command, environment=self.environment)
        assert done.returncode == 0, done.stderr

    def days_pass(self, days: int) -> None:
        self.sql("update runs set create_timestamp = create_timestamp - make_interval(days => %s)", days)

    def prune(self, **changes: str) -> int:
        """Run the job on this instance; returns how many runs it says it has deleted."""
        job = build_definitions(self.shop.settings(**changes)).resolve_job_def(PRUNE)
        done = job.execute_in_process(instance=self.dagster, tags=OURS)  # the daemon sets the tag
        (shown,) = done.asset_materializations_for_node("ledger_history")
        return int(figures(shown)["deleted_runs"])

    def runs(self, job: str) -> set[str]:
        return set(self.dagster.get_run_ids(dg.RunsFilter(job_name=job)))

    def size(self) -> int:
        """The bytes that rows need, once the space of those that went is given back."""
        for table in TABLES:
            self.sql(f"vacuum full {table}")
        return sum(self.sql("select pg_total_relation_size(%s::regclass)", table)[0][0] for table in TABLES)


@pytest.fixture
def history(
    new_shop: Callable[..., Shop], empty_database_url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[History]:
    shop = new_shop(members=20, environ={"ENGAGE_VERIFY_GRACE_SECONDS": "0"})
    given = {
        **os.environ, **shop.variables, "DAGSTER_POSTGRES_URL": empty_database_url, "TREAZURE_PIPELINE_HOME": str(home),
    }  # fmt: skip
    place = instance.prepare(load_settings(given))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", empty_database_url)
    with dg.DagsterInstance.from_config(str(place.dagster_home)) as dagster:
        yield History(shop, empty_database_url, given | place.environment, place.dagster_home, dagster)


def test_old_runs_go_and_the_pages_of_assets_show_the_latest_as_before(history: History) -> None:
    for command in ("balance-sync", "verify", "balance-sync", "verify", "balance-sync"):
        history.run(command)
    os.environ.update(history.environment)
    with dagster_ui(history.dagster, history.home / "workspace.yaml") as ui:
        page = partial(ui.ask, PAGE, key={"path": ["engage_balance_push"]})
        before, size = page(), history.size()
        newest = before["assetMaterializations"][0]["runId"]
        assert history.runs(SYNC) <= {path.name for path in (history.home / "storage").iterdir()}
        history.days_pass(401)

        assert history.prune() == 2 + 1
        assert history.runs(SYNC) == {newest}
        assert len(history.runs(VERIFY)) == 1
        assert page() == before
    assert history.size() < size
    kept = history.sql("select run_id from runs")
    for table in ("run_tags", "event_logs", "asset_check_executions"):
        assert set(history.sql(f"select run_id from {table} where run_id <> ''")) <= set(kept)  # noqa: S608
    assert {path.name for path in (history.home / "storage").iterdir()} <= {run for (run,) in kept}


def test_a_run_that_has_not_ended_stays_and_so_do_other_jobs_and_young_runs(history: History) -> None:
    jobs = build_definitions(history.shop.settings())
    for job in (SYNC, *MIGRATION):
        for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, *[dg.DagsterRunStatus.CANCELED] * 3):
            history.dagster.create_run_for_job(jobs.resolve_job_def(job), status=status)
    history.days_pass(8)
    young = history.dagster.create_run_for_job(jobs.resolve_job_def(SYNC), status=dg.DagsterRunStatus.CANCELED)

    assert history.prune(DAGSTER_RUN_DAYS="0") == 0
    assert history.prune(DAGSTER_RUN_DAYS="9") == 0
    assert history.prune(DAGSTER_RUN_DAYS="7") == 3
    assert len(history.runs(SYNC)) == 2 + 1
    assert young.run_id in history.runs(SYNC)
    assert [len(history.runs(job)) for job in MIGRATION] == [5, 5]


def test_the_newest_failure_stays_so_that_a_job_that_has_long_failed_is_still_alerted(history: History) -> None:
    job = build_definitions(history.shop.settings()).resolve_job_def(SYNC)
    outcomes = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.FAILURE)
    good, _, newest = (history.dagster.create_run_for_job(job, status=status).run_id for status in outcomes)
    history.days_pass(500)
    assert history.prune() == 1
    assert history.runs(SYNC) == {good, newest}


def test_what_was_materialized_or_checked_by_hand_goes_too_if_it_is_ours_and_of_no_migration(history: History) -> None:
    checked = frozenset({dg.AssetCheckKey(dg.AssetKey("engage_balance_push"), "nothing_is_rejected")})

    def by_hand(tags: dict[str, str], *assets: str) -> str:
        run = dg.DagsterRun(
            BY_HAND, run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.SUCCESS, tags=tags,
            asset_selection=frozenset(map(dg.AssetKey, assets)), asset_check_selection=None if assets else checked,
        )  # fmt: skip
        return history.dagster.add_run(run).run_id

    by_hand(OURS, "engage_balance_verification")
    by_hand(OURS)
    kept = {
        by_hand(OURS, "migration_delivery"),
        by_hand(OTHERS, "engage_balance_verification"),
        by_hand(OURS, "engage_balance_verification"),  # the newest
    }
    history.days_pass(500)

    assert history.prune() == 2
    assert history.runs(BY_HAND) == kept
