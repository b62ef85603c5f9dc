"""What Prometheus reads from the receiver."""

from __future__ import annotations

import asyncio
import math
import time

import psycopg
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from treazure_pipeline.adjustments.inbox import Store
from treazure_pipeline.errors import DatabaseError
from treazure_pipeline.service.figures import Figures

_CACHED_SECONDS = 5
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15)


class Metrics:
    """Deliveries and histories by outcome and duration, the depth of the queue, and figures from the ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._registry = registry = CollectorRegistry()
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self.deliveries = Counter(
            "treazure_receiver_deliveries", "Deliveries by outcome.", ["outcome"], registry=registry
        )
        self.seconds = Histogram(
            "treazure_receiver_delivery_seconds",
            "Time from a delivery's headers to its answer.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.histories = Counter(
            "treazure_receiver_histories", "Requests for points histories by outcome.", ["outcome"], registry=registry
        )
        self.history_seconds = Histogram(
            "treazure_receiver_history_seconds",
            "Time from a request for a points history to its answer.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._reachable = Gauge(
            "treazure_receiver_database_reachable", "Whether the queue could be read.", registry=registry
        )
        self._depth = Gauge(
            "treazure_adjustments_unfinished", "Unfinished adjustments by state.", ["state"], registry=registry
        )
        self._oldest = Gauge(
            "treazure_adjustments_oldest_seconds",
            "Age of the oldest unfinished adjustment by state; 0 if there is none.",
            ["state"],
            registry=registry,
        )
        self._dead_letters = Gauge(
            "treazure_dead_letters", "Deliveries that could not be read and wait for a person.", registry=registry
        )
        self._figures = Figures()
        registry.register(self._figures)

    async def render(self) -> bytes:
        """Return everything in Prometheus' text format. The database is read every few seconds at most."""
        async with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at > _CACHED_SECONDS:
                await self._read()
                self._read_at = time.monotonic()
        return generate_latest(self._registry)

    async def _read(self) -> None:
        try:
            depth = await self._store.depth()
            self._dead_letters.set(await self._store.dead_letters())
        except (DatabaseError, psycopg.Error):
            self._reachable.set(0)
            # An old number would look as if the queue stood still.
            self._depth.clear()
            self._oldest.clear()
            self._dead_letters.set(math.nan)
            self._figures.forget()
            return
        self._reachable.set(1)
        for state, (count, age) in depth.items():
            self._depth.labels(state).set(count)
            self._oldest.labels(state).set(age)
        await self._figures.read(self._store)
