"""All of it as on a cluster: each run on a host of its own, a code server, a pooler in front of the database."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest
import yaml

from treazure_pipeline.sandbox import LOYALTY_ID, WEBHOOK_SECRET, Sandbox, sandbox_process
from treazure_pipeline.terminal.processes import Family
from treazure_pipeline_tests import hosts, networks
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.cli.conftest import COMMAND
from treazure_pipeline_tests.dagster_ui import dagster_ui
from treazure_pipeline_tests.networks import LOCAL
from treazure_pipeline_tests.poolers import pooler

ROOT = Path(__file__).parents[2]
PATIENCE = 300
SHARDS = ("000", "001")


@dataclass
class Cluster:
    """Daemon, code server, receiver and hosts of runs; what they share is the database and addresses."""

    shop: AdjustmentShop
    environment: dict[str, str]
    folder: Path
    family: Family
    instance: dg.DagsterInstance

    @property
    def workspace(self) -> Path:
        return self.folder / "dagster" / "workspace.yaml"

    def run(self, job: str, config: dict[str, dict[str, Any]] | None = None) -> None:
        """Run a job, launched from the UI, to its good end."""
        with dagster_ui(self.instance, self.workspace) as ui:
            run = ui.launch(job, config)
        self.wait(lambda: self.status(run) is dg.DagsterRunStatus.SUCCESS)

    def status(self, run: str) -> dg.DagsterRunStatus:
        found = self.instance.get_run_by_id(run)
        assert found is not None
        assert found.status is not dg.DagsterRunStatus.FAILURE, self.said(run)
        return found.status

    def said(self, run: str) -> str:
        """What a run that failed says."""
        failures = [entry.dagster_event for entry in self.instance.all_logs(run) if entry.is_dagster_event]
        return "\n".join(str(event.event_specific_data) for event in failures if event and event.is_failure)

    def backfill(self, job: str) -> None:
        """Run all partitions of a job."""
        with dagster_ui(self.instance, self.workspace) as ui:
            ui.launch_backfill(job, list(SHARDS))
        done = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS])
        self.wait(lambda: len(self.instance.get_runs(done)) == len(SHARDS))

    def wait(self, ready: Any) -> None:
        patience = time.monotonic() + PATIENCE

        def is_ready() -> bool:
            assert time.monotonic() < patience, self.instance.get_runs(limit=5)
            return bool(ready())

        self.family.wait(is_ready)


def free_port() -> int:
    with socket.create_server((LOCAL, 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((LOCAL, port)) == 0


def dagster_home(folder: Path, port: int, outside: Sequence[int]) -> Path:
    """The instance as it is shipped, with the launcher of hosts, and the code location as a server."""
    folder.mkdir()
    settings = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    settings["run_launcher"] = {
        "module": hosts.__name__,
        "class": hosts.HostLauncher.__name__,
        "config": {"folder": str(folder.parent / "hosts"), "ports": list(outside)},
    }
    server = {"host": LOCAL, "port": port, "location_name": "treazure_pipeline"}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
    (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    return folder


@pytest.fixture
def cluster(
    database_url: str, empty_database_url: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    port, database_port = free_port(), free_port()
    code_server = ["code-server", "start", "-h", LOCAL, "-p", str(port), "-m", "treazure_pipeline.definitions"]
    with (
        pooler(database_url, home, listen_addr=LOCAL, listen_port=database_port) as by_socket,
        sandbox_process("--members", "300", "--set", "apply_delay=0", "--set", "export_polls=0") as sandbox,
    ):
        vendors = urlsplit(sandbox.base_url).port
        assert vendors is not None
        dagster = dagster_home(tmp_path / "dagster", port, [vendors, database_port])
        through = by_socket.set(host=LOCAL, port=database_port, query={})
        shop = AdjustmentShop(sandbox, through.render_as_string(hide_password=False))
        shop.environ |= {
            "MIGRATION_SHARDS": str(len(SHARDS)),
            "MIGRATION_DELIVERY_URL": (tmp_path / "engage" / "import").as_uri(),
            "MIGRATION_REPORT_URL": (tmp_path / "reports").as_uri(),
            "ENGAGE_VERIFY_GRACE_SECONDS": "0",
        }
        environment = {
            **os.environ, **shop.variables, "TREAZURE_LOYALTY_ID": LOYALTY_ID, "ENGAGE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "DAGSTER_HOME": str(dagster), "DAGSTER_POSTGRES_URL": empty_database_url, "PYTHONPATH": str(ROOT),
            "TREAZURE_PIPELINE_HOME": str(tmp_path / "server"),
        }  # fmt: skip
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", empty_database_url)
        with dg.DagsterInstance.from_config(str(dagster)) as instance, Family(environment) as family:
            made = Cluster(shop, environment, tmp_path, family, instance)
            family.start(
                "code server", [sys.executable, "-m", "dagster", *code_server, "--location-name", "treazure_pipeline"]
            )
            made.wait(lambda: answers(port))
            family.start("daemon", [sys.executable, "-m", "dagster._daemon", "run", "-w", str(made.workspace)])
            yield made


@pytest.mark.timeout(900)
def test_a_migration_a_sync_adjustments_verification_and_history_run_with_each_run_on_a_host_of_its_own(
    cluster: Cluster, tmp_path: Path
) -> None:
    shop = cluster.shop
    sandbox: Sandbox = shop.sandbox

    cluster.run("prepare_migration")
    cluster.backfill("point_migration")
    cluster.run("finish_migration")
    assert shop.sql("select mode from programme") == [("migrating",)]
    sandbox.import_folder(tmp_path / "engage" / "import")
    cluster.run("finish_migration")
    assert shop.sql("select mode from programme") == [("live",)]
    assert (tmp_path / "reports" / "points" / "1" / "audit" / "audit.html").exists()

    sandbox.play_hour(changes=30)
    cluster.run("hourly_balance_sync")
    assert_in_step(shop)

    receiver = subprocess.Popen(
        [*COMMAND, "receiver", "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env=cluster.environment | {"TREAZURE_PIPELINE_HOME": str(tmp_path / "receiver")},
    )  # fmt: skip
    with receiver:
        try:
            assert receiver.stdout is not None
            url = re.search(r"http://\S+", receiver.stdout.readline())
            assert url is not None
            sandbox.behave(webhook_url=url[0])
            for contact in sandbox.contact_ids(limit=3):
                sandbox.give_points(contact, "12.5")
            cluster.wait(lambda: shop.states() == ["done"] * 3)
        finally:
            receiver.terminate()
    assert_each_once(shop)

    cluster.run("verify_balances")
    cluster.run("refresh_points_history", {"points_history": {"export_url": (tmp_path / "export").as_uri()}})
    assert list((tmp_path / "export").glob("month=*/points.parquet"))

    runs = cluster.instance.get_runs()
    assert len({run.tags[hosts.HOST] for run in runs}) == len(runs) >= 9
    if networks.POSSIBLE:
        assert networks.name() not in {run.tags[hosts.NETWORK] for run in runs}
    cluster.wait(lambda: not any(Path(run.tags[hosts.HOST]).exists() for run in runs))
