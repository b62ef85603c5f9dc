"""An ordinary server: roles with no more than they need, settings of their own, other encodings (I12)."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import LiteralString
from urllib.parse import quote

import alembic.command
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from treazure_pipeline.database import schema, upgrading
from treazure_pipeline.errors import DatabaseError
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.sandbox.client import running_sandbox
from treazure_pipeline.settings import Programme
from treazure_pipeline_tests import roles
from treazure_pipeline_tests.cli import test_doctor
from treazure_pipeline_tests.cli.conftest import SYSTEMS, Run
from treazure_pipeline_tests.roles import OWNER, READER, RUNTIME

PROGRAMME = Programme(name="points", loyalty_id="LOYALTY")
HOSTILE = {
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Kathmandu",
    "IntervalStyle": "iso_8601",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "400ms",
    "lock_timeout": "400ms",
    "idle_session_timeout": "400ms",
    "idle_in_transaction_session_timeout": "400ms",
    "search_path": "nowhere",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
}


@dataclass
class Place:
    """A ledger's database and Dagster's on a server, made as `db roles` says."""

    server: str
    database: str
    dagster: str

    def url(self, role: str) -> str:
        return roles.url(self.server, self.database, role)

    @property
    def settings(self) -> dict[str, str]:
        """With an address that only libpq understands: the first host refuses, the second one is a socket."""
        socket = quote(str(conninfo_to_dict(self.server)["host"]), safe="")
        return {
            "TREAZURE_PIPELINE_DATABASE_URL": self.url(RUNTIME),
            "DAGSTER_POSTGRES_URL": f"postgresql://{RUNTIME}@localhost:1,{socket}:5432/{self.dagster}",
        }

    def administer(self, statement: LiteralString, *names: str) -> None:
        url = roles.url(self.server, self.database, "postgres")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture
def place(server_url: str) -> Iterator[Place]:
    made = Place(server_url, f"test_{uuid.uuid4().hex[:12]}", f"test_{uuid.uuid4().hex[:12]}")
    roles.make(server_url, made.database, made.dagster)
    yield made
    with psycopg.connect(server_url, autocommit=True) as connection:
        for name in (made.database, made.dagster):
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def other(server_url: str) -> Iterator[Callable[[str], str]]:
    """Makes databases of another encoding."""
    made: list[str] = []

    def make(encoding: str) -> str:
        made.append(f"test_{uuid.uuid4().hex[:12]}")
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} ENCODING {} LOCALE 'C' TEMPLATE template0").format(
                    sql.Identifier(made[-1]), sql.Literal(encoding)
                )
            )
        return roles.url(server_url, made[-1], "postgres")

    yield make
    with psycopg.connect(server_url, autocommit=True) as connection:
        for name in made:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def test_the_runtime_role_does_a_whole_sync_and_the_owner_alone_changes_the_tables(place: Place, run: Run) -> None:
    schema.upgrade(place.url(OWNER))
    roles.make(place.server, place.database, place.dagster)  # again: nothing happens
    with running_sandbox(members=20, in_step=False) as sandbox:
        given = test_doctor.settings(sandbox) | place.settings

        synced = run("run", "balance-sync", "--json", **given)
        adjusted = run("run", "adjustments", "--json", **given)
        looked = run("doctor", "--json", **given)
        upgraded = [run("db", "upgrade", **given) for _ in range(2)]

    assert synced.returncode == 0, synced.stderr
    assert json.loads(synced.stdout.splitlines()[-1])["sent"] == 20
    assert adjusted.returncode == 0, adjusted.stderr
    assert looked.returncode == 0, looked.stdout
    assert [result.returncode for result in upgraded] == [0, 0], upgraded[1].stderr
    with psycopg.connect(place.url(RUNTIME)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("alter table treazure_pipeline.ledger add column more text")


VIEWS = [
    "adjustment",
    "balance_change",
    "contact_balance",
    "drift_open",
    "liability_daily",
    "movement",
    "rejection_open",
    "sync_run",
]


def assert_reads_the_reports_alone(place: Place) -> None:
    relations = (
        "select nspname, relname from pg_class c join pg_namespace n on n.oid = relnamespace "
        "where nspname in ('treazure_pipeline', 'treazure_reporting') and relkind in ('r', 'v', 'S')"
    )
    read = []
    with psycopg.connect(place.url(READER), autocommit=True) as connection:
        for schema_, relation in connection.execute(relations).fetchall():
            try:
                connection.execute(
                    sql.SQL("select from {}.{}").format(sql.Identifier(schema_), sql.Identifier(relation))
                )
            except psycopg.errors.InsufficientPrivilege:
                continue
            read.append(f"{schema_}.{relation}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("create view treazure_reporting.mine as select 1")
    assert sorted(read) == [f"treazure_reporting.{view}" for view in VIEWS]


def test_a_reader_reads_the_reporting_views_and_nothing_else(place: Place, run: Run) -> None:
    schema.upgrade(place.url(OWNER))

    granted = run("db", "grant-reader", READER, "--json", TREAZURE_PIPELINE_DATABASE_URL=place.url(OWNER))

    assert json.loads(granted.stdout) == {"status": "ok", "role": READER, "reports": VIEWS}
    assert_reads_the_reports_alone(place)


def test_a_reader_reads_views_that_a_later_version_makes(place: Place) -> None:
    schema.upgrade(place.url(OWNER))
    schema.grant_reader(place.url(OWNER), READER)

    with psycopg.connect(place.url(OWNER), autocommit=True) as connection:
        connection.execute("create view treazure_reporting.later as select 42 as answer")

    with psycopg.connect(place.url(READER)) as connection:
        assert connection.execute("table treazure_reporting.later").fetchall() == [(42,)]


def test_who_read_the_ledger_before_there_were_reporting_views_reads_those_after_the_upgrade(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The administrator's SQL of that time knew nothing of their schema."""
    place.administer("drop schema treazure_reporting")
    with monkeypatch.context() as an_old_version:
        an_old_version.setattr(upgrading, "alembic_upgrade", lambda config, _: alembic.command.upgrade(config, "0017"))
        schema.upgrade(place.url(OWNER))
    place.administer(
        "drop schema treazure_reporting; grant usage on schema treazure_pipeline to {0}; "
        "grant select on treazure_pipeline.balance to {0}",
        READER,
    )

    schema.upgrade(place.url(OWNER))

    for role in (RUNTIME, READER):
        with psycopg.connect(place.url(role)) as connection:
            connection.execute("table treazure_reporting.contact_balance")


