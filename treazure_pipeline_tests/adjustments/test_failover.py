"""A real failover: the primary is gone in mid-work, its standby is promoted, and what that had not received is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from treazure_pipeline.database import binaries, schema
from treazure_pipeline.errors import PipelineError
from treazure_pipeline_tests import roles
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.poolers import pooler

PRIMARY, STANDBY = 5501, 5502
SETTINGS = "listen_addresses = ''\nwal_level = replica\nmax_wal_senders = 4\nfsync = off\n"


@dataclass
class Pair:
    """A primary and a standby that it streams to, on sockets in one folder."""

    folder: Path

    @property
    def sockets(self) -> Path:
        return self.folder / "s"

    def start(self) -> None:
        """Make both."""
        self._run("initdb", "-D", self.folder / "primary", "-U", "postgres", "-A", "trust", "--no-sync")
        (self.folder / "primary" / "postgresql.auto.conf").write_text(
            f"{SETTINGS}unix_socket_directories = '{self.sockets}'\n"
        )
        self._server("primary", PRIMARY)
        source = f"host={self.sockets} port={PRIMARY} user=postgres"
        self._run("pg_basebackup", "-D", self.folder / "standby", "-R", "-d", source, "-c", "fast")
        self._server("standby", STANDBY)

    def url(self, database: str, role: str) -> str:
        """The URL of a database on whichever of the two takes writes."""
        hosts = f"host={self.sockets},{self.sockets}&port={PRIMARY},{STANDBY}"
        return f"postgresql://{role}@/{database}?{hosts}&target_session_attrs=read-write"

    def follow(self, port: int) -> None:
        """Have the address that follows the primary (port 5432) lead to one of them."""
        address = self.sockets / ".s.PGSQL.5432"
        address.unlink(missing_ok=True)
        address.symlink_to(self.sockets / f".s.PGSQL.{port}")

    def fail_over(self) -> None:
        """Let the primary be gone at once, and the standby take its place."""
        self._run("pg_ctl", "-D", self.folder / "primary", "-m", "immediate", "stop")
        self._run("pg_ctl", "-D", self.folder / "standby", "promote", "-w")
        self.follow(STANDBY)

    def caught_up(self) -> None:
        """Wait until the standby has all that the primary has committed."""
        with psycopg.connect(f"host={self.sockets} port={PRIMARY} user=postgres", autocommit=True) as connection:
            while connection.execute(
                "select 1 from pg_stat_replication where replay_lsn >= pg_current_wal_lsn()"
            ).fetchone() is None:  # fmt: skip
                time.sleep(0.05)

    def stop(self) -> None:
        for name in ("primary", "standby"):
            with suppress(subprocess.CalledProcessError):
                self._run("pg_ctl", "-D", self.folder / name, "-m", "immediate", "stop")

    def _server(self, name: str, port: int) -> None:
        log = self.folder / f"{name}.log"
        self._run("pg_ctl", "-D", self.folder / name, "-l", log, "-o", f"-p {port}", "-w", "start")

    def _run(self, program: str, *arguments: str | Path) -> None:
        found = binaries.installed()
        folder = binaries.fitting(
            self.folder / "primary", found, self.folder / "programs" if os.geteuid() == 0 else None
        )
        user = self.folder.owner()
        subprocess.run(
            [folder / program, *arguments], check=True, cwd=self.folder, stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL, user=user if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
        )  # fmt: skip


@pytest.fixture
def pair(_homes: Path, server_url: str) -> Iterator[Pair]:  # noqa: ARG001 - makes that user
    """Two servers of their own; as root they run as the user of the server that all tests share."""
    folder = _homes / f"pair{uuid.uuid4().hex[:6]}"
    for each in (folder, folder / "s"):
        each.mkdir(mode=0o755)
        if os.geteuid() == 0:
            shutil.chown(each, "pgserver", "pgserver")
    two = Pair(folder)
    try:
        two.start()
        yield two
    finally:
        two.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["all hosts named", "behind PgBouncer"])
def database_url(pair: Pair, home: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The ledger on both, worked on as the runtime role: by both names, or through a pooler in transaction mode."""
    roles.make(f"postgresql://postgres@/postgres?host={pair.sockets}&port={PRIMARY}", "ledger", "dagster")
    schema.upgrade(pair.url("ledger", roles.OWNER))
    pair.caught_up()
    if request.param == "all hosts named":
        yield pair.url("ledger", roles.RUNTIME)
        return
    pair.follow(PRIMARY)
    following = f"postgresql://{roles.RUNTIME}@/ledger?host={pair.sockets}"
    with pooler(following, home, server_login_retry=1) as through:
        yield through.render_as_string(hide_password=False)


def during(pair: Pair, adjustment_shop: AdjustmentShop, work: Callable[[], object], operation: str, calls: int) -> None:
    """Fail over while the work is at its n-th call of an operation."""

    def run() -> None:
        with suppress(PipelineError):
            work()

    worker = threading.Thread(target=run)
    worker.start()
    while adjustment_shop.sandbox.report()["requests"].get(operation, 0) < calls:
        assert worker.is_alive()
        time.sleep(0.02)
    pair.fail_over()
    worker.join(120)
    assert not worker.is_alive()


def test_a_sync_whose_server_fails_over_loses_and_doubles_nothing(
    new_adjustment_shop: Callable[..., AdjustmentShop], pair: Pair
) -> None:
    adjustment_shop = new_adjustment_shop(environ={"ENGAGE_BATCH_SIZE": "2", "ENGAGE_CONCURRENCY": "2"})
    adjustment_shop.sandbox.add_points(dict.fromkeys(adjustment_shop.contacts(20), 5))
    adjustment_shop.sandbox.set_fault("slow", on=["set_balances"], seconds=0.3, count=None)
    during(pair, adjustment_shop, lambda: adjustment_shop.sync(complete=False), "set_balances", 3)
    adjustment_shop.sandbox.clear_faults()
    adjustment_shop.leases_end()
    adjustment_shop.sync(full=True)
    assert_in_step(adjustment_shop)


def test_adjustments_whose_server_fails_over_count_once_when_engage_sends_their_webhooks_again(
    new_adjustment_shop: Callable[..., AdjustmentShop], pair: Pair
) -> None:
    adjustment_shop = new_adjustment_shop()
    given = [adjustment_shop.sandbox.give_points(contact, 5) for contact in adjustment_shop.contacts(12)]
    adjustment_shop.sandbox.wait_until_delivered()
    adjustment_shop.sandbox.set_fault("slow", on=["transaction"], seconds=0.3, count=None)
    during(pair, adjustment_shop, lambda: adjustment_shop.process(TREAZURE_CONCURRENCY="2"), "transaction", 5)
    adjustment_shop.sandbox.clear_faults()
    for event in given:
        adjustment_shop.sandbox.redeliver(event["svix_id"])
    adjustment_shop.sandbox.wait_until_delivered()
    adjustment_shop.later()
    adjustment_shop.sql("update adjustment set received_at = received_at - interval '1 minute'")
    adjustment_shop.finish()
    assert adjustment_shop.booked() == 12
    adjustment_shop.sync(full=True)
    assert_each_once(adjustment_shop)
