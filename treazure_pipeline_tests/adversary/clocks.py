"""Clocks that can be moved: the ledger's, both vendors' and the processes'. Nothing waits in a story; time passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psycopg

from treazure_pipeline.ledger import batches, leases, store
from treazure_pipeline.sandbox import Sandbox

_SHORT = 0.02

# The functions of the server's own keep their numbers under other names; all that is made later calls these.
MOVABLE = """
create table public.story (ahead interval not null, server text not null);
insert into public.story values ('0', 'first');
grant select on public.story to public;
alter function pg_catalog.clock_timestamp() rename to wall_clock;
alter function pg_catalog.now() rename to wall_now;
create function pg_catalog.clock_timestamp() returns timestamptz language sql volatile
    as 'select pg_catalog.wall_clock() + ahead from public.story';
create function pg_catalog.now() returns timestamptz language sql stable
    as 'select pg_catalog.wall_now() + ahead from public.story';
"""
"""Gives a database without a ledger a clock that can be moved; for superusers."""

SERVER = """
create or replace function treazure_pipeline.ledger_identity() returns text language sql stable
    as 'select server from public.story';
"""
"""Lets the ledger stand on a server of any name."""


class Clocks:
    """All clocks of a stage. What waits for something on the product's side moves them instead."""

    def __init__(self, database: psycopg.Connection[Any], sandbox: Sandbox) -> None:
        self._database = database
        self._sandbox = sandbox
        self._ahead = 0.0
        self._monotonic = time.monotonic
        self._clock = time.clock_gettime

    def forward(self, seconds: float) -> None:
        """Let time pass for everybody."""
        self._ahead += seconds
        self.move_ledger(seconds)
        self._sandbox.move_clock(seconds)

    def move_ledger(self, seconds: float) -> None:
        """Let the ledger's clock step, and no other one."""
        self._database.execute("update public.story set ahead = ahead + make_interval(secs => %s)", (seconds,))

    def begin(self) -> None:
        """Set the ledger's clock right."""
        self._database.execute("update public.story set ahead = '0', server = 'first'")

    def set_right(self) -> None:
        """End what the ledger's clock is ahead or behind of the others."""
        self.move_ledger(self._sandbox.state()["moved_seconds"] - self.ahead_of_wall())

    def ahead_of_wall(self) -> float:
        """By how many seconds the ledger's clock is ahead of the wall's."""
        row = self._database.execute("select extract(epoch from ahead)::float8 from public.story").fetchone()
        assert row is not None
        return float(row[0])

    def _sleep(self, seconds: float) -> None:
        if seconds < _SHORT:
            time.sleep(seconds)
        else:
            self.forward(seconds)

    def stop(self) -> threading.Event:
        """Return what ends waits, and until then takes them."""
        return _Stop(self._sleep)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show these clocks to the product, and take its waits, for the block."""

        def shown() -> float:
            return self._monotonic() + self._ahead

        def gone_on(which: int) -> float:
            return self._clock(which) + self._ahead

        lease_left = batches.lease_left

        def passed(*arguments: Any, **keywords: Any) -> float:
            left = lease_left(*arguments, **keywords)
            if left:
                self._sleep(left)
            return min(left, 0.001)

        waiting = SimpleNamespace(monotonic=shown, perf_counter=time.perf_counter, sleep=self._sleep)
        with ExitStack() as stack:
            for owner, name, value in (
                (time, "monotonic", shown), (time, "clock_gettime", gone_on), (store, "time", waiting),
                (leases, "time", waiting), (batches, "lease_left", passed),
            ):  # fmt: skip
                stack.enter_context(mock.patch.object(owner, name, value))
            yield


class _Stop(threading.Event):
    def __init__(self, sleep: Callable[[float], None]) -> None:
        super().__init__()
        self._sleep = sleep

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            assert timeout is not None
            self._sleep(timeout)
        return self.is_set()