def test_an_owner_that_may_make_no_schema_says_what_an_administrator_runs(place: Place, run: Run) -> None:
    """The owner of the ledger's schema, in a database that belongs to somebody else."""
    place.administer("drop schema treazure_reporting; alter database {} owner to postgres", place.database)

    refused = run("db", "upgrade", TREAZURE_PIPELINE_DATABASE_URL=place.url(OWNER))

    statement = "create schema treazure_reporting authorization treazure_owner;"
    assert refused.returncode == 5
    assert "the database role treazure_owner may not create it" in refused.stderr
    assert statement in " ".join(refused.stderr.split())
    place.administer(statement)
    schema.upgrade(place.url(OWNER))


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("connection failed: server does not support SSL, but SSL was required", "sslmode=disable"),
        ('could not extend file "base/1": No space left on device', "Make room"),
        ('password authentication failed for user "me"', "Correct the user and password"),
        ("connection refused", "Check that PostgreSQL runs"),
    ],
)
def test_what_can_be_done_about_a_server_is_said(said: str, hint: str) -> None:
    error = schema.translated(psycopg.OperationalError(said))

    assert said in str(error)
    assert hint in str(error)


def test_only_the_owner_lets_others_read_and_only_roles_that_are_there(place: Place) -> None:
    schema.upgrade(place.url(OWNER))

    with pytest.raises(DatabaseError, match="no role 'nobody'"):
        schema.grant_reader(place.url(OWNER), "nobody")
    with pytest.raises(DatabaseError, match="does not own the reporting views"):
        schema.grant_reader(place.url(RUNTIME), READER)


