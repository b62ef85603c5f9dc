from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from treazure_pipeline.database import embedded, schema
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.settings import load_receiver
from treazure_pipeline_tests.cli.conftest import COMMAND, Run, environment, run
from treazure_pipeline_tests.service.conftest import OTHER_SECRET, SECRET, Running, event, rows

__all__ = ["environment", "run"]


@contextmanager
def started(variables: dict[str, str], database_url: str) -> Iterator[tuple[Running, subprocess.Popen[str]]]:
    """The command in a process of its own, killed at the end of the block unless it has ended."""
    process = subprocess.Popen([*COMMAND, "receiver", "--port", "0"], env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.endswith("/webhooks/engage"), "the receiver did not start"
        running = Running(url.removesuffix("/webhooks/engage"), database_url)
        httpx.get(f"{running.url}/healthz", timeout=60).raise_for_status()
        yield running, process
    finally:
        process.kill()
        process.communicate()


def test_what_was_acknowledged_is_there_after_sigkill_of_the_receiver_and_of_its_database(
    environment: Callable[..., dict[str, str]], home: Path
) -> None:
    with started(environment(ENGAGE_WEBHOOK_SECRET=SECRET), embedded.urls(home).ledger) as (running, process):
        with ThreadPoolExecutor(8) as threads:
            answers = list(
                threads.map(lambda number: running.deliver(event(f"evt_{number}"), f"msg_{number}"), range(40))
            )
        process.kill()
        server = int((home / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
        subprocess.run(["kill", "-KILL", str(server)], check=True)

    assert {answer.status_code for answer in answers} == {202}
    assert rows(embedded.start(home), "select count(*) from adjustment") == [(40,)]


def test_sigterm_lets_the_last_request_finish_and_is_a_good_end(
    environment: Callable[..., dict[str, str]], database_url: str
) -> None:
    variables = environment(ENGAGE_WEBHOOK_SECRET=SECRET, TREAZURE_PIPELINE_DATABASE_URL=database_url)
    with started(variables, database_url) as (running, process), ThreadPoolExecutor(1) as threads:
        with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as watcher:
            holder.execute(f"lock table {schema.SCHEMA}.adjustment".encode())
            answer = threads.submit(running.deliver, event())
            waiting = "select count(*) from pg_locks where not granted"
            while watcher.execute(waiting).fetchone() == (0,):
                pass
            process.send_signal(signal.SIGTERM)
        status = answer.result().status_code
        code = process.wait(timeout=60)

    assert (status, code) == (202, 143)
    assert rows(database_url, "select event_id from adjustment") == [("evt_1",)]


def test_the_command_names_a_setting_that_is_missing_or_wrong_before_any_work(run: Run, home: Path) -> None:
    missing = run("receiver")
    wrong = run("receiver", ENGAGE_WEBHOOK_SECRET="not-a-good-secret", ADJUSTMENT_ANSWER_WITHIN_SECONDS="15")

    assert (missing.returncode, wrong.returncode) == (2, 2)
    assert "ENGAGE_WEBHOOK_SECRET is missing" in missing.stderr
    assert "ENGAGE_WEBHOOK_SECRET must be whsec_" in wrong.stderr
    assert "ADJUSTMENT_ANSWER_WITHIN_SECONDS ('15')" in wrong.stderr
    assert "not-a-good-secret" not in wrong.stderr
    assert not home.exists()


def test_a_port_in_use_is_a_clear_message(run: Run, receiver: Running) -> None:
    port = receiver.url.rsplit(":", 1)[1]
    variables = {"ENGAGE_WEBHOOK_SECRET": SECRET, "TREAZURE_PIPELINE_DATABASE_URL": receiver.database_url}

    result = run("receiver", "--port", port, **variables)

    assert result.returncode == 5
    assert f"can't listen on 127.0.0.1, port {port}" in " ".join(result.stderr.split())


@pytest.mark.parametrize("between", [",", " ", ", ", "\n"])
def test_several_secrets_are_one_setting(between: str) -> None:
    settings = load_receiver({"ENGAGE_WEBHOOK_SECRET": between.join([SECRET, OTHER_SECRET.rstrip("=")])})

    assert [secret.get_secret_value() for secret in settings.engage_webhook_secret] == [
        SECRET,
        OTHER_SECRET.rstrip("="),
    ]
    assert settings.adjustment_answer_within_seconds == 0
    assert SECRET not in repr(settings)


@pytest.mark.parametrize("value", ["whsec_", SECRET.removeprefix("whsec_"), f"{SECRET},whsec_!", "whsec_é", ","])
def test_a_secret_that_can_not_be_one_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_receiver({"ENGAGE_WEBHOOK_SECRET": value})

    assert "ENGAGE_WEBHOOK_SECRET" in str(caught.value)
    assert json.dumps(SECRET.removeprefix("whsec_"))[1:-1] not in str(caught.value)
