"""What /metrics tells about the sync."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from treazure_pipeline.ledger.limiter import Priority, SharedRate
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.service.figures import _LIMITS
from treazure_pipeline_tests.service.conftest import Running, serving

pytestmark = pytest.mark.slow

_SYNC = """
insert into programme (name, loyalty_id, definition_id, covered, points_total)
values ('points', 'points', 1, tstzmultirange(tstzrange('2000-01-01', '2026-01-01'),
                                              tstzrange('2026-01-02', '2026-01-03')), 1234.5),
       ('stars', 'stars', 2, '{}', 0);
update programme set mode = 'migrating' where name = 'stars';
insert into known (programme, contacts) select id, 3 from programme where name = 'points';
insert into verification (programme, contact, verdict, sent, shown, read_at, since, rounds)
select id, gen_random_uuid(), v.verdict, 1, 2, now(), now(), v.rounds
from programme, (values ('drift', 1), ('drift', 3), ('missing', 1), ('equal', 0)) v (verdict, rounds)
where name = 'points';
"""


@pytest.fixture
def running(database_url: str) -> Iterator[Running]:
    execute(database_url, _SYNC)
    with serving(database_url) as running:
        yield running


def execute(database_url: str, statements: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("set search_path to treazure_pipeline")
        connection.execute(statements.encode())


def figures(running: Running, label: str, value: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(running.get("/metrics").text)
        for sample in family.samples
        if sample.labels == {label: value}
    }


def test_each_programme_tells_until_when_it_is_covered_and_what_is_wrong(running: Running) -> None:
    points, stars = (figures(running, "programme", name) for name in ("points", "stars"))

    assert points["treazure_sync_covered_timestamp_seconds"] == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert points["treazure_sync_holes"] == 1
    assert (points["treazure_points"], points["treazure_contacts"], points["treazure_migrating"]) == (1234.5, 3, 0)
    assert (points["treazure_drift_contacts"], points["treazure_drift_lasting_contacts"]) == (2, 1)
    assert points["treazure_missing_contacts"] == 1
    assert stars["treazure_migrating"] == 1
    assert "treazure_sync_covered_timestamp_seconds" not in stars


def test_what_waits_is_counted_and_what_is_held_does_not_make_it_old(running: Running) -> None:
    execute(running.database_url, """
        insert into observation (programme, source, state, asked) select id, 'account', 'merged', now() from programme;
        insert into pending (programme, contact, master, observation, since, next_try, reason)
        select g.id, gen_random_uuid(), 5, o.id, now() - age, next_try, reason
        from programme g join observation o on o.programme = g.id,
             (values (interval '1 hour', null::timestamptz, null), ('9 hours', now() + interval '1 day', 'refused'))
             p (age, next_try, reason)
        where g.name = 'points'""")  # fmt: skip

    points = figures(running, "programme", "points")

    assert (points["treazure_pending_contacts"], points["treazure_held_contacts"]) == (2, 1)
    assert (points["treazure_refused_contacts"], points["treazure_gone_contacts"]) == (1, 0)
    assert 3600 <= points["treazure_pending_oldest_seconds"] < 7200


def test_requests_of_all_processes_are_counted_next_to_their_limit(running: Running) -> None:
    stop = threading.Event()
    with Ledger(running.database_url, connections=1) as ledger:
        for priority in (Priority.SYNC, Priority.BACKGROUND, Priority.SYNC):
            with SharedRate(ledger, "engage:0123", 20, priority, 60, stop).slot():
                pass

    assert figures(running, "system", "engage") == {
        "treazure_requests_total": 3,
        "treazure_requests_per_second_limit": 20,
    }


def test_limits_are_read_without_the_versions_that_vacuum_could_not_remove(running: Running) -> None:
    with psycopg.connect(running.database_url) as old, psycopg.connect(running.database_url, autocommit=True) as other:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select from pg_class")
        other.execute("set search_path to treazure_pipeline")
        other.execute("insert into rate_slot (bucket, slot, free_at, slots) "
                      "select 'engage:0123', n, now(), 20 from generate_series(0, 19) n")  # fmt: skip
        for _ in range(2000):
            other.execute("update rate_slot set requests = requests + 1, turn = turn + 1")

        (plan,) = other.execute(f"explain (analyze, buffers, format json) {_LIMITS}").fetchone() or ([{}],)

    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 200
    assert figures(running, "system", "engage")["treazure_requests_total"] == 20 * 2000


def test_a_scrape_that_the_ledger_does_not_answer_in_time_costs_its_numbers_only(running: Running) -> None:
    with psycopg.connect(running.database_url) as connection:
        connection.execute("lock table treazure_pipeline.verification in access exclusive mode")

        text = running.get("/metrics").text

    assert "treazure_receiver_database_reachable 1.0" in text
    assert "treazure_pending_contacts{" in text
    assert "treazure_drift_contacts{" not in text