def test_what_a_role_and_its_database_have_set_for_themselves_changes_nothing(place: Place) -> None:
    for name, value in HOSTILE.items():
        place.administer("alter database {} set {} to '" + value + "'", place.database, name)
    schema.upgrade(place.url(OWNER))

    with Ledger(place.url(RUNTIME), connections=2) as ledger:
        account = ledger.account(PROGRAMME)
        ledger.hold(account)
        with ledger.transaction() as connection:
            row = connection.execute(
                "select timestamptz '2026-03-04 05:06:07+00', interval '1 day', pg_sleep(0.6)::text, '\\\\', "
                "current_setting('transaction_isolation'), 'ü€😀'"
            ).fetchone()
            time.sleep(0.6)
            connection.execute("select 1")
        time.sleep(0.6)
        with ledger.transaction() as connection:
            connection.execute("select 1")

    assert row is not None
    when, span, *rest = row
    assert (when, span.days) == (datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC), 1)
    assert rest[1:] == ["\\\\", "read committed", "ü€😀"]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused_in_a_sentence(
    other: Callable[[str], str], run: Run, encoding: str
) -> None:
    result = run("db", "upgrade", TREAZURE_PIPELINE_DATABASE_URL=other(encoding))

    assert result.returncode == 5
    assert f"encoded in {encoding}" in result.stderr
    assert "ENCODING 'UTF8'" in result.stderr


def test_a_right_that_is_missing_is_named_by_the_run_and_by_the_doctor(place: Place, run: Run) -> None:
    schema.upgrade(place.url(OWNER))
    place.administer("revoke temporary on database {} from public, {}", place.database, RUNTIME)
    with running_sandbox(members=2) as sandbox:
        given = test_doctor.settings(sandbox) | place.settings

        synced = run("run", "balance-sync", **given)
        looked = run("doctor", "--json", **given)

    assert synced.returncode == 5
    assert "lacks a right: permission denied to create temporary tables" in synced.stderr
    assert "treazure-pipeline db roles" in synced.stderr
    assert looked.returncode == 5
    checks = {check["check"]: check for check in json.loads(looked.stdout)["checks"]}
    assert {name for name, check in checks.items() if check["status"] == "failed"} == {"database: rights"}
    assert "permission denied to create temporary tables" in checks["database: rights"]["detail"]


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ("revoke create on schema treazure_pipeline from {1}", "permission denied for schema treazure_pipeline"),
        ("revoke delete, update on treazure_pipeline.batch from {1}", "DELETE on batch, UPDATE on batch"),
        ("revoke insert on treazure_pipeline.lease from {1}", "permission denied for table lease"),
    ],
)
def test_the_doctor_does_what_runs_do(place: Place, run: Run, taken: LiteralString, said: str) -> None:
    schema.upgrade(place.url(OWNER))
    place.administer(taken, place.database, RUNTIME)

    looked = run("doctor", "--json", **place.settings)

    (rights,) = [check for check in json.loads(looked.stdout)["checks"] if check["check"] == "database: rights"]
    assert rights["status"] == "failed"
    assert said in rights["detail"]


def test_the_doctor_opens_dagsters_storage_as_runs_do(place: Place, run: Run) -> None:
    schema.upgrade(place.url(OWNER))
    dagster = roles.url(place.server, place.dagster, READER)

    unused = run("doctor", "--json", **place.settings | {"DAGSTER_POSTGRES_URL": dagster})

    (storage,) = [check for check in json.loads(unused.stdout)["checks"] if check["check"] == "Dagster: storage"]
    assert storage["status"] == "failed"
    assert "may not create tables" in storage["detail"]


def test_a_ledger_without_rights_is_a_sentence(place: Place, run: Run) -> None:
    schema.upgrade(place.url(OWNER))

    result = run("status", **place.settings | {"TREAZURE_PIPELINE_DATABASE_URL": place.url(READER)}, **SYSTEMS)

    assert result.returncode == 5
    assert "lacks a right: permission denied for" in result.stderr
