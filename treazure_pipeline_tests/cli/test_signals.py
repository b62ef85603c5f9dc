"""What ends a command from outside: it ends in order, with what it has started, and says so by its exit code."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from treazure_pipeline.sandbox.client import running_sandbox
from treazure_pipeline_tests.cli.conftest import COMMAND, Run
from treazure_pipeline_tests.cli.test_doctor import settings

FAMILY = """
import os, sys
from treazure_pipeline.cli import signals
from treazure_pipeline.terminal.processes import Family
signals.listen()
child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']); "
child += "print('ready', flush=True); time.sleep(300)"
try:
    with Family(os.environ) as family:
        family.start("child", [sys.executable, "-c", child])
        family.wait()
except signals.StoppedError as stopped:
    sys.exit(stopped.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_children_and_theirs(number: int, code: int) -> None:
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2

        process.send_signal(number)

        assert process.wait(60) == code
        assert psutil.wait_procs(children, timeout=30)[1] == []


def test_a_port_that_is_taken_is_found_before_anything_is_started(run: Run, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments in (("--port", str(port)), ("--port", "0", "--sandbox-port", str(port))):
            result = run("dev", "--sandbox", *arguments)

            assert result.returncode == 5
            assert f"can't listen on port {port}" in result.stderr
            assert result.stdout == ""
    assert not home.exists()


def test_ctrl_c_in_a_push_keeps_what_was_accepted_and_exits_130(
    environment: Callable[..., dict[str, str]], database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    batch = 20
    with running_sandbox(members=400, latency=0.2) as sandbox, psycopg.connect(
        database_url, autocommit=True
    ) as ledger:  # fmt: skip

        def accepted() -> int:
            counted = ledger.execute(
                "select coalesce(sum(cardinality(contacts)), 0) from treazure_pipeline.batch "
                "where state in ('accepted', 'folded')"
            ).fetchone()
            assert counted is not None
            return int(counted[0])

        given = environment(
            **settings(sandbox), TREAZURE_PIPELINE_DATABASE_URL=database_url, DAGSTER_POSTGRES_URL=empty_database_url,
            ENGAGE_BATCH_SIZE=str(batch), ENGAGE_CONCURRENCY="1",
        )  # fmt: skip
        command = [*COMMAND, "run", "balance-sync", "--json"]
        with subprocess.Popen(command, env=given, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            while accepted() < 3 * batch and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=120)[0]

        assert process.returncode == 130, said
        assert json.loads(said.splitlines()[-1]) == {"status": "failed", "error": "Stopped."}
        sandbox.apply_queue()
        taken = 400 - sandbox.differences()["differing"]
        assert 3 * batch <= accepted() < 400
        assert 0 <= taken - accepted() <= batch  # one request may have been on its way
