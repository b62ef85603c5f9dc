"""Run launchers: one gives every run a host of its own, a process with its own home, working directory and network.

When the run has ended they are gone, as a pod's disk is; what it printed stays in a file beside them. Hosts share the
machine's network where it can't make others. The other launcher has no hosts to give: its runs come to nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any, Self

import dagster as dg
from dagster._cli import main
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from treazure_pipeline_tests import networks, processes
from treazure_pipeline_tests.networks import Network

HOST, NETWORK = "host", "network"


class HostLauncher(RunLauncher, ConfigurableClass):
    """Starts each run in a folder of its own below `folder`; the run's tags `host` and `network` say where.

    Of the outside its network sees what listens at `ports` of this machine's own address.
    """

    def __init__(self, folder: str, ports: Sequence[int], inst_data: ConfigurableClassData | None = None) -> None:
        self._folder = Path(folder)
        self._reach = {port: partial(networks.outside, port) for port in ports}
        self._inst_data = inst_data
        self._hosts: dict[str, BaseProcess] = {}
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What Dagster makes it from."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Any:
        """What dagster.yaml says of it."""
        return {"folder": dg.StringSource, "ports": [int]}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Make it as dagster.yaml says."""
        return cls(**config_value, inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a host."""
        run = context.dagster_run
        assert context.job_code_origin is not None
        host = self._folder / run.run_id
        host.mkdir(parents=True)
        self._instance.add_run_tags(run.run_id, {HOST: str(host)})
        command = ExecuteRunArgs(
            context.job_code_origin, run.run_id, self._instance.get_ref(), set_exit_code_on_failure=True
        ).get_command_args()
        places = {"HOME": str(host), "TMPDIR": str(host), "TREAZURE_PIPELINE_HOME": str(host / "home")}
        said = self._folder / f"{run.run_id}.log"
        work = (processes.run, main, command[-3:], os.environ | places, host, said, said)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, host)
            if networks.POSSIBLE:
                process = stack.enter_context(Network(self._reach)).start(*work)
                self._instance.add_run_tags(run.run_id, {NETWORK: networks.name(process.pid)})
            else:
                process = processes.started(*work)
            self._hosts[run.run_id] = process
            stack.callback(process.join)
            Thread(target=stack.pop_all().close, daemon=True).start()

    def terminate(self, run_id: str) -> bool:
        """End a host."""
        self._hosts[run_id].terminate()
        return True


class NoHosts(RunLauncher, ConfigurableClass):
    """Starts nothing, so that runs keep the places that the queue gave them."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What Dagster makes it from."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Any:
        """What dagster.yaml says of it: nothing."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:  # noqa: ARG003 - as Dagster calls it
        """Make it."""
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Leave the run as it is."""

    def terminate(self, run_id: str) -> bool:  # noqa: ARG002 - as Dagster calls it
        """Do nothing: nothing is at work."""
        return False
