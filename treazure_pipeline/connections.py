"""The ledger and the clients that a piece of work needs, made once from the settings and closed together.

Assets, commands and benchmarks get them here and never make their own.
"""

from __future__ import annotations

import hashlib
import math
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Self

from treazure_pipeline.clients.engage import EngageClient
from treazure_pipeline.clients.pacing import LEASE_MARGIN_SECONDS, VENDOR_WAITS, RetryPolicy
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.database import embedded
from treazure_pipeline.errors import DatabaseUnavailableError, SettingsError
from treazure_pipeline.ledger import owner
from treazure_pipeline.ledger.figures import witnesses
from treazure_pipeline.ledger.limiter import Priority, shared_rate
from treazure_pipeline.ledger.store import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from treazure_pipeline.clients.pacing import Pacer
    from treazure_pipeline.errors import PipelineError
    from treazure_pipeline.ledger.store import Account
    from treazure_pipeline.settings import MasterSettings, Programme, Settings


class Listener:
    """Hears about a run's work, for callers who only see the run through Dagster. This one ignores it all."""

    def progressed(self, rows: int, total: int) -> None:
        """Some more `rows` out of `total` are done."""

    def told(self, sentence: str) -> None:
        """A step has described its result in one sentence."""

    def reported(self, report: object) -> None:
        """A use case has ended, or has got as far as it could."""

    def failed(self, error: PipelineError) -> None:
        """An error has ended the run, or holds rows back."""


class Connections:
    """A ledger and both clients, each opened when first used. Close it, or use it as a context manager.

    It is made for one piece of work. `priority` is its place in the shared rates, and `waits` are the seconds between
    the tries of a call. Setting `stop` ends all waits.
    """

    def __init__(
        self,
        settings: Settings,
        priority: Priority = Priority.SYNC,
        *,
        waits: tuple[float, ...] = VENDOR_WAITS,
        listener: Listener | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.settings = settings
        self.priority = priority
        self.listener = listener or Listener()
        self.stop = stop or threading.Event()
        self.retry = RetryPolicy(waits, scale=settings.retry_scale, stop=self.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every wait, close the clients, and release leases and connections."""
        self.stop.set()
        for name in ("treazure", "engage", "ledger"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger. The embedded server is not started here, but by the commands."""
        given = self.settings.database_url
        url = given.get_secret_value() if given is not None else embedded.running_url(self.settings.home)
        if url is None:
            raise DatabaseUnavailableError(
                "The embedded database is not running.",
                hint="Start it with `treazure-pipeline db start`, or set TREAZURE_PIPELINE_DATABASE_URL.",
            )
        threads = self.settings.engage_concurrency + self.settings.treazure_concurrency
        return open_ledger(self.settings, url, connections=threads + 6)

    @contextmanager
    def for_long_reading(self) -> Iterator[Ledger]:
        """Yield the ledger's replica if there is one, since a long snapshot holds back vacuum; otherwise the ledger."""
        settings = self.settings
        if settings.replica_url is None:
            yield self.ledger
            return
        with Ledger(settings.replica_url.get_secret_value(), connections=1) as replica:
            if not owner.check(replica, owner.systems(settings.treazure_base_url, settings.engage_base_url)):
                raise SettingsError("TREAZURE_PIPELINE_REPLICA_URL is not a replica of this ledger.")
            yield replica

    @cached_property
    def treazure(self) -> TreazureClient:
        """The points master."""
        return treazure_client(self.settings, self.ledger, self.retry, self.priority)

    @cached_property
    def engage(self) -> EngageClient:
        """The point follower."""
        settings = self.settings
        return EngageClient(
            settings.engage_base_url,
            settings.engage_api_key,
            api_version=settings.engage_api_version,
            timeout=settings.engage_timeout_seconds,
            concurrency=settings.engage_concurrency,
            retry=self.retry,
            pacer=self.engage_pacer,
            witnesses=partial(witnesses, self.ledger, "engage"),
        )

    @cached_property
    def engage_pacer(self) -> Pacer:
        """The rate of the API key, shared by all processes that use it."""
        settings = self.settings
        return shared_rate(
            self.ledger,
            _bucket("engage", f"{settings.engage_base_url}|{settings.engage_api_key.get_secret_value()}"),
            settings.engage_max_requests_per_second,
            self.priority,
            settings.engage_timeout_seconds + LEASE_MARGIN_SECONDS,
            self.stop,
        )


@dataclass(frozen=True)
class Run:
    """A piece of work on one programme, with its connections and its id (Dagster's run id)."""

    connections: Connections
    programme: Programme
    account: Account
    id: str

    @classmethod
    def of(cls, connections: Connections, programme: Programme, run_id: str) -> Run:
        """Return the run, with the programme's current state in the ledger: live, or migrating."""
        return cls(connections, programme, connections.ledger.account(programme), run_id)

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.connections.settings

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return self.connections.ledger

    @property
    def treazure(self) -> TreazureClient:
        """The points master."""
        return self.connections.treazure

    @property
    def engage(self) -> EngageClient:
        """The point follower."""
        return self.connections.engage

    @property
    def retry(self) -> RetryPolicy:
        """When a failed call is retried."""
        return self.connections.retry


def open_ledger(settings: Settings, url: str, *, connections: int = 2) -> Ledger:
    """Open the ledger at `url`. Raises SettingsError if it belongs to other systems than those in the settings."""
    ledger = Ledger(url, connections=connections)
    try:
        owner.require(ledger, owner.systems(settings.treazure_base_url, settings.engage_base_url))
    except BaseException:
        ledger.close()
        raise
    return ledger


def treazure_client(
    settings: MasterSettings, ledger: Ledger, retry: RetryPolicy, priority: Priority, *, patience: float = math.inf
) -> TreazureClient:
    """Return a client for the points master within the shared rate. `patience`: see `SharedRate`."""
    return TreazureClient(
        settings.treazure_base_url,
        settings.treazure_client_id,
        settings.treazure_client_secret,
        timeout=settings.treazure_timeout_seconds,
        concurrency=settings.treazure_concurrency,
        retry=retry,
        pacer=shared_rate(
            ledger,
            _bucket("treazure", f"{settings.treazure_base_url}|{settings.treazure_client_id}"),
            settings.treazure_max_requests_per_second,
            priority,
            settings.treazure_timeout_seconds + LEASE_MARGIN_SECONDS,
            retry.stop or threading.Event(),
            patience=patience,
        ),
        witnesses=partial(witnesses, ledger, "treazure"),
    )


def _bucket(system: str, secret: str) -> str:
    return f"{system}:{hashlib.sha256(secret.encode()).hexdigest()[:16]}"
