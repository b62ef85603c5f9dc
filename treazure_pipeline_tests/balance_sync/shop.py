"""A shop whose points are synced: a sandbox, a ledger, and runs of the sync between them."""

from __future__ import annotations

import atexit
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from treazure_pipeline.balance_sync.guards import judge
from treazure_pipeline.balance_sync.push import PushFigures, push
from treazure_pipeline.balance_sync.snapshot import Diff, Snapshot, merge_snapshot, take_snapshot
from treazure_pipeline.connections import Connections, Run
from treazure_pipeline.database.schema import SCHEMA
from treazure_pipeline.definitions import PURPOSES
from treazure_pipeline.ledger import coverage, figures
from treazure_pipeline.ledger.coverage import Window
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.sandbox import API_KEY, CLIENT_ID, CLIENT_SECRET, LOYALTY_ID, Sandbox, running_sandbox
from treazure_pipeline.settings import Settings, load_settings
from treazure_pipeline_tests.roles import administrators

QUICK = {
    "TREAZURE_PIPELINE_RETRY_SCALE": "0.001",
    "ENGAGE_MAX_REQUESTS_PER_SECOND": "0",
    "TREAZURE_MAX_REQUESTS_PER_SECOND": "0",
    "ENGAGE_BATCH_SIZE": "50",
    "ENGAGE_CONCURRENCY": "4",
    "TREAZURE_CONCURRENCY": "4",
}
"""Settings that keep a test from waiting; the limits have tests of their own."""

_spare: list[tuple[str, psycopg.Connection]] = []


@dataclass(frozen=True)
class Synced:
    """What one run of the sync came to."""

    id: str
    snapshot: Snapshot
    diff: Diff
    pushed: PushFigures


@dataclass
class Shop:
    """Treazure and Engage, one ledger, and the settings that connect them."""

    sandbox: Sandbox
    database_url: str
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that works for this shop."""
        given = {
            "TREAZURE_BASE_URL": self.sandbox.base_url,
            "ENGAGE_BASE_URL": self.sandbox.base_url,
            "TREAZURE_CLIENT_ID": CLIENT_ID,
            "TREAZURE_CLIENT_SECRET": CLIENT_SECRET,
            "ENGAGE_API_KEY": API_KEY,
            "TREAZURE_PIPELINE_DATABASE_URL": self.database_url,
            **QUICK,
            **self.environ,
        }
        return given if "TREAZURE_PIPELINE_PROGRAMMES" in given else {"TREAZURE_LOYALTY_ID": LOYALTY_ID, **given}

    def settings(self, **changes: str) -> Settings:
        """The settings, some of them changed."""
        return load_settings({**self.variables, **changes})

    def connect(self, purpose: str = "connections", **changes: str) -> Connections:
        """Connections as a run has them, for the purpose that it has them for."""
        return Connections(self.settings(**changes), **PURPOSES[purpose])

    def sync(
        self,
        *,
        full: bool = False,
        window: tuple[datetime, datetime] | None = None,
        programme: int = 0,
        complete: bool = True,
        **changes: str,
    ) -> Synced:
        """Run the sync once, as the job does, and check that what it counted adds up.

        `complete`: whether the push is to have sent all it could.
        """
        with self.connect(**changes) as connections:
            account = account_of(connections, programme)
            connections.ledger.hold(account)
            run_id = uuid.uuid4().hex
            chosen = coverage.next_window(connections.ledger, account, full=full)
            snapshot = fetch(connections, account, Window(*window) if window else chosen, run_id)
            diff = merge(connections, account, run_id)
            pushed = send(connections, account, run_id, diff)
            assert_adds_up(connections, account)
        if complete:
            assert pushed.error is None
            assert pushed.pending == 0
        return Synced(run_id, snapshot, diff, pushed)

    def send_pending(self, *, complete: bool = True, **changes: str) -> PushFigures:
        """Materialize the push alone."""
        with self.connect(**changes) as connections:
            account = account_of(connections)
            connections.ledger.hold(account)
            pushed = send(connections, account, uuid.uuid4().hex)
            assert_adds_up(connections, account)
        if complete:
            assert pushed.error is None
            assert pushed.pending == 0
        return pushed

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in the ledger's database, as an administrator would by hand."""
        url = administrators(self.database_url)
        connection = _connected(url)
        try:
            cursor = connection.execute(statement, values or None)
            rows = cursor.fetchall() if cursor.description else []
            connection.commit()
        except BaseException:
            connection.close()
            raise
        _spare.append((url, connection))
        return rows

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that a run that fails before its merge must leave alone."""
        statements = {
            "ledger": "select * from ledger order by programme, contact",
            "pending": "select * from pending order by programme, contact",
            "change": "select * from change order by id",
            "batch": "select * from batch order by id",
            "vanished": "select * from vanished order by programme, contact",
            "programme": "select * from programme order by id",
            "merged": "select * from observation where state = 'merged' order by id",
        }
        return {name: self.sql(statement) for name, statement in statements.items()}

    def time_passes(self, hours: float) -> None:
        """Let time pass for what the ledger has recorded, by moving its records into the past."""
        past = timedelta(hours=hours)
        self.sql(
            "update pending set since = since - %s, refused_first = refused_first - %s, "
            "refused_last = refused_last - %s, next_try = next_try - %s",
            past, past, past, past,
        )  # fmt: skip
        self.sql("update batch set claimed_at = claimed_at - %s, lease_until = lease_until - %s", past, past)
        self.sql(
            "update observation set asked = asked - %s, answered = answered - %s, "
            "window_from = case when window_from > '2000-01-01' then window_from - %s else window_from end, "
            "window_to = window_to - %s",
            past, past, past, past,
        )  # fmt: skip
        self.sql(
            "update programme set full_asked_at = full_asked_at - %s, full_tried_at = full_tried_at - %s, "
            "export_answered = greatest(export_answered - %s, 'epoch'), covered = coalesce(("
            "select range_agg(tstzrange(case when lower(r) > '2000-01-01' then lower(r) - %s else lower(r) end, "
            "upper(r) - %s)) from unnest(covered) r), '{}')",
            past, past, past, past, past,
        )  # fmt: skip

    def wait_for_lock(self, patience: float = 30.0) -> None:
        """Wait until somebody waits for a lock of another transaction."""
        deadline = time.monotonic() + patience
        while not self.sql("select 1 from pg_locks where not granted"):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def leases_end(self) -> None:
        """Let the leases of requests whose process is dead be over."""
        self.sql("update batch set lease_until = clock_timestamp() where lease_until > clock_timestamp()")

    def pending(self) -> dict[str, Decimal]:
        """The pending contacts and their newest master balances."""
        return dict(self.sql("select contact::text, master from unsettled order by 1"))

    def known_master(self) -> dict[str, Decimal]:
        """The newest master balance that the ledger knows of each contact."""
        return dict(self.sql("select contact::text, master from balance order by 1"))

    def in_engage(self, *contacts: str) -> list[str | None]:
        """What Engage holds of these contacts, as exact texts."""
        return [row["engage"] for row in self.sandbox.balances(contacts)]


def _connected(url: str) -> psycopg.Connection:
    """Begin a transaction on a connection that an earlier statement has left, or on a new one, which takes longer."""
    # Behind a pooler each transaction may be on another session.
    begin = f"set local search_path to {SCHEMA}; set local timezone to 'UTC'"
    with suppress(IndexError):
        while True:
            left, connection = _spare.pop()
            if left == url:
                with suppress(psycopg.OperationalError):
                    connection.execute(begin)
                    return connection
            connection.close()
    connection = psycopg.connect(url, prepare_threshold=None)
    connection.execute(begin)
    return connection


@atexit.register
def _close() -> None:
    for _, connection in _spare:
        connection.close()


def account_of(connections: Connections, programme: int = 0) -> Account:
    """The ledger's account of the n-th programme of the settings."""
    return connections.ledger.account(connections.settings.programmes[programme])


