from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from treazure_pipeline.sandbox import WEBHOOK_SECRET, Sandbox, sandbox_process
from treazure_pipeline.settings import load_settings
from treazure_pipeline.terminal import instance
from treazure_pipeline.terminal.processes import Family
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.cli.conftest import COMMAND

PATIENCE = 150


@contextmanager
def receiver(environment: dict[str, str]) -> Iterator[str]:
    """`treazure-pipeline receiver` as it is run; yields its address."""
    command = [*COMMAND, "receiver", "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.terminate()


def waits_for(sandbox: Sandbox, contact: str, balance: str) -> Callable[[], bool]:
    """Whether the balance is in Engage; fails when it takes too long."""
    patience = time.monotonic() + PATIENCE

    def arrived() -> bool:
        assert time.monotonic() < patience, f"{contact} has no new balance after {PATIENCE} s"
        return bool(sandbox.balances([contact])[0]["engage"] == balance)

    return arrived


def test_a_signed_webhook_comes_back_as_the_new_balance_by_receiver_daemon_sensor_and_job(
    database_url: str, empty_database_url: str, home: Path
) -> None:
    with sandbox_process("--members", "20", "--in-step", "--set", "apply_delay=0") as sandbox:
        adjustment_shop = AdjustmentShop(sandbox, database_url)
        given = {
            **os.environ, **adjustment_shop.variables, "ENGAGE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "DAGSTER_POSTGRES_URL": empty_database_url, "TREAZURE_PIPELINE_HOME": str(home),
        }  # fmt: skip
        place = instance.prepare(load_settings(given))
        environment = given | place.environment
        workspace = ["-w", str(place.dagster_home / "workspace.yaml")]
        contacts = sandbox.contact_ids(limit=3)
        sandbox.set_points(dict.fromkeys(contacts, 100))
        seconds = []
        with receiver(environment) as url, Family(environment) as family:
            family.start("daemon", [sys.executable, "-m", "dagster._daemon", "run", *workspace])
            sandbox.behave(webhook_url=url)
            for contact in contacts:
                began = time.monotonic()
                sandbox.give_points(contact, "12.5", description="by an automation")
                family.wait(waits_for(sandbox, contact, "112.5"))
                seconds.append(time.monotonic() - began)
        print(f"\nfrom the webhook to the balance in Engage: {', '.join(f'{each:.1f} s' for each in seconds)}")  # noqa: T201
        assert adjustment_shop.states() == ["done"] * 3
        assert_each_once(adjustment_shop)
