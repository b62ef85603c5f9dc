"""The resident worker: several of them, and the job beside them, count each adjustment once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.cli.conftest import COMMAND


@contextmanager
def worker(adjustment_shop: AdjustmentShop, home: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **adjustment_shop.variables, "TREAZURE_PIPELINE_HOME": str(home)}
    with subprocess.Popen([*COMMAND, "worker"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "Waiting" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_two_workers_and_the_job_count_each_once_also_when_one_is_killed(
    adjustment_shop: AdjustmentShop, home: Path
) -> None:
    with worker(adjustment_shop, home) as first, worker(adjustment_shop, home) as second:
        contacts = adjustment_shop.contacts(10)
        adjustment_shop.sandbox.give_points_many([{"contact_id": contact, "amount": "1.5"} for contact in contacts * 3])
        adjustment_shop.wait_until(lambda: "posted" in adjustment_shop.states() or "done" in adjustment_shop.states())
        first.kill()
        adjustment_shop.process()
        adjustment_shop.sandbox.wait_until_delivered()
        adjustment_shop.finish()
        adjustment_shop.give(contacts[0], "2")
        adjustment_shop.wait_until(lambda: set(adjustment_shop.states()) == {"done"})
        assert len(adjustment_shop.states()) == 31
        assert_each_once(adjustment_shop)
        second.terminate()
        assert second.wait(60) == 143


def test_a_worker_outlives_a_database_that_cuts_its_connections(adjustment_shop: AdjustmentShop, home: Path) -> None:
    with worker(adjustment_shop, home) as process:
        adjustment_shop.give(adjustment_shop.contacts(1)[0], "1")
        adjustment_shop.wait_until(lambda: adjustment_shop.states() == ["done"])
        adjustment_shop.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        adjustment_shop.give(adjustment_shop.contacts(1)[0], "1")
        adjustment_shop.wait_until(lambda: adjustment_shop.states() == ["done", "done"])
        assert process.poll() is None
        assert_each_once(adjustment_shop)