def run_of(connections: Connections, account: Account, run_id: str = "run") -> Run:
    """A run's work on the programme of an account, as that stands."""
    (programme,) = (one for one in connections.settings.programmes if one.name == account.name)
    return Run(connections, programme, account, run_id)


def fetch(connections: Connections, account: Account, window: Window | None = None, run_id: str = "run") -> Snapshot:
    """The first step of a run."""
    chosen = window or coverage.next_window(connections.ledger, account)
    return take_snapshot(run_of(connections, account, run_id), chosen)


def merge(connections: Connections, account: Account, run_id: str = "run") -> Diff:
    """The second step of a run."""
    return merge_snapshot(run_of(connections, account, run_id))


def send(connections: Connections, account: Account, run_id: str = "run", diff: Diff | None = None) -> PushFigures:
    """The third step of a run; checks the equations of I6, that of the diff too where there is one."""
    run = run_of(connections, account, run_id)
    pushed = push(run, since=None if diff is None else diff.figures.backlog, judgment=judge(run))
    accounted = pushed.sent + pushed.refused + pushed.held + pushed.pending
    assert pushed.backlog + pushed.entered == accounted, pushed
    if diff is not None:
        found = diff.figures
        counted = found.duplicate + found.rejected + found.superseded + found.unchanged + found.changed
        assert found.fetched == counted, found
        assert found.changed + found.carried_over + pushed.entered == accounted, (found, pushed)
        assert found.points_before + found.points_change == found.points_after, found
    return pushed


def assert_adds_up(connections: Connections, account: Account) -> None:
    """The running total is the sum of all master balances."""
    audit = figures.audit(connections.ledger, account, always=True)
    assert audit.total == audit.summed


def assert_well_behaved(shop: Shop) -> None:
    """Nothing that the sandbox saw was wrong: overlaps, stale or foreign amounts, time stamps, rates."""
    report = shop.sandbox.report()
    assert report["problems"] == [], json.dumps(report, indent=1)


def assert_in_step(shop: Shop, loyalty_id: str | None = None) -> None:
    """Engage has what Treazure has, and the way there was clean."""
    found = shop.sandbox.differences(loyalty_id)
    assert found["equal"], found
    assert found["compared"] > 0
    assert_well_behaved(shop)


@pytest.fixture(scope="session")
def one_sandbox() -> Iterator[Sandbox]:
    with running_sandbox(members=0) as running:
        yield running


@pytest.fixture
def new_shop(one_sandbox: Sandbox, database_url: str) -> Callable[..., Shop]:
    """Makes the shop of a test: `members` and other seeds, switches of the sandbox as `behavior`."""

    def new(
        *,
        members: int = 200,
        environ: dict[str, str] | None = None,
        behavior: dict[str, Any] | None = None,
        **seed: Any,
    ) -> Shop:
        one_sandbox.reset(members=members, behavior={"apply_delay": 0, "export_polls": 0} | (behavior or {}), **seed)
        return Shop(one_sandbox, database_url, environ or {})

    return new


@pytest.fixture
def shop(new_shop: Callable[..., Shop]) -> Shop:
    """A shop of 200 members, nothing synced yet."""
    return new_shop()
