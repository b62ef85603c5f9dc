"""The resident worker: several of them, and the job beside them, count each adjustment once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from treazure_pipeline_tests.adjustments.desk import Desk, assert_each_once
from treazure_pipeline_tests.cli.conftest import COMMAND


@contextmanager
def worker(desk: Desk, home: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **desk.variables, "TREAZURE_PIPELINE_HOME": str(home)}
    with subprocess.Popen([*COMMAND, "worker"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "Waiting" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_two_workers_and_the_job_count_each_once_also_when_one_is_killed(desk: Desk, home: Path) -> None:
    with worker(desk, home) as first, worker(desk, home) as second:
        contacts = desk.contacts(10)
        desk.sandbox.give_points_many([{"contact_id": contact, "amount": "1.5"} for contact in contacts * 3])
        desk.wait_until(lambda: "posted" in desk.states() or "done" in desk.states())
        first.kill()
        desk.process()
        desk.sandbox.wait_until_delivered()
        desk.finish()
        desk.give(contacts[0], "2")
        desk.wait_until(lambda: set(desk.states()) == {"done"})
        assert len(desk.states()) == 31
        assert_each_once(desk)
        second.terminate()
        assert second.wait(60) == 143


def test_a_worker_outlives_a_database_that_cuts_its_connections(desk: Desk, home: Path) -> None:
    with worker(desk, home) as process:
        desk.give(desk.contacts(1)[0], "1")
        desk.wait_until(lambda: desk.states() == ["done"])
        desk.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        desk.give(desk.contacts(1)[0], "1")
        desk.wait_until(lambda: desk.states() == ["done", "done"])
        assert process.poll() is None
        assert_each_once(desk)
