from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from treazure_pipeline.database import embedded, schema
from treazure_pipeline_tests.roles import administrators
from treazure_pipeline_tests.service.conftest import Running, event, rows, serving


def test_a_stopped_database_means_503_until_it_is_back(new_home: Callable[[], Path]) -> None:
    home = new_home()
    url = embedded.start(home)
    schema.upgrade(url)
    with serving(url) as running:
        before = running.deliver(event("evt_1"), "msg_1")
        embedded.stop(home)
        refused = [running.deliver(event("evt_2"), "msg_2") for _ in range(3)]
        unready, alive, metrics = (running.get(path) for path in ("/readyz", "/healthz", "/metrics"))
        embedded.start(home)
        after = [running.deliver(event("evt_2"), "msg_2") for _ in range(2)]
        ready = running.get("/readyz")
        kept = running.rows("select event_id from adjustment order by id")

    assert before.status_code == 202
    assert [answer.status_code for answer in refused] == [503] * 3
    assert (unready.status_code, alive.status_code) == (503, 200)
    assert "can't be used" in unready.json()["error"]
    assert "treazure_receiver_database_reachable 0.0" in metrics.text
    assert [answer.json()["status"] for answer in after] == ["stored", "repeated"]
    assert ready.status_code == 200
    assert kept == [("evt_1",), ("evt_2",)]


def test_a_receiver_started_before_its_database_accepts_once_that_is_there(home: Path) -> None:
    with serving(embedded.urls(home).ledger) as running:
        refused = running.deliver(event())
        schema.upgrade(embedded.start(home))
        accepted = running.deliver(event())

    assert (refused.status_code, accepted.status_code) == (503, 202)


def test_a_database_that_takes_too_long_means_503_before_the_sender_gives_up(receiver: Running) -> None:
    with psycopg.connect(receiver.database_url) as connection:
        connection.execute(f"lock table {schema.SCHEMA}.adjustment".encode())
        with ThreadPoolExecutor(5) as threads:
            refused = list(threads.map(lambda number: receiver.deliver(event(f"e{number}"), f"m{number}"), range(5)))
    accepted = [receiver.deliver(event(f"e{number}"), f"m{number}") for number in range(5)]

    assert [answer.status_code for answer in refused] == [503] * 5
    assert max(answer.elapsed.total_seconds() for answer in refused) < 15
    assert [answer.status_code for answer in accepted] == [202] * 5
    assert receiver.rows("select count(*) from adjustment") == [(5,)]


def test_a_database_that_can_not_write_means_503(database_url: str) -> None:
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]))
    with psycopg.connect(administrators(database_url), autocommit=True) as connection:
        connection.execute(sql.SQL("alter database {} set default_transaction_read_only = on").format(name))
    with serving(database_url) as running:
        for content in (event(), event(kind="contact.created"), "no JSON"):
            assert running.deliver(content).status_code == 503


@pytest.mark.parametrize("stands", ["at revision 0001", "empty"])
def test_an_older_schema_is_not_ready(database_url: str, stands: str) -> None:
    with psycopg.connect(administrators(database_url), autocommit=True) as connection:
        connection.execute(f"set search_path to {schema.SCHEMA}".encode())
        if stands == "empty":
            connection.execute("drop table alembic_version")
        else:
            connection.execute("update alembic_version set version_num = '0001'")
    with serving(database_url) as running:
        answer = running.get("/readyz")
        alive = running.get("/healthz")

    assert (answer.status_code, alive.status_code) == (503, 200)
    assert stands in answer.json()["error"]
    assert "treazure-pipeline db upgrade" in answer.json()["error"]


def test_without_its_tables_nothing_is_acknowledged(empty_database_url: str) -> None:
    with serving(empty_database_url) as running:
        assert running.deliver(event()).status_code == 503
        schema.upgrade(empty_database_url)
        assert running.deliver(event()).status_code == 202

    assert rows(empty_database_url, "select event_id from adjustment") == [("evt_1",)]


def test_every_connection_cut_in_the_midst_of_deliveries_loses_none_that_was_acknowledged(receiver: Running) -> None:
    def deliver(number: int) -> tuple[str, int]:
        if number % 40 == 20:
            # Two of these cut each other too.
            with (
                suppress(psycopg.OperationalError),
                psycopg.connect(receiver.database_url, autocommit=True) as connection,
            ):
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()"
                )
        return f"evt_{number}", receiver.deliver(event(f"evt_{number}"), f"msg_{number}").status_code

    with ThreadPoolExecutor(20) as threads:
        answers = dict(threads.map(deliver, range(400)))
    kept = {row[0] for row in receiver.rows("select event_id from adjustment")}

    assert set(answers.values()) <= {202, 503}
    assert {event_id for event_id, status in answers.items() if status == 202} <= kept


def test_metrics_show_the_depth_of_the_queue_and_the_outcome_of_deliveries(receiver: Running) -> None:
    for number in range(3):
        receiver.deliver(event(f"evt_{number}"), f"msg_{number}")
    receiver.deliver(event("evt_0"), "msg_0")
    receiver.deliver(event(kind="contact.created"), "msg_9")
    receiver.post(json.dumps(event()), {})
    receiver.deliver("no JSON", "msg_10")

    metrics = receiver.get("/metrics")

    assert metrics.headers["content-type"].startswith("text/plain")
    for line in (
        'treazure_receiver_deliveries_total{outcome="stored"} 3.0',
        'treazure_receiver_deliveries_total{outcome="repeated"} 1.0',
        'treazure_receiver_deliveries_total{outcome="counted"} 1.0',
        'treazure_receiver_deliveries_total{outcome="unsigned"} 1.0',
        "treazure_receiver_delivery_seconds_count 7.0",
        "treazure_dead_letters 1.0",
        "treazure_receiver_database_reachable 1.0",
        'treazure_adjustments_unfinished{state="received"} 3.0',
        'treazure_adjustments_unfinished{state="queued"} 0.0',
    ):
        assert line in metrics.text.splitlines()
    [oldest] = [line for line in metrics.text.splitlines() if 'oldest_seconds{state="received"}' in line]
    assert float(oldest.split()[1]) > 0
