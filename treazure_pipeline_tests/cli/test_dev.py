from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from treazure_pipeline.cli import sandbox
from treazure_pipeline.database import embedded
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.cli.conftest import COMMAND
from treazure_pipeline_tests.processes import free_port


@dataclass
class Dev:
    """`dev --sandbox`, with the UI reachable."""

    process: subprocess.Popen[str]
    ui: str
    sandbox: str
    home: Path

    @classmethod
    def start(cls, home: Path, ports: tuple[int, int, int], folder: Path) -> Dev:
        port, sandbox_port, receiver_port = ports
        command = [*COMMAND, "dev", "--sandbox", "--port", str(port), "--sandbox-port", str(sandbox_port)]
        command += ["--receiver-port", str(receiver_port)]
        environment = {**os.environ, "TREAZURE_PIPELINE_HOME": str(home)}
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
        return cls(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{sandbox_port}", home)

    def family(self) -> dict[str, psutil.Process]:
        """What it has started, children of children too, by what stands in the command lines."""
        return {" ".join(child.cmdline()): child for child in psutil.Process(self.process.pid).children(recursive=True)}

    def end(self) -> None:
        with self.process:
            self.process.terminate()
            self.process.communicate(timeout=120)
        embedded.stop(self.home / "sandbox")


@pytest.fixture(scope="module")
def _place(_homes: Path) -> tuple[Path, tuple[int, int, int]]:
    return _homes / uuid.uuid4().hex[:12], (free_port(), free_port(), free_port())


@pytest.fixture(scope="module")
def _devs() -> Iterator[list[Dev]]:
    devs: list[Dev] = []
    yield devs
    for dev in devs:
        dev.end()


@pytest.fixture
def dev(_devs: list[Dev], _place: tuple[Path, tuple[int, int, int]], tmp_path: Path) -> Dev:
    """One that runs: to start it takes long, so the tests that leave it running share it, and all share its home."""
    if not _devs or _devs[-1].process.poll() is not None:
        _devs.append(Dev.start(*_place, tmp_path))
    return _devs[-1]


def asset_graph(dev: Dev) -> set[str]:
    """The keys of the assets that the UI shows of our code location."""
    question = "{ assetNodes { assetKey { path } } workspaceOrError { ... on Workspace { locationEntries { name } } } }"
    answer = httpx.post(f"{dev.ui}/graphql", json={"query": question}, timeout=60).json()["data"]
    assert [entry["name"] for entry in answer["workspaceOrError"]["locationEntries"]] == ["treazure_pipeline"]
    return {".".join(node["assetKey"]["path"]) for node in answer["assetNodes"]}


def still_there(processes: dict[str, psutil.Process]) -> list[str]:
    """The command lines of those that live on, after a while for the system to take note."""
    _, living = psutil.wait_procs(processes.values(), timeout=30)
    return [name for name, process in processes.items() if process in living]


def test_it_runs_all_and_shows_the_asset_graph(dev: Dev) -> None:
    processes = dev.family()
    for part in ("treazure_pipeline.sandbox", "dagster._daemon", "dagster_webserver"):
        assert any(part in name for name in processes)
    assert asset_graph(dev) >= {"treazure_balance_snapshot", "balance_diff", "engage_balance_push"}
    assert httpx.get(f"{dev.sandbox}/openapi.json").is_success
    assert embedded.running_url(dev.home / "sandbox") is not None


def test_alerts_link_to_the_ui_that_it_shows(dev: Dev) -> None:
    daemon = next(process for name, process in dev.family().items() if "dagster._daemon run" in name)
    assert daemon.environ()["DAGSTER_WEBSERVER_URL"] == dev.ui


RUNS = """
query Runs($filter: RunsFilter!) {
  runsOrError(filter: $filter) {
    ... on Runs {
      results { runId tags { key value } repositoryOrigin { repositoryName repositoryLocationName } }
    }
  }
  pipelineOrError(params: {
    pipelineName: "hourly_balance_sync", repositoryName: "__repository__", repositoryLocationName: "treazure_pipeline"
  }) {
    ... on Pipeline { runs { runId } }
  }
}
"""


def test_a_run_of_the_command_line_stands_in_its_job_and_in_the_timeline_with_who_started_it(
    dev: Dev, environment: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    given = sandbox.settings(httpx.URL(dev.sandbox).port or 0) | {"TREAZURE_PIPELINE_HOME": str(dev.home / "sandbox")}
    ended = processes.command("run", "balance-sync", "--json", environment=environment(**given), folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    run_id = json.loads(ended.stdout.splitlines()[-1])["run_id"]
    question = {"query": RUNS, "variables": {"filter": {"runIds": [run_id]}}}
    answer = httpx.post(f"{dev.ui}/graphql", json=question, timeout=60).json()["data"]
    assert run_id in [run["runId"] for run in answer["pipelineOrError"]["runs"]], "in its job"
    (run,) = answer["runsOrError"]["results"]
    # The timeline leaves out runs without an origin.
    assert run["repositoryOrigin"] == {
        "repositoryName": "__repository__",
        "repositoryLocationName": "treazure_pipeline",
    }
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert tags["treazure_pipeline/started_from"] == "command line"
    assert tags["treazure_pipeline/started_by"]
    assert tags["treazure_pipeline/full_resync"] == "yes"


def test_a_closed_terminal_stops_all(dev: Dev) -> None:
    processes = dev.family()

    dev.process.send_signal(signal.SIGHUP)

    assert dev.process.wait(120) == 129
    assert still_there(processes) == []
    assert embedded.running_url(dev.home / "sandbox") is None


def test_when_one_dies_all_else_is_stopped_and_it_says_which(dev: Dev) -> None:
    processes = dev.family()
    daemon = next(process for name, process in processes.items() if "dagster._daemon run" in name)

    daemon.kill()

    assert dev.process.wait(120) == 5
    assert still_there(processes) == []
    assert embedded.running_url(dev.home / "sandbox") is None
