"""Two retailers on one Dagster instance, which is all that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from treazure_pipeline.alerts.definitions import failed_runs
from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.orchestration.old_runs import delete_old_runs
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step
from treazure_pipeline_tests.databases import Copies


@dataclass
class Retailer:
    """A tenant of the instance that both share."""

    name: str
    shop: Shop
    instance: dg.DagsterInstance

    @property
    def job(self) -> str:
        return f"{self.name}_hourly_balance_sync"

    def definitions(self, **changes: str) -> dg.Definitions:
        return build_definitions(self.shop.settings(**changes))

    def sync(self, **changes: str) -> dg.ExecuteInProcessResult:
        job = self.definitions(**changes).resolve_job_def(self.job)
        return job.execute_in_process(instance=self.instance, raise_on_error=False)

    def runs(self) -> list[str]:
        return list(self.instance.get_run_ids(dg.RunsFilter(job_name=self.job)))

    def alerts(self) -> list[str]:
        jobs = [name for name in self.definitions().get_repository_def().job_names if not name.startswith("__")]
        return [alert.title for alert in failed_runs(self.instance, jobs, "http://ui")]

    def pushed_by(self) -> str:
        """The run that the page of the push shows as the latest."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey([self.name, "engage_balance_push"]))
        assert event is not None
        return event.run_id


@pytest.fixture
def retailers(new_shop: Callable[..., Shop], _ledgers: Copies) -> Iterator[tuple[Retailer, Retailer]]:
    def settings(tenant: str, loyalty_id: str, definition_id: int) -> dict[str, str]:
        return {
            "TREAZURE_PIPELINE_TENANT": tenant,
            "TREAZURE_LOYALTY_ID": loyalty_id,
            "ENGAGE_DEFINITION_ID": str(definition_id),
        }

    north = new_shop(members=30, programmes={"NORTH": 1, "SOUTH": 2}, environ=settings("north", "NORTH", 1))
    with _ledgers.lent() as url, dg.DagsterInstance.ephemeral() as instance:
        south = Shop(north.sandbox, url, settings("south", "SOUTH", 2))
        yield Retailer("north", north, instance), Retailer("south", south, instance)


def test_each_sees_its_own_balances_runs_and_failures(retailers: tuple[Retailer, Retailer]) -> None:
    north, south = retailers
    assert north.sync().success
    assert south.sync().success
    assert_in_step(north.shop, "NORTH")
    assert_in_step(south.shop, "SOUTH")
    assert north.shop.sql("select loyalty_id from programme") == [("NORTH",)]

    failed = south.sync(TREAZURE_CLIENT_SECRET="another")
    assert not failed.success
    assert south.alerts() == ["south_hourly_balance_sync failed"]
    assert north.alerts() == []
    good = north.sync()
    assert north.pushed_by() == good.run_id
    assert south.pushed_by() in south.runs()
    assert set(north.runs()).isdisjoint(south.runs())


def test_pruning_the_runs_of_one_leaves_those_of_the_other(retailers: tuple[Retailer, Retailer]) -> None:
    north, south = retailers
    for each in (north, south):
        for _ in range(3):
            assert each.sync().success
    everything = datetime.now(UTC) + timedelta(hours=1)
    shown, others = north.pushed_by(), south.runs()
    assert delete_old_runs(north.instance, [north.job], everything) == 2
    assert north.runs() == [shown]
    assert south.runs() == others
